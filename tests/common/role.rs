//! Processes that are this test program itself, started again in a role. The program needs a test `in_a_role`, which does
//! nothing unless [`role`] says otherwise.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::Base;

const ROLE: &str = "STATE_TEST_ROLE";
const BASE: &str = "STATE_TEST_BASE";

/// Starts this program again in a role.
pub fn start(role: &str, base: &Base) -> std::io::Result<(Child, BufReader<ChildStdout>)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "in_a_role", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(BASE, base.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().expect("its output is piped");
    Ok((child, BufReader::new(output)))
}

/// The lines that a role said, without those of the test runner.
pub fn said(output: &mut impl BufRead) -> impl Iterator<Item = String> {
    output.lines().map_while(Result::ok).filter_map(|line| line.strip_prefix("> ").map(str::to_owned))
}

/// The role of this process and the base directory that it is to work on; `None` in the test program itself.
pub fn role() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(BASE)?.into()))
}

/// Says a line to who started this role.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The test runner leaves its own line unfinished.
    writeln!(out, "\n> {line}").and_then(|()| out.flush()).expect("somebody listens");
}
