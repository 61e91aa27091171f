//! The program, run as people and scripts run it.

use std::process::{Command, Output};

use serde_json::Value;

use super::Base;

/// The program on a state directory.
pub fn command(base: &Base, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentmux-state"));
    command.arg("--state-dir").arg(base.state_dir()).args(arguments).env_remove("AGENTMUX_STATE_DIR");
    command
}

/// Runs the program and expects that exit status, and no panic.
pub fn run(base: &Base, status: i32, arguments: &[&str]) -> Output {
    let output = command(base, arguments).output().expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {errors}");
    assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
    let found_problems = status == 1 && !output.stdout.is_empty();
    assert_eq!(status == 0 || status == 3 || found_problems, errors.is_empty(), "{arguments:?}: {errors}");
    output
}

/// Its exit status, what it printed, and what it said on standard error.
pub fn outcome(base: &Base, arguments: &[&str]) -> std::io::Result<(Option<i32>, String, String)> {
    let output = command(base, arguments).output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

/// What it printed.
pub fn text(output: Output) -> String {
    String::from_utf8(output.stdout).expect("the output is UTF-8")
}

/// What it said on standard error, where it failed with that exit status and printed nothing.
pub fn error(base: &Base, status: i32, arguments: &[&str]) -> String {
    let output = run(base, status, arguments);
    assert!(output.stdout.is_empty(), "{arguments:?}: errors go to standard error");
    String::from_utf8(output.stderr).expect("errors are UTF-8")
}

/// The JSON document that it printed.
pub fn json(base: &Base, arguments: &[&str]) -> Value {
    json_with(base, 0, arguments)
}

/// The JSON document that it printed, with that exit status.
pub fn json_with(base: &Base, status: i32, arguments: &[&str]) -> Value {
    let output = run(base, status, &[&["--json"], arguments].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}
