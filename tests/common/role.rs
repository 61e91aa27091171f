//! Processes that are this test program itself, started again in a role. The program needs a test `in_a_role`, which does
//! nothing unless [`role`] says otherwise.

use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::Base;

const ROLE: &str = "STATE_TEST_ROLE";
const BASE: &str = "STATE_TEST_BASE";

/// Starts this program again in a role.
pub fn start(role: &str, base: &Base) -> std::io::Result<(Child, BufReader<ChildStdout>)> {
    start_under(&[], role, base)
}

/// As [`start`], under another program, such as `strace`, with its arguments.
pub fn start_under(program: &[&str], role: &str, base: &Base) -> std::io::Result<(Child, BufReader<ChildStdout>)> {
    let mut child = command(program, role, base.path())?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().expect("its output is piped");
    Ok((child, BufReader::new(output)))
}

/// The command that starts this program again in a role, under another program.
pub fn command(program: &[&str], role: &str, base: &Path) -> std::io::Result<Command> {
    let this = std::env::current_exe()?;
    let mut command = match program {
        [] => Command::new(this),
        [first, others @ ..] => {
            let mut command = Command::new(first);
            command.args(others).arg(this);
            command
        }
    };
    command.args(["--exact", "in_a_role", "--nocapture", "--test-threads=1"]).env(ROLE, role).env(BASE, base);
    Ok(command)
}

/// The lines that a role said, without those of the test runner.
pub fn said(output: &mut impl BufRead) -> impl Iterator<Item = String> {
    output.lines().map_while(Result::ok).filter_map(|line| line.strip_prefix("> ").map(str::to_owned))
}

/// The role of this process and the base directory that it is to work on; `None` in the test program itself.
pub fn role() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(BASE)?.into()))
}

/// Says a line to who started this role, at once.
pub fn say(line: &str) {
    // Not by the system call `write`, which `strace` may make fail. The test runner leaves its own line unfinished.
    let line = format!("\n> {line}\n");
    let out = std::io::stdout().as_fd().try_clone_to_owned().expect("standard output is there");
    let written = File::from(out).write_vectored(&[IoSlice::new(line.as_bytes())]).expect("somebody listens");
    assert_eq!(written, line.len(), "a pipe takes a line whole");
}
