//! Columns that a person added to tables of ours, with their values.
//!
//! Values are kept in memory while a table is rebuilt or a database is copied, and are found again by what identifies a row: the columns
//! of a unique constraint, or the primary key. A column that cannot be added is left out, with its values.

use std::fmt::Write as _;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::apply::alone;
use super::compare::AddedColumn;
use super::left_out::{LeftOut, reason};
use super::sql::{columns, identity, list, literal, quoted, stored_columns};
use crate::error::Result;

/// The columns that a person added to one table of ours, with their values.
pub(super) struct ColumnValues {
    pub(super) table: String,
    pub(super) columns: Vec<AddedColumn>,
    /// The columns that identify a row.
    pub(super) identity: Vec<String>,
    /// Columns whose values are stored.
    pub(super) stored: Vec<String>,
    /// The identity, then the values.
    pub(super) rows: Vec<Vec<Value>>,
}

impl ColumnValues {
    pub(super) fn read(conn: &Connection, table: &str, columns: Vec<AddedColumn>) -> Result<Self> {
        let identity = identity(conn, table)?;
        let stored = stored_columns(conn, table)?;
        let stored: Vec<_> = columns.iter().map(|it| it.name.clone()).filter(|name| stored.contains(name)).collect();
        let mut values = Self { table: table.to_owned(), columns, identity, stored, rows: Vec::new() };
        if !values.stored.is_empty() {
            let list = list(values.identity.iter().chain(&values.stored));
            let is_set: Vec<_> = values.stored.iter().map(|column| format!("{} IS NOT NULL", quoted(column))).collect();
            let sql = format!("SELECT {list} FROM {} WHERE {}", quoted(table), is_set.join(" OR "));
            let mut select = conn.prepare(&sql)?;
            let number = select.column_count();
            let rows = select.query_map([], |row| (0..number).map(|index| row.get(index)).collect())?;
            // From a damaged database, as far as it can be read.
            values.rows = rows.map_while(rusqlite::Result::ok).collect();
        }
        Ok(values)
    }

    /// Adds the columns that are missing from the table and gives them their values by the rows' keys.
    pub(super) fn bring(&self, conn: &Connection, left_out: &mut Vec<LeftOut>) -> Result<()> {
        let present = columns(conn, &self.table)?;
        for column in &self.columns {
            if present.iter().any(|it| it.eq_ignore_ascii_case(&column.name)) {
                continue;
            }
            let alter = format!("ALTER TABLE {} ADD COLUMN {}", quoted(&self.table), column.definition);
            let added = alone(conn, || {
                conn.prepare(&alter)?.execute([])?;
                let Some(index) = self.stored.iter().position(|it| *it == column.name) else { return Ok(()) };
                let mut update = conn.prepare(&self.update(&column.name))?;
                for row in &self.rows {
                    let value = &row[self.identity.len() + index];
                    update.execute(params_from_iter([value].into_iter().chain(&row[..self.identity.len()])))?;
                }
                Ok(())
            });
            if let Err(error) = added {
                left_out.push(self.left_out(column, reason(&error)));
            }
        }
        Ok(())
    }

    fn update(&self, column: &str) -> String {
        let key: Vec<_> = self.identity.iter().map(|column| format!("{} = ?", quoted(column))).collect();
        format!("UPDATE {} SET {} = ? WHERE {}", quoted(&self.table), quoted(column), key.join(" AND "))
    }

    pub(super) fn left_out(&self, column: &AddedColumn, reason: String) -> LeftOut {
        let mut sql = format!("ALTER TABLE {} ADD COLUMN {};\n", quoted(&self.table), column.definition);
        if let Some(index) = self.stored.iter().position(|it| *it == column.name) {
            for row in &self.rows {
                let (key, values) = row.split_at(self.identity.len());
                let condition = self.identity.iter().zip(key);
                let condition: Vec<_> = condition
                    .map(|(column, value)| format!("{} = {}", quoted(column), literal(value.into())))
                    .collect();
                let (table, name) = (quoted(&self.table), quoted(&column.name));
                let value = literal((&values[index]).into());
                let _ = writeln!(sql, "UPDATE {table} SET {name} = {value} WHERE {};", condition.join(" AND "));
            }
        }
        LeftOut { object: format!("column {:?} of table {}", column.name, self.table), reason, sql }
    }
}

pub(super) fn by_table(columns: &[AddedColumn]) -> Vec<(String, Vec<AddedColumn>)> {
    let mut tables: Vec<(String, Vec<AddedColumn>)> = Vec::new();
    for column in columns {
        match tables.iter_mut().find(|(table, _)| *table == column.table) {
            Some((_, columns)) => columns.push(column.clone()),
            None => tables.push((column.table.clone(), vec![column.clone()])),
        }
    }
    tables
}
