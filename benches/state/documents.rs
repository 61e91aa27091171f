//! Import, export and reading the whole state, beside what Node does with the same file; memory and size.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;
use std::process::Command;

use agentmux_state::{ImportOptions, StateStore};
use serde_json::Value;

use crate::data::{Tasks, fill};
use crate::measure::{Group, Result, Target, Times, Unit, in_turns, timed};
use crate::node::Node;

const ROUNDS: usize = 9;

pub(crate) fn of_34_mb(dir: &Path, mut node: Option<Node>) -> Result<Group> {
    let store = StateStore::open(dir.join("documents"))?;
    fill(&store, 1000, 5000, Tasks::Mixed)?;
    let document = dir.join("document.json");
    let bytes = store.export_to(&document)?.bytes;
    let text = fs::read(&document)?;
    let value: Value = serde_json::from_slice(&text)?;
    let (ours, theirs) = (dir.join("ours.json"), dir.join("theirs.json"));
    let mut node_times = [Vec::new(), Vec::new()];
    let node_times_of = &mut node_times;
    let imported = dir.join("imported");
    let [parsed, written, import, program, export, state] = in_turns(
        0..ROUNDS,
        [
            Box::new(|_| Ok(timed(|| serde_json::from_slice::<Value>(&text).map(drop))?)),
            Box::new(|_| {
                timed(|| {
                    let mut file = File::create(&theirs)?;
                    serde_json::to_writer_pretty(std::io::BufWriter::with_capacity(1 << 16, &mut file), &value)?;
                    Ok(file.sync_all()?)
                })
            }),
            Box::new(|_| {
                clear(&imported)?;
                let store = StateStore::open(&imported)?;
                let file = BufReader::with_capacity(1 << 16, File::open(&document)?);
                Ok(timed(|| store.import_json(file, ImportOptions::default()))?)
            }),
            Box::new(|_| {
                clear(&imported)?;
                let mut command = crate::program(&imported);
                command.arg("import").arg(&document);
                timed(|| crate::run(&mut command))
            }),
            Box::new(|_| Ok(timed(|| store.export_to(&ours))?)),
            Box::new(|_| {
                if let Some(node) = &mut node {
                    node_times_of[0].push(node.load(&document)?);
                    node_times_of[1].push(node.save(&dir.join("node.json"))?);
                }
                Ok(timed(|| store.state().map(drop))?)
            }),
        ],
    )?;
    assert!(fs::read(&ours)? == text, "exported as it was");

    let title = format!("A document of {:.1} MB", bytes as f64 / 1e6);
    let mut group = Group::new(title, Unit::Milliseconds);
    group.times("serde_json: parse into `Value`", &parsed);
    group.times("serde_json: write a `Value`, with fsync", &written);
    if node.is_some() {
        let [load, save] = node_times.map(Times::new);
        group.times("Node: read and `JSON.parse`", &load);
        group.times("Node: `JSON.stringify`, write, fsync, rename", &save);
        let (load, save) = (group.in_unit(load.median()), group.in_unit(save.median()));
        group.times("import_json", &import).over("Node's parse", load).target(Target::AtMost(2.0));
        group
            .times("`agentmux-state import`, the process", &program)
            .over("Node's parse", load)
            .target(Target::AtMost(2.0));
        group.times("export_to, with fsync", &export).over("Node's write", save).target(Target::AtMost(0.5));
        group.times("state(), whole", &state).over("Node's load", load).target(Target::AtMost(0.5));
    } else {
        let (parsed, written) = (group.in_unit(parsed.median()), group.in_unit(written.median()));
        group.times("import_json", &import).over("serde_json", parsed);
        group.times("export_to, with fsync", &export).over("serde_json", written);
        group.times("state(), whole", &state).over("serde_json", parsed);
    }
    Ok(group)
}

/// How much memory the program takes for a document, and how much room the database, beside the document.
pub(crate) fn sizes(dir: &Path, large: &StateStore) -> Result<Group> {
    let document = dir.join("large.json");
    let bytes = large.export_to(&document)?.bytes as f64 / 1e6;
    let imported = dir.join("large-imported");
    let import = peak_memory(crate::program(&imported).arg("import").arg(&document))?;
    let export = peak_memory(crate::program(&imported).arg("export").arg(dir.join("large-again.json")))?;
    assert!(fs::read(&document)? == fs::read(dir.join("large-again.json"))?, "exported as it was");
    let mut group = Group::new("Memory and size", Unit::Megabytes);
    let name = "the document";
    group.value(name, bytes);
    group.value("peak memory of `agentmux-state import`", import).target(Target::AtMost(64.0));
    group.value("peak memory of `agentmux-state export`", export).target(Target::AtMost(64.0));
    let database = fs::metadata(imported.join(agentmux_state::DATABASE_FILE))?.len() as f64 / 1e6;
    group.value("the database after the import", database).over(name, bytes).target(Target::AtMost(1.3));
    large.update_message_index()?;
    let database = fs::metadata(large.state_dir().join(agentmux_state::DATABASE_FILE))?.len() as f64 / 1e6;
    group
        .value("the database, every message indexed for search", database)
        .over(name, bytes)
        .target(Target::AtMost(1.3));
    Ok(group)
}

/// The most memory that a process held at once, in MB: Linux's `VmHWM`, asked for until it ends.
fn peak_memory(command: &mut Command) -> Result<f64> {
    let mut process = command.stdout(std::process::Stdio::null()).spawn()?;
    let status = format!("/proc/{}/status", process.id());
    let mut peak = 0.0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        if let Some(kb) = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()) {
            peak = kb.parse::<f64>()? * 1024.0 / 1e6;
        }
        if let Some(status) = process.try_wait()? {
            assert!(status.success(), "{command:?}");
            return Ok(peak);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn clear(dir: &Path) -> std::io::Result<()> {
    if dir.exists() { fs::remove_dir_all(dir) } else { Ok(()) }
}
