//! Open tasks that wait for each other, as a drawing.

use std::collections::{BTreeMap, HashMap};

use maud::{Markup, html};

use super::super::task_graph::TaskGraph;
use super::data::{Data, MOST};
use super::parts::{Text, class, more};

pub(super) fn drawing(data: &Data) -> Markup {
    let open: Vec<_> = data.tasks.iter().filter(|task| task.status.as_str() != "completed").cloned().collect();
    match svg(&TaskGraph::of(&open, false)) {
        Some(svg) => html! { div.scroll { (svg) } },
        None => html! { p { "No open task waits for another open one." } },
    }
}

/// In columns from what is waited for to what waits; `None` where nothing waits.
fn svg(graph: &TaskGraph) -> Option<Markup> {
    const WIDTH: usize = 190;
    const HEIGHT: usize = 34;
    const GAP: (usize, usize) = (60, 12);
    const COLUMNS: usize = 12;
    let edges: Vec<_> = graph.edges.iter().filter(|(from, to)| from != to).take(MOST).collect();
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
    let mut places: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for (node, column) in &columns {
        let row = rows.entry(*column).or_default();
        places.insert(*node, (column * (WIDTH + GAP.0) + 4, *row * (HEIGHT + GAP.1) + 4));
        *row += 1;
    }
    let width = columns.values().max().unwrap_or(&0) * (WIDTH + GAP.0) + WIDTH + 8;
    let height = rows.values().max().unwrap_or(&1) * (HEIGHT + GAP.1) + 8;
    let path = |from: &usize, to: &usize| {
        let ((x1, y1), (x2, y2)) = (places[from], places[to]);
        let (x1, y1, y2) = (x1 + WIDTH, y1 + HEIGHT / 2, y2 + HEIGHT / 2);
        let bend = GAP.0 / 2;
        format!("M{x1} {y1} C{} {y1} {} {y2} {x2} {y2} m-6 -4 l6 4 l-6 4", x1 + bend, x2.saturating_sub(bend))
    };
    Some(html! {
        svg viewBox=(format!("0 0 {width} {height}")) width=(width) role="img" aria-label="tasks that wait" {
            @for (from, to) in &edges {
                path class="edge" d=(path(from, to)) {}
            }
            @for (node, (x, y)) in &places {
                @let node = &graph.nodes[*node];
                @let label: String = format!("{} {}", node.id, node.title).chars().take(26).collect();
                g {
                    title { (Text(&node.id)) ": " (Text(&node.title)) " (" (Text(&node.status)) ")" }
                    rect class={ "node " (class(&node.status)) } x=(x) y=(y) width=(WIDTH) height=(HEIGHT) rx="6" {}
                    text x=(x + 8) y=(y + 21) { (Text(&label)) }
                }
            }
        }
        (more(graph.edges.len().saturating_sub(edges.len())))
    })
}
