//! The integration tests: behaviour through the public API and the program, with real files and real processes. One module per
//! behaviour, one program, so that SQLite is linked once.
//!
//! The tests share a process. A test that changes something of its process (the umask, the environment, a limit, the log) does
//! so in a process of its own: see [`common::role`].
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod architecture;
mod backup;
mod check;
mod cli;
mod common;
mod crafted;
mod crash;
mod damage;
mod document;
mod exports;
mod growth;
mod guards;
mod hostile;
mod lifecycle;
mod litestream;
mod own_objects;
mod pictures;
mod processes;
mod queries;
mod readme;
mod recovery;
mod round_trip;
mod search;
mod secrecy;
mod store;
mod upgrade;
mod wal_loss;
mod writers;
