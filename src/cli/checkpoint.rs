//! `checkpoint`

use agentmux_state::CheckpointReason;
use clap::builder::PossibleValuesParser;

use super::context::{Context, Ending, Outcome};

/// Record a checkpoint and refresh current-state.json
///
/// A checkpoint is a marker: every update is on the disk without it.
#[derive(clap::Args)]
pub(super) struct Checkpoint {
    /// Why
    #[arg(long, default_value = "user_request", value_parser = PossibleValuesParser::new(CheckpointReason::KNOWN))]
    reason: String,
}

impl Checkpoint {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let reason = self.reason;
        let store = context.write()?;
        let checkpoint = store.record_checkpoint(&CheckpointReason::from(reason.as_str()))?;
        context.refresh_export(&store);
        context.confirm(&checkpoint, || format!("Checkpoint {} ({reason}).\n", checkpoint.checkpointed_at));
        Ok(Ending::Complete)
    }
}
