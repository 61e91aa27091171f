//! `backup`

use agentmux_state::{Backup, BackupVerdict, DirectoryLock, Retention, RetentionReport};
use chrono::Utc;

use super::{BackupCommand, Context, Ending, Outcome, print};

/// How many backups stay where no rule says otherwise.
const KEEP: usize = agentmux_state::KEPT_BACKUPS;

pub(super) fn run(context: &Context, command: BackupCommand) -> Outcome {
    match command {
        BackupCommand::Create { label } => create(context, &label),
        BackupCommand::List => list(context),
        BackupCommand::Verify { id } => verify(context, id.as_deref()),
        BackupCommand::Restore { id } => restore(context, &id),
        BackupCommand::Prune { keep, keep_daily, keep_weekly, keep_monthly, dry_run } => {
            let no_rule = keep_daily + keep_weekly + keep_monthly == 0;
            let last = keep.unwrap_or(if no_rule { KEEP } else { 0 });
            let retention = Retention { last, daily: keep_daily, weekly: keep_weekly, monthly: keep_monthly };
            prune(context, &retention, dry_run)
        }
    }
}

fn create(context: &Context, label: &str) -> Outcome {
    let backup = context.read()?.create_backup(label)?;
    context.confirm(&backup, || format!("Made {} ({}).\n", backup.path.display(), print::bytes(backup.bytes)));
    Ok(Ending::Complete)
}

fn list(context: &Context) -> Outcome {
    let backups = context.read()?.list_backups()?;
    if context.json {
        print::json(&backups)?;
    } else {
        print::text(&list_for_people(&backups))?;
    }
    Ok(Ending::Complete)
}

fn list_for_people(backups: &[Backup]) -> String {
    let now = Utc::now();
    let mut table = print::table(&["ID", "MADE", "SIZE", "LABEL"]);
    for backup in backups {
        table.add_row([
            print::cell(&backup.id),
            print::cell(&print::ago(&backup.created_at, now)),
            print::cell(&print::bytes(backup.bytes)),
            print::cell(&backup.label),
        ]);
    }
    print::table_text(&mut table)
}

fn verify(context: &Context, id: Option<&str>) -> Outcome {
    let verdicts = context.read()?.verify_backups(id)?;
    if context.json {
        print::json(&verdicts)?;
    } else {
        print::text(&verdicts.iter().map(verdict_for_people).collect::<String>())?;
    }
    Ok(if verdicts.iter().all(|verdict| verdict.ok) { Ending::Complete } else { Ending::ProblemsFound })
}

fn verdict_for_people(verdict: &BackupVerdict) -> String {
    let id = print::clean(&verdict.id);
    match verdict.ok {
        true => format!("{id}: good\n"),
        false => format!("{id}: CANNOT BE TRUSTED: {}\n", print::clean(&verdict.problems.join("; "))),
    }
}

fn restore(context: &Context, id: &str) -> Outcome {
    // A mistyped id must not make anything.
    context.read()?;
    let _lock = DirectoryLock::acquire(&context.state_dir)?;
    let store = context.open()?;
    let report = store.restore_backup(id)?;
    store.refresh_export()?;
    context.confirm(&report, || {
        format!("Restored {}.\nThe state as it was before is in backup {}.\n", report.restored, report.safety_backup)
    });
    Ok(Ending::Complete)
}

fn prune(context: &Context, retention: &Retention, dry_run: bool) -> Outcome {
    let report = context.read()?.prune_backups(retention, dry_run)?;
    context.confirm(&report, || prune_for_people(&report, dry_run));
    Ok(Ending::Complete)
}

fn prune_for_people(report: &RetentionReport, dry_run: bool) -> String {
    let removed = if dry_run { "would remove" } else { "removed" };
    let line = |verb: &str, id: &String| format!("{verb:<12} {}\n", print::clean(id));
    let kept = report.kept.iter().map(|id| line("kept", id));
    kept.chain(report.removed.iter().map(|id| line(removed, id))).collect()
}
