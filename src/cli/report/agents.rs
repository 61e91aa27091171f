//! The agents.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::super::print;
use super::data::Data;
use super::parts::{self, Text, class};

pub(super) fn cards(data: &Data, now: DateTime<Utc>) -> Markup {
    parts::cards(&data.agents, "None.", |agent| {
        let task = agent.current_task_id.as_deref().unwrap_or("no task");
        let activity = agent.last_activity.as_ref();
        let activity = activity.map(|it| format!("{}, {}", it.activity_type, print::ago(&it.timestamp, now)));
        let content = html! {
            b { (Text(&agent.session_name)) } " " span.dim { (Text(&agent.role)) } br;
            (Text(agent.status.as_str())) " · " (Text(task)) br;
            span.dim { (Text(&activity.unwrap_or_default())) }
        };
        (class(agent.status.as_str()), content)
    })
}
