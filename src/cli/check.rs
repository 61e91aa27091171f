//! `check`

use agentmux_state::CheckReport;

use super::context::{Context, Ending, Outcome};
use super::print;

/// Check that everything is as it should be. Exits 1 where something is wrong
///
/// The database's integrity and references, that every row can be read, the schema, the export, the newest backup, permissions.
/// References to what is gone and records set aside are noted. Nothing is changed.
#[derive(clap::Args)]
pub(super) struct Check;

impl Check {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let report = context.read()?.check()?;
        context.show(&report, || for_people(&report))?;
        Ok(if report.ok { Ending::Complete } else { Ending::ProblemsFound })
    }
}

fn for_people(report: &CheckReport) -> String {
    let mut text = match report.problems.len() {
        0 => "Nothing is wrong.\n".to_owned(),
        number => format!("{}:\n", print::count(number as u64, "problem")),
    };
    let line = |kind, message| format!("  {kind}: {}\n", print::clean(message));
    text.extend(report.problems.iter().map(|it| line(it.kind, &it.message)));
    let needs_recovery = |kind| ["integrity", "foreign_key", "unreadable", "invariant"].contains(&kind);
    if report.problems.iter().any(|it| needs_recovery(it.kind)) {
        text.push_str(
            "\nStop the orchestrator, and run `agentmux-state recover`: it rebuilds the database from what can be read and a good \
             backup, and keeps the damaged files.\n",
        );
    }
    if !report.notes.is_empty() {
        text.push_str("\nWorth knowing:\n");
        text.extend(report.notes.iter().map(|it| line(it.kind, &it.message)));
    }
    text
}
