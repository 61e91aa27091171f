//! How values stand in columns: enumerations and timestamps as their text, JSON as its text, booleans as 0 and 1.

use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, Value, ValueRef};
use serde_json::Map;

use crate::error::{Error, Result};
use crate::json;

/// What a column is to hold.
pub(crate) type Stored<'a> = Result<ToSqlOutput<'a>>;

pub(crate) fn text(value: &str) -> Stored<'_> {
    Ok(ToSqlOutput::Borrowed(ValueRef::Text(value.as_bytes())))
}

pub(crate) fn optional_text<'a>(value: Option<&'a str>) -> Stored<'a> {
    value.map_or(NULL, text)
}

/// A text that was made for the column.
pub(crate) fn optional_owned(value: Option<String>) -> Stored<'static> {
    value.map_or(NULL, |text| Ok(ToSqlOutput::Owned(Value::Text(text))))
}

pub(crate) fn integer(value: i64) -> Stored<'static> {
    Ok(ToSqlOutput::Owned(Value::Integer(value)))
}

pub(crate) fn optional_integer(value: Option<i64>) -> Stored<'static> {
    value.map_or(NULL, integer)
}

pub(crate) fn real(value: f64) -> Stored<'static> {
    Ok(ToSqlOutput::Owned(Value::Real(value)))
}

pub(crate) fn boolean(value: bool) -> Stored<'static> {
    integer(value.into())
}

pub(crate) fn optional_boolean(value: Option<bool>) -> Stored<'static> {
    value.map_or(NULL, boolean)
}

/// Keys that this release does not know, as JSON text; NULL where there are none.
pub(crate) fn unknown_keys<'a>(object: impl Into<Option<&'a Map<String, serde_json::Value>>>) -> Stored<'static> {
    json(object.into().filter(|object| !object.is_empty()))
}

/// A JSON object as text; NULL where there is none.
pub(crate) fn json(object: Option<&Map<String, serde_json::Value>>) -> Stored<'static> {
    let Some(object) = object else { return NULL };
    if !object.values().all(|value| json::is_within(value, json::MAX_DEPTH - 1)) {
        let detail = format!("nested deeper than {} levels", json::MAX_DEPTH);
        return Err(Error::InvalidValue { record: "JSON object".into(), detail });
    }
    let text = json::to_string(object)
        .map_err(|error| Error::InvalidValue { record: "JSON object".into(), detail: error.to_string() })?;
    Ok(ToSqlOutput::Owned(Value::Text(text)))
}

/// A value as a column holds it.
pub(super) fn value_ref<'a>(value: &'a ToSqlOutput<'a>) -> ValueRef<'a> {
    match value {
        ToSqlOutput::Borrowed(value) => *value,
        ToSqlOutput::Owned(value) => value.into(),
        _ => ValueRef::Null,
    }
}

const NULL: Stored<'static> = Ok(ToSqlOutput::Owned(Value::Null));

/// What a column can be read as.
pub(crate) trait Column: Sized {
    fn column(value: ValueRef<'_>) -> FromSqlResult<Self>;
}

impl Column for String {
    /// As `FromSql` for it, but that a fifth of the time of reading a whole state went into looking for invalid UTF-8.
    fn column(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let ValueRef::Text(text) = value else { return Err(FromSqlError::InvalidType) };
        match simdutf8::basic::from_utf8(text) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => value.as_str().map(str::to_owned),
        }
    }
}

macro_rules! column {
    ($($of:ty),*) => {$(
        impl Column for $of {
            fn column(value: ValueRef<'_>) -> FromSqlResult<Self> {
                Self::column_result(value)
            }
        }
    )*};
}
column!(bool, i64, f64);

impl<T: Column> Column for Option<T> {
    fn column(value: ValueRef<'_>) -> FromSqlResult<Self> {
        if value == ValueRef::Null { Ok(None) } else { T::column(value).map(Some) }
    }
}

/// Reads the columns of a row one after the other, and says exactly which one cannot be read.
pub(crate) struct RowReader<'r> {
    row: &'r Row<'r>,
    table: &'static str,
    columns: &'static [&'static str],
    /// What names the list that the row is an item of.
    owner: &'r [&'r str],
    /// Columns of the row before those.
    before: usize,
    next: usize,
}

impl<'r> RowReader<'r> {
    /// A row that holds these columns, of which the first is its key.
    pub(crate) fn of_table(row: &'r Row<'r>, table: &'static str, columns: &'static [&'static str]) -> Self {
        Self { row, table, columns, owner: &[], before: 0, next: 0 }
    }

    /// An item of a list: its position, then these columns.
    pub(crate) fn of_list(
        row: &'r Row<'r>,
        table: &'static str,
        columns: &'static [&'static str],
        owner: &'r [&'r str],
    ) -> Self {
        Self { row, table, columns, owner, before: 1, next: 0 }
    }

    /// The position of an item in its list.
    pub(crate) fn position(&self) -> Result<i64> {
        Ok(self.row.get(0)?)
    }

    /// Whether the columns hold just these values.
    pub(crate) fn holds(&self, values: &[ToSqlOutput<'_>]) -> Result<bool> {
        for (index, value) in values.iter().enumerate() {
            if self.row.get_ref(self.before + index)? != value_ref(value) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next column, which has to be the one with that name.
    ///
    /// The order of the columns is that of the table's list. That of the reads is checked against it, so that none can be
    /// read as another one.
    pub(crate) fn get<T: Column>(&mut self, column: &'static str) -> Result<T> {
        let index = self.next;
        self.next += 1;
        if self.columns.get(index) != Some(&column) {
            return Err(self.invalid(column, &"it is not the next one in this release's list of columns"));
        }
        let value = self.row.get_ref(self.before + index)?;
        T::column(value).map_err(|error| self.invalid(column, &error))
    }

    /// Whether all columns were read.
    pub(crate) fn is_read(&self) -> bool {
        self.next == self.columns.len()
    }

    /// The next column, a number that a document can hold.
    pub(crate) fn finite(&mut self, column: &'static str) -> Result<f64> {
        let number: f64 = self.get(column)?;
        if number.is_finite() { Ok(number) } else { Err(self.invalid(column, &"no finite number")) }
    }

    /// The next column, a text that stands for a `T`.
    pub(crate) fn text<T: From<String>>(&mut self, column: &'static str) -> Result<T> {
        self.get::<String>(column).map(T::from)
    }

    /// The next column, a text that stands for a `T`, or NULL.
    pub(crate) fn optional_text<T: From<String>>(&mut self, column: &'static str) -> Result<Option<T>> {
        Ok(self.get::<Option<String>>(column)?.map(T::from))
    }

    /// The next column, a JSON object or NULL.
    pub(crate) fn optional_json(&mut self, column: &'static str) -> Result<Option<Map<String, serde_json::Value>>> {
        let Some(text) = self.get::<Option<String>>(column)? else { return Ok(None) };
        match json::parse(&text) {
            Ok((serde_json::Value::Object(object), _)) => Ok(Some(object)),
            Ok(_) => Err(self.invalid(column, &"no JSON object")),
            Err(error) => Err(self.invalid(column, &error)),
        }
    }

    /// The next column, the keys of an object that this release does not know.
    pub(crate) fn extra(&mut self, column: &'static str) -> Result<Map<String, serde_json::Value>> {
        Ok(self.optional_json(column)?.unwrap_or_default())
    }

    fn invalid(&self, column: &'static str, error: &dyn std::fmt::Display) -> Error {
        let key = self.row.get_ref(0).map(|key| match key {
            ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
            ValueRef::Integer(number) => number.to_string(),
            _ => "?".into(),
        });
        let key = key.unwrap_or_else(|_| "?".into());
        let owner: String = self.owner.iter().map(|owner| format!("{owner}, ")).collect();
        Error::InvalidRow {
            table: self.table,
            row: if self.before == 0 { key } else { format!("{owner}position {key}") },
            column,
            detail: error.to_string(),
        }
    }
}
