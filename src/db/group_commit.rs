//! Group commit: callers that write at the same time share a transaction and its fsync.
//!
//! Each caller does its own work, one after the other, in the transaction that is open, inside a savepoint. A caller that is done and
//! sees others waiting leaves the commit to the next one and waits for it; without others, it commits for all. So a lone caller
//! waits for nobody. A group that is older than [`MAX_AGE`] is committed by the caller that works in it, whatever that caller's work
//! comes to, so that nobody waits for an endless row of others.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior, ffi};

use super::deadline::without_waiting;
use super::turns::Turns;
use crate::error::{Error, Result};

/// How long a group takes in further callers.
const MAX_AGE: Duration = Duration::from_millis(10);

/// How a transaction failed; every caller in the group gets it.
pub(super) type Failure = (ffi::Error, Option<String>);

/// The callers of one transaction, who wait for its commit.
#[derive(Default)]
pub(super) struct Group {
    /// The outcome, and when it was known.
    outcome: Mutex<Option<(Result<(), Failure>, Instant)>>,
    decided: Condvar,
}

/// A connection for writing, with the transaction that a group has left open on it: one in which somebody has done something.
pub(super) struct GroupConnection {
    conn: Connection,
    turns: Turns,
    open: Option<(Arc<Group>, Instant)>,
}

impl GroupConnection {
    pub(super) fn new(conn: Connection, path: &Path) -> Self {
        Self { conn, turns: Turns::new(path), open: None }
    }

    /// The connection for work of its own: what a group has left open is committed first.
    pub(super) fn alone(&mut self) -> &mut Connection {
        self.commit();
        &mut self.conn
    }

    /// Begins a write transaction of its own; what a group has left open is committed first.
    pub(super) fn begin_alone(&mut self, deadline: Instant) -> rusqlite::Result<Transaction<'_>> {
        self.commit();
        let Self { conn, turns, .. } = self;
        turns.begin(deadline, || Transaction::new_unchecked(conn, TransactionBehavior::Immediate))
    }

    /// Whether a group that is open is to be committed now, though others wait to join it.
    pub(super) fn is_due(&self) -> bool {
        self.open.as_ref().is_some_and(|(_, begun)| begun.elapsed() >= MAX_AGE)
    }

    /// Does the work of one caller in the transaction that is open, or in a new one. `begun` comes first.
    ///
    /// Returns the work's result, and the group to wait for. The caller has to [`commit`](Self::commit), unless another one is sure to
    /// come.
    ///
    /// # Errors
    /// Those of `begun` and `work`. Where SQLite rolled the whole transaction back during the work, as it does on a full disk, that
    /// failure, also where the work returned `Ok`: nothing of it stays, and all others in the group get the failure, too.
    pub(super) fn join<T, E: From<rusqlite::Error>>(
        &mut self,
        deadline: Instant,
        begun: impl FnOnce(&Connection) -> Result<(), E>,
        work: impl FnOnce(&Part<'_>) -> Result<T, E>,
    ) -> Result<(T, Arc<Group>), E> {
        let (group, since) = match &self.open {
            Some((group, since)) => (group.clone(), Some(*since)),
            None => (Arc::default(), None),
        };
        let is_first = since.is_none();
        // The first one needs no savepoint: without its work there is nothing in the transaction.
        if is_first {
            self.turns.begin(deadline, || step(&self.conn, "BEGIN IMMEDIATE"))?;
        } else {
            step(&self.conn, "SAVEPOINT member")?;
        }
        let part = Part { conn: &self.conn, failure: RefCell::default() };
        // A panic in a caller's closure is that caller's; the others' work stays.
        let result = catch_unwind(AssertUnwindSafe(|| begun(&self.conn).and_then(|()| work(&part))));
        let mut failure = part.failure.take();
        if failure.is_none() && self.conn.is_autocommit() {
            failure = Some(rolled_back());
        }
        let is_done = matches!(result, Ok(Ok(_)));
        if failure.is_none() && !is_first {
            // Where one caller's part cannot be undone by itself, nothing of the others stays, either.
            let undone = if is_done { Ok(()) } else { step(&self.conn, "ROLLBACK TO member") };
            let released = undone.and_then(|()| step(&self.conn, "RELEASE member"));
            failure = released.err().map(failure_of);
        }
        match &failure {
            Some(failure) => {
                self.open = None;
                self.roll_back();
                self.make_room();
                group.decide(Err(failure.clone()));
            }
            None if is_first && !is_done => self.roll_back(),
            // Its age counts from when somebody waits for the commit.
            None => self.open = Some((group.clone(), since.unwrap_or_else(Instant::now))),
        }
        match (result, failure) {
            (Ok(Ok(_)), Some((error, message))) => Err(rusqlite::Error::SqliteFailure(error, message).into()),
            (Ok(result), _) => Ok((result?, group)),
            (Err(panic), _) => {
                self.commit();
                resume_unwind(panic)
            }
        }
    }

    /// Commits what a group has left open, and reports the outcome to its members.
    pub(super) fn commit(&mut self) {
        let Some((group, _)) = self.open.take() else { return };
        let outcome = step(&self.conn, "COMMIT");
        if outcome.is_err() {
            // What could not be committed is not to be committed with what comes next.
            self.roll_back();
            self.make_room();
        }
        group.decide(outcome.map_err(failure_of));
    }

    /// Brings the WAL into the database and truncates it, after a write failed: where the disk is full, it may be the WAL that
    /// fills it, and its usual limit does not help then.
    pub(super) fn make_room(&self) {
        // Readers are not waited for.
        let truncated = without_waiting(|| self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
        if let Err(error) = truncated {
            tracing::debug!(%error, "could not bring the WAL into the database");
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

impl Drop for GroupConnection {
    fn drop(&mut self) {
        self.commit();
    }
}

/// One caller's part of a write transaction.
pub(crate) struct Part<'c> {
    conn: &'c Connection,
    /// Why SQLite rolled the whole transaction back, where it did. Then nothing of this part may be written any more: outside
    /// the transaction, each statement would be committed by itself.
    failure: RefCell<Option<Failure>>,
}

impl Part<'_> {
    /// Does one thing whole or not at all, also where the caller goes on after it failed.
    ///
    /// # Errors
    /// Those of `work`. Once SQLite has rolled the whole transaction back, every further step fails as the one did in which that
    /// happened.
    pub(crate) fn step<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        if let Some((error, message)) = &*self.failure.borrow() {
            return Err(rusqlite::Error::SqliteFailure(*error, message.clone()).into());
        }
        let result = step(self.conn, "SAVEPOINT step").map_err(Error::from).and_then(|()| {
            let result = work(self.conn);
            if self.conn.is_autocommit() {
                return result;
            }
            // The first error counts.
            let undone = if result.is_err() { step(self.conn, "ROLLBACK TO step") } else { Ok(()) };
            let released = undone.and_then(|()| step(self.conn, "RELEASE step"));
            result.and_then(|done| Ok(released.map(|()| done)?))
        });
        if self.conn.is_autocommit() {
            let failure = match &result {
                Err(Error::Sqlite { source: rusqlite::Error::SqliteFailure(error, message), .. }) => {
                    (*error, message.clone())
                }
                _ => rolled_back(),
            };
            *self.failure.borrow_mut() = Some(failure);
        }
        result
    }
}

impl Group {
    /// Waits for the outcome of the group's transaction, at most that long; `None` where it is not known by then. Returns when it
    /// was durable.
    pub(super) fn outcome(&self, patience: Duration) -> Option<rusqlite::Result<Instant>> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.decided.wait_timeout_while(outcome, patience, |outcome| outcome.is_none());
        let (outcome, decided) = waited.unwrap_or_else(PoisonError::into_inner).0.clone()?;
        Some(outcome.map(|()| decided).map_err(|(error, message)| rusqlite::Error::SqliteFailure(error, message)))
    }

    fn decide(&self, outcome: Result<(), Failure>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some((outcome, Instant::now()));
        self.decided.notify_all();
    }
}

fn step(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    conn.prepare_cached(sql)?.execute([]).map(drop)
}

fn failure_of(error: rusqlite::Error) -> Failure {
    match error {
        rusqlite::Error::SqliteFailure(error, message) => (error, message),
        other => (ffi::Error::new(ffi::SQLITE_ERROR), Some(other.to_string())),
    }
}

/// The failure of a transaction that SQLite rolled back for an unknown reason.
fn rolled_back() -> Failure {
    let message = "the transaction was rolled back; nothing was changed".to_owned();
    (ffi::Error::new(ffi::SQLITE_ABORT_ROLLBACK), Some(message))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::db::{Closed, Database, Durability, Work};
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

    fn in_group(database: &Database, work: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
        database.write_in_group(Work::Short, |part| part.step(work))
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
                in_group(database, |conn| {
                    begun.store(true, Ordering::SeqCst);
                    while !database.has_waiting_writers() {
                        thread::sleep(Duration::from_millis(1));
                    }
                    first(conn)
                })
            });
            while !begun.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            let other = scope.spawn(move || {
                in_group(database, |conn| {
                    thread::sleep(Duration::from_millis(3));
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
        in_group(&database, works(7)).unwrap();
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
        in_group(&database, |conn| insert(conn, "parent", 2)).unwrap();
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
        assert!(first.unwrap().is_err());
        assert!(second.unwrap().is_err());
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
                            .map(|n| in_group(database, |conn| insert(conn, "parent", thread * 1_000_000 + n)))
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
                        let result = in_group(database, |conn| {
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
