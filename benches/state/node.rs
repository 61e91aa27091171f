//! The approach that this replaces, in Node, where there is one.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::measure::Result;

/// A Node process that loads and saves documents and says how long it took.
pub(crate) struct Node {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Node {
    /// `None` where there is no Node.
    pub(crate) fn start() -> Option<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/state/node.mjs");
        let spawned = Command::new("node").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut process) = spawned else {
            println!("\nNode is missing: what it would be compared with is left out.");
            return None;
        };
        let input = process.stdin.take()?;
        let output = BufReader::new(process.stdout.take()?);
        Some(Self { process, input, output })
    }

    /// `JSON.parse` of the file, with reading it.
    pub(crate) fn load(&mut self, file: &Path) -> Result<Duration> {
        self.tell("load", file)
    }

    /// Stringify and write, durably: what was loaded, one field changed.
    pub(crate) fn save(&mut self, file: &Path) -> Result<Duration> {
        self.tell("save", file)
    }

    fn tell(&mut self, command: &str, file: &Path) -> Result<Duration> {
        writeln!(self.input, "{command} {}", file.display())?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        Ok(Duration::from_secs_f64(answer.trim().parse::<f64>()? / 1e3))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
