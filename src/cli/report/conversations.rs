//! The last message of each conversation.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::super::print;
use super::data::Data;
use super::parts::{Text, cards, more};

/// Characters of a message that are shown.
const LONGEST: usize = 300;

pub(super) fn last_words(data: &Data, now: DateTime<Utc>) -> Markup {
    let hidden = (data.summary.counts.conversations as usize).saturating_sub(data.conversations.len());
    let cards = cards(&data.conversations, "None.", |conversation| {
        let last = conversation.recent_messages.last();
        let speaker = last.map_or("", |it| it.agent_name.as_deref().unwrap_or(it.role.as_str()));
        let content = last.map_or("", |it| it.content.as_str());
        let mut words: String = content.chars().take(LONGEST).collect();
        if content.chars().count() > LONGEST {
            words.push('…');
        }
        let active = print::ago(&conversation.last_activity_at, now);
        let content = html! {
            b { (Text(&conversation.id)) } " "
            span.dim { (Text(conversation.source.as_str())) " · " (Text(&active)) } br;
            (Text(conversation.current_topic.as_deref().unwrap_or_default()))
            blockquote { span.dim { (Text(speaker)) } "\n" (Text(&words)) }
        };
        ("", content)
    });
    html! { (cards) (more(hidden)) }
}
