//! Exporting the state as a document, and `current-state.json` in the state directory: a file there that another program
//! wrote is kept in `backups/` first.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::state_store::StateStore;
use crate::backup::{self, KEPT_EXPORT_LABELS};
use crate::db::{FileId, is_open_file};
use crate::document::export;
use crate::error::{Error, Result};
use crate::rows::{checkpoint, export_mark, head};
use crate::state_dir::{self, EXPORT_FILE, WRITING_PREFIX, replace_file};

/// A document that was written to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExportedFile {
    /// The file.
    #[serde(serialize_with = "crate::json::path")]
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

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
        self.read_all(|conn| export(conn, self.now(), &self.options().progress, &mut writer))
    }

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
        if state_dir::resolve_target(path).is_ok_and(|target| target == self.state_dir().join(EXPORT_FILE)) {
            return self.refresh_export();
        }
        let progress = &self.options().progress;
        let bytes = self.read_all(|conn| state_dir::write_file(path, |out| export(conn, self.now(), progress, out)))?;
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
        let _turn = state_dir::lock_directory(self.state_dir())?;
        state_dir::remove_temporary_files(self.state_dir(), &[WRITING_PREFIX])?;
        let path = self.state_dir().join(EXPORT_FILE);
        let (head, last) = self.read(|conn| Ok((head::read(conn)?, export_mark::last(conn)?)))?;
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
        self.database().write_while_closing(|conn| export_mark::note(conn, &fingerprint(&metadata), checkpoint_id))?;
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
        let mut file = state_dir::open_file(path).map_err(Error::io("read", path))?;
        replace_file(&copy, |out| io::copy(&mut file, out).map(drop).map_err(Error::io("write", &copy)))?;
        tracing::info!(copy = %copy.display(), "kept the file that the export is about to replace");
        Ok(())
    }
}

/// Tells one version of a file from another: its size and the time of its last change.
fn fingerprint(metadata: &fs::Metadata) -> String {
    format!("{} bytes, {}.{:09}", metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}
