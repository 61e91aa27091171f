//! Group commit: callers that write at the same time share a transaction and its fsync.
//!
//! Each caller does its own work, one after the other, in the transaction that is open, inside a savepoint. Who is done and
//! sees another one coming leaves the commit to that one and waits for it; who sees nobody commits for all. So a lone
//! caller waits for nobody, and a group is never larger than the number of threads that write.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ffi};

use super::connection::BUSY_TIMEOUT;

/// How a commit failed; it is told to everyone in the group.
type Failure = (ffi::Error, Option<String>);

/// The callers of one transaction, who wait for its commit.
#[derive(Default)]
pub(super) struct Group {
    outcome: Mutex<Option<Result<(), Failure>>>,
    decided: Condvar,
}

/// A connection for writing, with the transaction that a group has left open on it: one in which somebody has done something.
pub(super) struct GroupConnection {
    conn: Connection,
    open: Option<Arc<Group>>,
}

impl GroupConnection {
    pub(super) fn new(conn: Connection) -> Self {
        Self { conn, open: None }
    }

    /// The connection for work of its own: what a group has left open is committed first.
    pub(super) fn alone(&mut self) -> &mut Connection {
        self.commit();
        &mut self.conn
    }

    /// Does the work of one caller in the transaction that is open, or in a new one. `begun` is asked first.
    ///
    /// Returns what it came to, and the group to wait for unless it failed. Whoever calls has to [`commit`](Self::commit),
    /// unless another caller is sure to come.
    pub(super) fn join<T, E: From<rusqlite::Error>>(
        &mut self,
        begun: impl FnOnce(&Connection) -> Result<(), E>,
        work: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<(T, Arc<Group>), E> {
        let step = |conn: &Connection, sql| conn.prepare_cached(sql)?.execute([]).map(drop);
        // Who is the first needs no savepoint: without its work there is nothing in the transaction.
        let (group, is_first) = match &self.open {
            Some(group) => (group.clone(), false),
            None => (Arc::default(), true),
        };
        step(&self.conn, if is_first { "BEGIN IMMEDIATE" } else { "SAVEPOINT member" })?;
        // A panic in a caller's closure is that caller's; the others' work stays.
        let result = catch_unwind(AssertUnwindSafe(|| begun(&self.conn).and_then(|()| work(&self.conn))));
        let is_done = matches!(result, Ok(Ok(_)));
        let undone = || if is_done { Ok(()) } else { step(&self.conn, "ROLLBACK TO member") };
        // SQLite may have rolled all of it back, as where the disk is full. Then, and where one caller's part cannot be undone
        // by itself, nothing of the others stays, either.
        let is_open = !self.conn.is_autocommit();
        let stays = is_open
            && if is_first { is_done } else { undone().and_then(|()| step(&self.conn, "RELEASE member")).is_ok() };
        if stays {
            self.open = Some(group.clone());
        } else {
            self.open = None;
            self.roll_back();
            if !is_open {
                self.make_room();
            }
            let message = "another update in the same commit made all of it roll back; nothing was changed".to_owned();
            group.decide(Err((ffi::Error::new(ffi::SQLITE_ABORT_ROLLBACK), Some(message))));
        }
        match result {
            Ok(result) => Ok((result?, group)),
            Err(panic) => {
                self.commit();
                resume_unwind(panic)
            }
        }
    }

    /// Commits what a group has left open, and tells its members.
    pub(super) fn commit(&mut self) {
        let Some(group) = self.open.take() else { return };
        let outcome = self.conn.prepare_cached("COMMIT").and_then(|mut end| end.execute([]));
        if outcome.is_err() {
            // What could not be committed is not to be committed with what comes next.
            self.roll_back();
            self.make_room();
        }
        group.decide(outcome.map(drop).map_err(failure));
    }

    /// Brings the log into the database and cuts it off, after a write failed: where the disk is full, it may be the log that
    /// fills it, and who waits for its usual size waits in vain.
    pub(super) fn make_room(&self) {
        let make_room = || {
            // Whoever reads is not waited for.
            self.conn.busy_timeout(Duration::ZERO)?;
            let truncated = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            self.conn.busy_timeout(BUSY_TIMEOUT)?;
            truncated
        };
        if let Err(error) = make_room() {
            tracing::debug!(%error, "could not bring the log into the database");
        }
    }

    /// Ends the transaction that is open, where one is.
    fn roll_back(&self) {
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "could not roll back");
        }
    }
}

impl Group {
    /// Waits until the group's transaction is on the disk, or has failed.
    pub(super) fn wait(&self) -> rusqlite::Result<()> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let decided = self.decided.wait_while(outcome, |outcome| outcome.is_none());
        match &*decided.unwrap_or_else(PoisonError::into_inner) {
            Some(Err((error, message))) => Err(rusqlite::Error::SqliteFailure(*error, message.clone())),
            _ => Ok(()),
        }
    }

    fn decide(&self, outcome: Result<(), Failure>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.decided.notify_all();
    }
}

impl Drop for GroupConnection {
    fn drop(&mut self) {
        self.commit();
    }
}

fn failure(error: rusqlite::Error) -> Failure {
    match error {
        rusqlite::Error::SqliteFailure(error, message) => (error, message),
        other => (ffi::Error::new(ffi::SQLITE_ERROR), Some(other.to_string())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::db::{Closed, Database, Durability};
    use crate::error::{Error, Result};
    use crate::progress::ProgressCallback;

    fn database() -> (TempDir, Database) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("state.db");
        let none = || Ok(|| Ok(()));
        let database = Database::open(&path, Durability::Full, 4, &ProgressCallback::default(), none).unwrap();
        let own = "CREATE TABLE parent (id INTEGER PRIMARY KEY) STRICT;
                   CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED) STRICT";
        database.write(|conn| Ok::<_, Error>(conn.execute_batch(own)?)).unwrap();
        (dir, database)
    }

    fn insert(conn: &Connection, table: &str, id: usize) -> Result<()> {
        conn.execute(&format!("INSERT INTO {table} VALUES (?1)"), [id])?;
        Ok(())
    }

    fn count(database: &Database) -> u64 {
        let sql = "SELECT (SELECT count(*) FROM parent) + (SELECT count(*) FROM child)";
        database.read(|conn| Ok(conn.query_row(sql, [], |row| row.get(0))?)).unwrap()
    }

    /// Runs two callers, of whom the second one comes while the first one works; what both got.
    fn two(
        database: &Database,
        first: impl FnOnce(&Connection) -> Result<()> + Send,
        second: impl FnOnce(&Connection) -> Result<()> + Send,
    ) -> (thread::Result<Result<()>>, thread::Result<Result<()>>) {
        let begun = &AtomicBool::new(false);
        thread::scope(|scope| {
            let one = scope.spawn(move || {
                database.write_in_group(|conn| {
                    begun.store(true, Ordering::SeqCst);
                    while !database.is_anyone_coming() {
                        thread::sleep(Duration::from_millis(1));
                    }
                    first(conn)
                })
            });
            while !begun.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            let other = scope.spawn(move || {
                database.write_in_group(|conn| {
                    thread::sleep(Duration::from_millis(30));
                    second(conn)
                })
            });
            (one.join(), other.join())
        })
    }

    #[test]
    fn who_comes_meanwhile_shares_the_commit() {
        let (_dir, database) = database();
        let seen = AtomicBool::new(true);
        let (first, second) = two(
            &database,
            |conn| insert(conn, "parent", 1),
            |conn| {
                // The first one's work is in this transaction, and nobody else sees it yet.
                let here: u64 = conn.query_row("SELECT count(*) FROM parent", [], |row| row.get(0))?;
                seen.store(here == 1 && count(&database) == 0, Ordering::SeqCst);
                insert(conn, "parent", 2)
            },
        );
        assert!(first.unwrap().is_ok() && second.unwrap().is_ok());
        assert!(seen.load(Ordering::SeqCst), "one transaction");
        assert_eq!(count(&database), 2);
    }

    #[test]
    fn an_error_of_one_does_not_touch_the_other() {
        let (_dir, database) = database();
        let fails =
            |id| move |conn: &Connection| insert(conn, "parent", id).and_then(|()| insert(conn, "no table", id));
        let works = |id| move |conn: &Connection| insert(conn, "parent", id);
        let (first, second) = two(&database, fails(1), works(2));
        assert!(first.unwrap().is_err() && second.unwrap().is_ok());
        let (first, second) = two(&database, works(3), fails(4));
        assert!(first.unwrap().is_ok() && second.unwrap().is_err());
        let (first, second) = two(&database, fails(5), fails(6));
        assert!(first.unwrap().is_err() && second.unwrap().is_err());
        assert_eq!(count(&database), 2);
        database.write_in_group(works(7)).unwrap();
    }

    #[test]
    fn a_panic_of_one_does_not_touch_the_other() {
        let (_dir, database) = database();
        for (first_panics, id) in [(true, 1), (false, 2)] {
            let work = |panics: bool| {
                move |conn: &Connection| {
                    insert(conn, "parent", if panics { id + 10 } else { id })?;
                    if panics { panic!("the caller's own") } else { Ok(()) }
                }
            };
            let (first, second) = two(&database, work(first_panics), work(!first_panics));
            let (panicked, worked) = if first_panics { (first, second) } else { (second, first) };
            assert!(panicked.is_err() && worked.unwrap().is_ok());
        }
        assert_eq!(count(&database), 2);
    }

    #[test]
    fn a_commit_that_fails_fails_for_all_and_the_next_one_works() {
        let (_dir, database) = database();
        let (first, second) = two(&database, |conn| insert(conn, "parent", 1), |conn| insert(conn, "child", 404));
        for result in [first.unwrap(), second.unwrap()] {
            assert!(result.unwrap_err().to_string().contains("FOREIGN KEY"));
        }
        assert_eq!(count(&database), 0);
        database.write_in_group(|conn| insert(conn, "parent", 2)).unwrap();
        assert_eq!(count(&database), 1);
    }

    #[test]
    fn a_rollback_by_sqlite_is_told_to_all_and_the_next_one_works() {
        let (_dir, database) = database();
        let rolled_back = |conn: &Connection| {
            conn.execute_batch("ROLLBACK")?;
            insert(conn, "no table", 1)
        };
        let (first, second) = two(&database, |conn| insert(conn, "parent", 1), rolled_back);
        assert!(first.unwrap().unwrap_err().to_string().contains("made all of it roll back"));
        assert!(second.unwrap().unwrap_err().to_string().contains("no table"));
        assert_eq!(count(&database), 0);
        let (first, second) = two(&database, rolled_back, |conn| insert(conn, "parent", 2));
        assert!(first.unwrap().is_err() && second.unwrap().is_ok());
        assert_eq!(count(&database), 1);
    }

    #[test]
    fn closing_waits_for_what_is_open_and_who_comes_later_is_refused() {
        let (_dir, database) = database();
        thread::scope(|scope| {
            let writers: Vec<_> = (0..8)
                .map(|thread| {
                    let database = &database;
                    scope.spawn(move || {
                        (0..)
                            .map(|n| database.write_in_group(|conn| insert(conn, "parent", thread * 1_000_000 + n)))
                            .take_while(Result::is_ok)
                            .count()
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(50));
            database.begin_closing(Closed::ShutDown);
            database.close_writer(Closed::ShutDown);
            let acknowledged: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
            assert!(acknowledged > 8);
            assert_eq!(count(&database), acknowledged as u64, "neither more nor less than what returned");
        });
    }

    #[test]
    fn many_at_once_lose_nothing_and_share() {
        let (_dir, database) = database();
        let failed = AtomicUsize::new(0);
        thread::scope(|scope| {
            for thread in 0..32 {
                let (database, failed) = (&database, &failed);
                scope.spawn(move || {
                    for n in 0..50 {
                        let id = thread * 1000 + n;
                        let result = database.write_in_group(|conn| {
                            insert(conn, "parent", id)?;
                            // Every seventh one fails after it has written.
                            if id % 7 == 0 { insert(conn, "no table", id) } else { Ok(()) }
                        });
                        assert_eq!(result.is_err(), id % 7 == 0);
                        failed.fetch_add(usize::from(result.is_err()), Ordering::Relaxed);
                        if n % 10 == 0 {
                            // Others, who do not share.
                            database.write(|conn| insert(conn, "child", 0)).unwrap_err();
                        }
                    }
                });
            }
        });
        assert_eq!(count(&database), 32 * 50 - failed.load(Ordering::Relaxed) as u64);
    }
}
