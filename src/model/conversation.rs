use serde::{Deserialize, Serialize};

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
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConversationState {
    /// Its key.
    pub id: String,
    /// Where it is held.
    pub source: ConversationSource,
    /// Its newest messages, oldest first. Their order is their identity.
    #[serde(default)]
    pub recent_messages: Vec<PersistedMessage>,
    /// What was said before the recent messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// The person, as the source names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The Slack thread, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slack_context: Option<SlackContext>,
    /// What it is about at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_topic: Option<String>,
    /// When something last happened in it. Within the hour before a restart, it is resumed.
    pub last_activity_at: Timestamp,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PersistedMessage {
    /// Who wrote it.
    pub role: MessageRole,
    /// What it says, of any length and with any characters.
    pub content: String,
    /// When it was written.
    pub timestamp: Timestamp,
    /// The agent's session name, where an agent wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<String>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A thread in Slack.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
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
