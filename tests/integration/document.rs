//! How documents are read: each rule of "Reading a document", for `import` and for `initialize`.

use std::fs;
use std::io::BufReader;
use std::os::unix::fs::symlink;

use agentmux_state::{
    AgentState, ConversationState, Error, ImportMode, ImportOptions, OrchestratorMode, PersistedMessage, ProjectState,
    SelfImprovementState, StateStore, TaskCheckpoint, TaskState, TaskStatus, to_json,
};
use serde_json::{Value, json};

use crate::common::program::outcome;
use crate::common::{Base, FIXTURE, QUIRKS, TestResult, export, import, nested, task};

/// A small document with every kind of record.
const SMALL: &str = r#"{
  "id": "state-1",
  "version": "1.0.0",
  "checkpointedAt": "2026-11-20T08:00:00.000Z",
  "checkpointReason": "scheduled",
  "conversations": [
    {
      "id": "C-1",
      "source": "chat",
      "recentMessages": [
        {
          "role": "user",
          "content": "é \"q\" \\ 🚀",
          "timestamp": "2026-11-20T08:00:00.000Z"
        }
      ],
      "lastActivityAt": "2026-11-20T08:00:00.000Z"
    }
  ],
  "tasks": [],
  "agents": [],
  "projects": [],
  "metadata": {
    "version": "1.0.0",
    "hostname": "h",
    "pid": 1,
    "startedAt": "2026-11-20T08:00:00.000Z",
    "uptimeSeconds": 12,
    "restartCount": 0
  }
}"#;

fn strict() -> ImportOptions {
    ImportOptions::default().strict(true).source_name("document.json".into())
}

/// Paths and reasons of records set aside, and paths of warnings.
type Findings = (Vec<(String, String)>, Vec<String>);

/// What an import of the small document with these members finds.
fn findings(members: &Value) -> Result<Findings, Box<dyn std::error::Error>> {
    let mut document: Value = serde_json::from_str(SMALL)?;
    for (key, value) in members.as_object().expect("an object") {
        document[key] = value.clone();
    }
    let base = Base::new()?;
    let report = import(&base.store()?, &document.to_string())?;
    let set_aside = report.set_aside.into_iter().map(|it| (it.path, it.reason)).collect();
    Ok((set_aside, report.warnings.into_iter().map(|it| it.path).collect()))
}

fn a_task(changes: Value) -> Value {
    let mut task = json!({
        "id": "T-1", "title": "t", "description": "d", "status": "pending", "priority": "low",
        "progress": {"percentComplete": 1, "completedSteps": []}, "createdAt": "2026-11-20T08:00:00.000Z"
    });
    for (key, value) in changes.as_object().expect("an object") {
        task[key] = value.clone();
    }
    task
}

#[test]
fn a_document_that_is_cut_off_anywhere_is_refused_whole() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let untouched = base.sql()?.query_row("SELECT count(*) FROM changes_since_checkpoint", [], |row| row.get(0));
    assert_eq!(untouched, Ok(0_i64));
    for length in 0..SMALL.len() {
        let cut = &SMALL.as_bytes()[..length];
        match store.import_json(cut, ImportOptions::default()) {
            Err(Error::Document { .. }) => {}
            other => panic!("cut at {length}: {other:?}"),
        }
        assert_eq!(store.summary()?.counts.entities(), 0, "cut at {length}");
    }
    let nothing_was_written = base.sql()?.query_row("SELECT count(*) FROM state", [], |row| row.get::<_, i64>(0))?;
    assert_eq!(nothing_was_written, 0);
    import(&store, SMALL)?;
    assert_eq!(export(&store)?, SMALL);
    Ok(())
}

#[test]
fn a_document_that_is_cut_off_never_counts_as_a_fresh_start() -> TestResult {
    let document = SMALL.replace(['\n', ' '], "");
    let base = Base::new()?;
    for name in ["current-state.json", "orchestrator-state.json"] {
        for length in (0..document.len()).step_by(7) {
            base.write(name, &document.as_bytes()[..length])?;
            match base.service().initialize() {
                Err(Error::Document { source_name, .. }) => assert!(source_name.ends_with(name), "{source_name}"),
                other => panic!("{name} cut at {length}: {other:?}"),
            }
            assert_eq!(std::fs::read(base.file(name))?, &document.as_bytes()[..length], "the file is never modified");
        }
        base.write(name, &document)?;
        let state = Base::service(&base).initialize()?.expect("the state of the TypeScript service");
        assert_eq!(state.conversations.len(), 1);
        std::fs::remove_dir_all(base.state_dir())?;
    }
    Ok(())
}

#[test]
fn what_is_no_state_document_is_an_error_that_says_where() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let cases: [(&[u8], u64, &str); 12] = [
        (b"", 1, "the document is empty"),
        (b" \n \n", 3, "the document is empty"),
        (b"null", 1, "the document is null"),
        (b"[]", 1, "the document is no object"),
        (b"\n7", 2, "the document is no object"),
        (b"nonsense", 1, "this is not JSON"),
        (b"{}", 1, "no state document"),
        (b"{\"name\": \"package\", \"version-of\": 1}", 1, "no state document"),
        (b"{\n\"tasks\": [\n{\"id\": \"T-1\",\n\"title\" 7}]}", 4, "this is not JSON"),
        (b"{\"tasks\": []} x", 1, "expected the end of the document, found `x`"),
        (b"{\"tasks\": [],}", 1, "expected a key in double quotes, found `}`"),
        (b"{\"tasks\": [\n\"\xff\"]}", 2, "not UTF-8"),
    ];
    for (document, expected_line, expected) in cases {
        let shown = String::from_utf8_lossy(document).into_owned();
        let options = ImportOptions::default().source_name("some.json".into());
        let error = store.import_json(document, options).expect_err(&shown);
        assert!(matches!(error, Error::Document { line, .. } if line == expected_line), "{shown}: {error}");
        let message = error.to_string();
        assert!(message.starts_with("some.json, line ") && message.contains(expected), "{shown}: {message}");
    }
    Ok(())
}

#[test]
fn a_newer_major_version_is_refused_and_a_newer_minor_one_kept() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    // Also where the version comes last.
    for document in [
        r#"{"version": "2.0.0", "tasks": []}"#.to_owned(),
        format!(r#"{{"tasks": [{}], "version": "10.1.0"}}"#, a_task(json!({}))),
    ] {
        assert!(matches!(import(&store, &document), Err(Error::DocumentTooNew { .. })), "{document}");
        assert_eq!(store.summary()?.counts.tasks, 0);
    }
    let minor = SMALL.replacen("1.0.0", "1.9.3", 1);
    import(&store, &minor)?;
    assert_eq!(export(&store)?, minor);
    Ok(())
}

#[test]
fn a_missing_or_malformed_version_is_a_warning_and_a_problem_for_the_strict() -> TestResult {
    for version in [Value::Null, json!("one"), json!("1.0"), json!("")] {
        let (set_aside, warnings) = findings(&json!({"version": version}))?;
        assert!(set_aside.is_empty());
        assert_eq!(warnings, ["$.version"], "{version}");
        let mut document: Value = serde_json::from_str(SMALL)?;
        document["version"] = version;
        let result = StateStore::validate_json(document.to_string().as_bytes(), &strict());
        assert!(matches!(result, Err(Error::DocumentProblems { problems, .. }) if problems.len() == 1));
    }
    Ok(())
}

#[test]
fn only_what_cannot_be_typed_is_set_aside() -> TestResult {
    let cases = [
        // The whole record, where it means nothing without the text.
        (json!({"tasks": [7]}), "$.tasks[0]", "expected an object, found a number"),
        (json!({"tasks": [a_task(json!({"id": null}))]}), "$.tasks[0]", "id: a required string is missing or null"),
        (json!({"tasks": [a_task(json!({"title": 7}))]}), "$.tasks[0]", "title: expected a string, found a number"),
        (json!({"agents": [{"sessionName": "dev-1"}]}), "$.agents[0]", "agentId: a required string is missing or null"),
        // Only the part, where the record can do without.
        (
            json!({"tasks": [a_task(json!({"assignedTo": []}))]}),
            "$.tasks[0].assignedTo",
            "expected a string, found a list",
        ),
        (
            json!({"tasks": [a_task(json!({"progress": "half"}))]}),
            "$.tasks[0].progress",
            "expected an object, found a string",
        ),
        (
            json!({"tasks": [a_task(json!({"blocks": ["T-2", null]}))]}),
            "$.tasks[0].blocks[1]",
            "expected a string, found null",
        ),
        (
            json!({"tasks": [a_task(json!({"checkpoint": {"stepIndex": 2.5}}))]}),
            "$.tasks[0].checkpoint.stepIndex",
            "expected an integer, found a number",
        ),
        (
            json!({"selfImprovement": {"validationChecks": [{"name": "n"}]}}),
            "$.selfImprovement.validationChecks[0]",
            "type: a required string is missing or null",
        ),
        (json!({"tasks": {"T-1": {}}}), "$.tasks", "expected a list"),
        (json!({"metadata": "none"}), "$.metadata", "expected an object, found a string"),
        (json!({"mode": 7}), "$.mode", "expected a string, found a number"),
    ];
    for (members, path, reason) in cases {
        let (set_aside, _) = findings(&members)?;
        assert_eq!(set_aside, [(path.to_owned(), reason.to_owned())], "{members}");
    }
    Ok(())
}

#[test]
fn a_number_in_place_of_a_time_counts_as_javascript_takes_it() -> TestResult {
    let at = 1_761_955_201_000_i64;
    let (set_aside, warnings) = findings(&json!({
        "conversations": [{
            "id": "C-9", "source": "chat", "lastActivityAt": at,
            "recentMessages": [{"role": "user", "content": "", "timestamp": at as f64}],
        }],
        "tasks": [a_task(json!({"createdAt": at, "startedAt": -1, "completedAt": 0.9}))],
    }))?;
    assert_eq!(set_aside, []);
    let paths =
        ["conversations[0].recentMessages[0].timestamp", "conversations[0].lastActivityAt"].map(|it| format!("$.{it}"));
    let task_paths = ["createdAt", "startedAt", "completedAt"].map(|it| format!("$.tasks[0].{it}"));
    assert_eq!(warnings, [&paths[..], &task_paths[..]].concat());

    let base = Base::new()?;
    let store = base.store()?;
    let task = a_task(json!({"createdAt": at, "startedAt": -1, "completedAt": 0.9}));
    import(&store, &json!({"version": "1.0.0", "tasks": [task]}).to_string())?;
    let task = store.task("T-1")?.expect("the task");
    let times = [Some(task.created_at), task.started_at, task.completed_at].map(|it| it.expect("a time").to_string());
    assert_eq!(times, ["2025-11-01T00:00:01.000Z", "1969-12-31T23:59:59.999Z", "1970-01-01T00:00:00.000Z"]);

    // What is no time of JavaScript's, or another type, is not guessed at.
    for value in [json!(1e300), json!(true), json!([at])] {
        let (set_aside, _) = findings(&json!({"tasks": [a_task(json!({"createdAt": value}))]}))?;
        assert_eq!(set_aside[0].0, "$.tasks[0]", "{value}");
    }
    Ok(())
}

#[test]
fn an_entity_by_itself_may_have_numbers_and_booleans_for_strings() -> TestResult {
    let task = TaskState::from_json(
        r#"{"id": 5, "title": 1.5, "description": true, "status": "pending", "priority": "low", "createdAt": null,
            "progress": {"percentComplete": " 50 ", "completedSteps": ["a", null, 3]}, "completedAt": 0, "blocks": [1]}"#,
    )?;
    assert_eq!((task.id.as_str(), task.title.as_str(), task.description.as_str()), ("5", "1.5", "true"));
    assert_eq!((task.created_at.as_str(), task.progress.percent_complete), ("", 50.0));
    assert_eq!((task.progress.completed_steps, task.blocks), (vec!["a".into(), "3".into()], Some(vec!["1".into()])));
    assert_eq!(task.completed_at, Some("1970-01-01T00:00:00.000Z".into()));
    for refused in [r#"{"id": []}"#, r#"{"id": null}"#, r#"{}"#] {
        assert!(matches!(TaskState::from_json(refused), Err(Error::InvalidValue { .. })), "{refused}");
    }
    Ok(())
}

#[test]
fn what_is_set_aside_is_kept_word_for_word() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, QUIRKS)?;
    let kept: Vec<_> = store.set_aside()?.into_iter().map(|it| (it.path, it.content, it.source)).collect();
    assert_eq!(kept.len(), 4);
    for (path, content, source) in &kept {
        assert!(QUIRKS.contains(content.as_str()), "{path}: {content}");
        assert_eq!(source, "document.json");
    }
    assert!(kept.iter().any(|(path, content, _)| path == "$.tasks[3]" && content == "\"not a task\""));
    Ok(())
}

#[test]
fn of_two_records_with_one_id_the_first_stays() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let tasks = json!([a_task(json!({"title": "first"})), a_task(json!({"title": "second"}))]);
    let report = import(&store, &json!({"version": "1.0.0", "tasks": tasks}).to_string())?;
    assert_eq!(report.set_aside.len(), 1);
    assert_eq!(report.set_aside[0].path, "$.tasks[1]");
    assert_eq!(store.task("T-1")?.expect("the task").title, "first");
    // The same id in another list is another record.
    assert_eq!(
        findings(&json!({"projects": [{"id": "C-1", "name": "", "path": "", "status": "active",
        "activeTasks": [], "activeAgents": []}]}))?
        .0,
        []
    );
    Ok(())
}

#[test]
fn missing_lists_and_progress_are_read_as_nothing_with_a_warning() -> TestResult {
    for missing in ["conversations", "tasks", "agents", "projects"] {
        let (set_aside, warnings) = findings(&json!({missing: null}))?;
        assert!(set_aside.is_empty());
        assert_eq!(warnings, [format!("$.{missing}")]);
    }
    let (_, warnings) = findings(&json!({"tasks": [a_task(json!({"progress": null}))]}))?;
    assert_eq!(warnings, ["$.tasks[0].progress"]);
    // NaN, as JSON.stringify writes it.
    let progress = json!({"percentComplete": null, "completedSteps": null});
    let (_, warnings) = findings(&json!({"tasks": [a_task(json!({"progress": progress}))]}))?;
    assert_eq!(warnings, ["$.tasks[0].progress.percentComplete", "$.tasks[0].progress.completedSteps"]);

    let base = Base::new()?;
    let store = base.store()?;
    let report = import(&store, r#"{"version": "1.0.0"}"#)?;
    assert_eq!(report.warnings.len(), 8, "{:?}", report.warnings);
    Ok(())
}

#[test]
fn null_in_an_optional_field_is_absent() -> TestResult {
    let nothing = json!({"assignedTo": null, "blockedBy": null, "checkpoint": null, "startedAt": null});
    assert_eq!(findings(&json!({"tasks": [a_task(nothing)], "selfImprovement": null}))?, (vec![], vec![]));
    Ok(())
}

#[test]
fn unknown_values_dates_and_keys_are_kept_as_they_stand() -> TestResult {
    let task = a_task(json!({
        "status": "awaiting_review", "createdAt": "", "startedAt": "soon", "estimate": {"hours": [1.5, null]},
        "progress": {"percentComplete": 12.5, "completedSteps": [], "eta": "x"},
        "checkpoint": {"stepIndex": 1, "workData": {"": {"b": 1, "a": 2}}, "tool": 1}
    }));
    let mut document: Value = serde_json::from_str(SMALL)?;
    document["tasks"] = json!([task]);
    document["inbox"] = json!([{"kind": "future"}]);
    document["metadata"]["commit"] = json!("a1b2");
    document["checkpointReason"] = json!("moon_phase");
    let base = Base::new()?;
    let store = base.store()?;
    let report = import(&store, &document.to_string())?;
    assert_eq!((report.set_aside, report.warnings), (vec![], vec![]));
    assert_eq!(serde_json::from_str::<Value>(&export(&store)?)?, document);
    assert_eq!(store.task("T-1")?.expect("the task").status, TaskStatus::Other("awaiting_review".into()));
    Ok(())
}

#[test]
fn half_a_surrogate_pair_is_replaced_with_a_warning() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let document = SMALL.replace("é", r"\ude80 \ud83d\ude80 ab\uD83D");
    let report = import(&store, &document)?;
    let warnings: Vec<_> = report.warnings.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(warnings, ["$.conversations[0].recentMessages[0].content"], "one for each string");
    let content = &store.conversation("C-1")?.expect("the conversation").recent_messages[0].content;
    assert_eq!(content, "\u{fffd} 🚀 ab\u{fffd} \"q\" \\ 🚀");
    Ok(())
}

#[test]
fn what_json_allows_and_no_value_holds_is_set_aside() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let document = format!(r#"{{"version": "1.0.0", "deep": {deep}, "tasks": [{{"id": "T-1", "huge": 1e400}}]}}"#);
    let report = import(&store, &document)?;
    let paths: Vec<_> = report.set_aside.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, ["$.deep", "$.tasks[0]"]);
    assert_eq!(store.set_aside()?[0].content, deep);
    Ok(())
}

#[test]
fn a_record_with_too_many_faults_is_set_aside_whole() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let steps = vec![json!(7); 200_000];
    let broken = a_task(json!({"progress": {"percentComplete": 1, "completedSteps": steps}}));
    let halves = r"\ud83d".repeat(200_000);
    let document = format!(r#"{{"version": "1.0.0", "tasks": [{broken}], "halves": ["{halves}"]}}"#);
    let report = import(&store, &document)?;
    let paths: Vec<_> = report.set_aside.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, ["$.tasks[0]"]);
    assert_eq!(store.set_aside()?[0].content, broken.to_string());
    assert_eq!(report.warnings.iter().filter(|it| it.path == "$.halves[0]").count(), 1);
    Ok(())
}

#[test]
fn nothing_is_dropped_where_a_key_stands_twice() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let document = r#"{"version": "1.0.0", "x": {"a": 1, "a": 2}, "agents": [], "agents": [7]}"#;
    let report = import(&store, document)?;
    let paths: Vec<_> = report.set_aside.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, ["$.x", "$.agents"]);
    // As in JavaScript, the last one counts.
    assert_eq!(store.state()?.extra["x"], json!({"a": 2}));
    assert_eq!(store.set_aside()?[0].content, r#"{"a": 1, "a": 2}"#);
    Ok(())
}

#[test]
fn strict_lists_every_problem_with_its_path_and_line_and_changes_nothing() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_task(&task("T-9", TaskStatus::Paused))?;
    let before = store.state()?;
    let options = strict().mode(ImportMode::Merge);
    let Err(Error::DocumentProblems { problems, .. }) = store.import_json(QUIRKS.as_bytes(), options) else {
        panic!("the document has problems");
    };
    let found: Vec<_> = problems.iter().map(|it| (it.path.as_str(), it.line)).collect();
    assert_eq!(
        found,
        [
            ("$.metadata", 1),
            ("$.conversations[0].recentMessages[0].content", 14),
            ("$.conversations[0].recentMessages[2]", 24),
            ("$.conversations[1].recentMessages", 41),
            ("$.tasks[0].progress", 52),
            ("$.tasks[1]", 65),
            ("$.tasks[2]", 77),
            ("$.tasks[3]", 88),
        ]
    );
    assert_eq!(store.state()?, before);
    assert!(store.set_aside()?.is_empty());
    assert!(StateStore::validate_json(FIXTURE.as_bytes(), &strict()).is_ok());
    Ok(())
}

#[test]
fn what_stands_beside_the_lists_of_an_empty_state_is_not_dropped_by_an_import() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    assert_eq!(import(&store, r#"{"version": "1.0.0", "plugins": {"slack": 42}}"#)?.backup, None);
    let report = import(&store, r#"{"version": "1.0.0", "plugins": {"slack": 42}, "more": 1}"#)?;
    assert_eq!(report.backup, None, "nothing was lost");
    store.set_mode(&OrchestratorMode::Onboarding)?;
    let report = import(&store, SMALL)?;
    assert_eq!((store.mode()?, store.state()?.extra.len()), (OrchestratorMode::Normal, 0));
    store.backups().restore(&report.backup.expect("a backup of what was there"))?;
    assert_eq!(store.mode()?, OrchestratorMode::Onboarding);
    assert_eq!(store.state()?.extra["plugins"], json!({"slack": 42}));
    Ok(())
}

#[test]
fn a_state_that_is_not_empty_is_only_replaced_or_merged_on_demand() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_task(&task("T-1", TaskStatus::Paused))?;
    store.update_task(&task("T-2", TaskStatus::Paused))?;
    assert!(matches!(import(&store, SMALL), Err(Error::NotEmpty { .. })));

    let document = json!({"version": "1.0.0", "tasks": [a_task(json!({})), a_task(json!({"id": "T-3"}))]}).to_string();
    store.import_json(document.as_bytes(), ImportOptions::default().mode(ImportMode::Merge))?;
    let ids = |store: &StateStore| -> agentmux_state::Result<Vec<String>> {
        Ok(store.state()?.tasks.into_iter().map(|task| task.id).collect())
    };
    assert_eq!(ids(&store)?, ["T-1", "T-2", "T-3"]);
    assert_eq!(store.task("T-1")?.expect("the task").title, "t", "the document's takes the place");

    let replace = |allow_shrink| ImportOptions::default().mode(ImportMode::Replace).allow_shrink(allow_shrink);
    let before = base.backups()?;
    assert!(!before.is_empty(), "a merge that overwrites makes a backup");
    let result = store.import_json(SMALL.as_bytes(), replace(false));
    assert!(matches!(result, Err(Error::WouldShrink { before: 3, after: 1 })), "{result:?}");
    assert_eq!(ids(&store)?, ["T-1", "T-2", "T-3"]);
    assert_eq!(base.backups()?, before, "what is refused needs no backup");

    let report = store.import_json(SMALL.as_bytes(), replace(true))?;
    assert_eq!(export(&store)?, SMALL);
    // The backup holds the state as it was.
    let backup = base.file("backups").join(format!("{}.db", report.backup.expect("a backup")));
    let tasks: i64 =
        rusqlite::Connection::open(backup)?.query_row("SELECT count(*) FROM tasks", [], |row| row.get(0))?;
    assert_eq!(tasks, 3);
    Ok(())
}

#[test]
fn a_document_reads_the_same_however_it_arrives() -> TestResult {
    for size in [1, 2, 3, 5, 7, 64, 4096] {
        let base = Base::new()?;
        let store = base.store()?;
        store.import_json(BufReader::with_capacity(size, SMALL.as_bytes()), strict())?;
        assert_eq!(export(&store)?, SMALL, "{size} bytes at a time");
    }
    let base = Base::new()?;
    let report = import(&base.store()?, &format!("\u{feff}{SMALL}"))?;
    assert_eq!(report.warnings[0].path, "$", "a byte order mark is a warning");
    Ok(())
}

#[test]
fn initialize_reads_a_typescript_file_by_the_same_rules() -> TestResult {
    for name in ["current-state.json", "orchestrator-state.json"] {
        let base = Base::new()?;
        base.write(name, QUIRKS)?;
        let service = base.service();
        let state = service.initialize()?.expect("the state of the TypeScript service");
        assert_eq!(state.tasks.len(), 2);
        let report = service.import_report().expect("a report");
        assert_eq!((report.set_aside.len(), report.warnings.len()), (4, 4));
        assert_eq!(std::fs::read_to_string(base.file(name))?, QUIRKS, "unchanged until the first export");
        assert_eq!(base.backups()?.len(), 0);
        service.prepare_for_shutdown()?;
        let kept: Vec<_> = base.backups()?.into_iter().filter(|name| name.ends_with(".json")).collect();
        if name == "current-state.json" {
            assert_eq!(kept.len(), 1, "a copy before the export takes its name");
            assert_eq!(std::fs::read_to_string(base.file("backups").join(&kept[0]))?, QUIRKS);
        } else {
            assert_eq!(std::fs::read_to_string(base.file(name))?, QUIRKS);
        }
        assert!(base.service().initialize()?.is_some_and(|state| state.tasks.len() == 2), "imported once");
    }
    Ok(())
}

#[test]
fn initialize_finds_the_file_under_the_products_former_name() -> TestResult {
    let base = Base::new()?;
    let former = base.path().join(".crewly/state");
    std::fs::create_dir_all(&former)?;
    std::fs::write(former.join("orchestrator-state.json"), FIXTURE)?;
    let state = base.service().initialize()?.expect("the state of the TypeScript service");
    assert_eq!(agentmux_state::to_json(&state)?, FIXTURE);
    assert_eq!(std::fs::read_to_string(former.join("orchestrator-state.json"))?, FIXTURE);
    Ok(())
}

#[test]
fn a_newer_document_stops_initialize() -> TestResult {
    let base = Base::new()?;
    base.write("current-state.json", SMALL.replacen("1.0.0", "2.0.0", 1))?;
    assert!(matches!(base.service().initialize(), Err(Error::DocumentTooNew { .. })));
    assert!(matches!(base.service().initialize(), Err(Error::DocumentTooNew { .. })), "no fresh start the second time");
    Ok(())
}

#[test]
fn a_single_entity_is_read_as_in_a_document() -> TestResult {
    let text = r#"{"id": "T-1", "title": "half \ud83d", "description": "", "status": "awaiting_review", "priority": "low",
        "assignedTo": null, "progress": {"percentComplete": 50.0, "completedSteps": null, "new": {"deep": 1}},
        "createdAt": "", "checkpoint": {"stepIndex": 3.0}, "urgency": 12}"#;
    let task = TaskState::from_json(text)?;
    assert_eq!((task.title.as_str(), task.status.as_str()), ("half \u{fffd}", "awaiting_review"));
    assert_eq!((task.assigned_to.as_deref(), task.progress.completed_steps.len()), (None, 0));
    assert_eq!(task.checkpoint.as_ref().expect("a checkpoint").step_index, 3);
    assert_eq!((&task.extra["urgency"], &task.progress.extra["new"]), (&json!(12), &json!({"deep": 1})));
    assert_eq!(TaskState::from_json(&to_json(&task)?)?, task);

    let failure = |result: agentmux_state::Result<()>| result.expect_err("an error").to_string();
    let no_title = failure(TaskState::from_json(r#"{"id": "T-1"}"#).map(drop));
    assert!(no_title.starts_with("task T-1: title: a required string is missing or null; "), "{no_title}");
    let part = text.replace("null, \"progress", "[1], \"progress");
    let part = failure(TaskState::from_json(&part).map(drop));
    assert!(part.starts_with("task T-1: $.assignedTo: expected a string, found a list; "), "{part}");
    let message = failure(PersistedMessage::from_json("[]").map(drop));
    assert!(message.starts_with("message: expected an object, found a list; "), "{message}");
    assert!(matches!(ConversationState::from_json("{"), Err(Error::InvalidValue { .. })));

    let document: Value = serde_json::from_str(FIXTURE)?;
    for (list, read) in [
        ("conversations", (|text| to_json(&ConversationState::from_json(text)?).map_err(Into::into)) as Rewrite),
        ("tasks", |text| Ok(to_json(&TaskState::from_json(text)?)?)),
        ("agents", |text| Ok(to_json(&AgentState::from_json(text)?)?)),
        ("projects", |text| Ok(to_json(&ProjectState::from_json(text)?)?)),
    ] {
        for entity in document[list].as_array().expect("a list") {
            assert_eq!(&serde_json::from_str::<Value>(&read(&entity.to_string())?)?, entity);
        }
    }
    let work = &document["selfImprovement"];
    assert_eq!(&serde_json::to_value(SelfImprovementState::from_json(&work.to_string())?)?, work);
    Ok(())
}

/// Reads an entity and writes it again.
type Rewrite = fn(&str) -> Result<String, Box<dyn std::error::Error>>;

#[test]
fn commands_before_the_first_start_do_not_hide_the_typescript_services_state() -> TestResult {
    for name in ["current-state.json", "orchestrator-state.json"] {
        let base = Base::new()?;
        base.write(name, FIXTURE)?;
        assert_eq!(outcome(&base, &["migrate"])?.0, Some(0));
        for arguments in [&["export"][..], &["checkpoint"]] {
            let (status, _, errors) = outcome(&base, arguments)?;
            assert_eq!(status, Some(1), "{arguments:?}");
            assert!(errors.contains("holds no state yet"), "{errors}");
        }
        assert!(fs::read_to_string(base.file(name))? == FIXTURE);
        assert_eq!(base.service().initialize()?.expect("the TypeScript service's").tasks.len(), 24);
    }
    // Also where the first start failed on a damaged file.
    let base = Base::new()?;
    base.write("current-state.json", &FIXTURE[..3000])?;
    for _ in 0..2 {
        assert!(base.service().initialize().is_err());
        assert_eq!(outcome(&base, &["checkpoint"])?.0, Some(1));
    }
    fs::remove_file(base.file("current-state.json"))?;
    symlink("nowhere", base.file("current-state.json"))?;
    assert!(base.service().initialize().is_err(), "a link that leads nowhere is no absence");
    Ok(())
}

#[test]
fn of_several_typescript_files_the_newest_is_taken_over() -> TestResult {
    let base = Base::new()?;
    let renamed = base.path().join(".crewly/state");
    fs::create_dir_all(&renamed)?;
    base.write("orchestrator-state.json", r#"{"version": "1.0.0", "checkpointedAt": "2025-01-01T00:00:00.000Z"}"#)?;
    fs::write(renamed.join("orchestrator-state.json"), FIXTURE)?;
    let service = base.service();
    assert_eq!(service.initialize()?.expect("the newest").tasks.len(), 24);

    let base = Base::new()?;
    base.write("current-state.json", FIXTURE)?;
    base.write("orchestrator-state.json", "cut off")?;
    assert!(matches!(base.service().initialize(), Err(Error::Document { .. })), "it might be the newest");
    Ok(())
}

#[test]
fn no_key_has_a_meaning_of_its_own() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let odd = json!({"$serde_json::private::RawValue": "[1", "$serde_json::private::Number": "7"});
    let document =
        json!({"version": "1.0.0", "u": odd, "tasks": [], "conversations": [], "agents": [], "projects": []});
    import(&store, &document.to_string())?;
    assert_eq!(store.state()?.extra["u"].to_string(), odd.to_string());
    assert!(export(&store)?.contains("\"$serde_json::private::RawValue\": \"[1\""));
    let halves = r#"{"version": "1.0.0", "x\ud83d": 1}"#;
    let other = Base::new()?;
    let report = import(&other.store()?, halves)?;
    assert!(report.warnings.iter().any(|warning| warning.message.contains("surrogate")), "{report:?}");
    assert_eq!(other.store()?.state()?.extra["x\u{fffd}"], 1);
    Ok(())
}

#[test]
fn a_newer_version_is_refused_however_it_is_written() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    for version in [
        r#""2""#,
        r#""2.0""#,
        r#""v2.0.0""#,
        r#"" 2.0.0""#,
        r#""2.0.0.0""#,
        r#""99999999999999999999.0.0""#,
        "2",
        "2.5",
        r#""2.0.0\ud83d""#,
        r#""\u0032""#,
    ] {
        let result = import(&store, &format!(r#"{{"version": {version}, "tasks": []}}"#));
        assert!(matches!(result, Err(Error::DocumentTooNew { .. })), "{version}: {result:?}");
    }
    Ok(())
}

#[test]
fn a_replacement_that_drops_the_messages_needs_a_word() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    let mut document: Value = serde_json::from_str(FIXTURE)?;
    for conversation in document["conversations"].as_array_mut().expect("a list") {
        conversation["recentMessages"] = json!([]);
    }
    let options = ImportOptions::default().mode(ImportMode::Replace);
    let result = store.import_json(document.to_string().as_bytes(), options);
    assert!(matches!(result, Err(Error::WouldShrink { before: 72, after: 0 })), "{result:?}");
    Ok(())
}

#[test]
fn what_is_accepted_can_be_read_exported_and_imported_again_however_deep() -> TestResult {
    for levels in [90, 95, 96, 97, 100, 124, 125, 126, 127, 128, 300] {
        let base = Base::new()?;
        let store = base.store()?;
        let mut task = task("T-1", TaskStatus::Pending);
        task.checkpoint = Some(TaskCheckpoint { work_data: Some(nested(levels)), ..TaskCheckpoint::default() });
        let written = store.update_task(&task);
        assert_eq!(written.is_ok(), levels <= 96, "{levels}: {written:?}");
        let deep = format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        let step = r#""id": "T-2", "title": "", "description": "", "status": "", "priority": "", "createdAt": """#;
        let document = format!(r#"{{"version": "1.0.0", "u": {deep}, "tasks": [{{{step}, "u": {deep}}}]}}"#);
        let options = ImportOptions::default().mode(ImportMode::Merge);
        let report = store.import_json(document.as_bytes(), options)?;
        assert_eq!(report.set_aside.is_empty(), levels <= 95, "{levels}: {report:?}");
        for record in store.set_aside()? {
            assert!(record.content.contains(&deep), "{levels}: kept word for word");
        }
        let again = Base::new()?;
        let report = import(&again.store()?, &export(&store)?)?;
        assert_eq!(report.set_aside, [], "{levels}");
        assert_eq!(again.store()?.state()?, store.state()?);
    }
    Ok(())
}
