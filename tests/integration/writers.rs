//! Writers beside each other: nobody starves, nobody waits beyond a deadline, nobody waits for itself.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::role::{role, said, say, start};
use crate::common::{Base, Ends, FIXTURE, TestResult, conversation, import, message, task};
use agentmux_state::{Error, ImportOptions, ProgressCallback, StateStore, StoreOptions, TaskStatus};

/// In the processes that other tests start; else it does nothing.
#[test]
fn in_a_role() -> TestResult {
    let Some((role, base)) = role() else { return Ok(()) };
    match role.as_str() {
        "checkpoints" => checkpoints(&base),
        other => panic!("no role {other}"),
    }
}

/// Writes now and then, and says how long each write took in microseconds.
fn checkpoints(base: &Path) -> TestResult {
    let store = StateStore::open(base.join(".agentmux/state"))?;
    for number in 0..40 {
        let start = Instant::now();
        store.update_task(&task(&format!("other-{number}"), TaskStatus::Pending))?;
        say(&start.elapsed().as_micros().to_string());
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn updates_that_fail_without_a_pause_starve_nobody() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let is_done = AtomicBool::new(false);
    let failures = AtomicU64::new(0);
    let slowest = thread::scope(|scope| {
        let ends = Ends(&is_done);
        for _ in 0..8 {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    let error = store.append_message("no such conversation", &message(1)).expect_err("it is not there");
                    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
                    failures.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(Duration::from_millis(200));
        let slowest = (0..50).map(|number| {
            let start = Instant::now();
            let updated = store.update_task(&task(&format!("T-{number}"), TaskStatus::Pending));
            updated.map(|()| start.elapsed())
        });
        let slowest = slowest.collect::<Result<Vec<_>, _>>().map(|all| all.into_iter().max().unwrap_or_default());
        drop(ends);
        slowest
    })?;
    println!("slowest update {slowest:?} beside {} failures", failures.into_inner());
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    Ok(())
}

#[test]
fn an_update_does_not_wait_for_a_batch_that_came_later() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let began = Barrier::new(2);
    thread::scope(|scope| -> TestResult {
        let short = scope.spawn(|| {
            let start = Instant::now();
            let result = store.batch(|batch| {
                began.wait();
                thread::sleep(Duration::from_millis(50));
                batch.update_task(&task("short", TaskStatus::Pending))
            });
            result.map(|()| start.elapsed())
        });
        began.wait();
        let long = scope.spawn(|| {
            store.batch(|batch| {
                thread::sleep(Duration::from_secs(1));
                batch.update_task(&task("long", TaskStatus::Pending))
            })
        });
        let took = short.join().expect("no panic")?;
        assert!(took < Duration::from_millis(500), "{took:?}");
        long.join().expect("no panic")?;
        Ok(())
    })
}

#[test]
fn an_update_does_not_wait_for_a_batch_that_waits_for_it() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    // However short the batches before were.
    for number in 0..40 {
        store.batch(|batch| batch.update_task(&task(&format!("T-{number}"), TaskStatus::Pending)))?;
    }
    let holder = base.sql()?;
    holder.execute_batch("BEGIN IMMEDIATE")?;
    let (updated, is_updated) = mpsc::channel();
    thread::scope(|scope| -> TestResult {
        let store = &store;
        let update = scope.spawn(move || {
            let result = store.update_task(&task("update", TaskStatus::Pending));
            let _ = updated.send(());
            result
        });
        thread::sleep(Duration::from_millis(100));
        let batch = scope.spawn(move || {
            store.batch(move |batch| {
                batch.update_task(&task("batch", TaskStatus::Pending))?;
                Ok::<_, Error>(is_updated.recv_timeout(Duration::from_secs(5)).is_ok())
            })
        });
        thread::sleep(Duration::from_millis(100));
        holder.execute_batch("ROLLBACK")?;
        update.join().expect("no panic")?;
        assert!(batch.join().expect("no panic")?, "the update was there before the batch ended");
        Ok(())
    })
}

#[test]
fn behind_a_held_lock_each_caller_waits_for_one_time_out() -> TestResult {
    let base = Base::new()?;
    let options = StoreOptions::default().write_timeout(Duration::from_secs(1));
    let store = StateStore::open_with(base.state_dir(), options)?;
    store.update_task(&task("T-1", TaskStatus::Pending))?;
    let holder = base.sql()?;
    holder.execute_batch("BEGIN IMMEDIATE")?;
    let began = Instant::now();
    thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|number| {
                let store = &store;
                scope.spawn(move || {
                    let start = Instant::now();
                    let task = task(&format!("T-{number}"), TaskStatus::Paused);
                    let result = match number % 3 {
                        0 => store.update_task(&task),
                        1 => store.batch(|batch| batch.update_task(&task)),
                        _ => store.record_checkpoint(&"scheduled".into()).map(drop),
                    };
                    (result, start.elapsed())
                })
            })
            .collect();
        for caller in callers {
            let (result, took) = caller.join().expect("no panic");
            assert!(matches!(result, Err(Error::Busy { .. })), "{result:?}");
            assert!((950..3000).contains(&took.as_millis()), "{took:?}");
        }
    });
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(store.state()?.tasks.len(), 1);
    holder.execute_batch("ROLLBACK")?;
    store.update_task(&task("T-2", TaskStatus::Pending))?;
    Ok(())
}

/// How many updates eight threads make without a pause while `beside` works.
fn updates_beside(store: &StateStore, beside: impl FnOnce() -> TestResult) -> Result<f64, Box<dyn std::error::Error>> {
    let is_done = AtomicBool::new(false);
    let updates = AtomicU64::new(0);
    thread::scope(|scope| {
        let ends = Ends(&is_done);
        let writers: Vec<_> = (0..8)
            .map(|thread| {
                let (is_done, updates) = (&is_done, &updates);
                scope.spawn(move || -> agentmux_state::Result<()> {
                    let mut task = task(&format!("T-{thread}"), TaskStatus::InProgress);
                    for number in 0.. {
                        if is_done.load(Ordering::Relaxed) {
                            break;
                        }
                        task.progress.percent_complete = f64::from(number % 100);
                        store.update_task(&task)?;
                        updates.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        let start = Instant::now();
        let result = beside();
        let seconds = start.elapsed().as_secs_f64();
        drop(ends);
        for writer in writers {
            writer.join().expect("no panic")?;
        }
        result?;
        Ok(updates.load(Ordering::Relaxed) as f64 / seconds)
    })
}

#[test]
fn another_process_gets_its_turn_beside_threads_that_write_without_a_pause() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let alone = updates_beside(&store, || {
        thread::sleep(Duration::from_secs(1));
        Ok(())
    })?;
    let mut waits = Vec::new();
    let beside = updates_beside(&store, || {
        let (mut child, mut output) = start("checkpoints", &base)?;
        waits.extend(said(&mut output).map(|line| line.parse::<u64>().expect("microseconds")));
        assert!(child.wait()?.success());
        Ok(())
    })?;
    waits.sort_unstable();
    let slowest = *waits.last().expect("it wrote");
    println!(
        "waits of the other process: median {} us, slowest {slowest} us; {beside:.0} updates a second beside it, {alone:.0} alone",
        waits[waits.len() / 2]
    );
    assert_eq!(waits.len(), 40);
    assert!(slowest < 1_000_000, "{waits:?}");
    Ok(())
}

/// A process that is stopped while it waits for its turn stops nobody else.
#[test]
fn a_stopped_process_in_the_queue_is_passed_by() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_task(&task("T-1", TaskStatus::Pending))?;
    let queue = fs::File::open(base.file("writers.lock"))?;
    queue.lock()?;
    let start = Instant::now();
    for number in 0..200 {
        thread::sleep(Duration::from_millis(1));
        store.update_task(&task(&format!("T-{number}"), TaskStatus::Pending))?;
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    Ok(())
}

fn is_nested<T>(result: agentmux_state::Result<T>) -> bool {
    matches!(result, Err(Error::NestedWrite { .. }))
}

#[test]
fn a_write_from_inside_a_write_is_an_error_and_harms_nothing() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store
        .batch(|batch| {
            batch.update_task(&task("T-1", TaskStatus::Pending))?;
            assert!(is_nested(store.update_task(&task("T-2", TaskStatus::Pending))));
            assert!(is_nested(store.batch(|_| Ok::<_, Error>(()))));
            assert!(is_nested(store.record_checkpoint(&"scheduled".into())));
            assert!(is_nested(store.refresh_export()));
            assert!(is_nested(store.import_json(FIXTURE.as_bytes(), ImportOptions::default())));
            assert!(store.task("T-1")?.is_none(), "a read sees the state before the batch");
            // Another state is another matter.
            let other = Base::new()?;
            other.store()?.update_task(&task("T-9", TaskStatus::Pending))?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        })
        .map_err(|error| error.to_string())?;
    assert_eq!(store.state()?.tasks.len(), 1);

    /// A document that writes to the store while it is read.
    struct Writes<'d>(&'d [u8], StateStore, bool);
    impl Read for Writes<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.2 |= is_nested(self.1.update_task(&task("T-3", TaskStatus::Pending)));
            self.0.read(buffer)
        }
    }
    let base = Base::new()?;
    let store = base.store()?;
    let mut document = Writes(FIXTURE.as_bytes(), store.clone(), false);
    store.import_json(io::BufReader::new(&mut document), ImportOptions::default())?;
    assert!(document.2);
    assert!(store.task("T-3")?.is_none() && store.task("task-3")?.is_some());

    let base = Base::new()?;
    let inner = Arc::new(std::sync::Mutex::new(None::<StateStore>));
    let seen = Arc::new(AtomicBool::new(false));
    let (for_callback, was_nested) = (inner.clone(), seen.clone());
    let progress = ProgressCallback::new(move |_| {
        if let Some(store) = &*for_callback.lock().unwrap() {
            let nested = is_nested(store.update_task(&task("T-4", TaskStatus::Pending)));
            was_nested.fetch_or(nested, Ordering::Relaxed);
        }
    });
    let store = StateStore::open_with(base.state_dir(), StoreOptions::default().progress(progress))?;
    import(&store, FIXTURE)?;
    let backup = store.backups().create("good")?;
    *inner.lock().unwrap() = Some(store.clone());
    store.backups().restore(&backup.id)?;
    assert!(seen.load(Ordering::Relaxed), "the callback was called while the state was replaced");
    *inner.lock().unwrap() = None;
    store.update_task(&task("T-5", TaskStatus::Pending))?;
    Ok(())
}

#[test]
fn a_shutdown_from_inside_a_batch_is_an_error() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    service.store()?.batch(|_| {
        assert!(is_nested(service.prepare_for_shutdown()));
        assert!(is_nested(service.save_state("scheduled".into())));
        assert!(base.service().initialize().is_err(), "nor is it taken over");
        Ok::<_, Error>(())
    })?;
    assert!(service.is_initialized());
    service.update_task(&task("T-1", TaskStatus::Pending))?;
    Ok(service.prepare_for_shutdown()?)
}

/// A sink that takes nothing until it is released.
struct SlowSink(Arc<Barrier>, Arc<Barrier>, bool);

impl Write for SlowSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.2 {
            self.2 = true;
            self.0.wait();
            self.1.wait();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn slow_exports_keep_nobody_from_reading() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    let (begun, released) = (Arc::new(Barrier::new(11)), Arc::new(Barrier::new(11)));
    thread::scope(|scope| -> TestResult {
        let exports: Vec<_> = (0..10)
            .map(|_| {
                let sink = SlowSink(begun.clone(), released.clone(), false);
                let store = &store;
                scope.spawn(move || store.export_json(sink))
            })
            .collect();
        begun.wait();
        let start = Instant::now();
        let read = store.state().map(|state| state.tasks.len());
        let updated = store.update_task(&task("T-1", TaskStatus::Pending));
        let took = start.elapsed();
        released.wait();
        for export in exports {
            export.join().expect("no panic")?;
        }
        assert_eq!(read?, 24);
        updated?;
        assert!(took < Duration::from_secs(2), "{took:?}");
        Ok(())
    })
}

#[test]
fn overlapping_readers_do_not_let_the_wal_grow_without_bound() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.batch(|batch| {
        (0..40).try_for_each(|number| batch.update_conversation(&conversation(&format!("C-{number}"), 0..50)))
    })?;
    let is_done = AtomicBool::new(false);
    let largest = thread::scope(|scope| -> Result<u64, Box<dyn std::error::Error>> {
        let ends = Ends(&is_done);
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    store.state().expect("it can be read");
                }
            });
        }
        let mut large = task("T-large", TaskStatus::InProgress);
        let mut largest = 0;
        let mut written = 0_u64;
        let updated = (0..4000_u32).try_for_each(|number| {
            large.description = number.to_string().repeat(20_000);
            written += large.description.len() as u64;
            largest = largest.max(fs::metadata(base.file("state.db-wal")).map_or(0, |wal| wal.len()));
            store.update_task(&large)
        });
        drop(ends);
        updated?;
        println!("{} MB written, the WAL had {} MB at most", written >> 20, largest >> 20);
        Ok(largest)
    })?;
    assert!(largest < 96 << 20, "{largest}");
    Ok(())
}
