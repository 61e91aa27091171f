//! Looking at the state as a whole, and keeping it small: summary, check, resume instructions, prune.

use std::time::Instant;

use chrono::{DateTime, Utc};

use super::state_store::StateStore;
use crate::backup;
use crate::check::{self, CheckReport};
use crate::db::{WriteAheadLog, write_ahead_log};
use crate::error::{Error, Result};
use crate::model::{Counts, ResumeInstructions, SetAsideRecord};
use crate::prune::{self, PruneOptions, PruneReport};
use crate::resume;
use crate::rows::{self, message_index, quarantine};
use crate::state_dir::DirectoryLock;
use crate::summary::{self, StoreSummary};

/// The label of the backup that comes before less than half is left.
const SAFETY_LABEL: &str = "before-prune";

impl StateStore {
    /// What imports could not read, oldest first.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// let document = r#"{"version": "1.0.0", "tasks": ["not a task"]}"#;
    /// store.import_json(document.as_bytes(), ImportOptions::default())?;
    /// assert_eq!(store.set_aside()?[0].content, "\"not a task\"");
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_aside(&self) -> Result<Vec<SetAsideRecord>> {
        self.read(quarantine::read)
    }

    /// What is there, in numbers.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// store.update_task(&TaskState { id: "T-1".into(), ..Default::default() })?;
    /// assert_eq!(store.summary()?.counts.tasks, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn summary(&self) -> Result<StoreSummary> {
        let backups = backup::count(self.state_dir())?;
        self.read(|conn| summary::summary(conn, backups))
    }

    /// The write-ahead log: its size, and who keeps it from being cut back.
    ///
    /// ```
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = agentmux_state::StateStore::open(dir.path())?;
    /// assert!(store.write_ahead_log().held_back_by.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_ahead_log(&self) -> WriteAheadLog {
        write_ahead_log(self.database().path())
    }

    /// What to do after a restart, straight from the tables: reads only what it returns.
    ///
    /// Equal to [`resume_instructions`](crate::resume_instructions) of [`state`](Self::state).
    ///
    /// ```
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = agentmux_state::StateStore::open(dir.path())?;
    /// assert!(store.resume_instructions(chrono::Utc::now())?.tasks_to_resume.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn resume_instructions(&self, now: DateTime<Utc>) -> Result<ResumeInstructions> {
        self.read(|conn| resume::resume_instructions_in(conn, now))
    }

    /// Checks the database's integrity, its references, that every row can be read, its schema, what is always true of a state,
    /// the export, the newest backup, the log, free space, the file system and the permissions; and notes references to
    /// entities that are gone, records set aside and damaged files. Changes nothing.
    ///
    /// ```
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path().join("state");
    /// let store = agentmux_state::StateStore::open(state_dir)?;
    /// assert!(store.check()?.ok);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] where the disk fails to read, which is no damage.
    pub fn check(&self) -> Result<CheckReport> {
        check::check(self.database(), self.state_dir(), self.options().limits.set_aside_bytes)
    }

    /// Drops completed tasks and idle conversations, and gives free space back to the file system. Unfinished work never
    /// goes, whatever its age: only tasks with the status `completed` do. What names a task elsewhere stays as it is.
    ///
    /// It happens in short transactions, under others who read and write. Where less than half of the state would stay, a
    /// backup comes first. With [`PruneOptions::dry_run`], only counts.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// let done = TaskState { status: TaskStatus::Completed, completed_at: Some("2026-01-01".into()), ..Default::default() };
    /// store.update_task(&TaskState { id: "T-1".into(), ..done })?;
    /// store.update_task(&TaskState { id: "T-2".into(), created_at: "2026-01-01".into(), ..Default::default() })?;
    /// let before = Timestamp::from("2026-02-01").parse();
    /// let report = store.prune(&PruneOptions::default().completed_before(before))?;
    /// assert_eq!(report.removed.tasks, 1);
    /// assert!(store.task("T-2")?.is_some(), "it is not completed");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::PruneIncomplete`] where it failed after something was dropped already.
    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport> {
        if options.dry_run {
            let (removed, bytes_freed) = self.read(|conn| prune::expected(conn, options))?;
            return Ok(PruneReport { removed, bytes_freed, backup: None, dry_run: true });
        }
        self.database().require_writable()?;
        self.prune_until(options, None, true).map(|(report, _)| report)
    }

    /// As [`prune`](Self::prune), but stops at the deadline; returns whether it is done.
    pub(crate) fn prune_until(
        &self,
        options: &PruneOptions,
        deadline: Option<Instant>,
        may_back_up: bool,
    ) -> Result<(PruneReport, bool)> {
        let backup = if may_back_up && self.leaves_less_than_half(options)? {
            Some(self.backups().create(SAFETY_LABEL)?.id)
        } else {
            None
        };
        let bytes_before = self.read(prune::database_bytes)?;
        let mut removed = Counts::default();
        let steps = prune::remove_old(self.database(), options, deadline, &mut removed).and_then(|is_done| {
            // Without a deadline, words of messages that were removed or trimmed in other ways go, too.
            if removed.messages > 0 || deadline.is_none() {
                self.tidy_index(deadline)?;
            }
            Ok(is_done && self.give_back(deadline)?)
        });
        let is_done = match steps {
            Err(source) if removed != Counts::default() => {
                return Err(Error::PruneIncomplete { removed, source: Box::new(source) });
            }
            steps => steps?,
        };
        let bytes_freed = bytes_before.saturating_sub(self.read(prune::database_bytes)?);
        tracing::info!(removed.tasks, removed.conversations, bytes_freed, is_done, "pruned");
        Ok((PruneReport { removed, bytes_freed, backup, dry_run: false }, is_done))
    }

    fn leaves_less_than_half(&self, options: &PruneOptions) -> Result<bool> {
        self.read(|conn| {
            let (before, (removed, _)) = (rows::counts(conn)?, prune::expected(conn, options)?);
            let pairs = [(before.entities(), removed.entities()), (before.messages, removed.messages)];
            Ok(pairs.iter().any(|(before, removed)| removed * 2 > *before))
        })
    }

    /// Rebuilds the search index where it holds words of messages that are gone. Under a deadline it is only emptied, as a
    /// service fills it at its checkpoints, and a large one not for a few words.
    fn tidy_index(&self, deadline: Option<Instant>) -> Result<()> {
        let is_cleared = self.transaction(|conn| message_index::clear_if_stale(conn, deadline.is_none()))?;
        if is_cleared && deadline.is_none() {
            self.update_message_index()?;
        }
        Ok(())
    }

    /// Gives free pages back to the file system; returns whether all.
    fn give_back(&self, deadline: Option<Instant>) -> Result<bool> {
        if self.read(prune::lacks_incremental_vacuum)? {
            // Made by another program, such as the shell from a dump. Once, all of it has to be rewritten, while nobody else
            // can write: never under an orchestrator, where free pages are used again.
            let is_ours = !self.is_running() && DirectoryLock::refuse_other_service(self.state_dir()).is_ok();
            if deadline.is_some() || !is_ours {
                return Ok(true);
            }
            self.database().enable_incremental_vacuum()?;
        }
        prune::give_back(self.database(), deadline)
    }
}
