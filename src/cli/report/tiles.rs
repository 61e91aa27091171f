//! The numbers at the top of the page.

use agentmux_state::{Run, RunOutcome};
use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::super::print;
use super::data::Data;
use super::parts::Text;

pub(super) fn tiles(data: &Data, now: DateTime<Utc>) -> Markup {
    let counts = &data.summary.counts;
    let run = match data.summary.last_run.as_ref() {
        None => "has not run yet".into(),
        Some(run) if data.is_running(run) => format!("running, process {}", run.pid),
        Some(Run { outcome: Some(RunOutcome::Shutdown), .. }) => "shut down".into(),
        Some(_) => "crashed".into(),
    };
    let last = data.summary.last_checkpoint.as_ref();
    let last = last.map_or("never".into(), |it| print::ago(&it.checkpointed_at, now));
    let tiles = [
        (counts.tasks, "tasks"),
        (counts.agents, "agents"),
        (counts.projects, "projects"),
        (counts.conversations, "conversations"),
        (counts.messages, "messages"),
    ];
    html! {
        section {
            div.tiles {
                @for (count, what) in tiles {
                    div.tile { b { (count) } span.dim { (what) } }
                }
            }
            p {
                "The orchestrator " b { (run) } ". Last checkpoint: " b { (Text(&last)) }
                ". Mode: " b { (Text(data.summary.mode.as_str())) } "."
            }
        }
    }
}
