//! State documents: reading one into the store, and writing the store as one.
//!
//! Reading is tolerant, streaming and lossless: the scanner cuts the document into records, each record is parsed and
//! decoded by itself, and what cannot be read is set aside word for word. Memory is bounded by the largest record.

mod decode;
mod entity;
mod export;
mod import;
mod object;
mod path;
mod reader;
mod scanner;
mod typescript;
mod upgrade;
mod value;
mod version;

pub use export::ExportedFile;
pub(crate) use export::{KEPT_EXPORT_LABELS, export};
pub use import::{ImportCounts, ImportMode, ImportOptions, ImportReport, ReportedSetAside, ReportedWarning};
pub(crate) use import::{checkpointed_at, import};
pub(crate) use typescript::typescript_file;
