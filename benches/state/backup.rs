//! What a backup costs, beside a copy of the same bytes with an fsync.

use std::fs::{self, File};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentmux_state::{ProgressCallback, Stage, StateStore, StoreOptions};

use crate::data::{Tasks, fill};
use crate::measure::{Group, Result, Times, Unit, in_turns, timed};

pub(crate) fn beside_cp(dir: &Path) -> Result<Group> {
    let verifying = Arc::new(Mutex::new((Instant::now(), Duration::ZERO)));
    let progress = {
        let verifying = verifying.clone();
        ProgressCallback::new(move |progress| {
            if progress.stage == Stage::Verifying {
                let mut verifying = verifying.lock().expect("no panic");
                if progress.done == 0 {
                    verifying.0 = Instant::now();
                } else {
                    verifying.1 = verifying.0.elapsed();
                }
            }
        })
    };
    let store = StateStore::open_with(dir.join("backup"), StoreOptions::default().progress(progress))?;
    fill(&store, 1000, 5000, Tasks::Mixed)?;
    let source = store.backups().create("source")?;
    let mut unverified = Vec::new();
    let unverified_of = &mut unverified;
    let [copy, create] = in_turns(
        0..11,
        [
            Box::new(|_| {
                let target = dir.join("copy");
                Ok(timed(|| fs::copy(&source.path, &target).and_then(|_| File::open(&target)?.sync_all()))?)
            }),
            Box::new(|round| {
                let took = timed(|| store.backups().create(&format!("round {round}")))?;
                unverified_of.push(took - verifying.lock().expect("no panic").1);
                Ok(took)
            }),
        ],
    )?;
    let mut group =
        Group::new(format!("Backup of a database of {:.1} MB", source.bytes as f64 / 1e6), Unit::Milliseconds);
    let floor = group.in_unit(copy.median());
    group.times("`cp` and fsync of the same bytes", &copy);
    group.times("create_backup, without its verification", &Times::new(unverified)).over("cp", floor);
    group.times("create_backup", &create).over("cp", floor);
    Ok(group)
}
