//! Runs as bars, the newest at the top, with their checkpoints as ticks and a mark where one crashed.

use agentmux_state::RunOutcome;
use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::data::Data;

const WIDTH: f64 = 700.0;
const LEFT: f64 = 170.0;
const ROW: f64 = 22.0;

/// A run on the time line.
struct Bar {
    row: usize,
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    class: &'static str,
    label: &'static str,
}

pub(super) fn drawing(data: &Data, now: DateTime<Utc>) -> Markup {
    let starts: Vec<_> = data.runs.iter().map(|run| run.started_at.parse()).collect();
    let marks: Vec<_> = data.checkpoints.iter().filter_map(|it| it.checkpointed_at.parse()).collect();
    let Some(first) = starts.iter().flatten().chain(&marks).min().copied() else {
        return html! { p { "There were none yet." } };
    };
    let span = (now - first).num_milliseconds().max(1) as f64;
    let x = |at: DateTime<Utc>| LEFT + WIDTH * ((at - first).num_milliseconds() as f64 / span).clamp(0.0, 1.0);
    let px = |at: f64| format!("{at:.1}");
    let width = LEFT + WIDTH + 20.0;
    let height = ROW * (data.runs.len() as f64 + 2.0);
    let bottom = ROW * data.runs.len() as f64;
    html! {
        div.scroll {
            svg viewBox=(format!("0 0 {width} {height}")) width=(width) role="img" aria-label="time line" {
                @for Bar { row, start, end, class, label } in bars(data, now, &starts, &marks) {
                    @let y = ROW * row as f64;
                    text x="0" y=(px(y + 13.0)) { (start.format("%m-%d %H:%M").to_string()) " " (label) }
                    rect class={ "run " (class) } x=(px(x(start))) y=(px(y + 3.0)) width=(px((x(end) - x(start)).max(2.0)))
                        height="12" rx="3" {}
                    @if class == "crashed" {
                        circle.crash cx=(px(x(end))) cy=(px(y + 9.0)) r="5" {}
                    }
                }
                text x="0" y=(px(bottom + 13.0)) { "checkpoints" }
                line.axis x1=(LEFT) x2=(LEFT + WIDTH) y1=(px(bottom + 16.0)) y2=(px(bottom + 16.0)) {}
                @for at in &marks {
                    line.tick x1=(px(x(*at))) x2=(px(x(*at))) y1=(px(bottom + 4.0)) y2=(px(bottom + 16.0)) {}
                }
                text x=(LEFT) y=(px(bottom + 34.0)) { (first.format("%Y-%m-%d %H:%M").to_string()) }
                text x=(LEFT + WIDTH) y=(px(bottom + 34.0)) text-anchor="end" { "now" }
            }
        }
    }
}

fn bars(
    data: &Data,
    now: DateTime<Utc>,
    starts: &[Option<DateTime<Utc>>],
    marks: &[DateTime<Utc>],
) -> impl Iterator<Item = Bar> {
    data.runs.iter().zip(starts).enumerate().filter_map(move |(row, (run, start))| {
        let start = (*start)?;
        let newer = row.checked_sub(1).and_then(|newer| starts[newer]).unwrap_or(now);
        let is_running = row == 0 && data.is_running(run);
        let seen = marks.iter().filter(|at| (start..newer).contains(*at)).max().copied();
        let ended = run.ended_at.as_ref().and_then(|at| at.parse());
        let end = ended.unwrap_or(if is_running { now } else { seen.unwrap_or(start) });
        let (class, label) = match run.outcome {
            _ if is_running => ("active", "running"),
            Some(RunOutcome::Shutdown) => ("shutdown", "shut down"),
            Some(RunOutcome::TakenOver) => ("taken_over", "taken over"),
            _ => ("crashed", "crashed"),
        };
        Some(Bar { row, start, end, class, label })
    })
}
