//! Writing the state as a document, row by row: no more than one entity is in memory.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde::ser::{Error as _, SerializeSeq};
use serde::{Serialize, Serializer};

use crate::backup;
use crate::directory::{self, BACKUP_DIRECTORY, EXPORT_FILE, replace_file};
use crate::error::{Error, Result};
use crate::json;
use crate::model::{
    AgentState, ConversationState, Extra, OrchestratorMetadata, OrchestratorMode, OrchestratorState, ProjectState,
    SelfImprovementState, TaskState,
};
use crate::progress::{ProgressCallback, Stage};
use crate::store::{
    StateStore, agent, checkpoint, conversation, count_entities, head, project, self_improvement, task,
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
        self.read(|conn| {
            let head = head::read(conn)?.unwrap_or_else(|| head::new(self.options().clock.now()));
            write(conn, head, &self.options().progress, &mut writer)
        })
    }
}

/// A document that was written to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportedFile {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

impl StateStore {
    /// Writes the state as a document to a file. Nobody ever sees a part of it, and a kill leaves the old file or the new.
    ///
    /// The state directory's own `current-state.json` is [`refresh_export`](Self::refresh_export)'s.
    pub fn export_to(&self, path: &Path) -> Result<ExportedFile> {
        let metadata = self.read(|conn| {
            let head = head::read(conn)?.unwrap_or_else(|| head::new(self.options().clock.now()));
            replace_file(path, |out| write(conn, head, &self.options().progress, out))
        })?;
        Ok(ExportedFile { path: path.to_path_buf(), bytes: metadata.len() })
    }

    /// Brings `current-state.json` in the state directory up to date.
    ///
    /// A file there that is not the last export, as the TypeScript service or a person wrote it, is first copied to
    /// `backups/`. Two processes that export at once take turns.
    pub fn refresh_export(&self) -> Result<ExportedFile> {
        let _turn = directory::lock(self.state_dir())?;
        directory::remove_temporary_files(self.state_dir());
        let path = self.state_dir().join(EXPORT_FILE);
        let last = self.read(checkpoint::last_export)?;
        self.keep_foreign_file(&path, last.as_ref().map(|(fingerprint, _)| fingerprint.as_str()))?;
        let (metadata, checkpoint_id) = self.read(|conn| {
            let head = head::read(conn)?.unwrap_or_else(|| head::new(self.options().clock.now()));
            let metadata = replace_file(&path, |out| write(conn, head, &self.options().progress, out))?;
            Ok((metadata, checkpoint::last_id(conn)?))
        })?;
        self.transaction(|conn| checkpoint::note_export(conn, &fingerprint(&metadata), checkpoint_id))?;
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
        let label = if last.is_none() { "before-first-export" } else { "changed-export" };
        let backups = self.state_dir().join(BACKUP_DIRECTORY);
        directory::create_directory(&backups)?;
        let now = self.options().clock.now();
        let copy = backups.join(format!("{}.json", backup::unused_id(self.state_dir(), label, now)));
        let mut file = File::open(path).map_err(Error::io("read", path))?;
        replace_file(&copy, |out| io::copy(&mut file, out).map(drop).map_err(Error::io("write", &copy)))?;
        tracing::info!(copy = %copy.display(), "kept the file that the export is about to replace");
        Ok(())
    }
}

/// Tells one version of a file from another: its size and the time of its last change.
fn fingerprint(metadata: &fs::Metadata) -> String {
    format!("{} bytes, {}.{:09}", metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// Writes the state that has this head.
fn write(conn: &Connection, head: OrchestratorState, progress: &ProgressCallback, out: &mut dyn Write) -> Result<()> {
    let failure = RefCell::new(None);
    let total = count_entities(conn)?;
    let done = Cell::new(0_u64);
    let written = || {
        done.set(done.get() + 1);
        if done.get().is_multiple_of(100) {
            progress.report(Stage::Exporting, done.get(), Some(total));
        }
    };
    let document = Document {
        id: &head.id,
        version: &head.version,
        checkpointed_at: head.checkpointed_at.as_str(),
        checkpoint_reason: head.checkpoint_reason.as_str(),
        mode: head.mode.as_ref().map(OrchestratorMode::as_str),
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
        metadata: &head.metadata,
        extra: &head.extra,
    };
    json::write_pretty(out, &document).map_err(|error| {
        let name = "the export".to_owned();
        failure.take().unwrap_or_else(|| Error::Stream { name, source: io::Error::from(error) })
    })?;
    progress.report(Stage::Exporting, total, Some(total));
    Ok(())
}

const IN_ORDER: &str = "ORDER BY position";

/// The document, in the order of its keys; as `OrchestratorState`, but with lists that are read while they are written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'d> {
    id: &'d str,
    version: &'d str,
    checkpointed_at: &'d str,
    checkpoint_reason: &'d str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'d str>,
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
