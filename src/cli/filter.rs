//! The options by which `list` and `graph` choose entities.

use agentmux_state::ListFilter;
use chrono::{DateTime, Utc};
use clap_complete::engine::ArgValueCandidates;

use super::candidates;
use super::time::moment;

/// Which entities to show.
#[derive(clap::Args)]
pub(super) struct Filter {
    /// Only those in this status, for instance in_progress; conversations have none
    #[arg(long)]
    status: Option<String>,
    /// Only tasks and agents of this project
    #[arg(long, value_name = "ID", add = ArgValueCandidates::new(candidates::projects))]
    project: Option<String>,
    /// Only tasks that are assigned to this agent, or projects that it works on
    #[arg(long, value_name = "SESSION", add = ArgValueCandidates::new(candidates::agents))]
    agent: Option<String>,
    /// Only those in which something happened since: a moment as 2026-11-22T10:00:00Z, or an age as 90min, 2h, 3days
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<DateTime<Utc>>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
}

impl From<Filter> for ListFilter {
    fn from(Filter { status, project, agent, since, limit }: Filter) -> Self {
        let mut filter = Self::default();
        (filter.status, filter.project, filter.agent) = (status, project, agent);
        (filter.since, filter.limit) = (since, limit);
        filter
    }
}
