//! What guards the migrations, and the runner with migrations of its own.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::db::connection;
use crate::db::migrations::releases::CHECKSUMS;
use crate::error::HistoryProblem;
use crate::store::StateStore;
use crate::{ConversationState, PersistedMessage, TaskState};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");

#[test]
fn every_schema_version_has_a_state_version() {
    let versions: Vec<u32> = release().migrations.iter().map(version_of).collect();
    assert_eq!(versions, STATE_VERSIONS.iter().map(|(version, _)| *version).collect::<Vec<_>>());
    assert_eq!(versions, (1..=release().latest_version()).collect::<Vec<_>>(), "without a gap");
}

#[test]
fn embedded_migrations_are_those_in_the_folder() {
    let mut files: Vec<String> = fs::read_dir(FOLDER)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".gitattributes")
        .collect();
    files.sort_by_key(|name| name.trim_start_matches('V').split("__").next().unwrap().parse::<u32>().ok());
    let embedded: Vec<String> = release().migrations.iter().map(|migration| format!("{migration}.sql")).collect();
    assert_eq!(files, embedded);
}

#[test]
fn migrations_that_have_landed_are_as_they_were() {
    let found: Vec<_> = release().migrations.iter().map(|it| (it.to_string(), it.checksum())).collect();
    let pinned: Vec<_> = CHECKSUMS.iter().map(|(name, checksum)| ((*name).to_owned(), *checksum)).collect();
    assert_eq!(found, pinned);
}

/// The words of SQL, in small letters, and parentheses; without comments, texts and quoted names.
fn words(sql: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        let word = words.last_mut().unwrap();
        match c {
            '-' if chars.peek() == Some(&'-') => while chars.next_if(|c| *c != '\n').is_some() {},
            '/' if chars.peek() == Some(&'*') => {
                let mut before = ' ';
                for c in chars.by_ref() {
                    if before == '*' && c == '/' {
                        break;
                    }
                    before = c;
                }
            }
            '\'' | '"' | '`' => while chars.next().is_some_and(|other| other != c) {},
            c if c.is_alphanumeric() || c == '_' => {
                word.extend(c.to_lowercase());
                continue;
            }
            '(' | ';' => words.push(c.into()),
            _ => {}
        }
        words.push(String::new());
    }
    words.retain(|word| !word.is_empty());
    words
}

/// What must not stand in a migration, with the reason.
fn faults(sql: &str) -> Vec<String> {
    const FORBIDDEN: &[(&[&str], &str)] = &[
        (&["commit", "rollback", "savepoint", "release"], "would leave the transaction that holds it all together"),
        (&["pragma"], "is the runner's business, or does nothing inside a transaction"),
        (&["vacuum", "attach", "detach"], "does not run inside a transaction"),
        (&["temp", "temporary"], "is gone with the connection"),
    ];
    let bundled: HashSet<String> = Connection::open_in_memory()
        .unwrap()
        .prepare("SELECT name FROM pragma_function_list")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap();
    // `SELECT DISTINCT name FROM pragma_function_list` in the shell of Debian 12.
    let known_to_3_40: HashSet<&str> = include_str!("sqlite_3_40_functions.txt").split_whitespace().collect();
    let mut faults = Vec::new();
    let words = words(sql);
    let mut in_trigger = false;
    for (index, word) in words.iter().enumerate() {
        let (before, after) = (index.checked_sub(1).map(|it| words[it].as_str()), words.get(index + 1));
        let after = after.map(String::as_str);
        in_trigger = match word.as_str() {
            "trigger" if before == Some("create") => true,
            ";" if before == Some("end") => false,
            _ => in_trigger,
        };
        for (forbidden, reason) in FORBIDDEN {
            if forbidden.contains(&word.as_str()) {
                faults.push(format!("{word}: {reason}"));
            }
        }
        match word.as_str() {
            "begin" if !in_trigger => faults.push("begin: the runner has begun".into()),
            "if" if matches!(after, Some("not" | "exists")) => {
                faults.push("if: a schema that is not the expected one must not pass".into());
            }
            function if after == Some("(") && bundled.contains(function) && !known_to_3_40.contains(function) => {
                faults.push(format!("{function}: SQLite 3.40 does not know this function"));
            }
            _ => {}
        }
    }
    let lower = sql.to_lowercase();
    if lower.contains("'subsec") {
        faults.push("subsec: SQLite 3.40 does not know this modifier".into());
    }
    let is_grouped = |word: &&String| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('_');
    if let Some(number) = words.iter().find(is_grouped) {
        faults.push(format!("{number}: SQLite 3.40 does not know underscores in numbers"));
    }
    if sql.contains('\r') {
        faults.push("line ends are not those of Unix".into());
    }
    faults
}

#[test]
fn no_migration_holds_what_must_not_stand_in_one() {
    for entry in fs::read_dir(FOLDER).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            assert_eq!(faults(&fs::read_to_string(&path).unwrap()), [""; 0], "{}", path.display());
        }
    }
}

#[test]
fn the_lint_finds_what_it_is_for() {
    for sql in [
        "CREATE TABLE a (b); COMMIT;",
        "BEGIN IMMEDIATE;",
        "rollback",
        "SAVEPOINT s; RELEASE s",
        "VACUUM",
        "PRAGMA journal_mode = wal",
        "ATTACH 'x' AS y",
        "CREATE TEMP TABLE a (b)",
        "CREATE TABLE IF NOT EXISTS a (b)",
        "DROP TABLE IF EXISTS a",
        "CREATE VIEW v AS SELECT string_agg(a, ',') FROM b",
        "CREATE INDEX i ON t (concat (a, b))",
        "CREATE TABLE a (b CHECK (jsonb(b)))",
        "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END; BEGIN;",
        "CREATE TABLE a (b);\r\n",
        "CREATE VIEW v AS SELECT unixepoch(a, 'subsec') FROM b",
        "CREATE TABLE a (b CHECK (b < 1_000))",
    ] {
        assert_eq!(faults(sql).len(), if sql.contains("SAVEPOINT") { 2 } else { 1 }, "{sql}: {:?}", faults(sql));
    }
    let fine = "CREATE TABLE a (-- COMMIT; concat(\n b /* VACUUM */ TEXT DEFAULT 'PRAGMA', \"commit\" INT);
                CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE a SET b = coalesce(unixepoch(b), 1); END;";
    assert_eq!(faults(fine), [""; 0]);
}

/// This release's migrations and others after them.
fn with(added: &[(&str, &str)]) -> MigrationSet {
    let mut migrations = release().migrations.clone();
    let mut state_versions = STATE_VERSIONS.to_vec();
    for (name, sql) in added {
        let migration = Migration::unapplied(name, sql).unwrap();
        state_versions.push((version_of(&migration), "1.0.0"));
        migrations.push(migration);
    }
    MigrationSet::new(migrations, state_versions)
}

/// The number of the first migration after this release's.
fn next() -> u32 {
    release().latest_version() + 1
}

/// A state directory of this release with something in it, and its database.
fn populated() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let store = StateStore::open(dir.path()).unwrap();
    let document: &[u8] = include_bytes!("../../../tests/fixtures/current-state.json");
    store.import_json(document, crate::ImportOptions::default()).unwrap();
    let path = store.database().path().to_path_buf();
    (dir, path)
}

fn migrate(set: &MigrationSet, path: &Path) -> Result<()> {
    let mut conn = connection::open_writer(path)?;
    set.migrate(&mut conn, path, &ProgressCallback::default(), || Ok(|| Ok(())))
}

/// All that is in a table, as text.
fn content(path: &Path, table: &str) -> Vec<String> {
    let conn = connection::open_reader(path).unwrap();
    let mut select = conn.prepare(&format!("SELECT * FROM {table}")).unwrap();
    let columns = select.column_count();
    let row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<String> {
        let values = (0..columns).map(|index| row.get::<_, rusqlite::types::Value>(index));
        Ok(format!("{:?}", values.collect::<rusqlite::Result<Vec<_>>>()?))
    };
    select.query_map([], row).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

fn integer(path: &Path, sql: &str) -> i64 {
    connection::open_reader(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn each_released_schema_goes_through_each_step() {
    for version in 1..=release().latest_version() {
        let text = format!("{}/tests/fixtures/schema/v{version}.sql", env!("CARGO_MANIFEST_DIR"));
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&fs::read_to_string(text).unwrap()).unwrap();
        let path = Path::new("memory");
        assert_eq!(release().status(&conn, path).unwrap().schema_version, version);
        for step in version..=release().latest_version() {
            let transaction = conn.transaction().unwrap();
            release().run(&transaction, path, step.max(version + 1) - 1, step, &ProgressCallback::default()).unwrap();
            check(&transaction, &release().schema(step, path).unwrap(), path).unwrap();
            transaction.commit().unwrap();
            assert_eq!(
                schema(&conn).unwrap(),
                schema(&release().fresh(step, path).unwrap()).unwrap(),
                "V{version} to V{step}"
            );
            assert_eq!(release().status(&conn, path).unwrap().schema_version, step);
        }
    }
}

#[test]
fn rebuilding_a_parent_table_keeps_its_children() {
    let (_dir, path) = populated();
    let [conversations, messages] = ["conversations", "messages"].map(|table| content(&path, table));
    assert!(!messages.is_empty());
    let rebuild = rebuild_conversations(&path);
    let set = with(&[(&format!("V{}__rebuild", next()), &rebuild)]);
    migrate(&set, &path).unwrap();
    assert_eq!(content(&path, "messages"), messages);
    assert_eq!(content(&path, "conversations"), conversations);
    // The references are those to the new table, and the triggers work.
    let conn = connection::open_writer(&path).unwrap();
    connection::configure_writer(&conn, crate::Durability::Full).unwrap();
    let gone =
        "INSERT INTO messages (conversation_id, position, role, content, timestamp) VALUES ('gone', 0, '', '', '')";
    assert!(conn.execute(gone, []).is_err());
    conn.execute("DELETE FROM conversations WHERE id = 'conv-1'", []).unwrap();
    assert_eq!(integer(&path, "SELECT count(*) FROM messages WHERE conversation_id = 'conv-1'"), 0);
    assert!(integer(&path, "SELECT count(*) FROM messages") > 0);
}

/// The recipe of the README: make a new table, copy, drop the old one, rename. Triggers and indexes that go with the old
/// table, or name it, are made again.
fn rebuild_conversations(path: &Path) -> String {
    let conn = connection::open_reader(path).unwrap();
    let mut select = conn
        .prepare(
            "SELECT type, name, sql FROM sqlite_schema WHERE sql NOT NULL AND type IN ('index', 'trigger', 'view')",
        )
        .unwrap();
    let objects = select
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .collect::<rusqlite::Result<Vec<(String, String, String)>>>()
        .unwrap();
    let naming: Vec<_> = objects.iter().filter(|(_, _, sql)| sql.contains("conversations")).collect();
    let drop: String = naming.iter().map(|(kind, name, _)| format!("DROP {kind} {name};\n")).collect();
    let make: String = naming.iter().map(|(_, _, sql)| format!("{sql};\n")).collect();
    let table: String =
        conn.query_row("SELECT sql FROM sqlite_schema WHERE name = 'conversations'", [], |row| row.get(0)).unwrap();
    let table = table.replacen("CREATE TABLE conversations", "CREATE TABLE new_conversations", 1);
    format!(
        "{drop}{table};\nINSERT INTO new_conversations SELECT * FROM conversations;\nDROP TABLE conversations;
         ALTER TABLE new_conversations RENAME TO conversations;\n{make}"
    )
}

#[test]
fn what_fails_or_breaks_a_reference_rolls_everything_back() {
    let (dir, path) = populated();
    let before = export(&dir);
    let fine = (
        format!("V{}__fine", next()),
        "CREATE TABLE parent (id TEXT PRIMARY KEY); CREATE TABLE child (id TEXT REFERENCES parent)",
    );
    for (sql, named) in [
        ("INSERT INTO child VALUES ('of nobody')", "rows of child would refer to nothing"),
        ("CREATE TABLE parent (twice)", "V4__bad: table parent already exists"),
        ("CREATE TABLE t (a TEXT NOT NULL) STRICT; INSERT INTO t VALUES (NULL)", "V4__bad: NOT NULL constraint failed"),
    ] {
        let bad = (format!("V{}__bad", next() + 1), sql);
        let named = named.replace("V4", &format!("V{}", next() + 1));
        let set = with(&[(&fine.0, fine.1), (&bad.0, bad.1)]);
        match migrate(&set, &path) {
            Err(error @ Error::MigrationFailed { .. }) => assert!(error.to_string().contains(&named), "{error}"),
            other => panic!("{sql}: {other:?}"),
        }
        assert_eq!(integer(&path, "SELECT max(version) FROM refinery_schema_history"), i64::from(next()) - 1);
        assert_eq!(integer(&path, "SELECT count(*) FROM sqlite_schema WHERE name IN ('parent', 'child', 't')"), 0);
        assert_eq!(export(&dir), before);
    }
}

fn export(dir: &TempDir) -> String {
    let mut document = Vec::new();
    StateStore::open(dir.path()).unwrap().export_json(&mut document).unwrap();
    String::from_utf8(document).unwrap()
}

#[test]
fn a_migration_that_ends_the_transaction_is_found_out() {
    let (_dir, path) = populated();
    // What the lint is there for: nothing can take it back.
    let set = with(&[(&format!("V{}__ends", next()), "COMMIT; BEGIN; COMMIT")]);
    assert!(matches!(migrate(&set, &path), Err(Error::MigrationFailed { .. })));
}

/// Set by the runner that waits, for the one that it waits for.
static IS_WAITING: AtomicBool = AtomicBool::new(false);

#[test]
fn two_runners_that_meet_apply_a_data_migration_once() {
    let (_dir, path) = populated();
    let before = integer(&path, "SELECT CAST(sum(percent_complete) AS INTEGER) FROM tasks");
    let tasks = integer(&path, "SELECT count(*) FROM tasks");
    let name = format!("V{}__add_one", next());
    let set = with(&[(&name, "UPDATE tasks SET percent_complete = percent_complete + 1")]);
    let second_backup = Mutex::new(false);
    thread::scope(|scope| {
        let mut first = connection::open_writer(&path).unwrap();
        let under_lock = || {
            // The second one has read the old version, too, and waits for the lock that the first one holds.
            scope.spawn(|| {
                let mut second = connection::open_writer(&path).unwrap();
                second
                    .busy_handler(Some(|_| {
                        IS_WAITING.store(true, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(1));
                        true
                    }))
                    .unwrap();
                let backup = || {
                    *second_backup.lock().unwrap() = true;
                    Ok(())
                };
                set.migrate(&mut second, &path, &ProgressCallback::default(), || Ok(backup)).unwrap();
            });
            while !IS_WAITING.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        };
        set.migrate(&mut first, &path, &ProgressCallback::default(), || Ok(under_lock)).unwrap();
    });
    assert!(!*second_backup.lock().unwrap(), "the second one found nothing to do");
    assert_eq!(integer(&path, "SELECT CAST(sum(percent_complete) AS INTEGER) FROM tasks"), before + tasks);
    assert_eq!(integer(&path, "SELECT count(*) FROM refinery_schema_history"), i64::from(next()));
}

#[test]
fn line_ends_of_another_system_make_no_other_migration() {
    let foreign = release().migrations.iter().map(|migration| {
        let sql = migration.sql().unwrap().replace('\n', "\r\n");
        Migration::unapplied(&migration.to_string(), &sql).unwrap()
    });
    let set = MigrationSet::new(foreign.collect(), STATE_VERSIONS.to_vec());
    assert_eq!(set.migrations, release().migrations);
    let (_dir, path) = populated();
    let conn = connection::open_reader(&path).unwrap();
    assert_eq!(set.status(&conn, &path).unwrap(), release().status(&conn, &path).unwrap());
    let latest = set.latest_version();
    assert_eq!(
        schema(&set.fresh(latest, &path).unwrap()).unwrap(),
        schema(&release().fresh(latest, &path).unwrap()).unwrap()
    );
}

#[test]
fn a_record_that_lost_its_end_is_found_out_before_anything_runs_twice() {
    let (_dir, path) = populated();
    let set = with(&[(&format!("V{}__data", next()), "UPDATE tasks SET percent_complete = 100")]);
    migrate(&set, &path).unwrap();
    let conn = connection::open_writer(&path).unwrap();
    conn.execute("DELETE FROM refinery_schema_history WHERE version = ?1", [next()]).unwrap();
    conn.execute("UPDATE tasks SET percent_complete = 50", []).unwrap();
    let cut = HistoryProblem::Cut { version: next() };
    let found = migrate(&set, &path);
    assert!(matches!(&found, Err(Error::HistoryDamaged { problem, .. }) if *problem == cut), "{found:?}");

    // The first releases did not set `user_version`: what their migrations made tells.
    conn.pragma_update(None, "user_version", 0).unwrap();
    conn.execute("DELETE FROM refinery_schema_history WHERE version > 1", []).unwrap();
    let found = migrate(&set, &path);
    let cut = HistoryProblem::Cut { version: 2 };
    assert!(matches!(&found, Err(Error::HistoryDamaged { problem, .. }) if *problem == cut), "{found:?}");
    assert_eq!(integer(&path, "SELECT CAST(max(percent_complete) AS INTEGER) FROM tasks"), 50);
}

#[test]
fn a_version_read_while_another_process_upgrades_is_of_one_moment() {
    let (_dir, path) = populated();
    let set = with(&[(&format!("V{}__data", next()), "UPDATE tasks SET percent_complete = 100")]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // The database is upgraded, and is what it was, again and again.
        scope.spawn(|| {
            for _ in 0..60 {
                migrate(&set, &path).unwrap();
                let back = format!(
                    "BEGIN IMMEDIATE; DELETE FROM refinery_schema_history WHERE version = {};
                     PRAGMA user_version = {}; COMMIT",
                    next(),
                    next() - 1
                );
                connection::open_writer(&path).unwrap().execute_batch(&back).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        let conn = connection::open_writer(&path).unwrap();
        while !done.load(Ordering::Relaxed) {
            set.status(&conn, &path).unwrap();
        }
    });
}

#[test]
fn what_a_person_added_to_the_schema_stays_and_stops_no_upgrade() {
    let (_dir, path) = populated();
    let mine = "CREATE VIEW mine AS SELECT id FROM tasks; CREATE INDEX my_index ON tasks (title);
                CREATE TABLE my_notes (note TEXT); INSERT INTO my_notes VALUES ('keep me')";
    connection::open_writer(&path).unwrap().execute_batch(mine).unwrap();
    migrate(&with(&[(&format!("V{}__more", next()), "CREATE TABLE more (a)")]), &path).unwrap();
    assert_eq!(content(&path, "my_notes"), [r#"[Text("keep me")]"#]);
    assert!(integer(&path, "SELECT count(*) FROM mine") > 0);
}

#[test]
fn a_process_of_an_older_release_writes_nothing_more_once_the_schema_is_newer() {
    let (dir, path) = populated();
    let store = StateStore::open(dir.path()).unwrap();
    let task = TaskState { id: "T-new".into(), ..TaskState::default() };
    store.update_task(&task).unwrap();
    // An index of a person's is no upgrade.
    connection::open_writer(&path).unwrap().execute_batch("CREATE INDEX mine ON tasks (title)").unwrap();
    store.update_task(&task).unwrap();
    assert!(store.task("T-new").unwrap().is_some());
    migrate(&with(&[(&format!("V{}__newer", next()), "CREATE TABLE newer (a)")]), &path).unwrap();
    let refused = |result: Result<()>| assert!(matches!(result, Err(Error::SchemaTooNew { .. })), "{result:?}");
    refused(store.update_task(&TaskState { id: "T-lost".into(), ..TaskState::default() }));
    refused(store.update_conversation(&ConversationState::default()));
    refused(store.append_message("conv-1", &PersistedMessage::default()));
    refused(store.remove_task("T-new").map(drop));
    refused(store.refresh_export().map(drop));
    refused(store.state().map(drop));
    assert_eq!(integer(&path, "SELECT count(*) FROM tasks WHERE id = 'T-lost'"), 0);
}

const ROLE: &str = "STATE_TEST_MIGRATE";

/// A migration that rewrites most of the database.
fn rewriting() -> MigrationSet {
    with(&[(
        &format!("V{}__rewrite", next()),
        "UPDATE messages SET content = content || ' seen'; CREATE TABLE seen (a); INSERT INTO seen VALUES (1)",
    )])
}

/// In the process that the next test starts; else it does nothing.
#[test]
fn in_a_role() {
    if let Some(path) = std::env::var_os(ROLE) {
        migrate(&rewriting(), Path::new(&path)).unwrap();
    }
}

#[test]
fn a_migration_of_data_killed_at_any_write_is_done_once_or_not_at_all() {
    let can_trace = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    if !can_trace.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: strace is not here, or may not trace");
        return;
    }
    let (_dir, path) = populated();
    let expected: Vec<_> = content(&path, "messages");
    let before = integer(&path, "SELECT sum(length(content)) FROM messages");
    let after = before + 5 * expected.len() as i64;
    let (mut old, mut new) = (0, 0);
    for nth in 1.. {
        let ended = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64", "-e"])
            .arg(format!("inject=pwrite64:signal=SIGKILL:when={nth}"))
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "db::migrations::set::tests::in_a_role"])
            .env(ROLE, &path)
            .output()
            .unwrap()
            .status
            .success();
        match integer(&path, "SELECT sum(length(content)) FROM messages") {
            found if found == before => old += 1,
            found => {
                assert_eq!(found, after, "killed at write {nth}: a part of it");
                assert_eq!(content(&path, "seen").len(), 1, "killed at write {nth}");
                new += 1;
            }
        }
        if ended {
            break;
        }
        // The next opening goes on, whatever was left. Then back to the beginning.
        migrate(&rewriting(), &path).unwrap();
        assert_eq!(integer(&path, "SELECT sum(length(content)) FROM messages"), after, "killed at write {nth}");
        let back = format!(
            "DROP TABLE seen; DELETE FROM refinery_schema_history WHERE version = {}; PRAGMA user_version = 0;
             UPDATE messages SET content = substr(content, 1, length(content) - 5)",
            next()
        );
        connection::open_writer(&path).unwrap().execute_batch(&back).unwrap();
        assert_eq!(content(&path, "messages"), expected);
    }
    eprintln!("killed at {} writes: {old} times the old state, {new} times the new", old + new - 1);
    assert!(old >= 10 && new >= 1, "{old} old, {new} new");
}

#[test]
fn what_a_person_added_survives_a_table_that_is_rebuilt() {
    let (_dir, path) = populated();
    let columns: Vec<String> = {
        let conn = connection::open_reader(&path).unwrap();
        let mut select = conn.prepare("SELECT name FROM pragma_table_info('conversations')").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    };
    // A migration names the columns that it copies: somebody may have added one.
    let copy = format!("SELECT {} FROM conversations", columns.join(", "));
    let rebuild = rebuild_conversations(&path).replace("SELECT * FROM conversations", &copy).replace(
        "INSERT INTO new_conversations SELECT",
        &format!("INSERT INTO new_conversations ({}) SELECT", columns.join(", ")),
    );
    let mine = "ALTER TABLE conversations ADD COLUMN \"my mood\" TEXT NOT NULL DEFAULT 'calm';
        UPDATE conversations SET \"my mood\" = 'bright' WHERE id = 'conv-1';
        ALTER TABLE conversations ADD COLUMN loud TEXT AS (upper(source));
        CREATE UNIQUE INDEX my_index ON conversations (id, \"my mood\");
        CREATE INDEX my_loud ON conversations (loud);
        CREATE VIEW my_view AS SELECT \"my mood\" FROM conversations;
        CREATE VIEW broken AS SELECT gone FROM nowhere;
        CREATE TABLE log (id REFERENCES conversations (id) ON DELETE CASCADE); INSERT INTO log VALUES ('conv-1');
        CREATE TRIGGER my_trigger BEFORE INSERT ON conversations BEGIN SELECT RAISE(ABORT, 'mine'); END;
        CREATE TRIGGER on_ours INSTEAD OF DELETE ON task_overview BEGIN DELETE FROM tasks WHERE id = OLD.id; END";
    Connection::open(&path).unwrap().execute_batch(mine).unwrap();
    let own = |kind: &str| integer(&path, &format!("SELECT count(*) FROM sqlite_schema WHERE type = '{kind}'"));
    let before = ["table", "index", "view", "trigger"].map(own);
    let views = "DROP VIEW stuck_tasks; DROP VIEW task_overview; CREATE VIEW task_overview AS SELECT id FROM tasks;
                 CREATE VIEW stuck_tasks AS SELECT id FROM tasks";
    let set = with(&[(&format!("V{}__rebuild", next()), &rebuild), (&format!("V{}__views", next() + 1), views)]);
    migrate(&set, &path).unwrap();
    assert_eq!(["table", "index", "view", "trigger"].map(own), before);
    assert_eq!(content(&path, "my_view").iter().filter(|row| row.contains("bright")).count(), 1);
    assert_eq!(content(&path, "log"), [r#"[Text("conv-1")]"#]);
    assert_eq!(integer(&path, "SELECT count(*) FROM conversations WHERE loud IS NULL OR \"my mood\" IS NULL"), 0);
    let files = fs::read_dir(path.parent().unwrap()).unwrap().flatten();
    assert!(
        files.into_iter().all(|it| !it.file_name().to_string_lossy().starts_with("own-objects-")),
        "all had a place"
    );
}
