//! State documents: reading one into the store, and writing the store as one.
//!
//! Reading is tolerant, streaming and lossless: the scanner cuts the document into records, each record is parsed and
//! decoded by itself, and what cannot be read is set aside word for word. Memory is bounded by the largest record.

mod entity;
mod finder;
mod load;
mod reader;
mod scanner;
mod typescript;
mod upgrade;
mod version;
mod write;

pub(crate) use load::{Counted, checkpointed_at, import, validate};
pub use load::{ImportMode, ImportOptions, ImportReport, ReportedSetAside, ReportedWarning};
pub(crate) use typescript::typescript_file;
pub(crate) use write::export;
