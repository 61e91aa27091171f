//! Completing a table from a good copy of the state.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::lists::complete_lists;
use super::shape::{Key, RowKey, Shape, exists_sql, values};
use crate::db::insert_sql;
use crate::error::Result;

/// Which of the rows that a damaged database lacks are to come from a good copy.
pub(super) enum Wanted<'w> {
    /// These.
    Rows(&'w BTreeSet<RowKey>),
    /// Those with a number in these ranges.
    Numbers(&'w [(i64, i64)]),
    /// Those of these owners.
    Owners(&'w BTreeSet<Key>),
    /// Those of lists of which nothing is left, or that have gaps.
    Lists,
    /// Those that follow the first one that is there of their owner.
    Later,
    All,
}

/// Rows that came from a good copy.
#[derive(Default)]
pub(super) struct Came {
    pub(super) rows: u64,
    /// Their entities.
    pub(super) names: BTreeSet<Key>,
    /// Themselves, where each of them was known to be missing.
    pub(super) keys: BTreeSet<RowKey>,
}

/// Copies the rows of a table that a good database has and this one lacks, as far as they are wanted.
pub(super) fn fill(good: &Connection, target: &Connection, shape: &Shape, wanted: &Wanted<'_>) -> Result<Came> {
    let mut is_there = target.prepare(&exists_sql(shape))?;
    let mut insert = target.prepare(&insert_sql(&shape.name, &shape.columns))?;
    let mut has_owner = match &shape.owner {
        Some(owner) => Some(target.prepare(&format!("SELECT 1 FROM {} WHERE {} = ?1", owner.table, owner.to))?),
        None => None,
    };
    let incomplete = if matches!(wanted, Wanted::Lists) { complete_lists(target, shape)? } else { BTreeSet::new() };
    let first = if matches!(wanted, Wanted::Later) { first_positions(target, shape)? } else { BTreeMap::new() };
    let list = shape.list().map(|list| shape.indexes_of(list)).unwrap_or_default();
    let number = if shape.has_rowid { "rowid" } else { "0" };
    let sql = format!(
        "SELECT {}, {number} FROM {} ORDER BY {}",
        shape.columns.join(", "),
        shape.name,
        shape.order.join(", ")
    );
    let mut select = good.prepare(&sql)?;
    let mut rows = select.query([])?;
    let mut came = Came::default();
    while let Some(row) = rows.next()? {
        let (mut read, _) = values(row, shape.columns.len())?;
        let number: i64 = row.get(shape.columns.len())?;
        let Some(key) = shape.identity_in(&read) else { continue };
        let Some(name) = key.first() else { continue };
        let is_wanted = match wanted {
            Wanted::Rows(rows) => rows.contains(&key),
            Wanted::Numbers(holes) => holes.iter().any(|(low, high)| number > *low && number < *high),
            Wanted::Owners(owners) => owners.contains(name),
            Wanted::Lists => {
                let list: Option<RowKey> = list.iter().map(|index| Key::of(&read[*index])).collect();
                list.is_some_and(|list| !incomplete.contains(&list))
            }
            Wanted::Later => first.get(name).is_none_or(|first| key.get(1).is_none_or(|position| position > first)),
            Wanted::All => true,
        };
        if !is_wanted || is_there.exists(params_from_iter(key.iter().map(Key::value)))? {
            continue;
        }
        if let Some(has_owner) = &mut has_owner
            && !has_owner.exists([name.value()])?
        {
            continue;
        }
        if insert.execute(params_from_iter(&read)).is_err() {
            // Another row has its number by now: it gets the next one.
            for (column, value) in shape.columns.iter().zip(&mut read) {
                if shape.has_rowid && !shape.identity.contains(column) && NUMBERS.contains(&column.as_str()) {
                    *value = Value::Null;
                }
            }
            if insert.execute(params_from_iter(&read)).is_err() {
                continue;
            }
        }
        came.rows += 1;
        came.names.insert(name.clone());
        if matches!(wanted, Wanted::Rows(_)) {
            came.keys.insert(key);
        }
    }
    Ok(came)
}

/// Columns that number the rows of a table that names them by something else.
const NUMBERS: &[&str] = &["position", "message_id"];

fn first_positions(conn: &Connection, shape: &Shape) -> Result<BTreeMap<Key, Key>> {
    let [owner, position] = &shape.identity[..] else { return Ok(BTreeMap::new()) };
    let mut select = conn.prepare(&format!("SELECT {owner}, min({position}) FROM {} GROUP BY 1", shape.name))?;
    let rows = select.query_map([], |row| Ok((Key::Text(row.get(0)?), Key::Integer(row.get(1)?))))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
