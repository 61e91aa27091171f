//! Files made to keep who reads them busy for ever: `check` and `recover` end, and say what is wrong.

use std::fs;
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::common::program::command;
use crate::common::{Base, FIXTURE, TestResult, conversation, import, is_long, random, task};
use rusqlite::Connection;

const PAGE: usize = 4096;

/// How long a command may take on a file of some hundred kilobytes, also where several tests share the processor and nothing is
/// optimized. It takes a few seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// A database of some hundred kilobytes with rows in many tables.
fn base() -> Result<Base, Box<dyn std::error::Error>> {
    let base = Base::in_memory()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    store.batch(|batch| {
        for number in 0..60 {
            let mut task = task(&format!("T-{number}"), agentmux_state::TaskStatus::Pending);
            task.progress.completed_steps = (0..9).map(|step| format!("step {step} of {number}")).collect();
            batch.update_task(&task)?;
            batch.update_conversation(&conversation(&format!("C-{number}"), 0..20))?;
        }
        Ok::<_, agentmux_state::Error>(())
    })?;
    store.update_message_index()?;
    store.backups().create("good")?;
    Ok(base)
}

/// Waits for a program, but not for ever; its exit status, what it said, and how long it took.
fn wait(mut child: Child) -> Result<(Option<i32>, String, Duration), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let mut errors = child.stderr.take().expect("its errors are piped");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).map(|_| text)
    });
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > LIMIT {
            child.kill()?;
            break child.wait()?;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let errors = reader.join().expect("the reader does not panic")?;
    Ok((status.code(), errors, start.elapsed()))
}

/// Runs `check` and then `recover` on it: both end in time, without a panic. Returns how long the slower one took.
fn ends(base: &Base, what: &str) -> Result<Duration, Box<dyn std::error::Error>> {
    let mut slowest = Duration::ZERO;
    for arguments in [["--json", "check"], ["--json", "recover"]] {
        let child = command(base, &arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let (status, errors, time) = wait(child)?;
        assert!(time < LIMIT, "{what}: {arguments:?} did not end");
        assert!(matches!(status, Some(0..=2)), "{what}: {arguments:?}: {status:?} {errors}");
        assert!(!errors.contains("panicked"), "{what}: {arguments:?}: {errors}");
        slowest = slowest.max(time);
    }
    Ok(slowest)
}

/// The trees of a database: their names and root pages.
fn trees(base: &Base) -> Result<Vec<(String, usize)>, Box<dyn std::error::Error>> {
    let conn = base.sql()?;
    let mut select = conn.prepare("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0 ORDER BY rootpage")?;
    let trees = select.query_map([], |row| Ok((row.get(0)?, row.get::<_, u32>(1)? as usize)))?;
    let mut trees: Vec<(String, usize)> = trees.collect::<rusqlite::Result<_>>()?;
    trees.push(("sqlite_schema".into(), 1));
    Ok(trees)
}

/// An inner page all of whose children are one page; `kind` is 5 for a table, 2 for an index.
fn inner_page(kind: u8, child: usize, header: usize, page: &mut [u8]) {
    page[header..].fill(0);
    let cells = if kind == 5 { 400 } else { 150 };
    let mut at = PAGE;
    for cell in 0..cells {
        let content: Vec<u8> = if kind == 5 {
            vec![0x81, (cell % 100) as u8]
        } else {
            // A record of three columns: a text, and two numbers.
            vec![9, 4, 17, 1, 1, b't', b'x', cell as u8, 1, 1]
        };
        at -= 4 + content.len();
        page[at..at + 4].copy_from_slice(&(child as u32).to_be_bytes());
        page[at + 4..at + 4 + content.len()].copy_from_slice(&content);
        let pointer = header + 12 + 2 * cell;
        page[pointer..pointer + 2].copy_from_slice(&(at as u16).to_be_bytes());
    }
    page[header] = kind;
    page[header + 3..header + 5].copy_from_slice(&(cells as u16).to_be_bytes());
    page[header + 5..header + 7].copy_from_slice(&(at as u16).to_be_bytes());
    page[header + 8..header + 12].copy_from_slice(&(child as u32).to_be_bytes());
}

#[test]
fn a_tree_that_leads_to_the_same_page_again_and_again_has_an_end() -> TestResult {
    let base = base()?;
    let trees = trees(&base)?;
    let whole = fs::read(base.file("state.db"))?;
    let backups: Vec<_> = base.store()?.backups().list()?;
    assert_eq!(backups.len(), 1);
    let mut slowest = Duration::ZERO;
    let is_long = is_long();
    let some =
        ["sqlite_schema", "messages", "tasks", "task_steps", "refinery_schema_history", "message_index_data", "runs"];
    for (name, root) in trees.iter().filter(|(name, _)| is_long || some.contains(&name.as_str())) {
        let header = if *root == 1 { 100 } else { 0 };
        let kind = match whole[(root - 1) * PAGE + header] {
            5 | 13 => 5,
            _ => 2,
        };
        for depth in if is_long { vec![1, 3, 12] } else { vec![1, 12] } {
            let mut bytes = whole.clone();
            // The pages of a chain, appended; the last one leads to the page that was the root.
            let first = bytes.len() / PAGE + 1;
            let leaf = first + depth;
            let old_root = bytes[(root - 1) * PAGE..root * PAGE].to_vec();
            bytes.resize((leaf) * PAGE, 0);
            for step in 0..depth {
                let at = (first + step - 1) * PAGE;
                inner_page(kind, first + step + 1, 0, &mut bytes[at..at + PAGE]);
            }
            bytes[(leaf - 1) * PAGE..leaf * PAGE].copy_from_slice(&old_root);
            if header == 100 {
                bytes[(leaf - 1) * PAGE..leaf * PAGE].fill(0);
                bytes[(leaf - 1) * PAGE] = 13;
            }
            let at = (root - 1) * PAGE;
            inner_page(kind, first, header, &mut bytes[at..at + PAGE]);
            // The number of pages in the header.
            let pages = (bytes.len() / PAGE) as u32;
            bytes[28..32].copy_from_slice(&pages.to_be_bytes());
            let crafted = Base::in_memory()?;
            fs::create_dir_all(crafted.file("backups"))?;
            fs::write(crafted.file("state.db"), &bytes)?;
            let time = ends(&crafted, &format!("{name}, depth {depth}"))?;
            if time > Duration::from_secs(3) {
                println!("{name}, depth {depth}, {} bytes: {time:?}", bytes.len());
            }
            slowest = slowest.max(time);
        }
    }
    println!("slowest: {slowest:?}");
    Ok(())
}

#[test]
fn crafted_rows_of_the_search_index_and_crafted_views_have_an_end() -> TestResult {
    for (what, sql) in [
        ("structure", "UPDATE message_index_data SET block = x'00000001' || x'8FFFFFFF7F8FFFFFFF7F8FFFFFFF7F' WHERE id = 10"),
        (
            "many segments",
            "UPDATE message_index_data SET block = x'00000001020180000101FFFFFFFF0F0001FFFFFFFF0F' WHERE id = 10",
        ),
        ("averages", "UPDATE message_index_data SET block = randomblob(2000) WHERE id = 1"),
        ("blocks", "UPDATE message_index_data SET block = randomblob(4000) WHERE id > 10"),
        ("idx", "UPDATE message_index_idx SET pgno = 9223372036854775807"),
        ("sizes", "UPDATE message_index_docsize SET sz = zeroblob(20)"),
        (
            "a view that never ends",
            "DROP VIEW contradictions; CREATE VIEW contradictions AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
             SELECT i AS kind, i AS id, i AS what FROM n",
        ),
        (
            "another one",
            "DROP VIEW dangling_references; CREATE VIEW dangling_references AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i
             FROM n) SELECT i AS kind, i AS id, i AS refers_by, i AS missing_kind, i AS missing_id FROM n",
        ),
    ] {
        let base = base()?;
        base.sql()?.execute_batch(sql)?;
        let time = ends(&base, what)?;
        println!("{what}: {time:?}");
    }
    Ok(())
}

#[test]
fn mutated_files_have_an_end() -> TestResult {
    let number = std::env::var("STATE_TEST_MUTATIONS").ok().and_then(|number| number.parse().ok());
    let number = number.unwrap_or(if is_long() { 2000 } else { 24 });
    let first: u64 = std::env::var("STATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let base = base()?;
    let whole = fs::read(base.file("state.db"))?;
    let mut slowest = (Duration::ZERO, 0);
    for round in first..first + number {
        let mut seed = round * 15_485_863 + 5;
        let mut below = |limit: usize| random(&mut seed) as usize % limit.max(1);
        let mut bytes = whole.clone();
        let pages = bytes.len() / PAGE;
        for _ in 0..1 + below(30) {
            let page = below(pages) * PAGE;
            match below(6) {
                // Headers and the beginning of the list of cells, where structure is dense.
                0 => bytes[page + below(40)] = below(256) as u8,
                1 => {
                    let kind = [2, 5, 10, 13][below(4)];
                    bytes[page] = kind;
                }
                2 => {
                    let to = 1 + below(pages) as u32;
                    let at = page + if below(2) == 0 { 8 } else { below(PAGE - 4) };
                    bytes[at..at + 4].copy_from_slice(&to.to_be_bytes());
                }
                3 => {
                    let from = below(pages) * PAGE;
                    bytes.copy_within(from..from + PAGE, page);
                }
                4 => bytes[page + below(PAGE)] = 0xff,
                _ => bytes[below(100)] = below(256) as u8,
            }
        }
        let crafted = Base::in_memory()?;
        fs::create_dir_all(crafted.file("backups"))?;
        fs::write(crafted.file("state.db"), &bytes)?;
        let time = ends(&crafted, &format!("round {round}"))?;
        slowest = slowest.max((time, round));
    }
    println!("{number} files, slowest: {slowest:?}");
    Ok(())
}

#[test]
fn many_tiny_rows_are_no_damage() -> TestResult {
    let base = base()?;
    let conn: Connection = base.sql()?;
    conn.execute_batch(
        "INSERT INTO task_blockers WITH n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n LIMIT 200000) SELECT 'T-1', i, '' FROM n;
         DELETE FROM task_blockers WHERE task_id = 'T-1';
         INSERT INTO task_blockers WITH n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT 200000) SELECT 'T-1', i, '' FROM n;
         INSERT INTO task_dependencies WITH n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT 50000)
         SELECT 'T-1', 'blocked_by', i, 'T-' || (i % 60) FROM n",
    )?;
    let report = base.store()?.check()?;
    assert!(report.ok, "{report:?}");
    Ok(())
}
