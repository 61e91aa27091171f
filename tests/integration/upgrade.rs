//! Upgrades, as people meet them: databases of every released schema, processes at once, kills, full disks, going back.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::program::{command, json};
use crate::common::role::{role, said, say, start};
use crate::common::trace::{can_trace, run_injected, sweep};
use crate::common::{Base, FIXTURE, QUIRKS, SCHEMAS, TestResult, base_of, export, fixture, import, message, task};
use agentmux_state::{
    CheckpointReason, DirectoryLock, Error, ForeignFile, HistoryProblem, ImportMode, ImportOptions, ProgressCallback,
    StatePersistenceService, StateStore, StoreOptions, TaskStatus, verify_backups,
};
use rusqlite::Connection;
use rusqlite::types::Value;

const COMPLETE: &str = include_str!("../fixtures/complete.json");

fn latest() -> u32 {
    let base = Base::new().expect("a directory");
    base.store().expect("a store");
    StateStore::migration_status(base.state_dir()).expect("its status").latest_schema_version
}

/// The columns of a table and its rows.
type Content = (Vec<String>, Vec<Vec<Value>>);

/// All rows of all tables, but for the record of migrations.
fn rows(conn: &Connection) -> rusqlite::Result<BTreeMap<String, Content>> {
    let tables = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'
                  AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> 'refinery_schema_history'";
    let tables: Vec<String> = conn.prepare(tables)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut all = BTreeMap::new();
    for table in tables {
        let mut select = conn.prepare(&format!("SELECT * FROM {table}"))?;
        let columns: Vec<String> = select.column_names().iter().map(ToString::to_string).collect();
        let rows = select.query_map([], |row| (0..columns.len()).map(|index| row.get(index)).collect())?;
        let rows = rows.collect::<Result<_, _>>()?;
        all.insert(table, (columns, rows));
    }
    Ok(all)
}

/// The schema, without the record of migrations.
fn schema(conn: &Connection) -> rusqlite::Result<Vec<(String, String, Option<String>)>> {
    let sql = "SELECT type, name, sql FROM sqlite_schema WHERE tbl_name <> 'refinery_schema_history' ORDER BY 1, 2";
    conn.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
}

/// Writes the fixtures of schema versions that have none. To be run once, by who adds a migration, before it lands:
/// `cargo test --test integration upgrade:: -- --ignored`
#[test]
#[ignore = "writes files; see \"Adding a migration\" in the README"]
fn write_missing_schema_fixtures() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, QUIRKS)?;
    let replace = ImportOptions::default().mode(ImportMode::Replace).allow_shrink(true);
    base.store()?.import_json(COMPLETE.as_bytes(), replace)?;
    let service = base.service();
    service.initialize()?;
    service.update_task(&task("T-3", TaskStatus::Paused))?;
    service.save_state(CheckpointReason::TaskCompleted)?;
    service.remove_task("T-3")?;
    service.prepare_for_shutdown()?;
    base.store()?.append_message("C-1", &message(1))?;
    base.store()?.update_message_index()?;
    let source = base.sql()?;
    // Nothing of the machine that writes it, and every column filled.
    source.execute_batch(
        "UPDATE runs SET hostname = 'host-1', pid = 4242; UPDATE checkpoints SET hostname = 'host-1', pid = 4242;
         UPDATE state SET hostname = 'host-1', pid = 4242;
         UPDATE messages SET content = content || '.' WHERE position = 0;
         INSERT INTO backup VALUES (1, 'backup-1767225600000-a-label', 'a label', '2026-01-01T00:00:00.000Z')",
    )?;
    for version in 1..=latest() {
        if fixture(version).is_ok() {
            continue;
        }
        let conn = Connection::open_in_memory()?;
        for number in 1..=version {
            let file = fs::read_dir("migrations")?
                .map(|entry| Ok(entry?.path()))
                .collect::<std::io::Result<Vec<PathBuf>>>()?
                .into_iter()
                .find(|path| path.to_string_lossy().contains(&format!("/V{number}__")))
                .expect("the migration");
            conn.execute_batch(&fs::read_to_string(file)?)?;
        }
        let history = "SELECT sql FROM sqlite_schema WHERE name = 'refinery_schema_history'";
        conn.execute_batch(&source.query_row(history, [], |row| row.get::<_, String>(0))?)?;
        let target = rows(&conn)?;
        // The first two releases did not set `user_version`.
        let user_version = if version > 2 { version } else { 0 };
        let mut sql = format!(
            "PRAGMA foreign_keys = OFF;\nPRAGMA auto_vacuum = incremental;\nPRAGMA application_id = 1095587923;
PRAGMA user_version = {user_version};\n"
        );
        // What a virtual table makes by itself is there once that is made.
        let shadows = "SELECT name FROM pragma_table_list WHERE type = 'shadow' ORDER BY name";
        let shadows: Vec<String> = conn.prepare(shadows)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let mut created = conn.prepare(
            "SELECT sql FROM sqlite_schema WHERE sql NOT NULL AND type = ?1
             AND name NOT IN (SELECT name FROM pragma_table_list WHERE type = 'shadow') ORDER BY rowid",
        )?;
        let mut append = |kind: &str, sql: &mut String| -> rusqlite::Result<()> {
            for statement in created.query_map([kind], |row| row.get::<_, String>(0))? {
                *sql += &format!("{};\n", statement?);
            }
            Ok(())
        };
        append("table", &mut sql)?;
        let history = (
            String::from("refinery_schema_history"),
            (vec!["version".into(), "name".into(), "applied_on".into(), "checksum".into()], vec![]),
        );
        let columns_of = |table: &String| -> rusqlite::Result<_> {
            let select = conn.prepare(&format!("SELECT * FROM {table}"))?;
            Ok((table.clone(), (select.column_names().iter().map(ToString::to_string).collect(), vec![])))
        };
        let made = shadows.iter().map(columns_of).collect::<Result<Vec<_>, _>>()?;
        shadows.iter().for_each(|table| sql += &format!("DELETE FROM {table};\n"));
        for (table, (columns, _)) in target.into_iter().chain([history]).chain(made) {
            let quoted: Vec<_> = columns.iter().map(|column| format!("quote({column})")).collect();
            let condition =
                if table == "refinery_schema_history" { format!("WHERE version <= {version}") } else { String::new() };
            let mut select =
                source.prepare(&format!("SELECT {} FROM {table} {condition}", quoted.join(" || ', ' || ")))?;
            for values in select.query_map([], |row| row.get::<_, String>(0))? {
                sql += &format!("INSERT INTO {table} ({}) VALUES ({});\n", columns.join(", "), values?);
            }
        }
        ["index", "trigger", "view"].iter().try_for_each(|kind| append(kind, &mut sql))?;
        let complete = Connection::open_in_memory()?;
        complete.execute_batch(&sql)?;
        assert_complete(&complete, version)?;
        fs::create_dir_all(SCHEMAS)?;
        fs::write(format!("{SCHEMAS}/v{version}.sql"), sql)?;
        // Read back by this release: from now on every release has to read it so.
        let written = Base::new()?;
        fs::create_dir_all(written.state_dir())?;
        Connection::open(written.file("state.db"))?
            .execute_batch(&fs::read_to_string(format!("{SCHEMAS}/v{version}.sql"))?)?;
        fs::write(format!("{SCHEMAS}/v{version}.json"), export(&written.store()?)?)?;
    }
    Ok(())
}

/// In the processes that other tests start; else it does nothing.
#[test]
fn in_a_role() -> TestResult {
    let Some((role, base)) = role() else { return Ok(()) };
    if role == "serve" {
        let service = StatePersistenceService::new(Some(&base));
        service.initialize()?;
        say("ready");
        std::io::stdin().read_to_end(&mut Vec::new())?;
        return Ok(service.prepare_for_shutdown()?);
    }
    assert_eq!(role, "open");
    say("ready");
    // Until all of them are there.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let store = StateStore::open(base.join(".agentmux/state"))?;
    say(if store.upgrade_backup().is_some() { "upgraded" } else { "found it upgraded" });
    say(&export(&store)?.len().to_string());
    Ok(())
}

#[test]
fn every_released_schema_has_a_fixture_with_something_in_every_column() -> TestResult {
    for version in 1..=latest() {
        let conn = Connection::open_in_memory()?;
        let (sql, _) = fixture(version).map_err(|error| format!("v{version}: {error}; see \"Adding a migration\""))?;
        conn.execute_batch(&sql)?;
        assert_eq!(conn.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))?, "ok");
        assert!(!conn.prepare("PRAGMA foreign_key_check")?.exists([])?, "v{version}");
        let newest = "SELECT max(version) FROM refinery_schema_history";
        assert_eq!(conn.query_row(newest, [], |row| row.get::<_, u32>(0))?, version);
        assert_complete(&conn, version)?;
    }
    Ok(())
}

fn assert_complete(conn: &Connection, version: u32) -> TestResult {
    for (table, (columns, rows)) in rows(conn)? {
        for (index, column) in columns.iter().enumerate() {
            let is_filled = rows.iter().any(|row| row[index] != Value::Null);
            assert!(is_filled, "v{version}: {table}.{column} is empty; fill it in `write_missing_schema_fixtures`");
        }
    }
    Ok(())
}

#[test]
fn a_database_of_every_released_schema_is_upgraded_with_all_that_is_in_it() -> TestResult {
    let fresh = Base::new()?;
    fresh.store()?;
    for version in 1..=latest() {
        let base = base_of(version)?;
        let before = rows(&base.sql()?)?;
        let store = base.store()?;
        assert!(export(&store)? == fixture(version)?.1, "v{version}");
        let after = rows(&base.sql()?)?;
        for (table, (columns, rows)) in before {
            let (new_columns, new_rows) = &after[&table];
            let common: Vec<_> = columns.iter().map(|it| new_columns.iter().position(|new| new == it)).collect();
            let kept: Vec<Vec<_>> = new_rows
                .iter()
                .map(|row| common.iter().map(|index| row[index.expect("the column is still there")].clone()).collect())
                .collect();
            // What a backup says of itself is of no use in a live database, and stays as it is.
            assert_eq!(kept, rows, "v{version}: {table}");
        }
        assert_eq!(schema(&base.sql()?)?, schema(&fresh.sql()?)?, "v{version}");
        assert_eq!(store.upgrade_backup().is_some(), version < latest());
        assert!(base.store()?.upgrade_backup().is_none(), "once");
        let report = store.check()?;
        assert!(report.problems.iter().all(|problem| problem.kind == "permissions"), "v{version}: {report:?}");
        store.update_task(&task("T-new", TaskStatus::Pending))?;
        store.set_mode(&agentmux_state::OrchestratorMode::Normal)?;
    }
    Ok(())
}

#[test]
fn the_backup_before_an_upgrade_goes_back_to_the_same_bytes() -> TestResult {
    for version in 1..latest() {
        let base = base_of(version)?;
        let store = base.store()?;
        let backup = store.upgrade_backup().expect("a backup").clone();
        assert_eq!(backup.label, "before-upgrade");
        // The backup is of the old schema: the program that made it can use it.
        let conn = Connection::open_with_flags(&backup.path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let newest = "SELECT max(version) FROM refinery_schema_history";
        assert_eq!(conn.query_row(newest, [], |row| row.get::<_, u32>(0))?, version);
        store.remove_task("T-1")?;
        store.update_task(&task("T-new", TaskStatus::Pending))?;
        store.backups().restore(&backup.id)?;
        assert!(export(&store)? == fixture(version)?.1, "v{version}");
    }
    Ok(())
}

#[test]
fn eight_processes_open_an_old_database_at_once_and_one_upgrades_it() -> TestResult {
    let expected = fixture(1)?.1.len().to_string();
    for round in 0..20 {
        let base = base_of(1)?;
        let mut processes: Vec<_> = (0..8).map(|_| start("open", &base)).collect::<std::io::Result<_>>()?;
        for (_, output) in &mut processes {
            assert_eq!(said(output).next().as_deref(), Some("ready"));
        }
        for (process, _) in &mut processes {
            drop(process.stdin.take());
        }
        let mut upgraded = 0;
        for (mut process, mut output) in processes {
            let lines: Vec<_> = said(&mut output).collect();
            assert!(process.wait()?.success(), "round {round}: {lines:?}");
            upgraded += usize::from(lines[0] == "upgraded");
            assert_eq!(lines[1], expected, "round {round}");
        }
        assert_eq!(upgraded, 1, "round {round}");
        let history = "SELECT count(*) FROM refinery_schema_history";
        assert_eq!(base.sql()?.query_row(history, [], |row| row.get::<_, u32>(0))?, latest());
        assert!(export(&base.store()?)? == fixture(1)?.1, "round {round}");
        assert_eq!(base.backups()?.len(), 2, "one backup and its checksum");
    }
    Ok(())
}

/// What the program says on standard error, where it fails; `migrate` has printed by then what it was about to do.
fn error(base: &Base, arguments: &[&str]) -> std::io::Result<String> {
    let output = command(base, arguments).output()?;
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn eight_installers_at_once_take_turns() -> TestResult {
    let base = base_of(1)?;
    let installers: Vec<_> = (0..8)
        .map(|_| {
            Command::new(env!("CARGO_BIN_EXE_agentmux-state"))
                .args(["--json", "--state-dir"])
                .arg(base.state_dir())
                .arg("migrate")
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
        })
        .collect::<std::io::Result<_>>()?;
    let mut upgraded = 0;
    for installer in installers {
        let output = installer.wait_with_output()?;
        assert!(output.status.success(), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        assert_eq!(report["pending"], serde_json::json!([]));
        upgraded += usize::from(report["backup"].is_string());
    }
    assert_eq!(upgraded, 1);
    assert!(export(&base.store()?)? == fixture(1)?.1);
    Ok(())
}

/// Puts the database of the first schema in the place of what a base directory holds.
fn start_over(base: &Base, old: &Path) -> std::io::Result<()> {
    fs::remove_dir_all(base.state_dir())?;
    fs::create_dir_all(base.state_dir())?;
    fs::copy(old, base.file("state.db")).map(drop)
}

/// A database of the first schema as one file.
fn old_database() -> Result<(Base, PathBuf), Box<dyn std::error::Error>> {
    let base = base_of(1)?;
    let path = base.path().join("old.db");
    base.sql()?.execute("VACUUM INTO ?1", [path.to_str().expect("a path in UTF-8")])?;
    let conn = Connection::open(&path)?;
    conn.pragma_update(None, "application_id", 1_095_587_923)?;
    conn.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    Ok((base, path))
}

#[test]
fn an_upgrade_killed_at_any_write_is_finished_by_the_next_opening() -> TestResult {
    if !can_trace() {
        return Ok(());
    }
    let (base, old) = old_database()?;
    let expected = fixture(1)?.1;
    let (mut before, mut after) = (0, 0);
    start_over(&base, &old)?;
    let kills = sweep(&base, &["migrate"], 1, |nth| {
        match StateStore::migration_status(base.state_dir())?.schema_version {
            1 => before += 1,
            version => {
                assert_eq!(version, latest());
                after += 1;
            }
        }
        let store = base.store()?;
        assert!(export(&store)? == expected, "killed at write {nth}");
        let history = base.sql()?.query_row("SELECT count(*) FROM refinery_schema_history", [], |row| row.get(0));
        assert_eq!(history, Ok(latest()), "killed at write {nth}");
        let integrity = base.sql()?.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))?;
        assert_eq!(integrity, "ok", "killed at write {nth}");
        let verdicts = store.backups().verify(None)?;
        assert!(
            !verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.ok),
            "killed at write {nth}: {verdicts:?}"
        );
        for name in base.backups()? {
            assert!(name.ends_with(".db") || name.ends_with(".db.sha256"), "killed at write {nth}: {name}");
        }
        drop(store);
        Ok(start_over(&base, &old)?)
    })?;
    eprintln!("upgrade killed at {kills} writes: {before} times before it was done, {after} times after");
    assert!(kills >= 50 && before >= 20 && after >= 1, "{kills} kills, {before} before, {after} after");
    Ok(())
}

#[test]
fn a_disk_that_is_full_or_fails_stops_an_upgrade_with_the_old_database_usable() -> TestResult {
    if !can_trace() {
        return Ok(());
    }
    let (base, old) = old_database()?;
    let expected = fixture(1)?.1;
    for (calls, error, step) in [("pwrite64", "ENOSPC", 3), ("pwrite64", "EIO", 7), ("fsync,fdatasync", "EIO", 1)] {
        let (mut stopped, mut said_why) = (0, 0);
        for nth in (1..).step_by(step) {
            start_over(&base, &old)?;
            let (done, errors) = run_injected(&base, calls, &format!("error={error}:when={nth}+"), &["migrate"])?;
            assert!(!errors.contains("panicked"), "{errors}");
            // The disk has room again, or works again.
            if !done {
                stopped += 1;
                said_why += usize::from(errors.contains("was not upgraded, as the backup that comes first failed"));
                assert!(errors.contains("error: "), "{errors}");
                assert!(error != "ENOSPC" || errors.contains("no room left"), "{errors}");
                let names = base.backups().unwrap_or_default();
                assert!(names.iter().all(|name| !name.ends_with(".tmp")), "write {nth}: {names:?}");
            }
            let version = StateStore::migration_status(base.state_dir())?.schema_version;
            assert!(done || version == 1 || error == "EIO", "a commit that failed for want of room is none");
            assert!(export(&base.store()?)? == expected, "{calls} {error} at {nth}");
            if done {
                break;
            }
        }
        eprintln!("{calls} {error}: {stopped} times stopped, {said_why} of them by the backup");
        assert!(stopped >= 3 && said_why >= 2, "{calls} {error}: {stopped}, {said_why}");
    }
    Ok(())
}

#[test]
fn without_its_backup_an_upgrade_does_not_start() -> TestResult {
    let base = base_of(1)?;
    // Where the backups are to lie there is a file.
    fs::write(base.file("backups"), "not a directory")?;
    match base.store().map(drop) {
        Err(Error::Io { .. } | Error::UpgradeBackupFailed { .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(error(&base, &["migrate"])?.contains("backups"));
    assert_eq!(StateStore::migration_status(base.state_dir())?.schema_version, 1);
    fs::remove_file(base.file("backups"))?;

    // A database that is damaged does not pass the check of its backup.
    let conn = base.sql()?;
    conn.execute_batch("PRAGMA foreign_keys = OFF")?;
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    conn.execute(
        "INSERT INTO messages (conversation_id, position, role, content, timestamp) VALUES ('gone', 0, '', '', '')",
        [],
    )?;
    match base.store().map(drop) {
        Err(Error::UpgradeBackupFailed { source, .. }) => {
            assert!(matches!(*source, Error::Corrupt { .. }), "{source}");
            assert!(source.to_string().contains("rows of messages refer to nothing"), "{source}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(StateStore::migration_status(base.state_dir())?.schema_version, 1);
    assert_eq!(base.backups()?, [""; 0]);
    conn.execute("DELETE FROM messages WHERE conversation_id = 'gone'", [])?;
    assert!(export(&base.store()?)? == fixture(1)?.1);
    Ok(())
}

#[test]
fn what_is_no_database_of_this_release_is_refused_by_its_kind_and_keeps_every_byte() -> TestResult {
    let base = Base::new()?;
    base.store()?;
    let path = base.file("state.db");
    base.sql()?.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))?;
    let ours = fs::read(&path)?;
    let with = |sql: &str| -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        fs::write(&path, &ours)?;
        base.sql()?.execute_batch(sql)?;
        Ok(fs::read(&path)?)
    };
    let foreign = |expected: ForeignFile| move |error: &Error| matches!(error, Error::NotAStateDatabase { found, .. } if *found == expected);
    let history = |expected: HistoryProblem| move |error: &Error| matches!(error, Error::HistoryDamaged { problem, .. } if *problem == expected);
    let row = |version: u32| format!("DELETE FROM refinery_schema_history WHERE version = {version}");
    type Expected = Box<dyn Fn(&Error) -> bool>;
    let last = latest();
    let cases: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("an empty file", Vec::new(), Box::new(foreign(ForeignFile::Empty))),
        ("a text", b"not a database, but a text ".repeat(99), Box::new(foreign(ForeignFile::NotSqlite))),
        (
            "another program's database",
            with("PRAGMA application_id = 7")?,
            Box::new(foreign(ForeignFile::OtherProgram { application_id: 7 })),
        ),
        (
            "a database that is marked by nobody",
            with("PRAGMA application_id = 0")?,
            Box::new(foreign(ForeignFile::OtherProgram { application_id: 0 })),
        ),
        (
            "a database of a newer release",
            with("INSERT INTO refinery_schema_history VALUES (99, 'new', '2026-11-22T10:00:00Z', '1')")?,
            Box::new(|error| matches!(error, Error::SchemaTooNew { found: 99, .. })),
        ),
        (
            "an altered migration",
            with("UPDATE refinery_schema_history SET checksum = '7' WHERE version = 1")?,
            Box::new(history(HistoryProblem::Altered { version: 1 })),
        ),
        (
            "a renamed migration",
            with("UPDATE refinery_schema_history SET name = 'mood' WHERE version = 2")?,
            Box::new(history(HistoryProblem::Altered { version: 2 })),
        ),
        ("a history without its beginning", with(&row(1))?, Box::new(history(HistoryProblem::Cut { version: 1 }))),
        ("a history without its end", with(&row(last))?, Box::new(history(HistoryProblem::Cut { version: last }))),
        (
            "a history without rows",
            with("DELETE FROM refinery_schema_history")?,
            Box::new(history(HistoryProblem::Missing)),
        ),
        ("no history", with("DROP TABLE refinery_schema_history")?, Box::new(history(HistoryProblem::Missing))),
        (
            "another table in its place",
            with("DROP TABLE refinery_schema_history; CREATE TABLE refinery_schema_history (x)")?,
            Box::new(history(HistoryProblem::Missing)),
        ),
        (
            "a value that no release writes",
            with("UPDATE refinery_schema_history SET applied_on = 'yesterday'")?,
            Box::new(|error| matches!(error, Error::HistoryDamaged { problem: HistoryProblem::Unreadable { .. }, .. })),
        ),
        (
            "a number beyond all bounds",
            with("UPDATE refinery_schema_history SET checksum = NULL")?,
            Box::new(|error| matches!(error, Error::HistoryDamaged { problem: HistoryProblem::Unreadable { .. }, .. })),
        ),
    ];
    for (what, content, is_expected) in cases {
        fs::write(&path, &content)?;
        let opened = base.store().map(drop).expect_err(what);
        assert!(is_expected(&opened), "{what}: {opened:?}");
        let message = error(&base, &["migrate"])?;
        assert!(message.contains(&path.display().to_string()), "{what}: {message}");
        assert!(message.trim_end() == format!("error: {opened}"), "{what}: {message}");
        assert!(base.service().initialize().is_err(), "{what}");
        assert!(fs::read(&path)? == content, "{what}: it keeps every byte");
        assert_eq!(base.backups()?, [""; 0], "{what}");
    }
    Ok(())
}

#[test]
fn migrate_says_what_it_will_do_does_it_and_says_where_the_backup_lies() -> TestResult {
    let base = base_of(1)?;
    let status = json(&base, &["migrate", "--status"]);
    assert_eq!((&status["schemaVersion"], &status["backup"]), (&serde_json::json!(1), &serde_json::Value::Null));
    assert_eq!(status["pending"][0], serde_json::json!({"version": 2, "name": "mode"}));
    let output = command(&base, &["migrate"]).output()?;
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let printed = String::from_utf8(output.stdout)?;
    let backup = base.backups()?.remove(0);
    let plan = printed.find("The database has schema version 1, and this release has").expect("the plan");
    let done = printed.find("Upgraded to schema version").expect("what was done");
    assert!(plan < printed.find("  V2 mode").expect("each migration") && plan < done, "{printed}");
    assert!(printed.contains(&base.file("backups").join(&backup).display().to_string()), "{printed}");

    let again = command(&base, &["migrate"]).output()?;
    assert!(String::from_utf8(again.stdout)?.starts_with("The database is up to date"));
    assert_eq!(base.backups()?.len(), 2, "no second backup");
    // Nobody listens: it is done all the same.
    let base = base_of(1)?;
    let script = format!(
        "'{}' --state-dir '{}' migrate | true; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_agentmux-state"),
        base.state_dir().display()
    );
    assert!(Command::new("bash").args(["-c", &script]).status()?.success());
    assert_eq!(StateStore::migration_status(base.state_dir())?.pending, []);
    Ok(())
}

#[test]
fn a_dry_run_tries_all_of_it_on_a_copy_and_changes_nothing() -> TestResult {
    let base = base_of(1)?;
    let report = json(&base, &["migrate", "--dry-run"]);
    assert_eq!((&report["schemaVersion"], &report["backup"]), (&serde_json::json!(1), &serde_json::Value::Null));
    for key in ["backupMs", "migrateMs"] {
        assert!(report["dryRun"][key].is_u64(), "{report}");
    }
    let [before, after] = ["bytesBefore", "bytesAfter"].map(|key| report["dryRun"][key].as_u64().expect("a size"));
    assert!(before > 100_000 && after >= before, "{report}");
    assert_eq!(StateStore::migration_status(base.state_dir())?.schema_version, 1);
    assert_eq!(base.backups()?, [""; 0]);
    let printed = String::from_utf8(command(&base, &["migrate", "--dry-run"]).output()?.stdout)?;
    assert!(printed.contains("the database was not changed") && printed.contains("  V2 mode"), "{printed}");
    assert_eq!(command(&base, &["migrate", "--dry-run", "--status"]).output()?.status.code(), Some(2));

    // What would make the upgrade fail is found without it.
    base.sql()?.execute_batch("DROP INDEX tasks_by_status")?;
    for arguments in [&["migrate", "--dry-run"][..], &["migrate"]] {
        let failed = error(&base, arguments)?;
        assert!(failed.contains("state.db: the index tasks_by_status is missing; nothing was changed"), "{failed}");
    }
    assert_eq!(StateStore::migration_status(base.state_dir())?.schema_version, 1);

    let current = Base::new()?;
    assert!(error(&current, &["migrate", "--dry-run"])?.contains("does not exist"));
    assert!(!current.state_dir().exists());
    current.store()?;
    let printed = String::from_utf8(command(&current, &["migrate", "--dry-run"]).output()?.stdout)?;
    assert!(printed.starts_with("The database is up to date"), "{printed}");
    Ok(())
}

#[test]
fn nothing_is_upgraded_under_an_orchestrator_that_runs() -> TestResult {
    let base = Base::new()?;
    let (mut service, mut output) = start("serve", &base)?;
    assert_eq!(said(&mut output).next().as_deref(), Some("ready"));
    // As if it were of the first release: of the same process, the file is another one.
    for name in ["state.db-wal", "state.db-shm", "state.db"] {
        let _ = fs::remove_file(base.file(name));
    }
    let old = Connection::open(base.file("state.db"))?;
    old.execute_batch(&fixture(1)?.0)?;
    old.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    drop(old);
    match base.store().map(drop) {
        Err(Error::InUse { pid, .. }) => assert_eq!(pid, Some(service.id())),
        other => panic!("{other:?}"),
    }
    assert!(error(&base, &["migrate"])?.contains(&format!("is in use by process {}", service.id())));
    assert!(json(&base, &["migrate", "--dry-run"])["dryRun"].is_object(), "a copy may be upgraded");
    assert_eq!(StateStore::migration_status(base.state_dir())?.schema_version, 1);
    service.kill()?;
    service.wait()?;
    assert!(base.store()?.upgrade_backup().is_some());
    Ok(())
}

#[test]
fn a_backup_that_is_copied_by_hand_is_the_database() -> TestResult {
    let base = base_of(1)?;
    let backup = base.store()?.upgrade_backup().expect("a backup").clone();
    base.store()?.remove_task("T-1")?;
    let away = base.path().join("away");
    fs::create_dir(&away)?;
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = fs::rename(base.file(name), away.join(name));
    }
    fs::copy(&backup.path, base.file("state.db"))?;
    assert_eq!(StateStore::migration_status(base.state_dir())?.schema_version, 1, "for the program of then");
    assert!(export(&base.store()?)? == fixture(1)?.1);
    Ok(())
}

/// Makes a database what a newer release would leave.
const NEWER: &str = "ALTER TABLE tasks ADD COLUMN mood TEXT; DROP TABLE backup;
    INSERT INTO refinery_schema_history VALUES (99, 'mood', '2026-11-22T10:00:00Z', '1')";

#[test]
fn the_old_program_goes_back_to_the_backup_from_before_the_upgrade() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let backup = base.store()?.backups().create("before-upgrade")?.id;
    base.sql()?.execute_batch(NEWER)?;
    let refused = error(&base, &["status"])?;
    assert!(refused.contains("schema version 99") && refused.contains("`agentmux-state backup list`"), "{refused}");
    // All that is needed to go back works with the program that cannot open the database.
    assert_eq!(json(&base, &["backup", "list"])[0]["id"], backup.as_str());
    assert_eq!(json(&base, &["backup", "verify"])[0]["ok"], true);
    assert!(error(&base, &["backup", "restore", "backup-1-no"])?.contains("there is no backup"));
    let report = json(&base, &["backup", "restore", &backup]);
    assert!(export(&base.store()?)? == FIXTURE);
    assert!(fs::read_to_string(base.file("current-state.json"))? == FIXTURE);
    assert_eq!(report["restored"], backup.as_str());

    // The newer state lies in a backup, for the newer release.
    let safety = report["safetyBackup"].as_str().expect("an id");
    let verdict = &verify_backups(base.state_dir(), Some(safety), &ProgressCallback::default())?[0];
    assert!(verdict.problems[0].contains("schema version 99"), "{verdict:?}");
    let conn = Connection::open(base.file("backups").join(format!("{safety}.db")))?;
    assert_eq!(conn.query_row("SELECT count(mood IS NULL) FROM tasks", [], |row| row.get::<_, u32>(0))?, 24);
    let listed = json(&base, &["backup", "list"]);
    assert_eq!(listed[0]["label"], "before-restore");
    let status = json(&base, &["status"]);
    assert_eq!(status["lastCheckpoint"]["reason"], "error_recovery");
    Ok(())
}

#[test]
fn nothing_is_put_in_the_place_of_a_newer_database_that_is_in_use_or_for_a_bad_backup() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let good = base.store()?.backups().create("good")?;
    let bad = base.store()?.backups().create("bad")?;
    fs::write(&bad.path, "damaged")?;
    let (mut service, mut output) = start("serve", &base)?;
    assert_eq!(said(&mut output).next().as_deref(), Some("ready"));
    base.sql()?.execute_batch(NEWER)?;
    let restore = |id: &str| StateStore::open_restored(base.state_dir(), id, StoreOptions::default()).map(drop);
    assert!(matches!(restore(&good.id), Err(Error::InUse { .. })));
    service.kill()?;
    service.wait()?;
    assert!(matches!(restore(&bad.id), Err(Error::BackupDamaged { .. })));
    assert!(matches!(restore("backup-1-no"), Err(Error::BackupNotFound { .. })));
    assert!(matches!(base.store().map(drop), Err(Error::SchemaTooNew { .. })), "it is still the newer one");
    restore(&good.id)?;
    assert_eq!(base.store()?.summary()?.counts.tasks, 24);
    Ok(())
}

#[test]
fn a_backup_restores_where_the_database_is_gone_or_its_history_is_damaged() -> TestResult {
    let cut = format!("DELETE FROM refinery_schema_history WHERE version = {}", latest());
    for damage in ["DROP TABLE refinery_schema_history", &cut, "gone"] {
        let base = Base::new()?;
        import(&base.store()?, FIXTURE)?;
        let backup = base.store()?.backups().create("good")?.id;
        base.write("backups/backup-1700000000000-daily.json", COMPLETE)?;
        for (id, expected) in [(backup.as_str(), FIXTURE), ("backup-1700000000000-daily", COMPLETE)] {
            if damage == "gone" {
                for name in ["state.db", "state.db-wal", "state.db-shm"] {
                    let _ = fs::remove_file(base.file(name));
                }
            } else {
                base.sql()?.execute_batch(damage)?;
            }
            let report = json(&base, &["backup", "restore", id]);
            assert!(export(&base.store()?)? == expected, "{damage}: {id}");
            assert_eq!(report["safetyBackup"].is_null(), damage == "gone", "{damage}: {id}: {report}");
            let report = base.store()?.check()?;
            assert!(report.problems.iter().all(|it| it.kind == "permissions" || it.kind == "backup"), "{report:?}");
        }
    }
    Ok(())
}

#[test]
fn a_damaged_database_is_set_aside_and_a_backup_takes_its_place() -> TestResult {
    type Damage = fn(&Base) -> TestResult;
    let damages: [(&str, Damage); 5] = [
        ("pages", |base| {
            let file = fs::OpenOptions::new().write(true).open(base.file("state.db"))?;
            std::os::unix::fs::FileExt::write_all_at(&file, &[0x5a; 40_000], 4096)?;
            Ok(())
        }),
        ("a text", |base| Ok(fs::write(base.file("state.db"), "no database")?)),
        ("an empty file", |base| Ok(fs::write(base.file("state.db"), "")?)),
        ("a log without its database", |base| {
            fs::remove_file(base.file("state.db"))?;
            Ok(fs::write(base.file("state.db-wal"), "frames")?)
        }),
        ("a journal without its database", |base| {
            fs::remove_file(base.file("state.db"))?;
            Ok(fs::write(base.file("state.db-journal"), "pages")?)
        }),
    ];
    for (what, damage) in damages {
        let base = Base::new()?;
        import(&base.store()?, FIXTURE)?;
        let backup = base.store()?.backups().create("good")?.id;
        damage(&base)?;
        assert!(base.service().initialize().is_err(), "{what} is no fresh start");
        let report = json(&base, &["backup", "restore", &backup]);
        assert!(export(&base.store()?)? == FIXTURE, "{what}");
        let kept = PathBuf::from(report["setAsideAs"].as_str().expect("where it lies now"));
        assert!(fs::read_dir(&kept)?.count() >= 1, "{what}: nothing is deleted");
        assert!(report["safetyBackup"].is_null());
    }
    Ok(())
}

#[test]
fn an_upgrade_without_a_log_that_was_killed_is_undone_by_whoever_comes_next() -> TestResult {
    if !can_trace() {
        return Ok(());
    }
    for next in ["migrate", "status"] {
        let base = base_of(1)?;
        let mut undone = false;
        for nth in 1.. {
            base.sql()?.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))?;
            let kill = format!("signal=SIGKILL:when={nth}");
            let (ended, _) = run_injected(&base, "pwrite64", &kill, &["migrate"])?;
            let hot = base.file("state.db-journal").metadata().is_ok_and(|journal| journal.len() > 512);
            if hot || ended {
                let output = command(&base, &[next]).output()?;
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(!errors.contains("readonly"), "{next} after a kill at write {nth}: {errors}");
                undone |= hot;
                if ended || undone {
                    break;
                }
            }
        }
        assert!(undone, "no journal was left");
        assert!(export(&base.store()?)? == fixture(1)?.1);
    }
    Ok(())
}

#[test]
fn a_command_that_holds_the_directory_is_waited_for_also_when_it_is_slow_to_say_so() -> TestResult {
    if !can_trace() {
        return Ok(());
    }
    let base = base_of(1)?;
    // It has the lock, and for a while its file is empty.
    let mut slow = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"])
        .args(["-e", "inject=fsync,fdatasync:delay_enter=150000"])
        .arg(env!("CARGO_BIN_EXE_agentmux-state"))
        .args(["-q", "--state-dir"])
        .arg(base.state_dir())
        .arg("migrate")
        .spawn()?;
    while DirectoryLock::holder(&base.state_dir())?.is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let others: Vec<_> = (0..3)
        .map(|_| {
            Command::new(env!("CARGO_BIN_EXE_agentmux-state"))
                .args(["-q", "--state-dir"])
                .arg(base.state_dir())
                .arg("migrate")
                .spawn()
        })
        .collect::<std::io::Result<_>>()?;
    for mut other in others {
        assert!(other.wait()?.success());
    }
    assert!(slow.wait()?.success());
    Ok(())
}

#[test]
fn a_restore_copes_with_what_a_person_changed() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let backup = base.store()?.backups().create("good")?.id;
    base.sql()?.execute_batch("ALTER TABLE runs ADD COLUMN mine TEXT; INSERT INTO runs (hostname, pid, started_at, restart_count, mine) VALUES ('h', 1, '', 0, 'x')")?;
    base.store()?.backups().restore(&backup)?;
    assert_eq!(base.sql()?.query_row("SELECT count(*) FROM runs", [], |row| row.get(0)), Ok(1));
    // Pages of another size.
    base.sql()?
        .execute_batch("PRAGMA journal_mode = delete; PRAGMA page_size = 8192; VACUUM; PRAGMA journal_mode = wal")?;
    base.store()?.remove_task("task-1")?;
    base.store()?.backups().restore(&backup)?;
    assert!(export(&base.store()?)? == FIXTURE);
    base.sql()?.execute_batch(NEWER)?;
    StateStore::open_restored(base.state_dir(), &backup, StoreOptions::default())?;
    let report = base.store()?.check()?;
    assert!(report.problems.iter().all(|it| it.kind == "permissions"), "{report:?}");
    assert!(report.notes.iter().any(|it| it.kind == "backup"), "the newer one is told of: {report:?}");
    Ok(())
}

#[test]
fn only_migrate_and_opening_upgrade_a_database() -> TestResult {
    let base = base_of(1)?;
    fs::create_dir(base.file("backups"))?;
    base.write("backups/backup-1700000000000-bad.db", "damaged")?;
    let document = base.path().join("document.json");
    fs::write(&document, FIXTURE)?;
    let import = ["import", "--replace", document.to_str().expect("a path")];
    assert!(error(&base, &import)?.contains("run `agentmux-state migrate`"));
    assert!(error(&base, &["backup", "restore", "backup-1700000000000-bad"])?.contains("cannot be trusted"));
    assert_eq!(StateStore::migration_status(base.state_dir())?.schema_version, 1);
    Ok(())
}

#[test]
fn going_back_killed_at_any_write_leaves_what_was_there_or_the_backup() -> TestResult {
    if !can_trace() {
        return Ok(());
    }
    for is_there in [true, false] {
        let base = Base::new()?;
        import(&base.store()?, FIXTURE)?;
        let backup = base.store()?.backups().create("good")?.id;
        let (mut old, mut new) = (0, 0);
        let lose = || -> TestResult {
            if is_there {
                base.sql()?.execute_batch(NEWER)?;
            } else {
                for name in ["state.db", "state.db-wal", "state.db-shm"] {
                    let _ = fs::remove_file(base.file(name));
                }
            }
            Ok(())
        };
        lose()?;
        let kills = sweep(&base, &["backup", "restore", &backup], if is_there { 5 } else { 2 }, |nth| {
            match StateStore::migration_status(base.state_dir()) {
                Err(Error::SchemaTooNew { found: 99, .. }) if is_there => old += 1,
                Err(Error::NoDatabase { .. }) if !is_there => old += 1,
                Ok(_) => {
                    assert!(export(&base.store()?)? == FIXTURE, "killed at write {nth}");
                    new += 1;
                    lose()?;
                }
                other => panic!("killed at write {nth}: {other:?}"),
            }
            Ok(())
        })?;
        eprintln!("going back killed at {kills} writes: {old} times the old state, {new} times the new");
        assert!(kills >= 15 && old >= 5 && new >= 2, "{kills} kills, {old} old, {new} new");
    }
    Ok(())
}

#[test]
fn documents_are_read_by_their_version() -> TestResult {
    let with = |version: &str| FIXTURE.replacen("\"version\": \"1.0.0\"", &format!("\"version\": {version}"), 1);
    // The same major version: as it stands, and out again so.
    for version in ["\"1.0.0\"", "\"1.9.3\"", "\"1.0.1-rc.1+build.5\""] {
        let base = Base::new()?;
        import(&base.store()?, &with(version))?;
        assert!(export(&base.store()?)? == with(version), "{version}");
    }
    // An older one is brought to this one.
    let base = Base::new()?;
    let report = import(&base.store()?, &with("\"0.9.0\""))?;
    assert_eq!((report.source_version.as_str(), report.warnings.len()), ("0.9.0", 0));
    assert!(export(&base.store()?)? == FIXTURE);
    // A newer one is refused.
    for version in ["\"2.0.0\"", "\"10.0.0\"", "2", "\"v2\""] {
        let base = Base::new()?;
        let refused = import(&base.store()?, &with(version));
        assert!(matches!(refused, Err(Error::DocumentTooNew { .. })), "{version}: {refused:?}");
        assert_eq!(base.store()?.summary()?.counts.tasks, 0);
    }
    // A missing or malformed one is a warning, or a problem where nothing may be wrong.
    for document in [with("\"latest\""), with("null"), FIXTURE.replacen("\"version\": \"1.0.0\",", "", 1)] {
        let base = Base::new()?;
        let strict = ImportOptions::default().strict(true);
        match base.store()?.import_json(document.as_bytes(), strict) {
            Err(Error::DocumentProblems { problems, .. }) => assert_eq!(problems[0].path, "$.version"),
            other => panic!("{other:?}"),
        }
        let report = import(&base.store()?, &document)?;
        assert_eq!(report.warnings[0].path, "$.version");
        assert_eq!(report.imported.tasks, 24);
    }
    Ok(())
}
