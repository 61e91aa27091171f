//! `backup`

use agentmux_state::{
    Backup, BackupVerdict, DirectoryLock, Error, Retention, RetentionReport, StateStore, list_backups, verify_backups,
};

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
            let no_rule = [keep_daily, keep_weekly, keep_monthly] == [0; 3];
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
    let backups = backups(context)?;
    context.show(&backups, || list_for_people(&backups))?;
    Ok(Ending::Complete)
}

/// The backups, also where the database cannot be opened. Where there are none, the database has to be there.
fn backups(context: &Context) -> Result<Vec<Backup>, Error> {
    let backups = list_backups(&context.state_dir)?;
    if backups.is_empty() {
        context.read()?;
    }
    Ok(backups)
}

fn list_for_people(backups: &[Backup]) -> String {
    let now = super::now();
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
    backups(context)?;
    let verdicts = verify_backups(&context.state_dir, id, &context.options().progress)?;
    context.show(&verdicts, || verdicts.iter().map(verdict_for_people).collect())?;
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
    if !backups(context)?.iter().any(|backup| backup.id == id) {
        return Err(Error::NotFound { kind: "backup", id: id.to_owned() }.into());
    }
    let _lock = DirectoryLock::acquire_for_command(&context.state_dir)?;
    let (store, report) = StateStore::open_restored(&context.state_dir, id, context.options())?;
    context.refresh_export(&store);
    let left_out = report.own_objects.as_ref().map(|file| print::own_objects(file)).unwrap_or_default();
    let restored = || match (&report.safety_backup, &report.set_aside_as) {
        (Some(safety), _) => {
            format!("Restored {}.\nThe state as it was before is in backup {safety}.\n", report.restored)
        }
        (_, Some(folder)) => {
            format!("Restored {}.\nThe files of the damaged database are in {}.\n", report.restored, folder.display())
        }
        (None, None) => format!("Restored {}. There was no database before.\n", report.restored),
    };
    context.confirm(&report, || restored() + &left_out);
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
