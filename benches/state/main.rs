//! What things cost, each beside a floor or a rival that is measured in the same run, in turns.
//!
//! `cargo bench` runs all; `cargo bench -- updates readers` some. Prints tables, and writes the figures as JSON to
//! `target/benchmarks.json`.
#![allow(clippy::expect_used)]

mod backup;
mod data;
mod documents;
mod measure;
mod node;
mod reads;
mod updates;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use agentmux_state::StateStore;
use measure::{Group, Result};
use node::Node;
use updates::State;

const NAMES: [&str; 8] = ["updates", "group", "file", "documents", "readers", "backup", "large", "sizes"];

fn main() -> Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = asked.iter().find(|name| !NAMES.contains(&name.as_str())) {
        return Err(format!("there is no benchmark {unknown:?}; there are {}", NAMES.join(", ")).into());
    }
    let is_due = |name: &str| asked.is_empty() || asked.iter().any(|asked| asked == name);
    let dir = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target"))?;
    let dir = dir.path();
    let machine = machine();
    println!("{machine}");
    let mut groups = Vec::new();
    let mut add = |group: Group| {
        print!("{}", group.table());
        groups.push(group);
    };
    if is_due("updates") {
        add(updates::beside_sqlite(dir)?);
    }
    if is_due("group") {
        add(updates::together(dir)?);
    }
    if is_due("file")
        && let Some(mut node) = Node::start()
    {
        add(updates::beside_the_file(dir, &mut node)?);
    }
    if is_due("documents") {
        add(documents::of_34_mb(dir, Node::start())?);
    }
    if is_due("readers") {
        add(reads::beside_writers(dir)?);
    }
    if is_due("backup") {
        add(backup::beside_cp(dir)?);
    }
    if is_due("large") || is_due("sizes") {
        let store = StateStore::open(dir.join("large"))?;
        let large = State { store: &store, conversations: 20_000, tasks: 100_000 };
        large.fill()?;
        if is_due("large") {
            add(reads::of_a_large_state(&large)?);
            add(updates::beside_a_large_state(dir, &large)?);
        }
        if is_due("sizes") {
            add(documents::sizes(dir, &store)?);
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/benchmarks.json");
    fs::write(path, serde_json::to_string_pretty(&serde_json::json!({ "machine": machine, "groups": groups }))?)?;
    println!("\nAs JSON in target/benchmarks.json");
    Ok(())
}

/// When and on what this was measured.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let system = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let today = chrono::Utc::now().format("%Y-%m-%d");
    format!("{today}, {cores} cores, {}, Linux {}", model.unwrap_or(std::env::consts::ARCH), system.trim())
}

/// The program on a state directory, quiet.
fn program(state_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentmux-state"));
    command.arg("--state-dir").arg(state_dir).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}
