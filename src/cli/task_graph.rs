//! Tasks and their dependencies, as `graph` and `report` draw them.

use std::collections::{HashMap, HashSet};

use agentmux_state::{ListFilter, StateStore, TaskState};

/// Tasks and which of them waits for which.
pub(super) struct TaskGraph {
    pub(super) nodes: Vec<Node>,
    /// From the task that is waited for to the one that waits, by their places among the nodes.
    pub(super) edges: Vec<(usize, usize)>,
}

pub(super) struct Node {
    pub(super) id: String,
    pub(super) title: String,
    /// `gone` where a task is waited for that is not there.
    pub(super) status: String,
    pub(super) percent: f64,
}

impl TaskGraph {
    pub(super) fn new(store: &StateStore, filter: &ListFilter) -> Result<Self, agentmux_state::Error> {
        let tasks = store.tasks(filter)?;
        let is_whole =
            filter.status.is_none() && filter.project.is_none() && filter.agent.is_none() && filter.since.is_none();
        Ok(Self::of(&tasks, is_whole && filter.limit.is_none()))
    }

    /// Of all tasks there are, or of some: then what is waited for outside them is left out.
    pub(super) fn of(tasks: &[TaskState], is_whole: bool) -> Self {
        let mut nodes: Vec<Node> = tasks
            .iter()
            .map(|task| Node {
                id: task.id.clone(),
                title: task.title.clone(),
                status: task.status.to_string(),
                percent: task.progress.percent_complete,
            })
            .collect();
        let mut places: HashMap<String, usize> =
            nodes.iter().enumerate().map(|(place, node)| (node.id.clone(), place)).collect();
        let mut place = |id: &str, nodes: &mut Vec<Node>| match places.get(id) {
            Some(place) => Some(*place),
            None if is_whole => {
                nodes.push(Node { id: id.to_owned(), title: String::new(), status: "gone".into(), percent: 0.0 });
                places.insert(id.to_owned(), nodes.len() - 1);
                Some(nodes.len() - 1)
            }
            None => None,
        };
        let mut edges = Vec::new();
        let mut seen = HashSet::new();
        for (waiting, task) in tasks.iter().enumerate() {
            for other in task.blocked_by.iter().flatten() {
                edges.extend(place(other, &mut nodes).map(|other| (other, waiting)));
            }
            for other in task.blocks.iter().flatten() {
                edges.extend(place(other, &mut nodes).map(|other| (waiting, other)));
            }
        }
        edges.retain(|edge| seen.insert(*edge));
        Self { nodes, edges }
    }
}
