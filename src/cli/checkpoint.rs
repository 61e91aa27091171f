//! `checkpoint`

use agentmux_state::CheckpointReason;

use super::{Context, Ending, Outcome, print};

pub(super) fn run(context: &Context, reason: &str) -> Outcome {
    let store = context.write()?;
    let checkpoint = store.record_checkpoint(&CheckpointReason::from(reason))?;
    let exported = store.refresh_export()?;
    if context.json {
        print::json(&checkpoint)?;
    } else if !context.quiet {
        let path = exported.path.display();
        print::text(&format!("Checkpoint {} ({reason}); wrote {path}.\n", checkpoint.checkpointed_at))?;
    }
    Ok(Ending::Complete)
}
