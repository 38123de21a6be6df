//! Between repositories that name content differently: another secret, or chunks of another size.
//!
//! A snapshot is read as a disk and backed up at the target, which names, compresses and encrypts it in its own way.
//! Its manifest says which snapshot it was (`origin`), and so does its entry in the ref: a second transfer finds it.
//! Where the snapshot before is at the target already, only what differs from it is read.

use std::collections::BTreeMap;

use crate::backup::{Changed, Control, GroupOptions, Member};
use crate::id::SnapshotId;
use crate::image::{Origin, SnapshotEntry};
use crate::repository::Repository;
use crate::session::Published;
use crate::snapshot::Snapshot;
use crate::writer::Writer;
use crate::{Error, Result};

use super::copy::entry_at;
use super::select::{Candidate, published};
use super::{Refused, Transfer, TransferOptions, TransferOutcome};

/// Sends the missing snapshots, those of one moment together.
pub(super) fn run(
    transfer: &Transfer<'_>,
    options: &TransferOptions,
    control: &dyn Control,
    outcome: &mut TransferOutcome,
) -> Result<()> {
    for unit in units(&transfer.selected.missing) {
        match copy(transfer, &unit, options, control, outcome) {
            Ok(()) => {}
            Err(error) if is_of_source(transfer.from, &error) => {
                outcome.refused.extend(unit.iter().map(|candidate| Refused {
                    image: candidate.image.clone(),
                    snapshot: candidate.entry.id,
                    reason: leeward_store::with_causes(&error),
                }));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Snapshots that are published together: those of a group, or one.
fn units(missing: &[Candidate]) -> Vec<Vec<&Candidate>> {
    let mut units: Vec<Vec<&Candidate>> = Vec::new();
    for candidate in missing {
        let group = candidate.entry.group.as_ref();
        let other = units.iter_mut().find(|unit| {
            group.is_some() && unit.first().is_some_and(|first| first.entry.group.as_ref() == group)
        });
        match other {
            Some(unit) => unit.push(candidate),
            None => units.push(vec![candidate]),
        }
    }
    units
}

/// Whether what could not be read is stored at the source.
fn is_of_source(from: &Repository, error: &Error) -> bool {
    match error {
        Error::Disk(error) => error.kind() == leeward_disk::ErrorKind::Corrupt,
        Error::Damaged { store, .. }
        | Error::MissingBlob { store, .. }
        | Error::WrongContent { store, .. } => store == from.location(),
        _ => false,
    }
}

fn copy(
    transfer: &Transfer<'_>,
    unit: &[&Candidate],
    options: &TransferOptions,
    control: &dyn Control,
    outcome: &mut TransferOutcome,
) -> Result<()> {
    let (from, to) = (transfer.from, transfer.to);
    let names: Vec<&str> = unit.iter().map(|candidate| candidate.image.as_str()).collect();
    let mut writer = Writer::begin(to, format!("copy of {} from {}", names.join(", "), from.location()))?;
    to.complete_sessions_leniently()?;
    let images = unit.iter().map(|candidate| candidate.image.clone()).collect();
    let there = published(to, Some(&images))?;
    let mut drafts = Vec::with_capacity(unit.len());
    for candidate in unit {
        let entries = there.get(&candidate.image).map_or(&[][..], Vec::as_slice);
        match draft(from, to, candidate, entries, &writer, control) {
            Ok(draft) => drafts.push(draft),
            Err(error) => {
                // What is stored so far is kept for the next run; the first error is the one to tell.
                let _ = writer.abandon();
                return Err(error);
            }
        }
    }
    writer.flush()?;
    let stored = writer.stored_bytes();
    let mut snapshots: Vec<Published> = Vec::with_capacity(unit.len());
    for (candidate, mut draft) in unit.iter().zip(drafts) {
        draft.session = writer.session_id().unwrap_or_default().to_owned();
        outcome.content_bytes += draft.statistics.new_bytes;
        match to.put_snapshot(&draft) {
            Ok(id) => snapshots.push(Published {
                image: candidate.image.clone(),
                entry: entry_at(from, &candidate.entry, id, options),
            }),
            Err(error) => {
                let stored: Vec<SnapshotId> = snapshots.iter().map(|published| published.entry.id).collect();
                to.withdraw_snapshots(&stored);
                return Err(error);
            }
        }
    }
    let sent: Vec<_> =
        unit.iter().zip(&snapshots).map(|(candidate, sent)| candidate.travelled(sent.entry.id)).collect();
    writer.commit(snapshots, || crate::backup::confirm(control))?;
    outcome.stored_bytes += stored;
    outcome.chunks_sent = outcome.content_bytes / to.config().chunk_bytes() as u64;
    outcome.snapshots.extend(sent);
    Ok(())
}

/// Reads a snapshot, stores what is new at the target, and returns the manifest that it gets there.
fn draft(
    from: &Repository,
    to: &Repository,
    candidate: &Candidate,
    there: &[SnapshotEntry],
    writer: &Writer,
    control: &dyn Control,
) -> Result<Snapshot> {
    let source = from.source(candidate.entry.id)?;
    let original = source.snapshot();
    let known: BTreeMap<SnapshotId, SnapshotId> =
        there.iter().flat_map(|entry| [(entry.first_name(), entry.id), (entry.id, entry.id)]).collect();
    let member = Member {
        image: candidate.image.clone(),
        source: &source,
        record: original.source.clone(),
        changed: changed(from, original, &known)?,
        capture: None,
    };
    let options = GroupOptions {
        group: None,
        consistency: original.consistency,
        tags: original.tags.clone(),
        threads: leeward_disk::default_threads(),
    };
    let made = to.capture(&member, &options, writer, control)?;
    Ok(Snapshot {
        parents: original
            .parents
            .iter()
            .map(|parent| known.get(parent).copied().unwrap_or(*parent))
            .collect(),
        group: original.group.clone(),
        capture: original.capture.clone(),
        origin: Some(origin(from, original, &candidate.entry)),
        created: original.created.clone(),
        ..made
    })
}

fn origin(from: &Repository, original: &Snapshot, entry: &SnapshotEntry) -> Origin {
    // That of a copy is kept: it tells where the backup was made.
    original.origin.clone().unwrap_or_else(|| Origin {
        repository: from.config().repository_id.clone(),
        snapshot: entry.first_name(),
    })
}

/// What differs from a parent that the target has; none where the whole disk has to be read.
fn changed(
    from: &Repository,
    original: &Snapshot,
    known: &BTreeMap<SnapshotId, SnapshotId>,
) -> Result<Option<Changed>> {
    for parent in &original.parents {
        let Some(base) = known.get(parent) else { continue };
        let before = match from.snapshot(*parent) {
            Ok(before) if before.virtual_size == original.virtual_size && before.is_comparable(original) => {
                before
            }
            Ok(_) => continue,
            Err(error) if super::is_damage(&error) => continue,
            Err(error) => return Err(error),
        };
        let mut ranges = Vec::new();
        from.diff(&before, original, |difference| ranges.push((difference.offset, difference.length)))?;
        return Ok(Some(Changed { base: *base, ranges }));
    }
    Ok(None)
}
