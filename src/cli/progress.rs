//! Progress bars, on a terminal only, for what takes long.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentmux_state::{Progress, ProgressCallback, Stage};
use indicatif::{ProgressBar, ProgressStyle};

/// What is done within this time shows no bar.
const PATIENCE: Duration = Duration::from_millis(300);

/// A bar on standard error for each stage that takes long.
pub(super) fn bars() -> ProgressCallback {
    if !io::stderr().is_terminal() {
        return ProgressCallback::default();
    }
    let stages: Mutex<HashMap<Stage, (Instant, Option<ProgressBar>)>> = Mutex::default();
    ProgressCallback::new(move |Progress { stage, done, total, .. }| {
        let mut stages = stages.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, bar) = stages.entry(stage).or_insert_with(|| (Instant::now(), None));
        if Some(done) == total {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
            stages.remove(&stage);
        } else if since.elapsed() > PATIENCE || never_tells(stage) {
            let bar = bar.get_or_insert_with(|| new_bar(stage, total));
            bar.set_position(done);
            if never_tells(stage) {
                // The bar at least lives.
                bar.enable_steady_tick(PATIENCE);
            }
        }
    })
}

/// Whether SQLite does not tell how far it is in a step of that stage.
fn never_tells(stage: Stage) -> bool {
    matches!(stage, Stage::Verifying | Stage::Migrating)
}

fn new_bar(stage: Stage, total: Option<u64>) -> ProgressBar {
    let (label, amount) = match stage {
        Stage::Copying => ("Copying", "{bytes}/{total_bytes}"),
        Stage::Verifying => ("Verifying", "{pos}/{len}"),
        Stage::Migrating => ("Migrating", "{pos}/{len}"),
        Stage::Restoring => ("Restoring", "{bytes}/{total_bytes}"),
        Stage::Importing => ("Importing", "{bytes}/{total_bytes}"),
        _ => ("Exporting", "{pos}/{len}"),
    };
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = format!("{label:<10} {{bar:30}} {{percent:>3}}% {amount} {{spinner}}");
    bar.set_style(ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
