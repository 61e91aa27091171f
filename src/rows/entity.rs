//! What every kind of entity has, and what is done alike for all of them.

use rusqlite::{Connection, Params};
use serde::Serialize;

use crate::db::Table;
use crate::error::Result;
use crate::model::{EntityKind, OrchestratorState, Record};

/// Calls a closure for each entity that a query reads.
pub(crate) type Each<'e, T> = &'e mut dyn FnMut(T) -> Result<()>;

/// An entity in its tables.
///
/// The functions take a connection and open no transaction: that is up to their caller.
pub(crate) trait Entity: Record + Serialize + PartialEq + 'static {
    const KIND: EntityKind;
    /// The order of the document.
    const ORDER: &'static str = "ORDER BY position";
    /// The conditions on the table that a list can be limited by.
    const FILTERS: Filters;

    /// The table with one row for each entity, whose first column is the key.
    fn table() -> &'static Table<Self>;

    /// Its key; empty for a kind of which there is at most one.
    fn key(&self) -> &str;

    /// What is wrong with it as far as callers of the library are concerned, if anything.
    fn problem(&self) -> Option<String> {
        if !Self::KIND.is_single() && self.key().is_empty() {
            return Some("its key is empty".to_owned());
        }
        self.misplaced_key().or_else(|| self.own_problem())
    }

    /// The part of it that only this kind has.
    fn own_problem(&self) -> Option<String> {
        None
    }

    /// How many messages are a part of it.
    fn messages(&self) -> u64 {
        0
    }

    /// Writes it, new or known: the rows that differ.
    fn write(&self, conn: &Connection) -> Result<()>;

    /// Reads the entities that the rest of a SELECT names, in its order.
    fn read(conn: &Connection, rest: &str, parameters: impl Params, each: Each<'_, Self>) -> Result<()>;

    /// Puts all entities of the kind into a state.
    fn put(entities: Vec<Self>, state: &mut OrchestratorState);

    /// The tables that hold it, each with its columns in the order of statements.
    #[cfg(test)]
    fn tables() -> Vec<(&'static str, Vec<&'static str>)>;

    /// One with every field set, each to another value. Written without `..`, so that a further field does not compile until
    /// it is there, too.
    #[cfg(test)]
    fn full() -> Self;

    /// Reads the one with that key.
    fn find(conn: &Connection, key: &str) -> Result<Option<Self>> {
        let rest = format!("WHERE {} = ?1", Self::table().key());
        first(|each| Self::read(conn, &rest, [key], each))
    }

    /// Removes the one with that key and whatever belongs to it; returns whether there was one.
    fn remove(conn: &Connection, key: &str) -> Result<bool> {
        Self::table().delete(conn, key)
    }
}

/// The SQL conditions of a kind, for what a list can be limited by; `None` where the kind does not have it.
pub(crate) struct Filters {
    pub(crate) status: Option<&'static str>,
    pub(crate) project: Option<&'static str>,
    pub(crate) agent: Option<&'static str>,
    pub(crate) since: Option<&'static str>,
    /// The time of the last activity, in seconds since 1970.
    pub(crate) activity: Option<&'static str>,
}

/// What of a kind may be removed once it is old. The conditions are SQL; `?1` is the time, in seconds since 1970.
pub(crate) struct Removable {
    pub(super) condition: &'static str,
    /// How many messages one has.
    pub(super) messages: &'static str,
    /// About how many bytes one takes.
    pub(super) bytes: &'static str,
}

/// Reads all entities of a kind, in the order of the document.
pub(crate) fn each<E: Entity>(conn: &Connection, each: Each<'_, E>) -> Result<()> {
    E::read(conn, E::ORDER, [], each)
}

/// All entities of a kind, in the order of the document.
pub(crate) fn all<E: Entity>(conn: &Connection) -> Result<Vec<E>> {
    collect(|found| each(conn, found))
}

/// All that a function reads.
pub(crate) fn collect<T>(read: impl FnOnce(Each<'_, T>) -> Result<()>) -> Result<Vec<T>> {
    let mut found = Vec::new();
    read(&mut |entity| {
        found.push(entity);
        Ok(())
    })?;
    Ok(found)
}

/// The first that a function reads.
pub(crate) fn first<T>(read: impl FnOnce(Each<'_, T>) -> Result<()>) -> Result<Option<T>> {
    Ok(collect(read)?.into_iter().next())
}

/// Number of entities of a kind.
pub(crate) fn count<E: Entity>(conn: &Connection) -> Result<u64> {
    Ok(conn.query_row(&format!("SELECT count(*) FROM {}", E::table().name()), [], |row| row.get(0))?)
}

/// Removes all entities of a kind.
pub(crate) fn clear<E: Entity>(conn: &Connection) -> Result<()> {
    conn.execute(&format!("DELETE FROM {}", E::table().name()), [])?;
    Ok(())
}

/// The keys that begin with a text, in order.
pub(crate) fn keys<E: Entity>(conn: &Connection, prefix: &str, limit: u32) -> Result<Vec<String>> {
    if E::KIND.is_single() {
        return Ok(Vec::new());
    }
    let (table, key) = (E::table().name(), E::table().key());
    // From the text on, as long as it is the beginning: the index on the key gives them in order.
    let sql = format!(
        "SELECT {key} FROM {table} WHERE {key} >= ?1 AND substr({key}, 1, length(?1)) = ?1 ORDER BY {key} LIMIT ?2"
    );
    let mut select = conn.prepare_cached(&sql)?;
    let rows = select.query_map((prefix, limit), |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Keys that this release does not know, for a record in a test.
#[cfg(test)]
pub(super) fn unknown(name: &str) -> crate::model::Extra {
    [("unknown".to_owned(), name.into())].into_iter().collect()
}
