//! Comparing a database with the released schema of its version: what a person added, and what of ours differs.
//!
//! Every table, index, trigger and view that the migrations make is ours. Everything else is a person's, and so is a column that
//! `ALTER TABLE … ADD COLUMN` put into a table of ours: SQLite inserts its definition into the text of `CREATE TABLE`. What
//! SQLite (`sqlite_…`) and Litestream (`_litestream_…`) keep for themselves is neither. The comparison reads the schema only; the
//! caller holds a transaction where it must be of one snapshot.

use std::collections::HashSet;

use rusqlite::Connection;

use super::released::{ReleasedSchema, SchemaEntry, entries};
use super::sql::{starts_with, texts};
use crate::error::Result;

/// A column that a person added to a table of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::db) struct AddedColumn {
    pub(in crate::db) table: String,
    pub(in crate::db) name: String,
    /// As it stands in `CREATE TABLE`.
    pub(in crate::db) definition: String,
}

/// What a person added to a database, and in what the rest differs from the schema of its version.
#[derive(Debug, Default)]
pub(in crate::db) struct OwnObjects {
    /// Tables, indexes, triggers and views in the order in which they were made, without shadow tables.
    pub(in crate::db) entries: Vec<SchemaEntry>,
    /// Shadow tables: the virtual table, and its shadow table.
    pub(super) shadows: Vec<(String, String)>,
    pub(in crate::db) columns: Vec<AddedColumn>,
    /// What of ours is missing or changed, in words.
    pub(in crate::db) differences: Vec<String>,
}

impl OwnObjects {
    /// Compares a database with the schema of its version.
    pub(in crate::db) fn find(conn: &Connection, released: &ReleasedSchema) -> Result<Self> {
        let mut own = Self::default();
        let mut found = HashSet::new();
        for entry in entries(conn)? {
            let ours = released.entries.iter().find(|ours| ours.kind == entry.kind && ours.name == entry.name);
            match ours {
                Some(ours) => {
                    found.insert((ours.kind.as_str(), ours.name.as_str()));
                    match added_columns(&entry.sql, &ours.sql) {
                        _ if entry.is_same_as(ours) => {}
                        Some(added) if entry.kind == "table" => {
                            own.columns.extend(added.into_iter().map(|(name, definition)| AddedColumn {
                                table: ours.name.clone(),
                                name,
                                definition,
                            }));
                        }
                        _ => own.differences.push(difference(&entry, ours, released.version)),
                    }
                }
                None if starts_with(&entry.name, "sqlite_") => {}
                None => own.entries.push(entry),
            }
        }
        let missing = released.entries.iter().filter(|it| !found.contains(&(it.kind.as_str(), it.name.as_str())));
        let missing = missing.filter(|it| !starts_with(&it.name, "sqlite_"));
        own.differences.extend(missing.map(|it| format!("the {} {} is missing", it.kind, it.name)));
        own.separate_shadow_tables(conn)?;
        Ok(own)
    }

    pub(in crate::db) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.columns.is_empty()
    }

    pub(super) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &SchemaEntry> {
        self.entries.iter().filter(move |entry| entry.kind == kind)
    }

    pub(super) fn has_name(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name.eq_ignore_ascii_case(name))
    }

    pub(super) fn has_relation(&self, name: &str) -> bool {
        self.entries.iter().any(|it| matches!(&*it.kind, "table" | "view") && it.name.eq_ignore_ascii_case(name))
    }

    /// Takes shadow tables out of the list: they are created and dropped with their virtual tables.
    fn separate_shadow_tables(&mut self, conn: &Connection) -> Result<()> {
        let owners: Vec<_> = self.entries.iter().filter(|it| it.is_virtual_table()).map(|it| it.name.clone()).collect();
        if owners.is_empty() {
            return Ok(());
        }
        let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow'";
        let shadows: HashSet<String> = texts(conn, sql, [])?.into_iter().collect();
        let mut found = Vec::new();
        self.entries.retain(|entry| {
            let owns = |owner: &&String| starts_with(&entry.name, owner) && entry.name[owner.len()..].starts_with('_');
            let owner = owners.iter().filter(owns).max_by_key(|owner| owner.len());
            let owner = owner.filter(|_| entry.kind == "table" && shadows.contains(&entry.name));
            found.extend(owner.map(|owner| (owner.clone(), entry.name.clone())));
            owner.is_none()
        });
        self.shadows = found;
        Ok(())
    }
}

/// The columns that somebody added to a table by `ALTER TABLE`, each by its name and its definition; `None` where the text differs in
/// something else.
fn added_columns(found: &str, ours: &str) -> Option<Vec<(String, String)>> {
    let (found, ours) = (Parts::of(found)?, Parts::of(ours)?);
    if found.before != ours.before || found.after.trim_end() != ours.after.trim_end() {
        return None;
    }
    let mut ours = ours.items.into_iter().peekable();
    let mut added = Vec::new();
    for item in found.items {
        if ours.peek() == Some(&item) {
            ours.next();
        } else {
            let definition = item.trim();
            added.push((column_name(definition)?, definition.to_owned()));
        }
    }
    ours.next().is_none().then_some(added)
}

/// The text of a `CREATE TABLE`, split at the commas between its columns and constraints.
struct Parts<'s> {
    before: &'s str,
    items: Vec<&'s str>,
    after: &'s str,
}

impl<'s> Parts<'s> {
    fn of(sql: &'s str) -> Option<Self> {
        let bytes = sql.as_bytes();
        let (mut depth, mut start, mut before, mut items) = (0_u32, 0, "", Vec::new());
        let mut index = 0;
        while index < bytes.len() {
            let rest = &sql[index..];
            let length = match bytes[index] {
                b'-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
                b'/' if rest.starts_with("/*") => rest[2..].find("*/").map_or(rest.len(), |end| end + 4),
                // A doubled quote inside is the end of one and the beginning of the next.
                quote @ (b'\'' | b'"' | b'`') => rest[1..].find(char::from(quote))? + 2,
                b'[' => rest.find(']')? + 1,
                b'(' => {
                    depth += 1;
                    if depth == 1 {
                        (before, start) = (&sql[..index], index + 1);
                    }
                    1
                }
                b')' => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 {
                        items.push(&sql[start..index]);
                        return Some(Self { before, items, after: &sql[index + 1..] });
                    }
                    1
                }
                b',' if depth == 1 => {
                    items.push(&sql[start..index]);
                    start = index + 1;
                    1
                }
                _ => rest.chars().next().map_or(1, char::len_utf8),
            };
            index += length;
        }
        None
    }
}

/// The name at the beginning of a column's definition; `None` where it is a constraint.
fn column_name(definition: &str) -> Option<String> {
    let first = definition.chars().next()?;
    let close = match first {
        '"' | '`' | '\'' => first,
        '[' => return definition[1..].split_once(']').map(|(name, _)| name.to_owned()),
        _ => {
            let end = definition.find(|c: char| c.is_ascii_whitespace() || "(\"'`[/".contains(c) || c == '-');
            let name = &definition[..end.unwrap_or(definition.len())];
            let is_constraint = ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"];
            return (!name.is_empty() && !is_constraint.iter().any(|word| name.eq_ignore_ascii_case(word)))
                .then(|| name.to_owned());
        }
    };
    let mut name = String::new();
    let mut rest = definition[1..].chars().peekable();
    while let Some(c) = rest.next() {
        if c == close && rest.next_if_eq(&close).is_none() {
            return Some(name);
        }
        name.push(c);
    }
    None
}

/// In what an object of ours differs from what the migrations make, in words.
fn difference(found: &SchemaEntry, ours: &SchemaEntry, version: u32) -> String {
    let common = found.sql.bytes().zip(ours.sql.bytes()).take_while(|(a, b)| a == b).count();
    let excerpt = |sql: &str| {
        let start = (0..=common.min(sql.len())).rev().find(|at| sql.is_char_boundary(*at)).unwrap_or(0);
        let words: Vec<_> = sql[start..].split_whitespace().collect();
        let text: String = words.join(" ").chars().take(60).collect();
        if text.is_empty() { "nothing".to_owned() } else { format!("{text:?}") }
    };
    format!(
        "the {} {} was changed: it has {} where version {version} of the schema has {}",
        ours.kind,
        ours.name,
        excerpt(&found.sql),
        excerpt(&ours.sql),
    )
}
