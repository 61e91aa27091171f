//! `graph`

use agentmux_state::ListFilter;
use clap::ValueEnum;

use super::context::{Context, Ending, Outcome};
use super::filter::Filter;
use super::print;
use super::task_graph::{Node, TaskGraph};

/// Print the tasks with their dependencies and status as a picture, in the language of Mermaid or of Graphviz
#[derive(clap::Args)]
pub(super) struct Graph {
    /// The language
    #[arg(long, value_enum, default_value_t = GraphFormat::Mermaid)]
    format: GraphFormat,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum GraphFormat {
    Mermaid,
    Dot,
}

impl Graph {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let graph = TaskGraph::new(&context.read()?, &ListFilter::from(self.filter))?;
        let text = match self.format {
            GraphFormat::Mermaid => mermaid(&graph),
            GraphFormat::Dot => dot(&graph),
        };
        // A picture is a text of its own; in JSON it is a string.
        context.show(&text, || text.clone())?;
        Ok(Ending::Complete)
    }
}

fn mermaid(graph: &TaskGraph) -> String {
    let mut text = "flowchart LR\n".to_owned();
    for (place, node) in graph.nodes.iter().enumerate() {
        let label = label(node, mermaid_text, "<br/>");
        text.push_str(&format!("  t{place}[\"{label}\"]:::{}\n", class(&node.status)));
    }
    for (from, to) in &graph.edges {
        text.push_str(&format!("  t{from} --> t{to}\n"));
    }
    for (class, fill, stroke) in COLORS {
        text.push_str(&format!("  classDef {class} fill:{fill},stroke:{stroke},color:#111\n"));
    }
    text
}

fn dot(graph: &TaskGraph) -> String {
    let mut text =
        "digraph tasks {\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\"];\n"
            .to_owned();
    for (place, node) in graph.nodes.iter().enumerate() {
        let label = label(node, dot_text, "\\n");
        let (_, fill, stroke) = COLORS.iter().find(|(name, ..)| *name == class(&node.status)).unwrap_or(&COLORS[0]);
        text.push_str(&format!("  t{place} [label=\"{label}\", fillcolor=\"{fill}\", color=\"{stroke}\"];\n"));
    }
    for (from, to) in &graph.edges {
        text.push_str(&format!("  t{from} -> t{to};\n"));
    }
    text.push_str("}\n");
    text
}

fn label(node: &Node, escape: impl Fn(&str) -> String, line: &str) -> String {
    const LONGEST: usize = 60;
    let mut title: String = print::clean(&node.title).chars().take(LONGEST).collect();
    if node.title.chars().count() > LONGEST {
        title.push('…');
    }
    let progress = match node.status.as_str() {
        "in_progress" | "paused" | "blocked" => {
            format!("{} {:.0}%", node.status, node.percent.clamp(0.0, 100.0).floor())
        }
        status => print::clean(status),
    };
    let lines = [print::clean(&node.id), title, progress];
    let lines: Vec<_> = lines.iter().filter(|line| !line.is_empty()).map(|line| escape(line)).collect();
    lines.join(line)
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
