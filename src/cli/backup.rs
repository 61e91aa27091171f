//! `backup`

use agentmux_state::{
    Backup, BackupVerdict, Error, Retention, RetentionReport, StateStore, list_backups, verify_backups,
};
use clap_complete::engine::ArgValueCandidates;

use super::context::{Context, Ending, Outcome};
use super::{candidates, print, time};

/// How many backups stay where no rule says otherwise.
const KEEP: usize = agentmux_state::KEPT_BACKUPS;

/// Make, list, verify, restore and thin out backups
#[derive(clap::Subcommand)]
pub(super) enum BackupCommand {
    /// Make a backup: verified, complete in one file, with its checksum
    Create {
        /// What to call it
        #[arg(default_value = "manual")]
        label: String,
    },
    /// List the backups, newest first
    List,
    /// Verify one backup or all: checksum, integrity, schema. Exits 1 where one cannot be trusted
    Verify {
        /// The backup
        #[arg(add = ArgValueCandidates::new(candidates::backups))]
        id: Option<String>,
    },
    /// Go back to a backup, after a safety backup of the present state
    Restore {
        /// The backup
        #[arg(add = ArgValueCandidates::new(candidates::backups))]
        id: String,
    },
    /// Remove the backups that no rule keeps; the newest one that can be trusted always stays
    Prune {
        /// Keep the newest so many [default: 10, where no rule is given]
        #[arg(long, value_name = "N")]
        keep: Option<usize>,
        /// Keep the newest of each of the last N days that have one
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        keep_daily: usize,
        /// Keep the newest of each of the last N weeks that have one
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        keep_weekly: usize,
        /// Keep the newest of each of the last N months that have one
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        keep_monthly: usize,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

impl BackupCommand {
    pub(super) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Create { label } => create(context, &label),
            Self::List => list(context),
            Self::Verify { id } => verify(context, id.as_deref()),
            Self::Restore { id } => restore(context, &id),
            Self::Prune { keep, keep_daily, keep_weekly, keep_monthly, dry_run } => {
                let no_rule = [keep_daily, keep_weekly, keep_monthly] == [0; 3];
                let last = keep.unwrap_or(if no_rule { KEEP } else { 0 });
                let retention =
                    Retention::default().last(last).daily(keep_daily).weekly(keep_weekly).monthly(keep_monthly);
                prune(context, &retention, dry_run)
            }
        }
    }
}

fn create(context: &Context, label: &str) -> Outcome {
    let backup = context.read()?.backups().create(label)?;
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
    let now = time::now();
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
        return Err(Error::BackupNotFound { id: id.to_owned() }.into());
    }
    let _lock = StateStore::lock_for_command(&context.state_dir)?;
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
    let report = context.read()?.backups().prune(retention, dry_run)?;
    context.confirm(&report, || prune_for_people(&report, dry_run));
    Ok(Ending::Complete)
}

fn prune_for_people(report: &RetentionReport, dry_run: bool) -> String {
    let removed = if dry_run { "would remove" } else { "removed" };
    let line = |verb: &str, id: &String| format!("{verb:<12} {}\n", print::clean(id));
    let kept = report.kept.iter().map(|id| line("kept", id));
    kept.chain(report.removed.iter().map(|id| line(removed, id))).collect()
}
