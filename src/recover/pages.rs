//! Which pages belong to which tree of a damaged database: those that two trees share, and those that have come loose.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::Connection;

use super::shape::is_damage;
use crate::check::Budget;
use crate::db;
use crate::error::{Error, Result};
use crate::state_dir;

/// What is wrong with the trees of a database as a whole.
#[derive(Default)]
pub(super) struct Trees {
    /// For each tree, the other ones with which it shares pages, or itself where it leads back into itself.
    pub(super) shared: BTreeMap<String, BTreeSet<String>>,
    /// Trees from which pages have come loose: no page leads to these any more.
    pub(super) lossy: BTreeSet<String>,
    /// How many pages have come loose from nobody knows which tree.
    pub(super) loose: u64,
}

/// Looks at which pages the trees of a database lead to.
pub(super) fn trees(conn: &Connection, budget: &Budget, path: &Path) -> Result<Trees> {
    let mut trees = Trees::default();
    budget.renew();
    let names = conn
        .prepare("SELECT 'sqlite_schema', 1 UNION ALL SELECT name, min(rootpage) FROM sqlite_schema WHERE rootpage > 0 GROUP BY name")
        .and_then(|mut select| select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect());
    let names: Vec<(String, u32)> = is_damage(names)?.unwrap_or_default();
    let pragma = |name| is_damage(conn.pragma_query_value(None, name, |row| row.get::<_, u32>(0)));
    let pages = pragma("page_count")?.unwrap_or(0);
    let mut tree_of: BTreeMap<u32, usize> = BTreeMap::new();
    for (number, (name, _)) in names.iter().enumerate() {
        budget.renew();
        let Some(mut select) = is_damage(conn.prepare("SELECT pageno FROM dbstat WHERE name = ?1"))? else { break };
        let mut rows = select.query([name])?;
        let mut seen = 0;
        while let Some(Some(row)) = is_damage(rows.next())? {
            seen += 1;
            let Some(page) = is_damage(row.get(0))? else { break };
            if let Some(other) = tree_of.insert(page, number) {
                let other = &names[other].0;
                trees.shared.entry(name.clone()).or_default().insert(other.clone());
                trees.shared.entry(other.clone()).or_default().insert(name.clone());
            }
            if seen > pages {
                break;
            }
        }
    }
    let page_size = pragma("page_size")?.unwrap_or(4096);
    let map = PageMap { page_size, has_map: pragma("auto_vacuum")?.unwrap_or(0) != 0 };
    // Those that are free are in no tree.
    let free = pragma("freelist_count")?.unwrap_or(0);
    let in_trees = (1..=pages).filter(|page| tree_of.contains_key(page) || map.is_map(*page)).count() as u32;
    if in_trees.saturating_add(free) >= pages {
        return Ok(trees);
    }
    let roots: BTreeMap<u32, &String> = names.iter().map(|(name, root)| (*root, name)).collect();
    map.find_loose(conn, path, pages, &tree_of, &roots, &mut trees)?;
    Ok(trees)
}

/// The pages in which an `auto_vacuum` database notes which page leads to which:
/// <https://www.sqlite.org/fileformat2.html#pointer_map_or_ptrmap_pages>
pub(super) struct PageMap {
    pub(super) page_size: u32,
    pub(super) has_map: bool,
}

impl PageMap {
    /// Pages that one page of the map tells of.
    pub(super) fn entries(&self) -> u32 {
        (self.page_size / 5).max(1)
    }

    /// The page of the map that tells of a page.
    fn map_of(&self, page: u32) -> u32 {
        page.saturating_sub(2) / (self.entries() + 1) * (self.entries() + 1) + 2
    }

    pub(super) fn is_map(&self, page: u32) -> bool {
        self.has_map && page > 1 && self.map_of(page) == page
    }

    /// What the map in a file says of a page: its kind, and the page that leads to it.
    pub(super) fn entry(&self, file: &File, page: u32) -> Option<(u8, u32)> {
        let map = self.map_of(page);
        let at = u64::from(map - 1) * u64::from(self.page_size) + u64::from(page.checked_sub(map + 1)?) * 5;
        let mut entry = [0; 5];
        file.read_exact_at(&mut entry, at).ok()?;
        Some((entry[0], u32::from_be_bytes([entry[1], entry[2], entry[3], entry[4]])))
    }

    /// Finds the pages to which no tree leads any more, and the trees from which they have come loose. The map is read in a copy of
    /// the file, as closing the file itself would drop SQLite's locks on it.
    fn find_loose(
        &self,
        conn: &Connection,
        path: &Path,
        pages: u32,
        tree_of: &BTreeMap<u32, usize>,
        roots: &BTreeMap<u32, &String>,
        trees: &mut Trees,
    ) -> Result<()> {
        if !self.has_map {
            // Overflow pages of the schema are counted, too.
            trees.loose += 1;
            return Ok(());
        }
        let directory = path.parent().unwrap_or(path);
        let copy = state_dir::temporary_file(directory, db::NEW_PREFIX)?;
        db::copy_raw(conn, copy.path())?;
        let file = File::open(copy.path()).map_err(Error::io("read", copy.path()))?;
        for page in (2..=pages).filter(|page| !tree_of.contains_key(page) && !self.is_map(*page)) {
            // Kinds: 1 root, 2 free, 3 and 4 overflow, 5 any other page of a tree.
            let mut at = page;
            let mut steps = 0;
            let tree = loop {
                steps += 1;
                match (roots.get(&at), self.entry(&file, at)) {
                    (Some(name), _) => break Some(Some(*name)),
                    (None, Some((2, _))) => break None,
                    (None, Some((3..=5, 1))) => break None,
                    (None, Some((3..=5, parent))) if steps < 1000 => at = parent,
                    _ => break Some(None),
                }
            };
            match tree {
                Some(Some(name)) => {
                    trees.lossy.insert(name.clone());
                }
                Some(None) => trees.loose += 1,
                None => {}
            }
        }
        Ok(())
    }
}
