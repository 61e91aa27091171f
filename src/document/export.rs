//! Writing the state as a document, row by row: no more than one entity is in memory.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde::ser::{Error as _, SerializeSeq};
use serde::{Serialize, Serializer};

use crate::backup;
use crate::db::{FileId, is_open_file};
use crate::directory::{self, EXPORT_FILE, WRITING_PREFIX, replace_file};
use crate::error::{Error, Result};
use crate::json;
use crate::model::{
    AgentState, CheckpointReason, ConversationState, Extra, OrchestratorMetadata, OrchestratorMode, OrchestratorState,
    ProjectState, SelfImprovementState, TaskState, Timestamp,
};
use crate::output;
use crate::progress::{ProgressCallback, Stage};
use crate::store::{
    self, IN_ORDER, StateStore, agent, checkpoint, conversation, head, project, self_improvement, task,
};

impl StateStore {
    /// Writes the state as a document in the layout of `current-state.json`, as it was in one moment.
    ///
    /// What was imported comes out as the same JSON, and as the same bytes where its keys stood in the documented order.
    ///
    /// ```
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = agentmux_state::StateStore::open(dir.path())?;
    /// let mut document = Vec::new();
    /// store.export_json(&mut document)?;
    /// assert!(document.starts_with(b"{\n  \"id\": \"state-"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Stream`] where the writer fails.
    pub fn export_json(&self, mut writer: impl Write) -> Result<()> {
        self.database().read_apart(|conn| export(conn, self.now(), &self.options().progress, &mut writer))
    }
}

/// Writes the state in a database as a document.
pub(crate) fn export(
    conn: &Connection,
    now: DateTime<Utc>,
    progress: &ProgressCallback,
    out: &mut dyn Write,
) -> Result<()> {
    let head = head::read_or_new(conn, now)?;
    let failure = RefCell::new(None);
    let total = store::counts(conn)?.entities();
    let done = Cell::new(0_u64);
    let written = || {
        done.set(done.get() + 1);
        if done.get().is_multiple_of(100) {
            progress.report(Stage::Exporting, done.get(), Some(total));
        }
    };
    // Named one by one: a field that is added to the state must not be missing from the document.
    let OrchestratorState {
        id,
        version,
        checkpointed_at,
        checkpoint_reason,
        mode,
        metadata,
        extra,
        conversations: _,
        tasks: _,
        agents: _,
        projects: _,
        self_improvement: _,
    } = &head;
    let document = Document {
        id,
        version,
        checkpointed_at,
        checkpoint_reason,
        mode,
        conversations: List {
            conn,
            read: |conn, each| conversation::read(conn, IN_ORDER, [], each),
            written: &written,
            failure: &failure,
        },
        tasks: List {
            conn,
            read: |conn, each| task::read(conn, IN_ORDER, [], each),
            written: &written,
            failure: &failure,
        },
        agents: List {
            conn,
            read: |conn, each| agent::read(conn, IN_ORDER, [], each),
            written: &written,
            failure: &failure,
        },
        projects: List {
            conn,
            read: |conn, each| project::read(conn, IN_ORDER, [], each),
            written: &written,
            failure: &failure,
        },
        self_improvement: self_improvement::read(conn)?,
        metadata,
        extra,
    };
    json::write_pretty(out, &document).map_err(|error| {
        let name = "the export".to_owned();
        failure.take().unwrap_or_else(|| Error::Stream { name, source: io::Error::from(error) })
    })?;
    progress.report(Stage::Exporting, total, Some(total));
    Ok(())
}

/// A document that was written to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportedFile {
    /// The file.
    #[serde(serialize_with = "crate::json::path")]
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

impl StateStore {
    /// Writes the state as a document to a file. Nobody ever sees a part of it, and a kill leaves the old file or the new.
    ///
    /// Through a link, the file that it leads to is replaced. What is no file, such as a pipe, is written to. For the
    /// state directory's `current-state.json` this is [`refresh_export`](Self::refresh_export).
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// # let elsewhere = tempfile::tempdir().unwrap();
    /// # let path = elsewhere.path().join("copy.json");
    /// let exported = store.export_to(&path)?;
    /// assert!(exported.bytes > 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::OwnFile`] where the file belongs to this state directory or another one, [`Error::WouldOverwriteDatabase`]
    /// where it is an SQLite database.
    pub fn export_to(&self, path: &Path) -> Result<ExportedFile> {
        // What cannot be resolved, such as the pipe behind `/dev/stdout`, is not in the state directory.
        if output::resolve_target(path).is_ok_and(|target| target == self.state_dir().join(EXPORT_FILE)) {
            return self.refresh_export();
        }
        let progress = &self.options().progress;
        let bytes = self
            .database()
            .read_apart(|conn| output::write_file(path, |out| export(conn, self.now(), progress, out)))?;
        Ok(ExportedFile { path: path.to_path_buf(), bytes })
    }

    /// Brings `current-state.json` in the state directory up to date.
    ///
    /// A file there that is not the last export, as the TypeScript service or a person wrote it, is first copied to
    /// `backups/`. Two processes that export at once take turns.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// store.update_task(&TaskState { id: "T-1".into(), ..Default::default() })?;
    /// let exported = store.refresh_export()?;
    /// assert!(exported.path.ends_with("current-state.json"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NoState`] where nothing was ever written: an empty document must not take the place of a state file.
    pub fn refresh_export(&self) -> Result<ExportedFile> {
        self.database().require_writable()?;
        let _turn = directory::lock(self.state_dir())?;
        directory::remove_temporary_files(self.state_dir(), &[WRITING_PREFIX])?;
        let path = self.state_dir().join(EXPORT_FILE);
        let (head, last) = self.read(|conn| Ok((head::read(conn)?, checkpoint::last_export(conn)?)))?;
        if head.is_none() {
            return Err(Error::NoState { path: self.database().path().to_path_buf() });
        }
        self.keep_foreign_file(&path, last.as_ref().map(|(fingerprint, _)| fingerprint.as_str()))?;
        let (metadata, checkpoint_id) = self.read(|conn| {
            let progress = &self.options().progress;
            let metadata = replace_file(&path, |out| {
                export(conn, self.now(), progress, out).map_err(|error| error.written_to(&path))
            })?;
            Ok((metadata, checkpoint::last_id(conn)?))
        })?;
        self.database()
            .write_while_closing(|conn| checkpoint::note_export(conn, &fingerprint(&metadata), checkpoint_id))?;
        Ok(ExportedFile { path, bytes: metadata.len() })
    }

    fn keep_foreign_file(&self, path: &Path, last: Option<&str>) -> Result<()> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        if !metadata.is_file() {
            return Err(Error::io("replace", path)(io::Error::other("it is no file")));
        }
        if last == Some(&fingerprint(&metadata)) {
            return Ok(());
        }
        // A link to our database, which keeps its own name: to open and close it here would drop this process's locks on it.
        if is_open_file(FileId::of(&metadata)) {
            return Ok(());
        }
        let [first, changed] = KEPT_EXPORT_LABELS;
        let label = if last.is_none() { first } else { changed };
        let folder = backup::Folder::change(self.state_dir())?;
        let copy = folder.path().join(format!("{}.json", folder.unused_id(label, self.now())));
        let mut file = directory::open_file(path).map_err(Error::io("read", path))?;
        replace_file(&copy, |out| io::copy(&mut file, out).map(drop).map_err(Error::io("write", &copy)))?;
        tracing::info!(copy = %copy.display(), "kept the file that the export is about to replace");
        Ok(())
    }
}

/// What the copy of a file is called that somebody else wrote, and that an export replaced.
pub(crate) const KEPT_EXPORT_LABELS: [&str; 2] = ["before-first-export", "changed-export"];

/// Tells one version of a file from another: its size and the time of its last change.
fn fingerprint(metadata: &fs::Metadata) -> String {
    format!("{} bytes, {}.{:09}", metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// The document, in the order of its keys; as `OrchestratorState`, but with lists that are read while they are written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'d> {
    id: &'d str,
    version: &'d str,
    checkpointed_at: &'d Timestamp,
    checkpoint_reason: &'d CheckpointReason,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: &'d Option<OrchestratorMode>,
    conversations: List<'d, ConversationState>,
    tasks: List<'d, TaskState>,
    agents: List<'d, AgentState>,
    projects: List<'d, ProjectState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    self_improvement: Option<SelfImprovementState>,
    metadata: &'d OrchestratorMetadata,
    #[serde(flatten)]
    extra: &'d Extra,
}

/// Reads all entities of a kind, in order, one after the other.
type Read<T> = fn(&Connection, &mut dyn FnMut(T) -> Result<()>) -> Result<()>;

/// A list whose elements are read from the database while they are written.
struct List<'d, T> {
    conn: &'d Connection,
    read: Read<T>,
    /// Called after each element.
    written: &'d dyn Fn(),
    /// Why reading failed; serde can carry only a text.
    failure: &'d RefCell<Option<Error>>,
}

impl<T: Serialize> Serialize for List<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        let mut written = Ok(());
        let read = (self.read)(self.conn, &mut |element| {
            written = list.serialize_element(&element);
            (self.written)();
            // Any error ends reading; what it was stands in `written`.
            if written.is_ok() { Ok(()) } else { Err(rusqlite::Error::QueryReturnedNoRows.into()) }
        });
        written?;
        if let Err(error) = read {
            self.failure.replace(Some(error));
            return Err(S::Error::custom("reading failed"));
        }
        list.end()
    }
}
