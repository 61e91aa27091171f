//! Processes that are this test program itself, started again in a role. A module that starts one has a test `in_a_role`, which
//! does nothing unless [`role`] says otherwise.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Write};
use std::os::fd::AsFd;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::Base;

const ROLE: &str = "STATE_TEST_ROLE";
const BASE: &str = "STATE_TEST_BASE";

/// Starts this program again in a role of the calling module.
#[track_caller]
pub fn start(role: &str, base: &Base) -> std::io::Result<(Child, BufReader<ChildStdout>)> {
    start_under(&[], role, base)
}

/// As [`start`], under another program, such as `strace`, with its arguments.
#[track_caller]
pub fn start_under(program: &[&str], role: &str, base: &Base) -> std::io::Result<(Child, BufReader<ChildStdout>)> {
    let mut child = command(program, role, base.path())?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().expect("its output is piped");
    Ok((child, BufReader::new(output)))
}

/// The command that starts this program again in a role of the calling module, under another program.
#[track_caller]
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
    let test = format!("{}::in_a_role", calling_module());
    command.args(["--exact", &test, "--nocapture", "--test-threads=1"]).env(ROLE, role).env(BASE, base);
    Ok(command)
}

/// The top module of the file that calls: `guards` of `tests/integration/guards.rs`, `crash` of `tests/integration/crash/kill.rs`.
#[track_caller]
fn calling_module() -> &'static str {
    let file = Path::new(Location::caller().file());
    let of_tests = Path::new(file!()).parent().and_then(Path::parent).expect("this file lies in `common`");
    let module =
        file.strip_prefix(of_tests).ok().and_then(|path| path.components().next()).expect("a module of the tests");
    Path::new(module.as_os_str()).file_stem().and_then(OsStr::to_str).expect("the name of a module")
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
