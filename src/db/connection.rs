//! Opening connections: how they are opened, and the settings that each one gets and why.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use super::deadline::{BUSY_TIMEOUT, wait_for_locks};
use crate::error::{Error, Result};

/// What is still there after the power fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Every update that returned (`synchronous=FULL`).
    #[default]
    Full,
    /// After a killed process every update that returned; after a power cut the updates up to some recent moment
    /// (`synchronous=NORMAL`). The database stays whole either way.
    Normal,
}

// SQLITE_OPEN_NOFOLLOW: a link in place of the database would lead writes elsewhere. No CREATE: a missing database is
// made on purpose or not at all. No URI: a path that begins with `file:` is a path.
const COMMON: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX.union(OpenFlags::SQLITE_OPEN_NOFOLLOW);

/// How connections of the reading pool are opened.
pub(super) const READ_ONLY: OpenFlags = OpenFlags::SQLITE_OPEN_READ_ONLY.union(COMMON);

/// Prepared statements kept per connection: all of a store's, with room for the column sets of updates.
const STATEMENT_CACHE: usize = 256;

/// The WAL file is truncated to this size once all of it has been checkpointed.
const JOURNAL_SIZE_LIMIT: i64 = 16 * 1024 * 1024;

/// What SQL may need at most: that of a database file is somebody else's, too. Ours needs less than a half of each. What is looked at
/// while a schema is read has SQLite's own limit: a table or view of a person's beyond another one would keep us from opening the
/// database.
const LIMITS: [(Limit, i32); 10] = [
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 1_000_000),
    (Limit::SQLITE_LIMIT_COLUMN, 2000),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 1000),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 500),
    (Limit::SQLITE_LIMIT_VDBE_OP, 50_000),
    (Limit::SQLITE_LIMIT_FUNCTION_ARG, 50),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 100),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 20),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// Opens an existing database for writing; nothing is written yet.
pub(super) fn open_writer(path: &Path) -> Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | COMMON)?;
    set_common(&conn)?;
    Ok(conn)
}

/// Opens an existing database for writing, with SQLite's own settings and without waiting for anybody.
pub(super) fn open_unconfigured(path: &Path) -> Result<Connection> {
    Ok(Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | COMMON)?)
}

/// Opens an existing database for reading.
pub(super) fn open_reader(path: &Path) -> Result<Connection> {
    let conn = Connection::open_with_flags(path, READ_ONLY)?;
    configure_reader(&conn)?;
    Ok(conn)
}

/// Opens a damaged database to read what can be read; nothing is written, and a schema that cannot be read as a whole is read as
/// far as it can.
pub(crate) fn open_damaged(path: &Path) -> Result<Connection> {
    let conn = Connection::open_with_flags(path, READ_ONLY)?;
    wait_for_locks(&conn)?;
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    for (pragma, value) in [("writable_schema", 1), ("query_only", 1), ("trusted_schema", 0), ("cell_size_check", 1)] {
        conn.pragma_update(None, pragma, value)?;
    }
    Ok(conn)
}

/// Settings of a connection that writes. Not inside a transaction.
pub(super) fn configure_writer(conn: &Connection, durability: Durability) -> Result<()> {
    enter_wal(conn)?;
    let synchronous = match durability {
        Durability::Full => 2,
        Durability::Normal => 1,
    };
    set(conn, "synchronous", synchronous)?;
    set(conn, "journal_size_limit", JOURNAL_SIZE_LIMIT)?;
    // What a statement would undo alone, should it fail, is kept in memory: in a file, each row of an import would write
    // its pages there once more, and the file would lie outside the state directory.
    set(conn, "temp_store", 2)?;
    // What is deleted is overwritten, so that no text stays behind in free space. An update costs no byte more by that.
    set(conn, "secure_delete", 1)?;
    set(conn, "foreign_keys", 1)
}

/// Runs `work` without overwriting the pages that it frees, which stay in the free list; free space inside other pages is
/// overwritten all the same. For what frees many pages and is followed by others that use them again or give them back.
pub(crate) fn without_erasing_pages<T>(conn: &Connection, work: impl FnOnce() -> Result<T>) -> Result<T> {
    /// Overwrites again, also after a panic.
    struct Erase<'c>(&'c Connection);
    impl Drop for Erase<'_> {
        fn drop(&mut self) {
            if let Err(error) = set(self.0, "secure_delete", 1) {
                tracing::error!(%error, "could not switch secure_delete on again");
            }
        }
    }
    conn.pragma_update(None, "secure_delete", "fast")?;
    let _erase = Erase(conn);
    work()
}

/// Settings of a connection that only reads.
pub(super) fn configure_reader(conn: &Connection) -> Result<()> {
    set_common(conn)?;
    set(conn, "query_only", 1)
}

fn set_common(conn: &Connection) -> Result<()> {
    wait_for_locks(conn)?;
    conn.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    // A database file may come from anywhere: its schema may not call functions with side effects, damaged cells are
    // found when they are read, and double-quoted strings do not hide misspelt columns.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    for (limit, most) in LIMITS {
        conn.set_limit(limit, most)?;
    }
    // A damaged file read through a memory map would kill the process. (SQLite has none by default.)
    set(conn, "mmap_size", 0)?;
    set(conn, "trusted_schema", 0)?;
    set(conn, "cell_size_check", 1)
}

/// Rebuilds a database (`VACUUM`), with a setting that takes effect by that.
pub(super) fn vacuum(conn: &Connection, set: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
    set(conn)?;
    // VACUUM attaches what it writes, and that is too much for memory.
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
    let temp_store: i64 = conn.pragma_query_value(None, "temp_store", |row| row.get(0))?;
    self::set(conn, "temp_store", 1)?;
    let written = conn.execute_batch("VACUUM");
    self::set(conn, "temp_store", temp_store)?;
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    Ok(written?)
}

/// Sets a pragma and reads it back: SQLite accepts a misspelt one without a word.
fn set(conn: &Connection, pragma: &str, value: i64) -> Result<()> {
    conn.pragma_update(None, pragma, value)?;
    let found: i64 = conn.pragma_query_value(None, pragma, |row| row.get(0))?;
    if found == value { Ok(()) } else { Err(refused(pragma, &found.to_string())) }
}

/// Switches to the write-ahead log. The busy time-out does not cover this step, so it is retried here.
fn enter_wal(conn: &Connection) -> Result<()> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match set_journal_mode(conn, "wal") {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => return Err(refused("journal_mode", &mode)),
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Switches the journal mode; the mode that it is then. SQLite names the new one first and commits afterwards: only who
/// goes on to the statement's end learns that the switch failed.
pub(super) fn set_journal_mode(conn: &Connection, mode: &str) -> rusqlite::Result<String> {
    let mut switch = conn.prepare(&format!("PRAGMA journal_mode = {mode}"))?;
    let modes = switch.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    modes.into_iter().next_back().ok_or(rusqlite::Error::QueryReturnedNoRows)
}

fn refused(pragma: &str, found: &str) -> Error {
    Error::InvalidValue { record: format!("setting {pragma}"), detail: format!("SQLite kept {found}") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_database_file_from_elsewhere_can_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("from-elsewhere.db");
        let theirs = Connection::open(&path).unwrap();
        theirs
            .execute_batch(
                "CREATE TABLE t (a); INSERT INTO t VALUES (1);
                 CREATE VIEW looks AS SELECT name FROM pragma_table_list;
                 CREATE TRIGGER fires AFTER UPDATE ON t BEGIN SELECT name FROM pragma_table_list; END;
                 PRAGMA recursive_triggers = on; PRAGMA mmap_size = 1000000; PRAGMA writable_schema = on",
            )
            .unwrap();
        // It works where the file is trusted.
        theirs.execute_batch("UPDATE t SET a = 2; SELECT * FROM looks").unwrap();
        drop(theirs);
        for is_writer in [true, false] {
            let conn = if is_writer {
                let conn = open_writer(&path).unwrap();
                configure_writer(&conn, Durability::Full).unwrap();
                conn
            } else {
                open_reader(&path).unwrap()
            };
            let mut refused = vec![
                ("SELECT * FROM looks", "unsafe use of virtual table"),
                ("ATTACH ':memory:' AS other", "too many attached databases"),
                ("SELECT \"no such column\"", "no such column"),
                ("SELECT load_extension('x')", "not authorized"),
                ("SELECT sum(1, 2", "incomplete input"),
                ("UPDATE sqlite_schema SET sql = 'x'", "may not be modified"),
            ];
            if is_writer {
                refused.push(("UPDATE t SET a = 3", "unsafe use of virtual table"));
                refused
                    .push(("PRAGMA writable_schema = on; UPDATE sqlite_schema SET sql = 'x'", "may not be modified"));
            } else {
                refused.push(("DELETE FROM t", "readonly database"));
                refused.push(("INSERT INTO t SELECT 1", "readonly database"));
            }
            let deep = format!("SELECT 1{}", " + 1".repeat(1200));
            let wide = format!("SELECT 1{}", ", 1".repeat(2100));
            let many = format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(600));
            let long = format!("SELECT '{}'", "x".repeat(1_000_000));
            refused.extend([(&*deep, "Expression tree is too large"), (&*wide, "too many columns")]);
            refused.extend([(&*many, "too many terms"), (&*long, "too long")]);
            for (sql, reason) in refused {
                let error = conn.execute_batch(sql).unwrap_err().to_string();
                assert!(error.contains(reason), "{}: {error}", &sql[..sql.len().min(80)]);
            }
            for (limit, most) in LIMITS {
                assert_eq!(conn.limit(limit).unwrap(), most);
            }
            assert!(conn.db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE).unwrap());
            for (pragma, value) in
                [("trusted_schema", 0), ("cell_size_check", 1), ("mmap_size", 0), ("recursive_triggers", 0)]
            {
                let found: i64 = conn.pragma_query_value(None, pragma, |row| row.get(0)).unwrap();
                assert_eq!(found, value, "{pragma}");
            }
        }
        // Nor does a link lead anywhere.
        let link = path.with_file_name("link.db");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(open_writer(&link).is_err() && open_reader(&link).is_err());
    }
}
