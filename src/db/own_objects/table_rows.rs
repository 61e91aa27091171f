//! Copying the rows of a person's tables from one database to another.
//!
//! Of a damaged table, the rows that can be read from its beginning and from its end are copied, and the result says that some are
//! missing.

use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OptionalExtension, Statement, params_from_iter};

use super::compare::OwnObjects;
use super::released::SchemaEntry;
use super::sql::{key, list, quoted, stored_columns};
use crate::error::Result;

/// Copies the rows of a table, or the shadow tables of a virtual one. Returns whether all rows could be read.
pub(super) fn copy_table(
    source: &Connection,
    target: &Connection,
    theirs: &OwnObjects,
    table: &SchemaEntry,
) -> Result<bool> {
    if !table.is_virtual_table() {
        let is_whole = copy_rows(source, target, &table.name)?;
        copy_sequence(source, target, &table.name)?;
        return Ok(is_whole);
    }
    let mut is_whole = true;
    for (_, shadow) in theirs.shadows.iter().filter(|(owner, _)| *owner == table.name) {
        target.execute(&format!("DELETE FROM {}", quoted(shadow)), [])?;
        is_whole &= copy_rows(source, target, shadow)?;
    }
    Ok(is_whole)
}

/// Whether two databases have the same rows in a table, in the same order.
pub(super) fn has_same_rows(
    one: &Connection,
    other: &Connection,
    own: &OwnObjects,
    table: &SchemaEntry,
) -> Result<bool> {
    let shadows = own.shadows.iter().filter(|(owner, _)| *owner == table.name).map(|(_, shadow)| shadow);
    let tables: Vec<_> = if table.is_virtual_table() { shadows.collect() } else { vec![&table.name] };
    for table in tables {
        let sql = format!("SELECT * FROM {} NOT INDEXED", quoted(table));
        let (mut one, mut other) = (one.prepare(&sql)?, other.prepare(&sql)?);
        let number = one.column_count();
        if other.column_count() != number {
            return Ok(false);
        }
        let (mut one, mut other) = (one.query([])?, other.query([])?);
        loop {
            match (one.next()?, other.next()?) {
                (None, None) => break,
                (Some(one), Some(other)) => {
                    for index in 0..number {
                        if one.get_ref(index)? != other.get_ref(index)? {
                            return Ok(false);
                        }
                    }
                }
                _ => return Ok(false),
            }
        }
    }
    Ok(true)
}

/// Copies the rows of a table, from both ends where not all of them can be read. Returns whether they can.
fn copy_rows(source: &Connection, target: &Connection, table: &str) -> Result<bool> {
    let columns = stored_columns(target, table)?;
    let known = stored_columns(source, table)?;
    let mut columns: Vec<_> = columns.into_iter().filter(|column| known.contains(column)).collect();
    let key_columns = key(source, table)?;
    let is_without_rowid: bool =
        source.query_row("SELECT wr FROM pragma_table_list(?1) WHERE schema = 'main'", [table], |row| row.get(0))?;
    let rowid =
        ["rowid", "_rowid_", "oid"].into_iter().find(|name| !columns.iter().any(|it| it.eq_ignore_ascii_case(name)));
    let order = match rowid {
        Some(rowid) if !is_without_rowid => {
            columns.insert(0, rowid.to_owned());
            vec![rowid.to_owned()]
        }
        _ => key_columns,
    };
    let marks = vec!["?"; columns.len()].join(", ");
    let insert = format!("INSERT INTO {} ({}) VALUES ({marks})", quoted(table), list(&columns));
    let mut insert = target.prepare(&insert)?;
    let mut read = |direction: &str| -> Result<bool> {
        let order: Vec<_> = order.iter().map(|column| format!("{} {direction}", quoted(column))).collect();
        let order = if order.is_empty() { String::new() } else { format!("ORDER BY {}", order.join(", ")) };
        let sql = format!("SELECT {} FROM {} NOT INDEXED {order}", list(&columns), quoted(table));
        // Only from a damaged database: in another one every table can be asked.
        let Ok(mut select) = source.prepare(&sql) else { return Ok(false) };
        insert_all(&mut select, &mut insert, columns.len(), direction == "DESC")
    };
    Ok(read("ASC")? || {
        read("DESC")?;
        false
    })
}

/// Inserts the rows of a query, and returns whether it could be read to its end. From the other end, only up to a row that is there
/// already.
fn insert_all(
    select: &mut Statement<'_>,
    insert: &mut Statement<'_>,
    number: usize,
    from_the_end: bool,
) -> Result<bool> {
    let mut rows = select.query([])?;
    let mut is_whole = true;
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(is_whole),
            Err(_) => return Ok(false),
        };
        let values = (0..number).map(|index| row.get_ref(index).map(ToSqlOutput::Borrowed));
        let values = values.collect::<rusqlite::Result<Vec<_>>>()?;
        match insert.execute(params_from_iter(values)) {
            Ok(_) => {}
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                if from_the_end {
                    return Ok(false);
                }
                is_whole = false;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Copies the counter of an `AUTOINCREMENT` column.
fn copy_sequence(source: &Connection, target: &Connection, table: &str) -> Result<()> {
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = ?1";
    let Ok(Some(counted)) = source.query_row(sql, [table], |row| row.get::<_, i64>(0)).optional() else {
        return Ok(());
    };
    if target.execute("UPDATE sqlite_sequence SET seq = ?2 WHERE name = ?1", (table, counted))? == 0 {
        target.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)", (table, counted))?;
    }
    Ok(())
}
