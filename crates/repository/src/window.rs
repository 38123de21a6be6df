//! The second stage of deletion: letting go of what was forgotten, when its window has passed.
//!
//! Until then nothing is lost by a mistake: `forget` only marks, and [`crate::Repository::undelete`] takes the mark
//! away. No safety of the repository rests on the clock that is asked here; what rests on it is only how long a person
//! has to change their mind. Still, a clock that runs far ahead would take that time away, so it is compared with all
//! the times that the repository knows, and where it is in doubt nothing is let go.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};

use crate::collect::CollectOptions;
use crate::id::SnapshotId;
use crate::image::ForgottenSnapshot;
use crate::repository::Repository;
use crate::{Error, Result};

/// For how long what was forgotten can be brought back, if nobody says otherwise: over a week-end and a holiday, and
/// a mistake in a weekly rule is seen before its data is gone.
pub const WINDOW: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Clocks of machines that keep time differ by less than this.
const SKEW_MAX: SignedDuration = SignedDuration::from_mins(15);
/// A clock that is ahead of everything that the repository knows by more than this is in doubt: a repository in use has
/// a backup, or something forgotten, every month.
const SILENCE_MAX: SignedDuration = SignedDuration::from_hours(31 * 24);

/// Why a clock is in doubt, judged by the newest time that a repository knows.
fn doubt(now: Timestamp, newest: Timestamp) -> Option<String> {
    let ahead = now.duration_since(newest);
    if ahead < -SKEW_MAX {
        return Some(format!("the clock says {now}, but the repository knows of something at {newest}"));
    }
    (ahead > SILENCE_MAX)
        .then(|| format!("the clock says {now}, but the last that the repository knows of was at {newest}"))
}

/// Whether the window of a forgotten snapshot has passed. The window begins with the later of the times that stand in
/// it, so that a machine whose clock is behind cannot shorten it for a snapshot that was made after.
fn has_passed(forgotten: &ForgottenSnapshot, window: SignedDuration, now: Timestamp) -> bool {
    let since = forgotten.forgetting.at.max(forgotten.entry.created);
    window.is_zero() || now.duration_since(since) >= window
}

impl Repository {
    /// The snapshots that were forgotten and can still be brought back.
    pub(crate) fn forgotten_ids(&self) -> Result<HashSet<SnapshotId>> {
        let mut ids = HashSet::new();
        for name in self.images()? {
            if let Some((image, _)) = self.read_ref(&name)? {
                ids.extend(image.forgotten.iter().map(|forgotten| forgotten.entry.id));
            }
        }
        Ok(ids)
    }

    /// The forgotten snapshots whose window has passed; none, and the reason, when the clock is in doubt.
    pub(crate) fn due(&self, options: &CollectOptions) -> Result<(HashSet<SnapshotId>, Option<String>)> {
        if options.window.is_negative() {
            return Err(Error::Invalid("the window in which to bring snapshots back is negative".to_owned()));
        }
        let now = self.now();
        let mut due = HashSet::new();
        for name in self.images()? {
            if let Some((image, _)) = self.read_ref(&name)? {
                let passed = image.forgotten.iter().filter(|one| has_passed(one, options.window, now));
                due.extend(passed.map(|one| one.entry.id));
            }
        }
        // Asked only where it matters: while nothing is due no clock is doubted.
        let is_asked = !due.is_empty() && !options.window.is_zero() && !options.trust_clock;
        if is_asked && let Some(doubt) = self.newest_time()?.and_then(|newest| doubt(now, newest)) {
            return Ok((HashSet::new(), Some(doubt)));
        }
        Ok((due, None))
    }

    /// Drops what was forgotten from the refs where its window has passed; returns why nothing was dropped when the
    /// clock is in doubt.
    ///
    /// A ref is replaced by comparison: a snapshot that is being brought back either is back before, and is seen to be,
    /// or whoever brings it back finds it gone. One that was brought back and forgotten again has another mark.
    pub(crate) fn let_go(&self, options: &CollectOptions) -> Result<Option<String>> {
        let (due, doubt) = self.due(options)?;
        if due.is_empty() {
            return Ok(doubt);
        }
        let now = self.now();
        for name in self.images()? {
            self.change_ref(&name, false, |image| {
                let before = image.forgotten.len();
                image
                    .forgotten
                    .retain(|one| !(due.contains(&one.entry.id) && has_passed(one, options.window, now)));
                Ok(image.forgotten.len() != before)
            })?;
        }
        Ok(doubt)
    }

    /// The newest time that stands in a ref or a session.
    fn newest_time(&self) -> Result<Option<Timestamp>> {
        let mut newest = None;
        for name in self.images()? {
            let Some((image, _)) = self.read_ref(&name)? else { continue };
            let forgotten = image.forgotten.iter().flat_map(|one| [one.entry.created, one.forgetting.at]);
            newest = image.snapshots.iter().map(|entry| entry.created).chain(forgotten).chain(newest).max();
        }
        let sessions = self.sessions()?;
        Ok(sessions.iter().filter_map(|session| session.record.created.parse().ok()).chain(newest).max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_believed_only_near_the_times_that_the_repository_knows() {
        let newest: Timestamp = "2026-05-01T00:00:00Z".parse().unwrap();
        for (now, is_doubted) in [
            ("2026-04-30T23:50:00Z", false),
            ("2026-04-30T23:30:00Z", true),
            ("2026-05-20T00:00:00Z", false),
            ("2026-06-02T00:00:00Z", true),
        ] {
            assert_eq!(doubt(now.parse().unwrap(), newest).is_some(), is_doubted, "{now}");
        }
    }
}
