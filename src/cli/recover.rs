//! `recover`

use agentmux_state::{RecoveryFinding, RecoveryReport, recover};

use super::context::{Context, Ending, Outcome};
use super::print;

/// Rebuild a damaged database from what can be read and the newest good backup or export
///
/// The damaged files are moved to damaged-<ms>/ and never deleted. Says what came from where, and what is lost. Close
/// everything that has the database open, also sqlite3 and Litestream.
#[derive(clap::Args)]
pub(super) struct Recover;

impl Recover {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let report = recover(&context.state_dir, &context.options())?;
        context.confirm(&report, || for_people(&report));
        Ok(Ending::Complete)
    }
}

fn for_people(report: &RecoveryReport) -> String {
    let restored = &report.restored;
    let folder = report.set_aside_as.display();
    let mut text = format!(
        "Rebuilt the database from {}: {}, {}, {}, {} and {}.\nThe damaged files are in {folder}.\n",
        print::clean(&report.source),
        print::count(restored.conversations, "conversation"),
        print::count(restored.messages, "message"),
        print::count(restored.tasks, "task"),
        print::count(restored.agents, "agent"),
        print::count(restored.projects, "project"),
    );
    for (title, findings) in [("Taken from a good copy", &report.from_backup), ("Lost, or perhaps lost", &report.lost)]
    {
        if !findings.is_empty() {
            text.push_str(&format!("\n{title}:\n"));
            let line = |it: &RecoveryFinding| format!("  {}: {}\n", print::clean(&it.kind), print::clean(&it.message));
            text.extend(findings.iter().map(line));
        }
    }
    if report.lost.is_empty() {
        text.push_str("Nothing is lost.\n");
    }
    text.push_str("\nNext:\n");
    if !report.lost.is_empty() || !report.from_backup.is_empty() {
        text.push_str(&format!("  Look at what is named above; all ids are in {folder}/recovery.json.\n"));
        text.push_str("  Quarantined records are in the table set_aside (source 'recovery'). `agentmux-state backup list` shows older copies.\n");
    }
    text.push_str(
        "  `agentmux-state check` looks at the new database. Keep the damaged files until nothing is missed.\n",
    );
    text
}
