//! What does not go back when another database takes the place of the state: runs, checkpoints, quarantined records, the
//! restart count.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::{backup_mark, checkpoint, export_mark, head, quarantine, run};
use crate::db::insert_sql;
use crate::error::Result;
use crate::model::{OrchestratorMetadata, Run};

/// Writes into a copy that takes the place of a whole database: it is no backup any more, its export is another file, and those
/// who follow the changes start over.
pub(crate) fn begin_anew(copy: &Connection, now: DateTime<Utc>) -> Result<()> {
    backup_mark::clear(copy)?;
    export_mark::clear(copy)?;
    checkpoint::record_restore(copy, now, None)
}

/// The metadata of the run that goes on, in a state that was restored.
pub(crate) fn keep_run(conn: &Connection, live: &OrchestratorMetadata) -> Result<()> {
    let Some(mut state) = head::read(conn)? else { return Ok(()) };
    state.metadata.hostname = live.hostname.clone();
    state.metadata.pid = live.pid;
    state.metadata.started_at = live.started_at.clone();
    head::write(conn, &state)
}

/// Brings into a copy what must not go backwards when it takes the live database's place.
///
/// `present` is the run that goes on, where one does.
pub(crate) fn carry_over(
    live: &Connection,
    copy: &Connection,
    now: DateTime<Utc>,
    present: Option<&Run>,
) -> Result<()> {
    // Of two histories the longer one stays: the live one, but where the backup comes from elsewhere.
    for (table, key) in [("checkpoints", "checkpoint_id"), ("runs", "run_id")] {
        let newest = format!("SELECT coalesce(max({key}), 0) FROM {table}");
        let of = |conn: &Connection| conn.query_row(&newest, [], |row| row.get::<_, i64>(0));
        if of(live)? >= of(copy)? {
            copy.execute(&format!("DELETE FROM {table}"), [])?;
            copy_rows(live, copy, table)?;
        } else if table == "runs" {
            run::close_open_as_crashed(copy)?;
            if let Some(run) = present {
                run::insert(copy, run)?;
            }
        }
    }
    export_mark::clear(copy)?;
    copy_rows(live, copy, "export")?;
    keep_set_aside(live, copy)?;
    backup_mark::clear(copy)?;
    if let Some(live) = head::read(live)? {
        if present.is_some() {
            keep_run(copy, &live.metadata)?;
        }
        if let Some(mut state) = head::read(copy)? {
            state.metadata.restart_count = state.metadata.restart_count.max(live.metadata.restart_count);
            head::write(copy, &state)?;
        }
    }
    let run = if present.is_some() { run::open(copy)? } else { None };
    checkpoint::record_restore(copy, now, run.as_ref())
}

fn keep_set_aside(live: &Connection, copy: &Connection) -> Result<()> {
    let kept: HashSet<_> = quarantine::read(copy)?.into_iter().collect();
    for record in quarantine::read(live)?.iter().filter(|record| !kept.contains(record)) {
        quarantine::insert(copy, record)?;
    }
    Ok(())
}

/// Copies all rows of a table, as far as both sides have its columns: a person may have added one.
fn copy_rows(from: &Connection, to: &Connection, table: &str) -> Result<()> {
    let columns = |conn: &Connection| -> Result<Vec<String>> {
        let select = conn.prepare(&format!("SELECT * FROM {table}"))?;
        Ok(select.column_names().iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect())
    };
    let known = columns(to)?;
    let columns: Vec<_> = columns(from)?.into_iter().filter(|column| known.contains(column)).collect();
    let mut select = from.prepare(&format!("SELECT {} FROM {table}", columns.join(", ")))?;
    let mut insert = to.prepare(&insert_sql(table, &columns))?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let values =
            (0..columns.len()).map(|index| row.get::<_, Value>(index)).collect::<rusqlite::Result<Vec<_>>>()?;
        insert.execute(params_from_iter(values))?;
    }
    Ok(())
}
