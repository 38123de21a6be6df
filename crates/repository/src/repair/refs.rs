//! Refs that are damaged or lost: which snapshots they had.
//!
//! A ref that cannot be read says nothing. The snapshots of the image are those whose manifests are here and that
//! nothing forgot for certain; and those of a peer's ref whose root the index here speaks of: their data was stored
//! here. So a snapshot that was forgotten a short time ago may come back, and one stays away of which the manifest, the
//! root and the entry in the index were lost as well, unless whole refs of peers are asked for.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;

use crate::id::SnapshotId;
use crate::image::{ImageName, SnapshotEntry};
use crate::index::Index;
use crate::record::{Kind, RECORD_BYTES_MAX};
use crate::repository::{Repository, SNAPSHOTS};
use crate::session::{SESSIONS, SessionRecord, State};
use crate::snapshot::Snapshot;
use crate::{Error, Result};

use super::RefRepair;
use super::peer::Peer;

/// What is here and held by nothing that can be read.
pub(super) struct Unheld {
    /// Manifests that no ref and no session has: those that are sound here, and later those that peers gave.
    pub(super) manifests: Vec<(SnapshotId, Snapshot)>,
    /// Sessions that are open, or that cannot be read.
    open: HashSet<String>,
    /// Manifests that a collection has found to be forgotten.
    condemned: HashSet<SnapshotId>,
    /// All manifests that are here, sound or not.
    stored: HashSet<SnapshotId>,
}

impl Unheld {
    pub(super) fn look(repository: &Repository, live: &HashSet<SnapshotId>) -> Result<Self> {
        // Manifests before sessions: one that is put between the two looks belongs to a session that is not looked for.
        let manifests = repository.unpublished(live)?;
        let listed = repository.store().list(SNAPSHOTS)?;
        let condemned = match repository.condemned_lists() {
            Ok(lists) => lists.into_iter().flat_map(|list| list.record.snapshots).collect(),
            Err(Error::Damaged { .. }) => HashSet::new(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            manifests,
            open: open_sessions(repository)?,
            condemned,
            stored: listed.iter().filter_map(|entry| entry.key.name().parse().ok()).collect(),
        })
    }

    /// The manifests that a session made and nothing has published, as far as that can be read.
    pub(super) fn of_session(&self, session: &str) -> Vec<&(SnapshotId, Snapshot)> {
        self.manifests.iter().filter(|(_, snapshot)| snapshot.session == session).collect()
    }
}

fn open_sessions(repository: &Repository) -> Result<HashSet<String>> {
    let mut open = HashSet::new();
    for entry in repository.store().list(SESSIONS)? {
        let bytes = match repository.store().get(&entry.key, RECORD_BYTES_MAX) {
            Ok((bytes, _)) => bytes,
            Err(error) if error.kind() == leeward_store::ErrorKind::NotFound => continue,
            Err(error) if error.kind() == leeward_store::ErrorKind::Damaged => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        match repository.decode_record::<SessionRecord>(Kind::Session, &entry.key, &bytes) {
            Ok(session) if session.state != State::Open => {}
            _ => drop(open.insert(entry.key.name().to_owned())),
        }
    }
    Ok(open)
}

/// The entry that a ref gets for a snapshot of which only the manifest is known.
fn entry_of(id: SnapshotId, snapshot: &Snapshot) -> SnapshotEntry {
    SnapshotEntry {
        id,
        // A time that cannot be read is no reason to lose a snapshot.
        created: snapshot.created.parse().unwrap_or(Timestamp::UNIX_EPOCH),
        virtual_size: snapshot.virtual_size,
        group: snapshot.group.as_ref().map(|group| group.id.clone()),
        tags: snapshot.tags.clone(),
        holds: Vec::new(),
        origin: snapshot.origin.clone(),
    }
}

/// The ref that an image gets; none when nothing tells of any snapshot of it.
pub(super) fn plan_ref(
    repository: &Repository,
    peers: &[Peer],
    unheld: &Unheld,
    index: &Index,
    image: &ImageName,
    whole: bool,
) -> Result<Option<RefRepair>> {
    let here = unheld.manifests.iter().filter(|(id, snapshot)| {
        let is_kept = !unheld.condemned.contains(id) && !unheld.open.contains(&snapshot.session);
        is_kept && snapshot.image == image.as_str()
    });
    let mut found: BTreeMap<SnapshotId, SnapshotEntry> =
        here.map(|(id, snapshot)| (*id, entry_of(*id, snapshot))).collect();
    let mut generation = 0;
    let mut left_out = HashSet::new();
    let mut told: HashMap<SnapshotId, SnapshotEntry> = HashMap::new();
    for peer in peers {
        let Some(image_ref) = peer.image(image)? else { continue };
        generation = generation.max(image_ref.generation);
        for entry in image_ref.snapshots {
            if !found.contains_key(&entry.id)
                && let Some((snapshot, was_here)) = told_by(repository, peer, unheld, index, entry.id)?
                && snapshot.image == image.as_str()
            {
                if was_here || whole {
                    found.insert(entry.id, entry_of(entry.id, &snapshot));
                } else {
                    left_out.insert(entry.id);
                }
            }
            told.entry(entry.id).or_insert(entry);
        }
    }
    if found.is_empty() {
        return Ok(None);
    }
    // Tags and holds that were set after the backup stand in refs alone; all else the manifest says, whose name is checked.
    for (id, entry) in &mut found {
        if let Some(told) = told.remove(id) {
            (entry.tags, entry.holds) = (told.tags, told.holds);
        }
    }
    let mut snapshots: Vec<SnapshotEntry> = found.into_values().collect();
    snapshots.sort_by_key(|entry| (entry.created, entry.id));
    Ok(Some(RefRepair { image: image.clone(), snapshots, generation, left_out: left_out.len() }))
}

/// The manifest of a snapshot of which a peer tells, and whether something says that it was in this repository. None for
/// one that was forgotten here for certain, or whose manifest the peer does not have.
fn told_by(
    repository: &Repository,
    peer: &Peer,
    unheld: &Unheld,
    index: &Index,
    id: SnapshotId,
) -> Result<Option<(Snapshot, bool)>> {
    if unheld.condemned.contains(&id) {
        return Ok(None);
    }
    let Some(text) = peer.manifest(repository, id)? else { return Ok(None) };
    let Ok(snapshot) = repository.parse_snapshot(id, &text) else { return Ok(None) };
    let was_here = match snapshot.root {
        _ if unheld.stored.contains(&id) => true,
        Some(root) => index.speaks_of(&root)?,
        None => false,
    };
    Ok(Some((snapshot, was_here)))
}
