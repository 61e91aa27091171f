//! Tasks under way, and progress by project.

use std::collections::BTreeMap;

use agentmux_state::TaskState;
use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::super::print;
use super::data::{Data, MOST};
use super::parts::{Text, cards, class, more};

pub(super) fn under_way(data: &Data, now: DateTime<Utc>) -> Markup {
    let tasks: Vec<_> =
        data.tasks.iter().filter(|task| matches!(task.status.as_str(), "in_progress" | "paused")).collect();
    cards(&tasks, "Nothing.", |task| {
        let step = task.progress.current_step.as_deref().unwrap_or_default();
        let agent = task.assigned_to.as_deref().unwrap_or("nobody");
        let active =
            task.last_activity_at.as_ref().map_or_else(String::new, |at| format!(" · {}", print::ago(at, now)));
        let content = html! {
            b { (Text(&task.id)) } br; (Text(&task.title)) (percent_bar(task))
            span.dim { (Text(task.status.as_str())) " · " (Text(agent)) (Text(&active)) } br; (Text(step))
        };
        (class(task.status.as_str()), content)
    })
}

pub(super) fn progress(data: &Data) -> Markup {
    let mut projects: BTreeMap<&str, Vec<&TaskState>> = BTreeMap::new();
    for task in &data.tasks {
        projects.entry(task.project_id.as_deref().unwrap_or("no project")).or_default().push(task);
    }
    html! {
        (status_bar("All tasks", &data.tasks.iter().collect::<Vec<_>>()))
        @for (project, tasks) in projects.iter().take(MOST) { (status_bar(project, tasks)) }
        (more(projects.len().saturating_sub(MOST)))
    }
}

fn percent_bar(task: &TaskState) -> Markup {
    let percent = task.progress.percent_complete.clamp(0.0, 100.0);
    html! {
        div.bar { span class=(class(task.status.as_str())) style=(format!("width:{percent:.1}%")) {} }
        (format!("{percent:.0}% "))
    }
}

fn status_bar(title: &str, tasks: &[&TaskState]) -> Markup {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for task in tasks {
        *counts.entry(task.status.as_str()).or_default() += 1;
    }
    let width = |count: usize| format!("width:{:.2}%", count as f64 * 100.0 / tasks.len() as f64);
    html! {
        div {
            b { (Text(title)) } " "
            @for (status, count) in &counts {
                span class={ "dot " (class(status)) } {} (count) " " (Text(status)) " "
            }
            div.bar {
                @for (status, count) in &counts { span class=(class(status)) style=(width(*count)) {} }
            }
        }
    }
}
