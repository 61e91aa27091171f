//! Keeps what a person added to the database out of our writes.
//!
//! A trigger of a person's on a table of ours would run inside our writes, and so would a reference to or from a table of ours, with
//! what it cascades. Where there is one, our writing connection switches all triggers and foreign keys off, and gets our own
//! triggers as temporary ones, which SQLite still runs, with others that cascade as our references do. A person's keep running in
//! a person's own connections. On any other database, this costs one look at SQLite's counter of schema changes.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ffi};

use super::migrations;
use super::migrations::LATEST_FINGERPRINT;
use super::own_objects::{ForeignKey, OwnObjects, SchemaEntry, foreign_keys, quoted};
use crate::error::{Error, Result};

/// What keeps a person's objects out of the writes of one connection.
#[derive(Default)]
pub(super) struct Shield(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    path: PathBuf,
    /// SQLite's counter of schema changes, as it was when the schema was looked at last.
    cookie: Option<i64>,
    /// The temporary triggers that are needed; none where nothing is in the way.
    triggers: Vec<String>,
    /// Whether there ever were any on this connection: a transaction that is rolled back may bring them back.
    was_up: bool,
    /// Indexes and columns that may refuse a write.
    obstacles: Vec<Obstacle>,
}

struct Obstacle {
    name: String,
    object: String,
    table: String,
    is_index: bool,
    is_unique: bool,
}

impl Shield {
    /// Prepares the connection for a write. To be called inside each transaction that writes, before anything is written.
    pub(super) fn raise(&self, conn: &Connection, path: &Path) -> Result<()> {
        let cookie = conn.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0))?;
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.cookie == Some(cookie) {
            // A transaction that was rolled back may have taken the triggers with it, or brought them back.
            return if !inner.was_up || is_up(conn, inner.triggers.len())? { Ok(()) } else { inner.set(conn) };
        }
        inner.look(conn, path)?;
        inner.set(conn)?;
        inner.cookie = Some(cookie);
        Ok(())
    }

    /// Names the object of a person's that made a write fail, where it was one.
    pub(super) fn explain(&self, error: Error) -> Error {
        let Error::Sqlite { path, source } = error else { return error };
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let objects = inner.reasons(&source);
        if objects.is_empty() {
            return Error::Sqlite { path, source };
        }
        Error::OwnObject { path: inner.path.clone(), objects, source }
    }
}

impl Inner {
    /// Looks at what a person added.
    fn look(&mut self, conn: &Connection, path: &Path) -> Result<()> {
        *self = Self { path: path.to_path_buf(), was_up: self.was_up, ..Self::default() };
        if fingerprint(conn)? == LATEST_FINGERPRINT {
            return Ok(());
        }
        let release = migrations::release();
        let schema = release.schema(release.latest_version(), path)?;
        let own = OwnObjects::find(conn, &schema)?;
        let is_ours = |table: &str| schema.has_relation(table);
        let has_trigger = own.entries.iter().any(|entry| entry.kind == "trigger" && is_ours(&entry.table));
        let has_reference = || -> Result<bool> {
            let added = foreign_keys(conn)?.into_iter().filter(|it| !schema.foreign_keys.contains(it));
            Ok(added.into_iter().any(|it| is_ours(&it.table) || is_ours(&it.parent)))
        };
        self.triggers = if !own.is_empty() && (has_trigger || has_reference()?) {
            let ours = schema.entries.iter().filter(|entry| entry.kind == "trigger").map(temporary);
            ours.chain(schema.foreign_keys.iter().enumerate().flat_map(|(n, key)| cascades(n, key))).collect()
        } else {
            Vec::new()
        };
        let indexes = own.entries.iter().filter(|entry| entry.kind == "index" && is_ours(&entry.table));
        let indexes = indexes.map(|it| Obstacle {
            name: it.name.clone(),
            object: format!("the index {:?} on {}", it.name, it.table),
            table: it.table.clone(),
            is_index: true,
            is_unique: it.sql.starts_with("CREATE UNIQUE"),
        });
        let columns = own.columns.iter().map(|it| Obstacle {
            name: it.name.clone(),
            object: format!("the column {:?} of {}", it.name, it.table),
            table: it.table.clone(),
            is_index: false,
            is_unique: false,
        });
        self.obstacles = indexes.chain(columns).collect();
        Ok(())
    }

    /// Makes the connection as it has to be.
    fn set(&mut self, conn: &Connection) -> Result<()> {
        if !self.triggers.is_empty() {
            self.was_up = true;
            self.up(conn)
        } else if self.was_up {
            down(conn)
        } else {
            Ok(())
        }
    }

    /// Switches triggers and foreign keys off and makes the temporary triggers.
    fn up(&self, conn: &Connection) -> Result<()> {
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
        drop_all(conn, &temporary_triggers(conn)?)?;
        for sql in &self.triggers {
            conn.execute_batch(sql)?;
        }
        Ok(())
    }

    /// What of a person's may be the reason for an error of SQLite, by the error's kind.
    fn reasons(&self, error: &rusqlite::Error) -> Vec<String> {
        let (code, message) = match error {
            rusqlite::Error::SqliteFailure(error, message) => (error.extended_code, message.as_deref()),
            rusqlite::Error::SqlInputError { error, msg, .. } => (error.extended_code, Some(msg.as_str())),
            _ => return Vec::new(),
        };
        let may_be: fn(&Obstacle) -> bool = match code {
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => |it| it.is_unique,
            ffi::SQLITE_CONSTRAINT_CHECK | ffi::SQLITE_CONSTRAINT_NOTNULL | ffi::SQLITE_CONSTRAINT_DATATYPE => {
                |it| !it.is_index
            }
            // A function that this SQLite does not have, or does not trust.
            ffi::SQLITE_ERROR => |_| true,
            _ => return Vec::new(),
        };
        let candidates: Vec<_> = self.obstacles.iter().filter(|it| may_be(it)).collect();
        // Which one it is, SQLite says only in words, and not always.
        let message = message.unwrap_or_default();
        let named = |it: &&&Obstacle| message.contains(it.name.as_str());
        let on_table = |it: &&&Obstacle| message.contains(&format!("{}.", it.table));
        let objects = |found: Vec<&&Obstacle>| found.into_iter().map(|it| it.object.clone()).collect::<Vec<_>>();
        let found =
            [objects(candidates.iter().filter(named).collect()), objects(candidates.iter().filter(on_table).collect())];
        found.into_iter().find(|it| !it.is_empty()).unwrap_or_else(|| objects(candidates.iter().collect()))
    }
}

/// The FNV-1a hash of a schema.
fn fingerprint(conn: &Connection) -> Result<u64> {
    let mut select = conn.prepare(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema
         WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND tbl_name NOT LIKE '\\_litestream\\_%' ESCAPE '\\' ORDER BY type, name",
    )?;
    let mut rows = select.query([])?;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    while let Some(row) = rows.next()? {
        for column in 0..4 {
            let text = row.get_ref(column)?.as_bytes_or_null().map_err(rusqlite::Error::from)?.unwrap_or_default();
            for byte in text.iter().chain(&[0xff]) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    Ok(hash)
}

/// Switches everything on again.
fn down(conn: &Connection) -> Result<()> {
    drop_all(conn, &temporary_triggers(conn)?)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
    Ok(())
}

fn is_up(conn: &Connection, number: usize) -> Result<bool> {
    let sql = "SELECT count(*) FROM temp.sqlite_schema WHERE type = 'trigger'";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, usize>(0))? == number)
}

/// A trigger of ours as a temporary one.
fn temporary(trigger: &SchemaEntry) -> String {
    trigger.sql.replacen("CREATE TRIGGER", "CREATE TEMP TRIGGER", 1)
}

/// Names of temporary triggers that do what a reference does begin so.
const CASCADE_PREFIX: &str = "cascade_of_reference_";

/// What a reference of ours does, as temporary triggers.
fn cascades(number: usize, key: &ForeignKey) -> Vec<String> {
    let ForeignKey { table, from, parent, to, on_update, on_delete } = key;
    let to = to.as_ref().unwrap_or(from);
    let (child, from, parent, to) = (quoted(table), quoted(from), quoted(parent), quoted(to));
    let mut triggers = Vec::new();
    if on_delete == "CASCADE" {
        triggers.push(format!(
            "CREATE TEMP TRIGGER {CASCADE_PREFIX}{number}_deleted AFTER DELETE ON {parent} BEGIN
               DELETE FROM {child} WHERE {from} = OLD.{to};
             END"
        ));
    }
    if on_update == "CASCADE" {
        triggers.push(format!(
            "CREATE TEMP TRIGGER {CASCADE_PREFIX}{number}_updated AFTER UPDATE OF {to} ON {parent} WHEN NEW.{to} IS NOT OLD.{to} BEGIN
               UPDATE {child} SET {from} = NEW.{to} WHERE {from} = OLD.{to};
             END"
        ));
    }
    triggers
}

/// The temporary triggers of a connection: names and SQL.
fn temporary_triggers(conn: &Connection) -> Result<Vec<(String, String)>> {
    let mut select = conn.prepare("SELECT name, sql FROM temp.sqlite_schema WHERE type = 'trigger'")?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn drop_all(conn: &Connection, triggers: &[(String, String)]) -> Result<()> {
    triggers.iter().try_for_each(|(name, _)| Ok(conn.execute_batch(&format!("DROP TRIGGER temp.{}", quoted(name)))?))
}

/// Runs `work` while no trigger of anybody fires on a connection, but those that do what references do.
pub(crate) fn without_triggers<T>(conn: &Connection, work: impl FnOnce() -> Result<T>) -> Result<T> {
    /// Switches them on again as they were, also after a panic.
    struct Back<'c>(&'c Connection, bool);
    impl Drop for Back<'_> {
        fn drop(&mut self) {
            if let Err(error) = self.0.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, self.1) {
                tracing::error!(%error, "could not switch triggers on again");
            }
        }
    }
    let back = Back(conn, conn.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER)?);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    let mut suspended = Vec::new();
    if !back.1 {
        suspended = temporary_triggers(conn)?;
        suspended.retain(|(name, _)| !name.starts_with(CASCADE_PREFIX));
        drop_all(conn, &suspended)?;
    }
    let result = work();
    // After an error, the transaction is rolled back, and the shield is raised again in the next one.
    if result.is_ok() {
        for (_, sql) in &suspended {
            conn.execute_batch(&sql.replacen("CREATE TRIGGER", "CREATE TEMP TRIGGER", 1))?;
        }
    }
    result
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_that_of_the_latest_schema() {
        let release = migrations::release();
        let fresh = release.fresh(release.latest_version(), Path::new("")).unwrap();
        let found = fingerprint(&fresh).unwrap();
        assert_eq!(found, LATEST_FINGERPRINT, "after a migration, LATEST_FINGERPRINT has to become {found:#018x}");
        fresh.execute_batch("ANALYZE").unwrap();
        assert_eq!(fingerprint(&fresh).unwrap(), LATEST_FINGERPRINT, "statistics are ordinary");
        fresh.execute_batch("CREATE VIEW mine AS SELECT 1").unwrap();
        assert_ne!(fingerprint(&fresh).unwrap(), LATEST_FINGERPRINT);
    }
}
