//! Rows of a damaged database, as far as they can be read.
//!
//! A table is read from both ends, and a table with row numbers also between them, so that only the rows of pages that are
//! damaged are missing. Which ones these are, its index of unique values tells, a tree of its own.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, Statement, params_from_iter};

use crate::db::{self, insert_sql};
use crate::error::Result;

/// A table as it is made by the migrations.
pub(super) struct Shape {
    pub(super) name: String,
    columns: Vec<String>,
    /// Columns by which rows are ordered: `rowid`, or those of the primary key.
    order: Vec<String>,
    has_rowid: bool,
    /// Columns that name a row for people and for other tables, which may be others than its primary key.
    identity: Vec<String>,
    /// The index over them, where that is another tree than the table itself.
    index: Option<String>,
}

impl Shape {
    /// The name of a row for people.
    fn name_of(&self, key: &[Value]) -> String {
        let value = |value: &Value| match value {
            Value::Text(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            _ => "?".to_owned(),
        };
        let parts = self.identity.iter().zip(key).map(|(column, part)| format!("{column} {}", value(part)));
        parts.collect::<Vec<_>>().join(", ")
    }
}

/// What came of reading a table.
#[derive(Default)]
pub(super) struct Outcome {
    /// Whether pages could not be read.
    pub(super) is_damaged: bool,
    /// Rows that could be read and cannot be true: a second one with its key, a text that is none.
    pub(super) refused: u64,
    /// The names of the rows that are missing; `None` where nothing tells.
    pub(super) missing: Option<BTreeSet<String>>,
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
    let key = texts("SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk", &name)?;
    let index = texts("SELECT name FROM pragma_index_list(?1) WHERE \"unique\" AND origin IN ('u', 'pk')", &name)?;
    let index = index.into_iter().next().filter(|_| has_rowid);
    let identity = match &index {
        Some(index) => texts("SELECT name FROM pragma_index_info(?1) ORDER BY seqno", index)?,
        None => key.clone(),
    };
    let order = if has_rowid { vec!["rowid".to_owned()] } else { key };
    Ok(Shape { name, columns, order, has_rowid, identity, index })
}

/// Copies the rows of a table that can be read into an empty one.
pub(super) fn copy(source: &Connection, target: &Connection, shape: &Shape) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let known: Vec<String> = match source.prepare(&format!("SELECT * FROM {} NOT INDEXED", shape.name)) {
        Ok(select) => select.column_names().into_iter().map(str::to_owned).collect(),
        Err(_) => {
            outcome.is_damaged = true;
            return Ok(outcome);
        }
    };
    // A database of another release, or one to which a person has added a column.
    let columns: Vec<_> = shape.columns.iter().filter(|column| known.contains(column)).cloned().collect();
    let mut insert = target.prepare(&insert_sql(&shape.name, &columns))?;
    let mut scan = Scan { source, shape, columns, outcome: &mut outcome, insert: &mut insert };
    if shape.has_rowid {
        scan.between(i64::MIN, i64::MAX)?;
    } else if !scan.run("", &[], "ASC")?.1 {
        scan.outcome.is_damaged = true;
        scan.run("", &[], "DESC")?;
    }
    outcome.missing = missing(source, target, shape)?;
    Ok(outcome)
}

/// The rows that an index tells of and a table does not hold; `None` where there is no such index, or it is damaged too.
fn missing(source: &Connection, target: &Connection, shape: &Shape) -> Result<Option<BTreeSet<String>>> {
    let Some(index) = &shape.index else { return Ok(None) };
    let mut is_there = target.prepare(&exists_sql(shape))?;
    let keys = shape.identity.join(", ");
    let Ok(mut select) = source.prepare(&format!("SELECT {keys} FROM {} INDEXED BY \"{index}\"", shape.name)) else {
        return Ok(None);
    };
    let mut missing = BTreeSet::new();
    let mut rows = select.query([])?;
    loop {
        match rows.next() {
            Ok(Some(row)) => {
                let Ok(key) = values(row, shape.identity.len()) else { return Ok(None) };
                if !is_there.exists(params_from_iter(&key))? {
                    missing.insert(shape.name_of(&key));
                }
            }
            Ok(None) => return Ok(Some(missing)),
            Err(_) => return Ok(None),
        }
    }
}

struct Scan<'s, 't> {
    source: &'s Connection,
    shape: &'s Shape,
    columns: Vec<String>,
    outcome: &'s mut Outcome,
    insert: &'s mut Statement<'t>,
}

impl Scan<'_, '_> {
    /// Copies the rows whose numbers lie between two, from both ends; where that fails in between, once more in halves.
    fn between(&mut self, low: i64, high: i64) -> Result<()> {
        let mut todo = vec![(low, high)];
        // A tree whose upper pages are damaged is not asked for each of its rows.
        let mut attempts = 0;
        while let Some((low, high)) = todo.pop() {
            let condition = "WHERE rowid > ? AND rowid < ?";
            let (last, is_whole) = self.run(condition, &[low, high], "ASC")?;
            attempts += 1;
            if is_whole {
                continue;
            }
            self.outcome.is_damaged = true;
            let low = last.unwrap_or(low);
            let (first, _) = self.run(condition, &[low, high], "DESC")?;
            let high = first.unwrap_or(high);
            if high.saturating_sub(low) > 2 && attempts < MOST_ATTEMPTS {
                let middle = low / 2 + high / 2 + (low % 2 + high % 2) / 2;
                // Each half with its end in it.
                todo.push((middle, high));
                todo.push((low, middle + 1));
            }
        }
        Ok(())
    }

    /// Copies rows in order until one cannot be read: the last row's number, and whether that was the last row.
    fn run(&mut self, condition: &str, bounds: &[i64], direction: &str) -> Result<(Option<i64>, bool)> {
        let Self { source, shape, columns, .. } = self;
        let number = if shape.has_rowid { "rowid" } else { "0" };
        let order: Vec<_> = shape.order.iter().map(|column| format!("{column} {direction}")).collect();
        let sql = format!(
            "SELECT {}, {number} FROM {} NOT INDEXED {condition} ORDER BY {}",
            columns.join(", "),
            shape.name,
            order.join(", ")
        );
        let Ok(mut select) = source.prepare_cached(&sql) else { return Ok((None, false)) };
        let mut rows = select.query(params_from_iter(bounds))?;
        let mut last = None;
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok((last, true)),
                Err(_) => return Ok((last, false)),
            };
            let number: i64 = row.get(columns.len())?;
            let is_in_order = bounds.is_empty()
                || last
                    .map_or(number > bounds[0] && number < bounds[1], |last| (number > last) == (direction == "ASC"));
            if !is_in_order {
                // A tree that leads back to where it came from.
                return Ok((last, false));
            }
            last = Some(number);
            match values(row, columns.len()) {
                Ok(row) if self.insert.execute(params_from_iter(&row)).is_ok() => {}
                _ if bounds.is_empty() && direction == "DESC" => {
                    // From here on, the rows were read from the other end.
                    return Ok((last, false));
                }
                _ => self.outcome.refused += 1,
            }
        }
    }
}

/// How often a table is asked for rows between damaged ones.
const MOST_ATTEMPTS: u32 = 20_000;

/// Copies the rows of a table that a good database has and this one lacks; of those only `wanted`, where that is known. Returns
/// the names of those that came.
pub(super) fn fill(
    good: &Connection,
    target: &Connection,
    shape: &Shape,
    wanted: Option<&BTreeSet<String>>,
) -> Result<BTreeSet<String>> {
    let mut is_there = target.prepare(&exists_sql(shape))?;
    let mut insert = target.prepare(&insert_sql(&shape.name, &shape.columns))?;
    let keys = shape.identity.join(", ");
    let sql =
        format!("SELECT {keys}, {} FROM {} ORDER BY {}", shape.columns.join(", "), shape.name, shape.order.join(", "));
    let mut select = good.prepare(&sql)?;
    let mut rows = select.query([])?;
    let mut came = BTreeSet::new();
    while let Some(row) = rows.next()? {
        let mut key = values(row, shape.identity.len() + shape.columns.len())?;
        let mut row = key.split_off(shape.identity.len());
        let name = shape.name_of(&key);
        if wanted.is_some_and(|wanted| !wanted.contains(&name)) || is_there.exists(params_from_iter(&key))? {
            continue;
        }
        if insert.execute(params_from_iter(&row)).is_err() {
            // Another row has its number by now: it gets the next one.
            for (column, value) in shape.columns.iter().zip(&mut row) {
                if shape.has_rowid && !shape.identity.contains(column) && NUMBERS.contains(&column.as_str()) {
                    *value = Value::Null;
                }
            }
            if insert.execute(params_from_iter(&row)).is_err() {
                continue;
            }
        }
        came.insert(name);
    }
    Ok(came)
}

/// Columns that number the rows of a table that names them by something else.
const NUMBERS: &[&str] = &["position", "message_id"];

/// Takes out the rows whose owner is missing, and hands over each with its table, as a JSON object.
pub(super) fn take_orphans(
    conn: &Connection,
    shapes: &[Shape],
    mut taken: impl FnMut(&str, String) -> Result<()>,
) -> Result<()> {
    for shape in shapes {
        let sql = "SELECT \"table\", \"from\", coalesce(\"to\", \"from\") FROM pragma_foreign_key_list(?1)";
        let mut select = conn.prepare(sql)?;
        let owners = select.query_map([&shape.name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let owners: Vec<(String, String, String)> = owners.collect::<rusqlite::Result<_>>()?;
        for (owner, from, to) in owners {
            let condition = format!("{from} NOT IN (SELECT {to} FROM {owner})");
            let mut select = conn.prepare(&rows_as_json(&shape.name, &shape.columns, &condition))?;
            let rows = select.query_map([], |row| row.get(0))?;
            for row in rows.collect::<rusqlite::Result<Vec<String>>>()? {
                taken(&shape.name, row)?;
            }
            conn.execute(&format!("DELETE FROM {} WHERE {condition}", shape.name), [])?;
        }
    }
    Ok(())
}

/// Opens a damaged database as far as it goes. `None` where not even its first page can be read.
pub(super) fn open(path: &Path) -> Option<Connection> {
    let conn = db::open_damaged(path).ok()?;
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).ok()?;
    Some(conn)
}

/// Whether a database has this program's tables, whatever its header says.
pub(super) fn is_ours(path: &Path) -> bool {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('state', 'conversations', 'tasks', 'runs')";
    open(path).and_then(|conn| conn.query_row(sql, [], |row| row.get::<_, u32>(0)).ok()) == Some(4)
}

/// How far a state has come, to tell the newer of two of one history.
pub(super) fn progress(conn: &Connection) -> Vec<i64> {
    let newest = |column: &str, table: &str| {
        let sql = format!("SELECT coalesce(max({column}), 0) FROM {table}");
        conn.query_row(&sql, [], |row| row.get(0)).unwrap_or(0)
    };
    vec![
        newest("run_id", "runs"),
        newest("checkpoint_id", "checkpoints"),
        newest("message_id", "messages"),
        newest("position", "tasks"),
    ]
}

/// Reads rows as JSON objects.
pub(super) fn rows_as_json(table: &str, columns: &[impl AsRef<str>], condition: &str) -> String {
    let member = |column: &str| format!("'{column}', {column}");
    let members: Vec<_> = columns.iter().map(|column| member(column.as_ref())).collect();
    format!("SELECT json_object({}) FROM {table} WHERE {condition}", members.join(", "))
}

fn values(row: &rusqlite::Row<'_>, number: usize) -> rusqlite::Result<Vec<Value>> {
    (0..number).map(|index| row.get(index)).collect()
}

fn exists_sql(shape: &Shape) -> String {
    let condition: Vec<_> = shape.identity.iter().map(|column| format!("{column} = ?")).collect();
    format!("SELECT 1 FROM {} WHERE {}", shape.name, condition.join(" AND "))
}
