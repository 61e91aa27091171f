//! What the tests share: fixtures, a base directory, and records to write.
#![allow(dead_code, clippy::expect_used, clippy::unwrap_used)]

pub mod program;
pub mod role;
pub mod trace;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use agentmux_state::{
    AgentState, Clock, ConversationSource, ConversationState, ImportOptions, ImportReport, MessageRole,
    PersistedMessage, ProjectState, Result, ServiceOptions, StatePersistenceService, StateStore, TaskState, TaskStatus,
};
use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::Connection;
use tempfile::TempDir;

pub const FIXTURE: &str = include_str!("../fixtures/current-state.json");
pub const QUIRKS: &str = include_str!("../fixtures/quirks.json");

pub type TestResult = std::result::Result<(), Box<dyn std::error::Error>>;

pub const SCHEMAS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/schema");

/// A base directory of its own; the state lies in `state_dir`.
pub struct Base {
    dir: TempDir,
}

impl Base {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { dir: tempfile::tempdir()? })
    }

    /// In a directory, for instance on a file system of its own.
    pub fn new_in(directory: &Path) -> std::io::Result<Self> {
        Ok(Self { dir: tempfile::tempdir_in(directory)? })
    }

    /// In memory where that can be had: for what needs no disk, and is done often.
    pub fn in_memory() -> std::io::Result<Self> {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::new_in(memory) } else { Self::new() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn state_dir(&self) -> PathBuf {
        self.path().join(".agentmux/state")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.state_dir().join(name)
    }

    pub fn store(&self) -> Result<StateStore> {
        StateStore::open(self.state_dir())
    }

    /// A service without a periodic checkpoint.
    pub fn service(&self) -> StatePersistenceService {
        StatePersistenceService::with_options(self.options())
    }

    pub fn options(&self) -> ServiceOptions {
        ServiceOptions {
            base_dir: Some(self.path().to_path_buf()),
            checkpoint_interval: None,
            ..ServiceOptions::default()
        }
    }

    /// The database as a person's tool opens it.
    pub fn sql(&self) -> rusqlite::Result<Connection> {
        let conn = Connection::open(self.file("state.db"))?;
        conn.busy_timeout(std::time::Duration::from_secs(10))?;
        Ok(conn)
    }

    /// Writes a file into the state directory, as the TypeScript service would have.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> std::io::Result<()> {
        std::fs::create_dir_all(self.state_dir())?;
        std::fs::write(self.file(name), content)
    }

    /// Names of the files in `backups/`.
    pub fn backups(&self) -> std::io::Result<Vec<String>> {
        let entries = std::fs::read_dir(self.file("backups"))?;
        let mut names: Vec<_> = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<_>>()?;
        names.sort();
        Ok(names)
    }
}

/// A database of a released schema, as SQL text, and the document that it holds.
pub fn fixture(version: u32) -> std::io::Result<(String, String)> {
    let read = |extension| std::fs::read_to_string(format!("{SCHEMAS}/v{version}.{extension}"));
    Ok((read("sql")?, read("json")?))
}

/// A base directory with the database of a released schema, as its release left it: with a write-ahead log.
pub fn base_of(version: u32) -> Result<Base, Box<dyn std::error::Error>> {
    let base = Base::new()?;
    std::fs::create_dir_all(base.state_dir())?;
    let conn = Connection::open(base.file("state.db"))?;
    conn.execute_batch(&fixture(version)?.0)?;
    conn.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    Ok(base)
}

pub fn import(store: &StateStore, document: &str) -> Result<ImportReport> {
    store.import_json(document.as_bytes(), ImportOptions { source_name: "document.json".into(), ..Default::default() })
}

pub fn export(store: &StateStore) -> Result<String> {
    let mut document = Vec::new();
    store.export_json(&mut document)?;
    Ok(String::from_utf8(document).expect("the export is UTF-8"))
}

pub fn task(id: &str, status: TaskStatus) -> TaskState {
    TaskState {
        id: id.into(),
        title: format!("Title of {id}"),
        description: "What is to be done".into(),
        status,
        created_at: "2026-11-22T09:00:00.000Z".into(),
        ..TaskState::default()
    }
}

pub fn message(number: usize) -> PersistedMessage {
    PersistedMessage {
        role: MessageRole::User,
        content: format!("message {number}"),
        timestamp: format!("2026-11-22T10:{:02}:{:02}.000Z", number / 60 % 60, number % 60).as_str().into(),
        ..PersistedMessage::default()
    }
}

pub fn conversation(id: &str, messages: impl IntoIterator<Item = usize>) -> ConversationState {
    ConversationState {
        id: id.into(),
        source: ConversationSource::Slack,
        recent_messages: messages.into_iter().map(message).collect(),
        last_activity_at: "2026-11-22T10:00:00.000Z".into(),
        ..ConversationState::default()
    }
}

pub fn agent(session_name: &str) -> AgentState {
    AgentState {
        session_name: session_name.into(),
        agent_id: "a-1".into(),
        role: "developer".into(),
        ..Default::default()
    }
}

pub fn project(id: &str) -> ProjectState {
    ProjectState { id: id.into(), name: "Name".into(), path: "/srv/p".into(), ..Default::default() }
}

/// A clock that shows so many seconds after the start as the number says.
pub fn clock_from(start: DateTime<Utc>) -> (Clock, Arc<AtomicI64>) {
    let seconds = Arc::new(AtomicI64::new(0));
    let shown = seconds.clone();
    (Clock::new(move || start + TimeDelta::seconds(shown.load(Ordering::Relaxed))), seconds)
}

/// A small generator of numbers, the same in every run.
pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}
