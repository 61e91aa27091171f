//! What is always true of a state, across tables, and what may be but is worth knowing.

use rusqlite::Connection;

use crate::error::Result;

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

/// Number of rows that have only a part of a group's columns.
pub(crate) fn half_set(conn: &Connection, group: &Group) -> Result<u64> {
    Ok(conn.query_row(&group.half_set_sql("count(*)"), [], |row| row.get(0))?)
}

/// Number of rows of the view `contradictions`.
pub(crate) fn contradictions(conn: &Connection) -> Result<u64> {
    Ok(conn.query_row("SELECT count(*) FROM contradictions", [], |row| row.get(0))?)
}

/// Calls a closure for each reference to an entity that does not exist: kind and key of the entity that has it, and those
/// of the missing one.
pub(crate) fn dangling_references(conn: &Connection, mut each: impl FnMut([String; 4])) -> Result<()> {
    let mut select = conn.prepare("SELECT kind, id, missing_kind, missing_id FROM dangling_references")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        each([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]);
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
