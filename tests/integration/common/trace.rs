//! The program under `strace`, which kills it or makes its system calls fail at a chosen moment.

use std::process::Command;

use super::skip::skip;
use super::{Base, TestResult};

/// Whether `strace` is here and may trace.
pub fn can_trace() -> bool {
    let traced = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    let can = traced.is_ok_and(|status| status.success());
    if !can {
        skip("strace is not installed, or may not trace");
    }
    can
}

/// Runs the program with what `strace` injects into those system calls; whether it succeeded, and what it said on standard
/// error.
pub fn run_injected(base: &Base, calls: &str, inject: &str, arguments: &[&str]) -> std::io::Result<(bool, String)> {
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={calls}"))
        .args(["-e"])
        .arg(format!("inject={calls}:{inject}"))
        .arg(env!("CARGO_BIN_EXE_agentmux-state"))
        .args(["-q", "--state-dir"])
        .arg(base.state_dir())
        .args(arguments)
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!errors.contains("ptrace"), "{errors}");
    Ok((output.status.success(), errors))
}

/// Kills the program with SIGKILL at writes all over its work, `step` apart, until it ends by itself; how often. `check` is
/// given the number of the write.
pub fn sweep(
    base: &Base,
    arguments: &[&str],
    step: usize,
    mut check: impl FnMut(usize) -> TestResult,
) -> Result<usize, Box<dyn std::error::Error>> {
    for kills in 0.. {
        let nth = 1 + kills * step;
        let (ended, errors) = run_injected(base, "pwrite64,write", &format!("signal=SIGKILL:when={nth}"), arguments)?;
        assert!(!errors.contains("error:"), "{errors}");
        check(nth)?;
        if ended {
            return Ok(kills);
        }
    }
    Ok(0)
}
