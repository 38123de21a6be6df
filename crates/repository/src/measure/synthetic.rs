//! A repository of any size: index, trees, manifests and refs as a backup writes them, over packs of chunks whose frames are
//! not stored. What looks at structure alone (planning a collection, checking without reading data) takes the same way through
//! it as through a real one.

use std::collections::BTreeMap;

use leeward_store::SharedStore;

use super::hollow::{HollowStore, Layout};
use super::numbers::Numbers;
use crate::config::{Config, InitOptions, tool};
use crate::frame::{BlobKind, FrameEncoder};
use crate::id::{BlobId, PackId};
use crate::image::{ImageName, SnapshotEntry};
use crate::index::{Entry, run};
use crate::repository::{INDEX, Repository, put_once, run_key};
use crate::session::Published;
use crate::snapshot::{BackupStatistics, Consistency, MANIFEST_VERSION, Snapshot, SourceRecord};
use crate::tree::{Node, root_level};
use crate::writer::Writer;
use crate::{Error, Result};

/// Bytes of tree nodes that are stored together, as in a backup.
const NODE_FRAME_BYTES: usize = 256 << 10;
/// Of so many images one is in no ref: what it alone needs is what a collection finds.
const IMAGES_TO_ONE_UNUSED: u64 = 50;

/// A synthetic repository by its size.
#[derive(Debug, Clone, Copy)]
pub struct Synthetic {
    /// How many chunks it has; no two are alike.
    pub chunks: u64,
    /// How many of them a disk has; the last one may have fewer.
    pub disk_chunks: u64,
}

impl Synthetic {
    fn layout(self) -> Layout {
        Layout { numbers: Numbers::new(self.chunks), chunk_bits: 16 }
    }

    /// How many packs hold its chunks.
    #[must_use]
    pub fn pack_count(self) -> u64 {
        self.layout().pack_count()
    }

    fn disks(self) -> impl Iterator<Item = (u64, std::ops::Range<u64>)> {
        let disks = self.chunks.div_ceil(self.disk_chunks);
        (0..disks).map(move |disk| {
            let first = disk * self.disk_chunks;
            (disk, first..(first + self.disk_chunks).min(self.chunks))
        })
    }

    fn is_unused(disk: u64) -> bool {
        disk % IMAGES_TO_ONE_UNUSED == IMAGES_TO_ONE_UNUSED - 1
    }

    /// How many chunks its snapshots have.
    #[must_use]
    pub fn used_chunks(self) -> u64 {
        self.disks()
            .filter(|(disk, _)| !Self::is_unused(*disk))
            .map(|(_, range)| range.end - range.start)
            .sum()
    }

    fn names(self) -> Vec<PackId> {
        let layout = self.layout();
        (0..layout.pack_count()).map(|pack| layout.name(pack)).collect()
    }

    /// Makes it in an empty store.
    ///
    /// # Errors
    /// The store fails.
    pub fn make(self, store: SharedStore) -> Result<()> {
        let repository = Repository::init(store, &InitOptions::default())?;
        self.trees(&repository)?;
        self.index(&repository)
    }

    /// Opens one that was made.
    ///
    /// # Errors
    /// There is none, or the store fails.
    pub fn open(self, store: SharedStore) -> Result<Repository> {
        let names = self.names();
        let repository = Repository::open(store)?;
        Ok(repository.map_store(|store| std::sync::Arc::new(HollowStore::new(store, self.layout(), &names))))
    }

    /// Writes the trees and publishes them, all at once.
    fn trees(self, repository: &Repository) -> Result<()> {
        let writer = Writer::begin(repository, "synthetic".to_owned())?;
        let mut nodes = Nodes::new(repository, &writer)?;
        let mut published = Vec::new();
        for (disk, range) in self.disks() {
            let count = range.end - range.start;
            let (root, level) = self.tree(&mut nodes, repository.config(), range)?;
            if !Self::is_unused(disk) {
                published.push(publish(repository, &writer, disk, count, (root, level))?);
            }
        }
        nodes.flush()?;
        writer.commit(published, || Ok(()))
    }

    /// Stores the tree over some chunks; returns its root with the level.
    fn tree(
        self,
        nodes: &mut Nodes<'_>,
        config: &Config,
        range: std::ops::Range<u64>,
    ) -> Result<(BlobId, u8)> {
        let (fanout, numbers) = (config.fanout(), self.layout().numbers);
        let top = root_level(range.end - range.start, config.fanout_bits);
        let mut names: Vec<BlobId> = range.map(|number| numbers.name(number)).collect();
        for level in 0..=top {
            let mut above = Vec::new();
            for children in names.chunks(fanout) {
                let mut node = Node::empty(level, config.fanout_bits);
                for (place, child) in node.children.iter_mut().zip(children) {
                    *place = Some(*child);
                }
                above.push(nodes.push(&node)?);
            }
            names = above;
        }
        let root = names.first().copied();
        Ok((root.ok_or_else(|| Error::Invalid("a disk has no chunks".to_owned()))?, top))
    }

    /// Writes the index of the chunks, as collections leave it: in runs whose names follow each other.
    fn index(self, repository: &Repository) -> Result<()> {
        let (layout, packs) = (self.layout(), self.names());
        let most = run::RUN_ENTRIES_MAX as u64;
        for first in (0..self.chunks).step_by(run::RUN_ENTRIES_MAX) {
            let ranks = first..(first + most).min(self.chunks);
            let entries: Vec<Entry> = ranks
                .map(|rank| {
                    let number = layout.numbers.number(rank);
                    let pack = packs[(number / super::hollow::PACK_CHUNKS) as usize];
                    let id = layout.numbers.name_at(rank, number);
                    Entry { id, location: layout.location(number, pack) }
                })
                .collect();
            let encoded = run::encode(&entries);
            put_once(repository.store(), &run_key(encoded.id)?, &encoded.bytes)?;
        }
        Ok(repository.store().settle(INDEX)?)
    }
}

/// Puts the manifest of a disk.
fn publish(
    repository: &Repository,
    writer: &Writer,
    disk: u64,
    chunks: u64,
    (root, root_level): (BlobId, u8),
) -> Result<Published> {
    let config = repository.config();
    let image: ImageName = format!("synthetic/{disk}").parse()?;
    let created = repository.now();
    let virtual_size = chunks << config.chunk_bits;
    let snapshot = Snapshot {
        manifest_version: MANIFEST_VERSION,
        image: image.to_string(),
        virtual_size,
        chunk_bits: config.chunk_bits,
        fanout_bits: config.fanout_bits,
        root_level,
        root: Some(root),
        parents: Vec::new(),
        group: None,
        capture: None,
        source: SourceRecord {
            location: "nowhere".to_owned(),
            format: "raw".to_owned(),
            host: "nobody".to_owned(),
        },
        consistency: Consistency::AtRest,
        tags: BTreeMap::new(),
        origin: None,
        created: created.to_string(),
        session: writer.session_id().unwrap_or_default().to_owned(),
        tool: tool(),
        statistics: BackupStatistics::default(),
    };
    let id = repository.put_snapshot(&snapshot)?;
    let entry = SnapshotEntry {
        id,
        created,
        virtual_size,
        group: None,
        tags: BTreeMap::new(),
        holds: Vec::new(),
        origin: None,
    };
    Ok(Published { image, entry })
}

/// Nodes on their way into frames.
struct Nodes<'a> {
    repository: &'a Repository,
    writer: &'a Writer,
    encoder: FrameEncoder,
    content: Vec<u8>,
    ids: Vec<BlobId>,
    lengths: Vec<u32>,
}

impl<'a> Nodes<'a> {
    fn new(repository: &'a Repository, writer: &'a Writer) -> Result<Self> {
        let encoder = repository.frame_encoder()?;
        Ok(Self { repository, writer, encoder, content: Vec::new(), ids: Vec::new(), lengths: Vec::new() })
    }

    fn push(&mut self, node: &Node) -> Result<BlobId> {
        let bytes = node.encode();
        let id = self.repository.keys().node(&bytes);
        self.content.extend_from_slice(&bytes);
        self.ids.push(id);
        self.lengths.push(bytes.len() as u32);
        if self.content.len() >= NODE_FRAME_BYTES {
            self.flush()?;
        }
        Ok(id)
    }

    fn flush(&mut self) -> Result<()> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let frame = self.encoder.encode(BlobKind::Node, &self.content)?;
        let (ids, lengths) = (std::mem::take(&mut self.ids), std::mem::take(&mut self.lengths));
        self.writer.push_nodes(&frame, ids, lengths)?;
        self.content.clear();
        Ok(())
    }
}
