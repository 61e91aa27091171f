//! `graph`

use std::collections::{BTreeMap, HashMap, HashSet};

use agentmux_state::{ListFilter, StateStore, TaskState};

use super::{Context, Ending, GraphFormat, Outcome, print, report};

pub(super) fn run(context: &Context, format: GraphFormat, filter: &ListFilter) -> Outcome {
    let graph = Graph::new(&context.read()?, filter)?;
    let text = match format {
        GraphFormat::Mermaid => graph.mermaid(),
        GraphFormat::Dot => graph.dot(),
    };
    // A picture is a text of its own; in JSON it is a string.
    context.show(&text, || text.clone())?;
    Ok(Ending::Complete)
}

/// Tasks and which of them waits for which.
pub(super) struct Graph {
    nodes: Vec<Node>,
    /// From the task that is waited for to the one that waits, by their places among the nodes.
    edges: Vec<(usize, usize)>,
}

struct Node {
    id: String,
    title: String,
    /// `gone` where a task is waited for that is not there.
    status: String,
    percent: f64,
}

impl Graph {
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

    /// As a drawing, in columns from what is waited for to what waits; `None` where nothing waits.
    pub(super) fn svg(&self, most: usize) -> Option<String> {
        const WIDTH: usize = 190;
        const HEIGHT: usize = 34;
        const GAP: (usize, usize) = (60, 12);
        const COLUMNS: usize = 12;
        let edges: Vec<_> = self.edges.iter().filter(|(from, to)| from != to).take(most).collect();
        if edges.is_empty() {
            return None;
        }
        // A task stands in the column after the last one that it waits for; circles and long chains end in the last column.
        let mut columns: BTreeMap<usize, usize> = edges.iter().flat_map(|(from, to)| [(*from, 0), (*to, 0)]).collect();
        for _ in 0..COLUMNS {
            for (from, to) in &edges {
                let column = (columns[from] + 1).min(COLUMNS - 1);
                if columns[to] < column {
                    columns.insert(*to, column);
                }
            }
        }
        let mut rows: HashMap<usize, usize> = HashMap::new();
        let mut places: HashMap<usize, (usize, usize)> = HashMap::new();
        for (node, column) in &columns {
            let row = rows.entry(*column).or_default();
            places.insert(*node, (column * (WIDTH + GAP.0) + 4, *row * (HEIGHT + GAP.1) + 4));
            *row += 1;
        }
        let width = columns.values().max().unwrap_or(&0) * (WIDTH + GAP.0) + WIDTH + 8;
        let height = rows.values().max().unwrap_or(&1) * (HEIGHT + GAP.1) + 8;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" role=\"img\" aria-label=\"tasks that wait\">"
        );
        for (from, to) in &edges {
            let ((x1, y1), (x2, y2)) = (places[from], places[to]);
            let (x1, y1, y2) = (x1 + WIDTH, y1 + HEIGHT / 2, y2 + HEIGHT / 2);
            let bend = GAP.0 / 2;
            svg += &format!(
                "<path class=\"edge\" d=\"M{x1} {y1} C{} {y1} {} {y2} {x2} {y2} m-6 -4 l6 4 l-6 4\"/>",
                x1 + bend,
                x2.saturating_sub(bend)
            );
        }
        for (node, (x, y)) in places {
            let Node { id, title, status, .. } = &self.nodes[node];
            let label: String = format!("{id} {title}").chars().take(26).collect();
            svg += &format!(
                "<g><title>{}: {} ({})</title><rect class=\"node {}\" x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>\
                 <text x=\"{}\" y=\"{}\">{}</text></g>",
                report::escape(id),
                report::escape(title),
                report::escape(status),
                report::class(status),
                x + 8,
                y + 21,
                report::escape(&label)
            );
        }
        let hidden = self.edges.len().saturating_sub(edges.len());
        let more = if hidden > 0 { format!("<p class=\"dim\">and {hidden} more</p>") } else { String::new() };
        Some(format!("{svg}</svg>{more}"))
    }

    fn mermaid(&self) -> String {
        let mut text = "flowchart LR\n".to_owned();
        for (place, node) in self.nodes.iter().enumerate() {
            let label = node.label(mermaid_text, "<br/>");
            text.push_str(&format!("  t{place}[\"{label}\"]:::{}\n", class(&node.status)));
        }
        for (from, to) in &self.edges {
            text.push_str(&format!("  t{from} --> t{to}\n"));
        }
        for (class, fill, stroke) in COLORS {
            text.push_str(&format!("  classDef {class} fill:{fill},stroke:{stroke},color:#111\n"));
        }
        text
    }

    fn dot(&self) -> String {
        let mut text =
            "digraph tasks {\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\"];\n"
                .to_owned();
        for (place, node) in self.nodes.iter().enumerate() {
            let label = node.label(dot_text, "\\n");
            let (_, fill, stroke) = COLORS.iter().find(|(name, ..)| *name == class(&node.status)).unwrap_or(&COLORS[0]);
            text.push_str(&format!("  t{place} [label=\"{label}\", fillcolor=\"{fill}\", color=\"{stroke}\"];\n"));
        }
        for (from, to) in &self.edges {
            text.push_str(&format!("  t{from} -> t{to};\n"));
        }
        text.push_str("}\n");
        text
    }
}

impl Node {
    fn label(&self, escape: impl Fn(&str) -> String, line: &str) -> String {
        const LONGEST: usize = 60;
        let mut title: String = print::clean(&self.title).chars().take(LONGEST).collect();
        if self.title.chars().count() > LONGEST {
            title.push('…');
        }
        let progress = match self.status.as_str() {
            "in_progress" | "paused" | "blocked" => {
                format!("{} {:.0}%", self.status, self.percent.clamp(0.0, 100.0).floor())
            }
            status => print::clean(status),
        };
        let lines = [print::clean(&self.id), title, progress];
        let lines: Vec<_> = lines.iter().filter(|line| !line.is_empty()).map(|line| escape(line)).collect();
        lines.join(line)
    }
}

/// Classes of tasks by their status, each with the colours of its surface and its border.
const COLORS: [(&str, &str, &str); 7] = [
    ("other", "#eeeeee", "#777777"),
    ("pending", "#f4f4f4", "#999999"),
    ("in_progress", "#cfe8ff", "#1769aa"),
    ("blocked", "#ffd6d6", "#b00020"),
    ("paused", "#fff1c2", "#a07400"),
    ("completed", "#d7f0d7", "#2e7d32"),
    ("gone", "#ffffff", "#b00020"),
];

fn class(status: &str) -> &'static str {
    COLORS.iter().map(|(class, ..)| *class).find(|class| *class == status).unwrap_or("other")
}

/// Mermaid takes a label for HTML and for Markdown: everything that is neither letter, digit nor blank by its number.
fn mermaid_text(text: &str) -> String {
    let escape = |c: char| match c {
        c if c.is_alphanumeric() || matches!(c, ' ' | '.' | ',' | '%' | '_' | '-' | '…') => c.to_string(),
        c => format!("#{};", c as u32),
    };
    text.chars().map(escape).collect()
}

fn dot_text(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('&', "&amp;")
}
