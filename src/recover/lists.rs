//! Rows that belong to others: lists with gaps, rows that stand in two tables, rows without an owner.

use std::collections::BTreeSet;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::shape::{Key, Owner, RowKey, Shape, values};
use crate::db::insert_sql;
use crate::error::Result;

/// The lists of a table that have no gap.
pub(super) fn complete_lists(conn: &Connection, shape: &Shape) -> Result<BTreeSet<RowKey>> {
    let Some(list) = shape.list() else { return Ok(BTreeSet::new()) };
    let columns = if list.is_empty() { "1".to_owned() } else { list.join(", ") };
    let sql = format!(
        "SELECT {columns} FROM {} GROUP BY {columns} HAVING max(position) + 1 = count(*) AND min(position) = 0",
        shape.name
    );
    let mut select = conn.prepare(&sql)?;
    let mut rows = select.query([])?;
    let mut complete = BTreeSet::new();
    while let Some(row) = rows.next()? {
        complete.extend(values(row, list.len())?.0.iter().map(Key::of).collect::<Option<RowKey>>());
    }
    Ok(complete)
}

/// Numbers the items of lists anew where there are gaps; what names those lists.
pub(super) fn close_gaps(conn: &Connection, shape: &Shape) -> Result<BTreeSet<Key>> {
    let mut closed = BTreeSet::new();
    let Some(list) = shape.list() else { return Ok(closed) };
    let columns = if list.is_empty() { "'' AS list".to_owned() } else { list.join(", ") };
    let groups: Vec<_> = (1..=list.len().max(1)).map(|number| number.to_string()).collect();
    let sql = format!(
        "SELECT {columns} FROM {} GROUP BY {} HAVING max(position) + 1 <> count(*) OR min(position) <> 0",
        shape.name,
        groups.join(", ")
    );
    let mut select = conn.prepare(&sql)?;
    let mut rows = select.query([])?;
    let mut broken = Vec::new();
    while let Some(row) = rows.next()? {
        broken.push(values(row, list.len().max(1))?.0);
    }
    let condition: Vec<_> = list.iter().map(|column| format!("{column} = ?")).collect();
    let condition = if condition.is_empty() { "?1 = ''".to_owned() } else { condition.join(" AND ") };
    let names = shape.columns.join(", ");
    let items = format!("SELECT {names} FROM {} WHERE {condition} ORDER BY position", shape.name);
    let delete = format!("DELETE FROM {} WHERE {condition}", shape.name);
    let position = shape.columns.iter().position(|column| column == "position");
    for key in broken {
        let mut items_of = conn.prepare_cached(&items)?;
        let mut rows = items_of.query(params_from_iter(&key))?;
        let mut items = Vec::new();
        while let Some(row) = rows.next()? {
            items.push(values(row, shape.columns.len())?.0);
        }
        drop(rows);
        conn.prepare_cached(&delete)?.execute(params_from_iter(&key))?;
        let mut insert = conn.prepare_cached(&insert_sql(&shape.name, &shape.columns))?;
        for (number, mut item) in (0..).zip(items) {
            if let Some(position) = position {
                item[position] = Value::Integer(number);
            }
            insert.execute(params_from_iter(item))?;
        }
        closed.extend(key.first().and_then(Key::of));
    }
    Ok(closed)
}

/// Takes out the rows that stand in two tables of the same form because these share a page, from the one of the two that a good
/// copy does not know them in; the owners of the rows that were taken out, and of those where nothing tells.
pub(super) fn separate(
    conn: &Connection,
    good: Option<&Connection>,
    shape: &Shape,
    other: &Shape,
) -> Result<(BTreeSet<Key>, BTreeSet<Key>)> {
    let (mut taken, mut unclear) = (BTreeSet::new(), BTreeSet::new());
    if shape.columns.len() != other.columns.len() || shape.types != other.types || shape.has_rowid || other.has_rowid {
        return Ok((taken, unclear));
    }
    let pairs = shape.columns.iter().zip(&other.columns);
    let is_same: Vec<_> = pairs.map(|(one, two)| format!("one.{one} IS two.{two}")).collect();
    let columns: Vec<_> = shape.columns.iter().map(|column| format!("one.{column}")).collect();
    let sql = format!(
        "SELECT {} FROM {} AS one JOIN {} AS two ON {}",
        columns.join(", "),
        shape.name,
        other.name,
        is_same.join(" AND ")
    );
    let mut select = conn.prepare(&sql)?;
    let mut rows = select.query([])?;
    let mut both = Vec::new();
    while let Some(row) = rows.next()? {
        both.push(values(row, shape.columns.len())?.0);
    }
    drop(rows);
    let holds = |conn: &Connection, shape: &Shape, row: &[Value]| {
        let condition: Vec<_> = shape.columns.iter().map(|column| format!("{column} IS ?")).collect();
        let sql = format!("SELECT 1 FROM {} WHERE {}", shape.name, condition.join(" AND "));
        conn.prepare_cached(&sql)?.exists(params_from_iter(row))
    };
    for row in both {
        let Some(name) = shape.identity_in(&row).and_then(|key| key.into_iter().next()) else { continue };
        match good {
            Some(good) if !holds(good, shape, &row)? && holds(good, other, &row)? => {
                let key: Vec<_> = shape.indexes_of(shape.key()).into_iter().map(|index| row[index].clone()).collect();
                let condition: Vec<_> = shape.key().iter().map(|column| format!("{column} = ?")).collect();
                let sql = format!("DELETE FROM {} WHERE {}", shape.name, condition.join(" AND "));
                conn.prepare_cached(&sql)?.execute(params_from_iter(key))?;
                taken.insert(name);
            }
            Some(good) if holds(good, shape, &row)? && !holds(good, other, &row)? => {}
            _ => {
                unclear.insert(name);
            }
        }
    }
    Ok((taken, unclear))
}

/// Takes out the rows of a table whose owner is missing, or the owner's own, and hands over each with the owner's name, as a JSON
/// object. Tables that own others come after these: with the row of an owner, those that belong to it would go, too.
pub(super) fn take_orphans(
    conn: &Connection,
    shapes: &[Shape],
    shape: &Shape,
    mut taken: impl FnMut(String, String) -> Result<()>,
) -> Result<()> {
    let Some(owner) = &shape.owner else { return Ok(()) };
    take_rows(conn, shape, &orphans(shapes, owner), &owner.from, [], &mut taken)
}

/// The condition that is true of rows without this owner.
fn orphans(shapes: &[Shape], Owner { table, from, to }: &Owner) -> String {
    let its_owner = shapes.iter().find(|shape| shape.name == *table).and_then(|shape| shape.owner.as_ref());
    let is_kept = its_owner.map_or(String::new(), |owner| format!(" WHERE NOT ({})", orphans(shapes, owner)));
    format!("{from} NOT IN (SELECT {to} FROM {table}{is_kept})")
}

/// Takes out the rows of a table that a condition names, and hands over each with its name, as a JSON object.
pub(super) fn take_rows(
    conn: &Connection,
    shape: &Shape,
    condition: &str,
    name: &str,
    parameters: impl rusqlite::Params + Clone,
    taken: &mut impl FnMut(String, String) -> Result<()>,
) -> Result<()> {
    let mut select = conn.prepare(&rows_as_json(&shape.name, name, &shape.columns, condition))?;
    let mut rows = select.query(parameters.clone())?;
    while let Some(row) = rows.next()? {
        taken(row.get(0)?, row.get(1)?)?;
    }
    drop(rows);
    conn.execute(&format!("DELETE FROM {} WHERE {condition}", shape.name), parameters)?;
    Ok(())
}

/// Reads rows, each as its name and a JSON object.
fn rows_as_json(table: &str, name: &str, columns: &[String], condition: &str) -> String {
    let members: Vec<_> = columns.iter().map(|column| format!("'{column}', {column}")).collect();
    format!("SELECT CAST({name} AS TEXT), json_object({}) FROM {table} WHERE {condition}", members.join(", "))
}
