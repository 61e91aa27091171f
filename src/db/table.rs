//! Writing only what changed, for a table of keyed rows and for a table of ordered list items.

use std::sync::OnceLock;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, Params, params_from_iter};

use super::RowReader;
use super::codec::value_ref;
use crate::error::Result;

/// A table whose first column is the key.
pub(crate) struct Table {
    name: &'static str,
    columns: &'static [&'static str],
    select: OnceLock<String>,
    insert: OnceLock<String>,
}

impl Table {
    pub(crate) const fn new(name: &'static str, columns: &'static [&'static str]) -> Self {
        Self { name, columns, select: OnceLock::new(), insert: OnceLock::new() }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Writes the row, given as one value for each column: inserts it, or updates the columns that differ.
    pub(crate) fn write(&self, conn: &Connection, values: &[ToSqlOutput<'_>]) -> Result<()> {
        let Self { name, columns, select, insert } = self;
        let key = columns[0];
        let mut select = conn.prepare_cached(select.get_or_init(|| self.select(&format!("WHERE {key} = ?1"))))?;
        let mut rows = select.query([&values[0]])?;
        let Some(row) = rows.next()? else {
            let insert = insert.get_or_init(|| insert_sql(name, *columns));
            conn.prepare_cached(insert)?.execute(params_from_iter(values))?;
            return Ok(());
        };
        let mut changed = Vec::new();
        for (index, value) in values.iter().enumerate() {
            if row.get_ref(index)? != value_ref(value) {
                changed.push(index);
            }
        }
        drop(rows);
        if !changed.is_empty() {
            let assignments: Vec<_> = changed.iter().map(|&index| format!("{} = ?", columns[index])).collect();
            let sql = format!("UPDATE {name} SET {} WHERE {key} = ?", assignments.join(", "));
            let parameters = changed.iter().map(|&index| &values[index]).chain([&values[0]]);
            conn.prepare_cached(&sql)?.execute(params_from_iter(parameters))?;
        }
        Ok(())
    }

    /// Deletes the row with that key; whether there was one.
    pub(crate) fn delete(&self, conn: &Connection, key: &str) -> Result<bool> {
        let sql = format!("DELETE FROM {} WHERE {} = ?1", self.name, self.columns[0]);
        Ok(conn.prepare_cached(&sql)?.execute([key])? > 0)
    }

    /// Reads the rows that the rest of a SELECT names, one after the other.
    pub(crate) fn read(
        &'static self,
        conn: &Connection,
        condition: &str,
        parameters: impl Params,
        each: impl FnMut(RowReader<'_>) -> Result<()>,
    ) -> Result<()> {
        self.reader(conn, condition)?.read(parameters, each)
    }

    /// What reads the rows that the rest of a SELECT names, for one set of parameters after the other.
    pub(crate) fn reader<'c>(&'static self, conn: &'c Connection, condition: &str) -> Result<TableReader<'c>> {
        Ok(TableReader { table: self, select: conn.prepare_cached(&self.select(condition))? })
    }

    fn select(&self, condition: &str) -> String {
        format!("SELECT {} FROM {} {condition}", self.columns.join(", "), self.name)
    }
}

/// A table of list items: the columns that name the list, `position` from 0, and the item's own columns.
pub(crate) struct List {
    table: &'static str,
    owner: &'static [&'static str],
    columns: &'static [&'static str],
    select: OnceLock<String>,
    insert: OnceLock<String>,
}

impl List {
    /// `owner` are the columns that name the list; none where the table holds a single one.
    pub(crate) const fn new(
        table: &'static str,
        owner: &'static [&'static str],
        columns: &'static [&'static str],
    ) -> Self {
        Self { table, owner, columns, select: OnceLock::new(), insert: OnceLock::new() }
    }

    /// Writes the list: items that differ are updated, further ones inserted, surplus ones deleted.
    pub(crate) fn write(&self, conn: &Connection, owner: &[&str], items: &[Vec<ToSqlOutput<'_>>]) -> Result<()> {
        let mut stored = 0;
        let mut changed = Vec::new();
        let mut contiguous = true;
        {
            let mut select = conn.prepare_cached(self.select())?;
            let mut rows = select.query(params_from_iter(owner))?;
            while let Some(row) = rows.next()? {
                contiguous &= row.get_ref(0)? == ValueRef::Integer(stored as i64);
                if let Some(item) = items.get(stored)
                    && !RowReader::of_list(row, self.table, self.columns, &[]).holds(item)?
                {
                    changed.push(stored);
                }
                stored += 1;
            }
        }
        if !contiguous {
            // Somebody deleted or moved items by hand: positions no longer tell which item is which.
            self.delete_from(conn, owner, i64::MIN)?;
            return self.insert(conn, owner, items, 0);
        }
        for index in changed {
            let assignments: Vec<_> = self.columns.iter().map(|column| format!("{column} = ?")).collect();
            let sql = format!("UPDATE {} SET {} WHERE {}", self.table, assignments.join(", "), self.is_item("="));
            let key = owner.iter().map(|value| super::text(value)).chain([super::integer(index as i64)]);
            conn.prepare_cached(&sql)?.execute(params_from_iter(items[index].iter().cloned().chain(key)))?;
        }
        if stored > items.len() {
            self.delete_from(conn, owner, items.len() as i64)?;
        }
        self.insert(conn, owner, items, stored)
    }

    /// What reads lists of this table, one after the other.
    pub(crate) fn reader<'c>(&'static self, conn: &'c Connection) -> Result<ListReader<'c>> {
        Ok(ListReader { list: self, select: conn.prepare_cached(self.select())? })
    }

    /// Writes a list of texts.
    pub(crate) fn write_texts(&self, conn: &Connection, owner: &[&str], items: &[String]) -> Result<()> {
        self.write(conn, owner, &items.iter().map(|item| vec![super::text(item)]).collect::<Vec<_>>())
    }

    fn insert(&self, conn: &Connection, owner: &[&str], items: &[Vec<ToSqlOutput<'_>>], from: usize) -> Result<()> {
        if from >= items.len() {
            return Ok(());
        }
        let columns = self.owner.iter().chain(&["position"]).chain(self.columns);
        let mut insert = conn.prepare_cached(self.insert.get_or_init(|| insert_sql(self.table, columns)))?;
        for (index, item) in items.iter().enumerate().skip(from) {
            let key = owner.iter().map(|value| super::text(value)).chain([super::integer(index as i64)]);
            insert.execute(params_from_iter(key.chain(item.iter().cloned())))?;
        }
        Ok(())
    }

    fn delete_from(&self, conn: &Connection, owner: &[&str], position: i64) -> Result<()> {
        let sql = format!("DELETE FROM {} WHERE {}", self.table, self.is_item(">="));
        let key = owner.iter().map(|value| super::text(value)).chain([super::integer(position)]);
        conn.prepare_cached(&sql)?.execute(params_from_iter(key))?;
        Ok(())
    }

    fn select(&self) -> &str {
        self.select.get_or_init(|| {
            let condition: Vec<_> = self.owner.iter().map(|column| format!("{column} = ?")).collect();
            let condition = if condition.is_empty() { "true".into() } else { condition.join(" AND ") };
            let columns = self.columns.join(", ");
            format!("SELECT position, {columns} FROM {} WHERE {condition} ORDER BY position", self.table)
        })
    }

    fn is_item(&self, comparison: &str) -> String {
        let owner: String = self.owner.iter().map(|column| format!("{column} = ? AND ")).collect();
        format!("{owner}position {comparison} ?")
    }
}

/// Reads rows of one table, by one prepared statement.
pub(crate) struct TableReader<'c> {
    table: &'static Table,
    select: CachedStatement<'c>,
}

impl TableReader<'_> {
    /// Reads the rows, one after the other.
    pub(crate) fn read(
        &mut self,
        parameters: impl Params,
        mut each: impl FnMut(RowReader<'_>) -> Result<()>,
    ) -> Result<()> {
        let Table { name, columns, .. } = self.table;
        let mut rows = self.select.query(parameters)?;
        while let Some(row) = rows.next()? {
            each(RowReader::of_table(row, name, columns))?;
        }
        Ok(())
    }
}

/// Reads lists of one table, by one prepared statement.
pub(crate) struct ListReader<'c> {
    list: &'static List,
    select: CachedStatement<'c>,
}

impl ListReader<'_> {
    /// Reads a list, one item after the other.
    pub(crate) fn read(&mut self, owner: &[&str], mut each: impl FnMut(RowReader<'_>) -> Result<()>) -> Result<()> {
        let List { table, columns, .. } = self.list;
        let mut rows = self.select.query(params_from_iter(owner))?;
        while let Some(row) = rows.next()? {
            each(RowReader::of_list(row, table, columns, owner))?;
        }
        Ok(())
    }

    /// Reads a list of texts.
    pub(crate) fn texts(&mut self, owner: &[&str]) -> Result<Vec<String>> {
        let mut items = Vec::new();
        self.read(owner, |mut row| {
            items.push(row.get()?);
            Ok(())
        })?;
        Ok(items)
    }
}

/// Inserts a row, given as one value for each of the columns.
pub(crate) fn insert_sql(table: &str, columns: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let columns: Vec<_> = columns.into_iter().collect();
    let names: Vec<&str> = columns.iter().map(AsRef::as_ref).collect();
    let marks = vec!["?"; names.len()].join(", ");
    format!("INSERT INTO {table} ({}) VALUES ({marks})", names.join(", "))
}
