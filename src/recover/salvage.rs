//! Rows of a damaged database, as far as they can be read.
//!
//! A table is read from both ends, and between them wherever that leads on, so that only the rows of pages that are damaged are
//! missing. Which ones these are, other trees tell: the index over its unique values, or the table of the owners of its rows.
//! A page may also be whole and in the wrong place: so types and order of what is read are checked, and pages that two trees
//! share are looked for.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, Statement, params_from_iter};
use serde_json::Map;

use super::pages::{Trees, trees};
use super::shape::{Key, RowKey, Shape, exists_sql, is_damage, unless_damaged, values};
use crate::check::{Budget, integrity};
use crate::db::{self, insert_sql};
use crate::error::Result;

/// A row that could be read and cannot be true.
pub(super) struct Refused {
    /// What names its owner, or itself.
    pub(super) name: Option<Key>,
    pub(super) reason: String,
    pub(super) content: String,
}

/// What came of reading a table.
#[derive(Default)]
pub(super) struct Outcome {
    /// Rows that are in the new database.
    pub(super) rows: u64,
    /// Whether pages could not be read, or are not where they should be.
    pub(super) is_damaged: bool,
    /// The rows that are missing; `None` where nothing tells.
    pub(super) missing: Option<BTreeSet<RowKey>>,
    /// Ranges of row numbers, without their ends, of which not all could be read.
    pub(super) holes: Vec<(i64, i64)>,
    /// Owners whose rows could perhaps not all be read; `None`: those of any.
    pub(super) suspects: Option<BTreeSet<Key>>,
    /// Rows that could be read and cannot be true: a second one with its key, a value of another type. Not all where there are many.
    pub(super) refused: Vec<Refused>,
    pub(super) refused_count: u64,
    /// Whether another tree that is whole held all rows.
    pub(super) is_repaired: bool,
    /// Owners of rows with texts in which characters that are none were replaced.
    pub(super) mended: BTreeSet<Key>,
    /// Another table with which it shares pages.
    pub(super) shared_with: BTreeSet<String>,
}

/// How many refused rows of a table are kept, and how many bytes of them.
const MOST_REFUSED: usize = 1000;
const MOST_REFUSED_BYTES: usize = 16 * 1024 * 1024;

/// A damaged database that is read.
pub(super) struct Source {
    pub(super) conn: Connection,
    budget: Budget,
    pub(super) trees: Trees,
}

impl Source {
    /// Opens a damaged database as far as it goes. `None` where not even its first page can be read.
    ///
    /// # Errors
    /// Where the disk fails: trying again may help.
    pub(super) fn open(path: &Path) -> Result<Option<Self>> {
        let Some(conn) = unless_damaged(db::open_damaged(path))? else { return Ok(None) };
        let budget = Budget::limit(&conn, path)?;
        // One snapshot, should somebody write against all rules.
        let begun = conn
            .execute_batch("BEGIN")
            .and_then(|()| conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())));
        if is_damage(begun)?.is_none() {
            return Ok(None);
        }
        let trees = trees(&conn, &budget, path)?;
        Ok(Some(Self { conn, budget, trees }))
    }
}

/// Copies the rows of a table that can be read into an empty one. `owners` finds the entities that its rows may belong to; `None`
/// where not all of them are known.
pub(super) fn copy(
    source: &Source,
    target: &Connection,
    shape: &Shape,
    owners: impl FnOnce() -> Result<Option<BTreeSet<Key>>>,
) -> Result<Outcome> {
    let mut outcome = Outcome { suspects: Some(BTreeSet::new()), ..Outcome::default() };
    source.budget.renew();
    // Their names may be no text any more, which `Statement::column_names` does not stand.
    let names = || -> rusqlite::Result<Vec<String>> {
        source.conn.prepare(&format!("SELECT 1 FROM {} NOT INDEXED", shape.name))?;
        let mut select = source.conn.prepare("SELECT name FROM pragma_table_info(?1)")?;
        let mut rows = select.query([&shape.name])?;
        let mut names = Vec::new();
        while let Some(row) = rows.next()? {
            names.push(String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned());
        }
        Ok(names)
    };
    let known = is_damage(names())?;
    let Some(known) = known else {
        outcome.is_damaged = true;
        outcome.suspects = None;
        outcome.holes.push((i64::MIN, i64::MAX));
        return Ok(outcome);
    };
    // A database of another release, or one to which a person has added a column.
    let columns: Vec<usize> = (0..shape.columns.len()).filter(|index| known.contains(&shape.columns[*index])).collect();
    let names: Vec<_> = columns.iter().map(|index| &shape.columns[*index]).collect();
    let is_same: Vec<_> = names.iter().map(|name| format!("{name} IS ?")).collect();
    let mut scan = Scan {
        source,
        shape,
        insert: target.prepare(&insert_sql(&shape.name, &names))?,
        is_there: target.prepare(&format!("SELECT 1 FROM {} WHERE {}", shape.name, is_same.join(" AND ")))?,
        columns,
        outcome: &mut outcome,
        refused_bytes: 0,
    };
    if shape.has_rowid {
        scan.by_number()?;
    } else {
        scan.by_key(owners)?;
    }
    let is_shared = source.trees.shared.get(&shape.name);
    let is_lossy = source.trees.lossy.contains(&shape.name);
    if shape.has_rowid {
        outcome.missing = missing(source, target, shape)?;
        if is_lossy && !outcome.is_damaged {
            outcome.is_damaged = true;
            outcome.holes.push((i64::MIN, i64::MAX));
        }
    } else if let Some(others) = is_shared {
        // Rows of another table may stand among its own, and some of its own be out of reach, without any disorder.
        outcome.is_damaged = true;
        outcome.suspects = None;
        outcome.shared_with.extend(others.iter().filter(|other| **other != shape.name).cloned());
    } else {
        let has_trouble = || -> Result<bool> {
            Ok(shape.covering.is_none()
                && !outcome.is_damaged
                && !integrity(&source.conn, &source.budget, Some(&shape.name))?.is_empty())
        };
        if is_lossy && !outcome.is_repaired || has_trouble()? {
            outcome.is_damaged = true;
            outcome.suspects = None;
        }
    }
    outcome.rows = target.query_row(&format!("SELECT count(*) FROM {}", shape.name), [], |row| row.get(0))?;
    Ok(outcome)
}

/// The rows that an index tells of and a table does not hold; `None` where there is no such index, or it is damaged too.
fn missing(source: &Source, target: &Connection, shape: &Shape) -> Result<Option<BTreeSet<RowKey>>> {
    let Some(index) = &shape.index else { return Ok(None) };
    if source.trees.lossy.contains(index) {
        return Ok(None);
    }
    source.budget.renew();
    let mut is_there = target.prepare(&exists_sql(shape))?;
    let keys = shape.identity.join(", ");
    let sql = format!("SELECT {keys} FROM {} INDEXED BY \"{index}\" ORDER BY {keys}", shape.name);
    let Some(mut select) = is_damage(source.conn.prepare(&sql))? else { return Ok(None) };
    let types = shape.indexes_of(&shape.identity);
    let mut missing = BTreeSet::new();
    let mut last: Option<RowKey> = None;
    let mut rows = select.query([])?;
    loop {
        let Some(row) = is_damage(rows.next())? else { return Ok(None) };
        let Some(row) = row else { return Ok(Some(missing)) };
        let Some((values, _)) = is_damage(values(row, shape.identity.len()))? else { return Ok(None) };
        let are_typed = types.iter().zip(&values).all(|(column, value)| shape.has_type(*column, value));
        let Some(key) = values.iter().map(Key::of).collect::<Option<RowKey>>().filter(|_| are_typed) else {
            return Ok(None);
        };
        if last.as_ref().is_some_and(|last| *last >= key) {
            // Not an index any more, or one that leads back into itself.
            return Ok(None);
        }
        if !is_there.exists(params_from_iter(&values))? {
            missing.insert(key.clone());
        }
        last = Some(key);
    }
}

struct Scan<'s, 't> {
    source: &'s Source,
    shape: &'s Shape,
    /// Those of the shape's columns that the damaged table has.
    columns: Vec<usize>,
    outcome: &'s mut Outcome,
    insert: Statement<'t>,
    is_there: Statement<'t>,
    refused_bytes: usize,
}

/// Where reading rows in order ended.
struct Run<K> {
    last: Option<K>,
    /// Whether that was the last row.
    is_whole: bool,
    /// Whether what came next is out of order.
    is_disorder: bool,
}

impl Scan<'_, '_> {
    /// Copies the rows of a table with row numbers: from both ends; where that fails in between, once more in halves.
    fn by_number(&mut self) -> Result<()> {
        let mut todo = vec![(i64::MIN, i64::MAX)];
        // A tree whose upper pages are damaged is not asked for each of its rows.
        let mut attempts = 0;
        while let Some((low, high)) = todo.pop() {
            let condition = "WHERE rowid > ? AND rowid < ?";
            let bounds = [Value::Integer(low), Value::Integer(high)];
            let is_within = |key: &RowKey| matches!(key[..], [Key::Integer(number)] if number > low && number < high);
            let number = |run: &Run<RowKey>| match run.last.as_deref() {
                Some([Key::Integer(number)]) => Some(*number),
                _ => None,
            };
            let run = self.run(condition, &bounds, "ASC", is_within)?;
            attempts += 1;
            if run.is_whole {
                continue;
            }
            self.outcome.is_damaged = true;
            let low = number(&run).unwrap_or(low);
            let bounds = [Value::Integer(low), Value::Integer(high)];
            let is_within = |key: &RowKey| matches!(key[..], [Key::Integer(number)] if number > low && number < high);
            let run = self.run(condition, &bounds, "DESC", is_within)?;
            let high = number(&run).unwrap_or(high);
            if high.saturating_sub(low) > 2 && attempts < MOST_ATTEMPTS && !self.source.budget.is_spent() {
                let middle = low / 2 + high / 2 + (low % 2 + high % 2) / 2;
                // Each half with its end in it.
                todo.push((middle, high));
                todo.push((low, middle + 1));
            } else if high.saturating_sub(low) > 1 {
                self.outcome.holes.push((low, high));
            }
        }
        self.outcome.holes = merged(std::mem::take(&mut self.outcome.holes));
        Ok(())
    }

    /// Copies the rows of a table without row numbers: from both ends; where that fails in between, owner by owner.
    fn by_key(&mut self, owners: impl FnOnce() -> Result<Option<BTreeSet<Key>>>) -> Result<()> {
        let forward = self.run("", &[], "ASC", |_| true)?;
        let is_suspicious =
            |tree: &String| self.source.trees.shared.contains_key(tree) || self.source.trees.lossy.contains(tree);
        if forward.is_whole && !is_suspicious(&self.shape.name) {
            return Ok(());
        }
        if let Some(index) = self.shape.covering.clone().filter(|index| !is_suspicious(index))
            && self.by_index(&index)?
        {
            // Another tree holds all of it.
            self.outcome.is_repaired = true;
            return Ok(());
        }
        if forward.is_whole {
            return Ok(());
        }
        self.outcome.is_damaged = true;
        self.source.budget.renew();
        let backward = self.run("", &[], "DESC", |_| true)?;
        let (Some(owner), Some(owners)) = (&self.shape.owner, owners()?) else {
            self.outcome.suspects = None;
            return Ok(());
        };
        // Where pages are in the wrong place, the ends say little of where rows are missing: with a whole page of foreign rows in
        // order, either end may lie beyond the damage.
        let (from, to) = match (&forward.last, &backward.last) {
            (Some(from), Some(to)) if from < to => (from.first(), to.first()),
            (None, Some(to)) => (None, to.first()),
            (Some(from), None) => (from.first(), None),
            _ => (None, None),
        };
        let is_between = |id: &&Key| from.is_none_or(|from| from <= *id) && to.is_none_or(|to| *id <= to);
        let owners: Vec<Key> = owners.into_iter().filter(|id| is_between(&id)).collect();
        let condition = format!("WHERE {} = ?", owner.from);
        if forward.is_disorder || backward.is_disorder {
            // A page of another place holds no rows of an owner, without any error.
            self.outcome.suspects = None;
        }
        self.source.budget.renew();
        for id in owners {
            let is_own = |key: &RowKey| key.first() == Some(&id);
            let mut is_whole = false;
            if !self.source.budget.is_spent() {
                is_whole = self.run(&condition, &[id.value()], "ASC", is_own)?.is_whole;
                if !is_whole {
                    self.run(&condition, &[id.value()], "DESC", is_own)?;
                }
            }
            if !is_whole && let Some(suspects) = &mut self.outcome.suspects {
                suspects.insert(id);
            }
        }
        Ok(())
    }

    /// Copies the rows as an index over all columns holds them; whether it holds all.
    fn by_index(&mut self, index: &str) -> Result<bool> {
        let sql = format!("SELECT {} FROM {} INDEXED BY \"{index}\"", self.names(), self.shape.name);
        self.source.budget.renew();
        let Some(mut select) = is_damage(self.source.conn.prepare(&sql))? else { return Ok(false) };
        let refused = self.outcome.refused_count;
        let mut rows = select.query([])?;
        loop {
            match is_damage(rows.next())? {
                Some(Some(row)) => self.take(row)?,
                Some(None) => return Ok(refused == self.outcome.refused_count),
                None => return Ok(false),
            };
        }
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(|index| self.shape.columns[*index].as_str()).collect();
        names.join(", ")
    }

    /// Copies rows in order until one cannot be read, or is not where it should be.
    fn run(
        &mut self,
        condition: &str,
        bounds: &[Value],
        direction: &str,
        is_within: impl Fn(&RowKey) -> bool,
    ) -> Result<Run<RowKey>> {
        let (shape, source) = (self.shape, self.source);
        let order: Vec<_> = shape.order.iter().map(|column| format!("{column} {direction}")).collect();
        let sql = format!(
            "SELECT {}, {} FROM {} NOT INDEXED {condition} ORDER BY {}",
            self.names(),
            shape.order.join(", "),
            shape.name,
            order.join(", ")
        );
        let (first_key, number_of_keys) = (self.columns.len(), shape.order.len());
        let mut run = Run { last: None, is_whole: false, is_disorder: false };
        let Some(mut select) = is_damage(source.conn.prepare_cached(&sql))? else { return Ok(run) };
        let mut rows = select.query(params_from_iter(bounds))?;
        loop {
            let Some(row) = is_damage(rows.next())? else { return Ok(run) };
            let Some(row) = row else {
                run.is_whole = true;
                return Ok(run);
            };
            let Some((values, _)) = is_damage(values(row, first_key + number_of_keys))? else { return Ok(run) };
            let key: Option<RowKey> = values[first_key..].iter().map(Key::of).collect();
            let is_in_order = key.as_ref().is_some_and(|key| {
                is_within(key)
                    && run.last.as_ref().is_none_or(|last| if direction == "ASC" { last < key } else { last > key })
            });
            if !is_in_order {
                run.is_disorder = true;
                return Ok(run);
            }
            run.last = key;
            self.take(row)?;
        }
    }

    /// Takes a row over where it can be true.
    fn take(&mut self, row: &Row<'_>) -> Result<()> {
        let Some((read, is_mended)) = is_damage(values(row, self.columns.len()))? else { return Ok(()) };
        let typed = self.columns.iter().zip(&read).find(|(column, value)| !self.shape.has_type(**column, value));
        let reason = match typed {
            Some((column, _)) => format!("its column {} has a value of another type", self.shape.columns[*column]),
            None => match self.insert.execute(params_from_iter(&read)) {
                Ok(_) => {
                    if is_mended && let Some(name) = self.name(&read) {
                        self.outcome.mended.insert(name);
                    }
                    return Ok(());
                }
                Err(error) if error.sqlite_error_code() != Some(rusqlite::ErrorCode::ConstraintViolation) => {
                    return Err(error.into());
                }
                // Read once more on another way.
                Err(_) if self.is_there.exists(params_from_iter(&read))? => return Ok(()),
                Err(error) => error.to_string(),
            },
        };
        self.outcome.refused_count += 1;
        let content = self.as_json(&read);
        if self.outcome.refused.len() < MOST_REFUSED && self.refused_bytes + content.len() <= MOST_REFUSED_BYTES {
            self.refused_bytes += content.len();
            let name = self.name(&read);
            self.outcome.refused.push(Refused { name, reason, content });
        }
        Ok(())
    }

    /// What names the owner of a row, or itself.
    fn name(&self, read: &[Value]) -> Option<Key> {
        let first = self.shape.identity.first()?;
        let index = self.columns.iter().position(|column| self.shape.columns[*column] == *first)?;
        Key::of(read.get(index)?)
    }

    fn as_json(&self, read: &[Value]) -> String {
        let member = |(column, value): (&usize, &Value)| {
            let value = match value {
                Value::Null => serde_json::Value::Null,
                Value::Integer(number) => (*number).into(),
                Value::Real(number) => (*number).into(),
                Value::Text(text) => text.as_str().into(),
                Value::Blob(bytes) => String::from_utf8_lossy(bytes).into(),
            };
            (self.shape.columns[*column].clone(), value)
        };
        serde_json::Value::Object(self.columns.iter().zip(read).map(member).collect::<Map<_, _>>()).to_string()
    }
}

/// Ranges that touch each other, as one.
fn merged(mut holes: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    holes.sort_unstable();
    let mut merged: Vec<(i64, i64)> = Vec::new();
    for (low, high) in holes {
        match merged.last_mut() {
            Some(last) if low < last.1 => last.1 = last.1.max(high),
            _ => merged.push((low, high)),
        }
    }
    merged
}

/// How often a table is asked for rows between damaged ones.
const MOST_ATTEMPTS: u32 = 4000;

/// Whether a database has this program's tables, whatever its header says.
pub(super) fn is_ours(path: &Path) -> Result<bool> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('state', 'conversations', 'tasks', 'runs')";
    let Some(source) = Source::open(path)? else { return Ok(false) };
    Ok(is_damage(source.conn.query_row(sql, [], |row| row.get::<_, u32>(0)))? == Some(4))
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
