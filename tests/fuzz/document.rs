//! Imports what the fuzzer makes up: nothing panics, an import is all or nothing, and what was imported comes out as a
//! document that is imported again without a loss.
#![no_main]

use std::cell::RefCell;
use std::path::PathBuf;

use agentmux_state::{Error, ImportOptions, StateStore};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static STORE: RefCell<Option<(StateStore, usize)>> = const { RefCell::new(None) };
}

/// An empty state, in memory where there is a file system for that.
fn fresh() -> StateStore {
    let base = if PathBuf::from("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    let dir = base.join(format!("agentmux-state-fuzz-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    StateStore::open(dir).expect("an empty state opens")
}

fn with_store(work: impl FnOnce(&StateStore)) {
    STORE.with_borrow_mut(|slot| {
        // Records set aside stay: a new state from time to time.
        if slot.as_ref().is_none_or(|(_, uses)| *uses > 500) {
            *slot = None;
            *slot = Some((fresh(), 0));
        }
        let Some((store, uses)) = slot else { return };
        *uses += 1;
        work(store);
    });
}

fn clear(store: &StateStore) {
    let state = store.state().expect("what was imported can be read");
    store
        .batch(|batch| {
            state.conversations.iter().try_for_each(|it| batch.remove_conversation(&it.id).map(drop))?;
            state.tasks.iter().try_for_each(|it| batch.remove_task(&it.id).map(drop))?;
            state.agents.iter().try_for_each(|it| batch.remove_agent(&it.session_name).map(drop))?;
            state.projects.iter().try_for_each(|it| batch.remove_project(&it.id).map(drop))?;
            batch.clear_self_improvement().map(drop)
        })
        .expect("entities can be removed");
}

fn export(store: &StateStore) -> Vec<u8> {
    let mut document = Vec::new();
    store.export_json(&mut document).expect("what was imported can be exported");
    document
}

fuzz_target!(|data: &[u8]| {
    let options = ImportOptions::default();
    let validated = StateStore::validate_json(data, &options);
    let strict = StateStore::validate_json(data, &ImportOptions::default().strict(true));
    let Ok(validated) = validated else {
        assert!(strict.is_err(), "what cannot be read is not faultless");
        return;
    };
    let is_faultless = validated.set_aside.is_empty() && validated.warnings.is_empty();
    assert_eq!(strict.is_ok(), is_faultless);
    with_store(|store| {
        let report = match store.import_json(data, options.clone()) {
            Ok(report) => report,
            Err(error) => {
                assert!(!matches!(error, Error::Document { .. }), "{error}");
                assert_eq!(store.summary().expect("it can be read").counts.entities(), 0, "no part of it: {error}");
                return;
            }
        };
        assert_eq!((&report.imported, &report.set_aside), (&validated.imported, &validated.set_aside));
        let first = export(store);
        clear(store);
        let again = store.import_json(first.as_slice(), options.clone()).expect("an export can be imported");
        assert!(again.set_aside.is_empty(), "{again:?}");
        let second = export(store);
        assert!(first == second, "{}\n{}", String::from_utf8_lossy(&first), String::from_utf8_lossy(&second));
        clear(store);
    });
});
