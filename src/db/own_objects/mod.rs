//! What a person added to a database of ours: found by comparison with what the migrations make, carried over, and written to a
//! file where it cannot stay.
//!
//! This file only declares and re-exports.

mod apply;
mod carry;
mod columns;
mod compare;
mod integrity;
mod left_out;
mod released;
mod sql;
mod table_rows;

pub(crate) use carry::Carried;
pub(super) use carry::{bring_back, carry, take_out};
pub(super) use compare::OwnObjects;
pub(crate) use integrity::is_missing_function;
pub(super) use integrity::{broken_reference, broken_references, integrity_problem};
pub(crate) use left_out::{LeftOut, keep_in_file};
pub(super) use released::{ForeignKey, ReleasedSchema, SchemaEntry, foreign_keys, schema};
pub(super) use sql::quoted;
