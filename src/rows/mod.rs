//! The state in its tables: one module for each table, or group of tables, with its columns, its write and its reads.
//!
//! The functions take a connection and open no transaction: that is up to their caller. SQL that names a table stands in
//! the module of that table.

/// Evaluates an expression with `$entity` as the type of a kind's entities.
macro_rules! with_entity {
    ($kind:expr, $entity:ident => $value:expr) => {
        match $kind {
            $crate::model::EntityKind::Conversation => {
                type $entity = $crate::model::ConversationState;
                $value
            }
            $crate::model::EntityKind::Task => {
                type $entity = $crate::model::TaskState;
                $value
            }
            $crate::model::EntityKind::Agent => {
                type $entity = $crate::model::AgentState;
                $value
            }
            $crate::model::EntityKind::Project => {
                type $entity = $crate::model::ProjectState;
                $value
            }
            $crate::model::EntityKind::SelfImprovement => {
                type $entity = $crate::model::SelfImprovementState;
                $value
            }
        }
    };
}

pub(crate) use with_entity;

pub(crate) mod agent;
pub(crate) mod backup_mark;
pub(crate) mod carry_over;
pub(crate) mod changes;
pub(crate) mod checkpoint;
pub(crate) mod conversation;
mod entity;
pub(crate) mod export_mark;
pub(crate) mod head;
pub(crate) mod invariants;
pub(crate) mod message_index;
pub(crate) mod project;
pub(crate) mod quarantine;
mod removal;
pub(crate) mod run;
pub(crate) mod self_improvement;
mod state;
pub(crate) mod task;
#[cfg(test)]
mod tests;

pub(crate) use entity::{Entity, each, keys};
pub(crate) use removal::Old;
pub(crate) use state::{clear, counts, read_state};

/// Most rows that are trimmed at a time, so that a table without a limit so far keeps nobody waiting.
pub(super) const MOST_AT_ONCE: u32 = 1000;
