//! Neither logs nor errors tell what was said.

use std::fs;
use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::common::program::{command, run, text};
use crate::common::role::{role, said, say, start};
use crate::common::{Base, TestResult, conversation, task};
use agentmux_state::{
    CheckpointReason, ImportMode, ImportOptions, PersistedMessage, StateStore, TaskCheckpoint, TaskStatus,
};

/// What was logged by this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const SECRET: &str = "S3CRET-of-a-message";

/// In a process of its own, as the log of a process is one.
#[test]
fn neither_logs_nor_errors_tell_what_was_said() -> TestResult {
    let base = Base::new()?;
    let (mut child, mut output) = start("log", &base)?;
    assert_eq!(said(&mut output).next().as_deref(), Some("nothing was told"));
    assert!(child.wait()?.success());
    Ok(())
}

/// In the process that the test starts; else it does nothing.
#[test]
fn in_a_role() -> TestResult {
    if role().is_none() {
        return Ok(());
    }
    let log = Log::default();
    let for_log = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || for_log.clone())
        .init();
    let base = Base::new()?;
    let errors = &mut Vec::new();
    let service = base.service();
    service.initialize()?;
    let secret = PersistedMessage { content: SECRET.into(), ..PersistedMessage::default() };
    service.update_conversation(&conversation("C-1", 0..3))?;
    service.append_message("C-1", &secret)?;
    errors.push(service.append_message("gone", &secret).unwrap_err().to_string());
    let mut with_secret = task("T-1", TaskStatus::InProgress);
    with_secret.description = SECRET.into();
    service.update_task(&with_secret)?;
    with_secret.progress.percent_complete = f64::NAN;
    errors.push(service.update_task(&with_secret).unwrap_err().to_string());
    with_secret.progress.percent_complete = 1.0;
    let deep = serde_json::from_str(&format!("{{\"x\": {}\"{SECRET}\"{}}}", "[".repeat(110), "]".repeat(110)))?;
    with_secret.checkpoint = Some(TaskCheckpoint { work_data: Some(deep), ..TaskCheckpoint::default() });
    errors.push(service.update_task(&with_secret).unwrap_err().to_string());
    service.save_state(CheckpointReason::UserRequest)?;
    let backup = service.create_backup("x")?;
    service.restore_from_backup(&backup)?;
    service.store()?.search(SECRET, 10)?;
    service.prepare_for_shutdown()?;
    errors.push(service.append_message("C-1", &secret).unwrap_err().to_string());

    // Documents in which it stands where something is wrong.
    let message = |content: &str| {
        format!(
            r#"{{"version": "1.0.0", "conversations": [{{"id": "C-9", "source": "chat", "lastActivityAt": "", "recentMessages": [
                {{"role": "user", "timestamp": "", "content": {content}}}]}}]}}"#
        )
    };
    let documents = [
        message(&format!("[\"{SECRET}\"]")),
        message(&format!("{{\"text\": \"{SECRET}\"}}")),
        message(&format!("\"{SECRET}\\ud83d\"")),
        message(&format!("\"{SECRET}\", \"content\": \"{SECRET}\"")),
        message(&format!("\"{SECRET}\", \"x\": 1e999")),
        message(&format!("\"{SECRET}\\q\"")),
        message(&format!("\"{SECRET}\u{1}\"")),
        message(&format!("\"{SECRET}")),
        message(&format!("\"{SECRET}\" {SECRET}")),
        message(SECRET),
        message(&format!("\"{SECRET}\", \"deep\": {}{}", "[".repeat(200), "]".repeat(200))),
        format!(
            r#"{{"version": "1.0.0", "checkpointReason": ["{SECRET}"], "metadata": "{SECRET}", "tasks": "{SECRET}"}}"#
        ),
        format!("\"{SECRET}\""),
        SECRET.to_owned(),
    ];
    let file = base.path().join("document.json").display().to_string();
    for (number, document) in documents.iter().enumerate() {
        fs::write(&file, document)?;
        let merge = ImportOptions::default().mode(ImportMode::Merge);
        match StateStore::validate_json(document.as_bytes(), &merge) {
            Ok(report) => {
                errors.extend(report.set_aside.into_iter().flat_map(|it| [it.path, it.reason]));
                errors.extend(report.warnings.into_iter().flat_map(|it| [it.path, it.message]));
            }
            Err(error) => errors.push(format!("{error} {error:?}")),
        }
        for arguments in
            [&["-vvv", "import", "--merge", &file][..], &["-vvv", "import", "--strict", "--replace", &file]]
        {
            let output = command(&base, arguments).output()?;
            assert!(output.status.code() == Some(1) || number != 7, "it is cut off");
            errors.push(String::from_utf8_lossy(&output.stderr).into_owned());
            errors.push(String::from_utf8_lossy(&output.stdout).into_owned());
        }
    }
    let store = base.store()?;
    assert!(store.set_aside()?.iter().any(|record| record.content.contains(SECRET)), "there it is kept");
    errors.extend(store.set_aside()?.into_iter().flat_map(|record| [record.path, record.reason]));
    let failing = |errors: &mut Vec<String>| -> TestResult {
        for arguments in [
            &["status"][..],
            &["check"],
            &["export"],
            &["checkpoint"],
            &["backup", "create"],
            &["backup", "verify"],
            &["migrate"],
            &["prune", "--completed-before", "1s", "--dry-run"],
            &["backup", "restore", &backup],
        ] {
            let output = command(&base, &[&["-vvv"], arguments].concat()).output()?;
            errors.push(String::from_utf8_lossy(&output.stderr).into_owned());
            errors.push(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Ok(())
    };
    drop(store);
    failing(errors)?;
    // Rows that cannot be read, as a person's edit leaves them.
    for sql in [
        format!("UPDATE messages SET extra = '{SECRET}'"),
        format!("UPDATE messages SET extra = '[\"{SECRET}\"]'"),
        format!("UPDATE tasks SET extra = '{{\"x\": {SECRET}}}'"),
        format!("UPDATE messages SET content = CAST(x'ff' || '{SECRET}' AS TEXT), extra = NULL"),
    ] {
        base.sql()?.execute_batch(&sql)?;
        let store = base.store()?;
        errors.extend(store.state().err().map(|error| format!("{error} {error:?}")));
        errors.extend(store.conversation("C-1").err().map(|error| error.to_string()));
        errors.extend(store.append_message("C-1", &secret).err().map(|error| error.to_string()));
        errors.extend(store.search(SECRET, 1).err().map(|error| error.to_string()));
        drop(store);
        failing(errors)?;
    }
    for said in errors.iter() {
        assert!(!said.contains("S3CRET"), "{said}");
    }
    let logged = String::from_utf8_lossy(&log.0.lock().expect("no panic")).into_owned();
    assert!(logged.contains("made a backup") && !logged.contains("S3CRET"), "{logged}");
    assert!(text(run(&base, 0, &["backup", "list"])).contains("x"));
    say("nothing was told");
    Ok(())
}
