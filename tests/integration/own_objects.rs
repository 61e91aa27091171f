//! What a person adds to `state.db` is theirs: it survives everything, runs in no write of ours, and makes no backup useless. What
//! is ours and was changed is refused by its name.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::catch_unwind;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::common::program;
use crate::common::skip::skip;
use crate::common::{Base, FIXTURE, TestResult, agent, conversation, export, fixture, message, project, task};
use agentmux_state::{
    CheckpointReason, Error, ImportMode, ImportOptions, Retention, StateStore, StoreOptions, TaskStatus, recover,
};
use rusqlite::Connection;

/// A kind of object: its name, the SQL that makes it, a query that must give the same throughout, and an edit in a shell with a
/// query that must give 1 after it.
struct Kind {
    name: &'static str,
    sql: &'static str,
    stays: &'static str,
    edit: &'static str,
    edited: &'static str,
}

const fn kind(
    name: &'static str,
    sql: &'static str,
    stays: &'static str,
    edit: &'static str,
    edited: &'static str,
) -> Kind {
    Kind { name, sql, stays, edit, edited }
}

/// An object that is there, by its text.
const THERE: &str = "SELECT group_concat(type || name || sql, ';') FROM sqlite_schema WHERE name LIKE 'my %'";

/// Logs to a table of the person's what a trigger saw.
macro_rules! log {
    () => {
        "CREATE TABLE \"my log\" (what TEXT);"
    };
}

const KINDS: &[Kind] = &[
    kind("view", "CREATE VIEW \"my view\" AS SELECT id, title FROM tasks", THERE, "", ""),
    kind("invalid view", "CREATE VIEW \"my view\" AS SELECT gone FROM nowhere", THERE, "", ""),
    kind("index", "CREATE INDEX \"my index\" ON tasks (title)", THERE, "", ""),
    kind("partial index", "CREATE INDEX \"my index\" ON tasks (title) WHERE status = \"blocked\"", THERE, "", ""),
    kind("expression index", "CREATE INDEX \"my index\" ON messages (lower(content))", THERE, "", ""),
    kind("unique index", "CREATE UNIQUE INDEX \"my index\" ON tasks (title, id)", THERE, "", ""),
    kind(
        "table",
        "CREATE TABLE \"my \"\"table\" (a PRIMARY KEY, b, \"c d\" BLOB, rowid TEXT); CREATE INDEX \"my index\" ON \"my \"\"table\" (b);
         INSERT INTO \"my \"\"table\" VALUES (1, 'x', x'00ff', 'r'), (2.5, NULL, 'y' || char(0) || 'z', NULL)",
        "SELECT group_concat(quote(a) || quote(b) || quote(hex(\"c d\")) || quote(rowid) || _rowid_) FROM \"my \"\"table\"",
        "INSERT INTO \"my \"\"table\" VALUES (3, 3, 3, 3)",
        "SELECT count(*) = 3 FROM \"my \"\"table\"",
    ),
    kind(
        "table with a sequence",
        "CREATE TABLE \"my table\" (id INTEGER PRIMARY KEY AUTOINCREMENT, a); INSERT INTO \"my table\" (a) VALUES ('a'), ('b');
         DELETE FROM \"my table\" WHERE a = 'b'",
        "SELECT group_concat(id || a) FROM \"my table\"",
        "INSERT INTO \"my table\" (a) VALUES ('c')",
        "SELECT max(id) = 3 FROM \"my table\"",
    ),
    kind(
        "table without rowid",
        "CREATE TABLE \"my table\" (a TEXT, b INT, PRIMARY KEY (b, a)) WITHOUT ROWID; INSERT INTO \"my table\" VALUES ('x', 2), ('y', 1)",
        "SELECT group_concat(a || b) FROM \"my table\"",
        "",
        "",
    ),
    kind(
        "strict table with generated columns",
        "CREATE TABLE \"my table\" (a INTEGER PRIMARY KEY, b REAL CHECK (b > 0), c REAL AS (b * 2) STORED, d TEXT AS (a || '!')) STRICT;
         INSERT INTO \"my table\" (b) VALUES (0.1), (2)",
        "SELECT group_concat(a || b || c || d) FROM \"my table\"",
        "",
        "",
    ),
    kind(
        "full-text table",
        "CREATE VIRTUAL TABLE \"my fts\" USING fts5(body); INSERT INTO \"my fts\" VALUES ('some words'), ('other words')",
        "SELECT count(*) || group_concat(body) FROM \"my fts\" WHERE \"my fts\" MATCH 'words'",
        "INSERT INTO \"my fts\" VALUES ('more words')",
        "SELECT count(*) = 3 FROM \"my fts\" WHERE \"my fts\" MATCH 'words'",
    ),
    kind(
        "full-text table over ours",
        "CREATE VIRTUAL TABLE \"my fts\" USING fts5(content, content='messages', content_rowid='message_id');
         CREATE TRIGGER \"my trigger\" AFTER INSERT ON messages BEGIN
           INSERT INTO \"my fts\" (rowid, content) VALUES (NEW.message_id, NEW.content);
         END",
        THERE,
        "INSERT INTO messages (conversation_id, position, role, content, timestamp) VALUES ('of a shell', 9, 'user', 'quaint', '')",
        "SELECT count(*) = 1 FROM \"my fts\" WHERE \"my fts\" MATCH 'quaint'",
    ),
    kind(
        "table that refers to ours",
        "CREATE TABLE \"my notes\" (task TEXT REFERENCES tasks (id), note TEXT); INSERT INTO \"my notes\" VALUES ('T-own', 'n')",
        "SELECT group_concat(task || note) FROM \"my notes\"",
        "INSERT INTO \"my notes\" VALUES ('of a shell', 'm')",
        "SELECT count(*) = 2 FROM \"my notes\"",
    ),
    kind(
        "table that goes with ours",
        "CREATE TABLE \"my notes\" (task TEXT REFERENCES tasks (id) ON DELETE CASCADE ON UPDATE CASCADE, note TEXT);
         INSERT INTO \"my notes\" VALUES ('T-own', 'n')",
        "SELECT group_concat(task || note) FROM \"my notes\"",
        "PRAGMA foreign_keys = on; INSERT INTO \"my notes\" VALUES ('of a shell', 'm'); DELETE FROM tasks WHERE id = 'of a shell'",
        "SELECT count(*) = 1 FROM \"my notes\"",
    ),
    kind(
        "reference that fits nothing",
        "CREATE TABLE \"my notes\" (title TEXT REFERENCES tasks (title), c REFERENCES conversations (source) ON DELETE CASCADE)",
        THERE,
        "",
        "",
    ),
    kind(
        "added column",
        "ALTER TABLE tasks ADD COLUMN \"my \"\"column, (x)\" TEXT; UPDATE tasks SET \"my \"\"column, (x)\" = 'kept' WHERE id = 'T-own'",
        "SELECT \"my \"\"column, (x)\" FROM tasks WHERE id = 'T-own'",
        "UPDATE tasks SET \"my \"\"column, (x)\" = 'new' WHERE id = 'of a shell'",
        "SELECT count(*) = 1 FROM tasks WHERE \"my \"\"column, (x)\" = 'new'",
    ),
    kind(
        "added column with a default and a check",
        "ALTER TABLE messages ADD COLUMN stars INTEGER NOT NULL DEFAULT 3 CHECK (stars IN (1, 2, 3, ')')) /* ), ( */;
         UPDATE messages SET stars = 1 WHERE conversation_id = 'C-own' AND position = 0",
        "SELECT stars FROM messages WHERE conversation_id = 'C-own' AND position = 0",
        "UPDATE messages SET stars = 2",
        "SELECT min(stars) = 2 FROM messages",
    ),
    kind(
        "added generated column",
        "ALTER TABLE tasks ADD COLUMN shout TEXT AS (upper(title)); CREATE INDEX \"my index\" ON tasks (shout)",
        "SELECT shout FROM tasks WHERE id = 'T-own'",
        "",
        "",
    ),
    kind(
        "two added columns, one of which refers",
        "PRAGMA foreign_keys = off; ALTER TABLE tasks ADD COLUMN \"a\" TEXT; ALTER TABLE tasks ADD COLUMN [b] TEXT REFERENCES tasks (id) ON DELETE CASCADE;
         UPDATE tasks SET a = 'x', b = 'T-gone' WHERE id = 'T-own'",
        "SELECT a || b FROM tasks WHERE id = 'T-own'",
        "",
        "",
    ),
    kind(
        "trigger after",
        concat!(
            log!(),
            "CREATE TRIGGER \"my trigger\" AFTER UPDATE ON tasks BEGIN INSERT INTO \"my log\" VALUES (NEW.id); END"
        ),
        THERE,
        "UPDATE tasks SET title = 'by hand' WHERE id = 'of a shell'",
        "SELECT group_concat(what) = 'of a shell' FROM \"my log\"",
    ),
    kind(
        "trigger before that refuses",
        "CREATE TRIGGER \"my trigger\" BEFORE INSERT ON tasks WHEN NEW.id <> 'of a shell' BEGIN SELECT RAISE(ABORT, 'theirs'); END;
         CREATE TRIGGER \"my other trigger\" BEFORE DELETE ON conversations BEGIN SELECT RAISE(IGNORE); END",
        THERE,
        "",
        "",
    ),
    kind(
        "trigger that destroys",
        "CREATE TRIGGER \"my trigger\" AFTER INSERT ON checkpoints BEGIN DELETE FROM agents; DELETE FROM runs; END",
        THERE,
        "",
        "",
    ),
    kind(
        "trigger on a view",
        "CREATE VIEW \"my view\" AS SELECT id, title FROM tasks;
         CREATE TRIGGER \"my trigger\" INSTEAD OF UPDATE ON \"my view\" BEGIN UPDATE tasks SET title = NEW.title WHERE id = NEW.id; END",
        THERE,
        "UPDATE \"my view\" SET title = 'by hand' WHERE id = 'of a shell'",
        "SELECT title = 'by hand' FROM tasks WHERE id = 'of a shell'",
    ),
    // A recovery does not bring them: they tell of the pages that are gone.
    kind(
        "table with many columns",
        "CREATE TABLE \"my table\" (WIDE)",
        "SELECT c0 || c299 FROM \"my table\"",
        "UPDATE \"my table\" SET c1 = 1",
        "SELECT c1 = 1 FROM \"my table\"",
    ),
    kind("statistics", "ANALYZE", "SELECT 1", "ANALYZE", "SELECT count(*) > 0 FROM sqlite_stat1"),
    kind(
        "violated constraint of its own",
        "CREATE TABLE \"my table\" (a CHECK (a > 0)); PRAGMA ignore_check_constraints = on; INSERT INTO \"my table\" VALUES (-1)",
        "SELECT group_concat(a) FROM \"my table\"",
        "",
        "",
    ),
];

/// A base directory in memory with the database of a released schema.
fn base_of(version: u32) -> Result<Base, Box<dyn std::error::Error>> {
    let base = Base::in_memory()?;
    fs::create_dir_all(base.state_dir())?;
    base.sql()?.execute_batch(&fixture(version)?.0)?;
    base.sql()?.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    Ok(base)
}

fn ask(base: &Base, sql: &str) -> Result<Option<String>, rusqlite::Error> {
    base.sql()?.query_row(sql, [], |row| {
        Ok(match row.get_ref(0)? {
            rusqlite::types::ValueRef::Integer(number) => Some(number.to_string()),
            value => value.as_str_or_null().unwrap().map(str::to_owned),
        })
    })
}

/// Everything that the program does with a state.
fn work(base: &Base, store: &StateStore) -> Result<String, Box<dyn std::error::Error>> {
    let before = export(store)?;
    for n in 0..2 {
        store.update_task(&task("T-1", TaskStatus::InProgress))?;
        store.update_task(&agentmux_state::TaskState { title: format!("{n}"), ..task("T-2", TaskStatus::Blocked) })?;
        store.update_conversation(&conversation("C-1", 0..3))?;
        store.append_message("C-1", &message(5 + n))?;
        store.update_agent(&agent("dev-1"))?;
        store.update_project(&project("P-1"))?;
        store.update_self_improvement(&agentmux_state::SelfImprovementState::default())?;
        store.set_mode(&agentmux_state::OrchestratorMode::Onboarding)?;
    }
    let changes = store.changes()?.changes.len();
    assert!(changes >= 6, "our own triggers work: {changes}");
    store.record_checkpoint(&CheckpointReason::UserRequest)?;
    assert!(store.remove_task("T-1")? && store.remove_task("T-2")?);
    assert!(store.remove_conversation("C-1")? && store.remove_agent("dev-1")? && store.remove_project("P-1")?);
    store.clear_self_improvement()?;
    assert!(store.task("T-1")?.is_none() && store.conversation("C-1")?.is_none());
    let messages: i64 =
        base.sql()?.query_row("SELECT count(*) FROM messages WHERE conversation_id = 'C-1'", [], |row| row.get(0))?;
    assert_eq!(messages, 0, "what belongs to something goes with it");
    Ok(before)
}

fn verify(store: &StateStore, id: &str) -> TestResult {
    let verdict = store.backups().verify(Some(id))?.remove(0);
    if verdict.ok { Ok(()) } else { Err(verdict.problems.join("; ").into()) }
}

fn one_kind(version: u32, kind: &Kind) -> TestResult {
    let base = base_of(version)?;
    let sql = base.sql()?;
    sql.execute_batch(
        "INSERT INTO tasks (id, title, description, status, priority, percent_complete, created_at)
           VALUES ('T-own', 'mine', '', 'pending', 'low', 0, '');
         INSERT INTO conversations (id, source, last_activity_at) VALUES ('C-own', 'chat', '');
         INSERT INTO messages (conversation_id, position, role, content, timestamp) VALUES ('C-own', 0, 'user', 'mine', '')",
    )?;
    let wide: Vec<_> = (0..300).map(|n| format!("c{n}")).collect();
    sql.execute_batch(&kind.sql.replace("WIDE", &wide.join(", ")))?;
    if kind.sql.contains("WIDE") {
        sql.execute_batch("INSERT INTO \"my table\" (c0, c299) VALUES (0, 299)")?;
    }
    drop(sql);
    let stays = ask(&base, kind.stays)?;
    assert!(stays.is_some());
    let same = |at: &str| -> TestResult {
        let found = ask(&base, kind.stays)?;
        if found == stays { Ok(()) } else { Err(format!("{at}: {found:?} instead of {stays:?}").into()) }
    };
    let store = base.store()?;
    same("after the upgrade")?;
    if let Some(backup) = store.upgrade_backup() {
        verify(&store, &backup.id)?;
    }
    let document = work(&base, &store)?;
    same("after updates")?;
    let backup = store.backups().create("mine")?.id;
    verify(&store, &backup)?;
    let report = store.backups().restore(&backup)?;
    verify(&store, &report.safety_backup.ok_or("no safety backup")?)?;
    assert_eq!(report.own_objects, None);
    same("after a restore")?;
    assert!(
        store.check()?.problems.iter().all(|it| matches!(it.kind, "permissions")
            || (it.kind == "integrity" && kind.name.starts_with("violated"))
            || (it.kind == "foreign_key" && kind.name.contains("refer"))),
        "{:?}",
        store.check()?.problems
    );
    // An import into it, a merge, and retention.
    let options = |mode| ImportOptions::default().mode(mode).allow_shrink(true);
    store.import_json(document.as_bytes(), options(ImportMode::Replace))?;
    store.import_json(FIXTURE.as_bytes(), options(ImportMode::Merge))?;
    assert!(store.changes()?.changes.len() > 2);
    store.backups().prune(&Retention::default().last(5), false)?;
    store.backups().restore(&backup)?;
    same("after an import and a restore")?;
    drop(store);
    // The same on another machine.
    let other = Base::in_memory()?;
    fs::create_dir_all(other.file("backups"))?;
    for extension in ["db", "db.sha256"] {
        let name = format!("backups/{backup}.{extension}");
        fs::copy(base.file(&name), other.file(&name))?;
    }
    StateStore::open_restored(other.state_dir(), &backup, StoreOptions::default())?;
    assert_eq!(ask(&other, kind.stays)?, stays, "on another machine");
    // Damage: an index of ours lost its root page's type.
    damage(&base)?;
    let report = recover(base.state_dir(), &StoreOptions::default())?;
    same(&format!("after a recovery: {report:?}"))?;
    base.store()?.backups().create("after")?;
    if !kind.edit.is_empty() {
        let sql = base.sql()?;
        sql.execute_batch(
            "INSERT INTO tasks (id, title, description, status, priority, percent_complete, created_at)
               VALUES ('of a shell', '', '', 'pending', 'low', 0, '');
             INSERT INTO conversations (id, source, last_activity_at) VALUES ('of a shell', 'chat', '')",
        )?;
        sql.execute_batch(kind.edit)?;
        drop(sql);
        if !kind.edited.is_empty() {
            assert_eq!(ask(&base, kind.edited)?.as_deref(), Some("1"), "it works in a shell");
        }
    }
    Ok(())
}

/// Overwrites the root page of an index of ours.
fn damage(base: &Base) -> TestResult {
    let sql = base.sql()?;
    sql.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))?;
    let (page, size): (u64, u64) = sql.query_row(
        "SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size WHERE name = 'tasks_by_status'",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    drop(sql);
    let mut content = fs::read(base.file("state.db"))?;
    let start = ((page - 1) * size) as usize;
    content[start..start + 100].fill(0xee);
    fs::write(base.file("state.db"), content)?;
    Ok(())
}

#[test]
fn every_kind_of_object_survives_on_every_version_and_runs_in_no_write_of_ours() {
    let versions = (1..).take_while(|version| fixture(*version).is_ok());
    let all: Vec<_> = versions.flat_map(|version| KINDS.iter().map(move |kind| (version, kind))).collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((version, kind)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = catch_unwind(|| one_kind(*version, kind).map_err(|error| error.to_string()));
                    if let Some(error) = result.unwrap_or_else(|_| Err("panicked".into())).err() {
                        failed.lock().unwrap().insert((*version, kind.name), error);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("{} kinds on {} databases, {} failed", KINDS.len(), all.len(), failed.len());
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(KINDS.len() >= 18);
}

/// Changes to objects of ours, each with the name that every refusal has to give.
const CHANGED: &[(&str, &str)] = &[
    ("DROP TRIGGER tasks_deleted; CREATE TRIGGER tasks_deleted AFTER DELETE ON tasks BEGIN SELECT 1; END", "trigger tasks_deleted"),
    ("DROP TRIGGER messages_inserted", "trigger messages_inserted"),
    ("DROP INDEX tasks_by_status", "index tasks_by_status"),
    ("DROP INDEX tasks_by_status; CREATE INDEX tasks_by_status ON tasks (title)", "index tasks_by_status"),
    ("ALTER TABLE tasks RENAME COLUMN team_id TO crew", "table tasks"),
    (
        "PRAGMA writable_schema = on;
         UPDATE sqlite_schema SET sql = replace(sql, 'title TEXT NOT NULL', 'title TEXT') WHERE name = 'tasks'",
        "table tasks",
    ),
    (
        "PRAGMA writable_schema = on;
         UPDATE sqlite_schema SET sql = replace(sql, 'role TEXT NOT NULL', 'role TEXT NOT NULL CHECK (role <> ''x'')') WHERE name = 'agents'",
        "table agents",
    ),
];

#[test]
fn a_changed_object_of_ours_is_refused_by_its_name() -> TestResult {
    let latest = (1..).take_while(|version| fixture(*version).is_ok()).last().ok_or("no fixture")?;
    for version in 1..=latest {
        for (sql, name) in CHANGED {
            let base = base_of(version)?;
            let change = |path: &std::path::Path| -> TestResult {
                let conn = Connection::open(path)?;
                conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
                Ok(conn.execute_batch(sql)?)
            };
            if version < latest {
                change(&base.file("state.db"))?;
                let refused = base.store().err().ok_or(format!("{version} {sql}: upgraded"))?.to_string();
                assert!(refused.contains(name), "{version} {sql}: {refused}");
                // A good backup is the way out, and what is a person's comes along.
                let good = base_of(version)?;
                let backup = good.store()?.backups().create("good")?.id;
                fs::create_dir_all(base.file("backups"))?;
                for extension in ["db", "db.sha256"] {
                    let name = format!("backups/{backup}.{extension}");
                    fs::copy(good.file(&name), base.file(&name))?;
                }
                base.sql()?.execute_batch("CREATE TABLE mine (a); INSERT INTO mine VALUES ('kept')")?;
                let (store, report) = StateStore::open_restored(base.state_dir(), &backup, StoreOptions::default())?;
                assert!(report.safety_backup.is_some() && report.own_objects.is_none(), "{report:?}");
                assert_eq!(ask(&base, "SELECT a FROM mine")?.as_deref(), Some("kept"));
                store.backups().create("again")?;
                continue;
            }
            let store = base.store()?;
            let good = store.backups().create("good")?;
            let planted = store.backups().create("planted")?;
            change(&planted.path)?;
            let sum = Command::new("sha256sum")
                .arg(format!("{}.db", planted.id))
                .current_dir(base.file("backups"))
                .output()?;
            fs::write(base.file("backups").join(format!("{}.db.sha256", planted.id)), sum.stdout)?;
            let problems = store.backups().verify(Some(&planted.id))?.remove(0).problems.join("; ");
            assert!(problems.contains(name), "{sql}: {problems}");
            let refused = store.backups().restore(&planted.id).err().ok_or("restored")?.to_string();
            assert!(refused.contains(name), "{sql}: {refused}");
            change(&base.file("state.db"))?;
            let backups = base.backups()?;
            let refused = store.backups().create("changed").err().ok_or("made")?;
            assert!(matches!(refused, Error::SchemaChanged { .. }) && refused.code() == "SCHEMA_CHANGED");
            let refused = refused.to_string();
            assert!(refused.contains(name) && refused.contains("state.db"), "{sql}: {refused}");
            assert_eq!(base.backups()?, backups, "nothing is left of it");
            assert!(store.check()?.problems.iter().any(|it| it.kind == "schema" && it.message.contains(name)));
            // The way out.
            store.backups().restore(&good.id)?;
            store.backups().create("again")?;
            assert!(store.check()?.problems.iter().all(|it| it.kind != "schema"));
        }
    }
    Ok(())
}

#[test]
fn what_an_upgrade_has_no_place_for_is_in_a_file_and_named() -> TestResult {
    let base = base_of(1)?;
    base.sql()?.execute_batch(
        "CREATE TABLE task_overview (id, note TEXT); INSERT INTO task_overview VALUES (1, 'it''s' || char(10) || 'kept'), (2.5, x'00');
         CREATE INDEX \"my index\" ON task_overview (note);
         CREATE VIEW guide AS SELECT 'mine' AS question;
         CREATE VIEW \"over\nit\" AS SELECT * FROM task_overview;
         ALTER TABLE state ADD COLUMN mode TEXT DEFAULT 'x'; UPDATE state SET mode = 'my mode';
         ALTER TABLE state ADD COLUMN other TEXT; UPDATE state SET other = 'stays'",
    )?;
    let output = program::command(&base, &["--json", "migrate"]).output()?;
    assert!(output.status.success());
    let log = String::from_utf8(output.stderr)?;
    assert!(log.contains("task_overview") && log.contains("guide"), "{log}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let file = report["ownObjects"].as_str().ok_or(format!("{report}"))?;
    assert_eq!(fs::metadata(file)?.permissions().mode() & 0o777, 0o600);
    let sql = fs::read_to_string(file)?;
    for part in
        ["table \"task_overview\"", "version 3 of the schema has something of that name", "view \"guide\"", "my mode"]
    {
        assert!(sql.contains(part), "{part}: {sql}");
    }
    assert_eq!(ask(&base, "SELECT other FROM state")?.as_deref(), Some("stays"));
    let theirs = "SELECT count(*) FROM sqlite_schema WHERE name IN ('over' || char(10) || 'it', 'my index')";
    assert_eq!(ask(&base, theirs)?.as_deref(), Some("1"), "a view of the same name shows what is there now");
    // What is in the file can be made again.
    let elsewhere = Connection::open_in_memory()?;
    elsewhere.execute_batch("CREATE TABLE state (singleton, id, version); INSERT INTO state VALUES (1, '', '')")?;
    elsewhere.execute_batch(&sql)?;
    let rows = "SELECT group_concat(quote(id) || quote(note), ' ') FROM task_overview";
    let rows: String = elsewhere.query_row(rows, [], |row| row.get(0))?;
    assert_eq!(rows, "1'it''s\nkept' 2.5X'00'");
    assert_eq!(elsewhere.query_row("SELECT mode FROM state", [], |row| row.get::<_, String>(0))?, "my mode");
    let store = base.store()?;
    let backup = store.upgrade_backup().map(|backup| backup.id.clone());
    assert_eq!(backup, None, "it was upgraded already");
    // The backup before it has everything, and so has what is restored from it, as far as it has a place.
    let before = report["backup"].as_str().ok_or("no backup")?;
    verify(&store, before)?;
    let restored = store.backups().restore(before)?;
    let file = restored.own_objects.ok_or("not named")?;
    assert!(fs::read_to_string(file)?.contains("my mode"));
    assert!(store.check()?.problems.iter().all(|it| it.kind == "permissions"), "{:?}", store.check()?);
    Ok(())
}

#[test]
fn what_refuses_a_write_of_ours_is_named_and_nothing_is_half_written() -> TestResult {
    let base = base_of(4)?;
    base.sql()?.execute_batch(
        "DELETE FROM tasks; CREATE UNIQUE INDEX \"one of each\" ON tasks (title, assigned_to); CREATE INDEX plain ON tasks (title);
         ALTER TABLE agents ADD COLUMN vetted INTEGER CHECK (role <> 'intruder')",
    )?;
    let store = base.store()?;
    let assigned = |id: &str| agentmux_state::TaskState {
        title: "T".into(),
        assigned_to: Some("dev".into()),
        ..task(id, TaskStatus::Pending)
    };
    store.update_task(&assigned("T-1"))?;
    let before = export(&store)?;
    let refused = |error: Error, name: &str| {
        assert!(matches!(&error, Error::OwnObject { .. }) && error.code() == "OWN_OBJECT", "{error:?}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("state.db") && !text.contains("plain"), "{text}");
    };
    refused(store.update_task(&assigned("T-2")).err().ok_or("written")?, "the index \"one of each\" on tasks");
    let batch = store.batch(|batch| {
        batch.update_project(&project("P-half"))?;
        batch.update_task(&assigned("T-3"))
    });
    refused(batch.err().ok_or("written")?, "one of each");
    let intruder = agentmux_state::AgentState { role: "intruder".into(), ..agent("dev-9") };
    refused(store.update_agent(&intruder).err().ok_or("written")?, "the column \"vetted\" of agents");
    let document =
        r#"{"version":"1.0.0","agents":[{"sessionName":"a","agentId":"a","role":"intruder","status":"active"}]}"#;
    let options = ImportOptions::default().mode(ImportMode::Replace).allow_shrink(true);
    refused(store.import_json(document.as_bytes(), options).err().ok_or("imported")?, "vetted");
    assert_eq!(export(&store)?, before);
    Ok(())
}

#[test]
fn objects_that_come_and_go_while_the_store_is_open_are_noticed() -> TestResult {
    let base = base_of(4)?;
    let store = base.store()?;
    let other = base.store()?;
    for round in 0..3 {
        let id = format!("T-{round}");
        store.update_task(&task(&id, TaskStatus::Pending))?;
        base.sql()?.execute_batch("CREATE TRIGGER mine AFTER INSERT ON tasks BEGIN DELETE FROM agents; END")?;
        store.update_agent(&agent("dev"))?;
        // In a batch that fails, its first look at the schema is undone, too.
        let failed = other.batch(|batch| {
            batch.update_task(&task("T-x", TaskStatus::Pending))?;
            Err::<(), Error>(Error::NoHome)
        });
        assert!(failed.is_err());
        thread::scope(|scope| {
            for store in [&store, &other] {
                scope.spawn(move || {
                    for n in 0..20 {
                        let _ = store.batch(|batch| {
                            batch.update_task(&task(&format!("T-{}", n % 7), TaskStatus::Paused))?;
                            if n % 3 == 0 { Err(Error::NoHome) } else { Ok(()) }
                        });
                    }
                });
            }
        });
        assert!(store.agent("dev")?.is_some(), "it did not run");
        other.record_checkpoint(&CheckpointReason::UserRequest)?;
        store.update_conversation(&conversation("C", 0..2))?;
        assert!(other.remove_conversation("C")?);
        assert_eq!(ask(&base, "SELECT count(*) FROM messages WHERE conversation_id = 'C'")?.as_deref(), Some("0"));
        store.update_task(&task(&id, TaskStatus::Completed))?;
        assert!(store.changes()?.changes.iter().any(|change| change.id == id), "ours do");
        base.sql()?.execute_batch("DROP TRIGGER mine")?;
        store.update_task(&task(&format!("{id}-after"), TaskStatus::Pending))?;
        assert!(store.changes()?.changes.iter().any(|change| change.id == format!("{id}-after")));
    }
    Ok(())
}

#[test]
fn our_triggers_run_once_after_theirs_has_gone_and_a_write_has_failed() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    base.sql()?.execute_batch("CREATE TRIGGER mine AFTER INSERT ON tasks BEGIN DELETE FROM agents; END")?;
    store.update_task(&task("T-shielded", TaskStatus::Pending))?;
    base.sql()?.execute_batch("DROP TRIGGER mine")?;
    let failed = store.batch(|batch| {
        batch.update_task(&task("T-undone", TaskStatus::Pending))?;
        Err::<(), Error>(Error::NoHome)
    });
    assert!(failed.is_err());
    store.record_checkpoint(&CheckpointReason::UserRequest)?;
    for round in 0..3 {
        store.update_task(&task(&format!("T-{round}"), TaskStatus::Pending))?;
        store.update_task(&task("T-gone", TaskStatus::Pending))?;
        assert!(store.remove_task("T-gone")?);
    }
    let changes = ask(&base, "SELECT group_concat(id || ' ' || operation, ', ') FROM changes_since_checkpoint")?;
    assert_eq!(changes.as_deref(), Some("T-0 add, T-1 add, T-2 add"));
    Ok(())
}

#[test]
fn functions_that_only_a_shell_has_are_in_nobodys_way() -> TestResult {
    let base = base_of(4)?;
    let made = Command::new("sqlite3")
        .arg(base.file("state.db"))
        .arg(
            "CREATE TABLE mine (a CHECK (a REGEXP 'x')); INSERT INTO mine VALUES ('x'); CREATE INDEX my_index ON mine (a REGEXP 'x');
             CREATE TABLE yours (a, b AS (sha3(a)) STORED); INSERT INTO yours VALUES ('y')",
        )
        .status();
    if !made.is_ok_and(|status| status.success()) {
        skip("there is no sqlite3 shell with REGEXP and sha3");
        return Ok(());
    }
    let store = base.store()?;
    work(&base, &store)?;
    let backup = store.backups().create("mine")?.id;
    verify(&store, &backup)?;
    assert_eq!(store.backups().restore(&backup)?.own_objects, None, "nothing of theirs was changed");
    assert!(store.check()?.problems.iter().all(|it| it.kind == "permissions"), "{:?}", store.check()?.problems);
    // Where it was, the backup's rows stay, and the newer ones are in the file.
    let insert = "INSERT INTO mine VALUES ('newer x')";
    assert!(Command::new("sqlite3").arg(base.file("state.db")).arg(insert).status()?.success());
    let file = store.backups().restore(&backup)?.own_objects.ok_or("not named")?;
    assert!(fs::read_to_string(file)?.contains("newer x"));
    assert_eq!(ask(&base, "SELECT group_concat(a) FROM mine")?.as_deref(), Some("x"));
    Ok(())
}

#[test]
fn a_value_that_cannot_be_read_is_found_by_verify_in_a_backup_of_any_version() -> TestResult {
    for version in (1..).take_while(|version| fixture(*version).is_ok()) {
        let old = base_of(version)?;
        let sql = old.sql()?;
        sql.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))?;
        let base = base_of(4)?;
        let store = base.store()?;
        let plant = |name: &str, change: &str| -> Result<bool, Box<dyn std::error::Error>> {
            sql.execute_batch(change)?;
            fs::create_dir_all(base.file("backups"))?;
            fs::copy(old.file("state.db"), base.file(&format!("backups/{name}.db")))?;
            let sum = Command::new("sha256sum").arg(format!("{name}.db")).current_dir(base.file("backups")).output()?;
            fs::write(base.file(&format!("backups/{name}.db.sha256")), sum.stdout)?;
            Ok(store.backups().verify(Some(name))?[0].ok)
        };
        assert!(plant("backup-1-good", "")?);
        for (n, (column, value)) in
            [("tasks SET extra", "'['"), ("messages SET extra", "'7'"), ("state SET metadata_extra", "'{'")]
                .iter()
                .enumerate()
        {
            assert!(!plant(&format!("backup-{n}-bad"), &format!("UPDATE {column} = {value}"))?, "V{version} {column}");
            assert!(plant(&format!("backup-{n}-good"), &format!("UPDATE {column} = NULL"))?, "V{version} {column}");
        }
    }
    Ok(())
}

#[test]
fn a_database_from_a_dump_is_ours() -> TestResult {
    let base = base_of(5)?;
    let shell = |arguments: &[&std::ffi::OsStr]| Command::new("sqlite3").args(arguments).output();
    let Ok(dump) = shell(&[base.file("state.db").as_ref(), ".dump".as_ref()]) else {
        skip("sqlite3 is not installed");
        return Ok(());
    };
    let old = Connection::open(base.file("state.db"))?;
    let number = |pragma: &str| old.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0));
    let ids = format!(
        "PRAGMA application_id = {}; PRAGMA user_version = {};",
        number("application_id")?,
        number("user_version")?
    );
    let read = Base::new()?;
    fs::create_dir_all(read.state_dir())?;
    fs::write(read.file("dump.sql"), [dump.stdout, ids.into_bytes()].concat())?;
    let script = format!(".read '{}'", read.file("dump.sql").display());
    assert!(shell(&[read.file("state.db").as_ref(), script.as_ref()])?.status.success());

    let store = read.store()?;
    assert!(store.check()?.problems.iter().all(|it| it.kind == "permissions"), "{:?}", store.check()?.problems);
    let backup = store.backups().create("from a dump")?.id;
    verify(&store, &backup)?;
    store.backups().restore(&backup)?;
    assert!(export(&store)? == export(&base.store()?)?);
    Ok(())
}

#[test]
fn an_index_on_a_table_of_ours_that_only_a_shell_can_make_is_named() -> TestResult {
    let base = base_of(5)?;
    let index = "CREATE INDEX my_index ON tasks (sha3(id))";
    let made = Command::new("sqlite3").arg(base.file("state.db")).arg(index).status();
    if !made.is_ok_and(|status| status.success()) {
        skip("there is no sqlite3 shell with sha3");
        return Ok(());
    }
    let store = base.store()?;
    let problems = store.check()?.problems;
    let named = problems.iter().find(|it| it.message.contains("the index \"my_index\" on tasks"));
    assert_eq!(named.map(|it| it.kind), Some("schema"), "{problems:?}");
    let refused = store.backups().create("refused").unwrap_err();
    assert!(matches!(&refused, Error::OwnObject { path, .. } if path.ends_with("state.db")), "{refused}");
    drop(store);
    // Nothing is lost by it.
    recover(base.state_dir(), &StoreOptions::default())?;
    let store = base.store()?;
    assert!(store.check()?.problems.iter().all(|it| it.kind == "permissions"), "{:?}", store.check()?.problems);
    store.backups().create("made")?;
    Ok(())
}
