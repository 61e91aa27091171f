//! What the tests share: fixtures, a base directory, and records to write.

pub mod program;
pub mod role;
pub mod skip;
pub mod trace;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use agentmux_state::{
    AgentState, Clock, ConversationSource, ConversationState, ImportOptions, ImportReport, MessageRole,
    PersistedMessage, ProjectState, Result, ServiceOptions, StatePersistenceService, StateStore, TaskState, TaskStatus,
};
use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::Connection;
use tempfile::TempDir;

pub const FIXTURE: &str = include_str!("../../fixtures/current-state.json");
pub const QUIRKS: &str = include_str!("../../fixtures/quirks.json");

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
        ServiceOptions::default().base_dir(Some(self.path().to_path_buf())).checkpoint_interval(None)
    }

    /// The database as a person's tool opens it.
    pub fn sql(&self) -> rusqlite::Result<Connection> {
        let conn = Connection::open(self.file("state.db"))?;
        conn.busy_timeout(std::time::Duration::from_secs(10))?;
        Ok(conn)
    }

    /// Runs SQL as the `sqlite3` shell does by default: foreign keys off.
    pub fn by_hand(&self, sql: &str) -> rusqlite::Result<()> {
        let conn = self.sql()?;
        conn.pragma_update(None, "foreign_keys", false)?;
        conn.execute_batch(sql)
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
    store.import_json(document.as_bytes(), ImportOptions::default().source_name("document.json".into()))
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

/// An object with so many levels.
pub fn nested(levels: usize) -> serde_json::Map<String, serde_json::Value> {
    let mut value = serde_json::json!(1);
    for _ in 1..levels {
        value = serde_json::json!([value]);
    }
    serde_json::json!({"x": value}).as_object().expect("an object").clone()
}

/// Whether the long form is wanted.
pub fn is_long() -> bool {
    std::env::var_os("STATE_TEST_LONG").is_some()
}

/// The number for this form.
pub fn choose<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// Copies a directory with all that is in it, as another process: to read the files of an open database in this one drops its locks.
pub fn copy_directory(from: &Path, to: &Path) -> std::io::Result<()> {
    let copied = std::process::Command::new("cp").arg("-r").args([from, to]).status()?;
    if copied.success() { Ok(()) } else { Err(std::io::Error::other(format!("cp -r: {copied}"))) }
}

/// Does something that must not hang, and fails after that time.
pub fn within<T: Send + 'static>(what: &str, time: Duration, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    result.recv_timeout(time).unwrap_or_else(|_| panic!("{what} hangs"))
}

/// A clock that shows so many seconds after the start as the number says.
pub fn clock_from(start: DateTime<Utc>) -> (Clock, Arc<AtomicI64>) {
    let seconds = Arc::new(AtomicI64::new(0));
    let shown = seconds.clone();
    (Clock::new(move || start + TimeDelta::seconds(shown.load(Ordering::Relaxed))), seconds)
}

/// Sets a flag when it is dropped: the threads that look at it end also where their test fails, and the scope they run in with it.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The next number below a limit.
pub fn below(state: &mut u64, limit: usize) -> usize {
    random(state) as usize % limit.max(1)
}

/// A small generator of numbers, the same in every run.
pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}
