//! Every column of every table is in the list of its module, and every field of every entity in its columns.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use rusqlite::Connection;

use super::entity::Entity;
use super::head;
use crate::db::new_in_memory;
use crate::model::EntityKind;

fn database() -> Connection {
    new_in_memory().unwrap()
}

/// Columns that no entity has: the order of the document, and numbers that only SQLite uses.
const ORDER: [&str; 2] = ["position", "message_id"];

#[test]
fn the_lists_of_columns_are_those_of_the_schema() {
    let conn = database();
    let kinds = EntityKind::ALL.into_iter().flat_map(|kind| with_entity!(kind, E => E::tables()));
    let lists = kinds.chain([(head::TABLE.name(), head::TABLE.columns().collect())]);
    for (table, columns) in lists {
        let mut select = conn.prepare("SELECT name FROM pragma_table_info(?1)").unwrap();
        let schema: BTreeSet<String> =
            select.query_map([table], |row| row.get(0)).unwrap().map(|name| name.unwrap()).collect();
        let listed: BTreeSet<String> = columns.iter().map(|column| (*column).to_owned()).collect();
        assert_eq!(listed.len(), columns.len(), "{table} lists a column twice");
        let order = ORDER.map(str::to_owned).into();
        assert_eq!(schema.difference(&order).cloned().collect::<BTreeSet<_>>(), listed, "{table}");
    }
}

#[test]
fn every_field_is_written_read_and_decoded() {
    for kind in EntityKind::ALL {
        with_entity!(kind, E => {
            let conn = database();
            let full = E::full();
            full.write(&conn).unwrap();
            assert_eq!(E::find(&conn, full.key()).unwrap().as_ref(), Some(&full), "{kind} from its rows");
            let text = crate::json::to_string(&full).unwrap();
            let (value, repeated) = crate::json::parse(&text).unwrap();
            assert_eq!(repeated, None, "{kind} has a key twice");
            let mut context = crate::model::Context::default();
            let read = crate::model::read::<E>(value, &mut context).unwrap();
            assert_eq!(read, full, "{kind} from its JSON");
            assert!(context.notices.is_empty(), "{kind}: {:?}", context.notices);
            assert!(E::remove(&conn, full.key()).unwrap());
            assert_eq!(super::counts(&conn).unwrap().entities(), 0, "{kind}");
        });
    }
}
