use serde::Serialize;

use super::extra::records;
use super::object::{Object, ReadJson, Readable, read};
use super::open_enum::open_enum;
use super::{Extra, Timestamp};

open_enum! {
    /// Where a conversation is held.
    ConversationSource { Chat = "chat", Slack = "slack", Api = "api" }
}

open_enum! {
    /// Who wrote a message.
    MessageRole { User = "user", Orchestrator = "orchestrator", Agent = "agent" }
}

/// A conversation with its recent messages.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConversationState {
    /// Its key.
    pub id: String,
    /// Where it is held.
    pub source: ConversationSource,
    /// Its newest messages, oldest first. Their order is their identity.
    pub recent_messages: Vec<PersistedMessage>,
    /// What was said before the recent messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// The person, as the source names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The Slack thread, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slack_context: Option<SlackContext>,
    /// What it is about at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_topic: Option<String>,
    /// When something last happened in it. Within the hour before a restart, it is resumed.
    pub last_activity_at: Timestamp,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ConversationState {
    /// A conversation without messages, active now.
    pub fn new(id: impl Into<String>, source: ConversationSource) -> Self {
        Self { id: id.into(), source, last_activity_at: Timestamp::now(), ..Self::default() }
    }
}

impl ReadJson for ConversationState {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            id: object.required("id")?,
            source: object.required("source")?,
            recent_messages: object.list("recentMessages", read),
            summary: object.optional("summary"),
            user_id: object.optional("userId"),
            slack_context: object.optional_with("slackContext", read),
            current_topic: object.optional("currentTopic"),
            last_activity_at: object.required_time("lastActivityAt")?,
            extra: object.rest(),
        })
    }
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PersistedMessage {
    /// Who wrote it.
    pub role: MessageRole,
    /// What it says, of any length and with any characters.
    pub content: String,
    /// When it was written.
    pub timestamp: Timestamp,
    /// The agent's session name, where an agent wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<String>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl PersistedMessage {
    /// A message that is written now.
    pub fn new(role: MessageRole, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), timestamp: Timestamp::now(), ..Self::default() }
    }
}

impl ReadJson for PersistedMessage {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            role: object.required("role")?,
            content: object.required("content")?,
            timestamp: object.required_time("timestamp")?,
            agent_name: object.optional("agentName"),
            extra: object.rest(),
        })
    }
}

/// A thread in Slack.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SlackContext {
    /// The channel's id.
    pub channel_id: String,
    /// The timestamp that names the thread, as Slack writes it: seconds with a fraction.
    pub thread_ts: String,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ReadJson for SlackContext {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            channel_id: object.required("channelId")?,
            thread_ts: object.required("threadTs")?,
            extra: object.rest(),
        })
    }
}

records! {
    ConversationState { at_option slack_context: "slackContext", at_list recent_messages: "recentMessages" };
    PersistedMessage;
    SlackContext;
}
