//! What a process did to its files, recorded with `strace`, and the files as they would lie after the power fails.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Random;
use crate::common::role::start_under;
use crate::common::{Base, TestResult};

const CALLS: &str = "openat,open,creat,write,writev,pwrite64,pwritev,ftruncate,fallocate,lseek,fsync,fdatasync,sync_file_range,\
                     rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,copy_file_range,sendfile";

/// The smallest part of a file that a disk writes whole.
const SECTOR: usize = 512;

/// Something that happened, in order. Paths are those below the base directory.
#[derive(Debug, Clone)]
pub enum Event {
    Create(PathBuf),
    Write(PathBuf, usize, Vec<u8>),
    Truncate(PathBuf, usize),
    /// A file's content or a directory's names are on the disk.
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
    MakeDirectory(PathBuf),
    /// The process said a line.
    Said(String),
}

/// Runs a role to its end and returns what happened.
pub fn record(role: &str, base: &Base) -> Result<Vec<Event>, Box<dyn std::error::Error>> {
    let trace = tempfile::NamedTempFile::new()?;
    let calls = format!("trace={CALLS}");
    let file = trace.path().to_string_lossy().into_owned();
    let strace = ["strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", "100000000", "-qq", "-o", &file, "-e", &calls];
    let (mut child, mut output) = start_under(&strace, role, base)?;
    let mut said = String::new();
    output.read_to_string(&mut said)?;
    assert!(child.wait()?.success(), "{said}");
    let base = fs::canonicalize(base.path())?;
    parse(&fs::read_to_string(trace.path())?, &base)
}

fn parse(trace: &str, base: &Path) -> Result<Vec<Event>, Box<dyn std::error::Error>> {
    let mut events = Vec::new();
    let mut unfinished: HashMap<&str, &str> = HashMap::new();
    // Where `write` goes on, by file descriptor: the threads of a process share them.
    let mut positions: HashMap<String, usize> = HashMap::new();
    for line in trace.lines() {
        let (process, call) = line.split_once(' ').ok_or("a process")?;
        let call = call.trim_start();
        if let Some(begun) = call.strip_suffix(" <unfinished ...>") {
            unfinished.insert(process, begun);
            continue;
        }
        // Done is what has returned.
        let call = match call.strip_prefix("<... ").and_then(|call| call.split_once(" resumed>")) {
            Some((_, rest)) => format!("{}{rest}", unfinished.remove(process).ok_or("its beginning")?),
            None => call.to_owned(),
        };
        let Some((call, result)) = call.rsplit_once(" = ") else { continue };
        if result.starts_with(['-', '?']) {
            continue;
        }
        let (name, arguments) = call.split_once('(').ok_or("arguments")?;
        let arguments: Vec<_> = arguments.trim_end().trim_end_matches(')').split(", ").collect();
        let number = |index: usize| arguments[index].parse::<usize>();
        // A file descriptor, with the path that strace gives.
        let file = |text: &str| {
            let (number, path) = text.split_once('<').unwrap_or((text, ""));
            let path = PathBuf::from(String::from_utf8_lossy(&bytes(path)).into_owned());
            (number.to_owned(), path.strip_prefix(base).ok().map(Path::to_path_buf))
        };
        let named = |directory: Option<usize>, name: usize| {
            let path = PathBuf::from(String::from_utf8_lossy(&bytes(arguments[name])).into_owned());
            let path = match directory.and_then(|directory| file(arguments[directory]).1) {
                Some(directory) if path.is_relative() => base.join(directory).join(path),
                _ => path,
            };
            path.strip_prefix(base).ok().map(Path::to_path_buf)
        };
        let mut add = |event: Option<Event>| events.extend(event);
        match name {
            "open" | "openat" | "creat" => {
                let at = usize::from(name == "openat");
                let (descriptor, _) = file(result);
                positions.insert(descriptor, 0);
                let flags = arguments.get(at + 1).copied().unwrap_or_default();
                let Some(path) = named((at == 1).then_some(0), at) else { continue };
                if flags.contains("O_CREAT") {
                    add(Some(Event::Create(path.clone())));
                }
                if flags.contains("O_TRUNC") {
                    add(Some(Event::Truncate(path, 0)));
                }
            }
            "write" | "writev" => {
                let (descriptor, path) = file(arguments[0]);
                let text =
                    if name == "write" { arguments[1] } else { &call[call.find("iov_base=").ok_or("data")? + 9..] };
                let written = bytes(text);
                if name == "writev" && path.is_none() {
                    let text = String::from_utf8_lossy(&written).into_owned();
                    text.lines().filter_map(|line| line.strip_prefix("> ")).for_each(|line| {
                        add(Some(Event::Said(line.to_owned())));
                    });
                } else if let Some(path) = path {
                    assert_eq!(name, "write", "only `write` is understood: {path:?}");
                    let position = positions.entry(descriptor).or_default();
                    let at = *position;
                    *position += written.len();
                    add(Some(Event::Write(path, at, written)));
                }
            }
            "pwrite64" => add(file(arguments[0])
                .1
                .map(|path| Event::Write(path, number(3).expect("an offset"), bytes(arguments[1])))),
            "ftruncate" => add(file(arguments[0]).1.map(|path| Event::Truncate(path, number(1).expect("a length")))),
            "lseek" => {
                positions.insert(file(arguments[0]).0, result.trim().parse()?);
            }
            "fsync" | "fdatasync" => add(file(arguments[0]).1.map(Event::Sync)),
            "rename" => add(named(None, 0).zip(named(None, 1)).map(|(from, to)| Event::Rename(from, to))),
            "renameat" | "renameat2" => {
                add(named(Some(0), 1).zip(named(Some(2), 3)).map(|(from, to)| Event::Rename(from, to)));
            }
            "unlink" => add(named(None, 0).map(Event::Unlink)),
            "unlinkat" => add(named(Some(0), 1).map(Event::Unlink)),
            "mkdir" => add(named(None, 0).map(Event::MakeDirectory)),
            "mkdirat" => add(named(Some(0), 1).map(Event::MakeDirectory)),
            // Whoever begins to use another call has to teach this recorder.
            other => {
                let touches = arguments.iter().any(|argument| file(argument).1.is_some());
                assert!(!touches, "{other} is not understood: {arguments:?}");
            }
        }
    }
    Ok(events)
}

/// The bytes of a text of `\xNN`.
fn bytes(text: &str) -> Vec<u8> {
    let text = text.split("\\x").skip(1);
    text.map(|digits| u8::from_str_radix(&digits[..2], 16).expect("two hexadecimal digits")).collect()
}

/// What a power cut leaves of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    Nothing,
    /// The first part, the last write of it torn at a sector.
    Torn,
    /// Any sectors and names.
    Any,
    All,
}

pub const UNSYNCED: [Unsynced; 4] = [Unsynced::Nothing, Unsynced::Torn, Unsynced::Any, Unsynced::All];

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

/// The content of a file: what is on the disk, and what was done since.
#[derive(Debug, Clone, Default)]
struct Content {
    synced: Vec<u8>,
    since: Vec<Change>,
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => {
                let end = at + bytes.len();
                content.resize(content.len().max(end), 0);
                content[*at..end].copy_from_slice(bytes);
            }
            Self::Truncate(length) => content.resize(*length, 0),
        }
    }

    /// Some of its sectors: of the first `number`, those that `keep` says.
    fn apply_sectors(&self, content: &mut Vec<u8>, number: usize, mut keep: impl FnMut() -> bool) {
        match self {
            Self::Truncate(_) => {
                if number > 0 && keep() {
                    self.apply(content);
                }
            }
            Self::Write(at, bytes) => {
                for (sector, bytes) in bytes.chunks(SECTOR).enumerate().take(number) {
                    if keep() {
                        Self::Write(at + sector * SECTOR, bytes.to_vec()).apply(content);
                    }
                }
            }
        }
    }

    fn sectors(&self) -> usize {
        match self {
            Self::Write(_, bytes) => bytes.len().div_ceil(SECTOR),
            Self::Truncate(_) => 1,
        }
    }
}

impl Content {
    fn after(&self, unsynced: Unsynced, random: &mut Random) -> Vec<u8> {
        let mut content = self.synced.clone();
        let torn = random.below(self.since.len() + 1);
        for (index, change) in self.since.iter().enumerate() {
            match unsynced {
                Unsynced::Nothing => {}
                Unsynced::All => change.apply(&mut content),
                Unsynced::Torn if index < torn => change.apply(&mut content),
                Unsynced::Torn if index == torn => {
                    change.apply_sectors(&mut content, random.below(change.sectors() + 1), || true);
                }
                Unsynced::Torn => {}
                Unsynced::Any => change.apply_sectors(&mut content, usize::MAX, || random.below(2) == 0),
            }
        }
        content
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    File(usize),
}

#[derive(Debug, Clone)]
enum Naming {
    Add(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

type Names = BTreeMap<PathBuf, Node>;

impl Naming {
    fn directory(&self) -> &Path {
        let (Self::Add(path, _) | Self::Remove(path) | Self::Rename(path, _)) = self;
        path.parent().expect("a parent")
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Self::Add(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

/// A disk that remembers what is synced and what is not. Nothing is on it before it was synced: the names of a directory
/// with the directory, a file's content with the file.
#[derive(Default, Clone)]
pub struct Disk {
    files: Vec<Content>,
    names: Names,
    synced_names: Names,
    /// Since then, in order.
    naming: Vec<Naming>,
}

impl Disk {
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Said(_) => {}
            Event::Create(path) => {
                if !self.names.contains_key(path) {
                    self.files.push(Content::default());
                    self.name(Naming::Add(path.clone(), Node::File(self.files.len() - 1)));
                }
            }
            Event::MakeDirectory(path) => self.name(Naming::Add(path.clone(), Node::Directory)),
            Event::Rename(from, to) => {
                assert_eq!(from.parent(), to.parent(), "only inside a directory");
                self.name(Naming::Rename(from.clone(), to.clone()));
            }
            Event::Unlink(path) => self.name(Naming::Remove(path.clone())),
            Event::Write(path, at, bytes) => self.change(path, Change::Write(*at, bytes.clone())),
            Event::Truncate(path, length) => self.change(path, Change::Truncate(*length)),
            Event::Sync(path) => match self.names.get(path) {
                Some(Node::File(file)) => {
                    let content = &mut self.files[*file];
                    content.since.drain(..).for_each(|change| change.apply(&mut content.synced));
                }
                // Also the base directory itself.
                Some(Node::Directory) | None => {
                    let (synced, others) = std::mem::take(&mut self.naming)
                        .into_iter()
                        .partition::<Vec<_>, _>(|it| it.directory() == path);
                    synced.iter().for_each(|naming| naming.apply(&mut self.synced_names));
                    self.naming = others;
                }
            },
        }
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.naming.push(naming);
    }

    fn change(&mut self, path: &Path, change: Change) {
        // What happens to a file without a name any more is of no interest.
        if let Some(Node::File(file)) = self.names.get(path) {
            self.files[*file].since.push(change);
        }
    }

    /// Writes the files as a power cut leaves them. The shared memory file is no part of it.
    pub fn cut(&self, content: Unsynced, names: Unsynced, random: &mut Random, target: &Path) -> TestResult {
        let mut found = self.synced_names.clone();
        let torn = random.below(self.naming.len() + 1);
        for (index, naming) in self.naming.iter().enumerate() {
            let stays = match names {
                Unsynced::Nothing => false,
                Unsynced::Torn => index < torn,
                Unsynced::Any => random.below(2) == 0,
                Unsynced::All => true,
            };
            if stays {
                naming.apply(&mut found);
            }
        }
        // Parents come first.
        for (path, node) in &found {
            let target_path = target.join(path);
            if path.to_string_lossy().ends_with("-shm") || !target_path.parent().is_some_and(Path::is_dir) {
                continue;
            }
            match node {
                Node::Directory => {
                    fs::create_dir(&target_path)?;
                    fs::set_permissions(&target_path, fs::Permissions::from_mode(0o700))?;
                }
                Node::File(file) => {
                    fs::write(&target_path, self.files[*file].after(content, random))?;
                    fs::set_permissions(&target_path, fs::Permissions::from_mode(0o600))?;
                }
            }
        }
        Ok(())
    }
}
