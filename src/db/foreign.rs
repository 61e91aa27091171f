//! What is at the path of a state database, found out before SQLite opens it in place.
//!
//! SQLite makes files beside a database as soon as it reads it, recovers its WAL and rolls back its journal. Nothing of that may happen
//! to another program's database.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::connection;
use super::kept_files;
use super::migrations::APPLICATION_ID;
use crate::error::{Error, ForeignFile, Result};
use crate::state_dir::{FileId, beside, is_open_file};

/// The first bytes of an SQLite database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Where the header of an SQLite database has its `application_id`.
const APPLICATION_ID_AT: usize = 68;

const HEADER_BYTES: usize = 100;

/// Fails where what is at the path of a database is no state database. Nothing there is no failure.
pub(crate) fn refuse_foreign(path: &Path) -> Result<()> {
    match find(path)? {
        Some(found) => Err(Error::NotAStateDatabase { path: path.to_path_buf(), found }),
        None => Ok(()),
    }
}

/// As [`refuse_foreign`], but passes what is left of a damaged state database: `recover` and `backup restore` move it aside.
pub(crate) fn refuse_other_program(path: &Path) -> Result<()> {
    match find(path)? {
        None | Some(ForeignFile::Empty | ForeignFile::NotSqlite) => Ok(()),
        Some(ForeignFile::OtherProgram { .. }) if has_tables_of_ours(path) => Ok(()),
        Some(found) => Err(Error::NotAStateDatabase { path: path.to_path_buf(), found }),
    }
}

/// What a file is that is no regular one, or has no content.
pub(super) fn kind(metadata: &fs::Metadata) -> Option<ForeignFile> {
    let file_type = metadata.file_type();
    match () {
        () if file_type.is_symlink() => Some(ForeignFile::Link),
        () if file_type.is_dir() => Some(ForeignFile::Directory),
        () if file_type.is_fifo() => Some(ForeignFile::Pipe),
        () if file_type.is_socket() => Some(ForeignFile::Socket),
        () if !file_type.is_file() => Some(ForeignFile::Device),
        () if metadata.len() == 0 => Some(ForeignFile::Empty),
        () => None,
    }
}

fn find(path: &Path) -> Result<Option<ForeignFile>> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        // What is in place of the directory is reported when the directory is looked for.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    if let Some(found) = kind(&metadata) {
        return Ok(Some(found));
    }
    if is_open_file(FileId::of(&metadata)) {
        // It was looked at when it was opened.
        return Ok(None);
    }
    let found = match kept_files::open(path).and_then(|file| header_at(&file, 0)) {
        Ok(header) => foreign_header(&header),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Some(ForeignFile::NotSqlite),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(Error::io("open", path)(error)),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    // SQLite prefers the first page in the WAL to one in the database that was damaged.
    Ok(found.filter(|_| !has_wal_of_ours(path)))
}

fn header_at(file: &File, at: u64) -> io::Result<[u8; HEADER_BYTES]> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, at)?;
    Ok(header)
}

/// What a database is by its header; `None` where it is ours.
fn foreign_header(header: &[u8; HEADER_BYTES]) -> Option<ForeignFile> {
    if !header.starts_with(MAGIC) {
        return Some(ForeignFile::NotSqlite);
    }
    let application_id = big_endian(header, APPLICATION_ID_AT) as i32;
    (application_id != APPLICATION_ID).then_some(ForeignFile::OtherProgram { application_id })
}

/// Whether the WAL beside a database has a first page of ours.
fn has_wal_of_ours(path: &Path) -> bool {
    const WAL_HEADER: u64 = 32;
    const FRAME_HEADER: u64 = 24;
    let wal = beside(path, "-wal");
    let Ok(length) = fs::symlink_metadata(&wal).map(|it| if it.is_file() { it.len() } else { 0 }) else { return false };
    let Ok(file) = kept_files::open(&wal) else { return false };
    let mut header = [0; WAL_HEADER as usize];
    if file.read_exact_at(&mut header, 0).is_err() {
        return false;
    }
    let frame = FRAME_HEADER + u64::from(big_endian(&header, 8)).max(512);
    let mut frames = (WAL_HEADER..length).step_by(usize::try_from(frame).unwrap_or(usize::MAX));
    frames.any(|at| {
        let mut number = [0; 4];
        file.read_exact_at(&mut number, at).is_ok()
            && u32::from_be_bytes(number) == 1
            && header_at(&file, at + FRAME_HEADER).is_ok_and(|header| foreign_header(&header).is_none())
    })
}

fn big_endian(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// Whether a database without our `application_id` has our tables all the same, as one does of which that number was damaged.
fn has_tables_of_ours(path: &Path) -> bool {
    // As a medium that nobody can change: SQLite makes no file, takes no lock, and looks at no WAL and no journal.
    let Some(path) = path.to_str() else { return false };
    let escaped: String = path
        .bytes()
        .map(|byte| match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('state', 'conversations', 'tasks', 'runs')";
    let count = Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags)
        .and_then(|conn| conn.query_row(sql, [], |row| row.get::<_, u32>(0)));
    count.is_ok_and(|count| count == 4)
}

/// Removes, when it is dropped, the files that SQLite made beside a database while it was only read: a connection for reading
/// leaves them behind. Those that were there before, or that hold anything, stay.
pub(super) struct Traces {
    path: PathBuf,
    was_clean: bool,
}

impl Traces {
    pub(super) fn before_reading(path: &Path) -> Self {
        Self { path: path.to_path_buf(), was_clean: !is_there(path, "-wal") && !is_there(path, "-shm") }
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        let path = &self.path;
        let holds_nothing = |suffix| fs::symlink_metadata(beside(path, suffix)).is_ok_and(|it| it.len() == 0);
        if !self.was_clean || !holds_nothing("-wal") || is_there(path, "-journal") {
            return;
        }
        // The last connection that is closed and may write removes them; SQLite sees to it that it is the last one.
        if let Ok(conn) = connection::open_unconfigured(path) {
            // The read makes SQLite open the WAL, also where it fails.
            let _ = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
        }
    }
}

fn is_there(path: &Path, suffix: &str) -> bool {
    fs::symlink_metadata(beside(path, suffix)).is_ok()
}
