//! What is in use: one bit for each entry of the index.

use std::collections::HashSet;
use std::sync::Arc;

use crate::blobs::Blobs;
use crate::frame::BlobKind;
use crate::id::{BlobId, PackId, SnapshotId};
use crate::image::SnapshotEntry;
use crate::index::{Index, PackState, Place};
use crate::repository::{Repository, SNAPSHOTS};
use crate::session::State;
use crate::snapshot::Snapshot;
use crate::{Error, ErrorKind, Result};

/// A set of entries of an index: one bit for each.
pub(crate) struct Places(Vec<Vec<u64>>);

impl Places {
    /// None of them.
    pub(crate) fn new(index: &Index) -> Self {
        Self(index.runs().iter().map(|run| vec![0; run.len().div_ceil(64)]).collect())
    }

    /// Adds one; `false` when it was there.
    pub(crate) fn insert(&mut self, (run, rank): Place) -> bool {
        let (word, bit) = (&mut self.0[run][rank / 64], 1 << (rank % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Whether an entry is among them.
    pub(crate) fn contains(&self, (run, rank): Place) -> bool {
        self.0[run][rank / 64] >> (rank % 64) & 1 == 1
    }
}

/// Blobs that were met on a walk: one bit for each entry of the index; by name only where the index has none.
pub(crate) struct Seen {
    index: Arc<Index>,
    places: Places,
    others: HashSet<BlobId>,
}

impl Seen {
    /// Nothing was met yet.
    pub(crate) fn new(index: &Arc<Index>) -> Self {
        Self { index: Arc::clone(index), places: Places::new(index), others: HashSet::new() }
    }

    /// Notes a blob; `false` when it had been met before.
    pub(crate) fn insert(&mut self, id: &BlobId) -> Result<bool> {
        Ok(match self.index.place(id)? {
            Some((place, ..)) => self.places.insert(place),
            None => self.others.insert(*id),
        })
    }
}

/// The entries of an index that live snapshots need.
pub(crate) struct Marks {
    /// The index whose entries are marked. Reading may have loaded a newer one meanwhile, in which the places are others.
    pub(crate) index: Arc<Index>,
    places: Places,
    /// Packs that somebody means to delete, and that hold something live of which every copy is condemned.
    pub(crate) needed_condemned: HashSet<PackId>,
}

impl Marks {
    fn new(index: Arc<Index>) -> Self {
        Self { places: Places::new(&index), index, needed_condemned: HashSet::new() }
    }

    /// Whether the entry of a rank in a run is in use.
    pub(crate) fn is_set(&self, place: Place) -> bool {
        self.places.contains(place)
    }
}

/// What must not be deleted.
pub(crate) struct Live {
    /// Snapshots that are kept.
    pub(crate) published: Vec<SnapshotEntry>,
    /// How many of them are forgotten and can still be brought back.
    pub(crate) forgotten: usize,
    /// Snapshots whose image has lost its ref, see [`Repository::stranded_snapshots`].
    stranded: Vec<(SnapshotId, Snapshot)>,
}

impl Live {
    /// Leaves out snapshots that are as good as gone.
    pub(crate) fn without(mut self, gone: &HashSet<SnapshotId>) -> Self {
        let before = self.published.len();
        self.published.retain(|entry| !gone.contains(&entry.id));
        self.forgotten = self.forgotten.saturating_sub(before - self.published.len());
        self
    }

    /// Their names.
    pub(crate) fn ids(&self) -> HashSet<SnapshotId> {
        let stranded = self.stranded.iter().map(|(id, _)| *id);
        self.published.iter().map(|entry| entry.id).chain(stranded).collect()
    }
}

impl Repository {
    /// All that must not be deleted.
    pub(crate) fn live(&self) -> Result<Live> {
        let published = self.live_snapshots()?;
        let stranded = self.stranded_snapshots(&published.iter().map(|entry| entry.id).collect())?;
        let forgotten = self.forgotten_ids()?;
        let forgotten = published.iter().filter(|entry| forgotten.contains(&entry.id)).count();
        Ok(Live { published, forgotten, stranded })
    }

    /// All snapshots whose data is kept: those in refs, forgotten or not, and those that a session has committed.
    pub(crate) fn live_snapshots(&self) -> Result<Vec<SnapshotEntry>> {
        // Sessions first: a commit that moves into its ref between the two looks is then seen twice, never missed.
        let mut live: Vec<SnapshotEntry> = self
            .sessions()?
            .into_iter()
            .flat_map(|session| match session.record.state {
                State::Committed { snapshots } => snapshots,
                State::Open | State::Revoked => Vec::new(),
            })
            .map(|published| published.entry)
            .collect();
        for name in self.images()? {
            if let Some((image, _)) = self.read_ref(&name)? {
                live.extend(image.snapshots);
                // They can be brought back until a collection lets them go.
                live.extend(image.forgotten.into_iter().map(|forgotten| forgotten.entry));
            }
        }
        let mut seen = HashSet::new();
        live.retain(|entry| seen.insert(entry.id));
        Ok(live)
    }

    /// The trees of snapshots that have one: snapshot, root and its level. They are read in one go after a listing, which
    /// vouches for the manifests that a local cache has; else each of them is a request.
    fn roots(&self, entries: &[SnapshotEntry]) -> Result<Vec<(SnapshotId, BlobId, u8)>> {
        self.store().list(SNAPSHOTS)?;
        let mut roots = Vec::with_capacity(entries.len());
        for entry in entries {
            let snapshot = self.snapshot(entry.id)?;
            roots.extend(snapshot.root.map(|root| (entry.id, root, snapshot.root_level)));
        }
        Ok(roots)
    }

    /// Marks what the live snapshots need.
    ///
    /// # Errors
    /// Something that a live snapshot needs is missing or damaged: then nothing may be deleted, for what is missing
    /// may lie in what looks unused.
    pub(crate) fn mark(&self, blobs: &Blobs, live: &Live) -> Result<Marks> {
        let index = blobs.index();
        let mut marker = Marker::new(blobs, &index);
        for (id, root, level) in self.roots(&live.published)? {
            marker.snapshot = Some(id);
            marker.tree(root, level)?;
        }
        for (_, snapshot) in &live.stranded {
            let Some(root) = snapshot.root else { continue };
            match marker.tree(root, snapshot.root_level) {
                // It may be of a writer that was declared dead and lost what it had stored. What is there is kept.
                Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => {}
                other => other?,
            }
        }
        Ok(marker.marks)
    }

    /// Calls `visit` for snapshots in turn, with the packs of what each needs and none before it did.
    ///
    /// # Errors
    /// Something that a snapshot needs is missing or damaged, or `visit` fails.
    pub(crate) fn packs_in_turn(
        &self,
        snapshots: &[SnapshotId],
        visit: &mut dyn FnMut(SnapshotId, HashSet<PackId>) -> Result<()>,
    ) -> Result<()> {
        let blobs = Blobs::with_index(self, self.load_index()?);
        let index = blobs.index();
        let mut marker = Marker { packs: Some(HashSet::new()), ..Marker::new(&blobs, &index) };
        for id in snapshots {
            let snapshot = self.snapshot(*id)?;
            marker.snapshot = Some(*id);
            if let Some(root) = snapshot.root {
                marker.tree(root, snapshot.root_level)?;
            }
            visit(*id, marker.packs.replace(HashSet::new()).unwrap_or_default())?;
        }
        Ok(())
    }
}

struct Marker<'a> {
    blobs: &'a Blobs,
    index: &'a Index,
    marks: Marks,
    /// Nodes whose subtrees are marked, or could not be read.
    walked: Places,
    /// Chunks that were met and are not marked yet.
    chunks: Vec<BlobId>,
    snapshot: Option<SnapshotId>,
    /// Packs of newly marked blobs, where somebody wants to know them.
    packs: Option<HashSet<PackId>>,
}

/// So many chunks are looked up together, in order of their names: then the index is gone through from one end to the other,
/// not read all over for each leaf. Bounds what they take in memory: 64 MiB.
const CHUNKS_TOGETHER: usize = 1 << 21;

impl<'a> Marker<'a> {
    fn new(blobs: &'a Blobs, index: &'a Arc<Index>) -> Self {
        Self {
            blobs,
            index,
            marks: Marks::new(Arc::clone(index)),
            walked: Places::new(index),
            chunks: Vec::new(),
            snapshot: None,
            packs: None,
        }
    }

    /// Marks all that a tree needs.
    fn tree(&mut self, root: BlobId, level: u8) -> Result<()> {
        let walked = self.node(root, level);
        // Also when it failed: what is there of a tree that is not whole may have to be kept.
        self.mark_chunks()?;
        walked
    }

    fn mark_chunks(&mut self) -> Result<()> {
        let mut chunks = std::mem::take(&mut self.chunks);
        chunks.sort_unstable();
        chunks.dedup();
        let mut result = Ok(());
        for id in &chunks {
            // The others are marked all the same.
            if let Err(error) = self.blob(BlobKind::Chunk, *id) {
                result = result.and(Err(error));
            }
        }
        chunks.clear();
        self.chunks = chunks;
        result
    }

    fn node(&mut self, id: BlobId, level: u8) -> Result<()> {
        let place = self.blob(BlobKind::Node, id)?;
        // Apart from the marks: a hostile leaf may name a node as if it were a chunk, which must not hide its subtree.
        if !self.walked.insert(place) {
            return Ok(());
        }
        let node = self.blobs.node(id, level)?;
        for child in node.children.into_iter().flatten() {
            if level > 0 {
                self.node(child, level - 1)?;
            } else {
                self.chunks.push(child);
            }
        }
        if self.chunks.len() >= CHUNKS_TOGETHER { self.mark_chunks() } else { Ok(()) }
    }

    /// Marks a blob, and returns its place.
    fn blob(&mut self, kind: BlobKind, id: BlobId) -> Result<Place> {
        let Some((place, location, state)) = self.index.place(&id)? else {
            return Err(Error::MissingBlob {
                store: self.blobs.repository().location().to_owned(),
                kind: kind.name(),
                id,
                whom: format!(
                    ", which snapshot {} needs; nothing was deleted — run check, then rebuild-index",
                    self.snapshot.map_or_else(String::new, |snapshot| snapshot.short())
                ),
            });
        };
        let is_new = self.marks.places.insert(place);
        if let Some(packs) = self.packs.as_mut().filter(|_| is_new) {
            packs.insert(location.pack);
        }
        if is_new && state == PackState::Condemned {
            // All copies are condemned, perhaps by several collections. None of them may count on another's copy: each
            // publishes its list before it looks, so whoever looks last sees this and spares its own.
            let places = self.index.places(&id)?;
            self.marks.needed_condemned.extend(places.into_iter().map(|(location, _)| location.pack));
        }
        Ok(place)
    }
}
