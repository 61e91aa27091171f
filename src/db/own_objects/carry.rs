//! Keeping what a person added: across migrations, and from one database to another.
//!
//! The caller has a write transaction on the target, and commits. What cannot be kept is returned, with the SQL that makes it again;
//! only a full disk or a failed read or write is an error.

use rusqlite::Connection;

use super::apply::{alone, create, make, quietly};
use super::columns::{ColumnValues, by_table};
use super::compare::OwnObjects;
use super::left_out::{LeftOut, dump, reason};
use super::released::{ReleasedSchema, SchemaEntry};
use super::sql::quoted;
use super::table_rows::{copy_table, has_same_rows};
use crate::error::{Error, Result};

/// Objects that were taken out of a database before its migrations.
pub(in crate::db) struct TakenOut {
    /// Indexes, triggers and views, to be made again.
    entries: Vec<SchemaEntry>,
    columns: Vec<ColumnValues>,
    left_out: Vec<LeftOut>,
}

/// Takes out the objects of a person's that could conflict with migrations to these versions, or be lost by them.
pub(in crate::db) fn take_out(conn: &Connection, own: OwnObjects, later: &[&ReleasedSchema]) -> Result<TakenOut> {
    quietly(conn, || {
        let is_ours = |table: &str| later.iter().any(|it| it.has_relation(table));
        let mut taken = TakenOut { entries: Vec::new(), columns: Vec::new(), left_out: Vec::new() };
        for kind in ["trigger", "view", "index"] {
            // An index on a table of a person's own is in nobody's way.
            let in_the_way = |entry: &&SchemaEntry| {
                kind != "index" || is_ours(&entry.table) || later.iter().any(|it| it.has_name(&entry.name))
            };
            for entry in own.of_kind(kind).filter(in_the_way) {
                conn.execute(&format!("DROP {kind} IF EXISTS {}", quoted(&entry.name)), [])?;
                let reason = match later.iter().find(|it| it.has_name(&entry.name)) {
                    Some(version) => {
                        Some(format!("version {} of the schema has something of that name", version.version))
                    }
                    // It must not come to stand on a table of ours that has the name of the person's.
                    None => (own.has_relation(&entry.table) && is_ours(&entry.table))
                        .then(|| format!("{:?}, which it is on, could not stay, either", entry.table)),
                };
                if let Some(reason) = reason {
                    taken.left_out.push(LeftOut::new(entry, reason, format!("{};\n", entry.sql)));
                } else {
                    taken.entries.push(entry.clone());
                }
            }
        }
        for table in own.of_kind("table") {
            if let Some(version) = later.iter().find(|it| it.has_name(&table.name)) {
                let reason = format!("version {} of the schema has something of that name", version.version);
                taken.left_out.push(LeftOut::new(table, reason, dump(conn, table)?));
                conn.execute(&format!("DROP TABLE {}", quoted(&table.name)), [])?;
            }
        }
        for (table, columns) in by_table(&own.columns) {
            let values = ColumnValues::read(conn, &table, columns)?;
            for column in &values.columns {
                if let Some(version) = later.iter().find(|it| it.has_column(&table, &column.name)) {
                    let reason = format!("version {} of the schema has a column of that name", version.version);
                    taken.left_out.push(values.left_out(column, reason));
                    conn.execute(&format!("ALTER TABLE {} DROP COLUMN {}", quoted(&table), quoted(&column.name)), [])?;
                }
            }
            taken.columns.push(values);
        }
        Ok(taken)
    })
}

/// Restores what was taken out, after the migrations. Returns what could not be restored.
pub(in crate::db) fn bring_back(conn: &Connection, taken: TakenOut) -> Result<Vec<LeftOut>> {
    quietly(conn, || {
        let TakenOut { entries, columns, mut left_out } = taken;
        for values in &columns {
            values.bring(conn, &mut left_out)?;
        }
        make(conn, &entries, &mut left_out)?;
        Ok(left_out)
    })
}

/// The result of carrying a person's objects from one database to another.
#[derive(Default)]
pub(crate) struct Carried {
    /// What could not be carried over.
    pub(crate) left_out: Vec<LeftOut>,
    /// Tables of which rows could not be read.
    pub(crate) incomplete: Vec<String>,
}

/// Carries what a person added from one database of ours into another: tables with their rows, columns, indexes, views and triggers.
/// An object of that name in the other one is replaced, except that a column keeps its values. What cannot be read from a
/// damaged database is named.
pub(in crate::db) fn carry(source: (&Connection, &OwnObjects), target: (&Connection, &OwnObjects)) -> Result<Carried> {
    let ((source, theirs), (target, present)) = (source, target);
    let mut carried = Carried::default();
    if theirs.is_empty() {
        return Ok(carried);
    }
    quietly(target, || {
        // What both have alike stays as it is: this SQLite may lack a function that is needed to make it again.
        let alike = |entry: &SchemaEntry| present.entries.contains(entry) && theirs.entries.contains(entry);
        let is_replaced = |table: &str| {
            let of = |own: &OwnObjects| own.of_kind("table").any(|it| it.name == table && !alike(it));
            of(theirs) || of(present)
        };
        let stays = |entry: &SchemaEntry| alike(entry) && !is_replaced(&entry.table);
        // All else that names tables is made again at the end, so that it goes with none of them.
        for kind in ["trigger", "view", "index"] {
            for entry in present.of_kind(kind).filter(|entry| !stays(entry)) {
                target.execute(&format!("DROP {kind} IF EXISTS {}", quoted(&entry.name)), [])?;
            }
        }
        for table in theirs.of_kind("table") {
            let copied = alone(target, || {
                if !alike(table) {
                    if present.has_name(&table.name) {
                        target.execute(&format!("DROP TABLE IF EXISTS {}", quoted(&table.name)), [])?;
                    }
                    create(target, table)?;
                } else if has_same_rows(source, target, theirs, table)? {
                    return Ok(true);
                } else if !table.is_virtual_table() {
                    target.execute(&format!("DELETE FROM {}", quoted(&table.name)), [])?;
                }
                copy_table(source, target, theirs, table)
            });
            match copied {
                Ok(true) => {}
                Ok(false) => carried.incomplete.push(table.name.clone()),
                Err(error @ (Error::DiskFull { .. } | Error::Io { .. })) => return Err(error),
                Err(error) => {
                    let sql = dump(source, table)?;
                    carried.left_out.push(LeftOut::new(table, reason(&error), sql));
                }
            }
        }
        for (table, columns) in by_table(&theirs.columns) {
            match ColumnValues::read(source, &table, columns.clone()) {
                Ok(values) => values.bring(target, &mut carried.left_out)?,
                Err(error) => {
                    let values = ColumnValues { table, columns, identity: vec![], stored: vec![], rows: vec![] };
                    values.bring(target, &mut carried.left_out)?;
                    tracing::warn!(%error, table = values.table, "the values of added columns cannot be read");
                    carried.incomplete.push(values.table);
                }
            }
        }
        let named = |entry: &&SchemaEntry| !theirs.has_name(&entry.name);
        let entries = theirs.entries.iter().chain(present.entries.iter().filter(named));
        let entries: Vec<_> = entries.filter(|entry| !stays(entry)).cloned().collect();
        make(target, &entries, &mut carried.left_out)
    })?;
    Ok(carried)
}
