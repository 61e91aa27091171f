//! Lists of entities: which ones a filter names, in which order, and from where on; and completing a key.

use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use rusqlite::params_from_iter;
use rusqlite::types::Value;

use super::state_store::StateStore;
use crate::error::{Error, Result};
use crate::model::EntityKind;
use crate::rows::{self, Entity, with_entity};

/// Which entities a list holds, in which order, and which part of the list. All conditions that are set have to hold.
///
/// A kind that does not have what a condition asks for is an error: conversations have only `since`, projects no `since`.
///
/// ```
/// use agentmux_state::{ListFilter, ListOrder};
///
/// let newest_ten = ListFilter::default().order(ListOrder::LastActivity).limit(10);
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ListFilter {
    /// Those in this status.
    pub status: Option<String>,
    /// Tasks and agents of this project, or the project with this id.
    pub project: Option<String>,
    /// Tasks that are assigned to this agent, projects that it works on, or the agent with this session name.
    pub agent: Option<String>,
    /// Those whose last activity is at this time or later; for tasks without any activity, their start or creation.
    pub since: Option<DateTime<Utc>>,
    /// The order. That of the document by default.
    pub order: ListOrder,
    /// Number of entities to skip. 0 by default.
    pub offset: u32,
    /// Maximum number of entities. No limit by default.
    pub limit: Option<u32>,
}

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ListOrder {
    /// That of the document.
    #[default]
    Document,
    /// The latest activity first; entities without a readable time come last, in the order of the document.
    LastActivity,
}

impl ListFilter {
    /// Only those in this status.
    pub fn status(mut self, status: impl Into<String>) -> Self {
        self.status = Some(status.into());
        self
    }

    /// Only those of this project.
    pub fn project(mut self, id: impl Into<String>) -> Self {
        self.project = Some(id.into());
        self
    }

    /// Only those of this agent.
    pub fn agent(mut self, session_name: impl Into<String>) -> Self {
        self.agent = Some(session_name.into());
        self
    }

    /// Only those with an activity at this time or later.
    pub fn since(mut self, since: DateTime<Utc>) -> Self {
        self.since = Some(since);
        self
    }

    /// Sets the order.
    pub fn order(mut self, order: ListOrder) -> Self {
        self.order = order;
        self
    }

    /// Skips this many.
    pub fn offset(mut self, offset: u32) -> Self {
        self.offset = offset;
        self
    }

    /// Returns at most this many.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }

    /// What follows `FROM` and the table in a SELECT, and its parameters.
    fn select<E: Entity>(&self) -> Result<(String, Vec<Value>)> {
        let text = |value: &Option<String>| value.clone().map(Value::Text);
        let since = self.since.map(|since| Value::Integer(since.timestamp()));
        let filters = E::FILTERS;
        let invalid = |detail: String| {
            let record = format!("a list of {}", E::KIND.document_key());
            Error::InvalidValue { record, detail }
        };
        let mut wanted = Vec::new();
        let mut parameters = Vec::new();
        for (name, condition, value) in [
            ("status", filters.status, text(&self.status)),
            ("project", filters.project, text(&self.project)),
            ("agent", filters.agent, text(&self.agent)),
            ("since", filters.since, since),
        ] {
            let Some(value) = value else { continue };
            let condition = condition.ok_or_else(|| invalid(format!("cannot be limited by {name}")))?;
            wanted.push(condition);
            parameters.push(value);
        }
        let order = match (self.order, filters.activity) {
            (ListOrder::Document, _) => E::ORDER.to_owned(),
            (ListOrder::LastActivity, Some(activity)) => {
                format!("ORDER BY {activity} DESC NULLS LAST, position")
            }
            (ListOrder::LastActivity, None) => return Err(invalid("cannot be ordered by last activity".into())),
        };
        parameters.push(Value::Integer(self.limit.map_or(-1, i64::from)));
        parameters.push(Value::Integer(self.offset.into()));
        let wanted = if wanted.is_empty() { String::new() } else { format!("WHERE {} ", wanted.join(" AND ")) };
        Ok((format!("{wanted}{order} LIMIT ? OFFSET ?"), parameters))
    }
}

impl StateStore {
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
        self.read(|conn| with_entity!(kind, E => rows::keys::<E>(conn, prefix, limit)))
    }

    pub(super) fn list<E: Entity>(&self, filter: &ListFilter) -> Result<Vec<E>> {
        let mut found = Vec::new();
        self.each(filter, |entity| {
            found.push(entity);
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    pub(super) fn each<E: Entity>(
        &self,
        filter: &ListFilter,
        mut each: impl FnMut(E) -> ControlFlow<()>,
    ) -> Result<()> {
        let (select, parameters) = filter.select::<E>()?;
        self.read(|conn| {
            let mut is_ended = false;
            let read = E::read(conn, &select, params_from_iter(parameters), &mut |entity| match each(entity) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => {
                    is_ended = true;
                    // Any error ends reading; this one is not reported.
                    Err(rusqlite::Error::QueryReturnedNoRows.into())
                }
            });
            if is_ended { Ok(()) } else { read }
        })
    }
}
