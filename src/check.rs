//! Whether everything is as it should be. Reports facts, changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;
use serde::Serialize;

use crate::backup::SAFETY_LABEL;
use crate::db::schema_differences;
use crate::directory::{BACKUP_DIRECTORY, DATABASE_FILE, EXPORT_FILE};
use crate::error::Result;
use crate::store::{self, StateStore, checkpoint};

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
}

/// Something that a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckFinding {
    /// What kind of thing it is: `integrity`, `foreign_key`, `unreadable`, `schema`, `dangling_reference`, `set_aside`,
    /// `export`, `backup`, `wal` or `permissions`.
    pub kind: &'static str,
    /// What it is, and on which file or record.
    pub message: String,
}

/// How many findings of one kind are told one by one.
const MOST: usize = 100;

impl StateStore {
    /// Checks the database's integrity, its references, that every row can be read, its schema, the export, the newest
    /// backup and the permissions; and notes references to entities that are gone and records set aside. Changes nothing.
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
    pub fn check(&self) -> Result<CheckReport> {
        let mut findings = Findings::default();
        self.read(|conn| {
            integrity(conn, &mut findings)?;
            // Rows that cannot be read are a finding; that SQLite cannot read them was found above.
            if let Err(error) = store::read_state(conn, self.now()) {
                findings.problem("unreadable", error.to_string());
            }
            for difference in schema_differences(conn, self.database().path())? {
                findings.problem("schema", difference);
            }
            dangling_references(conn, &mut findings)?;
            let set_aside = store::counts(conn)?.set_aside;
            if set_aside > 0 {
                let message = format!("imports could not read {set_aside} records; the table set_aside keeps them");
                findings.note("set_aside", message);
            }
            self.check_export(conn, &mut findings)
        })?;
        self.check_backups(&mut findings)?;
        self.write_ahead_log().trouble().into_iter().for_each(|message| findings.note("wal", message));
        permissions(self.state_dir(), &mut findings);
        let Findings { problems, notes } = findings;
        Ok(CheckReport { ok: problems.is_empty(), problems, notes })
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
        }
        Ok(())
    }

    fn check_backups(&self, findings: &mut Findings) -> Result<()> {
        let backups = self.list_backups()?;
        if backups.is_empty() {
            findings.note("backup", "there is no backup".into());
        }
        for backup in backups {
            let Some(verdict) = self.verify_backups(Some(&backup.id))?.into_iter().find(|verdict| !verdict.ok) else {
                break;
            };
            let message = format!("backup {} cannot be trusted: {}", verdict.id, verdict.problems.join("; "));
            if backup.label != SAFETY_LABEL {
                findings.problem("backup", message);
                break;
            }
            // What was gone back from may be of a newer release, or have been damaged.
            findings.note("backup", message);
        }
        Ok(())
    }
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

fn integrity(conn: &Connection, findings: &mut Findings) -> Result<()> {
    let mut select = conn.prepare(&format!("PRAGMA integrity_check({MOST})"))?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let verdict: String = row.get(0)?;
        if verdict != "ok" {
            findings.problem("integrity", verdict);
        }
    }
    let mut select = conn.prepare("SELECT \"table\", count(*) FROM pragma_foreign_key_check GROUP BY 1")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (table, number): (String, u64) = (row.get(0)?, row.get(1)?);
        findings.problem("foreign_key", format!("{number} rows of {table} belong to nothing"));
    }
    Ok(())
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

fn permissions(state_dir: &Path, findings: &mut Findings) {
    for name in ["", DATABASE_FILE, EXPORT_FILE, BACKUP_DIRECTORY] {
        let path = if name.is_empty() { state_dir.to_path_buf() } else { state_dir.join(name) };
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let message = format!("{} can be reached by others (mode {mode:04o}); `chmod go=` it", path.display());
            findings.problem("permissions", message);
        }
    }
}
