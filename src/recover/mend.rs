//! Values that SQLite reads and this library cannot, or would leave out: mended from a good copy where it has them, otherwise
//! quarantined, so that the rest of their row stays.

use std::collections::BTreeSet;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension};

use super::lists::take_rows;
use super::report::{count, finding, finding_of, rows_of};
use super::shape::{Key, Shape};
use super::timeline::Good;
use super::{Recovery, quarantine};
use crate::error::Result;
use crate::json;
use crate::rows::invariants::{GROUPS, Group};

impl Recovery {
    /// Mends columns whose values no document can hold: JSON that is none, numbers that are not finite.
    pub(super) fn mend_columns(
        &mut self,
        conn: &Connection,
        good: Option<(&Good, &Connection)>,
        shape: &Shape,
    ) -> Result<()> {
        let is_object = |text: &str| matches!(json::parse(text), Ok((serde_json::Value::Object(_), _)));
        for column in &shape.columns {
            let is_json = column.ends_with("extra") || column == "work_data";
            if !is_json && column != "percent_complete" {
                continue;
            }
            let keys = shape.identity.join(", ");
            let sql = format!("SELECT {column}, {keys} FROM {} WHERE {column} IS NOT NULL", shape.name);
            let mut select = conn.prepare(&sql)?;
            let mut rows = select.query([])?;
            let mut broken = Vec::new();
            while let Some(row) = rows.next()? {
                let value: Value = row.get(0)?;
                let is_good = match &value {
                    Value::Text(text) => is_object(text),
                    Value::Real(number) => number.is_finite(),
                    _ => !is_json,
                };
                if !is_good {
                    let key = (1..=shape.identity.len()).map(|index| row.get(index));
                    broken.push((key.collect::<rusqlite::Result<Vec<Value>>>()?, value));
                }
            }
            drop(rows);
            let condition: Vec<_> = shape.identity.iter().map(|column| format!("{column} = ?")).collect();
            let condition = condition.join(" AND ");
            let (mut from_good, mut lost) = (BTreeSet::new(), BTreeSet::new());
            for (key, value) in broken {
                let name = name(&key);
                let mut better = None;
                if let Some((_, good)) = good {
                    let sql = format!("SELECT {column} FROM {} WHERE {condition}", shape.name);
                    let found =
                        good.prepare_cached(&sql)?.query_row(rusqlite::params_from_iter(&key), |row| row.get(0));
                    better = found.optional()?.filter(|value| match value {
                        Value::Text(text) => is_object(text),
                        Value::Real(number) => number.is_finite(),
                        _ => true,
                    });
                }
                let content = match &value {
                    Value::Text(text) => text.clone(),
                    other => format!("{other:?}"),
                };
                let reason = format!("{} of {name} cannot be read", column);
                quarantine(conn, self.now, &shape.name, &reason, content)?;
                if better.is_some() { &mut from_good } else { &mut lost }.insert(Key::Text(name));
                let default = if is_json { Value::Null } else { Value::Integer(0) };
                let sql = format!("UPDATE {} SET {column} = ? WHERE {condition}", shape.name);
                let values = std::iter::once(better.unwrap_or(default)).chain(key);
                conn.execute(&sql, rusqlite::params_from_iter(values))?;
            }
            if let (Some((good, _)), false) = (good, from_good.is_empty()) {
                let message = format!(
                    "{column} of {} could not be read, was quarantined, and was taken from {}",
                    rows_of(shape, from_good.len() as u64, &from_good),
                    good.title()
                );
                self.from_backup.push(finding_of(shape, message, &from_good));
            }
            if !lost.is_empty() {
                let rows = rows_of(shape, lost.len() as u64, &lost);
                let message = format!("{column} of {rows} could not be read, and was quarantined; the rest stays");
                self.lost.push(finding_of(shape, message, &lost));
            }
        }
        Ok(())
    }

    /// Completes values that belong together and of which a part is missing, or quarantines them: an export would leave them out.
    pub(super) fn mend_groups(
        &mut self,
        conn: &Connection,
        good: Option<(&Good, &Connection)>,
        shapes: &[Shape],
    ) -> Result<()> {
        for group in GROUPS {
            let Some(shape) = shapes.iter().find(|shape| shape.name == group.table) else { continue };
            let mut select = conn.prepare(&group.half_set_sql(&format!("CAST({} AS TEXT)", group.key)))?;
            let broken = select.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
            let (mut completed, mut lost) = (BTreeSet::new(), BTreeSet::new());
            for id in broken {
                let is_complete = match good {
                    Some((_, good)) => complete(conn, good, group, &id)?,
                    None => false,
                };
                if is_complete {
                    completed.insert(Key::Text(id));
                    continue;
                }
                let columns: Vec<_> = group.columns().collect();
                let members: Vec<_> = columns.iter().map(|column| format!("'{column}', {column}")).collect();
                let condition = format!("WHERE CAST({} AS TEXT) = ?1", group.key);
                let sql = format!("SELECT json_object({}) FROM {} {condition}", members.join(", "), group.table);
                let content = conn.query_row(&sql, [&id], |row| row.get(0))?;
                let reason = format!("{} of {id} is incomplete", group.name);
                quarantine(conn, self.now, group.table, &reason, content)?;
                let nulls: Vec<_> = columns.iter().map(|column| format!("{column} = NULL")).collect();
                conn.execute(&format!("UPDATE {} SET {} {condition}", group.table, nulls.join(", ")), [&id])?;
                lost.insert(Key::Text(id));
            }
            if let (Some((good, _)), false) = (good, completed.is_empty()) {
                let rows = rows_of(shape, completed.len() as u64, &completed);
                let message =
                    format!("{} of {rows} was incomplete and was completed from {}", group.name, good.title());
                self.from_backup.push(finding_of(shape, message, &completed));
            }
            if !lost.is_empty() {
                let rows = rows_of(shape, lost.len() as u64, &lost);
                let message = format!("{} of {rows} was incomplete and was quarantined; the rest stays", group.name);
                self.lost.push(finding_of(shape, message, &lost));
            }
        }
        self.mend_self_improvement(conn, shapes)
    }

    /// Lists of the work on its own code that belong to nothing are quarantined; a rollback plan that has content is one.
    fn mend_self_improvement(&mut self, conn: &Connection, shapes: &[Shape]) -> Result<()> {
        let flagged = conn.execute(
            "UPDATE self_improvement SET has_rollback_plan = 1 WHERE NOT has_rollback_plan AND (rollback_git_commit IS NOT NULL
             OR rollback_extra IS NOT NULL OR EXISTS (SELECT 1 FROM self_improvement_rollback_steps))",
            [],
        )?;
        if flagged > 0 {
            let message = "has_rollback_plan was not set, though there is a rollback plan; it is set now";
            self.lost.push(finding("self_improvement", message));
        }
        for (table, owner) in [
            ("self_improvement_target_files", "task_id IS NOT NULL"),
            ("self_improvement_planned_changes", "task_id IS NOT NULL"),
            ("self_improvement_backup_files", "backup_id IS NOT NULL"),
            ("self_improvement_rollback_steps", "has_rollback_plan"),
            ("self_improvement_checks", "true"),
        ] {
            let Some(shape) = shapes.iter().find(|shape| shape.name == table) else { continue };
            let now = self.now;
            let mut taken = 0;
            let condition = format!("NOT EXISTS (SELECT 1 FROM self_improvement WHERE {owner})");
            take_rows(conn, shape, &condition, "position", [], &mut |_, row| {
                taken += 1;
                quarantine(conn, now, table, "what it belongs to is lost", row)
            })?;
            if taken > 0 {
                let rows = count(taken, "row");
                let message = format!("{rows} were quarantined, as what they belong to is lost");
                self.lost.push(finding(table, message));
            }
        }
        Ok(())
    }
}

/// Completes a group from a good copy that has the same values where both have one; whether it did.
fn complete(conn: &Connection, good: &Connection, group: &Group, id: &str) -> Result<bool> {
    let columns: Vec<_> = group.columns().collect();
    let condition = format!("WHERE CAST({} AS TEXT) = ?1", group.key);
    let sql = format!("SELECT {} FROM {} {condition}", columns.join(", "), group.table);
    let read = |conn: &Connection| {
        let values = |row: &rusqlite::Row<'_>| (0..columns.len()).map(|index| row.get(index)).collect();
        conn.query_row(&sql, [id], values).optional()
    };
    let (ours, theirs): (Option<Vec<Value>>, Option<Vec<Value>>) = (read(conn)?, read(good)?);
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return Ok(false) };
    let fits = ours.iter().zip(&theirs).enumerate().all(|(index, (ours, theirs))| {
        let is_required = index < group.required.len();
        !(is_required && *theirs == Value::Null) && (*ours == Value::Null || ours == theirs || !is_required)
    });
    if !fits {
        return Ok(false);
    }
    for (index, column) in columns.iter().enumerate() {
        if ours[index] == Value::Null {
            let sql = format!("UPDATE {} SET {column} = ?2 {condition}", group.table);
            conn.execute(&sql, rusqlite::params![id, theirs[index]])?;
        }
    }
    Ok(true)
}

fn name(key: &[Value]) -> String {
    match key.first() {
        Some(Value::Text(text)) => text.clone(),
        Some(Value::Integer(number)) => number.to_string(),
        _ => "?".to_owned(),
    }
}
