//! The state as a whole.

use chrono::{DateTime, Utc};
use rusqlite::Connection;

use super::entity::{Entity, all, clear as clear_kind, count};
use super::{conversation, head, message_index};
use crate::error::Result;
use crate::model::{Counts, EntityKind, OrchestratorState};

/// Reads the whole state. One to which nothing was ever written has `now` as its id and its last checkpoint.
pub(crate) fn read_state(conn: &Connection, now: DateTime<Utc>) -> Result<OrchestratorState> {
    let mut state = head::read_or_new(conn, now)?;
    for kind in EntityKind::ALL {
        with_entity!(kind, E => E::put(all(conn)?, &mut state));
    }
    Ok(state)
}

/// Number of entities of each kind, and of messages.
pub(crate) fn counts(conn: &Connection) -> Result<Counts> {
    let mut counts = Counts { messages: conversation::count_messages(conn)?, ..Counts::default() };
    for kind in EntityKind::ALL {
        *counts.of_mut(kind) = with_entity!(kind, E => count::<E>(conn))?;
    }
    Ok(counts)
}

/// Removes all entities; runs, checkpoints and quarantined records stay.
pub(crate) fn clear(conn: &Connection) -> Result<()> {
    message_index::clear(conn)?;
    for kind in EntityKind::ALL {
        with_entity!(kind, E => clear_kind::<E>(conn))?;
    }
    Ok(())
}
