//! `prune`

use agentmux_state::{PruneOptions, PruneReport, StateStore};
use chrono::{DateTime, Utc};

use super::context::{Context, Ending, Outcome};
use super::print;
use super::time::moment;

/// Drop completed tasks and idle conversations of some age, and give the space back. Unfinished work never goes
///
/// A task goes by its completedAt, or the latest of its other times; one without a readable time stays, and so does one that
/// an unfinished task depends on. Where less than half of the state would stay, a backup comes first. Without an age, only
/// free space is given back.
#[derive(clap::Args)]
pub(super) struct Prune {
    /// Drop tasks that were completed before: an age as 90min, 12h, 30days, 6months, or a moment as 2026-11-22T10:00:00Z
    #[arg(long, value_name = "AGE", value_parser = moment)]
    completed_before: Option<DateTime<Utc>>,
    /// Drop conversations in which nothing has happened since: an age or a moment
    #[arg(long, value_name = "AGE", value_parser = moment)]
    idle_before: Option<DateTime<Utc>>,
    /// Only say what would be dropped; works beside a running orchestrator
    #[arg(long)]
    dry_run: bool,
}

impl Prune {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let options = &PruneOptions::default()
            .completed_before(self.completed_before)
            .idle_before(self.idle_before)
            .dry_run(self.dry_run);
        if options.dry_run {
            let report = context.read()?.prune(options)?;
            context.show(&report, || for_people(&report))?;
            return Ok(Ending::Complete);
        }
        // Where there is no state, none is made.
        context.read()?;
        let _lock = StateStore::lock_for_command(&context.state_dir)?;
        let report = context.write()?.prune(options)?;
        context.confirm(&report, || for_people(&report));
        Ok(Ending::Complete)
    }
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
