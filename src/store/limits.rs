//! Limits on what would grow by itself, beside the state: checkpoints, runs, records set aside.

use rusqlite::{Connection, params};

use super::set_aside;
use crate::error::Result;

/// How much is kept of what would grow by itself. What is beyond a limit goes when something is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Checkpoints: the newest so many, and the last one of each run that is kept. 10,000 by default, a week of one a
    /// minute. The newest one always stays, and so does the one that the export holds.
    pub checkpoints: u32,
    /// Runs: the newest so many. 1,000 by default. The newest two and runs that have not ended always stay.
    pub runs: u32,
    /// Records that imports could not read, in bytes. 64 MiB by default. Those of the oldest imports go, after a backup that
    /// holds them; those of the newest import always stay.
    pub set_aside_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { checkpoints: 10_000, runs: 1_000, set_aside_bytes: 64 * 1024 * 1024 }
    }
}

/// Rows that go at most at a time: who has had no limit so far is not kept waiting.
const MOST_AT_ONCE: u32 = 1000;

/// Drops the oldest checkpoints beyond the limit.
pub(super) fn trim_checkpoints(conn: &Connection, keep: u32) -> Result<()> {
    let sql = "DELETE FROM checkpoints WHERE checkpoint_id IN (
                 SELECT checkpoint_id FROM checkpoints AS old
                 WHERE checkpoint_id <= (SELECT checkpoint_id FROM checkpoints ORDER BY checkpoint_id DESC LIMIT 1 OFFSET ?1)
                   AND checkpoint_id NOT IN (SELECT checkpoint_id FROM export)
                   AND (NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_id = old.run_id)
                     OR EXISTS (SELECT 1 FROM checkpoints AS later
                                WHERE later.run_id = old.run_id AND later.checkpoint_id > old.checkpoint_id))
                 ORDER BY checkpoint_id LIMIT ?2)";
    conn.prepare_cached(sql)?.execute([keep.max(1), MOST_AT_ONCE])?;
    Ok(())
}

/// Drops the oldest runs beyond the limit.
pub(super) fn trim_runs(conn: &Connection, keep: u32) -> Result<()> {
    let sql = "DELETE FROM runs WHERE run_id IN (
                 SELECT run_id FROM runs
                 WHERE run_id <= (SELECT run_id FROM runs ORDER BY run_id DESC LIMIT 1 OFFSET ?1) AND outcome IS NOT NULL
                 ORDER BY run_id LIMIT ?2)";
    conn.prepare_cached(sql)?.execute([keep.max(2), MOST_AT_ONCE])?;
    Ok(())
}

/// Drops what an import set aside, the records after `newest_before`, where the same is kept already.
pub(crate) fn forget_repeated_set_aside(conn: &Connection, newest_before: i64) -> Result<()> {
    let sql = "DELETE FROM set_aside WHERE set_aside_id IN (
                 SELECT new.set_aside_id
                 FROM set_aside AS old JOIN set_aside AS new USING (source, path, reason, content)
                 WHERE old.set_aside_id <= ?1 AND new.set_aside_id > ?1)";
    conn.execute(sql, [newest_before])?;
    Ok(())
}

/// The records set aside, up to which one they go because of the limit; `None` where all stay. Those after `newest_before`
/// stay.
pub(crate) fn excess_set_aside(conn: &Connection, newest_before: i64, limit: u64) -> Result<Option<i64>> {
    let sql = format!(
        "SELECT max(set_aside_id) FROM (
           SELECT set_aside_id, sum({}) OVER (ORDER BY set_aside_id DESC) AS bytes FROM set_aside)
         WHERE set_aside_id <= ?1 AND bytes > ?2",
        set_aside::BYTES
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    Ok(conn.query_row(&sql, params![newest_before, limit], |row| row.get(0))?)
}

/// Drops the records set aside up to that one; how many.
pub(crate) fn drop_set_aside(conn: &Connection, up_to: i64) -> Result<u64> {
    Ok(conn.execute("DELETE FROM set_aside WHERE set_aside_id <= ?1", [up_to])? as u64)
}
