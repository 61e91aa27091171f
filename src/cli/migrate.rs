//! `migrate`

use agentmux_state::{DirectoryLock, MigrationStatus, StateStore};
use serde::Serialize;

use super::{Context, Ending, Outcome, print};

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    status: MigrationStatus,
    backup: Option<String>,
}

pub(super) fn run(context: &Context, status_only: bool) -> Outcome {
    let mut backup = None;
    if !status_only {
        let _lock = DirectoryLock::acquire(&context.state_dir)?;
        backup = context.open()?.upgrade_backup().map(|backup| backup.id.clone());
    }
    let report = Report { status: StateStore::migration_status(&context.state_dir)?, backup };
    context.confirm(&report, || for_people(&report));
    Ok(Ending::Complete)
}

fn for_people(report: &Report) -> String {
    let status = &report.status;
    let mut text = match status.pending.len() {
        0 => format!("The database is up to date: schema version {}.\n", status.schema_version),
        pending => format!(
            "The database has schema version {} of {}: {} pending. Run `agentmux-state migrate`.\n",
            status.schema_version,
            status.latest_schema_version,
            print::count(pending as u64, "migration"),
        ),
    };
    if let Some(backup) = &report.backup {
        text.push_str(&format!("The database as it was before is in backup {backup}.\n"));
    }
    let mut table = print::table(&["VERSION", "MIGRATION", "APPLIED"]);
    for migration in &status.applied {
        table.add_row([
            print::cell(&migration.version.to_string()),
            print::cell(&migration.name),
            print::cell(&migration.applied_on),
        ]);
    }
    for migration in &status.pending {
        table.add_row([
            print::cell(&migration.version.to_string()),
            print::cell(&migration.name),
            print::cell("pending"),
        ]);
    }
    text + "\n" + &print::table_text(&mut table)
}
