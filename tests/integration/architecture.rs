//! Dependencies in `src/` point down only: from a module to modules of lower layers, and never in a circle between files.
//!
//! The layers are those of docs/architecture.md. An arrow is a path to another file of the crate, in a `use` or anywhere
//! else in the code. Tests inside `src/` are left out.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use quote::ToTokens;
use syn::visit::Visit;

/// The modules of the crate, lowest layer first. Modules of one layer do not depend on each other.
const LAYERS: &[&[&str]] = &[
    &["json", "clock", "progress", "setters"],
    &["model"],
    &["error"],
    &["state_dir"],
    &["db"],
    &["rows"],
    &["document", "search", "prune", "resume", "summary"],
    &["backup"],
    &["check"],
    &["recover"],
    &["store"],
    &["service"],
    // The program uses the library as any other program does.
    &["lib"],
];

/// Tables, and the one module that writes to each; SQL that names one stands in `rows` alone.
fn source_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![PathBuf::from("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                directories.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                files.push(entry);
            }
        }
    }
    files.sort();
    files
}

/// The module that a file holds, as the parts of its path in the crate.
fn module_of(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> = file
        .with_extension("")
        .components()
        .skip(1)
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib" || last == "main") {
        parts.pop();
    }
    parts
}

/// What a module hands on from the modules below it: the path of each name. That is no dependency, but a path through it
/// leads on to where the item is defined.
type HandedOn = BTreeMap<(Vec<String>, String), Vec<String>>;

/// Paths in the code of a file, resolved to the files of the crate that define what they name.
struct Paths<'m> {
    module: Vec<String>,
    known: &'m BTreeSet<Vec<String>>,
    handed_on: &'m HandedOn,
    found: BTreeSet<Vec<String>>,
}

impl Paths<'_> {
    /// Notes the file that defines what a path names.
    fn note(&mut self, path: &[String]) {
        let Some(module) = resolve(&self.module, path, self.known, self.handed_on) else { return };
        if module != self.module {
            self.found.insert(module);
        }
    }

    fn note_tree(&mut self, prefix: &[String], tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                self.note_tree(&[prefix, &[path.ident.to_string()]].concat(), &path.tree);
            }
            syn::UseTree::Name(name) => self.note(&[prefix, &[name.ident.to_string()]].concat()),
            syn::UseTree::Rename(name) => self.note(&[prefix, &[name.ident.to_string()]].concat()),
            syn::UseTree::Glob(_) => self.note(prefix),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_tree(prefix, tree)),
        }
    }

    /// Notes the paths in the tokens of a macro, whose syntax only the macro knows.
    fn note_tokens(&mut self, tokens: proc_macro2::TokenStream) {
        let text = tokens.to_string().replace(' ', "");
        for (at, _) in text.match_indices("crate::") {
            let path = text[at..]
                .split("::")
                .map(|part| part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>());
            let path: Vec<_> = path.take_while(|part| !part.is_empty()).collect();
            self.note(&path);
        }
    }
}

/// The module whose file defines what a path in another module names; `None` for a path out of the crate.
fn resolve(
    from: &[String],
    path: &[String],
    known: &BTreeSet<Vec<String>>,
    handed_on: &HandedOn,
) -> Option<Vec<String>> {
    let child = |module: &[String], part: &String| [module, std::slice::from_ref(part)].concat();
    let first = path.first()?;
    let (mut module, rest) = match first.as_str() {
        "crate" => (Vec::new(), &path[1..]),
        "self" => (from.to_vec(), &path[1..]),
        "super" => (from[..from.len().saturating_sub(1)].to_vec(), &path[1..]),
        _ if known.contains(&child(from, first)) => (from.to_vec(), path),
        _ => return None,
    };
    for (at, part) in rest.iter().enumerate() {
        if part == "super" {
            module.pop();
        } else if known.contains(&child(&module, part)) {
            module = child(&module, part);
        } else if let Some(target) = handed_on.get(&(module.clone(), part.clone())) {
            let on = [target.as_slice(), &rest[at + 1..]].concat();
            return resolve(&module, &on, known, handed_on);
        } else {
            break;
        }
    }
    Some(module)
}

/// Whether a `use` hands items on from modules below: `pub use child::Item`.
fn is_handed_on(item: &syn::ItemUse) -> bool {
    let first = match &item.tree {
        syn::UseTree::Path(path) => path.ident.to_string(),
        _ => return false,
    };
    !matches!(item.vis, syn::Visibility::Inherited) && !matches!(first.as_str(), "crate" | "super" | "std")
}

fn note_handed_on(module: &[String], prefix: &[String], tree: &syn::UseTree, handed_on: &mut HandedOn) {
    let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
    match tree {
        syn::UseTree::Path(path) => note_handed_on(module, &with(&path.ident), &path.tree, handed_on),
        syn::UseTree::Name(name) => {
            handed_on.insert((module.to_vec(), name.ident.to_string()), with(&name.ident));
        }
        syn::UseTree::Rename(name) => {
            handed_on.insert((module.to_vec(), name.rename.to_string()), with(&name.ident));
        }
        syn::UseTree::Glob(_) => {}
        syn::UseTree::Group(group) => {
            group.items.iter().for_each(|tree| note_handed_on(module, prefix, tree, handed_on));
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|it| {
        it.path().is_ident("cfg") && matches!(it.to_token_stream().to_string().as_str(), text if text.contains("test"))
    })
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        // Declaring a module is no dependency on it.
        if !is_test(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_handed_on(item) {
            self.note_tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if parts.len() > 1 {
            self.note(&parts);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.note_tokens(item.tokens.clone());
        syn::visit::visit_macro(self, item);
    }
}

type Arrows = BTreeMap<Vec<String>, BTreeSet<Vec<String>>>;

/// What each file of the library depends on, or each file of the program's `src/cli`.
fn arrows(program: bool) -> Arrows {
    let files = source_files().into_iter().filter(|file| !file.ends_with("tests.rs") && !file.ends_with("main.rs"));
    let files: Vec<_> = files.filter(|file| file.starts_with("src/cli") == program).collect();
    let known: BTreeSet<_> = files.iter().map(|file| module_of(file)).collect();
    let parse = |file: &PathBuf| syn::parse_file(&fs::read_to_string(file).unwrap()).unwrap();
    let codes: Vec<_> = files.iter().map(|file| (module_of(file), parse(file))).collect();
    let mut handed_on = HandedOn::new();
    for (module, code) in &codes {
        for item in &code.items {
            if let syn::Item::Use(item) = item
                && is_handed_on(item)
            {
                note_handed_on(module, &[], &item.tree, &mut handed_on);
            }
        }
    }
    let arrows = codes.into_iter().map(|(module, code)| {
        let mut paths = Paths { module: module.clone(), known: &known, handed_on: &handed_on, found: BTreeSet::new() };
        paths.visit_file(&code);
        (module, paths.found)
    });
    arrows.collect()
}

fn layer(module: &[String]) -> usize {
    let name = module.first().map_or("lib", String::as_str);
    LAYERS
        .iter()
        .position(|layer| layer.contains(&name))
        .unwrap_or_else(|| panic!("module {name} is in no layer; add it to LAYERS and to docs/architecture.md"))
}

#[test]
fn modules_depend_on_lower_layers_only() {
    let mut wrong = Vec::new();
    for (from, targets) in arrows(false) {
        for to in targets {
            if from.first() != to.first() && layer(&from) <= layer(&to) {
                wrong.push(format!("{} depends on {}", from.join("::"), to.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows up or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn files_do_not_depend_on_each_other_in_a_circle() {
    for program in [false, true] {
        assert_no_circle(arrows(program));
    }
}

fn assert_no_circle(mut arrows: Arrows) {
    assert!(arrows.values().any(|targets| !targets.is_empty()), "no arrow was found");
    // What depends on nothing that is left goes, until only circles are left, and what depends on them.
    loop {
        let free: Vec<_> = arrows
            .iter()
            .filter(|(_, targets)| !targets.iter().any(|target| arrows.contains_key(target)))
            .map(|(module, _)| module.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        free.iter().for_each(|module| drop(arrows.remove(module)));
    }
    // And what nothing that is left depends on.
    loop {
        let targets: BTreeSet<_> = arrows.values().flatten().cloned().collect();
        let before = arrows.len();
        arrows.retain(|module, _| targets.contains(module));
        if arrows.len() == before {
            break;
        }
    }
    let circles: Vec<_> = arrows
        .iter()
        .map(|(from, targets)| {
            let targets: Vec<_> =
                targets.iter().filter(|it| arrows.contains_key(*it)).map(|it| it.join("::")).collect();
            format!("{} -> {}", from.join("::"), targets.join(", "))
        })
        .collect();
    assert!(circles.is_empty(), "circles:\n{}", circles.join("\n"));
}

#[test]
fn only_the_store_extends_the_store() {
    for file in source_files() {
        let is_store = file.starts_with("src/store");
        let text = fs::read_to_string(&file).unwrap();
        assert!(is_store || !text.contains("impl StateStore"), "{} extends StateStore", file.display());
    }
}

#[test]
fn sql_on_the_tables_of_the_state_stands_in_their_modules() {
    let migrations =
        fs::read_dir("migrations").unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let schema: String = migrations.collect();
    let tables: BTreeSet<&str> = schema
        .lines()
        .filter_map(|line| line.strip_prefix("CREATE TABLE "))
        .filter_map(|rest| rest.split([' ', '(']).next())
        .collect();
    assert!(tables.contains("tasks") && tables.contains("messages"), "{tables:?}");
    // Whatever is the state of no release can read: what is damaged, another release's, or a person's.
    let exempt = ["src/rows", "src/db", "src/recover"];
    let mut wrong = Vec::new();
    let mut writers: BTreeMap<&str, BTreeSet<PathBuf>> = BTreeMap::new();
    for file in source_files().into_iter().filter(|file| !file.ends_with("tests.rs")) {
        let text = fs::read_to_string(&file).unwrap();
        let code: String =
            text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        for table in &tables {
            let is_named = |verb: &str| {
                code.match_indices(&format!("{verb} {table}"))
                    .any(|(at, found)| !code[at + found.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
            };
            if ["FROM", "JOIN", "INTO", "UPDATE"].iter().any(|verb| is_named(verb))
                && !exempt.iter().any(|folder| file.starts_with(folder))
            {
                wrong.push(format!("{} names the table {table}", file.display()));
            }
            let is_list =
                code.contains(&format!("::new(\"{table}\"")) || code.contains(&format!("::new(\n    \"{table}\""));
            let writes = ["INSERT INTO", "UPDATE", "DELETE FROM"].iter().any(|verb| is_named(verb));
            if file.starts_with("src/rows") && (writes || is_list) {
                writers.entry(table).or_default().insert(file.clone());
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (table, files) in writers {
        assert_eq!(files.len(), 1, "the table {table} is written in {files:?}");
    }
}
