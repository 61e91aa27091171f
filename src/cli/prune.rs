//! `prune`

use agentmux_state::{DirectoryLock, PruneOptions, PruneReport};

use super::{Context, Ending, Outcome, print};

pub(super) fn run(context: &Context, options: &PruneOptions) -> Outcome {
    if options.dry_run {
        let report = context.read()?.prune(options)?;
        context.show(&report, || for_people(&report))?;
        return Ok(Ending::Complete);
    }
    // Where there is no state, none is made.
    context.read()?;
    let _lock = DirectoryLock::acquire_for_command(&context.state_dir)?;
    let report = context.write()?.prune(options)?;
    context.confirm(&report, || for_people(&report));
    Ok(Ending::Complete)
}

fn for_people(report: &PruneReport) -> String {
    let removed = &report.removed;
    let mut text = format!(
        "{} {} and {} with {}.\n",
        if report.dry_run { "Would drop" } else { "Dropped" },
        print::count(removed.tasks, "task"),
        print::count(removed.conversations, "conversation"),
        print::count(removed.messages, "message"),
    );
    let bytes = print::bytes(report.bytes_freed);
    if report.dry_run {
        text.push_str(&format!("That would free about {bytes}. Nothing was changed.\n"));
    } else {
        text.push_str(&format!("The database is smaller by {bytes}.\n"));
    }
    if let Some(backup) = &report.backup {
        text.push_str(&format!("The state as it was before is in backup {backup}.\n"));
    }
    text
}
