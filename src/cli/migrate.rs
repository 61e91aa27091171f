//! `migrate`

use std::time::{Duration, Instant};

use agentmux_state::{Backup, Error, MigrationDryRun, MigrationStatus, StateStore};
use serde::Serialize;

use super::context::{Context, Ending, Outcome};
use super::print;

/// Bring the database to this release's schema, after a backup
///
/// Says what is to be done, does all of it or nothing, and says where the backup lies. Makes the database where there is
/// none. Opening the state in the orchestrator does the same; this is for installers, which want to know before.
#[derive(clap::Args)]
pub(super) struct Migrate {
    /// Only report what has been applied and what is pending
    #[arg(long, conflicts_with = "dry_run")]
    status: bool,
    /// Do it on a copy, and report how long it takes and whether it succeeds; works beside a running orchestrator
    #[arg(long)]
    dry_run: bool,
}

impl Migrate {
    pub(super) fn run(self, context: &Context) -> Outcome {
        match self {
            Self { status: true, .. } => status(context),
            Self { dry_run: true, .. } => dry_run(context),
            Self { .. } => upgrade(context),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    #[serde(flatten)]
    status: MigrationStatus,
    backup: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    own_objects: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<MigrationDryRun>,
}

/// `--status`
fn status(context: &Context) -> Outcome {
    let report = Report {
        status: StateStore::migration_status(&context.state_dir)?,
        backup: None,
        own_objects: None,
        dry_run: None,
    };
    context.show(&report, || format!("{}\n{}", standing(&report.status), table(&report.status)))?;
    Ok(Ending::Complete)
}

/// `--dry-run`
fn dry_run(context: &Context) -> Outcome {
    let status = StateStore::migration_status(&context.state_dir)?;
    let dry_run = StateStore::migrate_dry_run(&context.state_dir, &context.options())?;
    let report = Report { status, backup: None, own_objects: None, dry_run };
    context.show(&report, || match &report.dry_run {
        None => standing(&report.status),
        Some(dry_run) => dry_run_for_people(&report.status, dry_run),
    })?;
    Ok(Ending::Complete)
}

fn upgrade(context: &Context) -> Outcome {
    context.look()?;
    let _lock = StateStore::lock_for_command(&context.state_dir)?;
    let before = match StateStore::migration_status(&context.state_dir) {
        Ok(status) => Some(status),
        Err(Error::NoDatabase { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(before) = before.as_ref().filter(|before| !before.pending.is_empty()) {
        context.announce(&plan(before));
    }
    let start = Instant::now();
    // Open until the end: what comes after needs no room on a disk that has become full.
    let store = context.open()?;
    let took = start.elapsed();
    let backup = store.upgrade_backup();
    let id = backup.map(|backup| backup.id.clone());
    let own_objects = store.upgrade_own_objects().map(|file| file.to_string_lossy().into_owned());
    let status = StateStore::migration_status(&context.state_dir)?;
    let report = Report { status, backup: id, own_objects, dry_run: None };
    context.confirm(&report, || {
        let done = match (&before, backup) {
            (None, _) => format!("Made the database with schema version {}.\n", report.status.schema_version),
            (_, Some(backup)) => upgraded(&report.status, backup, took),
            (_, None) => standing(&report.status),
        };
        let left_out = report.own_objects.as_ref().map(|file| print::own_objects(file.as_ref())).unwrap_or_default();
        format!("{done}{left_out}\n{}", table(&report.status))
    });
    Ok(Ending::Complete)
}

fn standing(status: &MigrationStatus) -> String {
    match status.pending.len() {
        0 => format!("The database is up to date: schema version {}.\n", status.schema_version),
        pending => format!(
            "The database has schema version {} of {}: {} pending. Run `agentmux-state migrate`.\n",
            status.schema_version,
            status.latest_schema_version,
            print::count(pending as u64, "migration"),
        ),
    }
}

fn plan(status: &MigrationStatus) -> String {
    let mut text = format!(
        "The database has schema version {}, and this release has {}. A verified backup comes first; then, all or nothing:\n",
        status.schema_version, status.latest_schema_version,
    );
    for migration in &status.pending {
        text.push_str(&format!("  V{} {}\n", migration.version, print::clean(&migration.name)));
    }
    text
}

fn upgraded(status: &MigrationStatus, backup: &Backup, took: Duration) -> String {
    format!(
        "Upgraded to schema version {} in {}. The database as it was before:\n  {}\n",
        status.schema_version,
        seconds(took),
        backup.path.display(),
    )
}

fn dry_run_for_people(status: &MigrationStatus, dry_run: &MigrationDryRun) -> String {
    format!(
        "{}It was done on a copy, which is removed; the database was not changed.\n\
         The backup takes {}; the migrations and checks take {}. The size goes from {} to {}.\n",
        plan(status),
        seconds(dry_run.backup),
        seconds(dry_run.migrate),
        print::bytes(dry_run.bytes_before),
        print::bytes(dry_run.bytes_after),
    )
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn table(status: &MigrationStatus) -> String {
    let mut table = print::table(&["VERSION", "MIGRATION", "APPLIED"]);
    let applied = status.applied.iter().map(|it| (it.version, &it.name, it.applied_on.as_str()));
    let pending = status.pending.iter().map(|it| (it.version, &it.name, "pending"));
    for (version, name, applied_on) in applied.chain(pending) {
        table.add_row([print::cell(&version.to_string()), print::cell(name), print::cell(applied_on)]);
    }
    print::table_text(&mut table)
}
