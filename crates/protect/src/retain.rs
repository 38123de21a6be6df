//! Which snapshots are kept, and letting go of the others.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use leeward_repository::{
    Decision, ImageName, KeepRules, Repository, SnapshotEntry, SnapshotId, plan_by_writer,
};

use crate::Result;

/// What rules say of the snapshots of an image, newest first. Each machine's snapshots are counted for themselves.
///
/// # Errors
/// There is no such image, there is no rule, or the repository fails.
pub fn plan(repository: &Repository, image: &ImageName, rules: &KeepRules) -> Result<Vec<Decision>> {
    let entries = repository.image(image)?.snapshots;
    // One whose manifest cannot be read has a name that no machine has.
    let entries: Vec<(String, SnapshotEntry)> = entries
        .into_iter()
        .map(|entry| {
            (repository.snapshot(entry.id).map(|found| found.source.host).unwrap_or_default(), entry)
        })
        .collect();
    Ok(plan_by_writer(&entries, rules, Timestamp::now(), &TimeZone::system())?)
}

/// Forgets what rules do not keep; returns what was forgotten.
///
/// # Errors
/// As [`plan`].
pub fn forget(repository: &Repository, image: &ImageName, decisions: &[Decision]) -> Result<Vec<SnapshotId>> {
    let ids: Vec<SnapshotId> =
        decisions.iter().filter(|decision| !decision.keep).map(|decision| decision.id).collect();
    if !ids.is_empty() {
        repository.forget(image, &ids)?;
    }
    Ok(ids)
}

/// A span of time for people, a day being 24 hours.
///
/// # Errors
/// It is none; in words.
pub fn span(text: &str) -> Result<SignedDuration, String> {
    if text == "0" {
        return Ok(SignedDuration::ZERO);
    }
    let span = text.parse::<Span>().map_err(|error| format!("{error}; give for example 7d, 12h or 0"))?;
    match span.to_duration(SpanRelativeTo::days_are_24_hours()) {
        Ok(window) if window >= SignedDuration::ZERO => Ok(window),
        Ok(_) => Err("it is negative; give for example 7d, 12h or 0".to_owned()),
        Err(error) => Err(format!("{error}; give days or hours, as in 30d")),
    }
}
