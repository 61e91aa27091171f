//! Which backups to keep.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use chrono::{DateTime, Datelike, Utc};
use serde::Serialize;

use super::folder::{Backup, Folder};
use super::verify::verify;
use crate::error::{Error, Result};
use crate::setters::setters;
use crate::state_dir::sync_directory;

/// Which backups to keep: those that any of the rules keeps. With no rule, none but the newest that can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Retention {
    /// The newest so many.
    pub last: usize,
    /// The newest of each of the last so many days (UTC) that have any.
    pub daily: usize,
    /// The newest of each of the last so many calendar weeks that have any.
    pub weekly: usize,
    /// The newest of each of the last so many months that have any.
    pub monthly: usize,
}

setters! { Retention { last: usize, daily: usize, weekly: usize, monthly: usize } }

/// Which backups were removed and which were kept, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "camelCase")]
pub struct RetentionReport {
    /// Ids of those removed.
    pub removed: Vec<String>,
    /// Ids of those kept.
    pub kept: Vec<String>,
}

impl Retention {
    /// Which of the moments to keep, given newest first; those after `now`, as a clock that was set back leaves them, are
    /// always kept and use up no place.
    ///
    /// ```
    /// use agentmux_state::Retention;
    ///
    /// let at = |text: &str| text.parse().unwrap();
    /// let backups = [at("2026-11-22T10:00:00Z"), at("2026-11-22T09:00:00Z"), at("2026-11-20T10:00:00Z")];
    /// let policy = Retention::default().daily(2);
    /// assert_eq!(policy.keep(&backups, at("2026-11-22T12:00:00Z")), [true, false, true]);
    /// ```
    pub fn keep(&self, newest_first: &[DateTime<Utc>], now: DateTime<Utc>) -> Vec<bool> {
        type Period = fn(&DateTime<Utc>) -> (i32, u32);
        let rules: [(usize, Period); 3] = [
            (self.daily, |at| (at.year(), at.ordinal())),
            (self.weekly, |at| (at.iso_week().year(), at.iso_week().week())),
            (self.monthly, |at| (at.year(), at.month())),
        ];
        let past = newest_first.iter().filter(|at| **at <= now).count();
        let first_past = newest_first.len() - past;
        let mut keep: Vec<bool> =
            (0..newest_first.len()).map(|index| index < first_past || index - first_past < self.last).collect();
        for (count, period) in rules {
            let mut periods = HashSet::new();
            for (at, keep) in newest_first.iter().zip(&mut keep).skip(first_past) {
                if periods.len() < count && periods.insert(period(at)) {
                    *keep = true;
                }
            }
        }
        keep
    }
}

/// Removes the backups that no rule keeps; see [`Backups::prune`](crate::Backups::prune).
pub(crate) fn prune(
    state_dir: &Path,
    retention: &Retention,
    now: DateTime<Utc>,
    dry_run: bool,
) -> Result<RetentionReport> {
    let folder = if dry_run { Folder::look(state_dir)? } else { Folder::change(state_dir)? };
    // What another program wrote in place of the export may hold what is nowhere else: a person decides on it.
    let (kept_exports, backups): (Vec<_>, Vec<_>) = folder.entries()?.into_iter().partition(Backup::is_kept_export);
    let times: Vec<_> = backups.iter().map(Backup::time).collect();
    let mut keep = retention.keep(&times, now);
    // Mostly the first that is looked at is good, and is kept anyway.
    let is_kept = |index: &usize, keep: &[bool]| keep[*index];
    let order = (0..backups.len()).filter(|index| is_kept(index, &keep));
    let order: Vec<_> = order.chain((0..backups.len()).filter(|index| !is_kept(index, &keep))).collect();
    if let Some(trusted) = order.into_iter().find(|&index| verify(&backups[index]).ok) {
        keep[trusted] = true;
    }
    let kept = kept_exports.into_iter().map(|backup| backup.id).collect();
    let mut report = RetentionReport { removed: Vec::new(), kept };
    for (backup, keep) in backups.iter().zip(keep) {
        if keep {
            report.kept.push(backup.id.clone());
            continue;
        }
        if !dry_run {
            folder.remove(backup)?;
        }
        report.removed.push(backup.id.clone());
    }
    Ok(report)
}

impl Folder {
    fn remove(&self, backup: &Backup) -> Result<()> {
        fs::remove_file(&backup.path).map_err(Error::io("remove", &backup.path))?;
        if !backup.is_document() {
            let checksum = self.checksum_file(&backup.id);
            match fs::remove_file(&checksum) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", checksum)(error));
                }
                _ => {}
            }
        }
        sync_directory(&self.path)
    }
}
