//! Between repositories that name content alike: snapshots keep their manifests, and so their names.
//!
//! All snapshots of a transfer are published at once, at its end; what it stored before is found by the next one when it
//! is interrupted. A manifest that it leaves behind is nothing that a ref has lost: the image has a ref from the
//! beginning, if only an empty one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::backup::Control;
use crate::blobs::Blobs;
use crate::id::SnapshotId;
use crate::image::{ImageName, Origin, SnapshotEntry};
use crate::repository::Repository;
use crate::session::Published;
use crate::snapshot::Snapshot;
use crate::writer::Writer;
use crate::{Error, Result};

use super::frames::{Mover, Shared};
use super::relay::{self, Relay};
use super::select::{Candidate, published};
use super::walk::{Base, Stop, Walker};
use super::{Near, Refused, Transfer, TransferOptions, TransferOutcome};

/// How far back a common ancestor is looked for.
const ANCESTORS_MAX: usize = 1000;
/// Pause before a session is registered anew.
const PAUSE: Duration = Duration::from_millis(50);

/// A snapshot of which everything has arrived.
struct Ready<'a> {
    candidate: &'a Candidate,
    manifest: Vec<u8>,
}

/// Sends the missing snapshots.
pub(super) fn run(
    transfer: &Transfer<'_>,
    options: &TransferOptions,
    relay: Option<&dyn Relay>,
    control: &dyn Control,
    outcome: &mut TransferOutcome,
) -> Result<()> {
    let (from, to) = (transfer.from, transfer.to);
    let missing = &transfer.selected.missing;
    let mut writer = begin(transfer, options, control)?;
    to.complete_sessions_leniently()?;
    let source = Blobs::open(from)?;
    let moved = relay
        .map_or(Ok(None), |relay| relay::run(transfer, options, relay, control, &writer, &source))
        .and_then(|relayed| {
            outcome.relayed = relayed;
            move_all(transfer, options, control, &writer, &source, outcome)
        });
    let ready = match moved {
        Ok(ready) => ready,
        Err(error) => {
            // What is stored so far is kept for the next run; the first error is the one to tell.
            let _ = writer.abandon();
            return Err(error);
        }
    };
    writer.flush()?;
    outcome.stored_bytes = writer.stored_bytes();
    if writer.unplaced() > 0 {
        return Err(Error::Invalid(format!(
            "{}: {} blobs that were to be stored are not in the index; nothing was published — run the transfer again",
            to.location(),
            writer.unplaced()
        )));
    }
    let ready = drop_torn_groups(missing, ready, outcome);
    if ready.is_empty() {
        return writer.abandon();
    }
    publish(transfer, options, writer, ready, control, outcome)
}

/// Registers the writer; waits while a collection deletes manifests.
fn begin(transfer: &Transfer<'_>, options: &TransferOptions, control: &dyn Control) -> Result<Writer> {
    let names: Vec<SnapshotId> =
        transfer.selected.missing.iter().map(|candidate| candidate.entry.id).collect();
    let since = Instant::now();
    loop {
        let purpose = format!("copy of {} snapshots from {}", names.len(), transfer.from.location());
        match Writer::begin_copies(transfer.to, purpose, names.clone()) {
            Err(Error::Contended { .. }) if since.elapsed() < options.patience && !control.is_cancelled() => {
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

/// Stores everything that the target lacks; returns the snapshots that are complete.
fn move_all<'t>(
    transfer: &'t Transfer<'_>,
    options: &TransferOptions,
    control: &dyn Control,
    writer: &Writer,
    source: &Blobs,
    outcome: &mut TransferOutcome,
) -> Result<Vec<Ready<'t>>> {
    let as_stored = transfer.from.shares_cipher_with(transfer.to);
    let shared = Shared::new(source, writer, control, as_stored);
    let mut walker = Walker::new(source, control);
    let mut bases = Bases::open(transfer, options, writer, source)?;
    let ready = std::thread::scope(|scope| {
        let mut mover = Mover::start(&shared, scope, options.in_flight)?;
        let mut ready = Vec::new();
        for candidate in &transfer.selected.missing {
            match copy(transfer.from, candidate, &mut walker, &mut mover, &mut bases) {
                Ok(manifest) => ready.push(Ready { candidate, manifest }),
                Err(Stop::Source(error)) => outcome.refused.push(refused(candidate, error.to_string())),
                Err(Stop::Fatal(error)) => return Err(error),
            }
        }
        Ok(ready)
    })?;
    (outcome.nodes_examined, outcome.chunks_examined) = (walker.nodes, walker.chunks);
    let counters = &shared.counters;
    outcome.nodes_sent = counters.nodes.load(Ordering::Relaxed);
    outcome.chunks_sent = counters.chunks.load(Ordering::Relaxed);
    outcome.content_bytes = outcome.chunks_sent * transfer.from.config().chunk_bytes() as u64;
    outcome.frames_untouched = counters.untouched.load(Ordering::Relaxed);
    outcome.frames_encoded = counters.encoded.load(Ordering::Relaxed);
    Ok(ready)
}

fn refused(candidate: &Candidate, reason: String) -> Refused {
    Refused { image: candidate.image.clone(), snapshot: candidate.entry.id, reason }
}

/// Sends one snapshot; returns its manifest when everything below it has reached the writer.
fn copy(
    from: &Repository,
    candidate: &Candidate,
    walker: &mut Walker<'_>,
    mover: &mut Mover<'_, '_>,
    bases: &mut Bases<'_>,
) -> Result<Vec<u8>, Stop> {
    let text = from.snapshot_text(candidate.entry.id).map_err(Stop::of_source)?;
    let snapshot = from.parse_snapshot(candidate.entry.id, &text).map_err(Stop::of_source)?;
    let walked = match bases.find(&candidate.image, &snapshot)? {
        Some(base) => walker.walk(&snapshot, bases.base(&base), mover),
        None => walker.walk(&snapshot, None, mover),
    };
    // Also after an error: what was claimed has to come, for other snapshots count on it.
    let arrived = match walked {
        Err(Stop::Fatal(error)) => return Err(Stop::Fatal(error)),
        _ => mover.arrive(),
    };
    walked.and(arrived)?;
    walker.settle();
    Ok(text)
}

/// Finds snapshots of the target to compare with.
pub(super) struct Bases<'a> {
    from: &'a Repository,
    source: &'a Blobs,
    /// Nodes of the target; none where they are read at the source or nowhere.
    target: Option<Blobs>,
    /// What the target has published of the images concerned, read after the session was registered; nothing where
    /// entries of its index alone are not enough to refer to them.
    there: BTreeMap<ImageName, Vec<SnapshotEntry>>,
    /// Manifests of the source that were read.
    manifests: HashMap<SnapshotId, Option<Snapshot>>,
}

impl<'a> Bases<'a> {
    pub(super) fn open(
        transfer: &Transfer<'a>,
        options: &TransferOptions,
        writer: &Writer,
        source: &'a Blobs,
    ) -> Result<Self> {
        let images: BTreeSet<ImageName> =
            transfer.selected.missing.iter().map(|candidate| candidate.image.clone()).collect();
        // While something is condemned, or a pack is missing, every blob has to be looked up: see W3 in docs/collection.md.
        let mut there =
            if writer.is_settled() { published(transfer.to, Some(&images))? } else { BTreeMap::new() };
        if options.near == Near::From {
            // Their nodes are read at the source, so they have to be kept there.
            let here = published(transfer.from, Some(&images))?;
            for (image, entries) in &mut there {
                let kept = here.get(image).map_or(&[][..], Vec::as_slice);
                entries.retain(|entry| kept.iter().any(|other| other.id == entry.id));
            }
        }
        let is_any = there.values().any(|entries| !entries.is_empty());
        let target = (is_any && options.near == Near::To).then(|| Blobs::open(transfer.to)).transpose()?;
        Ok(Self { from: transfer.from, source, target, there, manifests: HashMap::new() })
    }

    /// The nearest ancestor that the target has published, else its last snapshot of the image that the source knows.
    pub(super) fn find(&mut self, image: &ImageName, wanted: &Snapshot) -> Result<Option<Snapshot>, Stop> {
        let Some(there) = self.there.get(image).filter(|entries| !entries.is_empty()) else {
            return Ok(None);
        };
        let published: HashSet<SnapshotId> = there.iter().map(|entry| entry.id).collect();
        let newest_first: Vec<SnapshotId> = there.iter().rev().map(|entry| entry.id).collect();
        let mut next: Vec<SnapshotId> = wanted.parents.clone();
        let mut seen = HashSet::new();
        while let Some(id) = next.pop().filter(|_| seen.len() < ANCESTORS_MAX) {
            if !seen.insert(id) {
                continue;
            }
            let Some(snapshot) = self.manifest(id)? else { continue };
            if published.contains(&id) && snapshot.is_comparable(wanted) {
                return Ok(Some(snapshot));
            }
            next.extend(&snapshot.parents);
        }
        for id in newest_first.into_iter().take(ANCESTORS_MAX) {
            if let Some(snapshot) = self.manifest(id)?.filter(|snapshot| snapshot.is_comparable(wanted)) {
                return Ok(Some(snapshot));
            }
        }
        Ok(None)
    }

    /// A manifest of the source, or of the target where that is read; none where it cannot be had.
    fn manifest(&mut self, id: SnapshotId) -> Result<Option<Snapshot>, Stop> {
        if let Some(known) = self.manifests.get(&id) {
            return Ok(known.clone());
        }
        let mut found = self.from.snapshot(id);
        if let (Err(_), Some(target)) = (&found, &self.target) {
            found = target.repository().snapshot(id);
        }
        let found = match found {
            Ok(snapshot) => Some(snapshot),
            Err(error) if super::is_damage(&error) => None,
            Err(error) => return Err(Stop::Fatal(error)),
        };
        self.manifests.insert(id, found.clone());
        Ok(found)
    }

    pub(super) fn base<'b>(&'b self, snapshot: &Snapshot) -> Option<Base<'b>> {
        Some(Base::new(self.target.as_ref().unwrap_or(self.source), snapshot))
    }
}

/// Snapshots of one moment are kept all or none: where one of them cannot be had, the others stay behind too.
fn drop_torn_groups<'a>(
    missing: &[Candidate],
    ready: Vec<Ready<'a>>,
    outcome: &mut TransferOutcome,
) -> Vec<Ready<'a>> {
    let failed: HashSet<SnapshotId> = outcome.refused.iter().map(|refused| refused.snapshot).collect();
    let torn: HashSet<&String> = missing
        .iter()
        .filter(|candidate| failed.contains(&candidate.entry.id))
        .filter_map(|candidate| candidate.entry.group.as_ref())
        .collect();
    let (kept, left): (Vec<_>, Vec<_>) = ready
        .into_iter()
        .partition(|ready| ready.candidate.entry.group.as_ref().is_none_or(|group| !torn.contains(group)));
    outcome.refused.extend(left.iter().map(|ready| {
        refused(ready.candidate, "another snapshot of its group cannot be had at the source".to_owned())
    }));
    kept
}

fn publish(
    transfer: &Transfer<'_>,
    options: &TransferOptions,
    writer: Writer,
    ready: Vec<Ready<'_>>,
    control: &dyn Control,
    outcome: &mut TransferOutcome,
) -> Result<()> {
    let to = transfer.to;
    // Before the first manifest: one whose image has no ref would be taken for one whose ref was lost.
    let images: BTreeSet<&ImageName> = ready.iter().map(|ready| &ready.candidate.image).collect();
    for image in images {
        to.change_ref(image, true, |image_ref| Ok(image_ref.generation == 0))?;
    }
    let mut snapshots = Vec::with_capacity(ready.len());
    for Ready { candidate, manifest } in ready {
        let id = to.put_manifest(&manifest)?;
        if id != candidate.entry.id {
            return Err(Error::Invalid(format!(
                "snapshot {} would get the name {} at {}: the repositories do not name content alike",
                candidate.entry.id,
                id,
                to.location()
            )));
        }
        snapshots.push(Published {
            image: candidate.image.clone(),
            entry: entry_at(transfer.from, &candidate.entry, id, options),
        });
        outcome.snapshots.push(candidate.travelled(id));
    }
    writer.commit(snapshots, || crate::backup::confirm(control))
}

/// The entry of a copy under a name.
pub(super) fn entry_at(
    from: &Repository,
    entry: &SnapshotEntry,
    id: SnapshotId,
    options: &TransferOptions,
) -> SnapshotEntry {
    let carried = entry.origin.clone().filter(|_| options.is_carried);
    let origin = carried.unwrap_or_else(|| Origin {
        repository: from.config().repository_id.clone(),
        snapshot: entry.first_name(),
    });
    SnapshotEntry { id, origin: Some(origin), ..entry.clone() }
}
