//! Lists of entities: which ones a filter names, and completing an id.

use chrono::{DateTime, Utc};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::{StateStore, agent, conversation, project, task};
use crate::db::time::{has_activity, unix_time};
use crate::error::{Error, Result};
use crate::model::{AgentState, ConversationState, ProjectState, TaskState};

/// Which entities a list holds: those of which all that is set is true.
///
/// Conversations know only `since` and `limit`, projects no `since`.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Those in this status.
    pub status: Option<String>,
    /// Tasks and agents of this project, or the project with this id.
    pub project: Option<String>,
    /// Tasks that are assigned to this agent, projects that it works on, or the agent with this session name.
    pub agent: Option<String>,
    /// Those in which something happened at this moment or later; tasks without any activity by their start or creation.
    pub since: Option<DateTime<Utc>>,
    /// At most so many.
    pub limit: Option<u32>,
}

/// A kind of entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntityKind {
    /// A conversation, by its id.
    Conversation,
    /// A task, by its id.
    Task,
    /// An agent, by the name of its session.
    Agent,
    /// A project, by its id.
    Project,
}

/// The conditions that a kind of entity has for what a filter sets.
struct Conditions {
    kind: &'static str,
    status: Option<&'static str>,
    project: Option<&'static str>,
    agent: Option<&'static str>,
    since: Option<&'static str>,
}

const CONVERSATIONS: Conditions = Conditions {
    kind: "conversations",
    status: None,
    project: None,
    agent: None,
    since: Some(concat!(has_activity!(), " AND unixepoch(last_activity_at) >= ?")),
};
const TASKS: Conditions = Conditions {
    kind: "tasks",
    status: Some("status = ?"),
    project: Some("project_id = ?"),
    agent: Some("assigned_to = ?"),
    since: Some(concat!(
        "coalesce(",
        unix_time!("last_activity_at"),
        ", ",
        unix_time!("started_at"),
        ", ",
        unix_time!("created_at"),
        ") >= ?"
    )),
};
const AGENTS: Conditions = Conditions {
    kind: "agents",
    status: Some("status = ?"),
    project: Some("session_name IN (SELECT session_name FROM project_agents WHERE project_id = ?)"),
    agent: Some("session_name = ?"),
    since: Some(concat!(unix_time!("last_activity_timestamp"), " >= ?")),
};
const PROJECTS: Conditions = Conditions {
    kind: "projects",
    status: Some("status = ?"),
    project: Some("id = ?"),
    agent: Some("id IN (SELECT project_id FROM project_agents WHERE session_name = ?)"),
    since: None,
};

impl ListFilter {
    /// What follows `FROM` and the table, and its parameters.
    fn select(&self, conditions: &Conditions) -> Result<(String, Vec<Value>)> {
        let text = |value: &Option<String>| value.clone().map(Value::Text);
        let since = self.since.map(|since| Value::Integer(since.timestamp()));
        let mut wanted = Vec::new();
        let mut parameters = Vec::new();
        for (name, condition, value) in [
            ("status", conditions.status, text(&self.status)),
            ("project", conditions.project, text(&self.project)),
            ("agent", conditions.agent, text(&self.agent)),
            ("since", conditions.since, since),
        ] {
            let Some(value) = value else { continue };
            let Some(condition) = condition else {
                let record = format!("a list of {}", conditions.kind);
                return Err(Error::InvalidValue { record, detail: format!("cannot be limited by {name}") });
            };
            wanted.push(condition);
            parameters.push(value);
        }
        parameters.push(Value::Integer(self.limit.map_or(-1, i64::from)));
        let wanted = if wanted.is_empty() { String::new() } else { format!("WHERE {} ", wanted.join(" AND ")) };
        Ok((format!("{wanted}ORDER BY position LIMIT ?"), parameters))
    }
}

impl StateStore {
    /// Conversations in the order of the document.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] where the filter sets what conversations do not have; so for the lists that follow.
    pub fn conversations(&self, filter: &ListFilter) -> Result<Vec<ConversationState>> {
        self.list(filter, &CONVERSATIONS, |conn, select, parameters, each| {
            conversation::read(conn, select, parameters, each)
        })
    }

    /// The conversations in which something happened last, the newest first; those without a readable time come last.
    pub fn recent_conversations(&self, limit: u32) -> Result<Vec<ConversationState>> {
        let newest = concat!("ORDER BY ", unix_time!("last_activity_at"), " DESC NULLS LAST, position LIMIT ?1");
        let mut found = Vec::new();
        self.read(|conn| {
            conversation::read(conn, newest, [limit], |conversation| {
                found.push(conversation);
                Ok(())
            })
        })?;
        Ok(found)
    }

    /// Tasks in the order of the document.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// store.update_task(&TaskState { id: "T-1".into(), assigned_to: Some("dev-1".into()), ..Default::default() })?;
    /// let filter = ListFilter { agent: Some("dev-1".into()), ..ListFilter::default() };
    /// assert_eq!(store.tasks(&filter)?.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn tasks(&self, filter: &ListFilter) -> Result<Vec<TaskState>> {
        self.list(filter, &TASKS, |conn, select, parameters, each| task::read(conn, select, parameters, each))
    }

    /// Agents in the order of the document.
    pub fn agents(&self, filter: &ListFilter) -> Result<Vec<AgentState>> {
        self.list(filter, &AGENTS, |conn, select, parameters, each| agent::read(conn, select, parameters, each))
    }

    /// Projects in the order of the document.
    pub fn projects(&self, filter: &ListFilter) -> Result<Vec<ProjectState>> {
        self.list(filter, &PROJECTS, |conn, select, parameters, each| project::read(conn, select, parameters, each))
    }

    /// The ids, or session names, that begin with a text, in order.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// store.update_task(&TaskState { id: "T-1".into(), ..Default::default() })?;
    /// assert_eq!(store.ids(EntityKind::Task, "T-", 10)?, ["T-1"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn ids(&self, kind: EntityKind, prefix: &str, limit: u32) -> Result<Vec<String>> {
        let (table, key) = match kind {
            EntityKind::Conversation => ("conversations", "id"),
            EntityKind::Task => ("tasks", "id"),
            EntityKind::Agent => ("agents", "session_name"),
            EntityKind::Project => ("projects", "id"),
        };
        // From the text on, as long as it is the beginning: the index on the key gives them in order.
        let sql = format!(
            "SELECT {key} FROM {table} WHERE {key} >= ?1 AND substr({key}, 1, length(?1)) = ?1 ORDER BY {key} LIMIT ?2"
        );
        self.read(|conn| {
            let mut select = conn.prepare_cached(&sql)?;
            let rows = select.query_map((prefix, limit), |row| row.get(0))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    fn list<T>(
        &self,
        filter: &ListFilter,
        conditions: &Conditions,
        read: impl FnOnce(
            &Connection,
            &str,
            rusqlite::ParamsFromIter<Vec<Value>>,
            &mut dyn FnMut(T) -> Result<()>,
        ) -> Result<()>,
    ) -> Result<Vec<T>> {
        let (select, parameters) = filter.select(conditions)?;
        let mut found = Vec::new();
        self.read(|conn| {
            read(conn, &select, params_from_iter(parameters), &mut |entity| {
                found.push(entity);
                Ok(())
            })
        })?;
        Ok(found)
    }
}
