//! Writing the state as a document, row by row: no more than one entity is in memory.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use crate::error::{Error, Result};
use crate::json;
use crate::model::{EntityKind, Head, OrchestratorState};
use crate::progress::{ProgressCallback, Stage};
use crate::rows::{self, Entity, head, with_entity};

/// Writes the state in a database as a document, in the layout of `current-state.json`.
pub(crate) fn export(
    conn: &Connection,
    now: DateTime<Utc>,
    progress: &ProgressCallback,
    out: &mut dyn Write,
) -> Result<()> {
    let head = head::read_or_new(conn, now)?;
    let total = rows::counts(conn)?.entities();
    let document = Document { conn, head: &head, progress, total, done: Cell::new(0), failure: RefCell::new(None) };
    json::write_pretty(out, &document).map_err(|error| {
        let name = "the export".to_owned();
        document.failure.take().unwrap_or_else(|| Error::Stream { name, source: io::Error::from(error) })
    })?;
    progress.report(Stage::Exporting, total, Some(total));
    Ok(())
}

/// The document, as `OrchestratorState` but with entities that are read while they are written.
struct Document<'d> {
    conn: &'d Connection,
    head: &'d OrchestratorState,
    progress: &'d ProgressCallback,
    /// How many entities there are, and how many are written.
    total: u64,
    done: Cell<u64>,
    /// Why reading failed; serde can carry only a text.
    failure: RefCell<Option<Error>>,
}

impl Document<'_> {
    /// Keeps the reason of a failed read.
    fn failed<E: serde::ser::Error>(&self, error: Error) -> E {
        self.failure.replace(Some(error));
        E::custom("reading failed")
    }

    fn note_written(&self) {
        self.done.set(self.done.get() + 1);
        if self.done.get().is_multiple_of(100) {
            self.progress.report(Stage::Exporting, self.done.get(), Some(self.total));
        }
    }

    fn entities<E: Entity, M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let key = E::KIND.document_key();
        if !E::KIND.is_single() {
            return map.serialize_entry(key, &List::<E> { document: self, of: std::marker::PhantomData });
        }
        match E::find(self.conn, "") {
            Ok(None) => Ok(()),
            Ok(Some(entity)) => {
                self.note_written();
                map.serialize_entry(key, &entity)
            }
            Err(error) => Err(self.failed(error)),
        }
    }
}

impl Serialize for Document<'_> {
    /// The keys in their documented order.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Head { id, version, checkpointed_at, checkpoint_reason, mode, metadata, extra } = self.head.head();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", id)?;
        map.serialize_entry("version", version)?;
        map.serialize_entry("checkpointedAt", checkpointed_at)?;
        map.serialize_entry("checkpointReason", checkpoint_reason)?;
        if let Some(mode) = mode {
            map.serialize_entry("mode", mode)?;
        }
        for kind in EntityKind::ALL {
            with_entity!(kind, E => self.entities::<E, _>(&mut map))?;
        }
        map.serialize_entry("metadata", metadata)?;
        for (key, value) in extra {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// An array whose elements are read from the database while they are written.
struct List<'d, E> {
    document: &'d Document<'d>,
    of: std::marker::PhantomData<E>,
}

impl<E: Entity> Serialize for List<'_, E> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        let mut written = Ok(());
        let read = rows::each::<E>(self.document.conn, &mut |element| {
            written = list.serialize_element(&element);
            self.document.note_written();
            // Any error ends reading; what it was stands in `written`.
            if written.is_ok() { Ok(()) } else { Err(rusqlite::Error::QueryReturnedNoRows.into()) }
        });
        written?;
        read.map_err(|error| self.document.failed(error))?;
        list.end()
    }
}
