//! The schema as people and other tools meet it: the views, the shell, `sqlite-utils`, Datasette, the diagram.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentmux_state::{ChangeOperation, CheckpointReason, ConversationState, TaskStatus};
use rusqlite::Connection;

use crate::common::skip::{requires, skip};
use crate::common::{Base, FIXTURE, QUIRKS, TestResult, conversation, import, task};

const README: &str = include_str!("../../README.md");
const README_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");

/// Runs a query in the `sqlite3` shell, with a person's settings; `None` where there is no shell.
fn shell(base: &Base, options: &[&str], sql: &str) -> Option<String> {
    let output = Command::new("sqlite3").args(options).arg(base.file("state.db")).arg(sql).output();
    let Ok(output) = output else {
        skip("sqlite3 is not installed");
        return None;
    };
    assert!(output.status.success() && output.stderr.is_empty(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn names(base: &Base, condition: &str) -> rusqlite::Result<Vec<String>> {
    let sql = format!("SELECT name FROM pragma_table_list WHERE schema = 'main' AND {condition} ORDER BY name");
    base.sql()?.prepare(&sql)?.query_map([], |row| row.get(0))?.collect()
}

fn populated() -> Result<Base, Box<dyn std::error::Error>> {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let merge = agentmux_state::ImportOptions::default().mode(agentmux_state::ImportMode::Merge);
    base.store()?.import_json(QUIRKS.as_bytes(), merge)?;
    let service = base.service();
    service.initialize()?;
    service.save_state(CheckpointReason::UserRequest)?;
    service.prepare_for_shutdown()?;
    base.store()?.update_message_index()?;
    Ok(base)
}

#[test]
fn every_view_answers_in_the_shell_and_none_scans_the_messages_without_need() -> TestResult {
    let base = populated()?;
    let views = names(&base, "type = 'view'")?;
    assert!(views.len() >= 14, "{views:?}");
    for view in &views {
        let Some(_) = shell(&base, &["-readonly"], &format!("SELECT * FROM {view}")) else { return Ok(()) };
        let plan = shell(&base, &["-readonly"], &format!("EXPLAIN QUERY PLAN SELECT * FROM {view}")).expect("a plan");
        let scans = plan.lines().any(|line| line.contains("SCAN messages") && !line.contains("SCAN messages_"));
        assert!(view == "message_log" || !scans, "{view}: {plan}");
    }
    for sql in [
        "SELECT * FROM message_log WHERE conversation_id = 'conv-1' ORDER BY position",
        "SELECT * FROM conversation_overview WHERE id = 'conv-1'",
        "SELECT * FROM task_overview WHERE id = 'task-1'",
        "SELECT * FROM task_overview WHERE project_id = 'proj-1' AND status = 'blocked'",
        "SELECT * FROM task_overview WHERE assigned_to = 'dev-1'",
        "SELECT * FROM task_waits WHERE task_id = 'task-1'",
        "SELECT * FROM run_history ORDER BY run_id DESC LIMIT 5",
        "SELECT * FROM checkpoint_history ORDER BY checkpoint_id DESC LIMIT 5",
    ] {
        let plan = shell(&base, &["-readonly"], &format!("EXPLAIN QUERY PLAN {sql}")).expect("a plan");
        // The times of one row, of which the first readable one counts, are no table.
        let is_one_row = |line: &str| line.contains("CONSTANT ROW") || line.contains("SCAN (subquery");
        let scans: Vec<_> = plan.lines().filter(|line| line.contains("SCAN") && !is_one_row(line)).collect();
        assert!(scans.iter().all(|scan| sql.contains("LIMIT") && !scan.contains("messages")), "{sql}: {plan}");
    }
    Ok(())
}

#[test]
fn the_guide_names_queries_that_run() -> TestResult {
    let base = populated()?;
    let conn = base.sql()?;
    let queries: Vec<String> =
        conn.prepare("SELECT query FROM guide")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    assert!(queries.len() >= 14);
    for query in queries.iter().filter(|query| query.starts_with("SELECT")) {
        conn.prepare(query)?.query([])?.next()?;
    }
    Ok(())
}

#[test]
fn views_say_what_the_library_says() -> TestResult {
    let base = populated()?;
    base.store()?.update_conversation(&agentmux_state::ConversationState {
        last_activity_at: chrono::Utc::now().into(),
        ..conversation("C-now", 0..2)
    })?;
    let conn = base.sql()?;
    let column =
        |sql: &str| -> rusqlite::Result<Vec<String>> { conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect() };
    let resume = base.store()?.resume_instructions(chrono::Utc::now())?;
    let tasks: Vec<_> = resume.tasks_to_resume.iter().map(|it| it.id.clone()).collect();
    let conversations: Vec<_> = resume.conversations_to_resume.iter().map(|it| it.id.clone()).collect();
    assert!(!tasks.is_empty() && !conversations.is_empty());
    assert_eq!(column("SELECT id FROM resumable WHERE kind = 'task' ORDER BY position")?, tasks);
    assert_eq!(column("SELECT id FROM resumable WHERE kind = 'conversation' ORDER BY position")?, conversations);
    assert_eq!(column("SELECT id FROM task_overview")?.len(), base.store()?.state()?.tasks.len());
    assert_eq!(column("SELECT last_message FROM conversation_overview WHERE id = 'C-now'")?, ["message 1"]);
    assert_eq!(column("SELECT missing_id FROM dangling_references WHERE kind = 'agent'")?, ["T-404"]);
    assert_eq!(column("SELECT ended FROM run_history")?, ["shutdown"]);
    assert_eq!(column("SELECT path FROM set_aside_overview")?.len(), 4);

    // What waits for what, said by either side or both.
    let waits = |one: &str, other: &str| -> TestResult {
        let store = base.store()?;
        let mut waiting = task("W-1", TaskStatus::Blocked);
        waiting.blocked_by = Some(if one.is_empty() { vec![] } else { vec![one.into()] });
        let mut first = task("W-0", TaskStatus::InProgress);
        first.blocks = Some(if other.is_empty() { vec![] } else { vec![other.into()] });
        store.update_task(&first)?;
        Ok(store.update_task(&waiting)?)
    };
    for (one, other) in [("W-0", ""), ("", "W-1"), ("W-0", "W-1")] {
        waits(one, other)?;
        assert_eq!(column("SELECT waits_for FROM task_waits WHERE task_id = 'W-1'")?, ["W-0"], "{one} {other}");
        assert_eq!(column("SELECT waits_for FROM task_overview WHERE id = 'W-1' AND NOT dependencies_done")?, ["W-0"]);
    }
    base.store()?.update_task(&task("W-0", TaskStatus::Completed))?;
    assert_eq!(
        column("SELECT why FROM stuck_tasks WHERE id = 'W-1'")?,
        ["blocked, though all that it waited for is done"]
    );
    base.store()?.remove_task("W-0")?;
    assert_eq!(column("SELECT why FROM stuck_tasks WHERE id = 'W-1'")?, ["waits for W-0, which is gone"]);

    // Circles, and times that cannot be read.
    for (id, other) in [("W-2", "W-3"), ("W-3", "W-2"), ("W-4", "W-4")] {
        base.store()?.update_task(&agentmux_state::TaskState {
            blocked_by: Some(vec![other.into()]),
            ..task(id, TaskStatus::Blocked)
        })?;
    }
    assert_eq!(column("SELECT why FROM stuck_tasks WHERE id = 'W-2'")?, ["waits for W-3, which waits for it"]);
    assert_eq!(column("SELECT why FROM stuck_tasks WHERE id = 'W-4'")?, ["waits for itself"]);
    let mut vague = task("W-5", TaskStatus::InProgress);
    vague.last_activity_at = Some("yesterday".into());
    vague.created_at = "2020-01-01T00:00:00.000Z".into();
    base.store()?.update_task(&vague)?;
    let idle = "SELECT why FROM stuck_tasks WHERE id = 'W-5' AND why LIKE '%over an hour'";
    assert_eq!(column(idle)?.len(), 1, "its creation is known");
    Ok(())
}

#[test]
fn a_change_in_the_shell_is_seen_by_the_running_orchestrator_and_leaves_no_orphan() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let service = base.service();
    service.initialize()?;
    service.save_state(CheckpointReason::UserRequest)?;
    let by_hand =
        "UPDATE tasks SET status = 'completed' WHERE id = 'task-1'; DELETE FROM conversations WHERE id = 'conv-1';
                   DELETE FROM tasks WHERE id = 'task-2'; DELETE FROM projects WHERE id = 'proj-2'";
    let Some(_) = shell(&base, &[], by_hand) else { return Ok(()) };
    let store = service.store()?;
    assert_eq!(store.task("task-1")?.expect("the task").status, TaskStatus::Completed);
    let changes =
        shell(&base, &["-readonly"], "SELECT entity, id, operation FROM changes_since_checkpoint ORDER BY 1, 2");
    let expected = "conversation|conv-1|delete\nproject|proj-2|delete\ntask|task-1|update\ntask|task-2|delete\n";
    assert_eq!(changes.as_deref(), Some(expected));
    service.save_state(CheckpointReason::Scheduled)?;
    let export: serde_json::Value = serde_json::from_str(&fs::read_to_string(base.file("current-state.json"))?)?;
    assert_eq!(export["conversations"].as_array().map(Vec::len), Some(5));
    assert_eq!(export["tasks"].as_array().map(Vec::len), Some(23));
    let task = export["tasks"].as_array().and_then(|tasks| tasks.iter().find(|task| task["id"] == "task-1"));
    assert_eq!(task.expect("the task")["status"], "completed");
    for table in ["messages", "task_steps", "task_blockers", "task_dependencies", "task_checkpoints", "project_tasks"] {
        let orphans = format!("SELECT count(*) FROM pragma_foreign_key_check('{table}')");
        assert_eq!(shell(&base, &["-readonly"], &orphans).as_deref(), Some("0\n"), "{table}");
    }
    service.prepare_for_shutdown()?;
    Ok(())
}

/// Whether a program is here; CI installs it.
#[test]
fn sqlite_utils_reads_every_table_and_view() -> TestResult {
    if !requires(&["sqlite-utils"]) {
        return Ok(());
    }
    let base = populated()?;
    let run = |arguments: &[&str]| -> Result<String, Box<dyn std::error::Error>> {
        let (command, rest) = arguments.split_first().expect("a command");
        let output = Command::new("sqlite-utils").arg(command).arg(base.file("state.db")).args(rest).output()?;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    for name in names(&base, "name NOT LIKE 'sqlite_%'")? {
        run(&["rows", &name, "--limit", "3"])?;
    }
    assert!(run(&["tables", "--counts"])?.contains("{\"table\": \"tasks\", \"count\": 26}"));
    assert!(run(&["views"])?.contains("task_overview"));
    let found = run(&["query", "SELECT count(*) AS n FROM message_index WHERE message_index MATCH 'deploy'"])?;
    assert!(!found.contains("\"n\": 0"), "{found}");
    Ok(())
}

#[test]
fn datasette_shows_every_table_and_view() -> TestResult {
    if !requires(&["datasette"]) {
        return Ok(());
    }
    let base = populated()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut server = Command::new("datasette")
        .arg("serve")
        .arg(base.file("state.db"))
        .args(["--port", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let get = |path: &str| -> std::io::Result<(String, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
    };
    let check = || -> TestResult {
        let start = Instant::now();
        while get("/-/versions.json").is_err() {
            assert!(start.elapsed() < Duration::from_secs(30), "it does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        for name in names(&base, "name NOT LIKE 'sqlite_%' AND type <> 'shadow'")? {
            for suffix in ["", ".json"] {
                let (status, body) = get(&format!("/state/{name}{suffix}"))?;
                assert!(
                    status.contains(" 200"),
                    "{name}{suffix}: {status} {}",
                    body.chars().take(500).collect::<String>()
                );
            }
        }
        let (_, body) = get("/state/tasks.json?status=paused&_shape=array")?;
        assert!(body.contains("\"id\": \"task-3\""), "{body}");
        Ok(())
    };
    let checked = check();
    server.kill()?;
    server.wait()?;
    checked
}

/// The tables with their keys, and what refers to what: by a foreign key, or by a comment of the column.
fn er_diagram(conn: &Connection) -> rusqlite::Result<String> {
    let tables = "SELECT name, sql FROM sqlite_schema JOIN pragma_table_list USING (name)
                  WHERE sqlite_schema.type = 'table' AND pragma_table_list.type = 'table'
                  AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'refinery_%' ORDER BY sqlite_schema.rowid";
    let tables: Vec<(String, String)> =
        conn.prepare(tables)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let known: BTreeSet<&str> = tables.iter().map(|(name, _)| name.as_str()).collect();
    let mut entities = String::new();
    let mut relations = BTreeSet::new();
    for (table, sql) in &tables {
        let mut keys = Vec::new();
        let foreign = "SELECT \"table\", \"from\" FROM pragma_foreign_key_list(?1)";
        let mut foreign_keys = Vec::new();
        let mut select = conn.prepare(foreign)?;
        let mut rows = select.query([table])?;
        while let Some(row) = rows.next()? {
            let (parent, column): (String, String) = (row.get(0)?, row.get(1)?);
            relations.insert(format!("  {parent} ||--o{{ {table} : \"{column}\""));
            foreign_keys.push(column);
        }
        let mut select = conn.prepare("SELECT name, lower(type), pk FROM pragma_table_info(?1)")?;
        let columns: Vec<(String, String, u32)> =
            select.query_map([table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<Result<_, _>>()?;
        for (column, kind, primary) in columns {
            let line =
                sql.lines().find(|line| line.trim_start().starts_with(&format!("{column} "))).unwrap_or_default();
            let comment = line.split_once("-- ").map_or("", |(_, comment)| comment);
            let named = comment.split(['.', ';', ' ']).next().unwrap_or_default();
            let is_soft = comment.starts_with(&format!("{named}.")) && known.contains(named) && named != "state";
            if is_soft && !foreign_keys.contains(&column) {
                relations.insert(format!("  {named} |o..o{{ {table} : \"{column}\""));
            }
            let marks: Vec<_> =
                [(primary > 0, "PK"), (foreign_keys.contains(&column), "FK"), (line.contains(" UNIQUE"), "UK")]
                    .into_iter()
                    .filter_map(|(is, mark)| is.then_some(mark))
                    .collect();
            if !marks.is_empty() || is_soft {
                keys.push(format!("    {kind} {column} {}", marks.join(",")).trim_end().to_owned());
            }
        }
        entities += &format!("  {table} {{\n{}\n  }}\n", keys.join("\n"));
    }
    let relations: String = relations.into_iter().map(|relation| relation + "\n").collect();
    Ok(format!("```mermaid\nerDiagram\n{relations}{entities}```\n"))
}

#[test]
fn the_diagram_in_the_readme_is_that_of_the_schema() -> TestResult {
    let base = Base::new()?;
    base.store()?;
    let diagram = er_diagram(&base.sql()?)?;
    assert!(
        README.contains(&diagram),
        "the schema has changed: `cargo test --test integration queries:: -- --ignored` writes the diagram into the README"
    );
    for relation in
        ["conversations ||--o{ messages", "tasks ||--o{ task_steps", "agents |o..o{ tasks", "runs |o..o{ checkpoints"]
    {
        assert!(diagram.contains(relation), "{relation}: {diagram}");
    }
    Ok(())
}

#[test]
#[ignore = "writes the README"]
fn write_the_diagram() -> TestResult {
    let base = Base::new()?;
    base.store()?;
    let (before, rest) = README.split_once("```mermaid\nerDiagram\n").expect("the place of the diagram");
    let (_, after) = rest.split_once("```\n").expect("its end");
    Ok(fs::write(README_PATH, format!("{before}{}{after}", er_diagram(&base.sql()?)?))?)
}

#[test]
fn renaming_in_the_shell_takes_along_what_belongs_to_a_row() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    store.record_checkpoint(&CheckpointReason::UserRequest)?;
    let before = store.task("task-1")?.expect("the task");
    let talk = store.conversation("conv-1")?.expect("the conversation");
    base.by_hand(
        "UPDATE tasks SET id = 'renamed' WHERE id = 'task-1'; UPDATE conversations SET id = 'talk' WHERE id = 'conv-1'",
    )?;
    let after = store.task("renamed")?.expect("the task");
    assert_eq!(after, agentmux_state::TaskState { id: "renamed".into(), ..before });
    assert_eq!(store.conversation("talk")?, Some(ConversationState { id: "talk".into(), ..talk }));
    let changes: Vec<_> = store.changes()?.changes.into_iter().map(|it| (it.id, it.operation)).collect();
    for expected in [("task-1", ChangeOperation::Delete), ("renamed", ChangeOperation::Add)] {
        assert!(changes.contains(&(expected.0.to_owned(), expected.1)), "{changes:?}");
    }
    assert!(store.backups().create("x").is_ok());
    Ok(())
}

#[test]
fn rows_that_belong_to_nothing_are_refused_also_in_the_shell() -> TestResult {
    let base = Base::new()?;
    base.store()?;
    for sql in [
        "INSERT INTO messages (conversation_id, position, role, content, timestamp) VALUES ('gone', 0, '', '', '')",
        "INSERT INTO task_steps VALUES ('gone', 'completed', 0, 'x')",
        "INSERT INTO task_checkpoint_files VALUES ('gone', 0, 'x')",
        "INSERT INTO project_tasks VALUES ('gone', 0, 'x')",
    ] {
        let error = base.by_hand(sql).expect_err(sql).to_string();
        assert!(error.contains("names no row of"), "{sql}: {error}");
    }
    Ok(())
}
