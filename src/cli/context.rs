//! What every command is given, and how it ends.

use std::io::{self, Write};
use std::path::PathBuf;

use agentmux_state::{Error, ProgressCallback, StateStore, StoreOptions};
use serde::Serialize;

use super::{print, progress};

/// How a command ended, when it did not fail.
pub(super) enum Ending {
    Complete,
    RecordsSetAside,
    /// What was looked at is not as it should be; the output says what.
    ProblemsFound,
}

pub(super) type Outcome = Result<Ending, Failure>;

/// Why a command failed.
pub(super) enum Failure {
    State(Error),
    Output(io::Error),
    /// Arguments that do not go together, where only the library can tell.
    Usage(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::State(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// What every command is given.
pub(super) struct Context {
    pub(super) state_dir: PathBuf,
    pub(super) json: bool,
    pub(super) quiet: bool,
}

impl Context {
    /// The state, for reading.
    pub(super) fn read(&self) -> Result<StateStore, Error> {
        StateStore::open_read_only_with(&self.state_dir, self.options())
    }

    /// Fails where what is there cannot be opened, before anything is made beside it. Nothing there is no failure.
    pub(super) fn look(&self) -> Result<(), Error> {
        match StateStore::migration_status(&self.state_dir) {
            Ok(_) | Err(Error::NoDatabase { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The state, for writing, where it is there already and up to date.
    pub(super) fn write(&self) -> Result<StateStore, Error> {
        self.read()?;
        self.open()
    }

    /// The state, for writing; made where it is missing, upgraded where it is behind.
    pub(super) fn open(&self) -> Result<StateStore, Error> {
        StateStore::open_with(&self.state_dir, self.options())
    }

    /// Prints what was asked for.
    pub(super) fn show(&self, report: &impl Serialize, for_people: impl FnOnce() -> String) -> io::Result<()> {
        if self.json { print::json(report) } else { print::text(&for_people()) }
    }

    /// Tells people what is about to be done. It is done, whether or not anybody listens.
    pub(super) fn announce(&self, text: &str) {
        if !self.json && !self.quiet {
            let _ = print::text(text);
        }
    }

    /// Brings current-state.json up to date after what is done already: where that fails, it is said, and changes nothing else.
    pub(super) fn refresh_export(&self, store: &StateStore) {
        if let Err(error) = store.refresh_export() {
            let message = print::clean_lines(&error.to_string());
            let hint = "current-state.json is not up to date; run `agentmux-state export`";
            // Where standard error is gone too, nobody can be told.
            let _ = writeln!(anstream::stderr(), "warning: {message}\n{hint}");
        }
    }

    /// Prints what was done. It is done: where it cannot be printed, that is said, and changes nothing else.
    pub(super) fn confirm(&self, report: &impl Serialize, for_people: impl FnOnce() -> String) {
        if self.quiet && !self.json {
            return;
        }
        if let Err(error) = self.show(report, for_people)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            // Where standard error is gone too, nobody can be told.
            let _ = writeln!(anstream::stderr(), "done, but the report could not be written: {error}");
        }
    }

    pub(super) fn options(&self) -> StoreOptions {
        let progress = if self.quiet { ProgressCallback::default() } else { progress::bars() };
        StoreOptions::default().progress(progress)
    }
}
