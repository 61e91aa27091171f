//! What can go wrong, by kind: callers match on the variant, people read the text.

mod sqlite;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::model::{Counts, EntityKind};

/// A result of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed, on which file or record, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no database where one is to be read.
    #[error("{} does not exist: there is no state here yet; start the orchestrator or run `agentmux-state import FILE`", path.display())]
    NoDatabase {
        /// Where it was looked for.
        path: PathBuf,
    },

    /// The file is no SQLite database, or another program's.
    #[error("{} is not a state database ({found}); nothing was changed. Move it away or name another state directory; if it is a state database that was damaged, `agentmux-state recover` rebuilds it", path.display())]
    NotAStateDatabase {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: ForeignFile,
    },

    /// The database was written by a newer release.
    #[error(
        "{} has schema version {found}, and this release knows versions up to {supported}; nothing was changed. Use the newer \
         release, or go back to the backup made before the upgrade (`agentmux-state backup list`, `backup restore ID`)",
        path.display()
    )]
    SchemaTooNew {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: u32,
        /// The newest version that this release knows.
        supported: u32,
    },

    /// There is a database, but nothing was ever written to it.
    #[error("{} holds no state yet; start the orchestrator or run `agentmux-state import FILE`", path.display())]
    NoState {
        /// The database.
        path: PathBuf,
    },

    /// The database has an older schema and was opened for reading only.
    #[error("{} has schema version {found}, and this release needs version {required}; run `agentmux-state migrate`", path.display())]
    SchemaOutdated {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: u32,
        /// The version that this release needs.
        required: u32,
    },

    /// The record of the migrations in the database is not one that this project's releases leave.
    #[error(
        "the migration history of {} (table refinery_schema_history) is damaged: {problem}; nothing was changed. Go back to a \
         backup (`agentmux-state backup list`, `backup restore ID`)",
        path.display()
    )]
    HistoryDamaged {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        problem: HistoryProblem,
    },

    /// The backup that comes before an upgrade failed, so the upgrade did not start; the database is as it was.
    #[error("{} was not upgraded, as the backup that comes first failed: {source}", path.display())]
    UpgradeBackupFailed {
        /// The database.
        path: PathBuf,
        /// Why the backup failed.
        source: Box<Error>,
    },

    /// A migration failed; the database is as it was.
    #[error("upgrading {} failed and was undone; the database is as it was: {migration}: {detail}", path.display())]
    MigrationFailed {
        /// The database.
        path: PathBuf,
        /// The migration, for instance `V2__mode`.
        migration: String,
        /// Why.
        detail: String,
    },

    /// SQLite found the database damaged.
    #[error("{} is damaged: {detail}; nothing was changed. `agentmux-state recover` rebuilds it from what can be read and the newest good backup; the damaged files are kept", path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What SQLite or this library found.
        detail: String,
    },

    /// A recovery could not rebuild the database.
    #[error(
        "{} cannot be rebuilt: {detail}; nothing was changed. Keep a copy of its directory. Then import an export or a backup from \
         elsewhere into another state directory (`agentmux-state --state-dir DIR import FILE`), or restore the files from a copy of the disk",
        path.display()
    )]
    Unrecoverable {
        /// The database.
        path: PathBuf,
        /// Why.
        detail: String,
    },

    /// Something that this program made in the database was changed or is missing: a table, an index, a trigger or a view.
    #[error(
        "{}: {}; nothing was changed. Undo that with sqlite3, or `agentmux-state recover` rebuilds the database and keeps the old files",
        path.display(),
        differences.join("; ")
    )]
    SchemaChanged {
        /// The database.
        path: PathBuf,
        /// Which objects, and in what each differs.
        differences: Vec<String>,
    },

    /// An index or a column that somebody added to the database does not allow what was to be written.
    #[error(
        "{} does not allow this ({source}); nothing was changed. It was added to {} by somebody: change it there with sqlite3, or change the data",
        objects.join(" or "),
        path.display()
    )]
    OwnObject {
        /// The database.
        path: PathBuf,
        /// The object; several where SQLite does not say which.
        objects: Vec<String>,
        /// What SQLite says.
        source: rusqlite::Error,
    },

    /// A database that is to be rebuilt is as it should be.
    #[error("{} is not damaged; nothing was changed", path.display())]
    NotDamaged {
        /// The database.
        path: PathBuf,
    },

    /// A stored value cannot be read, because it was edited by hand or damaged.
    #[error("table {table}, row {row}, column {column}: {detail}; correct it with sqlite3")]
    InvalidRow {
        /// The table.
        table: &'static str,
        /// The row's key.
        row: String,
        /// The column.
        column: &'static str,
        /// What is wrong with it.
        detail: String,
    },

    /// A value that was to be written cannot be stored.
    #[error("{record}: {detail}; nothing was changed")]
    InvalidValue {
        /// What it belongs to, for instance `task T-1`.
        record: String,
        /// What is wrong with it.
        detail: String,
    },

    /// Another writer, in this process or another one, kept the database locked for longer than the time-out.
    #[error("{} was locked by another writer for longer than the time-out; nothing was changed. Try again", path.display())]
    Busy {
        /// The database.
        path: PathBuf,
    },

    /// All connections for reading were in use by threads of this process for longer than the time-out.
    #[error(
        "all {max_readers} readers of {} were in use by this process for longer than the time-out. End long reads, or allow more \
         (`StoreOptions::max_readers`)",
        path.display()
    )]
    TooManyReaders {
        /// The database.
        path: PathBuf,
        /// How many threads may read at once.
        max_readers: u32,
    },

    /// A read was ended by [`Interrupt::interrupt`](crate::Interrupt::interrupt).
    #[error("reading {} was interrupted", path.display())]
    Interrupted {
        /// The database.
        path: PathBuf,
    },

    /// A write was called from inside a batch, an import or a callback of the same store, for which it would wait forever.
    #[error(
        "{} is being written by this thread already, in a batch, an import or a callback of it; nothing was changed. Use the \
         methods of the batch, or write after it has returned",
        path.display()
    )]
    NestedWrite {
        /// The database.
        path: PathBuf,
    },

    /// A file that belongs to a state directory was named as the target of an export or a report.
    #[error("{} belongs to the state; nothing was changed. Name another file", path.display())]
    OwnFile {
        /// The file.
        path: PathBuf,
    },

    /// An SQLite database was named as the target of an export or a report.
    #[error("{} is an SQLite database; nothing was changed. Name another file", path.display())]
    WouldOverwriteDatabase {
        /// The file.
        path: PathBuf,
    },

    /// The database file has another name, a hard link. Each name has a WAL of its own, and one overwrites what was committed
    /// through the other.
    #[error(
        "{} has {links} names (hard links), as `cp -al` makes them: writes through one name would overwrite what was committed \
         through another. Nothing was changed. Stop every program that uses one of them, make the copy without hard links \
         (`cp -a`), and move the linked one to another disk or remove its name",
        path.display()
    )]
    HardLinked {
        /// The file.
        path: PathBuf,
        /// How many names it has.
        links: u64,
    },

    /// The database file itself is a mount point, as a bind mount of one file makes it. The WAL beside it is then another one
    /// than beside the file's first name, and one overwrites what was committed through the other.
    #[error(
        "{} is a mount of a single file: a program that opens the database under its other path has another WAL, and the writes of \
         one would overwrite those of the other. Nothing was changed. Mount the whole state directory instead",
        path.display()
    )]
    MountedFile {
        /// The file.
        path: PathBuf,
    },

    /// The database, or a file that SQLite keeps beside it, was moved, replaced or deleted while it was open.
    #[error(
        "{} was moved, replaced or deleted while it was open: {detail}. Updates are refused, as they would be lost. Stop every \
         process that uses this state directory, move the file back together with its -wal file if it was moved, and start again",
        path.display()
    )]
    DatabaseMoved {
        /// The file.
        path: PathBuf,
        /// What is at its path instead.
        detail: String,
    },

    /// This process no longer holds a lock that keeps others from working on the same state.
    #[error(
        "the lock of this process on {} is gone: {detail}. Updates are refused, as another process may write at the same time. \
         Restart this process",
        path.display()
    )]
    LockLost {
        /// The file.
        path: PathBuf,
        /// How that happens.
        detail: String,
    },

    /// The state directory is on a mount that is shared with other machines, and an option refuses that.
    #[error(
        "{} is on {file_system}, mounted at {}, which other machines or the host of a virtual machine share; SQLite needs a local \
         disk; nothing was changed. Use a directory on a local disk or a volume of the container engine",
        path.display(), mount_point.display()
    )]
    SharedMount {
        /// The state directory.
        path: PathBuf,
        /// The type of the file system.
        file_system: String,
        /// Where it is mounted.
        mount_point: PathBuf,
    },

    /// There is no room left on the disk.
    #[error("no room left on the disk for {}; free some space and try again", path.display())]
    DiskFull {
        /// The file that was written.
        path: PathBuf,
    },

    /// The database may not be written: by its permissions, its medium, or because it was opened for reading only.
    #[error("{} cannot be written: {detail}", path.display())]
    ReadOnly {
        /// The database.
        path: PathBuf,
        /// Why.
        detail: String,
    },

    /// There is no such entity.
    #[error("there is no {kind} {id:?}")]
    NotFound {
        /// Its kind.
        kind: EntityKind,
        /// The key that was looked for.
        id: String,
    },

    /// There is no such backup.
    #[error("there is no backup {id:?}. `agentmux-state backup list` lists the backups")]
    BackupNotFound {
        /// The id that was looked for.
        id: String,
    },

    /// The document is no JSON, is cut off, or is no state document.
    #[error("{source_name}, line {line}: {detail}; nothing was changed")]
    Document {
        /// The file, or `standard input`.
        source_name: String,
        /// Line, from 1.
        line: u64,
        /// What is wrong.
        detail: String,
    },

    /// A record of the document, or what stands beside its lists, is larger than may be held in memory.
    #[error(
        "{source_name}, line {line}: a record is larger than {limit} bytes; nothing was changed. Allow larger ones, where there is \
         memory for four times as much (`--max-record-mb`)"
    )]
    DocumentTooLarge {
        /// The file, or `standard input`.
        source_name: String,
        /// The line on which it begins.
        line: u64,
        /// How many bytes it may have ([`ImportOptions::max_record_bytes`](crate::ImportOptions::max_record_bytes)).
        limit: u64,
    },

    /// The document was written by a newer major release.
    #[error(
        "{source_name} has version {found}, and this release reads versions up to {supported}; nothing was changed. Use the newer release"
    )]
    DocumentTooNew {
        /// The file, or `standard input`.
        source_name: String,
        /// Its version.
        found: String,
        /// The version that this release writes.
        supported: &'static str,
    },

    /// A strict import found problems.
    #[error("{source_name} has {}; nothing was changed{}", count(problems.len(), "problem"), list(problems))]
    DocumentProblems {
        /// The file, or `standard input`.
        source_name: String,
        /// Every problem, in the order of the document.
        problems: Vec<DocumentProblem>,
    },

    /// An import into a state that is not empty did not say what to do with what is there.
    #[error("the state in {} is not empty; choose to replace it or to merge into it (`--replace`, `--merge`)", path.display())]
    NotEmpty {
        /// The database.
        path: PathBuf,
    },

    /// A replacement would leave the state empty or less than half as large.
    #[error(
        "the new state has {} where the present one has {before}; nothing was changed. If that is meant, allow it (`--allow-shrink`)",
        count(*after as usize, "record")
    )]
    WouldShrink {
        /// Entities that the state has.
        before: u64,
        /// Entities that it would have.
        after: u64,
    },

    /// Pruning failed after it had dropped something.
    #[error(
        "dropped {}, {} and {}, and then stopped: {source}. Do it again for the rest",
        count(removed.tasks as usize, "task"),
        count(removed.conversations as usize, "conversation"),
        count(removed.messages as usize, "message")
    )]
    PruneIncomplete {
        /// What was dropped.
        removed: Counts,
        /// Why it stopped.
        source: Box<Error>,
    },

    /// A backup cannot be trusted; it was not used.
    #[error("backup {id} cannot be trusted: {}; nothing was changed. Use another one (`agentmux-state backup list`)", problems.join("; "))]
    BackupDamaged {
        /// The backup.
        id: String,
        /// What is wrong with it.
        problems: Vec<String>,
    },

    /// Another live process holds the state directory.
    #[error("{} is in use by process {}; stop it first", path.display(), holder(pid))]
    InUse {
        /// The state directory.
        path: PathBuf,
        /// The process; `None` where it has not said yet.
        pid: Option<u32>,
    },

    /// A second service in this process has taken the state directory over.
    #[error("another service in this process has taken over {}; use that one", path.display())]
    TakenOver {
        /// The state directory.
        path: PathBuf,
    },

    /// The service was shut down.
    #[error("the service on {} was shut down", path.display())]
    ShutDown {
        /// The state directory.
        path: PathBuf,
    },

    /// The service was not initialized.
    #[error("the service on {} is not initialized; call `initialize` first", path.display())]
    NotInitialized {
        /// The state directory.
        path: PathBuf,
    },

    /// The home directory is not known.
    #[error("the home directory is not known; set HOME or name a base directory")]
    NoHome,

    /// A file or directory operation failed.
    #[error("cannot {action} {}: {source}{}", path.display(), advice(action))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },

    /// Reading a document or writing one failed.
    #[error("{name}: {source}")]
    Stream {
        /// The document.
        name: String,
        /// Why it failed.
        source: io::Error,
    },

    /// Any other failure of SQLite.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// The database; empty until the store names it.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

/// What stands in the place of a state database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignFile {
    /// A file without content: what was in it is lost.
    #[error("the file is empty")]
    Empty,
    /// A file of another kind, for instance a text.
    #[error("no SQLite file")]
    NotSqlite,
    /// An SQLite database of another program.
    #[error("another program's SQLite database, application_id {application_id}")]
    OtherProgram {
        /// The number by which a program marks its databases; 0 where it marks them by none.
        application_id: i32,
    },
    /// A link, which would lead writes elsewhere.
    #[error("it is a link")]
    Link,
    /// A directory.
    #[error("it is a directory")]
    Directory,
    /// A named pipe.
    #[error("it is a named pipe")]
    Pipe,
    /// A socket.
    #[error("it is a socket")]
    Socket,
    /// A device.
    #[error("it is a device")]
    Device,
}

/// What is wrong with a database's record of its migrations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryProblem {
    /// There is none.
    #[error("it is missing")]
    Missing,
    /// A migration is not in it, though a later one is, or its work is in the schema.
    #[error("V{version} is not in it, though the database has had it")]
    Cut {
        /// The first such migration.
        version: u32,
    },
    /// A migration is in it under another name or with another content than this project's.
    #[error("V{version} is not the migration of this project")]
    Altered {
        /// The migration.
        version: u32,
    },
    /// It holds a value that no release writes.
    #[error("{detail}")]
    Unreadable {
        /// Which.
        detail: String,
    },
}

/// Something in a document that is not as the format says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentProblem {
    /// Where it stands, for instance `$.tasks[3].title`.
    pub path: String,
    /// Its line, from 1.
    pub line: u64,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for DocumentProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.path, self.message)
    }
}

impl Error {
    /// The kind of failure as a word that does not change between releases, for programs in other languages: the variant's
    /// name, as `IN_USE`.
    ///
    /// ```
    /// assert_eq!(agentmux_state::Error::NoHome.code(), "NO_HOME");
    /// ```
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoDatabase { .. } => "NO_DATABASE",
            Self::NotAStateDatabase { .. } => "NOT_A_STATE_DATABASE",
            Self::SchemaTooNew { .. } => "SCHEMA_TOO_NEW",
            Self::NoState { .. } => "NO_STATE",
            Self::SchemaOutdated { .. } => "SCHEMA_OUTDATED",
            Self::HistoryDamaged { .. } => "HISTORY_DAMAGED",
            Self::UpgradeBackupFailed { .. } => "UPGRADE_BACKUP_FAILED",
            Self::MigrationFailed { .. } => "MIGRATION_FAILED",
            Self::Corrupt { .. } => "CORRUPT",
            Self::Unrecoverable { .. } => "UNRECOVERABLE",
            Self::SchemaChanged { .. } => "SCHEMA_CHANGED",
            Self::OwnObject { .. } => "OWN_OBJECT",
            Self::NotDamaged { .. } => "NOT_DAMAGED",
            Self::InvalidRow { .. } => "INVALID_ROW",
            Self::InvalidValue { .. } => "INVALID_VALUE",
            Self::Busy { .. } => "BUSY",
            Self::TooManyReaders { .. } => "TOO_MANY_READERS",
            Self::Interrupted { .. } => "INTERRUPTED",
            Self::NestedWrite { .. } => "NESTED_WRITE",
            Self::OwnFile { .. } => "OWN_FILE",
            Self::WouldOverwriteDatabase { .. } => "WOULD_OVERWRITE_DATABASE",
            Self::HardLinked { .. } => "HARD_LINKED",
            Self::MountedFile { .. } => "MOUNTED_FILE",
            Self::DatabaseMoved { .. } => "DATABASE_MOVED",
            Self::LockLost { .. } => "LOCK_LOST",
            Self::SharedMount { .. } => "SHARED_MOUNT",
            Self::DiskFull { .. } => "DISK_FULL",
            Self::ReadOnly { .. } => "READ_ONLY",
            Self::NotFound { .. } | Self::BackupNotFound { .. } => "NOT_FOUND",
            Self::Document { .. } => "DOCUMENT",
            Self::DocumentTooLarge { .. } => "DOCUMENT_TOO_LARGE",
            Self::DocumentTooNew { .. } => "DOCUMENT_TOO_NEW",
            Self::DocumentProblems { .. } => "DOCUMENT_PROBLEMS",
            Self::NotEmpty { .. } => "NOT_EMPTY",
            Self::WouldShrink { .. } => "WOULD_SHRINK",
            Self::PruneIncomplete { .. } => "PRUNE_INCOMPLETE",
            Self::BackupDamaged { .. } => "BACKUP_DAMAGED",
            Self::InUse { .. } => "IN_USE",
            Self::TakenOver { .. } => "TAKEN_OVER",
            Self::ShutDown { .. } => "SHUT_DOWN",
            Self::NotInitialized { .. } => "NOT_INITIALIZED",
            Self::NoHome => "NO_HOME",
            Self::Io { .. } => "IO",
            Self::Stream { .. } => "STREAM",
            Self::Sqlite { .. } => "SQLITE",
        }
    }

    /// A failed file operation.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { action, path, source },
        }
    }

    /// Names the file that was written to: a writer does not know it.
    pub(crate) fn written_to(self, path: &Path) -> Self {
        match self {
            Self::Stream { source, .. } => Self::io("write", path)(source),
            other => other,
        }
    }
}

fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

/// What to do about a failed operation, where it is not obvious.
fn advice(action: &str) -> &'static str {
    match action {
        "read" | "write" | "sync" | "read or write" => ". Try again; if it fails again, look at the disk",
        _ => "",
    }
}

fn list(problems: &[DocumentProblem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string())
}
