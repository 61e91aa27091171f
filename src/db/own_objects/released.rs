//! What a schema holds, and the schema of a released version. It is read only.

use std::collections::HashMap;

use rusqlite::Connection;

use super::sql::{columns, starts_with};
use crate::error::Result;

/// A row of `sqlite_schema`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::db) struct SchemaEntry {
    /// table | index | trigger | view
    pub(in crate::db) kind: String,
    pub(in crate::db) name: String,
    /// The table or view that it belongs to; its own name for those.
    pub(in crate::db) table: String,
    /// The SQL that made it; empty for the index of a constraint.
    pub(in crate::db) sql: String,
}

impl SchemaEntry {
    /// Whether this is made by the same SQL. The shell's `.dump` adds a newline to some, or takes one away.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        (&self.kind, &self.name, &self.table, self.sql.trim_end())
            == (&other.kind, &other.name, &other.table, other.sql.trim_end())
    }

    pub(super) fn is_virtual_table(&self) -> bool {
        self.kind == "table" && starts_with(&self.sql, "CREATE VIRTUAL TABLE")
    }
}

/// A reference from one table to another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::db) struct ForeignKey {
    pub(in crate::db) table: String,
    pub(in crate::db) from: String,
    pub(in crate::db) parent: String,
    pub(in crate::db) to: Option<String>,
    pub(in crate::db) on_update: String,
    pub(in crate::db) on_delete: String,
}

/// The schema of one version, as the migrations make it.
pub(in crate::db) struct ReleasedSchema {
    pub(in crate::db) version: u32,
    pub(in crate::db) entries: Vec<SchemaEntry>,
    pub(in crate::db) foreign_keys: Vec<ForeignKey>,
    /// The columns of each table.
    columns: HashMap<String, Vec<String>>,
}

impl ReleasedSchema {
    /// Reads the schema of a database that the migrations have just made.
    pub(in crate::db) fn read(version: u32, fresh: &Connection) -> Result<Self> {
        let entries = entries(fresh)?;
        let tables = entries.iter().filter(|entry| entry.kind == "table");
        let columns = tables.map(|table| Ok((table.name.clone(), columns(fresh, &table.name)?)));
        let columns = columns.collect::<Result<_>>()?;
        Ok(Self { version, foreign_keys: foreign_keys(fresh)?, columns, entries })
    }

    /// Whether a table or view of that name is ours.
    pub(in crate::db) fn has_relation(&self, name: &str) -> bool {
        self.entries.iter().any(|it| matches!(&*it.kind, "table" | "view") && it.name.eq_ignore_ascii_case(name))
    }

    pub(super) fn has_name(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name.eq_ignore_ascii_case(name))
    }

    pub(in crate::db) fn has_column(&self, table: &str, column: &str) -> bool {
        self.columns.get(table).is_some_and(|columns| columns.iter().any(|it| it.eq_ignore_ascii_case(column)))
    }
}

/// Everything in a schema, in the order in which it was made; without what Litestream adds.
pub(super) fn entries(conn: &Connection) -> Result<Vec<SchemaEntry>> {
    let mut select = conn.prepare(
        "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema
         WHERE tbl_name NOT LIKE '\\_litestream\\_%' ESCAPE '\\' ORDER BY rowid",
    )?;
    let rows = select.query_map([], |row| {
        Ok(SchemaEntry { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// All references between tables.
pub(in crate::db) fn foreign_keys(conn: &Connection) -> Result<Vec<ForeignKey>> {
    let mut select = conn.prepare(
        "SELECT lower(s.name), lower(f.\"from\"), lower(f.\"table\"), lower(f.\"to\"), f.on_update, f.on_delete
         FROM sqlite_schema s JOIN pragma_foreign_key_list(s.name) f WHERE s.type = 'table'",
    )?;
    let rows = select.query_map([], |row| {
        Ok(ForeignKey {
            table: row.get(0)?,
            from: row.get(1)?,
            parent: row.get(2)?,
            to: row.get(3)?,
            on_update: row.get(4)?,
            on_delete: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// A table, index, trigger or view: its kind, its name, and the SQL that made it.
pub(in crate::db) type SchemaObject = (String, String, String);

/// Everything that a schema defines, by kind and name; without what Litestream adds.
pub(in crate::db) fn schema(conn: &Connection) -> Result<Vec<SchemaObject>> {
    let mut objects: Vec<_> = entries(conn)?.into_iter().map(|entry| (entry.kind, entry.name, entry.sql)).collect();
    objects.sort();
    Ok(objects)
}
