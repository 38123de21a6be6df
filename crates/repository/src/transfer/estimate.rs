//! What a transfer would send, without sending it.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::Result;
use crate::backup::Control;
use crate::blobs::Blobs;
use crate::frame::BlobKind;
use crate::id::{BlobId, PackId};
use crate::index::Index;
use crate::index::run::ENTRY_BYTES;

use super::frames::is_worth_whole;
use super::relay::{Frames, is_worth_moving};
use super::walk::{Sink, Stop, Walker};
use super::{Refused, Transfer, Travelled};

/// What the directory of a pack and a run of the index say of a blob: name, entry, tag and its part of a bucket.
const BYTES_PER_BLOB: u64 = 32 + ENTRY_BYTES as u64 + 3;
/// What the directory of a pack says of a frame.
const BYTES_PER_FRAME: u64 = 40;

/// What would travel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Snapshots that the target lacks, oldest first.
    pub snapshots: Vec<Travelled>,
    /// Snapshots that cannot be had at the source.
    pub refused: Vec<Refused>,
    /// Snapshots that are there already.
    pub present: usize,
    /// Tree nodes that were read at the source.
    pub nodes_examined: u64,
    /// Chunks that were looked up.
    pub chunks_examined: u64,
    /// Chunks that the target lacks.
    pub chunks: u64,
    /// Their content in bytes, before compression.
    pub content_bytes: u64,
    /// Bytes that would be added to the target, as near as can be known without encoding anything.
    pub bytes: u64,
    /// Whether content would be named, and so encoded, anew: then all of it counts as lacking.
    pub is_renamed: bool,
    /// Packs that are worth moving whole, where somebody can move them from store to store.
    pub whole_packs: u64,
    /// Their size in bytes.
    pub whole_pack_bytes: u64,
}

/// Counts what is missing.
struct Tally<'a> {
    from: &'a Blobs,
    index: Option<&'a Index>,
    seen: HashSet<BlobId>,
    /// Wanted chunks of each frame, by pack; with the length of the frame.
    frames: BTreeMap<PackId, Frames>,
    chunks: u64,
    nodes: u64,
    node_bytes: u64,
}

impl Sink for Tally<'_> {
    fn lacks(&mut self, id: &BlobId) -> Result<bool> {
        if self.seen.contains(id) {
            return Ok(false);
        }
        if let Some(index) = self.index
            && index.may_contain(id)
            && index.can_reuse(id)?
        {
            return Ok(false);
        }
        Ok(self.seen.insert(*id))
    }

    fn node(&mut self, _id: BlobId, bytes: Vec<u8>) -> Result<(), Stop> {
        self.nodes += 1;
        self.node_bytes += bytes.len() as u64;
        Ok(())
    }

    fn chunk(&mut self, id: BlobId) -> Result<(), Stop> {
        let location = self.from.locate(BlobKind::Chunk, id).map_err(Stop::of_source)?;
        self.chunks += 1;
        let frame = self.frames.entry(location.pack).or_default().entry(location.offset);
        frame.or_insert((location.length, 0)).1 += 1;
        Ok(())
    }

    fn end_leaf(&mut self) -> Result<(), Stop> {
        Ok(())
    }
}

impl Tally<'_> {
    /// Bytes that the missing blobs take at the target, and packs that could travel whole.
    fn add_up(&self, estimate: &mut Estimate) -> Result<()> {
        let index = self.from.index();
        let mut bytes = self.node_bytes + self.nodes * BYTES_PER_BLOB + self.chunks * BYTES_PER_BLOB;
        for (pack, frames) in &self.frames {
            let directory = self.from.repository().pack_directory(*pack)?;
            let mut wanted_bytes = 0;
            for (offset, (length, wanted)) in frames {
                let found = directory.frames.binary_search_by_key(offset, |frame| frame.offset);
                let count = found.map_or(*wanted, |found| directory.frames[found].blobs.len());
                let length = u64::from(*length);
                let part = length * *wanted as u64 / count.max(1) as u64;
                wanted_bytes += part;
                bytes += BYTES_PER_FRAME + if is_worth_whole(*wanted, count) { length } else { part };
            }
            let size = index.states().present.get(pack).copied().unwrap_or(u64::MAX);
            if is_worth_moving(wanted_bytes, size) {
                estimate.whole_packs += 1;
                estimate.whole_pack_bytes += size;
            }
        }
        estimate.bytes = bytes;
        Ok(())
    }
}

impl Transfer<'_> {
    /// What [`Transfer::run`] would send now. Changes nothing on either side; reads no data, but the trees of the wanted
    /// snapshots and the directories of the packs that hold what is missing.
    ///
    /// # Errors
    /// A store fails, an index is damaged, or the work is cancelled.
    pub fn estimate(&self, control: &dyn Control) -> Result<Estimate> {
        let mut estimate = Estimate {
            present: self.present(),
            is_renamed: !self.from.shares_names_with(self.to),
            ..Estimate::default()
        };
        if self.selected.missing.is_empty() {
            return Ok(estimate);
        }
        let source = Blobs::open(self.from)?;
        let index = if estimate.is_renamed { None } else { Some(self.to.load_index()?) };
        let mut walker = Walker::new(&source, control);
        let mut tally = Tally {
            from: &source,
            index: index.as_ref(),
            seen: HashSet::new(),
            frames: BTreeMap::new(),
            chunks: 0,
            nodes: 0,
            node_bytes: 0,
        };
        for candidate in &self.selected.missing {
            let id = candidate.entry.id;
            let walked = self
                .from
                .snapshot(id)
                .map_err(Stop::of_source)
                .and_then(|snapshot| walker.walk(&snapshot, None, &mut tally));
            match walked {
                Ok(()) => {
                    walker.settle();
                    estimate.snapshots.push(candidate.travelled(id));
                }
                Err(Stop::Source(error)) => estimate.refused.push(Refused {
                    image: candidate.image.clone(),
                    snapshot: id,
                    reason: error.to_string(),
                }),
                Err(Stop::Fatal(error)) => return Err(error),
            }
        }
        (estimate.nodes_examined, estimate.chunks_examined) = (walker.nodes, walker.chunks);
        estimate.chunks = tally.chunks;
        estimate.content_bytes = tally.chunks * self.from.config().chunk_bytes() as u64;
        tally.add_up(&mut estimate)?;
        if !self.from.shares_cipher_with(self.to) {
            (estimate.whole_packs, estimate.whole_pack_bytes) = (0, 0);
        }
        Ok(estimate)
    }
}
