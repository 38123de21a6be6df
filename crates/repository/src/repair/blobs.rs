//! Which blobs live snapshots need that have no copy in a sound pack, and from where they can be had.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::backup::Control;
use crate::blobs::Blobs;
use crate::check::PackDamage;
use crate::frame::BlobKind;
use crate::id::{BlobId, PackId};
use crate::index::Location;
use crate::mark::Seen;
use crate::repository::Repository;
use crate::snapshot::Snapshot;
use crate::tree::Node;
use crate::{Error, Result};

use super::peer::Peer;
use super::{BlobRepair, CannotMend};

/// What was found.
pub(super) struct Found {
    pub(super) blobs: Vec<BlobRepair>,
    pub(super) cannot: Vec<CannotMend>,
    /// Damaged packs that have to stay: something in them is needed and cannot be had.
    pub(super) keep: HashSet<PackId>,
    /// Something that is needed is nowhere in the index, or below a node that cannot be had.
    pub(super) is_incomplete: bool,
}

/// Walks the trees of snapshots, here and where a node is damaged at the peers.
pub(super) struct Search<'a> {
    repository: &'a Repository,
    blobs: &'a Blobs,
    peers: &'a [Peer],
    damaged: &'a BTreeMap<PackId, &'a PackDamage>,
    /// Packs that their parity is going to mend, and the bytes that the last one of them that was asked for will have.
    healing: &'a HashSet<PackId>,
    healed: Option<(PackId, Vec<u8>)>,
    control: &'a dyn Control,
    /// The names in damaged packs.
    suspects: HashSet<BlobId>,
    /// Nodes whose subtrees were walked.
    seen: Seen,
    /// What is lost below nodes, where something is.
    lost_below: HashMap<BlobId, BTreeSet<BlobId>>,
    /// What was looked for already.
    wanted: HashMap<BlobId, bool>,
    found: Vec<BlobRepair>,
    /// What is lost: what to call it, and the snapshots that need it.
    lost: BTreeMap<BlobId, (BlobKind, Vec<String>)>,
    keep: HashSet<PackId>,
    is_incomplete: bool,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        blobs: &'a Blobs,
        peers: &'a [Peer],
        damaged: &'a BTreeMap<PackId, &'a PackDamage>,
        healing: &'a HashSet<PackId>,
        control: &'a dyn Control,
    ) -> Result<Self> {
        let index = blobs.index();
        let mut suspects = HashSet::new();
        for run in index.runs() {
            run.scan::<Error>(|_, entry| {
                if damaged.contains_key(&entry.location.pack) {
                    suspects.insert(entry.id);
                }
                Ok(())
            })?;
        }
        Ok(Self {
            repository,
            blobs,
            peers,
            damaged,
            healing,
            healed: None,
            control,
            suspects,
            seen: Seen::new(&index),
            lost_below: HashMap::new(),
            wanted: HashMap::new(),
            found: Vec::new(),
            lost: BTreeMap::new(),
            keep: HashSet::new(),
            is_incomplete: false,
        })
    }

    /// Looks for all that a snapshot needs.
    pub(super) fn snapshot(&mut self, label: &str, snapshot: &Snapshot) -> Result<()> {
        let Some(root) = snapshot.root else { return Ok(()) };
        for id in self.node(root, snapshot.root_level)? {
            if let Some((_, touches)) = self.lost.get_mut(&id) {
                touches.push(label.to_owned());
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Found {
        // In the order of the frames, each of which is then decoded once.
        self.found.sort_by_key(|blob| (blob.kind as u8, blob.places.first().copied(), blob.id));
        let cannot = self.lost.into_iter().map(|(id, (kind, touches))| CannotMend {
            object: format!("{} {id}", kind.name()),
            why: "no sound copy is here, and no peer has it".to_owned(),
            touches,
        });
        Found {
            cannot: cannot.collect(),
            blobs: self.found,
            keep: self.keep,
            is_incomplete: self.is_incomplete,
        }
    }

    /// What is lost in the subtree of a node.
    fn node(&mut self, id: BlobId, level: u8) -> Result<BTreeSet<BlobId>> {
        if let Some(lost) = self.lost_below.get(&id) {
            return Ok(lost.clone());
        }
        if !self.seen.insert(&id)? {
            return Ok(BTreeSet::new());
        }
        if self.control.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let mut lost = BTreeSet::new();
        match self.read_node(id, level)? {
            Some(node) => {
                for child in node.children.into_iter().flatten() {
                    if level > 0 {
                        lost.extend(self.node(child, level - 1)?);
                    } else if !self.can_be_had(BlobKind::Chunk, child)? {
                        lost.insert(child);
                    }
                }
            }
            None => {
                if !self.wanted.contains_key(&id) {
                    // It does not stand where a node of its kind may stand.
                    self.lose(BlobKind::Node, id, &[]);
                }
                self.is_incomplete = true;
                lost.insert(id);
            }
        }
        if !lost.is_empty() {
            self.lost_below.insert(id, lost.clone());
        }
        Ok(lost)
    }

    fn read_node(&mut self, id: BlobId, level: u8) -> Result<Option<Node>> {
        let bytes = match self.blobs.bytes(BlobKind::Node, id) {
            Ok(bytes) => {
                self.can_be_had(BlobKind::Node, id)?;
                Some(bytes)
            }
            Err(error) if error.kind() == crate::ErrorKind::Damaged || error.is_not_found() => {
                match self.healed_node(id)? {
                    Some(bytes) => Some(bytes),
                    None => self.node_of_peer(id)?,
                }
            }
            Err(error) => return Err(error),
        };
        let node = bytes.and_then(|bytes| Node::decode(&bytes).ok()).map(|(node, _)| node);
        let fits =
            |node: &Node| node.level == level && node.children.len() == self.repository.config().fanout();
        Ok(node.filter(fits))
    }

    /// A node from a pack that its parity is going to mend.
    fn healed_node(&mut self, id: BlobId) -> Result<Option<Vec<u8>>> {
        for (place, _) in self.blobs.index().places(&id)? {
            if !self.healing.contains(&place.pack) {
                continue;
            }
            if self.healed.as_ref().is_none_or(|(pack, _)| *pack != place.pack) {
                let healed = self.repository.healed(place.pack)?.and_then(std::result::Result::ok);
                self.healed = healed.map(|bytes| (place.pack, bytes));
            }
            let Some((_, pack)) = &self.healed else { continue };
            let start = place.offset as usize;
            let stored = pack.get(start..start + place.length as usize).unwrap_or_default();
            let mut content = Vec::new();
            if self.repository.frame_decoder()?.decode(BlobKind::Node, stored, &mut content).is_err() {
                continue;
            }
            let rest = content.get(place.content_offset as usize..).unwrap_or_default();
            let node = Node::decode(rest).ok().and_then(|(_, length)| rest.get(..length));
            if let Some(node) = node.filter(|node| self.repository.keys().node(node) == id) {
                return Ok(Some(node.to_vec()));
            }
        }
        Ok(None)
    }

    /// A node of which no copy here is sound.
    fn node_of_peer(&mut self, id: BlobId) -> Result<Option<Vec<u8>>> {
        for peer in self.peers {
            if let Some(bytes) = peer.blob(self.repository, BlobKind::Node, id)? {
                self.want(BlobKind::Node, id, Vec::new(), false, true);
                return Ok(Some(bytes));
            }
        }
        self.lose(BlobKind::Node, id, &[]);
        Ok(None)
    }

    /// Whether a needed blob is in a sound pack, or can be stored again.
    fn can_be_had(&mut self, kind: BlobKind, id: BlobId) -> Result<bool> {
        if let Some(known) = self.wanted.get(&id) {
            return Ok(*known);
        }
        let is_suspect = self.suspects.contains(&id);
        if !is_suspect && self.blobs.index().locate(&id)?.is_some() {
            return Ok(true);
        }
        let places: Vec<Location> =
            self.blobs.index().places(&id)?.into_iter().map(|(location, _)| location).collect();
        if places.iter().any(|place| !self.damaged.contains_key(&place.pack)) {
            return Ok(true);
        }
        let is_here = places.iter().any(|place| self.is_readable(kind, id, place));
        let mut is_at_peer = false;
        for peer in self.peers {
            is_at_peer |= peer.speaks_of(&id)?;
        }
        if is_here || is_at_peer {
            self.want(kind, id, places, is_here, is_at_peer);
            return Ok(true);
        }
        self.lose(kind, id, &places);
        Ok(false)
    }

    /// Whether a copy in a damaged pack can still be read.
    fn is_readable(&self, kind: BlobKind, id: BlobId, place: &Location) -> bool {
        match self.damaged.get(&place.pack) {
            Some(PackDamage::Frames(damaged)) => !damaged.contains(&place.offset),
            _ => self.blobs.bytes_at(kind, id, place).is_ok(),
        }
    }

    fn want(&mut self, kind: BlobKind, id: BlobId, places: Vec<Location>, is_here: bool, is_at_peer: bool) {
        if self.wanted.insert(id, true).is_none() {
            self.found.push(BlobRepair { kind, id, places, is_here, is_at_peer });
        }
    }

    fn lose(&mut self, kind: BlobKind, id: BlobId, places: &[Location]) {
        self.wanted.insert(id, false);
        self.is_incomplete |= places.is_empty();
        self.keep.extend(places.iter().map(|place| place.pack));
        self.lost.entry(id).or_insert((kind, Vec::new()));
    }
}
