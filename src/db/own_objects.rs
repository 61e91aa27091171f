//! What a person added to a database of ours: told from what the migrations make, carried along, and written to a file where it
//! cannot be.
//!
//! Every table, index, trigger and view that the migrations make is ours. Everything else is a person's, and so is a column that
//! `ALTER TABLE … ADD COLUMN` put into a table of ours: SQLite inserts its definition into the text of `CREATE TABLE`. What
//! SQLite (`sqlite_…`) and Litestream (`_litestream_…`) keep for themselves is neither.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, Statement, params_from_iter};

use crate::directory::replace_file;
use crate::error::{Error, Result};

/// A row of `sqlite_schema`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SchemaEntry {
    /// table | index | trigger | view
    pub(super) kind: String,
    pub(super) name: String,
    /// The table or view that it belongs to; its own name for those.
    pub(super) table: String,
    /// The SQL that made it; empty for the index of a constraint.
    pub(super) sql: String,
}

impl SchemaEntry {
    /// Whether this is made by the same SQL. The shell's `.dump` adds a newline to some, or takes one away.
    fn is_same_as(&self, other: &Self) -> bool {
        (&self.kind, &self.name, &self.table, self.sql.trim_end())
            == (&other.kind, &other.name, &other.table, other.sql.trim_end())
    }

    fn is_virtual_table(&self) -> bool {
        self.kind == "table" && starts_with(&self.sql, "CREATE VIRTUAL TABLE")
    }
}

/// A reference from one table to another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ForeignKey {
    pub(super) table: String,
    pub(super) from: String,
    pub(super) parent: String,
    pub(super) to: Option<String>,
    pub(super) on_update: String,
    pub(super) on_delete: String,
}

/// The schema of one version, as the migrations make it.
pub(super) struct ReleasedSchema {
    pub(super) version: u32,
    pub(super) entries: Vec<SchemaEntry>,
    pub(super) foreign_keys: Vec<ForeignKey>,
    /// The columns of each table.
    columns: HashMap<String, Vec<String>>,
}

impl ReleasedSchema {
    /// Reads the schema of a database that the migrations have just made.
    pub(super) fn read(version: u32, fresh: &Connection) -> Result<Self> {
        let entries = entries(fresh)?;
        let tables = entries.iter().filter(|entry| entry.kind == "table");
        let columns = tables.map(|table| Ok((table.name.clone(), columns(fresh, &table.name)?)));
        let columns = columns.collect::<Result<_>>()?;
        Ok(Self { version, foreign_keys: foreign_keys(fresh)?, columns, entries })
    }

    /// Whether a table or view of that name is ours.
    pub(super) fn has_relation(&self, name: &str) -> bool {
        self.entries.iter().any(|it| matches!(&*it.kind, "table" | "view") && it.name.eq_ignore_ascii_case(name))
    }

    fn has_name(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name.eq_ignore_ascii_case(name))
    }

    pub(super) fn has_column(&self, table: &str, column: &str) -> bool {
        self.columns.get(table).is_some_and(|columns| columns.iter().any(|it| it.eq_ignore_ascii_case(column)))
    }
}

/// A column that a person added to a table of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddedColumn {
    pub(super) table: String,
    pub(super) name: String,
    /// As it stands in `CREATE TABLE`.
    pub(super) definition: String,
}

/// What a person added to a database, and in what the rest differs from the schema of its version.
#[derive(Debug, Default)]
pub(super) struct OwnObjects {
    /// Tables, indexes, triggers and views in the order in which they were made, without tables that a virtual one keeps for itself.
    pub(super) entries: Vec<SchemaEntry>,
    /// The tables that virtual ones keep for themselves: the virtual table, and the table.
    shadows: Vec<(String, String)>,
    pub(super) columns: Vec<AddedColumn>,
    /// What of ours is missing or changed, in words.
    pub(super) differences: Vec<String>,
}

impl OwnObjects {
    /// Compares a database with the schema of its version.
    pub(super) fn find(conn: &Connection, released: &ReleasedSchema) -> Result<Self> {
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
        own.tell_shadows_apart(conn)?;
        Ok(own)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.columns.is_empty()
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &SchemaEntry> {
        self.entries.iter().filter(move |entry| entry.kind == kind)
    }

    fn has_name(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name.eq_ignore_ascii_case(name))
    }

    fn has_relation(&self, name: &str) -> bool {
        self.entries.iter().any(|it| matches!(&*it.kind, "table" | "view") && it.name.eq_ignore_ascii_case(name))
    }

    /// Takes the tables that virtual ones keep for themselves out of the list: they come and go with these.
    fn tell_shadows_apart(&mut self, conn: &Connection) -> Result<()> {
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

/// Everything in a schema, in the order in which it was made; without what Litestream adds.
fn entries(conn: &Connection) -> Result<Vec<SchemaEntry>> {
    let mut select = conn.prepare(
        "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema
         WHERE tbl_name NOT LIKE '\\_litestream\\_%' ESCAPE '\\' ORDER BY rowid",
    )?;
    let rows = select.query_map([], |row| {
        Ok(SchemaEntry { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// All references between tables.
pub(super) fn foreign_keys(conn: &Connection) -> Result<Vec<ForeignKey>> {
    let mut select = conn.prepare(
        "SELECT lower(s.name), lower(f.\"from\"), lower(f.\"table\"), lower(f.\"to\"), f.on_update, f.on_delete
         FROM sqlite_schema s JOIN pragma_foreign_key_list(s.name) f WHERE s.type = 'table'",
    )?;
    let rows = select.query_map([], |row| {
        Ok(ForeignKey {
            table: row.get(0)?,
            from: row.get(1)?,
            parent: row.get(2)?,
            to: row.get(3)?,
            on_update: row.get(4)?,
            on_delete: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
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

/// Something of a person's that cannot stay in the database.
#[derive(Debug)]
pub(crate) struct LeftOut {
    /// What it is, for instance `view "mine"`.
    pub(crate) object: String,
    /// Why it cannot stay.
    pub(crate) reason: String,
    /// The SQL that makes it again, with its rows.
    sql: String,
}

impl LeftOut {
    fn new(entry: &SchemaEntry, reason: impl Into<String>, sql: String) -> Self {
        Self { object: format!("{} {:?}", entry.kind, entry.name), reason: reason.into(), sql }
    }
}

/// Why SQLite refused something, without the path of a copy.
fn reason(error: &Error) -> String {
    match error {
        Error::Sqlite { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

/// Names of files with what of a person's could not stay begin so; the time in milliseconds follows.
pub(crate) const LEFT_OUT_PREFIX: &str = "own-objects-";

/// Writes what cannot stay to a file in a directory, as SQL, and logs it by name; `None` where there is nothing.
pub(crate) fn keep_in_file(directory: &Path, left_out: &[LeftOut]) -> Result<Option<PathBuf>> {
    if left_out.is_empty() {
        return Ok(None);
    }
    let mut millis = chrono::Utc::now().timestamp_millis();
    let file = |millis| directory.join(format!("{LEFT_OUT_PREFIX}{millis}.sql"));
    while file(millis).exists() {
        millis += 1;
    }
    let path = file(millis);
    replace_file(&path, |out| {
        let mut write = |text: String| out.write_all(text.as_bytes()).map_err(Error::io("write", &path));
        write(
            "-- Objects that somebody had added to state.db and that could not stay in it, each with the reason.\n"
                .into(),
        )?;
        // In an order in which they can be made again.
        let rank =
            |it: &&LeftOut| ["table", "column", "index", "view"].iter().position(|kind| it.object.starts_with(kind));
        let mut in_order: Vec<_> = left_out.iter().collect();
        in_order.sort_by_key(|it| rank(it).unwrap_or(usize::MAX));
        for LeftOut { object, reason, sql } in in_order {
            write(format!("\n-- {object}: {}\n{sql}", reason.split_whitespace().collect::<Vec<_>>().join(" ")))?;
        }
        Ok(())
    })?;
    for LeftOut { object, reason, .. } in left_out {
        tracing::warn!(object, reason, file = %path.display(), "somebody's own object could not stay in the database; the file has it");
    }
    Ok(Some(path))
}

/// Runs `work` while a connection runs and checks nothing of a person's and accepts every schema that SQLite accepts.
fn quietly<T>(conn: &Connection, work: impl FnOnce() -> Result<T>) -> Result<T> {
    /// Puts the settings back, also after a panic.
    struct Back<'c>(&'c Connection, Vec<(DbConfig, bool)>, Vec<(Limit, i32)>);
    impl Drop for Back<'_> {
        fn drop(&mut self) {
            let Self(conn, settings, limits) = self;
            let settings = settings.iter().map(|(setting, was)| conn.set_db_config(*setting, *was).map(drop));
            let limits = limits.iter().map(|(limit, was)| conn.set_limit(*limit, *was).map(drop));
            let checks = [conn.pragma_update(None, "ignore_check_constraints", false)];
            for error in settings.chain(limits).chain(checks).filter_map(rusqlite::Result::err) {
                tracing::error!(%error, "could not put a setting of the connection back");
            }
        }
    }
    let settings = [
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false),
        // The tables that a virtual one keeps for itself are copied as they are.
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false),
        // As in the shell of SQLite 3.40, which may have made them.
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, true),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, true),
    ];
    let limits = [(Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 32_766), (Limit::SQLITE_LIMIT_COLUMN, 2000)];
    let mut back = Back(conn, Vec::new(), Vec::new());
    for (setting, value) in settings {
        back.1.push((setting, conn.db_config(setting)?));
        conn.set_db_config(setting, value)?;
    }
    for (limit, value) in limits {
        back.2.push((limit, conn.limit(limit)?));
        conn.set_limit(limit, value)?;
    }
    conn.pragma_update(None, "ignore_check_constraints", true)?;
    work()
}

/// What was taken out of a database before its migrations.
pub(super) struct TakenOut {
    /// Indexes, triggers and views, to be made again.
    entries: Vec<SchemaEntry>,
    columns: Vec<ColumnValues>,
    left_out: Vec<LeftOut>,
}

/// The columns that a person added to one table of ours, with their values.
struct ColumnValues {
    table: String,
    columns: Vec<AddedColumn>,
    /// What names a row.
    identity: Vec<String>,
    /// Columns whose values are stored.
    stored: Vec<String>,
    /// The identity, then the values.
    rows: Vec<Vec<Value>>,
}

impl ColumnValues {
    fn read(conn: &Connection, table: &str, columns: Vec<AddedColumn>) -> Result<Self> {
        let identity = identity(conn, table)?;
        let stored = stored_columns(conn, table)?;
        let stored: Vec<_> = columns.iter().map(|it| it.name.clone()).filter(|name| stored.contains(name)).collect();
        let mut values = Self { table: table.to_owned(), columns, identity, stored, rows: Vec::new() };
        if !values.stored.is_empty() {
            let list = list(values.identity.iter().chain(&values.stored));
            let is_set: Vec<_> = values.stored.iter().map(|column| format!("{} IS NOT NULL", quoted(column))).collect();
            let sql = format!("SELECT {list} FROM {} WHERE {}", quoted(table), is_set.join(" OR "));
            let mut select = conn.prepare(&sql)?;
            let number = select.column_count();
            let rows = select.query_map([], |row| (0..number).map(|index| row.get(index)).collect())?;
            // From a damaged database, as far as it can be read.
            values.rows = rows.map_while(rusqlite::Result::ok).collect();
        }
        Ok(values)
    }

    /// Adds the columns that are missing from the table and gives them their values by the rows' keys.
    fn bring(&self, conn: &Connection, left_out: &mut Vec<LeftOut>) -> Result<()> {
        let present = columns(conn, &self.table)?;
        for column in &self.columns {
            if present.iter().any(|it| it.eq_ignore_ascii_case(&column.name)) {
                continue;
            }
            let alter = format!("ALTER TABLE {} ADD COLUMN {}", quoted(&self.table), column.definition);
            let added = alone(conn, || {
                conn.prepare(&alter)?.execute([])?;
                let Some(index) = self.stored.iter().position(|it| *it == column.name) else { return Ok(()) };
                let mut update = conn.prepare(&self.update(&column.name))?;
                for row in &self.rows {
                    let value = &row[self.identity.len() + index];
                    update.execute(params_from_iter([value].into_iter().chain(&row[..self.identity.len()])))?;
                }
                Ok(())
            });
            if let Err(error) = added {
                left_out.push(self.left_out(column, reason(&error)));
            }
        }
        Ok(())
    }

    fn update(&self, column: &str) -> String {
        let key: Vec<_> = self.identity.iter().map(|column| format!("{} = ?", quoted(column))).collect();
        format!("UPDATE {} SET {} = ? WHERE {}", quoted(&self.table), quoted(column), key.join(" AND "))
    }

    fn left_out(&self, column: &AddedColumn, reason: String) -> LeftOut {
        let mut sql = format!("ALTER TABLE {} ADD COLUMN {};\n", quoted(&self.table), column.definition);
        if let Some(index) = self.stored.iter().position(|it| *it == column.name) {
            for row in &self.rows {
                let (key, values) = row.split_at(self.identity.len());
                let condition = self.identity.iter().zip(key);
                let condition: Vec<_> = condition
                    .map(|(column, value)| format!("{} = {}", quoted(column), literal(value.into())))
                    .collect();
                let (table, name) = (quoted(&self.table), quoted(&column.name));
                let value = literal((&values[index]).into());
                let _ = writeln!(sql, "UPDATE {table} SET {name} = {value} WHERE {};", condition.join(" AND "));
            }
        }
        LeftOut { object: format!("column {:?} of table {}", column.name, self.table), reason, sql }
    }
}

/// Takes out what of a person's could be in the way of migrations to these versions, or be lost by them.
pub(super) fn take_out(conn: &Connection, own: OwnObjects, later: &[&ReleasedSchema]) -> Result<TakenOut> {
    quietly(conn, || {
        let is_ours = |table: &str| later.iter().any(|it| it.has_relation(table));
        let mut taken = TakenOut { entries: Vec::new(), columns: Vec::new(), left_out: Vec::new() };
        for kind in ["trigger", "view", "index"] {
            // An index on a table of a person's own is in nobody's way.
            let in_the_way = |entry: &&SchemaEntry| {
                kind != "index" || is_ours(&entry.table) || later.iter().any(|it| it.has_name(&entry.name))
            };
            for entry in own.of_kind(kind).filter(in_the_way) {
                conn.execute(&format!("DROP {kind} IF EXISTS {}", quoted(&entry.name)), [])?;
                let reason = match later.iter().find(|it| it.has_name(&entry.name)) {
                    Some(version) => {
                        Some(format!("version {} of the schema has something of that name", version.version))
                    }
                    // It must not come to stand on a table of ours that has the name of the person's.
                    None => (own.has_relation(&entry.table) && is_ours(&entry.table))
                        .then(|| format!("{:?}, which it is on, could not stay, either", entry.table)),
                };
                if let Some(reason) = reason {
                    taken.left_out.push(LeftOut::new(entry, reason, format!("{};\n", entry.sql)));
                } else {
                    taken.entries.push(entry.clone());
                }
            }
        }
        for table in own.of_kind("table") {
            if let Some(version) = later.iter().find(|it| it.has_name(&table.name)) {
                let reason = format!("version {} of the schema has something of that name", version.version);
                taken.left_out.push(LeftOut::new(table, reason, dump(conn, table)?));
                conn.execute(&format!("DROP TABLE {}", quoted(&table.name)), [])?;
            }
        }
        for (table, columns) in by_table(&own.columns) {
            let values = ColumnValues::read(conn, &table, columns)?;
            for column in &values.columns {
                if let Some(version) = later.iter().find(|it| it.has_column(&table, &column.name)) {
                    let reason = format!("version {} of the schema has a column of that name", version.version);
                    taken.left_out.push(values.left_out(column, reason));
                    conn.execute(&format!("ALTER TABLE {} DROP COLUMN {}", quoted(&table), quoted(&column.name)), [])?;
                }
            }
            taken.columns.push(values);
        }
        Ok(taken)
    })
}

/// Brings back what was taken out, after the migrations. Returns what could not come.
pub(super) fn bring_back(conn: &Connection, taken: TakenOut) -> Result<Vec<LeftOut>> {
    quietly(conn, || {
        let TakenOut { entries, columns, mut left_out } = taken;
        for values in &columns {
            values.bring(conn, &mut left_out)?;
        }
        make(conn, &entries, &mut left_out)?;
        Ok(left_out)
    })
}

/// What came of carrying a person's objects from one database to another.
#[derive(Default)]
pub(crate) struct Carried {
    /// What could not come.
    pub(crate) left_out: Vec<LeftOut>,
    /// Tables of which rows could not be read.
    pub(crate) incomplete: Vec<String>,
}

/// Carries what a person added from one database of ours into another: tables with their rows, columns, indexes, views and triggers.
/// Where the other one has something of that name, it is replaced, but that a column keeps its values. What a damaged database
/// does not give any more is named.
pub(super) fn carry(source: (&Connection, &OwnObjects), target: (&Connection, &OwnObjects)) -> Result<Carried> {
    let ((source, theirs), (target, present)) = (source, target);
    let mut carried = Carried::default();
    if theirs.is_empty() {
        return Ok(carried);
    }
    quietly(target, || {
        // What both have alike stays as it is: this SQLite may lack a function that is needed to make it again.
        let alike = |entry: &SchemaEntry| present.entries.contains(entry) && theirs.entries.contains(entry);
        let is_replaced = |table: &str| {
            let of = |own: &OwnObjects| own.of_kind("table").any(|it| it.name == table && !alike(it));
            of(theirs) || of(present)
        };
        let stays = |entry: &SchemaEntry| alike(entry) && !is_replaced(&entry.table);
        // All else that names tables is made again at the end, so that it goes with none of them.
        for kind in ["trigger", "view", "index"] {
            for entry in present.of_kind(kind).filter(|entry| !stays(entry)) {
                target.execute(&format!("DROP {kind} IF EXISTS {}", quoted(&entry.name)), [])?;
            }
        }
        for table in theirs.of_kind("table") {
            let copied = alone(target, || {
                if !alike(table) {
                    if present.has_name(&table.name) {
                        target.execute(&format!("DROP TABLE IF EXISTS {}", quoted(&table.name)), [])?;
                    }
                    create(target, table)?;
                } else if has_same_rows(source, target, theirs, table)? {
                    return Ok(true);
                } else if !table.is_virtual_table() {
                    target.execute(&format!("DELETE FROM {}", quoted(&table.name)), [])?;
                }
                copy_table(source, target, theirs, table)
            });
            match copied {
                Ok(true) => {}
                Ok(false) => carried.incomplete.push(table.name.clone()),
                Err(error @ (Error::DiskFull { .. } | Error::Io { .. })) => return Err(error),
                Err(error) => {
                    let sql = dump(source, table)?;
                    carried.left_out.push(LeftOut::new(table, reason(&error), sql));
                }
            }
        }
        for (table, columns) in by_table(&theirs.columns) {
            match ColumnValues::read(source, &table, columns.clone()) {
                Ok(values) => values.bring(target, &mut carried.left_out)?,
                Err(error) => {
                    let values = ColumnValues { table, columns, identity: vec![], stored: vec![], rows: vec![] };
                    values.bring(target, &mut carried.left_out)?;
                    tracing::warn!(%error, table = values.table, "the values of added columns cannot be read");
                    carried.incomplete.push(values.table);
                }
            }
        }
        let named = |entry: &&SchemaEntry| !theirs.has_name(&entry.name);
        let entries = theirs.entries.iter().chain(present.entries.iter().filter(named));
        let entries: Vec<_> = entries.filter(|entry| !stays(entry)).cloned().collect();
        make(target, &entries, &mut carried.left_out)
    })?;
    Ok(carried)
}

/// Makes indexes, views and triggers again, in this order: a trigger may be on a view.
fn make(conn: &Connection, entries: &[SchemaEntry], left_out: &mut Vec<LeftOut>) -> Result<()> {
    for kind in ["index", "view", "trigger"] {
        for entry in entries.iter().filter(|entry| entry.kind == kind) {
            match alone(conn, || create(conn, entry)) {
                Ok(()) => {}
                Err(error @ (Error::DiskFull { .. } | Error::Io { .. })) => return Err(error),
                Err(error) => {
                    left_out.push(LeftOut::new(entry, reason(&error), format!("{};\n", entry.sql)));
                }
            }
        }
    }
    Ok(())
}

/// Makes one object by its SQL, and nothing else: only the first statement of what stands in the schema.
fn create(conn: &Connection, entry: &SchemaEntry) -> Result<()> {
    if !starts_with(&entry.sql, "CREATE ") {
        let record = format!("{} {:?}", entry.kind, entry.name);
        return Err(Error::InvalidValue { record, detail: "its SQL is no CREATE statement".into() });
    }
    conn.prepare(&entry.sql)?.raw_execute()?;
    Ok(())
}

/// Does something whole or not at all inside a transaction.
fn alone<T>(conn: &Connection, work: impl FnOnce() -> Result<T>) -> Result<T> {
    conn.execute_batch("SAVEPOINT own_object")?;
    let result = work().map_err(|error| match error {
        // By kind, where it is the disk and not the object.
        Error::Sqlite { source, .. }
            if matches!(
                source.sqlite_error_code(),
                Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::SystemIoFailure)
            ) =>
        {
            Error::from(source).at(conn.path().map(Path::new).unwrap_or(Path::new("")))
        }
        other => other,
    });
    if result.is_err() && !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK TO own_object")?;
    }
    if !conn.is_autocommit() {
        conn.execute_batch("RELEASE own_object")?;
    }
    result
}

/// Copies the rows of a table, or the tables that a virtual one keeps for itself; whether all of them could be read.
fn copy_table(source: &Connection, target: &Connection, theirs: &OwnObjects, table: &SchemaEntry) -> Result<bool> {
    if !table.is_virtual_table() {
        let is_whole = copy_rows(source, target, &table.name)?;
        copy_sequence(source, target, &table.name)?;
        return Ok(is_whole);
    }
    let mut is_whole = true;
    for (_, shadow) in theirs.shadows.iter().filter(|(owner, _)| *owner == table.name) {
        target.execute(&format!("DELETE FROM {}", quoted(shadow)), [])?;
        is_whole &= copy_rows(source, target, shadow)?;
    }
    Ok(is_whole)
}

/// Whether two databases have the same rows in a table, in the same order.
fn has_same_rows(one: &Connection, other: &Connection, own: &OwnObjects, table: &SchemaEntry) -> Result<bool> {
    let shadows = own.shadows.iter().filter(|(owner, _)| *owner == table.name).map(|(_, shadow)| shadow);
    let tables: Vec<_> = if table.is_virtual_table() { shadows.collect() } else { vec![&table.name] };
    for table in tables {
        let sql = format!("SELECT * FROM {} NOT INDEXED", quoted(table));
        let (mut one, mut other) = (one.prepare(&sql)?, other.prepare(&sql)?);
        let number = one.column_count();
        if other.column_count() != number {
            return Ok(false);
        }
        let (mut one, mut other) = (one.query([])?, other.query([])?);
        loop {
            match (one.next()?, other.next()?) {
                (None, None) => break,
                (Some(one), Some(other)) => {
                    for index in 0..number {
                        if one.get_ref(index)? != other.get_ref(index)? {
                            return Ok(false);
                        }
                    }
                }
                _ => return Ok(false),
            }
        }
    }
    Ok(true)
}

/// Copies the rows of a table, from both ends where not all of them can be read; whether they can.
fn copy_rows(source: &Connection, target: &Connection, table: &str) -> Result<bool> {
    let columns = stored_columns(target, table)?;
    let known = stored_columns(source, table)?;
    let mut columns: Vec<_> = columns.into_iter().filter(|column| known.contains(column)).collect();
    let key_columns = key(source, table)?;
    let is_without_rowid: bool =
        source.query_row("SELECT wr FROM pragma_table_list(?1) WHERE schema = 'main'", [table], |row| row.get(0))?;
    let rowid =
        ["rowid", "_rowid_", "oid"].into_iter().find(|name| !columns.iter().any(|it| it.eq_ignore_ascii_case(name)));
    let order = match rowid {
        Some(rowid) if !is_without_rowid => {
            columns.insert(0, rowid.to_owned());
            vec![rowid.to_owned()]
        }
        _ => key_columns,
    };
    let marks = vec!["?"; columns.len()].join(", ");
    let insert = format!("INSERT INTO {} ({}) VALUES ({marks})", quoted(table), list(&columns));
    let mut insert = target.prepare(&insert)?;
    let mut read = |direction: &str| -> Result<bool> {
        let order: Vec<_> = order.iter().map(|column| format!("{} {direction}", quoted(column))).collect();
        let order = if order.is_empty() { String::new() } else { format!("ORDER BY {}", order.join(", ")) };
        let sql = format!("SELECT {} FROM {} NOT INDEXED {order}", list(&columns), quoted(table));
        // Only from a damaged database: in another one every table can be asked.
        let Ok(mut select) = source.prepare(&sql) else { return Ok(false) };
        insert_all(&mut select, &mut insert, columns.len(), direction == "DESC")
    };
    Ok(read("ASC")? || {
        read("DESC")?;
        false
    })
}

/// Inserts what a query gives; whether it could be read to its end. From the other end, only up to a row that is there already.
fn insert_all(
    select: &mut Statement<'_>,
    insert: &mut Statement<'_>,
    number: usize,
    from_the_end: bool,
) -> Result<bool> {
    let mut rows = select.query([])?;
    let mut is_whole = true;
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(is_whole),
            Err(_) => return Ok(false),
        };
        let values = (0..number).map(|index| row.get_ref(index).map(ToSqlOutput::Borrowed));
        let values = values.collect::<rusqlite::Result<Vec<_>>>()?;
        match insert.execute(params_from_iter(values)) {
            Ok(_) => {}
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                if from_the_end {
                    return Ok(false);
                }
                is_whole = false;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Carries over how far an `AUTOINCREMENT` column has counted.
fn copy_sequence(source: &Connection, target: &Connection, table: &str) -> Result<()> {
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = ?1";
    let Ok(Some(counted)) = source.query_row(sql, [table], |row| row.get::<_, i64>(0)).optional() else {
        return Ok(());
    };
    if target.execute("UPDATE sqlite_sequence SET seq = ?2 WHERE name = ?1", (table, counted))? == 0 {
        target.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)", (table, counted))?;
    }
    Ok(())
}

/// A table with its rows, as SQL; of a damaged one, those that can be read.
fn dump(conn: &Connection, table: &SchemaEntry) -> Result<String> {
    let mut sql = format!("{};\n", table.sql);
    let (Ok(columns), true) = (stored_columns(conn, &table.name), !table.sql.is_empty()) else { return Ok(sql) };
    let names = list(&columns);
    let Ok(mut select) = conn.prepare(&format!("SELECT {names} FROM {}", quoted(&table.name))) else { return Ok(sql) };
    let mut rows = select.query([])?;
    while let Ok(Some(row)) = rows.next() {
        let values: Vec<_> =
            (0..columns.len()).map(|index| row.get_ref(index).map(literal)).collect::<rusqlite::Result<_>>()?;
        let _ = writeln!(sql, "INSERT INTO {} ({names}) VALUES ({});", quoted(&table.name), values.join(", "));
    }
    Ok(sql)
}

/// A value as SQL.
fn literal(value: ValueRef<'_>) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) if number.is_infinite() => if number > 0.0 { "9e999" } else { "-9e999" }.into(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) if !text.contains('\0') => format!("'{}'", text.replace('\'', "''")),
            _ => format!("CAST(X'{}' AS TEXT)", hex(text)),
        },
        ValueRef::Blob(bytes) => format!("X'{}'", hex(bytes)),
    }
}

/// A table of ours with rows that refer to nothing.
pub(super) fn broken_reference(conn: &Connection, schema: &ReleasedSchema) -> Result<Option<String>> {
    Ok(broken_references(conn, schema, 1)?.into_iter().next().map(|(table, _)| table))
}

/// The tables of ours with how many of their rows refer to nothing, at most `most` of each. What a person's own tables and columns
/// refer to is theirs: `PRAGMA foreign_key_check` looks at that, too, and fails where it fits nothing.
pub(super) fn broken_references(conn: &Connection, schema: &ReleasedSchema, most: u32) -> Result<Vec<(String, u64)>> {
    let mut broken = Vec::new();
    for ForeignKey { table: child, from, parent, to, .. } in &schema.foreign_keys {
        let (table, from, parent, to) =
            (quoted(child), quoted(from), quoted(parent), quoted(to.as_ref().unwrap_or(from)));
        let sql = format!(
            "SELECT count(*) FROM (
               SELECT 1 FROM {table} AS child WHERE child.{from} IS NOT NULL
               AND NOT EXISTS (SELECT 1 FROM {parent} AS parent WHERE parent.{to} = child.{from}) LIMIT {most}
             )"
        );
        match conn.query_row(&sql, [], |row| row.get(0))? {
            0 => {}
            number => broken.push((child.clone(), number)),
        }
    }
    Ok(broken)
}

/// Whether SQLite could not make sense of SQL: where that of a check is right, the schema calls a function that it does not have, or
/// does not trust.
pub(crate) fn is_missing_function(error: &rusqlite::Error) -> bool {
    let code = match error {
        rusqlite::Error::SqliteFailure(error, _) | rusqlite::Error::SqlInputError { error, .. } => error.extended_code,
        _ => return false,
    };
    code == rusqlite::ffi::SQLITE_ERROR
}

/// What SQLite finds wrong with a database. Where somebody has tables in it and each of ours is whole, it is theirs, which is logged.
pub(super) fn integrity_problem(conn: &Connection, schema: &ReleasedSchema) -> Result<Option<String>> {
    let verdict = |pragma: &str| -> rusqlite::Result<String> { conn.query_row(pragma, [], |row| row.get(0)) };
    let whole = match verdict("PRAGMA integrity_check(1)") {
        Ok(verdict) if verdict == "ok" => return Ok(None),
        // A function of a person's own index or constraint that this SQLite does not have, or does not trust.
        Err(error) if is_missing_function(&error) => error.to_string(),
        verdict => verdict?,
    };
    if OwnObjects::find(conn, schema)?.is_empty() {
        return Ok(Some(whole));
    }
    let tables = schema.entries.iter().filter(|entry| entry.kind == "table").map(|entry| entry.name.as_str());
    for table in tables.chain(["sqlite_schema"]) {
        match verdict(&format!("PRAGMA integrity_check({})", quoted(table))) {
            Ok(verdict) if verdict == "ok" => {}
            // It is on this table of ours, which so cannot be checked.
            Err(error) if is_missing_function(&error) => return Err(uncheckable(conn, schema, table, error)?),
            verdict => return Ok(Some(verdict?)),
        }
    }
    tracing::info!(verdict = whole, "something that somebody added to the database is not as it should be");
    Ok(None)
}

/// Names what somebody added to a table of ours, where it makes that SQLite cannot check the table.
fn uncheckable(conn: &Connection, schema: &ReleasedSchema, table: &str, source: rusqlite::Error) -> Result<Error> {
    let own = OwnObjects::find(conn, schema)?;
    let is_here = |it: &str| it.eq_ignore_ascii_case(table);
    let indexes = own.of_kind("index").filter(|it| is_here(&it.table));
    let indexes = indexes.map(|it| format!("the index {:?} on {table}", it.name));
    let columns = own.columns.iter().filter(|it| is_here(&it.table));
    let objects: Vec<_> = indexes.chain(columns.map(|it| format!("the column {:?} of {table}", it.name))).collect();
    let path = PathBuf::from(conn.path().unwrap_or_default());
    Ok(if objects.is_empty() { source.into() } else { Error::OwnObject { path, objects, source } })
}

/// What names a row for people and for other tables: the columns of a unique constraint, or the primary key.
fn identity(conn: &Connection, table: &str) -> Result<Vec<String>> {
    let sql = "SELECT name FROM pragma_index_list(?1) WHERE \"unique\" AND origin = 'u' ORDER BY seq DESC LIMIT 1";
    if let Some(index) = texts(conn, sql, [table])?.pop() {
        return texts(conn, "SELECT name FROM pragma_index_info(?1) ORDER BY seqno", [&index]);
    }
    key(conn, table)
}

fn key(conn: &Connection, table: &str) -> Result<Vec<String>> {
    texts(conn, "SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk", [table])
}

/// All columns of a table, also generated ones.
fn columns(conn: &Connection, table: &str) -> Result<Vec<String>> {
    texts(conn, "SELECT name FROM pragma_table_xinfo(?1) ORDER BY cid", [table])
}

/// The columns of a table that hold values of their own.
fn stored_columns(conn: &Connection, table: &str) -> Result<Vec<String>> {
    texts(conn, "SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0 ORDER BY cid", [table])
}

fn texts(conn: &Connection, sql: &str, parameters: impl rusqlite::Params) -> Result<Vec<String>> {
    Ok(conn.prepare(sql)?.query_map(parameters, |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

fn by_table(columns: &[AddedColumn]) -> Vec<(String, Vec<AddedColumn>)> {
    let mut tables: Vec<(String, Vec<AddedColumn>)> = Vec::new();
    for column in columns {
        match tables.iter_mut().find(|(table, _)| *table == column.table) {
            Some((_, columns)) => columns.push(column.clone()),
            None => tables.push((column.table.clone(), vec![column.clone()])),
        }
    }
    tables
}

fn list(columns: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    columns.into_iter().map(|column| quoted(column.as_ref())).collect::<Vec<_>>().join(", ")
}

/// A name as SQL, whatever characters it holds.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether a text begins with another, in small letters or capitals.
fn starts_with(text: &str, beginning: &str) -> bool {
    text.get(..beginning.len()).is_some_and(|start| start.eq_ignore_ascii_case(beginning))
}
