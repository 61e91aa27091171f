//! Agents.

use rusqlite::{Connection, Params};

#[cfg(test)]
use super::entity::unknown;
use super::entity::{Each, Entity, Filters};
use crate::db::time::unix_time;
use crate::db::{RowReader, Table, optional_text, text, unknown_keys};
use crate::error::Result;
use crate::model::{AgentActivity, AgentState, EntityKind, OrchestratorState};

pub(super) static TABLE: Table<AgentState> = Table::new(
    "agents",
    &[
        ("session_name", |agent| text(&agent.session_name)),
        ("agent_id", |agent| text(&agent.agent_id)),
        ("role", |agent| text(&agent.role)),
        ("status", |agent| text(agent.status.as_str())),
        ("current_task_id", |agent| optional_text(agent.current_task_id.as_deref())),
        ("current_project_path", |agent| optional_text(agent.current_project_path.as_deref())),
        ("context_summary", |agent| optional_text(agent.context_summary.as_deref())),
        ("last_activity_type", |agent| optional_text(agent.last_activity.as_ref().map(|it| it.activity_type.as_str()))),
        ("last_activity_timestamp", |agent| {
            optional_text(agent.last_activity.as_ref().map(|it| it.timestamp.as_str()))
        }),
        ("last_activity_description", |agent| {
            optional_text(agent.last_activity.as_ref().and_then(|it| it.description.as_deref()))
        }),
        ("last_activity_extra", |agent| unknown_keys(agent.last_activity.as_ref().map(|it| &it.extra))),
        ("extra", |agent| unknown_keys(&agent.extra)),
    ],
);

impl Entity for AgentState {
    const KIND: EntityKind = EntityKind::Agent;
    const FILTERS: Filters = Filters {
        status: Some("status = ?"),
        project: Some("session_name IN (SELECT session_name FROM project_agents WHERE project_id = ?)"),
        agent: Some("session_name = ?"),
        since: Some(concat!(unix_time!("last_activity_timestamp"), " >= ?")),
        activity: Some(unix_time!("last_activity_timestamp")),
    };

    fn table() -> &'static Table<Self> {
        &TABLE
    }

    fn key(&self) -> &str {
        &self.session_name
    }

    fn write(&self, conn: &Connection) -> Result<()> {
        TABLE.write(conn, self)
    }

    fn read(conn: &Connection, rest: &str, parameters: impl Params, each: Each<'_, Self>) -> Result<()> {
        TABLE.read(conn, rest, parameters, |row| {
            each(Self {
                session_name: row.get("session_name")?,
                agent_id: row.get("agent_id")?,
                role: row.get("role")?,
                status: row.text("status")?,
                current_task_id: row.get("current_task_id")?,
                current_project_path: row.get("current_project_path")?,
                context_summary: row.get("context_summary")?,
                last_activity: last_activity(row)?,
                extra: row.extra("extra")?,
            })
        })
    }

    fn put(entities: Vec<Self>, state: &mut OrchestratorState) {
        state.agents = entities;
    }

    #[cfg(test)]
    fn tables() -> Vec<(&'static str, Vec<&'static str>)> {
        vec![(TABLE.name(), TABLE.columns().collect())]
    }

    #[cfg(test)]
    fn full() -> Self {
        Self {
            session_name: "session".into(),
            agent_id: "agent".into(),
            role: "role".into(),
            status: "status".into(),
            current_task_id: Some("task".into()),
            current_project_path: Some("path".into()),
            context_summary: Some("summary".into()),
            last_activity: Some(AgentActivity {
                activity_type: "type".into(),
                timestamp: "timestamp".into(),
                description: Some("description".into()),
                extra: unknown("activity"),
            }),
            extra: unknown("agent"),
        }
    }
}

fn last_activity(row: &mut RowReader<'_>) -> Result<Option<AgentActivity>> {
    let (activity_type, timestamp) = (row.get("last_activity_type")?, row.optional_text("last_activity_timestamp")?);
    let (description, extra) = (row.get("last_activity_description")?, row.extra("last_activity_extra")?);
    Ok(match (activity_type, timestamp) {
        (Some(activity_type), Some(timestamp)) => Some(AgentActivity { activity_type, timestamp, description, extra }),
        _ => None,
    })
}
