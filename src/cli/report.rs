//! `report`: the state as one page that needs nothing else.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::path::Path;

use agentmux_state::{
    AgentState, Checkpoint, ConversationState, DirectoryLock, ListFilter, LockHolder, Run, RunOutcome, StateStore,
    StoreSummary, TaskState, write_private_file,
};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::graph::Graph;
use super::{Context, Ending, Outcome, print};

const STYLE: &str = include_str!("report.css");

/// How many of each kind are shown; the page says how many more there are.
const MOST: usize = 100;
/// How many runs and checkpoints the time line goes back.
const MOST_RUNS: u32 = 50;
const MOST_CHECKPOINTS: u32 = 2000;

#[derive(Serialize)]
struct Report<'p> {
    path: Cow<'p, str>,
    bytes: usize,
}

pub(super) fn run(context: &Context, path: &Path) -> Outcome {
    let store = context.read()?;
    let page = Page::read(&store)?.html(super::now());
    write_private_file(path, page.as_bytes())?;
    let report = Report { path: path.to_string_lossy(), bytes: page.len() };
    context.confirm(&report, || format!("Wrote {} ({}).\n", path.display(), print::bytes(report.bytes as u64)));
    Ok(Ending::Complete)
}

/// What the page shows.
struct Page {
    state_dir: String,
    holder: Option<LockHolder>,
    summary: StoreSummary,
    tasks: Vec<TaskState>,
    agents: Vec<AgentState>,
    conversations: Vec<ConversationState>,
    runs: Vec<Run>,
    checkpoints: Vec<Checkpoint>,
    backups: Vec<agentmux_state::Backup>,
}

impl Page {
    fn read(store: &StateStore) -> Result<Self, agentmux_state::Error> {
        let all = ListFilter::default();
        Ok(Self {
            state_dir: store.state_dir().display().to_string(),
            holder: DirectoryLock::find_holder(store.state_dir())?,
            summary: store.summary()?,
            tasks: store.tasks(&all)?,
            agents: store.agents(&all)?,
            conversations: store.recent_conversations(MOST as u32)?,
            runs: store.runs(MOST_RUNS)?,
            checkpoints: store.checkpoints(MOST_CHECKPOINTS)?,
            backups: store.list_backups()?,
        })
    }

    fn html(&self, now: DateTime<Utc>) -> String {
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
             <title>AgentMux state</title><style>\n{STYLE}</style></head><body><main>\n<h1>AgentMux state</h1>\n"
        );
        page +=
            &format!("<p class=\"dim\">{} · {} UTC</p>\n", escape(&self.state_dir), now.format("%Y-%m-%d %H:%M:%S"));
        page += &self.tiles(now);
        section(&mut page, "What is under way", &self.under_way(now));
        section(&mut page, "Progress", &self.progress());
        section(&mut page, "What waits for what", &self.waiting());
        section(&mut page, "Agents", &self.agents(now));
        section(&mut page, "Last words", &self.last_words(now));
        section(&mut page, "Runs and checkpoints", &self.time_line(now));
        section(&mut page, "Sizes", &self.sizes(now));
        page + "</main></body></html>\n"
    }

    /// Whether the newest run goes on.
    fn is_running(&self, run: &Run) -> bool {
        run.outcome.is_none() && self.holder.as_ref().is_some_and(|holder| holder.is_process_of(run))
    }

    fn tiles(&self, now: DateTime<Utc>) -> String {
        let counts = &self.summary.counts;
        let run = match self.summary.last_run.as_ref() {
            None => "has not run yet".into(),
            Some(run) if self.is_running(run) => format!("running, process {}", run.pid),
            Some(Run { outcome: Some(RunOutcome::Shutdown), .. }) => "shut down".into(),
            Some(_) => "crashed".into(),
        };
        let last = self.summary.last_checkpoint.as_ref();
        let last = last.map_or("never".into(), |it| print::ago(&it.checkpointed_at, now));
        let tile = |value: &dyn Display, what: &str| {
            format!("<div class=\"tile\"><b>{value}</b><span class=\"dim\">{what}</span></div>")
        };
        let mut html = "<section><div class=\"tiles\">".to_owned();
        for (count, what) in [
            (counts.tasks, "tasks"),
            (counts.agents, "agents"),
            (counts.projects, "projects"),
            (counts.conversations, "conversations"),
            (counts.messages, "messages"),
        ] {
            html += &tile(&count, what);
        }
        html + &format!(
            "</div><p>The orchestrator <b>{run}</b>. Last checkpoint: <b>{}</b>. Mode: <b>{}</b>.</p></section>\n",
            escape(&last),
            escape(self.summary.mode.as_str())
        )
    }

    fn under_way(&self, now: DateTime<Utc>) -> String {
        let tasks: Vec<_> =
            self.tasks.iter().filter(|task| matches!(task.status.as_str(), "in_progress" | "paused")).collect();
        cards(&tasks, "Nothing.", |task| {
            let step = task.progress.current_step.as_deref().unwrap_or_default();
            let agent = task.assigned_to.as_deref().map_or("nobody", |agent| agent);
            let active =
                task.last_activity_at.as_ref().map_or_else(String::new, |at| format!(" · {}", print::ago(at, now)));
            (
                class(task.status.as_str()),
                format!(
                    "<b>{}</b><br>{}{}<span class=\"dim\">{} · {}{}</span><br>{}",
                    escape(&task.id),
                    escape(&task.title),
                    percent_bar(task),
                    escape(task.status.as_str()),
                    escape(agent),
                    escape(&active),
                    escape(step)
                ),
            )
        })
    }

    fn progress(&self) -> String {
        let mut projects: BTreeMap<&str, Vec<&TaskState>> = BTreeMap::new();
        for task in &self.tasks {
            projects.entry(task.project_id.as_deref().unwrap_or("no project")).or_default().push(task);
        }
        let mut html = status_bar("All tasks", &self.tasks.iter().collect::<Vec<_>>());
        for (project, tasks) in projects.iter().take(MOST) {
            html += &status_bar(project, tasks);
        }
        html + &more(projects.len())
    }

    fn waiting(&self) -> String {
        let open: Vec<_> = self.tasks.iter().filter(|task| task.status.as_str() != "completed").cloned().collect();
        match Graph::of(&open, false).svg(MOST) {
            Some(svg) => format!("<div class=\"scroll\">{svg}</div>"),
            None => "<p>No open task waits for another open one.</p>".into(),
        }
    }

    fn agents(&self, now: DateTime<Utc>) -> String {
        cards(&self.agents, "None.", |agent| {
            let task = agent.current_task_id.as_deref().map_or("no task", |task| task);
            let activity = agent.last_activity.as_ref();
            let activity = activity.map(|it| format!("{}, {}", it.activity_type, print::ago(&it.timestamp, now)));
            (
                class(agent.status.as_str()),
                format!(
                    "<b>{}</b> <span class=\"dim\">{}</span><br>{} · {}<br><span class=\"dim\">{}</span>",
                    escape(&agent.session_name),
                    escape(&agent.role),
                    escape(agent.status.as_str()),
                    escape(task),
                    escape(&activity.unwrap_or_default())
                ),
            )
        })
    }

    fn last_words(&self, now: DateTime<Utc>) -> String {
        const LONGEST: usize = 300;
        let html = cards(&self.conversations, "None.", |conversation| {
            let last = conversation.recent_messages.last();
            let speaker = last.map_or("", |it| it.agent_name.as_deref().unwrap_or(it.role.as_str()));
            let content = last.map_or("", |it| it.content.as_str());
            let mut words: String = content.chars().take(LONGEST).collect();
            if content.chars().count() > LONGEST {
                words.push('…');
            }
            (
                "",
                format!(
                    "<b>{}</b> <span class=\"dim\">{} · {}</span><br>{}<blockquote><span class=\"dim\">{}</span>\n{}</blockquote>",
                    escape(&conversation.id),
                    escape(conversation.source.as_str()),
                    escape(&print::ago(&conversation.last_activity_at, now)),
                    escape(conversation.current_topic.as_deref().unwrap_or_default()),
                    escape(speaker),
                    escape(&words)
                ),
            )
        });
        let hidden = (self.summary.counts.conversations as usize).saturating_sub(self.conversations.len());
        html + &if hidden > 0 { format!("<p class=\"dim\">and {hidden} more</p>") } else { String::new() }
    }

    /// Runs as bars, the newest at the top, with their checkpoints as ticks and a mark where one crashed.
    fn time_line(&self, now: DateTime<Utc>) -> String {
        const WIDTH: f64 = 700.0;
        const LEFT: f64 = 170.0;
        const ROW: f64 = 22.0;
        let starts: Vec<_> = self.runs.iter().map(|run| run.started_at.parse()).collect();
        let marks: Vec<_> = self.checkpoints.iter().filter_map(|it| it.checkpointed_at.parse()).collect();
        let Some(first) = starts.iter().flatten().chain(&marks).min().copied() else {
            return "<p>There were none yet.</p>".into();
        };
        let span = (now - first).num_milliseconds().max(1) as f64;
        let x = |at: DateTime<Utc>| LEFT + WIDTH * ((at - first).num_milliseconds() as f64 / span).clamp(0.0, 1.0);
        let height = ROW * (self.runs.len() as f64 + 2.0);
        let mut svg = format!(
            "<div class=\"scroll\"><svg viewBox=\"0 0 {} {height}\" width=\"{}\" role=\"img\" aria-label=\"time line\">",
            LEFT + WIDTH + 20.0,
            LEFT + WIDTH + 20.0
        );
        for (row, (run, start)) in self.runs.iter().zip(&starts).enumerate() {
            let y = ROW * row as f64;
            let Some(start) = *start else { continue };
            let newer = row.checked_sub(1).and_then(|newer| starts[newer]).unwrap_or(now);
            let is_running = row == 0 && self.is_running(run);
            let seen = marks.iter().filter(|at| (start..newer).contains(*at)).max().copied();
            let end = run.ended_at.as_ref().and_then(|at| at.parse()).unwrap_or(if is_running {
                now
            } else {
                seen.unwrap_or(start)
            });
            let (class, ended) = match run.outcome {
                _ if is_running => ("active", "running"),
                Some(RunOutcome::Shutdown) => ("shutdown", "shut down"),
                Some(RunOutcome::TakenOver) => ("taken_over", "taken over"),
                _ => ("crashed", "crashed"),
            };
            let _ = write!(
                svg,
                "<text x=\"0\" y=\"{:.1}\">{} {ended}</text><rect class=\"run {class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"12\" rx=\"3\"/>",
                y + 13.0,
                start.format("%m-%d %H:%M"),
                x(start),
                y + 3.0,
                (x(end) - x(start)).max(2.0)
            );
            if class == "crashed" {
                let _ = write!(svg, "<circle class=\"crash\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\"/>", x(end), y + 9.0);
            }
        }
        let y = ROW * self.runs.len() as f64;
        let _ = write!(
            svg,
            "<text x=\"0\" y=\"{:.1}\">checkpoints</text><line class=\"axis\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{2:.1}\" y2=\"{2:.1}\"/>",
            y + 13.0,
            LEFT + WIDTH,
            y + 16.0
        );
        for at in &marks {
            let _ = write!(
                svg,
                "<line class=\"tick\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\"/>",
                x(*at),
                y + 4.0,
                y + 16.0
            );
        }
        let _ = write!(
            svg,
            "<text x=\"{LEFT}\" y=\"{0:.1}\">{1}</text><text x=\"{2}\" y=\"{0:.1}\" text-anchor=\"end\">now</text></svg></div>",
            y + 34.0,
            first.format("%Y-%m-%d %H:%M"),
            LEFT + WIDTH
        );
        svg
    }

    fn sizes(&self, now: DateTime<Utc>) -> String {
        let backups: u64 = self.backups.iter().map(|backup| backup.bytes).sum();
        let newest = self.backups.first().map_or("none".into(), |backup| print::ago(&backup.created_at, now));
        let rows = [
            ("Database".to_owned(), print::bytes(self.summary.database_bytes)),
            (print::count(self.backups.len() as u64, "backup"), print::bytes(backups)),
            ("Newest backup".into(), newest),
            ("Records set aside".into(), self.summary.counts.set_aside.to_string()),
        ];
        let rows: String = rows
            .iter()
            .map(|(what, size)| format!("<tr><th>{}</th><td>{}</td></tr>", escape(what), escape(size)))
            .collect();
        format!("<table>{rows}</table>")
    }
}

fn section(page: &mut String, title: &str, content: &str) {
    *page += &format!("<section><h2>{title}</h2>{content}</section>\n");
}

fn cards<T>(items: &[T], none: &str, card: impl Fn(&T) -> (&'static str, String)) -> String {
    if items.is_empty() {
        return format!("<p>{none}</p>");
    }
    let cards =
        items.iter().take(MOST).map(card).map(|(class, html)| format!("<div class=\"card {class}\">{html}</div>"));
    format!("<div class=\"cards\">{}</div>{}", cards.collect::<String>(), more(items.len()))
}

fn more(all: usize) -> String {
    if all > MOST { format!("<p class=\"dim\">and {} more</p>", all - MOST) } else { String::new() }
}

fn percent_bar(task: &TaskState) -> String {
    let percent = task.progress.percent_complete.clamp(0.0, 100.0);
    format!(
        "<div class=\"bar\"><span class=\"{}\" style=\"width:{percent:.1}%\"></span></div>{percent:.0}% ",
        class(task.status.as_str())
    )
}

fn status_bar(title: &str, tasks: &[&TaskState]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for task in tasks {
        *counts.entry(task.status.as_str()).or_default() += 1;
    }
    let mut bar = String::new();
    let mut legend = String::new();
    for (status, count) in &counts {
        let percent = *count as f64 * 100.0 / tasks.len() as f64;
        let _ = write!(bar, "<span class=\"{}\" style=\"width:{percent:.2}%\"></span>", class(status));
        let _ = write!(legend, "<span class=\"dot {}\"></span>{count} {} ", class(status), escape(status));
    }
    format!("<div><b>{}</b> {legend}<div class=\"bar\">{bar}</div></div>", escape(title))
}

/// The class of a status, for its colour. Statuses come from anywhere.
pub(super) fn class(status: &str) -> &'static str {
    const KNOWN: [&str; 9] =
        ["pending", "in_progress", "blocked", "paused", "completed", "active", "inactive", "busy", "error"];
    KNOWN.into_iter().find(|known| *known == status).unwrap_or("other")
}

/// A text in HTML, whatever is in it.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' => escaped.push('\n'),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}
