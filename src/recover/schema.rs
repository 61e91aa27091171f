//! The schema of a damaged database, put together again.
//!
//! `sqlite_schema` is a tree of its own: with one of its pages, SQLite loses every table behind it, although the pages of these are
//! whole. What a row of it says is known otherwise: the SQL from the migrations, and the root page from the rows that are left,
//! the order in which the migrations create tables and indexes, and the form of the records. Where these do not agree on one page,
//! the table is left out, so that its rows never end up in another one.
//!
//! SQLite's recovery extension (`sqlite3_recover`) also finds lost tables, but neither their names nor what belongs to them; it is
//! not part of the bundled library.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params};
use tempfile::NamedTempFile;

use super::pages::PageMap;
use super::report::{RecoveryFinding, count, finding};
use super::shape::{is_damage, unless_damaged};
use crate::db;
use crate::error::{Error, Result};
use crate::state_dir;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Kinds of pages of a tree.
const INDEX_INNER: u8 = 2;
const TABLE_INNER: u8 = 5;
const INDEX_LEAF: u8 = 10;
const TABLE_LEAF: u8 = 13;

/// Pages of a tree that are looked at to tell the form of its records, and records.
const MOST_PAGES: usize = 12;
const MOST_RECORDS: usize = 100;

/// A database with a complete schema, in place of one whose schema is damaged.
pub(super) struct Mended {
    pub(super) file: NamedTempFile,
    pub(super) lost: Vec<RecoveryFinding>,
}

/// Mends the header of a copy, and makes a database with a complete schema of it where that is damaged; `None` where the schema is
/// whole, or nothing is left of it.
pub(super) fn mend(copy: &Path, state_dir: &Path) -> Result<Option<Mended>> {
    mend_header(copy)?;
    let Some(conn) = unless_damaged(db::open_damaged(copy))? else { return Ok(None) };
    let file = state_dir::temporary_file(state_dir, db::NEW_PREFIX)?;
    // One file, with what is in the WAL.
    if unless_damaged(db::copy_raw(&conn, file.path()))?.is_none() {
        return Ok(None);
    }
    drop(conn);
    let Some(pages) = Pages::open(file.path())? else { return Ok(None) };
    let rows = pages.schema_rows()?;
    let roots = pages.roots()?;
    let latest = db::latest_schema_version();
    let versions = match pages.user_version {
        version if (1..=latest).contains(&version) => vec![version],
        _ => (1..=latest).rev().collect(),
    };
    let mut best: Option<Assignment> = None;
    for version in versions {
        let assignment = Assignment::find(&pages, &rows, &roots, version, state_dir)?;
        if best.as_ref().is_none_or(|best| assignment.unexplained() < best.unexplained()) {
            best = Some(assignment);
        }
    }
    let Some(assignment) = best.filter(|it| it.roots.values().any(|root| *root > 0)) else { return Ok(None) };
    if assignment.is_complete && is_readable(file.path(), rows.len())? {
        return Ok(None);
    }
    let lost = assignment.findings(&rows);
    write(&pages, file.path(), &assignment, &rows)?;
    Ok(Some(Mended { file, lost }))
}

/// Whether SQLite reads this many rows of a schema.
fn is_readable(path: &Path, rows: usize) -> Result<bool> {
    let conn = db::open_damaged(path)?;
    let read = || -> rusqlite::Result<usize> {
        let mut select = conn.prepare("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema")?;
        let read =
            |row: &rusqlite::Row<'_>| (0..5).map(|index| row.get(index)).collect::<rusqlite::Result<Vec<Value>>>();
        let rows = select.query_map([], read)?;
        Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.len())
    };
    Ok(is_damage(read())? == Some(rows))
}

/// Mends what of a header SQLite needs to read any page, where the pointer map tells that this is such a database.
fn mend_header(copy: &Path) -> Result<()> {
    let failed = |error| Error::io("read", copy)(error);
    let file = OpenOptions::new().read(true).write(true).open(copy).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let mut header = [0; 100];
    if file.read_exact_at(&mut header, 0).is_err() {
        return Ok(());
    }
    let was = header;
    let told = page_size(&header);
    let sizes = told.into_iter().chain([4096]).chain((9..=16).map(|power| 1 << power));
    let mapped = |size: u32| Some((size, mapped_pages(&file, bytes, size)?));
    let Some((size, pages)) = sizes.into_iter().find_map(mapped) else { return Ok(()) };
    let is_gone = header[..16] != *MAGIC;
    header[..16].copy_from_slice(MAGIC);
    if told != Some(size) {
        header[16..18].copy_from_slice(&((size & 0xffff) as u16 | (size >> 16) as u16).to_be_bytes());
    }
    let has_wal = db::beside(copy, "-wal").exists();
    for version in &mut header[18..20] {
        if !matches!(*version, 1 | 2) {
            *version = if has_wal { 2 } else { 1 };
        }
    }
    header[21..24].copy_from_slice(&[64, 32, 32]);
    if u32_at(&header, 28) < pages || is_gone {
        header[28..32].copy_from_slice(&pages.to_be_bytes());
        header.copy_within(24..28, 92);
    }
    for (at, least, most, usual) in [(44, 1, 4, 4), (52, 3, u32::MAX, 3), (56, 1, 3, 1)] {
        if !(least..=most).contains(&u32_at(&header, at)) {
            header[at..at + 4].copy_from_slice(&u32::to_be_bytes(usual));
        }
    }
    if is_gone {
        // What follows is as little to be trusted.
        header[20] = 0;
        header[32..40].fill(0);
        header[64..68].copy_from_slice(&1_u32.to_be_bytes());
    }
    if header != was {
        file.write_all_at(&header, 0).map_err(Error::io("write", copy))?;
    }
    Ok(())
}

fn page_size(header: &[u8]) -> Option<u32> {
    match u32::from(u16::from_be_bytes([header[16], header[17]])) {
        1 => Some(65_536),
        size if size.is_power_of_two() && size >= 512 => Some(size),
        _ => None,
    }
}

/// How many pages a file has as the first page of its pointer map tells; `None` where there is none for pages of this size.
fn mapped_pages(file: &File, bytes: u64, size: u32) -> Option<u32> {
    let pages = u32::try_from(bytes / u64::from(size)).ok()?;
    let map = PageMap { page_size: size, has_map: true };
    let mut page = vec![0; size as usize];
    file.read_exact_at(&mut page, u64::from(size)).ok()?;
    let entries: Vec<_> = page.chunks_exact(5).take(pages.saturating_sub(2) as usize).collect();
    let is_good = |entry: &&&[u8]| match (entry[0], u32_at(entry, 1)) {
        (1 | 2, parent) => parent == 0,
        (3..=5, parent) => parent > 0 && parent <= pages,
        _ => false,
    };
    let good = entries.iter().filter(is_good).count();
    let end = entries.iter().rposition(|entry| is_good(&entry))? as u32 + 3;
    let is_map = entries[0][0] == 1 && good >= 8 && good * 20 >= (end as usize - 2) * 19;
    // Beyond its first page, the size of the file tells.
    is_map.then_some(if pages > map.entries() + 2 { pages } else { end })
}

/// A row of `sqlite_schema`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SchemaRow {
    kind: String,
    name: String,
    table: String,
    root: u32,
    sql: Option<String>,
}

/// The pages of a database in one file.
struct Pages {
    file: File,
    size: usize,
    usable: usize,
    pages: u32,
    map: PageMap,
    user_version: u32,
}

impl Pages {
    fn open(path: &Path) -> Result<Option<Self>> {
        let failed = |error| Error::io("read", path)(error);
        let file = File::open(path).map_err(failed)?;
        let mut header = [0; 100];
        if file.read_exact_at(&mut header, 0).is_err() {
            return Ok(None);
        }
        let Some(size) = page_size(&header) else { return Ok(None) };
        let pages = file.metadata().map_err(failed)?.len() / u64::from(size);
        let Some(usable) = size.checked_sub(u32::from(header[20])).filter(|it| *it >= 480) else { return Ok(None) };
        Ok(Some(Self {
            file,
            size: size as usize,
            usable: usable as usize,
            pages: u32::try_from(pages).unwrap_or(u32::MAX),
            map: PageMap { page_size: size, has_map: u32_at(&header, 52) != 0 },
            user_version: u32_at(&header, 60),
        }))
    }

    /// A page; `None` where the file has none of that number.
    fn page(&self, number: u32) -> Result<Option<Page<'_>>> {
        if number == 0 || number > self.pages {
            return Ok(None);
        }
        let mut bytes = vec![0; self.size];
        match self.file.read_exact_at(&mut bytes, u64::from(number - 1) * self.size as u64) {
            Ok(()) => Ok(Some(Page { pages: self, bytes, start: if number == 1 { 100 } else { 0 } })),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(source) => Err(Error::Io { action: "read", path: "a copy of the database".into(), source }),
        }
    }

    /// What the pointer map says of a page: its kind and its parent; `None` where it says nothing that can be.
    fn entry(&self, page: u32) -> Option<(u8, u32)> {
        let (kind, parent) = self.map.entry(&self.file, page).filter(|_| self.map.has_map)?;
        matches!((kind, parent), (1 | 2, 0) | (3..=5, 1..)).then_some((kind, parent)).filter(|_| parent <= self.pages)
    }

    /// Whether the pointer map leads from an inner page or a leaf to the root of the schema; `None` where it does not tell.
    fn is_of_schema(&self, page: u32) -> Option<bool> {
        let mut at = page;
        for _ in 0..20 {
            match (at, self.entry(at)) {
                (1, _) => return Some(true),
                (_, Some((5, parent))) => at = parent,
                (_, Some(_)) => return Some(false),
                (_, None) => return None,
            }
        }
        Some(false)
    }

    /// The rows of the schema that are left on any of its leaves.
    fn schema_rows(&self) -> Result<Vec<SchemaRow>> {
        let mut found: BTreeMap<(i64, String), SchemaRow> = BTreeMap::new();
        for number in 1..=self.pages {
            if self.is_of_schema(number) == Some(false) {
                continue;
            }
            let Some(page) = self.page(number)?.filter(|page| page.kind() == TABLE_LEAF) else { continue };
            for cell in page.cells() {
                let Some((rowid, record)) = page.record(cell) else { continue };
                if let Some(row) = self.schema_row(&record)? {
                    found.insert((rowid, row.name.clone()), row);
                }
            }
        }
        Ok(found.into_values().collect())
    }

    fn schema_row(&self, record: &Record<'_>) -> Result<Option<SchemaRow>> {
        let [kind, name, table, root, sql] = record.types[..] else { return Ok(None) };
        let is_text = |kind: u64| kind >= 13 && kind % 2 == 1;
        if ![kind, name, table].into_iter().all(is_text) || !(is_text(sql) || sql == 0) || !is_integer(root) {
            return Ok(None);
        }
        // The shortest one with such a name.
        if kind > 13 + 2 * 7 || record.length > 2_000_000 {
            return Ok(None);
        }
        let Some(payload) = self.payload(record)? else { return Ok(None) };
        let mut at = record.header;
        let mut next = |kind: u64| {
            let bytes = payload.get(at..at + length_of(kind))?;
            at += bytes.len();
            Some(bytes)
        };
        let values: Option<Vec<&[u8]>> = record.types.iter().map(|kind| next(*kind)).collect();
        let Some(values) = values else { return Ok(None) };
        let text = |index: usize| String::from_utf8(values[index].to_vec()).ok();
        let number = values[3].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let root_page = match root {
            8 => 0,
            9 => 1,
            _ => u32::try_from(number).unwrap_or(0),
        };
        let (Some(kind), Some(name), Some(table)) = (text(0), text(1), text(2)) else { return Ok(None) };
        let has_kind = ["table", "index", "view", "trigger"].contains(&kind.as_str());
        let sql = if sql == 0 { None } else { text(4) };
        let is_row = has_kind && !name.is_empty() && (sql.is_some() || kind == "index");
        Ok(is_row.then_some(SchemaRow { kind, name, table, root: root_page, sql }))
    }

    /// All bytes of a record, also those on overflow pages.
    fn payload(&self, record: &Record<'_>) -> Result<Option<Vec<u8>>> {
        let mut payload = record.local.to_vec();
        let mut next = record.overflow;
        while payload.len() < record.length {
            let Some(page) = self.page(next)? else { return Ok(None) };
            next = u32_at(&page.bytes, 0);
            let wanted = (record.length - payload.len()).min(self.usable - 4);
            payload.extend_from_slice(&page.bytes[4..4 + wanted]);
        }
        Ok(Some(payload))
    }

    /// The roots of trees other than the schema's: by the pointer map, and where it does not tell, pages to which no other one leads.
    fn roots(&self) -> Result<BTreeSet<u32>> {
        let (mut roots, mut unclear) = (BTreeSet::new(), BTreeSet::new());
        for number in 2..=self.pages {
            match self.entry(number) {
                _ if self.map.is_map(number) => {}
                Some((1, _)) => {
                    roots.insert(number);
                }
                Some(_) => {}
                None => {
                    unclear.insert(number);
                }
            }
        }
        if unclear.is_empty() {
            return Ok(roots);
        }
        let mut is_child = BTreeSet::new();
        for number in 1..=self.pages {
            let Some(page) = self.page(number)? else { continue };
            is_child.extend(page.children());
        }
        for number in unclear {
            let is_tree = |page: &Page<'_>| {
                matches!(page.kind(), INDEX_INNER | TABLE_INNER | INDEX_LEAF | TABLE_LEAF) && page.is_plausible()
            };
            if !is_child.contains(&number) && self.page(number)?.is_some_and(|page| is_tree(&page)) {
                roots.insert(number);
            }
        }
        Ok(roots)
    }

    /// How the records of a tree fit to what a table or an index holds.
    fn fit(&self, root: u32, form: &Form) -> Result<Fit> {
        let mut todo = vec![root];
        let (mut looked_at, mut records, mut good, mut has_more) = (0, 0, 0, false);
        while let Some(number) = todo.pop() {
            looked_at += 1;
            if looked_at > MOST_PAGES || records >= MOST_RECORDS {
                break;
            }
            let Some(page) = self.page(number)? else { continue };
            let is_of_kind = match page.kind() {
                TABLE_LEAF | TABLE_INNER => form.has_rowid,
                INDEX_LEAF | INDEX_INNER => !form.has_rowid,
                _ => false,
            };
            if !is_of_kind {
                if number == root {
                    return Ok(Fit::No);
                }
                continue;
            }
            todo.extend(page.children().into_iter().rev());
            if page.kind() == TABLE_INNER {
                continue;
            }
            for cell in page.cells() {
                records += 1;
                let Some((_, record)) = page.record(cell) else { continue };
                if form.allows(&record.types) {
                    good += 1;
                    has_more |= record.types.len() > form.columns.len();
                }
            }
        }
        Ok(match (records, good) {
            (0, _) if looked_at == 1 => Fit::Empty,
            (_, 0) => Fit::No,
            _ if good * 4 >= records * 3 => Fit::Yes { has_more },
            _ => Fit::No,
        })
    }
}

struct Page<'p> {
    pages: &'p Pages,
    bytes: Vec<u8>,
    /// Where its header begins.
    start: usize,
}

impl Page<'_> {
    fn kind(&self) -> u8 {
        self.bytes[self.start]
    }

    fn is_inner(&self) -> bool {
        matches!(self.kind(), INDEX_INNER | TABLE_INNER)
    }

    /// Whether the numbers in its header can be true.
    fn is_plausible(&self) -> bool {
        let number = u16_at(&self.bytes, self.start + 3);
        let content = match u16_at(&self.bytes, self.start + 5) {
            0 => 65_536,
            content => content,
        };
        content <= self.pages.usable && self.cells_start() + 2 * number <= content && (number > 0 || !self.is_inner())
    }

    fn cells_start(&self) -> usize {
        self.start + if self.is_inner() { 12 } else { 8 }
    }

    /// Where its cells begin.
    fn cells(&self) -> Vec<usize> {
        let number = u16_at(&self.bytes, self.start + 3).min(self.pages.usable / 2);
        let pointers = (0..number).map(|cell| self.cells_start() + 2 * cell);
        let pointers = pointers.take_while(|at| at + 2 <= self.pages.usable).map(|at| u16_at(&self.bytes, at));
        pointers.filter(|at| *at >= self.cells_start() && at + 4 <= self.pages.usable).collect()
    }

    /// The pages to which it leads.
    fn children(&self) -> Vec<u32> {
        if !self.is_inner() || !self.is_plausible() {
            return Vec::new();
        }
        let last = u32_at(&self.bytes, self.start + 8);
        self.cells().into_iter().map(|at| u32_at(&self.bytes, at)).chain([last]).collect()
    }

    /// The record in a cell, and its row number where it is a table's.
    fn record(&self, at: usize) -> Option<(i64, Record<'_>)> {
        let bytes = &self.bytes[..self.pages.usable];
        let mut at = at + if self.is_inner() { 4 } else { 0 };
        let length = usize::try_from(varint(bytes, &mut at)?).ok()?;
        let is_table = self.kind() == TABLE_LEAF;
        let rowid = if is_table { varint(bytes, &mut at)? as i64 } else { 0 };
        let usable = self.pages.usable;
        let least = (usable - 12) * 32 / 255 - 23;
        let most = if is_table { usable - 35 } else { (usable - 12) * 64 / 255 - 23 };
        let local = match length {
            length if length <= most => length,
            length => match least + (length - least) % (usable - 4) {
                local if local <= most => local,
                _ => least,
            },
        };
        let overflow = if local < length { u32_at(bytes.get(at + local..at + local + 4)?, 0) } else { 0 };
        let local = bytes.get(at..at + local)?;
        let mut within = 0;
        let header = usize::try_from(varint(local, &mut within)?).ok()?;
        let mut types = Vec::new();
        while within < header {
            types.push(varint(local.get(..header)?, &mut within)?);
        }
        let total = types.iter().try_fold(header, |total, kind| total.checked_add(length_of(*kind)))?;
        (total == length).then_some((rowid, Record { types, header, local, length, overflow }))
    }
}

/// The types of a record's values, as it begins.
struct Record<'p> {
    types: Vec<u64>,
    /// How long that beginning is.
    header: usize,
    local: &'p [u8],
    length: usize,
    overflow: u32,
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut number = 0;
    for index in 0..9 {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if index == 8 {
            return Some(number << 8 | u64::from(byte));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            break;
        }
    }
    Some(number)
}

/// How many bytes a value takes, by its type: <https://www.sqlite.org/fileformat2.html#record_format>
fn length_of(kind: u64) -> usize {
    match kind {
        0 | 8..=11 => 0,
        1..=4 => kind as usize,
        5 => 6,
        6 | 7 => 8,
        _ => usize::try_from((kind - 12) / 2).unwrap_or(usize::MAX),
    }
}

fn is_integer(kind: u64) -> bool {
    matches!(kind, 1..=6 | 8 | 9)
}

enum Fit {
    /// There is no record.
    Empty,
    /// `has_more`: records have values of columns that the table is not made with.
    Yes {
        has_more: bool,
    },
    No,
}

/// What the records of a table or an index hold, in the order in which they hold it.
struct Form {
    has_rowid: bool,
    columns: Vec<Column>,
}

struct Column {
    /// As declared; empty where any value may stand.
    kind: String,
    is_required: bool,
    /// The number of the row stands in its place, and NULL is stored.
    is_rowid: bool,
    /// Rows that are older than the column lack it.
    may_lack: bool,
}

impl Form {
    fn allows(&self, types: &[u64]) -> bool {
        let lacking = self.columns.iter().skip(types.len());
        !types.is_empty()
            && lacking.into_iter().all(|column| column.may_lack && self.has_rowid)
            && self.columns.iter().zip(types).all(|(column, kind)| match (*kind, column.kind.as_str()) {
                (kind, _) if column.is_rowid => kind == 0,
                (0, _) => !column.is_required,
                (kind, "INTEGER") => is_integer(kind),
                (kind, "REAL") => is_integer(kind) || kind == 7,
                (kind, "TEXT") => kind >= 13 && kind % 2 == 1,
                _ => true,
            })
    }

    fn of_table(conn: &Connection, table: &str) -> rusqlite::Result<Self> {
        let sql = "SELECT wr FROM pragma_table_list(?1) WHERE schema = 'main'";
        let has_rowid = !conn.query_row(sql, [table], |row| row.get::<_, bool>(0))?;
        let sql = "SELECT upper(type), \"notnull\", dflt_value IS NOT NULL, pk FROM pragma_table_xinfo(?1) WHERE hidden IN (0, 3)
                   ORDER BY ?2 AND pk = 0, ?2 AND pk, cid";
        let mut select = conn.prepare(sql)?;
        let columns = select.query_map(params![table, !has_rowid], |row| {
            let (kind, not_null, has_default): (String, bool, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let is_key = row.get::<_, i64>(3)? > 0;
            Ok((is_key, Column { is_rowid: false, may_lack: has_default || !not_null, is_required: not_null, kind }))
        })?;
        let mut columns = columns.collect::<rusqlite::Result<Vec<_>>>()?;
        let keys = columns.iter().filter(|(is_key, _)| *is_key).count();
        for (is_key, column) in &mut columns {
            column.is_rowid = *is_key && has_rowid && keys == 1 && column.kind == "INTEGER";
            column.is_required |= *is_key && !has_rowid;
        }
        Ok(Self { has_rowid, columns: columns.into_iter().map(|(_, column)| column).collect() })
    }

    fn of_index(conn: &Connection, index: &str, table: &str) -> rusqlite::Result<Self> {
        // An expression has no column of the table, and the number of the row is column -1.
        let sql = "SELECT coalesce(upper(c.type), iif(i.cid = -1, 'INTEGER', '')), coalesce(c.\"notnull\", i.cid = -1)
                   FROM pragma_index_xinfo(?1) i LEFT JOIN pragma_table_xinfo(?2) c ON c.cid = i.cid ORDER BY i.seqno";
        let mut select = conn.prepare(sql)?;
        let columns = select.query_map([index, table], |row| {
            Ok(Column { kind: row.get(0)?, is_required: row.get(1)?, is_rowid: false, may_lack: false })
        })?;
        Ok(Self { has_rowid: false, columns: columns.collect::<rusqlite::Result<_>>()? })
    }
}

/// What the migrations make, in the order in which they make it.
struct Ours {
    row: SchemaRow,
    /// What stands in the tree of a table or an index.
    form: Option<Form>,
    /// The root page after `VACUUM`, which makes tables before indexes.
    vacuumed: u32,
}

/// Makes an empty database of a version, and reads what is in its schema.
fn ours(version: u32, state_dir: &Path) -> Result<Vec<Ours>> {
    let file = state_dir::temporary_file(state_dir, db::NEW_PREFIX)?;
    db::create_copy_of_version(file.path(), version, |_| Ok(()))?;
    let conn = writer(file.path())?;
    let read = || -> rusqlite::Result<Vec<SchemaRow>> {
        let sql = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema ORDER BY rowid";
        let mut select = conn.prepare(sql)?;
        let rows = select.query_map([], |row| {
            let (kind, name, table) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(SchemaRow { kind, name, table, root: row.get(3)?, sql: row.get(4)? })
        })?;
        rows.collect()
    };
    let rows = read()?;
    conn.execute_batch("VACUUM")?;
    let vacuumed: BTreeMap<String, u32> = read()?.into_iter().map(|row| (row.name, row.root)).collect();
    let ours = rows.into_iter().map(|row| {
        let form = match row.kind.as_str() {
            _ if row.root == 0 => None,
            "table" => Some(Form::of_table(&conn, &row.name)?),
            _ => Some(Form::of_index(&conn, &row.name, &row.table)?),
        };
        let vacuumed = vacuumed.get(&row.name).copied().unwrap_or(0);
        Ok(Ours { row, form, vacuumed })
    });
    ours.collect()
}

fn writer(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.pragma_update(None, "synchronous", "off")?;
    conn.pragma_update(None, "trusted_schema", false)?;
    Ok(conn)
}

/// Which root page belongs to which table or index.
struct Assignment {
    version: u32,
    ours: Vec<Ours>,
    /// By name; 0 for what has no pages.
    roots: BTreeMap<String, u32>,
    /// Those of ours for which nothing tells.
    unknown: Vec<String>,
    /// Tables of ours that had columns whose definition is lost.
    with_columns: Vec<String>,
    /// Rows of the schema that are no release's, or not of this version.
    others: usize,
    /// Roots that belong to nothing that is known.
    strangers: usize,
    /// Whether all of it stands in the rows of the schema.
    is_complete: bool,
}

impl Assignment {
    fn find(pages: &Pages, rows: &[SchemaRow], roots: &BTreeSet<u32>, version: u32, state_dir: &Path) -> Result<Self> {
        let ours = ours(version, state_dir)?;
        let row_of = |it: &Ours| rows.iter().find(|row| row.kind == it.row.kind && row.name == it.row.name);
        let is_ours = |row: &&SchemaRow| ours.iter().any(|it| it.row.kind == row.kind && it.row.name == row.name);
        let mut known: BTreeMap<String, u32> = BTreeMap::new();
        let mut missing: Vec<&Ours> = Vec::new();
        let mut used: BTreeMap<u32, usize> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.root > 0) {
            *used.entry(row.root).or_default() += 1;
        }
        let mut is_complete = true;
        for it in &ours {
            let row = row_of(it);
            is_complete &= row.is_some();
            let Some(form) = &it.form else {
                known.insert(it.row.name.clone(), 0);
                continue;
            };
            match row {
                // A column may have been added, or another one be gone: what the row says of its own table is not in doubt.
                Some(row) if row.root > 1 && row.root <= pages.pages && used.get(&row.root) == Some(&1) => {
                    let is_changed = row.sql.as_deref().map(str::trim_end) != it.row.sql.as_deref().map(str::trim_end);
                    if is_changed || roots.contains(&row.root) || !matches!(pages.fit(row.root, form)?, Fit::No) {
                        known.insert(it.row.name.clone(), row.root);
                        continue;
                    }
                    // Its root page is damaged, or the row is: where another page fits, it was the row.
                    missing.push(it);
                }
                _ => missing.push(it),
            }
        }
        let theirs: BTreeSet<u32> = rows.iter().filter(|row| !is_ours(row)).map(|row| row.root).collect();
        let taken: BTreeSet<u32> = known.values().copied().chain(theirs.iter().copied()).collect();
        let free: Vec<u32> = roots.iter().copied().filter(|root| !taken.contains(root)).collect();
        let mut assignment = Self {
            version,
            roots: known,
            unknown: Vec::new(),
            with_columns: Vec::new(),
            others: rows.iter().filter(|row| !is_ours(row)).count(),
            strangers: 0,
            is_complete: is_complete && missing.is_empty(),
            ours: Vec::new(),
        };
        let mut fits: BTreeMap<(&str, u32), Fit> = BTreeMap::new();
        for it in &missing {
            for root in &free {
                if let Some(form) = &it.form {
                    fits.insert((&it.row.name, *root), pages.fit(*root, form)?);
                }
            }
        }
        let found = match_roots(&ours, &missing, &free, &assignment.roots, &fits);
        for it in &missing {
            let name = it.row.name.as_str();
            match found.get(name) {
                Some(root) => {
                    if it.row.kind == "table" && matches!(fits.get(&(name, *root)), Some(Fit::Yes { has_more: true })) {
                        assignment.with_columns.push(name.to_owned());
                    }
                    assignment.roots.insert(name.to_owned(), *root);
                }
                None => match row_of(it) {
                    // As it says, then: its pages are damaged themselves.
                    Some(row) if used.get(&row.root) == Some(&1) && !found.values().any(|root| *root == row.root) => {
                        assignment.roots.insert(name.to_owned(), row.root);
                    }
                    _ => assignment.unknown.push(name.to_owned()),
                },
            }
        }
        assignment.strangers = free.iter().filter(|root| !assignment.roots.values().any(|it| it == *root)).count();
        assignment.ours = ours;
        Ok(assignment)
    }

    /// How much of a database this does not explain.
    fn unexplained(&self) -> usize {
        self.unknown.len() + self.strangers + self.others
    }

    fn findings(&self, rows: &[SchemaRow]) -> Vec<RecoveryFinding> {
        let mut lost = Vec::new();
        let missing = self.ours.iter().filter(|it| !rows.iter().any(|row| row.name == it.row.name)).count();
        let mut message = format!(
            "{} of the schema could not be read; {} of this program were found again by their pages",
            count(missing as u64, "definition"),
            count((missing.saturating_sub(self.unknown.len())) as u64, "definition"),
        );
        message.push_str(". What somebody added may have stood there too: ");
        message.push_str(&match self.strangers.saturating_sub(self.unknown.len()) {
            0 => "views and triggers may be missing, no table and no index".to_owned(),
            number => format!(
                "{} of tables or indexes belong to no definition that is left, and stay with the damaged files; views and \
                 triggers may be missing, too",
                count(number as u64, "tree")
            ),
        });
        lost.push(finding("database", message));
        for table in &self.with_columns {
            let message = "columns that somebody added to it are not carried over: their definition is lost";
            lost.push(finding(table, message));
        }
        lost
    }
}

/// The root pages of what is missing, as far as they are certain.
fn match_roots(
    ours: &[Ours],
    missing: &[&Ours],
    free: &[u32],
    known: &BTreeMap<String, u32>,
    fits: &BTreeMap<(&str, u32), Fit>,
) -> BTreeMap<String, u32> {
    let is_empty = |it: &Ours, root: u32| matches!(fits.get(&(it.row.name.as_str(), root)), Some(Fit::Empty));
    let fits = |it: &Ours, root: u32| {
        is_empty(it, root) || matches!(fits.get(&(it.row.name.as_str(), root)), Some(Fit::Yes { .. }))
    };
    let is_missing = |it: &Ours| missing.iter().any(|missing| missing.row.name == it.row.name);
    let mut answers: Vec<BTreeMap<String, u32>> = Vec::new();
    for expected in [|it: &Ours| it.row.root, |it: &Ours| it.vacuumed] {
        let mut in_order: Vec<&Ours> = ours.iter().filter(|it| it.form.is_some()).collect();
        in_order.sort_by_key(|it| expected(it));
        let found = |it: &Ours| known.get(&it.row.name).copied();
        // Each page is where an undisturbed database has it.
        let is_exact = in_order.iter().all(|it| found(it).is_none_or(|root| root == expected(it)));
        let good = missing.iter().filter(|it| fits(it, expected(it))).count();
        if is_exact && good * 10 >= missing.len() * 9 {
            let exact = missing.iter().filter(|it| fits(it, expected(it)));
            answers.push(exact.map(|it| (it.row.name.clone(), expected(it))).collect());
            continue;
        }
        // Nearly all pages are in this order, and between two that are known there are as many as are missing.
        let roots: Vec<u32> = in_order.iter().filter_map(|it| found(it)).collect();
        let anchors = longest_rising(&roots);
        if anchors.is_empty() || anchors.len() * 10 < roots.len() * 9 {
            continue;
        }
        in_order.retain(|it| is_missing(it) || found(it).is_some_and(|root| anchors.contains(&root)));
        let mut answer = BTreeMap::new();
        let mut low = 0;
        let mut run: Vec<&Ours> = Vec::new();
        for it in in_order.iter().map(Some).chain([None]) {
            match it {
                Some(it) if is_missing(it) => run.push(it),
                _ => {
                    let high = it.map_or(Some(u32::MAX), |it| found(it)).unwrap_or(u32::MAX);
                    let between: Vec<u32> = free.iter().copied().filter(|root| *root > low && *root < high).collect();
                    if between.len() == run.len() && run.iter().zip(&between).all(|(it, root)| fits(it, *root)) {
                        answer.extend(run.iter().zip(&between).map(|(it, root)| (it.row.name.clone(), *root)));
                    }
                    run.clear();
                    low = high;
                }
            }
        }
        answers.push(answer);
    }
    let mut found: BTreeMap<String, u32> = BTreeMap::new();
    for it in missing {
        let roots: BTreeSet<u32> = answers.iter().filter_map(|answer| answer.get(&it.row.name)).copied().collect();
        if let Some(root) = roots.first().filter(|_| roots.len() == 1) {
            found.insert(it.row.name.clone(), *root);
        }
    }
    // Two orders must not give one page to two tables.
    let mut owners: BTreeMap<u32, usize> = BTreeMap::new();
    for root in found.values() {
        *owners.entry(*root).or_default() += 1;
    }
    found.retain(|_, root| owners.get(root) == Some(&1));
    // What is left by its form alone, where nobody else's can be among it: each page belongs to something that is missing.
    let mut left: Vec<&Ours> = missing.iter().copied().filter(|it| !found.contains_key(&it.row.name)).collect();
    let mut pages: Vec<u32> = free.iter().copied().filter(|root| !owners.contains_key(root)).collect();
    if left.len() != pages.len() {
        return found;
    }
    while let Some((index, owner)) = pages.iter().enumerate().find_map(|(index, root)| {
        let mut fitting = left.iter().enumerate().filter(|(_, it)| fits(it, *root));
        let (owner, it) = fitting.next()?;
        // Trees without records are alike.
        (is_empty(it, *root) && pages.iter().all(|root| left.iter().all(|it| !fits(it, *root) || is_empty(it, *root)))
            || !is_empty(it, *root) && fitting.next().is_none())
        .then_some((index, owner))
    }) {
        found.insert(left.remove(owner).row.name.clone(), pages.remove(index));
    }
    found
}

/// The most numbers of a list that rise.
fn longest_rising(numbers: &[u32]) -> BTreeSet<u32> {
    let mut chains: Vec<Vec<u32>> = Vec::new();
    for number in numbers {
        let before = chains.iter().filter(|chain| chain.last() < Some(number)).max_by_key(|chain| chain.len());
        let mut chain = before.cloned().unwrap_or_default();
        chain.push(*number);
        chains.push(chain);
    }
    chains.into_iter().max_by_key(Vec::len).unwrap_or_default().into_iter().collect()
}

/// Writes the schema anew, into new pages at the end of the file: none of the others is touched.
fn write(pages: &Pages, path: &Path, assignment: &Assignment, rows: &[SchemaRow]) -> Result<()> {
    let failed = |error| Error::io("write", path)(error);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
    let mut first = vec![0; pages.size];
    file.read_exact_at(&mut first[..100], 0).map_err(failed)?;
    let was = first.clone();
    first[18..20].fill(1);
    first[28..32].copy_from_slice(&pages.pages.to_be_bytes());
    first.copy_within(24..28, 92);
    // Neither free pages nor the pointer map, which may be damaged: new pages come at the end.
    first[32..40].fill(0);
    first[52..56].fill(0);
    first[64..68].fill(0);
    // The texts of the schema were read as UTF-8.
    first[56..60].copy_from_slice(&1_u32.to_be_bytes());
    first[100] = TABLE_LEAF;
    first[105..107].copy_from_slice(&(pages.usable as u16).to_be_bytes());
    file.write_all_at(&first, 0).map_err(failed)?;
    let mut conn = writer(path)?;
    conn.pragma_update(None, "journal_mode", "memory")?;
    conn.pragma_update(None, "writable_schema", true)?;
    let transaction = conn.transaction()?;
    let mut insert = transaction
        .prepare("INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let row_of = |ours: &SchemaRow| rows.iter().find(|row| row.kind == ours.kind && row.name == ours.name);
    for Ours { row, .. } in &assignment.ours {
        let Some(root) = assignment.roots.get(&row.name) else { continue };
        let found = row_of(row).filter(|found| row.kind != "table" || is_parseable(found));
        let sql = found.map_or(&row.sql, |found| &found.sql);
        insert.execute(params![row.kind, row.name, row.table, root, sql])?;
    }
    let is_ours =
        |row: &&SchemaRow| assignment.ours.iter().any(|it| it.row.kind == row.kind && it.row.name == row.name);
    for row in rows.iter().filter(|row| !is_ours(row)) {
        insert.execute(params![row.kind, row.name, row.table, row.root, row.sql])?;
    }
    drop(insert);
    transaction.pragma_update(None, "user_version", assignment.version)?;
    transaction.commit()?;
    conn.close().map_err(|(_, error)| error)?;
    for field in [32..40, 52..56, 64..68] {
        file.write_all_at(&was[field.clone()], field.start as u64).map_err(failed)?;
    }
    Ok(())
}

/// Whether SQLite makes a table of a row's SQL.
fn is_parseable(row: &SchemaRow) -> bool {
    let is_virtual = row.root == 0;
    let made = || -> rusqlite::Result<()> {
        let conn = Connection::open_in_memory()?;
        conn.prepare(row.sql.as_deref().unwrap_or_default())?.raw_execute()?;
        conn.prepare(&format!("SELECT 1 FROM \"{}\"", row.name.replace('"', "\"\""))).map(drop)
    };
    is_virtual || made().is_ok()
}
