//! Refinery inside a transaction of ours.

use refinery_core::traits::sync::{Query, Transaction as RefineryTransaction};
use refinery_core::{Migrate, Migration};
use rusqlite::Transaction;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Lets refinery work inside a transaction that is already open, and leaves the commit to us.
pub(super) struct Locked<'t>(pub(super) &'t Transaction<'t>);

impl RefineryTransaction for Locked<'_> {
    type Error = rusqlite::Error;

    fn execute<'a, T: Iterator<Item = &'a str>>(&mut self, queries: T) -> rusqlite::Result<usize> {
        let mut count = 0;
        for query in queries {
            self.0.execute_batch(query)?;
            count += 1;
        }
        Ok(count)
    }
}

impl Query<Vec<Migration>> for Locked<'_> {
    fn query(&mut self, query: &str) -> rusqlite::Result<Vec<Migration>> {
        let mut select = self.0.prepare(query)?;
        let rows = select.query_map([], |row| {
            let applied_on: String = row.get(2)?;
            let checksum: String = row.get(3)?;
            // The record was found well-formed before refinery was let near it, as it panics on one that is not.
            let applied_on = OffsetDateTime::parse(&applied_on, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            Ok(Migration::applied(row.get(0)?, row.get(1)?, applied_on, checksum.parse().unwrap_or_default()))
        })?;
        rows.collect()
    }
}

impl Migrate for Locked<'_> {}
