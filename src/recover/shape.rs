//! What the tables of a damaged database are like: their columns, keys and owners, and reading values that may be damaged.

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row};

use crate::check::is_read_failure;
use crate::error::{Error, Result};

/// A value of a key. In the order of SQLite: numbers before texts, texts by their bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Integer(i64),
    Text(String),
}

impl Key {
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(number) => Some(Self::Integer(*number)),
            Value::Text(text) => Some(Self::Text(text.clone())),
            _ => None,
        }
    }

    pub(super) fn value(&self) -> Value {
        match self {
            Self::Integer(number) => Value::Integer(*number),
            Self::Text(text) => Value::Text(text.clone()),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

pub(super) type RowKey = Vec<Key>;

/// The owner of a table's rows.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) table: String,
    /// The column that names it.
    pub(super) from: String,
    /// Its own column with that name.
    pub(super) to: String,
}

/// A table as it is made by the migrations.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) name: String,
    pub(super) columns: Vec<String>,
    pub(super) types: Vec<Type>,
    /// Columns by which rows are ordered: `rowid`, or those of the primary key.
    pub(super) order: Vec<String>,
    pub(super) has_rowid: bool,
    /// Columns that name a row for people and for other tables, which may be others than its primary key.
    pub(super) identity: Vec<String>,
    /// The index over them, where that is another tree than the table itself.
    pub(super) index: Option<String>,
    /// An index that holds all columns of a table without row numbers.
    pub(super) covering: Option<String>,
    pub(super) owner: Option<Owner>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Integer,
    Real,
    Text,
}

impl Shape {
    /// Columns of the primary key.
    pub(super) fn key(&self) -> &[String] {
        if self.has_rowid { &self.identity } else { &self.order }
    }

    /// The columns that name a list that a row is an item of; `None` where it is none. Items are numbered from 0.
    pub(super) fn list(&self) -> Option<&[String]> {
        let key = if self.has_rowid { self.identity.as_slice() } else { self.order.as_slice() };
        let is_list = self.name != "messages" && (!self.has_rowid || self.name.starts_with("self_improvement_"));
        key.split_last().filter(|(last, _)| is_list && *last == "position").map(|(_, list)| list)
    }

    /// Whether rows are named by numbers that only this table knows.
    pub(super) fn is_numbered(&self) -> bool {
        self.has_rowid && self.index.is_none()
    }

    pub(super) fn has_type(&self, column: usize, value: &Value) -> bool {
        matches!(
            (self.types[column], value),
            (_, Value::Null)
                | (Type::Integer, Value::Integer(_))
                | (Type::Real, Value::Integer(_) | Value::Real(_))
                | (Type::Text, Value::Text(_))
        )
    }

    pub(super) fn indexes_of(&self, columns: &[String]) -> Vec<usize> {
        columns.iter().filter_map(|column| self.columns.iter().position(|it| it == column)).collect()
    }

    /// The identity in a row of all columns.
    pub(super) fn identity_in(&self, row: &[Value]) -> Option<RowKey> {
        self.indexes_of(&self.identity).into_iter().map(|index| Key::of(row.get(index)?)).collect()
    }
}

/// The tables of a database that hold what is to be kept, owners before what they own.
pub(super) fn shapes(conn: &Connection) -> Result<Vec<Shape>> {
    // Made anew: the history of migrations, the search index, and what belongs to the file that is gone.
    const DERIVED: &[&str] = &[
        "refinery_schema_history",
        "message_index_progress",
        "messages_to_index",
        "changes_since_checkpoint",
        "export",
        "backup",
    ];
    let sql = "SELECT t.name, t.wr FROM pragma_table_list t JOIN sqlite_schema s ON s.name = t.name
               WHERE t.schema = 'main' AND t.type = 'table' AND t.name NOT LIKE 'sqlite_%' ORDER BY s.rowid";
    let mut select = conn.prepare(sql)?;
    let tables = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let tables: Vec<(String, bool)> = tables.collect::<rusqlite::Result<_>>()?;
    let tables = tables.into_iter().filter(|(name, _)| !DERIVED.contains(&name.as_str()));
    tables.map(|(name, is_without_rowid)| shape(conn, name, !is_without_rowid)).collect()
}

fn shape(conn: &Connection, name: String, has_rowid: bool) -> Result<Shape> {
    let texts = |sql: &str, parameter: &str| -> rusqlite::Result<Vec<String>> {
        conn.prepare(sql)?.query_map([parameter], |row| row.get(0))?.collect()
    };
    let columns = texts("SELECT name FROM pragma_table_info(?1)", &name)?;
    let types = texts("SELECT type FROM pragma_table_info(?1)", &name)?.into_iter();
    let types = types.map(|it| match it.as_str() {
        "INTEGER" => Type::Integer,
        "REAL" => Type::Real,
        _ => Type::Text,
    });
    let types = types.collect();
    let key = texts("SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk", &name)?;
    let index = texts("SELECT name FROM pragma_index_list(?1) WHERE \"unique\" AND origin IN ('u', 'pk')", &name)?;
    let index = index.into_iter().next().filter(|_| has_rowid);
    let identity = match &index {
        Some(index) => texts("SELECT name FROM pragma_index_info(?1) ORDER BY seqno", index)?,
        None => key.clone(),
    };
    let mut covering = None;
    if !has_rowid {
        for index in texts("SELECT name FROM pragma_index_list(?1) WHERE origin = 'c' AND NOT partial", &name)? {
            let held = texts("SELECT name FROM pragma_index_xinfo(?1) WHERE name NOT NULL", &index)?;
            if columns.iter().all(|column| held.contains(column)) {
                covering = Some(index);
            }
        }
    }
    let sql = "SELECT \"table\", \"from\", coalesce(\"to\", \"from\") FROM pragma_foreign_key_list(?1)";
    let mut select = conn.prepare(sql)?;
    let owners =
        select.query_map([&name], |row| Ok(Owner { table: row.get(0)?, from: row.get(1)?, to: row.get(2)? }))?;
    let owner = owners.collect::<rusqlite::Result<Vec<_>>>()?.pop();
    let order = if has_rowid { vec!["rowid".to_owned()] } else { key };
    Ok(Shape { name, columns, types, order, has_rowid, identity, index, covering, owner })
}

/// The table whose rows own those of a table in the end, and their column with that name.
pub(super) fn root<'s>(shapes: impl Iterator<Item = &'s Shape> + Clone, shape: &'s Shape) -> Option<&'s Owner> {
    let owner = shape.owner.as_ref()?;
    let its_shape = shapes.clone().find(|shape| shape.name == owner.table);
    its_shape.and_then(|shape| root(shapes, shape)).or(Some(owner))
}

/// The result of reading, `None` where damage prevents it; an error where the disk failed.
pub(super) fn is_damage<T>(read: rusqlite::Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if is_read_failure(&error) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// As [`is_damage`], for what returns this library's errors.
pub(super) fn unless_damaged<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(Error::Sqlite { source, .. }) => is_damage(Err(source)),
        other => other.map(Some),
    }
}

/// The first values of a row, and whether in one of them bytes that are no text were replaced.
pub(super) fn values(row: &Row<'_>, number: usize) -> rusqlite::Result<(Vec<Value>, bool)> {
    let mut is_mended = false;
    let mut value = |index| {
        Ok(match row.get_ref(index)? {
            ValueRef::Text(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                is_mended |= matches!(text, std::borrow::Cow::Owned(_));
                Value::Text(text.into_owned())
            }
            other => other.try_into()?,
        })
    };
    let values = (0..number).map(&mut value).collect::<rusqlite::Result<_>>()?;
    Ok((values, is_mended))
}

pub(super) fn exists_sql(shape: &Shape) -> String {
    let condition: Vec<_> = shape.identity.iter().map(|column| format!("{column} = ?")).collect();
    format!("SELECT 1 FROM {} WHERE {}", shape.name, condition.join(" AND "))
}
