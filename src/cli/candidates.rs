//! The ids that the shell completes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use agentmux_state::{EntityKind, StateStore, default_state_dir, list_backups};
use clap_complete::engine::CompletionCandidate;

use super::print;

/// Names the state directory where the command line does not.
pub(super) const STATE_DIR_VARIABLE: &str = "AGENTMUX_STATE_DIR";

/// More than a person wants to choose from.
const MOST: u32 = 1000;

/// Ids of what `show` shows, of the kind that the line names already.
pub(super) fn entities() -> Vec<CompletionCandidate> {
    let is_named = |name: &str| std::env::args_os().any(|argument| argument == name);
    let kinds = [
        ("conversation", EntityKind::Conversation),
        ("task", EntityKind::Task),
        ("agent", EntityKind::Agent),
        ("project", EntityKind::Project),
    ];
    kinds.into_iter().filter(|(name, _)| is_named(name)).flat_map(|(_, kind)| ids(kind)).collect()
}

pub(super) fn agents() -> Vec<CompletionCandidate> {
    ids(EntityKind::Agent)
}

pub(super) fn projects() -> Vec<CompletionCandidate> {
    ids(EntityKind::Project)
}

pub(super) fn backups() -> Vec<CompletionCandidate> {
    let backups = state_dir().and_then(|state_dir| list_backups(state_dir).ok());
    backups
        .into_iter()
        .flatten()
        .filter(|backup| is_plain(&backup.id))
        .map(|backup| CompletionCandidate::new(backup.id).help(Some(print::clean(&backup.label).into())))
        .collect()
}

/// Where nothing can be read, nothing is completed.
fn ids(kind: EntityKind) -> Vec<CompletionCandidate> {
    // What is no text is the beginning of no id.
    let Some(last) = std::env::args_os().next_back().unwrap_or_default().into_string().ok() else { return Vec::new() };
    let prefix = if last.starts_with('-') { String::new() } else { last };
    let store = state_dir().and_then(|state_dir| StateStore::open_read_only(state_dir).ok());
    let ids = store.and_then(|store| store.ids(kind, &prefix, MOST).ok());
    ids.into_iter().flatten().filter(|id| is_plain(id)).map(CompletionCandidate::new).collect()
}

/// Whether a shell takes a name as it stands. It puts what is completed into the line without quotes, so that an id such as
/// `$(…)` would be run.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('-') && name.chars().all(|c| c.is_alphanumeric() || "._-:/@+=,%".contains(c))
}

/// The state directory that the line names, or the usual one.
fn state_dir() -> Option<std::path::PathBuf> {
    let joined = std::env::args_os().find_map(|argument| {
        let directory = argument.as_bytes().strip_prefix(b"--state-dir=")?;
        Some(OsStr::from_bytes(directory).to_owned())
    });
    let mut arguments = std::env::args_os().skip_while(|argument| argument != "--state-dir").skip(1);
    let variable = || std::env::var_os(STATE_DIR_VARIABLE).filter(|state_dir| !state_dir.is_empty());
    joined.or_else(|| arguments.next()).or_else(variable).map(Into::into).or_else(|| default_state_dir().ok())
}
