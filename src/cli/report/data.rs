//! What the page shows, read from the state.

use agentmux_state::{
    AgentState, Backup, Checkpoint, ConversationState, DirectoryLock, Error, ListFilter, ListOrder, LockHolder, Run,
    StateStore, StoreSummary, TaskState,
};

/// How many of each kind are shown; the page says how many more there are.
pub(super) const MOST: usize = 100;
/// How many runs and checkpoints the time line goes back.
const MOST_RUNS: u32 = 50;
const MOST_CHECKPOINTS: u32 = 2000;

pub(super) struct Data {
    pub(super) state_dir: String,
    pub(super) summary: StoreSummary,
    pub(super) tasks: Vec<TaskState>,
    pub(super) agents: Vec<AgentState>,
    pub(super) conversations: Vec<ConversationState>,
    pub(super) runs: Vec<Run>,
    pub(super) checkpoints: Vec<Checkpoint>,
    pub(super) backups: Vec<Backup>,
    holder: Option<LockHolder>,
}

impl Data {
    pub(super) fn read(store: &StateStore) -> Result<Self, Error> {
        let all = ListFilter::default();
        Ok(Self {
            state_dir: store.state_dir().display().to_string(),
            holder: DirectoryLock::find_holder(store.state_dir())?,
            summary: store.summary()?,
            tasks: store.tasks(&all)?,
            agents: store.agents(&all)?,
            conversations: store
                .conversations(&ListFilter::default().order(ListOrder::LastActivity).limit(MOST as u32))?,
            runs: store.runs(MOST_RUNS)?,
            checkpoints: store.checkpoints(MOST_CHECKPOINTS)?,
            backups: store.backups().list()?,
        })
    }

    /// Whether the newest run goes on.
    pub(super) fn is_running(&self, run: &Run) -> bool {
        run.outcome.is_none() && self.holder.as_ref().is_some_and(|holder| holder.is_process_of(run))
    }
}
