//! Packs that travel whole, and not through this process.
//!
//! Where somebody else can move an object from the source's store to the target's (one server to the other), whole packs
//! of chunks are named to him first. What he has brought lies at the target as packs that no run speaks of; the writer
//! takes them up as it takes up those of a writer that died, and the transfer goes on as if they had always been there.
//! So the mover needs no key, nothing rests on his word, and what he does not bring travels as it always does.
//!
//! The session is registered before the first pack is moved, so no collection deletes one of them in between
//! (`docs/collection.md`, W1). A pack is stored under a name of its own ([`rename_pack`]): it may have been at the target
//! before, and a collection that is slow may still be about to delete it by the name that it had. So what has arrived
//! is not told by names, but by a look at what can be found in the target.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use crate::Result;
use crate::backup::Control;
use crate::blobs::Blobs;
use crate::frame::BlobKind;
use crate::id::{BlobId, PackId};
use crate::pack;
use crate::writer::{Writer, lock};

use super::copy::Bases;
use super::walk::{Sink, Stop, Walker};
use super::{Transfer, TransferOptions};

/// Directories of packs that are read at once.
const DIRECTORIES_AT_ONCE: usize = 8;

/// A pack of the source that is worth moving whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WholePack {
    /// Its name.
    pub id: PackId,
    /// Its size in bytes.
    pub size: u64,
}

/// What came of moving packs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Relayed {
    /// Who moved them, for people.
    pub by: String,
    /// Packs that were to be moved, and their size in bytes.
    pub packs_wanted: u64,
    /// Their size.
    pub wanted_bytes: u64,
    /// Packs that were moved.
    pub packs: u64,
    /// Their size in bytes: what went the other way.
    pub bytes: u64,
    /// Why some of them were not moved; they travel through this process.
    pub left_because: Option<String>,
}

/// Tells which of these packs the target still lacks, by a look at it.
pub type Lacking<'a> = dyn Fn(&[WholePack]) -> Result<Vec<WholePack>> + 'a;

/// Somebody who can move packs from the source to the target.
pub trait Relay: Sync {
    /// Moves packs, as far as he can, each under a name of its own ([`rename_pack`]). What he leaves travels in the usual
    /// way. Before he moves a pack a second time, he asks `lacking` whether it has arrived.
    ///
    /// # Errors
    /// The transfer is to end: it was cancelled, or must not go another way.
    fn relay(&self, packs: &[WholePack], lacking: &Lacking<'_>, control: &dyn Control) -> Result<Relayed>;
}

/// Gives the bytes of a pack, which were compared with its name, a name that no pack has ever had; returns that. To be done
/// anew for every pack that is put into another repository: an old name may be one that is just being deleted there.
///
/// # Errors
/// What is wrong with the pack, or the system gives no random bytes.
pub fn rename_pack(id: PackId, bytes: &mut [u8]) -> Result<PackId, String> {
    pack::rename(id, bytes)
}

/// Whether a pack is moved whole: when at least half of it is wanted. What is not is carried for nothing and becomes
/// garbage at the target; what is wanted of a pack that stays goes through this process.
pub(super) fn is_worth_moving(wanted_bytes: u64, pack_bytes: u64) -> bool {
    wanted_bytes.saturating_mul(2) >= pack_bytes
}

/// Has packs moved, and makes the writer know them.
pub(super) fn run(
    transfer: &Transfer<'_>,
    options: &TransferOptions,
    relay: &dyn Relay,
    control: &dyn Control,
    writer: &Writer,
    source: &Blobs,
) -> Result<Option<Relayed>> {
    if transfer.why_not_whole().is_some() {
        return Ok(None);
    }
    let packs = plan(transfer, options, control, writer, source)?;
    if packs.is_empty() {
        return Ok(None);
    }
    let mut relayed = relay.relay(&packs, &|packs| lacking(packs, writer, source), control)?;
    relayed.packs_wanted = packs.len() as u64;
    relayed.wanted_bytes = packs.iter().map(|pack| pack.size).sum();
    writer.look_again()?;
    Ok(Some(relayed))
}

/// The packs of which something cannot be found at the target.
fn lacking(packs: &[WholePack], writer: &Writer, source: &Blobs) -> Result<Vec<WholePack>> {
    writer.look_again()?;
    filter(packs, |pack| {
        let directory = match source.repository().pack_directory(pack.id) {
            Ok(directory) => directory,
            Err(error) if super::is_damage(&error) => return Ok(true),
            Err(error) => return Err(error),
        };
        for id in directory.frames.iter().flat_map(|frame| &frame.blobs) {
            if !writer.can_refer(id)? {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

/// Those that are chosen by their directories, several of which are read at once: over a network one after the other would
/// take its delay each.
fn filter(packs: &[WholePack], choose: impl Fn(&WholePack) -> Result<bool> + Sync) -> Result<Vec<WholePack>> {
    let (next, chosen) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..DIRECTORIES_AT_ONCE.min(packs.len()) {
            scope.spawn(|| {
                while let Some(pack) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match choose(pack) {
                        Ok(true) => lock(&chosen).push(*pack),
                        Ok(false) => {}
                        // One that is damaged is left to the transfer, which takes what can be had of it.
                        Err(error) if super::is_damage(&error) => {}
                        Err(error) => {
                            lock(&failure).get_or_insert(error);
                            return;
                        }
                    }
                }
            });
        }
    });
    let (mut chosen, failure) = (std::mem::take(&mut *lock(&chosen)), lock(&failure).take());
    chosen.sort_unstable_by_key(|pack| pack.id);
    failure.map_or(Ok(chosen), Err)
}

/// Listens for an end, and tells nobody of progress.
struct Quiet<'a>(&'a dyn Control);

impl Control for Quiet<'_> {
    fn advance(&self, _bytes: u64) {}

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// Finds the packs of which so much is wanted that they are worth moving whole.
fn plan(
    transfer: &Transfer<'_>,
    options: &TransferOptions,
    control: &dyn Control,
    writer: &Writer,
    source: &Blobs,
) -> Result<Vec<WholePack>> {
    let quiet = Quiet(control);
    let mut walker = Walker::new(source, &quiet);
    let mut bases = Bases::open(transfer, options, writer, source)?;
    let mut planner = Planner { from: source, writer, seen: HashSet::new(), frames: BTreeMap::new() };
    for candidate in &transfer.selected.missing {
        let walked =
            transfer.from.snapshot(candidate.entry.id).map_err(Stop::of_source).and_then(|snapshot| {
                let base = bases.find(&candidate.image, &snapshot)?;
                let base = base.as_ref().and_then(|base| bases.base(base));
                walker.walk(&snapshot, base, &mut planner)
            });
        match walked {
            Ok(()) => walker.settle(),
            // The transfer itself finds it again, and names it.
            Err(Stop::Source(_)) => {}
            Err(Stop::Fatal(error)) => return Err(error),
        }
    }
    planner.choose()
}

/// Wanted chunks of each frame, by its offset; with the length of the frame.
pub(super) type Frames = BTreeMap<u32, (u32, usize)>;

/// Counts what is wanted of each pack of chunks.
struct Planner<'a> {
    from: &'a Blobs,
    writer: &'a Writer,
    /// The first bytes of names that were asked for. Two names that begin alike make a plan a little worse, no more.
    seen: HashSet<u64>,
    frames: BTreeMap<PackId, Frames>,
}

impl Sink for Planner<'_> {
    fn lacks(&mut self, id: &BlobId) -> Result<bool> {
        let mut first = [0; 8];
        first.copy_from_slice(&id.as_bytes()[..8]);
        Ok(!self.writer.can_refer(id)? && self.seen.insert(u64::from_le_bytes(first)))
    }

    fn node(&mut self, _id: BlobId, _bytes: Vec<u8>) -> Result<(), Stop> {
        // Nodes are composed anew: they were read here anyway, and their packs are read again where they are taken up.
        Ok(())
    }

    fn chunk(&mut self, id: BlobId) -> Result<(), Stop> {
        // What cannot be had is found again, and named, by the transfer itself.
        if let Ok(location) = self.from.locate(BlobKind::Chunk, id) {
            let frames = self.frames.entry(location.pack).or_default();
            frames.entry(location.offset).or_insert((location.length, 0)).1 += 1;
        }
        Ok(())
    }

    fn end_leaf(&mut self) -> Result<(), Stop> {
        Ok(())
    }
}

impl Planner<'_> {
    /// The packs that are worth moving, in the order in which they are asked for.
    fn choose(&self) -> Result<Vec<WholePack>> {
        let index = self.from.index();
        let sizes = &index.states().present;
        let likely: Vec<WholePack> = self
            .frames
            .iter()
            .filter_map(|(id, frames)| Some((WholePack { id: *id, size: *sizes.get(id)? }, frames)))
            .filter(|(pack, frames)| {
                is_worth_moving(frames.values().map(|(length, _)| u64::from(*length)).sum(), pack.size)
            })
            .map(|(pack, _)| pack)
            .collect();
        filter(&likely, |pack| match self.frames.get(&pack.id) {
            Some(frames) => Ok(is_worth_moving(self.wanted_bytes(pack.id, frames)?, pack.size)),
            None => Ok(false),
        })
    }

    fn wanted_bytes(&self, pack: PackId, frames: &Frames) -> Result<u64> {
        let directory = self.from.repository().pack_directory(pack)?;
        let mut bytes = 0;
        for (offset, (length, wanted)) in frames {
            let found = directory.frames.binary_search_by_key(offset, |frame| frame.offset);
            let count = found.map_or(*wanted, |found| directory.frames[found].blobs.len());
            bytes += u64::from(*length) * (*wanted).min(count) as u64 / count.max(1) as u64;
        }
        Ok(bytes)
    }
}
