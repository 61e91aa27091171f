//! The README's commands, run as a reader would run them, and the schema as the `sqlite3` shell shows it.

use std::process::Command;

use crate::common::skip::requires;
use crate::common::{Base, TestResult};

const README: &str = include_str!("../../README.md");

/// The commands in the README's console blocks, each with the output below it.
fn commands() -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for block in README.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap_or_default().lines() {
            match (line.strip_prefix("$ "), commands.last_mut()) {
                (Some(command), _) => commands.push((command.to_owned(), String::new())),
                (None, _) if line.starts_with("# ") => {}
                (None, Some((_, output))) => *output += &format!("{line}\n"),
                (None, None) => panic!("output before the first command: {line}"),
            }
        }
    }
    commands
}

#[test]
fn every_command_of_the_readme_does_what_it_says() -> TestResult {
    let base = Base::new()?;
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_agentmux-state"));
    let path = format!("{}:{}", program.parent().expect("its folder").display(), std::env::var("PATH")?);
    std::os::unix::fs::symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"), base.path().join("tests"))?;
    let has_sqlite3 = requires(&["sqlite3"]);
    let commands = commands();
    assert!(commands.len() > 10);
    for (command, expected) in commands {
        if command.starts_with("sqlite3") && !has_sqlite3 {
            continue;
        }
        let output = Command::new("bash")
            .args(["-c", &command])
            .current_dir(base.path())
            .env("PATH", &path)
            .env("HOME", base.path())
            .env_remove("AGENTMUX_STATE_DIR")
            .output()?;
        let printed = String::from_utf8(output.stdout)?;
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{command}: {:?}",
            String::from_utf8(output.stderr)
        );
        assert!(expected.is_empty() || printed == expected, "{command}:\n{printed}");
    }
    Ok(())
}

#[test]
fn the_readme_shows_the_commands_that_run_and_test() {
    assert!(README.contains("cargo run --release --example survives_a_kill\n"));
    assert!(README.contains("```sh\ncargo test\n```"));
}

#[test]
fn the_demonstration_finds_every_acknowledged_update() -> TestResult {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--example", "survives_a_kill"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    let printed = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("Every acknowledged update is there."), "{printed}");
    assert!(printed.contains("\"resumeOrder\""), "{printed}");
    Ok(())
}

#[test]
fn the_schema_reads_as_documentation_in_the_shell() -> TestResult {
    if !requires(&["sqlite3"]) {
        return Ok(());
    }
    let base = Base::new()?;
    base.store()?;
    let database = base.file("state.db");
    let shell = |sql: &str| -> Result<String, Box<dyn std::error::Error>> {
        let output = Command::new("sqlite3").arg("-readonly").arg(&database).arg(sql).output()?;
        assert!(output.stderr.is_empty(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    assert_eq!(shell("PRAGMA integrity_check")?, "ok\n");
    let undocumented = "SELECT name FROM sqlite_schema
                        WHERE type IN ('table', 'view') AND name NOT LIKE 'refinery%'
                        AND name NOT IN (SELECT name FROM pragma_table_list WHERE type = 'shadow')
                        AND sql NOT LIKE '%  -- %' AND sql NOT LIKE '%/* Which %'";
    assert_eq!(shell(undocumented)?, "");
    assert_eq!(
        shell(
            "SELECT name FROM pragma_table_list WHERE type = 'table' AND schema = 'main' AND NOT strict
                      AND name NOT LIKE 'sqlite%' AND name NOT LIKE 'refinery%'"
        )?,
        ""
    );
    let schema = shell(".schema")?;
    for explanation in
        ["-- A conversation with a person or a program", "pending | in_progress | blocked", "/* normal | onboarding"]
    {
        assert!(schema.contains(explanation), "{explanation}");
    }
    Ok(())
}
