//! Agents.

use rusqlite::{Connection, Params};

use crate::db::{RowReader, Table, optional_text, text, unknown_keys};
use crate::error::Result;
use crate::model::{AgentActivity, AgentState};

pub(super) static TABLE: Table = Table::new(
    "agents",
    &[
        "session_name",
        "agent_id",
        "role",
        "status",
        "current_task_id",
        "current_project_path",
        "context_summary",
        "last_activity_type",
        "last_activity_timestamp",
        "last_activity_description",
        "last_activity_extra",
        "extra",
    ],
);

/// Writes an agent, new or known.
pub(crate) fn write(conn: &Connection, agent: &AgentState) -> Result<()> {
    let AgentState {
        session_name,
        agent_id,
        role,
        status,
        current_task_id,
        current_project_path,
        context_summary,
        last_activity: activity,
        extra,
    } = agent;
    TABLE.write(
        conn,
        &[
            text(session_name),
            text(agent_id),
            text(role),
            text(status.as_str()),
            optional_text(current_task_id.as_deref()),
            optional_text(current_project_path.as_deref()),
            optional_text(context_summary.as_deref()),
            optional_text(activity.as_ref().map(|activity| activity.activity_type.as_str())),
            optional_text(activity.as_ref().map(|activity| activity.timestamp.as_str())),
            optional_text(activity.as_ref().and_then(|activity| activity.description.as_deref())),
            unknown_keys(activity.as_ref().map(|activity| &activity.extra))?,
            unknown_keys(extra)?,
        ],
    )
}

/// Reads the agents that the rest of a SELECT names, in its order.
pub(crate) fn read(
    conn: &Connection,
    condition: &str,
    parameters: impl Params,
    mut each: impl FnMut(AgentState) -> Result<()>,
) -> Result<()> {
    TABLE.read(conn, condition, parameters, |mut row| {
        each(AgentState {
            session_name: row.get()?,
            agent_id: row.get()?,
            role: row.get()?,
            status: row.text()?,
            current_task_id: row.get()?,
            current_project_path: row.get()?,
            context_summary: row.get()?,
            last_activity: last_activity(&mut row)?,
            extra: row.extra()?,
        })
    })
}

fn last_activity(row: &mut RowReader<'_>) -> Result<Option<AgentActivity>> {
    let (activity_type, timestamp) = (row.get()?, row.optional_text()?);
    let (description, extra) = (row.get()?, row.extra()?);
    Ok(match (activity_type, timestamp) {
        (Some(activity_type), Some(timestamp)) => Some(AgentActivity { activity_type, timestamp, description, extra }),
        _ => None,
    })
}
