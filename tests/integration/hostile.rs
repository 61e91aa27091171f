//! Documents, names and settings made to do harm: refused, or harmless.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::program::{command, run};
use crate::common::role::{role, said, say, start_under};
use crate::common::{Base, FIXTURE, TestResult, conversation, export, import};
use agentmux_state::{CheckpointReason, Error, ImportMode, ImportOptions, StateStore};
use serde_json::json;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fuzz");

/// What the fuzzer found worth keeping (see tests/fuzz): each is imported whole or not at all, and what was imported comes out
/// as a document that loses nothing when it is imported again.
#[test]
fn no_document_of_the_fuzzers_panics_or_is_imported_in_part() -> TestResult {
    let (base, again) = (Base::new()?, Base::new()?);
    let (store, other) = (base.store()?, again.store()?);
    let merge = || ImportOptions::default().mode(ImportMode::Merge);
    let clear = |store: &StateStore| {
        store.import_json(
            &br#"{"version": "1.0.0"}"#[..],
            ImportOptions::default().mode(ImportMode::Replace).allow_shrink(true),
        )
    };
    let (mut imported, mut refused) = (0, 0);
    for entry in fs::read_dir(CORPUS)? {
        let path = entry?.path();
        let document = fs::read(&path)?;
        let validated = StateStore::validate_json(document.as_slice(), &ImportOptions::default());
        let result = store.import_json(document.as_slice(), merge());
        let is_empty = store.summary()?.counts.entities() == 0;
        match (result, validated) {
            (Ok(report), Ok(validated)) => {
                imported += 1;
                assert_eq!(report.set_aside, validated.set_aside, "{}", path.display());
                let first = export(&store)?;
                let report = other.import_json(first.as_bytes(), merge())?;
                assert_eq!(report.set_aside, [], "{}", path.display());
                if !is_empty {
                    assert_eq!(other.state()?.tasks, store.state()?.tasks, "{}", path.display());
                    assert_eq!(other.state()?.conversations, store.state()?.conversations, "{}", path.display());
                    clear(&store)?;
                    clear(&other)?;
                    // Each of them has made a backup.
                    for base in [&base, &again] {
                        fs::remove_dir_all(base.file("backups"))?;
                        fs::create_dir(base.file("backups"))?;
                    }
                }
            }
            (Err(_), Err(_)) => {
                refused += 1;
                assert!(is_empty, "{}: it was imported in part", path.display());
            }
            (result, validated) => panic!("{}: {result:?}, but validating: {validated:?}", path.display()),
        }
    }
    assert!(imported > 20 && refused > 20, "{imported} imported, {refused} refused");
    Ok(())
}

/// The program with no more memory than that, given a document; its exit status and what it said.
fn import_within(megabytes: u32, arguments: &str, document: &[u8]) -> std::io::Result<(Option<i32>, String)> {
    let base = Base::new()?;
    let file = base.path().join("document.json");
    fs::write(&file, document)?;
    let script = format!(
        "ulimit -v {}; exec '{}' --state-dir '{}' import {arguments} '{}'",
        megabytes * 1024,
        env!("CARGO_BIN_EXE_agentmux-state"),
        base.state_dir().display(),
        file.display()
    );
    let output = Command::new("sh").args(["-c", &script]).stdout(Stdio::null()).output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn a_record_that_is_too_large_is_a_typed_error_and_nothing_changes() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    let long = "x".repeat(100_000);
    let documents = [
        format!(
            "{{\"version\": \"1.0.0\", \"agents\": [],\n\"conversations\": [{{\"id\": \"C\", \"x\": \"{long}\"}}]}}"
        ),
        format!("{{\"version\": \"1.0.0\",\n\"unknown\": [\"{long}\"]}}"),
        format!("{{\"version\": \"1.0.0\",\n\"tasks\": [{}7]}}", " 1,".repeat(5) + &format!("\"{long}\",")),
        format!("{{\"version\": \"1.0.0\",\n\"{long}\": 1}}"),
        // One by one they would be small enough.
        format!(
            "{{\"version\": \"1.0.0\",\n{} \"tasks\": []}}",
            (0..2000).map(|n| format!("\"u{n}\": 1, ")).collect::<String>()
        ),
    ];
    for document in &documents {
        let options =
            |max_record_bytes| ImportOptions::default().mode(ImportMode::Merge).max_record_bytes(max_record_bytes);
        let result = store.import_json(document.as_bytes(), options(50_000));
        assert!(matches!(result, Err(Error::DocumentTooLarge { line: 2, limit: 50_000, .. })), "{result:?}");
        assert!(!result.unwrap_err().to_string().contains("xxxx"));
        assert!(export(&store)? == FIXTURE, "nothing changed");
        assert!(StateStore::validate_json(document.as_bytes(), &options(300_000)).is_ok());
    }
    let megabytes = format!("{{\"version\": \"1.0.0\", \"tasks\": [\"{}\"]}}", "x".repeat(3 << 20));
    let (status, errors) = import_within(4096, "--max-record-mb 2", megabytes.as_bytes())?;
    assert!(status == Some(1) && errors.contains("line 1: a record is larger than 2097152 bytes"), "{errors}");
    assert_eq!(import_within(4096, "", megabytes.as_bytes())?.0, Some(3));
    Ok(())
}

#[test]
fn memory_stays_bounded_whatever_a_document_holds() -> TestResult {
    // Each would take gigabytes as values, or be told of a million times.
    let many = |what: &str, times: usize| what.repeat(times);
    let unknown = format!("{{\"version\": \"1.0.0\", \"u\": [{}0]}}", many("{},", 10_000_000));
    let record = format!("{{\"version\": \"1.0.0\", \"tasks\": [[{}0]]}}", many("[],", 10_000_000));
    for document in [unknown, record] {
        let (status, errors) = import_within(500, "", document.as_bytes())?;
        assert_eq!((status, errors.as_str()), (Some(3), ""));
    }
    let problems = format!("{{\"version\": \"1.0.0\", \"tasks\": [{}0]}}", many("0,", 1_500_000));
    let (status, errors) = import_within(300, "--strict", problems.as_bytes())?;
    assert_eq!(status, Some(1), "{}", &errors[..errors.len().min(300)]);
    assert!(errors.contains("1400001 more were set aside"), "{}", &errors[..errors.len().min(300)]);
    Ok(())
}

#[test]
fn many_bad_parts_in_a_large_record_do_not_take_minutes() -> TestResult {
    let message = |number: usize| match number % 2 {
        0 => json!({"role": "user", "content": "x".repeat(10_000), "timestamp": ""}),
        _ => json!({"role": "user", "content": 7, "timestamp": ""}),
    };
    let messages: Vec<_> = (0..1900).map(message).collect();
    let talk = json!({"id": "C", "source": "chat", "recentMessages": messages, "lastActivityAt": ""});
    let document = serde_json::to_string_pretty(&json!({"version": "1.0.0", "conversations": [talk]}))?;
    let start = std::time::Instant::now();
    let base = Base::new()?;
    let report = import(&base.store()?, &document)?;
    assert_eq!((report.set_aside.len(), report.imported.messages), (950, 950));
    assert_eq!(report.set_aside[949].path, "$.conversations[0].recentMessages[1899]");
    let content = serde_json::from_str::<serde_json::Value>(&base.store()?.set_aside()?[949].content)?;
    assert_eq!(content["content"], 7);
    // It takes a second; read anew for each part, it took minutes.
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    Ok(())
}

#[test]
fn a_label_never_leads_out_of_the_backups() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let long = "../".repeat(5000);
    let labels = [
        "../../x",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a\0b",
        "a\nb\u{1b}[31m",
        "file:x?mode=memory",
        "-rf",
        "x.db",
        &long,
        "ü/ö",
        "$(id)",
    ];
    for label in labels {
        let backup = store.backups().create(label)?;
        let name = backup.path.file_name().and_then(|name| name.to_str()).expect("a name");
        assert_eq!(backup.path.parent(), Some(base.file("backups").canonicalize()?.as_path()), "{label:?}");
        assert!(name.len() < 120 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{name}");
        assert_eq!(agentmux_state::list_backups(base.state_dir())?[0].label, label, "it is kept word for word");
        assert!(store.backups().verify(Some(&backup.id))?[0].ok);
    }
    let count = base.backups()?.len();
    // What lies outside is never reached by an id.
    fs::copy(base.file("backups").join(&base.backups()?[0]), base.file("outside.db"))?;
    let outside = base.file("outside").display().to_string();
    let ids =
        ["../outside", "../outside.db", &outside, "", ".", "..", "/", "a\0b", "file:x", "backup-1-x\n", "*", &long];
    for id in ids {
        assert!(matches!(store.backups().restore(id), Err(Error::BackupNotFound { .. })), "{id:?}");
        assert!(matches!(store.backups().verify(Some(id)), Err(Error::BackupNotFound { .. })), "{id:?}");
        let opened = StateStore::open_restored(base.state_dir(), id, Default::default());
        assert!(matches!(opened.map(drop), Err(Error::BackupNotFound { .. })), "{id:?}");
    }
    // Nor by a link in its place.
    let link = base.file("backups").join("backup-1-link.db");
    std::os::unix::fs::symlink(base.file("outside.db"), &link)?;
    assert!(
        !store.backups().restore("backup-1-link").is_ok_and(|report| report.restored == "x"),
        "refused, or not listed"
    );
    fs::remove_file(link)?;
    assert_eq!(base.backups()?.len(), count, "nothing was made or removed");
    Ok(())
}

#[test]
fn paths_are_paths_whatever_they_look_like() -> TestResult {
    let base = Base::new()?;
    for name in ["file:x?mode=memory", ":memory:", "a b'c\"d", "ümläut", "%41", "-v"] {
        let output = Command::new(env!("CARGO_BIN_EXE_agentmux-state"))
            .arg(format!("--state-dir={name}"))
            .args(["-q", "import", "-"])
            .env_remove("AGENTMUX_STATE_DIR")
            .current_dir(base.path())
            .stdin(Stdio::from(fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/complete.json"))?))
            .output()?;
        assert_eq!(output.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(base.path().join(name).join("state.db").is_file(), "{name}");
        let store = StateStore::open(base.path().join(name))?;
        store.backups().create("x")?;
        assert!(store.check()?.problems.is_empty() && store.backups().verify(None)?[0].ok);
    }
    let base = Base::new()?;
    run(&base, 0, &["import", "tests/fixtures/complete.json"]);
    fs::create_dir(base.path().join("folder"))?;
    let folder = base.path().join("folder").display().to_string();
    for arguments in [
        ["export", &folder],
        ["report", &folder],
        ["import", &folder],
        ["export", "/proc/nothing/here"],
        ["import", "/nowhere/x.json"],
    ] {
        let output = command(&base, &arguments).output()?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && errors.starts_with("error: "), "{arguments:?}: {errors}");
    }
    assert_eq!(fs::read_dir(&folder)?.count(), 0);
    assert!(StateStore::open(Path::new("a\0b")).is_err(), "no name can hold it");
    Ok(())
}

#[test]
fn ids_are_only_data() -> TestResult {
    let base = Base::new()?;
    let ids = [
        "../../x",
        "/etc/passwd",
        "$(touch pwned)",
        "`touch pwned`",
        "'; DROP TABLE tasks; --",
        "a\0b",
        "\u{1b}]0;owned\u{7}\u{9b}31m",
        "line\nline",
        "\"];evil[",
        "<script>alert(1)</script>",
        "--help",
        "file:x",
        "%s%n",
        "\u{202e}txt",
        "",
    ];
    let mut state = json!({"version": "1.0.0", "tasks": [], "conversations": [], "agents": [], "projects": []});
    let push = |list: &mut serde_json::Value, value| list.as_array_mut().expect("a list").push(value);
    for id in ids {
        push(
            &mut state["tasks"],
            json!({"id": id, "title": id, "description": id, "status": id, "priority": id, "blockedBy": [id, ids[0]],
            "assignedTo": id, "projectId": id, "createdAt": id}),
        );
        push(
            &mut state["conversations"],
            json!({"id": id, "source": id, "currentTopic": id, "lastActivityAt": id,
            "recentMessages": [{"role": id, "content": format!("found {id}"), "timestamp": id, "agentName": id}]}),
        );
        push(
            &mut state["agents"],
            json!({"sessionName": id, "agentId": id, "role": id, "status": id, "currentTaskId": id}),
        );
        push(
            &mut state["projects"],
            json!({"id": id, "name": id, "path": id, "status": id, "activeTasks": [id], "activeAgents": [id]}),
        );
    }
    let store = base.store()?;
    import(&store, &state.to_string())?;
    assert_eq!(store.state()?.tasks.len(), ids.len());
    let page = base.path().join("page.html").display().to_string();
    let mut all: Vec<Vec<&str>> = vec![
        vec!["status"],
        vec!["resume"],
        vec!["graph"],
        vec!["graph", "--format", "dot"],
        vec!["search", "found"],
        vec!["check"],
        vec!["list", "tasks"],
        vec!["list", "conversations"],
        vec!["list", "agents"],
        vec!["list", "projects"],
        vec!["report", &page],
        vec!["prune", "--completed-before", "1s", "--idle-before", "1s", "--dry-run"],
    ];
    for id in ids.iter().filter(|id| !id.contains('\0')) {
        for kind in ["task", "conversation", "agent", "project"] {
            all.push(vec!["show", kind, "--", id]);
        }
    }
    for arguments in &all {
        let output = command(&base, arguments).output()?;
        let printed = String::from_utf8([output.stdout, output.stderr].concat())?;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {printed}");
        let obeyed = |c: char| c.is_control() && c != '\n';
        assert!(!printed.contains(obeyed), "{arguments:?}: {printed:?}");
    }
    assert!(!fs::read_to_string(&page)?.contains("<script>alert"));
    // What a shell is given to complete is text, too.
    let output = command(&base, &["--", "agentmux-state", "show", "task", ""])
        .env("COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", "3")
        .env("AGENTMUX_STATE_DIR", base.state_dir())
        .current_dir(base.path())
        .output()?;
    let completed = String::from_utf8(output.stdout)?;
    let completed: Vec<_> = completed.split(['\n', '\u{b}']).filter(|it| !it.starts_with("--")).collect();
    // Not those that a shell would run, or take for several words.
    assert_eq!(completed, ["%s%n", "../../x", "/etc/passwd", "file:x"]);
    assert!(!base.path().join("pwned").exists());
    for id in ids {
        assert!(store.remove_task(id)? && store.remove_conversation(id)?, "{id:?}");
    }
    assert!(store.check()?.problems.is_empty());
    Ok(())
}

/// All files and directories below one, with their modes.
fn modes(path: &Path, found: &mut Vec<(String, bool, u32)>) -> std::io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    found.push((path.display().to_string(), metadata.is_dir(), metadata.permissions().mode() & 0o7777));
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            modes(&entry?.path(), found)?;
        }
    }
    Ok(())
}

#[test]
fn files_stay_private_under_an_open_umask() -> TestResult {
    let base = Base::new()?;
    let program = env!("CARGO_BIN_EXE_agentmux-state");
    let page = base.path().join("page.html");
    let script = format!(
        "umask 000; cd '{}'; run() {{ '{program}' -q --state-dir '{}' \"$@\" > /dev/null || exit 1; }}
         run import tests/fixtures/current-state.json; run checkpoint; run export; run export '{}'; run report '{}'
         run backup create; run search deploy; run import --replace tests/fixtures/current-state.json; run prune --idle-before 1s
         run backup restore $(ls '{}' | sed -n 's/\\.db$//p' | head -n 1)",
        env!("CARGO_MANIFEST_DIR"),
        base.state_dir().display(),
        base.path().join("export.json").display(),
        page.display(),
        base.file("backups").display(),
    );
    let output = Command::new("sh").args(["-c", &script]).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The service, while it runs, under the same umask: this test again, in a process of its own.
    let service = Base::new()?;
    let (mut child, mut output) = start_under(&["sh", "-c", "umask 000; exec \"$0\" \"$@\""], "service", &service)?;
    assert_eq!(said(&mut output).next().as_deref(), Some("ready"));
    let mut found = Vec::new();
    for base in [&base, &service] {
        modes(&base.path().join(".agentmux"), &mut found)?;
    }
    modes(&page, &mut found)?;
    modes(&base.path().join("export.json"), &mut found)?;
    drop(child.stdin.take());
    child.wait()?;
    modes(&service.path().join(".agentmux"), &mut found)?;
    for part in
        ["state.db", "-wal", "-shm", "service.lock", "current-state.json", ".sha256", "before-prune.db", "page.html"]
    {
        assert!(found.iter().any(|(path, ..)| path.ends_with(part)), "{part} is among {found:?}");
    }
    for (path, is_directory, mode) in found {
        assert_eq!(mode, if is_directory { 0o700 } else { 0o600 }, "{path} has mode {mode:o}");
    }
    Ok(())
}

#[test]
fn in_a_role() -> TestResult {
    let Some((_, base)) = role() else { return Ok(()) };
    let service = agentmux_state::StatePersistenceService::new(Some(&base));
    service.initialize()?;
    service.update_conversation(&conversation("C-1", 0..3))?;
    service.save_state(CheckpointReason::UserRequest)?;
    service.create_backup("x")?;
    say("ready");
    std::io::stdin().read_line(&mut String::new())?;
    service.prepare_for_shutdown()?;
    Ok(())
}

/// An input without an end is refused as soon as it cannot be a document, and nothing is made.
#[test]
fn an_import_does_not_read_on_what_cannot_be_a_document() -> TestResult {
    let base = Base::new()?;
    let program = env!("CARGO_BIN_EXE_agentmux-state");
    let directory = base.path().display();
    for (input, expected) in [
        ("import /dev/zero".to_owned(), "this is not JSON"),
        ("import - </dev/zero".to_owned(), "this is not JSON"),
        (format!("import '{directory}'"), "it is a directory; name a state document"),
        ("import - < <(yes '')".to_owned(), "bytes of whitespace, which is no state document"),
    ] {
        // A temporary file of more than 64 MB would kill it.
        let script = format!(
            "ulimit -f 65536; exec timeout 30 '{program}' --state-dir '{}' {input}",
            base.state_dir().display()
        );
        let output = Command::new("bash").args(["-c", &script]).stdout(Stdio::null()).output()?;
        let message = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(1), "{input}: {message}");
        assert!(message.contains(expected) && !message.contains("Try again"), "{input}: {message}");
        assert!(!base.state_dir().exists(), "{input}");
    }
    // Whitespace and a byte order mark before a document are nothing wrong.
    let script = format!(
        "{{ printf '\\n \\n'; cat tests/fixtures/current-state.json; }} | '{program}' --state-dir '{}' import -",
        base.state_dir().display()
    );
    let output = Command::new("bash").args(["-c", &script]).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let missing = command(&base, &["backup", "restore", "no-such"]).output()?;
    assert!(String::from_utf8(missing.stderr)?.contains("`agentmux-state backup list` lists the backups"));
    Ok(())
}

#[test]
fn files_are_private_under_the_strangest_umask() -> TestResult {
    let base = Base::new()?;
    let program = env!("CARGO_BIN_EXE_agentmux-state");
    let script = format!(
        "umask 0777; for command in 'import tests/fixtures/current-state.json' checkpoint 'backup create'; do \
         '{program}' -q --state-dir '{}' $command || exit 1; done",
        base.state_dir().display()
    );
    assert!(Command::new("sh").args(["-c", &script]).status()?.success());
    for directory in [base.state_dir(), base.file("backups")] {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let expected = if entry.file_type()?.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(entry.metadata()?.permissions().mode() & 0o777, expected, "{}", entry.path().display());
        }
    }
    Ok(())
}
