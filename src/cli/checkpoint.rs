//! `checkpoint`

use agentmux_state::CheckpointReason;

use super::{Context, Ending, Outcome};

pub(super) fn run(context: &Context, reason: &str) -> Outcome {
    let store = context.write()?;
    let checkpoint = store.record_checkpoint(&CheckpointReason::from(reason))?;
    let exported = store.refresh_export()?;
    context.confirm(&checkpoint, || {
        format!("Checkpoint {} ({reason}); wrote {}.\n", checkpoint.checkpointed_at, exported.path.display())
    });
    Ok(Ending::Complete)
}
