//! `checkpoint`

use agentmux_state::CheckpointReason;

use super::{Context, Ending, Outcome};

pub(super) fn run(context: &Context, reason: &str) -> Outcome {
    let store = context.write()?;
    let checkpoint = store.record_checkpoint(&CheckpointReason::from(reason))?;
    context.refresh_export(&store);
    context.confirm(&checkpoint, || format!("Checkpoint {} ({reason}).\n", checkpoint.checkpointed_at));
    Ok(Ending::Complete)
}
