//! `list`

use agentmux_state::{AgentState, ConversationState, Error, ListFilter, ProjectState, TaskState};
use chrono::{DateTime, Utc};
use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment};
use serde::Serialize;

use super::context::{Context, Ending, Failure, Outcome};
use super::filter::Filter;
use super::{print, time};

/// List conversations, tasks, agents or projects, a line each
#[derive(clap::Args)]
pub(super) struct List {
    #[arg(value_enum)]
    kind: ListKind,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum ListKind {
    Conversations,
    Tasks,
    Agents,
    Projects,
}

impl List {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let store = context.read()?;
        let filter = &ListFilter::from(self.filter);
        let printed = match self.kind {
            ListKind::Conversations => store.conversations(filter).map(|it| print_list(context, &it)),
            ListKind::Tasks => store.tasks(filter).map(|it| print_list(context, &it)),
            ListKind::Agents => store.agents(filter).map(|it| print_list(context, &it)),
            ListKind::Projects => store.projects(filter).map(|it| print_list(context, &it)),
        };
        match printed {
            Err(Error::InvalidValue { record, detail }) => Err(Failure::Usage(format!("{record} {detail}"))),
            printed => printed?,
        }
    }
}

/// A line of a table for people.
trait Line {
    const HEADER: &'static [&'static str];
    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell>;
}

fn print_list<T: Line + Serialize>(context: &Context, entities: &[T]) -> Outcome {
    context.show(&entities, || {
        let mut table = print::table(T::HEADER);
        let now = time::now();
        for entity in entities {
            table.add_row(entity.cells(now));
        }
        print::table_text(&mut table)
    })?;
    Ok(Ending::Complete)
}

impl Line for ConversationState {
    const HEADER: &'static [&'static str] = &["ID", "SOURCE", "MESSAGES", "LAST ACTIVITY", "TOPIC"];

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            print::cell(&self.id),
            print::cell(self.source.as_str()),
            number(self.recent_messages.len()),
            print::cell(&print::ago(&self.last_activity_at, now)),
            print::cell(self.current_topic.as_deref().unwrap_or_default()),
        ]
    }
}

impl Line for TaskState {
    const HEADER: &'static [&'static str] = &["ID", "STATUS", "PRIORITY", "PROGRESS", "ASSIGNED TO", "TITLE"];

    fn cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        vec![
            print::cell(&self.id),
            print::status_cell(self.status.as_str()),
            print::cell(self.priority.as_str()),
            print::cell(&print::progress(self.progress.percent_complete)),
            print::cell(self.assigned_to.as_deref().unwrap_or_default()),
            print::cell(&self.title),
        ]
    }
}

impl Line for AgentState {
    const HEADER: &'static [&'static str] = &["SESSION", "ROLE", "STATUS", "TASK", "LAST ACTIVITY"];

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        let activity = self.last_activity.as_ref();
        let activity = activity.map(|it| format!("{}, {}", it.activity_type, print::ago(&it.timestamp, now)));
        vec![
            print::cell(&self.session_name),
            print::cell(&self.role),
            print::status_cell(self.status.as_str()),
            print::cell(self.current_task_id.as_deref().unwrap_or_default()),
            print::cell(&activity.unwrap_or_default()),
        ]
    }
}

impl Line for ProjectState {
    const HEADER: &'static [&'static str] = &["ID", "STATUS", "NAME", "BRANCH", "TASKS", "AGENTS", "PATH"];

    fn cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        vec![
            print::cell(&self.id),
            print::status_cell(self.status.as_str()),
            print::cell(&self.name),
            print::cell(self.git_state.as_ref().map_or("", |git| &git.branch)),
            number(self.active_tasks.len()),
            number(self.active_agents.len()),
            print::cell(&self.path),
        ]
    }
}

fn number(number: usize) -> Cell {
    Cell::new(number).set_alignment(CellAlignment::Right)
}
