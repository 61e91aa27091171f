//! Whether everything is as it should be. Reports facts, changes nothing.

mod budget;
mod disk;
mod integrity;

use std::fs;
use std::io::BufReader;
use std::path::Path;

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde::Serialize;

use crate::backup::{Backup, SAFETY_LABEL};
use crate::db::{FileId, broken_references, is_open_file, require_readable, schema_differences};
use crate::directory::{EXPORT_FILE, open_file};
use crate::document::{KEPT_EXPORT_LABELS, checkpointed_at};
use crate::error::{Error, Result};
use crate::model::Timestamp;
use crate::store::{
    IN_ORDER, StateStore, agent, checkpoint, conversation, head, project, self_improvement, set_aside, summary, task,
};

pub(crate) use budget::{Budget, is_interrupted};
pub(crate) use integrity::{integrity, is_read_failure};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// Whether there is no problem.
    pub ok: bool,
    /// What is wrong and needs somebody.
    pub problems: Vec<CheckFinding>,
    /// What is worth knowing and may well be meant.
    pub notes: Vec<CheckFinding>,
    /// Sizes and numbers, to be compared with those of another time.
    pub facts: CheckFacts,
}

/// Sizes and numbers of a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckFacts {
    /// Version of the database's schema.
    pub schema_version: u32,
    /// Size of `state.db`, in bytes.
    pub database_bytes: u64,
    /// Of it, bytes that hold nothing.
    pub unused_bytes: u64,
    /// Size of `state.db-wal`, in bytes.
    pub wal_bytes: u64,
    /// Bytes that the file system has left for this user; `None` where it does not tell.
    pub disk_free_bytes: Option<u64>,
    /// Conversations.
    pub conversations: u64,
    /// Messages of all conversations.
    pub messages: u64,
    /// Tasks.
    pub tasks: u64,
    /// Agents.
    pub agents: u64,
    /// Projects.
    pub projects: u64,
    /// Records that imports could not read.
    pub set_aside: u64,
    /// Backups.
    pub backups: u64,
    /// The newest backup.
    pub newest_backup: Option<String>,
    /// When the last checkpoint was made.
    pub checkpointed_at: Option<Timestamp>,
}

/// Something that a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckFinding {
    /// What kind of thing it is: `integrity`, `foreign_key`, `unreadable`, `schema`, `invariant`, `contradiction`,
    /// `dangling_reference`, `set_aside`, `damaged`, `export`, `backup`, `wal`, `space`, `file_system`, `owner` or `permissions`.
    pub kind: &'static str,
    /// What it is, and on which file or record.
    pub message: String,
}

/// How many findings of one kind are told one by one.
const MOST: usize = 100;

impl StateStore {
    /// Checks the database's integrity, its references, that every row can be read, its schema, what is always true of a state,
    /// the export, the newest backup, the log, free space, the file system and the permissions; and notes references to
    /// entities that are gone, records set aside and damaged files. Changes nothing.
    ///
    /// ```
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path().join("state");
    /// let store = agentmux_state::StateStore::open(state_dir)?;
    /// assert!(store.check()?.ok);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] where the disk fails to read, which is no damage.
    pub fn check(&self) -> Result<CheckReport> {
        let is_damage = |it: &CheckFinding| ["integrity", "foreign_key", "unreadable", "schema"].contains(&it.kind);
        match self.check_once() {
            Ok(report) if !report.problems.iter().any(is_damage) => return Ok(report),
            Ok(_) | Err(Error::Corrupt { .. } | Error::HistoryDamaged { .. } | Error::NotAStateDatabase { .. }) => {}
            Err(error) => return Err(error),
        }
        // SQLite says the same of a page that the disk failed to read: what a second look does not find was not there.
        require_readable(self.database().path())?;
        self.check_once()
    }

    fn check_once(&self) -> Result<CheckReport> {
        let mut findings = Findings::default();
        let path = self.database().path();
        let (summary, unused_bytes) = self.database().read_anew(
            |conn| Budget::limit(conn, path),
            |conn, budget| {
                self.check_content(conn, &budget, &mut findings)?;
                Ok((summary::read(conn, 0)?, unused(conn, &mut findings)?))
            },
        )?;
        let backups = self.check_backups(&mut findings)?;
        let wal = self.write_ahead_log();
        wal.trouble().into_iter().for_each(|message| findings.note("wal", message));
        let disk_free_bytes =
            disk::check(self.state_dir(), summary.database_bytes, summary.last_run.as_ref(), &mut findings);
        let counts = summary.counts;
        let facts = CheckFacts {
            schema_version: summary.schema_version,
            database_bytes: summary.database_bytes,
            unused_bytes,
            wal_bytes: wal.bytes,
            disk_free_bytes,
            conversations: counts.conversations,
            messages: counts.messages,
            tasks: counts.tasks,
            agents: counts.agents,
            projects: counts.projects,
            set_aside: counts.set_aside,
            backups: backups.len() as u64,
            newest_backup: backups.into_iter().next().map(|backup| backup.id),
            checkpointed_at: summary.last_checkpoint.map(|checkpoint| checkpoint.checkpointed_at),
        };
        let Findings { problems, notes } = findings;
        Ok(CheckReport { ok: problems.is_empty(), problems, notes, facts })
    }

    /// Checks what is in the database, part by part. What SQLite cannot read makes the parts after it fail, and is a problem by
    /// then; that the disk fails is an error.
    fn check_content(&self, conn: &Connection, budget: &Budget, findings: &mut Findings) -> Result<()> {
        type Part<'p> = &'p dyn Fn(&mut Findings) -> Result<()>;
        match integrity(conn, budget, None) {
            Ok(problems) => problems.into_iter().for_each(|problem| findings.problem("integrity", problem)),
            // The rest can be checked all the same.
            Err(error @ Error::OwnObject { .. }) => findings.problem("schema", error.to_string()),
            Err(error) => return Err(error),
        }
        let foreign_keys = |findings: &mut Findings| foreign_keys(conn, findings);
        let rows = |findings: &mut Findings| {
            for problem in unreadable(conn)? {
                findings.problem("unreadable", problem);
            }
            Ok(())
        };
        let own_schema = |findings: &mut Findings| {
            for difference in schema_differences(conn, self.database().path())? {
                findings.problem("schema", difference);
            }
            Ok(())
        };
        let invariants = |findings: &mut Findings| {
            for problem in broken_invariants(conn)? {
                findings.problem("invariant", problem);
            }
            half_set(conn, findings)
        };
        let contradictions = |findings: &mut Findings| contradictions(conn, findings);
        let references = |findings: &mut Findings| dangling_references(conn, findings);
        let quarantined = |findings: &mut Findings| self.check_set_aside(conn, findings);
        let export = |findings: &mut Findings| self.check_export(conn, findings);
        let parts: [(&str, Part<'_>); 8] = [
            ("foreign keys", &foreign_keys),
            ("rows", &rows),
            ("the schema", &own_schema),
            ("invariants", &invariants),
            ("contradictions", &contradictions),
            ("references", &references),
            ("quarantined records", &quarantined),
            ("the export", &export),
        ];
        for (name, part) in parts {
            budget.renew();
            match part(findings) {
                Ok(()) => {}
                Err(error) if is_interrupted(&error) => findings.problem(
                    "integrity",
                    format!("gave up on {name} after far more work than a sound database of this size takes"),
                ),
                Err(Error::Sqlite { source, .. }) if !is_read_failure(&source) => {
                    findings.problem("unreadable", format!("{name}: {source}"));
                }
                Err(error) => return Err(error),
            }
        }
        budget.renew();
        Ok(())
    }

    fn check_set_aside(&self, conn: &Connection, findings: &mut Findings) -> Result<()> {
        let (records, bytes) = set_aside::size(conn)?;
        if records > 0 {
            findings
                .note("set_aside", format!("imports could not read {records} records; the table set_aside keeps them"));
        }
        let limit = self.options().limits.set_aside_bytes;
        if bytes > limit / 10 * 9 {
            let message = format!(
                "the table set_aside holds {bytes} of {limit} bytes; beyond that the oldest go, after a backup"
            );
            findings.note("set_aside", message);
        }
        Ok(())
    }

    fn check_export(&self, conn: &Connection, findings: &mut Findings) -> Result<()> {
        let is_there = self.state_dir().join(EXPORT_FILE).exists();
        if checkpoint::last_export(conn)?.is_none() {
            return Ok(());
        }
        if !is_there {
            findings.note("export", format!("{EXPORT_FILE} is gone; the next checkpoint writes it again"));
        } else if checkpoint::export_is_behind(conn)? {
            findings.note("export", format!("{EXPORT_FILE} is older than the last checkpoint"));
        } else if let Some(at) = export_checkpoint(&self.state_dir().join(EXPORT_FILE))
            && checkpoint::last(conn)?.and_then(|last| last.checkpointed_at.parse()).is_some_and(|last| last < at)
        {
            findings.problem(
                "export",
                format!(
                    "{EXPORT_FILE} tells of a checkpoint at {}, which the database does not know: it has lost what came after its \
                     own last one, or another program wrote the file",
                    Timestamp::from(at).as_str()
                ),
            );
        }
        Ok(())
    }

    /// The backups, newest first.
    fn check_backups(&self, findings: &mut Findings) -> Result<Vec<Backup>> {
        let backups = match self.list_backups() {
            Ok(backups) => backups,
            Err(error) => {
                findings.problem("backup", error.to_string());
                return Ok(Vec::new());
            }
        };
        if backups.is_empty() {
            findings.note("backup", "there is no backup".into());
        }
        for backup in &backups {
            let verdicts = match self.verify_backups(Some(&backup.id)) {
                // Somebody has removed it meanwhile.
                Err(Error::NotFound { .. }) => continue,
                verdicts => verdicts?,
            };
            let Some(verdict) = verdicts.into_iter().find(|verdict| !verdict.ok) else { break };
            let message = format!("backup {} cannot be trusted: {}", verdict.id, verdict.problems.join("; "));
            // What somebody else wrote in place of the export need not be a state.
            let is_kept_export = backup.is_document() && KEPT_EXPORT_LABELS.contains(&backup.label.as_str());
            if backup.label != SAFETY_LABEL && !is_kept_export {
                findings.problem("backup", message);
                break;
            }
            // What was gone back from may be of a newer release, or have been damaged.
            findings.note("backup", message);
        }
        Ok(backups)
    }
}

/// When the checkpoint was made that an export holds; `None` where it cannot be read, which is no fault of the database.
fn export_checkpoint(path: &Path) -> Option<DateTime<Utc>> {
    // A link to our database: to open and close it here would drop this process's locks on it.
    if is_open_file(FileId::of(&fs::metadata(path).ok()?)) {
        return None;
    }
    let file = BufReader::with_capacity(64 * 1024, open_file(path).ok()?);
    checkpointed_at(file, &path.display().to_string()).ok()?.parse()
}

#[derive(Default)]
struct Findings {
    problems: Vec<CheckFinding>,
    notes: Vec<CheckFinding>,
}

impl Findings {
    fn problem(&mut self, kind: &'static str, message: String) {
        self.problems.push(CheckFinding { kind, message });
    }

    fn note(&mut self, kind: &'static str, message: String) {
        self.notes.push(CheckFinding { kind, message });
    }
}

fn foreign_keys(conn: &Connection, findings: &mut Findings) -> Result<()> {
    for (table, number) in broken_references(conn)? {
        findings.problem("foreign_key", format!("{number} rows of {table} belong to nothing"));
    }
    Ok(())
}

/// Reads every entity, one at a time.
///
/// # Errors
/// [`Error::InvalidRow`] where one cannot be read.
pub(crate) fn read_each(conn: &Connection) -> Result<()> {
    KINDS.iter().try_for_each(|read| read(conn))
}

/// The first row of each kind that cannot be read.
fn unreadable(conn: &Connection) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for read in KINDS {
        match read(conn) {
            Ok(()) => {}
            Err(error @ Error::InvalidRow { .. }) => found.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Reads all entities of one kind, of which no more than one is in memory.
const KINDS: [fn(&Connection) -> Result<()>; 6] = [
    |conn| head::read(conn).map(drop),
    |conn| conversation::read(conn, IN_ORDER, [], |_| Ok(())),
    |conn| task::read(conn, IN_ORDER, [], |_| Ok(())),
    |conn| agent::read(conn, IN_ORDER, [], |_| Ok(())),
    |conn| project::read(conn, IN_ORDER, [], |_| Ok(())),
    |conn| self_improvement::read(conn).map(drop),
];

/// What is not as it always is in a state, whoever wrote it.
pub(crate) fn broken_invariants(conn: &Connection) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let is = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, bool>(0));
    if is("SELECT count(*) > 1 FROM runs WHERE outcome IS NULL")? {
        broken.push("several runs have not ended; only one can go on".to_owned());
    }
    if is(
        "SELECT (EXISTS (SELECT 1 FROM tasks) OR EXISTS (SELECT 1 FROM conversations)) AND NOT EXISTS (SELECT 1 FROM state)",
    )? {
        broken.push("there are tasks or conversations, but no row in the table state".to_owned());
    }
    for (table, owner) in LISTS {
        let sql = format!(
            "SELECT count(*) FROM (SELECT 1 FROM {table} GROUP BY {owner} HAVING max(position) + 1 <> count(*) OR min(position) <> 0)"
        );
        let lists: u64 = conn.query_row(&sql, [], |row| row.get(0))?;
        if lists > 0 {
            broken.push(format!("{lists} lists in {table} lack an item: their positions have gaps"));
        }
    }
    Ok(broken)
}

/// Columns that are set together or not at all: one object of the document.
pub(crate) struct Group {
    pub(crate) table: &'static str,
    pub(crate) key: &'static str,
    /// Its name in the document.
    pub(crate) name: &'static str,
    /// Where one of these is NULL, the document has no such object.
    pub(crate) required: &'static [&'static str],
    pub(crate) optional: &'static [&'static str],
}

impl Group {
    pub(crate) fn columns(&self) -> impl Iterator<Item = &'static str> {
        self.required.iter().chain(self.optional).copied()
    }

    /// Selects from the rows in which only a part is set, so that it would vanish from an export.
    pub(crate) fn half_set_sql(&self, what: &str) -> String {
        let is_set: Vec<_> = self.columns().map(|column| format!("{column} IS NOT NULL")).collect();
        let is_missing: Vec<_> = self.required.iter().map(|column| format!("{column} IS NULL")).collect();
        format!("SELECT {what} FROM {} WHERE ({}) AND ({})", self.table, is_set.join(" OR "), is_missing.join(" OR "))
    }
}

pub(crate) const GROUPS: &[Group] = &[
    Group {
        table: "conversations",
        key: "id",
        name: "slackContext",
        required: &["slack_channel_id", "slack_thread_ts"],
        optional: &["slack_extra"],
    },
    Group {
        table: "agents",
        key: "session_name",
        name: "lastActivity",
        required: &["last_activity_type", "last_activity_timestamp"],
        optional: &["last_activity_description", "last_activity_extra"],
    },
    Group {
        table: "projects",
        key: "id",
        name: "gitState",
        required: &["git_branch", "git_last_commit"],
        optional: &["git_has_uncommitted_changes", "git_extra"],
    },
    Group {
        table: "projects",
        key: "id",
        name: "buildState",
        required: &["build_last_status"],
        optional: &["build_last_at", "build_tests_pass", "build_extra"],
    },
    Group {
        table: "self_improvement",
        key: "singleton",
        name: "currentTask",
        required: &["task_id", "task_description", "task_status"],
        optional: &["task_extra"],
    },
    Group {
        table: "self_improvement",
        key: "singleton",
        name: "backup",
        required: &["backup_id", "backup_created_at"],
        optional: &["backup_git_commit", "backup_extra"],
    },
];

/// Notes what vanishes from exports, as a part of it is missing.
fn half_set(conn: &Connection, findings: &mut Findings) -> Result<()> {
    for group in GROUPS {
        let rows: u64 = conn.query_row(&group.half_set_sql("count(*)"), [], |row| row.get(0))?;
        if rows > 0 {
            let required = group.required.join(" and ");
            let message = format!(
                "{rows} rows of {} have a part of {}, which is left out while {required} are not set",
                group.table, group.name
            );
            findings.note("invariant", message);
        }
    }
    Ok(())
}

fn contradictions(conn: &Connection, findings: &mut Findings) -> Result<()> {
    let contradictions: u64 = conn.query_row("SELECT count(*) FROM contradictions", [], |row| row.get(0))?;
    if contradictions > 0 {
        let message =
            format!("two places say different things in {contradictions} cases; the view contradictions names them");
        findings.note("contradiction", message);
    }
    Ok(())
}

/// Lists that are numbered from 0, and what names one of them.
const LISTS: &[(&str, &str)] = &[
    ("task_steps", "task_id, kind"),
    ("task_blockers", "task_id"),
    ("task_dependencies", "task_id, relation"),
    ("task_checkpoint_files", "task_id"),
    ("task_checkpoint_actions", "task_id"),
    ("project_tasks", "project_id"),
    ("project_agents", "project_id"),
];

/// Bytes of the database that hold nothing.
fn unused(conn: &Connection, findings: &mut Findings) -> Result<u64> {
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let (free, pages, size) = (pragma("freelist_count")?, pragma("page_count")?, pragma("page_size")?);
    if free * 4 > pages && free * size > 1024 * 1024 {
        let message =
            format!("{} of {} bytes hold nothing; `agentmux-state prune` gives them back", free * size, pages * size);
        findings.note("space", message);
    }
    if pragma("auto_vacuum")? == 0 {
        let message =
            "another program has written this database; `agentmux-state prune` once makes space go back by itself";
        findings.note("space", message.into());
    }
    Ok(free * size)
}

fn dangling_references(conn: &Connection, findings: &mut Findings) -> Result<()> {
    let mut select = conn.prepare("SELECT kind, id, missing_kind, missing_id FROM dangling_references")?;
    let mut rows = select.query([])?;
    let mut found = 0;
    while let Some(row) = rows.next()? {
        found += 1;
        if found <= MOST {
            let part = |column| row.get::<_, String>(column);
            let message = format!("{} {} names {} {}, which is gone", part(0)?, part(1)?, part(2)?, part(3)?);
            findings.note("dangling_reference", message);
        }
    }
    if found > MOST {
        findings.note("dangling_reference", format!("{} more references to what is gone", found - MOST));
    }
    Ok(())
}
