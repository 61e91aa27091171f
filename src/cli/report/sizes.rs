//! Sizes of the database and its backups.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::super::print;
use super::data::Data;
use super::parts::Text;

pub(super) fn table(data: &Data, now: DateTime<Utc>) -> Markup {
    let backups: u64 = data.backups.iter().map(|backup| backup.bytes).sum();
    let newest = data.backups.first().map_or("none".into(), |backup| print::ago(&backup.created_at, now));
    let rows = [
        ("Database".to_owned(), print::bytes(data.summary.database_bytes)),
        (print::count(data.backups.len() as u64, "backup"), print::bytes(backups)),
        ("Newest backup".into(), newest),
        ("Records set aside".into(), data.summary.set_aside.to_string()),
    ];
    html! {
        table {
            @for (what, size) in &rows { tr { th { (Text(what)) } td { (Text(size)) } } }
        }
    }
}
