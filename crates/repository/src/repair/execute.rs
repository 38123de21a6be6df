//! Doing what a repair has planned.

use std::collections::{BTreeMap, HashMap, HashSet};

use leeward_store::{ErrorKind as StoreErrorKind, Key, Version};

use crate::backup::Control;
use crate::blobs::Blobs;
use crate::check::{Damage, Reading, pack_flaws};
use crate::collect::CollectOutcome;
use crate::frame::{BlobKind, FrameEncoder};
use crate::id::{BlobId, PackId};
use crate::image::ImageRef;
use crate::pack;
use crate::record::{self, Kind, RECORD_BYTES_MAX};
use crate::repository::{PACKS, Repository, SNAPSHOTS, UNREADABLE, pack_key, put_once, snapshot_key};
use crate::session::Session;
use crate::writer::Writer;
use crate::{Error, Result};

use super::peer::Peer;
use super::plan::hides_what_is_kept;
use super::{BlobRepair, CannotMend, ManifestRepair, RefRepair, RepairOutcome, RepairPlan};

/// How often a ref is tried to be made again when others change it.
const ATTEMPTS_MAX: usize = 100;

/// The session of a repair; it ends with it.
pub(super) struct Registered<'a> {
    repository: &'a Repository,
    session: Option<Session>,
}

impl<'a> Registered<'a> {
    pub(super) fn begin(repository: &'a Repository) -> Result<Self> {
        Ok(Self { repository, session: Some(Session::begin(repository, "repair".to_owned())?) })
    }

    fn end(mut self) -> Result<()> {
        self.session.take().map_or(Ok(()), |session| session.end(self.repository))
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // After an error, which is the one to tell; a session left behind is found to be dead by a collection.
            let _ = session.end(self.repository);
        }
    }
}

/// Writes an object whose name is its content in the place of one that is damaged or missing.
fn put_again(repository: &Repository, key: &Key, bytes: &[u8], size_max: u64) -> Result<()> {
    let store = repository.store();
    let put = match store.get(key, size_max) {
        Ok((found, _)) if found == bytes => return Ok(()),
        Ok((_, version)) => store.put_if_match(key, bytes, &version),
        Err(error) if error.kind() == StoreErrorKind::NotFound => store.put_if_absent(key, &[bytes]),
        // What cannot be read cannot be compared; whatever else comes by this name has the same content.
        Err(error) if error.is_bad_place() => {
            store.delete(key)?;
            store.put_if_absent(key, &[bytes])
        }
        Err(error) => Err(error),
    };
    match put {
        Ok(()) => Ok(()),
        // Another repair was faster, with the same bytes.
        Err(error) if matches!(error.kind(), StoreErrorKind::Conflict | StoreErrorKind::AlreadyExists) => {
            match store.get(key, size_max) {
                Ok((found, _)) if found == bytes => Ok(()),
                _ => Err(error.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Where the bytes of a damaged pack went.
enum Restored {
    /// Into its place.
    Here,
    /// Into a pack of another name.
    Elsewhere(PackId),
    /// Nowhere, and why.
    Not(String),
}

/// What is in the place of an object that is written again.
enum Place {
    /// Something of this version.
    Version(Version),
    /// Nothing.
    Empty,
    /// What lost parts, see [`leeward_store::Chains`].
    Lost,
}

/// Executes a plan.
pub(super) struct Mender<'a> {
    repository: &'a Repository,
    peers: Vec<Peer>,
    damage: Damage,
    control: &'a dyn Control,
}

impl<'a> Mender<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        peers: Vec<Peer>,
        damage: Damage,
        control: &'a dyn Control,
    ) -> Self {
        Self { repository, peers, damage, control }
    }

    fn stop_when_cancelled(&self) -> Result<()> {
        if self.control.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }

    pub(super) fn mend(self, session: Registered<'_>, mut outcome: RepairOutcome) -> Result<RepairOutcome> {
        let plan = std::mem::take(&mut outcome.plan);
        if plan.is_empty() {
            session.end()?;
            outcome.left = outcome.found.clone();
            outcome.plan = plan;
            return Ok(outcome);
        }
        let before: HashSet<PackId> = self.repository.present_packs()?.into_keys().collect();
        self.drop_records(&plan.drop)?;
        for manifest in &plan.manifests {
            self.manifest(manifest, &mut outcome)?;
        }
        for image in &plan.refs {
            self.image(image, &mut outcome)?;
        }
        if plan.rebuild_index {
            self.repository.rebuild_index(self.control)?;
        }
        // Whoever stores has to know all lists, and whoever deletes as well.
        let may_store = self.lists_are_sound()?;
        let mut keep = HashSet::new();
        let mut renewed = BTreeMap::new();
        let healing = plan.heal_packs.iter().map(|pack| (*pack, None));
        let replacing = plan.replace_packs.iter().map(|planned| (planned.pack, Some(planned.peer)));
        for (pack, peer) in healing.chain(replacing) {
            self.stop_when_cancelled()?;
            match self.whole_again(pack, peer, may_store, &mut outcome)? {
                Restored::Here => {}
                Restored::Elsewhere(new) => drop(renewed.insert(pack, new)),
                Restored::Not(why) => {
                    keep.insert(pack);
                    let object = format!("packs/{pack}");
                    outcome.failed.push(CannotMend { object, why, touches: Vec::new() });
                }
            }
        }
        self.repository.store().settle(PACKS)?;
        outcome.renewed_packs = renewed.len();
        if may_store {
            self.take_up(&renewed)?;
            keep.extend(self.blobs(&plan.blobs, &mut outcome)?);
            // Marking fails without a node or manifest that should have come, and then nothing is deleted anyway.
            let is_incomplete = outcome
                .failed
                .iter()
                .any(|failed| hides_what_is_kept(&failed.object) || failed.object.starts_with("tree node"));
            let (mut packs, mut manifests) = (plan.condemn_packs.clone(), plan.condemn_manifests.clone());
            packs.extend(renewed.into_keys());
            packs.retain(|pack| !is_incomplete && !keep.contains(pack));
            manifests.retain(|_| !is_incomplete);
            self.condemn(session, packs, manifests, &mut outcome)?;
        } else {
            session.end()?;
        }
        self.parity(&plan, &mut outcome)?;
        self.look_again(&before, &mut outcome)?;
        outcome.plan = plan;
        Ok(outcome)
    }

    fn drop_records(&self, keys: &[String]) -> Result<()> {
        for key in keys {
            let Some(key) = Key::new(key.as_str()) else { continue };
            // Only what is still damaged: the name may have been taken by something sound.
            let is_sound = match self.repository.store().get(&key, RECORD_BYTES_MAX) {
                Ok((bytes, _)) => [Kind::Session, Kind::Condemned]
                    .into_iter()
                    .any(|kind| record::decode(kind, &key, &bytes, self.repository.keyring()).is_ok()),
                Err(error) if error.kind() == StoreErrorKind::NotFound => true,
                Err(error) if error.kind() == StoreErrorKind::Damaged => false,
                Err(error) => return Err(error.into()),
            };
            if !is_sound {
                self.repository.store().delete(&key)?;
            }
        }
        Ok(())
    }

    fn manifest(&self, planned: &ManifestRepair, outcome: &mut RepairOutcome) -> Result<()> {
        let id = planned.snapshot;
        for peer in &self.peers {
            if let Some(text) = peer.manifest(self.repository, id)? {
                let key = snapshot_key(id)?;
                let bytes = record::encode(Kind::Snapshot, &key, &text, self.repository.keyring())?;
                put_again(self.repository, &key, &bytes, RECORD_BYTES_MAX)?;
                return Ok(self.repository.store().settle(SNAPSHOTS)?);
            }
        }
        outcome.failed.push(CannotMend {
            object: format!("snapshots/{id}"),
            why: "the peer that had the manifest does not give it any more".to_owned(),
            touches: vec![format!("{}@{}", planned.image, id.short())],
        });
        Ok(())
    }

    /// Makes a ref again: in the place of one that cannot be read, or where there is none. One that has become readable
    /// in between gets what it lacks.
    fn image(&self, planned: &RefRepair, outcome: &mut RepairOutcome) -> Result<()> {
        let store = self.repository.store();
        let key = planned.image.key()?;
        for _ in 0..ATTEMPTS_MAX {
            let (found, place) = match store.get(&key, RECORD_BYTES_MAX) {
                Ok((bytes, version)) => {
                    (self.repository.decode_ref(&planned.image, &bytes).map(Some), Place::Version(version))
                }
                Err(error) if error.kind() == StoreErrorKind::NotFound => (Ok(None), Place::Empty),
                Err(error) if error.kind() == StoreErrorKind::Damaged => (Ok(None), Place::Lost),
                Err(error) => return Err(error.into()),
            };
            let mut image = match found {
                Ok(Some(image)) => image,
                Ok(None) => ImageRef::new(planned.image.clone()),
                Err(Error::Damaged { .. }) => ImageRef::new(planned.image.clone()),
                Err(error) => return Err(error),
            };
            // What a ref that can be read by now has forgotten stays forgotten.
            let lacks = |image: &ImageRef, id| {
                image.entry(id).is_none() && !image.forgotten.iter().any(|one| one.entry.id == id)
            };
            let new: Vec<_> =
                planned.snapshots.iter().filter(|entry| lacks(&image, entry.id)).cloned().collect();
            if new.is_empty() && image.generation > 0 {
                return Ok(());
            }
            image.snapshots.extend(new);
            image.snapshots.sort_by_key(|entry| entry.created);
            image.generation = image.generation.max(planned.generation) + 1;
            let bytes = self.repository.encode_record(Kind::Ref, &key, &image)?;
            let written = match (&place, store.chains()) {
                (Place::Version(version), _) => store.put_if_match(&key, &bytes, version),
                (Place::Lost, Some(chains)) => chains.replace_lost(&key, &bytes),
                (Place::Lost | Place::Empty, _) => store.put_if_absent(&key, &[&bytes]),
            };
            match written {
                Ok(()) => return Ok(()),
                // It can be put nowhere by comparison, and a ref that is deleted may be one that somebody else has mended.
                Err(error)
                    if error.kind() == StoreErrorKind::AlreadyExists && matches!(place, Place::Lost) =>
                {
                    outcome.failed.push(CannotMend {
                        object: key.to_string(),
                        why: format!("{UNREADABLE}: move the file away, then run it again"),
                        touches: planned
                            .snapshots
                            .iter()
                            .map(|one| format!("{}@{}", planned.image, one.id.short()))
                            .collect(),
                    });
                    return Ok(());
                }
                Err(error)
                    if matches!(error.kind(), StoreErrorKind::Conflict | StoreErrorKind::AlreadyExists) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contended { store: self.repository.location().to_owned(), key: key.to_string() })
    }

    /// Gives a damaged pack the bytes of its name back: those that its parity gives, or those of a peer.
    fn whole_again(
        &self,
        pack: PackId,
        peer: Option<usize>,
        may_store: bool,
        outcome: &mut RepairOutcome,
    ) -> Result<Restored> {
        let bytes = match peer.map(|number| self.peers.get(number)) {
            None => self.repository.healed(pack)?.and_then(std::result::Result::ok),
            Some(Some(peer)) => peer.pack(self.repository, pack)?,
            Some(None) => None,
        };
        let Some(bytes) = bytes else {
            return Ok(Restored::Not(match peer {
                None => "its parity was enough and is not any more: run it again".to_owned(),
                Some(_) => {
                    "the peer that had the same pack does not give it any more: run it again".to_owned()
                }
            }));
        };
        let size = bytes.len() as u64;
        let restored = self.restore(pack, bytes, may_store)?;
        if !matches!(restored, Restored::Not(_)) {
            outcome.written_bytes += size;
            outcome.peer_pack_bytes += if peer.is_some() { size } else { 0 };
        }
        self.control.advance(size);
        Ok(restored)
    }

    /// Puts the bytes of a pack into its place, by comparison. What cannot be compared, because the medium does not read it or a
    /// server lets nobody replace a pack, stays; the bytes then go into a pack of another name, and the damaged one is let go
    /// like any other.
    fn restore(&self, pack: PackId, bytes: Vec<u8>, may_store: bool) -> Result<Restored> {
        let (store, key) = (self.repository.store(), pack_key(pack)?);
        let size_max = self.repository.present_packs()?.get(&pack).copied().unwrap_or(0);
        let replaced = match store.get(&key, size_max) {
            Ok((found, _)) if found == bytes => return Ok(Restored::Here),
            Ok((_, version)) => store.put_if_match(&key, &bytes, &version),
            Err(error) => Err(error),
        };
        match replaced {
            Ok(()) => Ok(Restored::Here),
            // It is never put back: a collection that is slow may be about to delete it.
            Err(error) if error.kind() == StoreErrorKind::NotFound => {
                Ok(Restored::Not("it has gone meanwhile: run it again".to_owned()))
            }
            // Another repair was faster, with the same bytes.
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                match store.get(&key, bytes.len() as u64) {
                    Ok((found, _)) if found == bytes => Ok(Restored::Here),
                    _ => Err(error.into()),
                }
            }
            Err(error) if matches!(error.kind(), StoreErrorKind::Denied | StoreErrorKind::Damaged) => {
                self.renew(pack, bytes, may_store)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Stores the bytes of a pack under a name of their own.
    fn renew(&self, pack: PackId, mut bytes: Vec<u8>, may_store: bool) -> Result<Restored> {
        if !may_store {
            return Ok(Restored::Not(
                "it cannot be mended in its place, and while a condemned list is damaged nothing new is stored".to_owned(),
            ));
        }
        let damaged = |what| self.repository.damaged(&format!("packs/{pack}"), what);
        let new = pack::rename(pack, &mut bytes).map_err(damaged)?;
        put_once(self.repository.store(), &pack_key(new)?, &bytes)?;
        self.repository.put_parity(new, &bytes)?;
        Ok(Restored::Elsewhere(new))
    }

    /// Makes the index know packs that were stored under new names, and reads them back.
    fn take_up(&self, renewed: &BTreeMap<PackId, PackId>) -> Result<()> {
        if renewed.is_empty() {
            return Ok(());
        }
        Writer::begin(self.repository, "repair".to_owned())?.abandon()?;
        let index = self.repository.load_index()?;
        for (old, new) in renewed {
            self.stop_when_cancelled()?;
            let size = index.states().present.get(new).copied().unwrap_or(0);
            let (bytes, _) = self.repository.store().get(&pack_key(*new)?, size)?;
            let is_sound = pack_flaws(self.repository, *new, &bytes)?.is_ok_and(|flaws| flaws.is_empty());
            if !is_sound || !index.runs().iter().any(|run| run.packs.contains(new)) {
                let what =
                    format!("it was stored again as {new} and does not read back; nothing was deleted");
                return Err(self.repository.damaged(&format!("packs/{old}"), what));
            }
        }
        Ok(())
    }

    /// Makes parity that is damaged or missing.
    fn parity(&self, plan: &RepairPlan, outcome: &mut RepairOutcome) -> Result<()> {
        let damaged = plan.remake_parity.iter().map(|pack| (pack, true));
        for (pack, is_damaged) in damaged.chain(plan.make_parity.iter().map(|pack| (pack, false))) {
            self.stop_when_cancelled()?;
            if let Some(size) = self.repository.make_parity(*pack, is_damaged)? {
                outcome.made_parity += 1;
                outcome.written_bytes += size;
            }
        }
        Ok(())
    }

    fn lists_are_sound(&self) -> Result<bool> {
        match self.repository.condemned_lists() {
            Ok(_) => Ok(true),
            Err(Error::Damaged { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Stores blobs again; returns the damaged packs that hold what could not be had.
    fn blobs(&self, planned: &[BlobRepair], outcome: &mut RepairOutcome) -> Result<HashSet<PackId>> {
        let mut keep = HashSet::new();
        if planned.is_empty() {
            return Ok(keep);
        }
        let blobs = Blobs::open(self.repository)?;
        let mut writer = Writer::begin(self.repository, "repair".to_owned())?;
        let mut refill = Refill::new(self.repository, &writer)?;
        let mut stored = Vec::new();
        for blob in planned {
            self.stop_when_cancelled()?;
            if let Some((bytes, from_peer)) = self.had(&blobs, blob)? {
                refill.push(blob.kind, blob.id, &bytes)?;
                outcome.stored_blobs += 1;
                outcome.peer_blobs += u64::from(from_peer);
                self.control.advance(bytes.len() as u64);
                stored.push(blob);
            } else {
                keep.extend(blob.places.iter().map(|place| place.pack));
                outcome.failed.push(CannotMend {
                    object: format!("{} {}", blob.kind.name(), blob.id),
                    why: "no sound copy is here, and what the peers have is damaged".to_owned(),
                    touches: Vec::new(),
                });
            }
        }
        refill.finish()?;
        writer.flush()?;
        outcome.written_bytes += writer.stored_bytes();
        self.verify(&stored)?;
        writer.abandon()?;
        Ok(keep)
    }

    /// The bytes of a blob, and whether they come from a peer.
    fn had(&self, blobs: &Blobs, blob: &BlobRepair) -> Result<Option<(Vec<u8>, bool)>> {
        for place in &blob.places {
            if let Ok(bytes) = blobs.bytes_at(blob.kind, blob.id, place) {
                return Ok(Some((bytes, false)));
            }
        }
        for peer in &self.peers {
            if let Some(bytes) = peer.blob(self.repository, blob.kind, blob.id)? {
                return Ok(Some((bytes, true)));
            }
        }
        Ok(None)
    }

    /// Reads what was stored back from the store, outside the packs that are damaged.
    fn verify(&self, stored: &[&BlobRepair]) -> Result<()> {
        self.repository.store().settle(PACKS)?;
        let blobs = Blobs::open(self.repository)?;
        let index = blobs.index();
        for blob in stored {
            self.stop_when_cancelled()?;
            let places = index.places(&blob.id)?;
            let is_sound = places
                .iter()
                .filter(|(place, _)| !self.damage.packs.contains_key(&place.pack))
                .any(|(place, _)| blobs.bytes_at(blob.kind, blob.id, place).is_ok());
            if !is_sound {
                return Err(self.repository.damaged(
                    PACKS,
                    format!(
                        "{} {} was stored again and does not read back; nothing was deleted",
                        blob.kind.name(),
                        blob.id
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Lets damaged packs go by the protocol of collections.
    fn condemn(
        &self,
        session: Registered<'_>,
        packs: Vec<PackId>,
        manifests: Vec<crate::SnapshotId>,
        outcome: &mut RepairOutcome,
    ) -> Result<()> {
        if packs.is_empty() && manifests.is_empty() {
            return session.end();
        }
        // The list before the session ends: whoever condemned the new copies meanwhile waits for the session, and then
        // sees the list.
        let list = self.repository.condemn(packs, manifests)?;
        session.end()?;
        self.repository.end_dead_sessions(&[])?;
        let mut collected = CollectOutcome::default();
        outcome.deleted_bytes = self.repository.finish_list(list, &mut collected)?;
        outcome.pending_packs = collected.pending_packs;
        outcome.waits_for = collected.waits_for;
        Ok(())
    }

    /// Checks once more, and reads whole what was damaged and what is new.
    fn look_again(&self, before: &HashSet<PackId>, outcome: &mut RepairOutcome) -> Result<()> {
        let now = self.repository.present_packs()?;
        let packs: HashSet<PackId> = now
            .into_keys()
            .filter(|pack| {
                let was_bad = self.damage.packs.contains_key(pack) || self.damage.parity.contains(pack);
                was_bad || !before.contains(pack)
            })
            .collect();
        let survey = self.repository.survey(&mut Reading::These(&packs), self.control)?;
        outcome.left = survey.outcome;
        Ok(())
    }
}

/// Puts blobs into frames of their own kind.
struct Refill<'a> {
    repository: &'a Repository,
    writer: &'a Writer,
    encoder: FrameEncoder,
    filling: HashMap<BlobKind, Filling>,
}

#[derive(Default)]
struct Filling {
    content: Vec<u8>,
    ids: Vec<BlobId>,
    lengths: Vec<u32>,
}

impl<'a> Refill<'a> {
    fn new(repository: &'a Repository, writer: &'a Writer) -> Result<Self> {
        let encoder = repository.frame_encoder()?;
        Ok(Self { repository, writer, encoder, filling: HashMap::new() })
    }

    fn push(&mut self, kind: BlobKind, id: BlobId, bytes: &[u8]) -> Result<()> {
        let filling = self.filling.entry(kind).or_default();
        let is_full = filling.content.len() + bytes.len() > self.repository.config().frame_bytes();
        if is_full {
            self.flush(kind)?;
        }
        let filling = self.filling.entry(kind).or_default();
        filling.content.extend_from_slice(bytes);
        filling.ids.push(id);
        filling.lengths.push(bytes.len() as u32);
        Ok(())
    }

    fn flush(&mut self, kind: BlobKind) -> Result<()> {
        let Filling { content, ids, lengths } = self.filling.remove(&kind).unwrap_or_default();
        if ids.is_empty() {
            return Ok(());
        }
        let frame = self.encoder.encode(kind, &content)?;
        match kind {
            BlobKind::Chunk => self.writer.push_chunks(&frame, ids),
            BlobKind::Node => self.writer.push_nodes(&frame, ids, lengths),
        }
    }

    fn finish(mut self) -> Result<()> {
        self.flush(BlobKind::Chunk)?;
        self.flush(BlobKind::Node)
    }
}
