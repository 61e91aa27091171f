use std::fmt;
use std::ops::AddAssign;

use serde::{Serialize, Serializer};

/// A kind of entity: what the state consists of, beside its head.
///
/// Whatever differs by kind is an exhaustive `match` on this type or a function of the trait for a kind's rows, so that a
/// further kind does not compile until it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum EntityKind {
    /// A conversation, by its id.
    Conversation,
    /// A task, by its id.
    Task,
    /// An agent, by the name of its session.
    Agent,
    /// A project, by its id.
    Project,
    /// The orchestrator's work on its own code. There is at most one, and its key is empty.
    SelfImprovement,
}

impl EntityKind {
    /// All kinds, in the order of the document.
    pub const ALL: [Self; 5] = [Self::Conversation, Self::Task, Self::Agent, Self::Project, Self::SelfImprovement];

    /// Name of the kind in changes, in the table `changes_since_checkpoint` and in messages, for instance `task`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Conversation => "conversation",
            Self::Task => "task",
            Self::Agent => "agent",
            Self::Project => "project",
            Self::SelfImprovement => "self_improvement",
        }
    }

    /// The document's key for the entities of this kind, for instance `tasks`.
    pub fn document_key(self) -> &'static str {
        match self {
            Self::Conversation => "conversations",
            Self::Task => "tasks",
            Self::Agent => "agents",
            Self::Project => "projects",
            Self::SelfImprovement => "selfImprovement",
        }
    }

    /// Whether the state holds at most one entity of this kind, which has no key.
    pub fn is_single(self) -> bool {
        match self {
            Self::Conversation | Self::Task | Self::Agent | Self::Project => false,
            Self::SelfImprovement => true,
        }
    }
}

impl fmt::Display for EntityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for EntityKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Number of entities of each kind, and of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Counts {
    /// Conversations.
    pub conversations: u64,
    /// Messages of all conversations.
    pub messages: u64,
    /// Tasks.
    pub tasks: u64,
    /// Agents.
    pub agents: u64,
    /// Projects.
    pub projects: u64,
    /// 1 while the orchestrator works on its own code, otherwise 0.
    pub self_improvement: u64,
}

impl Counts {
    /// Number of entities of all kinds; messages are a part of their conversation.
    pub fn entities(&self) -> u64 {
        EntityKind::ALL.iter().map(|kind| self.of(*kind)).sum()
    }

    /// Number of entities of a kind.
    pub fn of(&self, kind: EntityKind) -> u64 {
        let mut counts = *self;
        *counts.of_mut(kind)
    }

    /// The same, to be changed.
    pub(crate) fn of_mut(&mut self, kind: EntityKind) -> &mut u64 {
        match kind {
            EntityKind::Conversation => &mut self.conversations,
            EntityKind::Task => &mut self.tasks,
            EntityKind::Agent => &mut self.agents,
            EntityKind::Project => &mut self.projects,
            EntityKind::SelfImprovement => &mut self.self_improvement,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        for kind in EntityKind::ALL {
            *self.of_mut(kind) += other.of(kind);
        }
        self.messages += other.messages;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_are_in_the_list() {
        let after = |kind| match kind {
            EntityKind::Conversation => Some(EntityKind::Task),
            EntityKind::Task => Some(EntityKind::Agent),
            EntityKind::Agent => Some(EntityKind::Project),
            EntityKind::Project => Some(EntityKind::SelfImprovement),
            EntityKind::SelfImprovement => None,
        };
        let kinds = std::iter::successors(Some(EntityKind::Conversation), |kind| after(*kind));
        assert_eq!(kinds.collect::<Vec<_>>(), EntityKind::ALL);
    }
}
