//! From what is wrong to what is to be done about it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use leeward_store::Key;

use crate::Result;
use crate::backup::Control;
use crate::blobs::Blobs;
use crate::check::{Damage, PackDamage};
use crate::id::{PackId, SnapshotId};
use crate::image::ImageName;
use crate::index::{Index, PackStates};
use crate::repository::Repository;
use crate::snapshot::Snapshot;

use super::blobs::Search;
use super::peer::Peer;
use super::refs::{Unheld, plan_ref};
use super::{CannotMend, ManifestRepair, PackRepair, RepairOptions, RepairPlan};

struct Planner<'a> {
    repository: &'a Repository,
    options: &'a RepairOptions<'a>,
    peers: &'a [Peer],
    damage: &'a Damage,
    unheld: Unheld,
    index: Arc<Index>,
    plan: RepairPlan,
    /// What is kept once the refs are mended.
    published: Vec<(ImageName, SnapshotId)>,
}

/// Plans the repair of `damage`. Reads from peers what has to be known to go on: manifests, tree nodes, packs.
pub(super) fn plan(
    repository: &Repository,
    options: &RepairOptions<'_>,
    peers: &[Peer],
    damage: Damage,
    published: &[(ImageName, SnapshotId)],
    index: &Arc<Index>,
    control: &dyn Control,
) -> Result<(Damage, RepairPlan)> {
    // What an earlier repair stored and did not get into the index counts.
    let mut with_orphans = Index::new(index.runs().to_vec(), index.states().clone());
    repository.adopt_orphans_in_memory(&mut with_orphans)?;
    let mut planner = Planner {
        repository,
        options,
        peers,
        damage: &damage,
        unheld: Unheld::look(repository, &published.iter().map(|(_, id)| *id).collect())?,
        index: Arc::new(with_orphans),
        plan: RepairPlan { rebuild_index: damage.index, ..RepairPlan::default() },
        published: published.to_vec(),
    };
    planner.records()?;
    planner.refs()?;
    planner.packs()?;
    planner.plan.remake_parity = planner.damage.parity.iter().copied().collect();
    let found = planner.manifests()?;
    planner.blobs(&found, control)?;
    let plan = planner.plan;
    Ok((damage, plan))
}

/// Packs that get the parity that they lack: those that are sound as far as is known, or that are mended in their place.
pub(super) fn missing_parity(plan: &mut RepairPlan, damage: &Damage, index: &Index) {
    let PackStates { present, condemned } = index.states();
    let stays = |pack: &PackId| {
        let is_mended = || plan.replace_packs.iter().any(|replaced| replaced.pack == *pack);
        !condemned.contains(pack) && (!damage.packs.contains_key(pack) || is_mended())
    };
    let lacking = damage.without_parity.iter().copied().filter(stays).collect::<Vec<_>>();
    plan.make_parity_bytes = lacking.iter().filter_map(|pack| present.get(pack)).sum();
    plan.make_parity = lacking;
}

impl Planner<'_> {
    fn cannot(&mut self, object: impl Into<String>, why: &str, touches: Vec<String>) {
        self.plan.cannot.push(CannotMend { object: object.into(), why: why.to_owned(), touches });
    }

    fn records(&mut self) -> Result<()> {
        for key in &self.damage.sessions {
            let made: Vec<String> = self
                .unheld
                .of_session(key.name())
                .into_iter()
                .map(|(id, snapshot)| format!("{}@{}", snapshot.image, id.short()))
                .collect();
            if made.is_empty() {
                self.plan.drop.push(key.to_string());
            } else {
                let why = match self.repository.store().chains() {
                    None => {
                        "its backup may have published these: see that it has ended, then delete the object and back up \
                         again"
                    }
                    Some(_) => {
                        "its backup may have published these: see that it has ended, then delete all objects of the \
                         bucket whose keys begin with this one and %3A/, and back up again"
                    }
                };
                self.cannot(key.as_str(), why, made);
            }
        }
        for key in &self.damage.lists {
            if self.options.no_collect_runs {
                self.plan.drop.push(key.to_string());
            } else {
                let why =
                    "a collection may be at work with it: when none runs anywhere, give --no-collect-runs";
                self.cannot(key.as_str(), why, Vec::new());
            }
        }
        Ok(())
    }

    /// Takes the damaged manifests that nothing holds from peers. Whether one is left of which nobody knows the image: a
    /// ref without it would be taken for the truth, and the next collection would delete what the manifest needs.
    fn is_image_unknown(&mut self) -> Result<bool> {
        let mut is_unknown = false;
        for id in self.damage.strays.iter().filter_map(|key| key.name().parse::<SnapshotId>().ok()) {
            let mut told = None;
            for peer in self.peers {
                let Some(text) = peer.manifest(self.repository, id)? else { continue };
                told = self.repository.parse_snapshot(id, &text).ok();
                if told.is_some() {
                    break;
                }
            }
            is_unknown |= told.is_none();
            self.unheld.manifests.extend(told.map(|snapshot| (id, snapshot)));
        }
        Ok(is_unknown)
    }

    fn refs(&mut self) -> Result<()> {
        let images: Vec<&ImageName> = self.damage.refs.iter().chain(&self.damage.lost_refs).collect();
        let is_unknown = !images.is_empty() && self.is_image_unknown()?;
        if is_unknown && !self.options.incomplete_refs {
            for image in images {
                let why = "a damaged manifest may have stood in it: give a peer that has the manifest, or \
                           --incomplete-refs";
                self.cannot(image.key()?.as_str(), why, vec![format!("{image} (all of its snapshots)")]);
            }
            return Ok(());
        }
        for image in images {
            let whole = self.options.whole_refs;
            match plan_ref(self.repository, self.peers, &self.unheld, &self.index, image, whole)? {
                Some(planned) => {
                    let snapshots = planned.snapshots.iter().map(|entry| (image.clone(), entry.id));
                    self.published.extend(snapshots);
                    self.plan.refs.push(planned);
                }
                None if self.damage.refs.contains(image) => {
                    let why = "no manifest of the image is here, and no peer tells of it".to_owned();
                    let touches = vec![format!("{image} (all of its snapshots)")];
                    self.plan.cannot.push(CannotMend { object: image.key()?.to_string(), why, touches });
                }
                // A first backup that is being made.
                None => {}
            }
        }
        self.published.sort_unstable();
        self.published.dedup();
        Ok(())
    }

    /// Packs of which a peer has the same. One that is missing is not put back under its name: a collection that has
    /// decided to delete it and is slow would delete it once more.
    fn packs(&mut self) -> Result<()> {
        for (pack, damage) in &self.damage.packs {
            if *damage == PackDamage::Missing || self.index.states().condemned.contains(pack) {
                continue;
            }
            match self.repository.healed(*pack)? {
                Some(Ok(_)) => {
                    self.plan.heal_packs.push(*pack);
                    continue;
                }
                Some(Err(why)) => {
                    let (object, touches) = (format!("packs/{pack}"), Vec::new());
                    self.plan.unhealed.push(CannotMend { object, why, touches });
                }
                None => {}
            }
            for (number, peer) in self.peers.iter().enumerate() {
                if peer.pack(self.repository, *pack)?.is_some() {
                    self.plan.replace_packs.push(PackRepair { pack: *pack, peer: number });
                    break;
                }
            }
        }
        Ok(())
    }

    /// The manifests of all that is published, as far as they can be had.
    fn manifests(&mut self) -> Result<Vec<(String, Snapshot)>> {
        let mut found = Vec::new();
        let mut planned = BTreeSet::new();
        for (image, id) in self.published.clone() {
            let label = format!("{image}@{}", id.short());
            let snapshot = match self.repository.snapshot(id) {
                Ok(snapshot) => Some(snapshot),
                Err(error) if error.is_not_found() || error.kind() == crate::ErrorKind::Damaged => {
                    self.manifest_of_peer(&image, id, &mut planned)?
                }
                Err(error) => return Err(error),
            };
            match snapshot {
                Some(snapshot) => found.push((label, snapshot)),
                None => self.cannot(format!("snapshots/{id}"), "no peer has the manifest", vec![label]),
            }
        }
        Ok(found)
    }

    fn manifest_of_peer(
        &mut self,
        image: &ImageName,
        id: SnapshotId,
        planned: &mut BTreeSet<SnapshotId>,
    ) -> Result<Option<Snapshot>> {
        for (number, peer) in self.peers.iter().enumerate() {
            let Some(text) = peer.manifest(self.repository, id)? else { continue };
            let Ok(snapshot) = self.repository.parse_snapshot(id, &text) else { continue };
            if planned.insert(id) {
                let image = image.clone();
                self.plan.manifests.push(ManifestRepair { snapshot: id, image, peer: number });
            }
            return Ok(Some(snapshot));
        }
        Ok(None)
    }

    fn blobs(&mut self, snapshots: &[(String, Snapshot)], control: &dyn Control) -> Result<()> {
        let replaced: HashSet<PackId> =
            self.plan.replace_packs.iter().map(|one| one.pack).chain(self.plan.heal_packs.clone()).collect();
        let damaged: BTreeMap<PackId, &PackDamage> = self
            .damage
            .packs
            .iter()
            .filter(|(pack, damage)| **damage != PackDamage::Missing && !replaced.contains(*pack))
            .map(|(pack, damage)| (*pack, damage))
            .collect();
        // Where only refs, records and manifests are damaged, no tree has to be walked.
        let is_all_there = self.damage.packs.is_empty() && self.damage.blobs == 0;
        if !is_all_there || !self.plan.refs.is_empty() || !self.plan.manifests.is_empty() {
            let index = Index::new(self.index.runs().to_vec(), self.index.states().clone());
            let blobs = Blobs::with_compared_index(self.repository, index);
            let healing: HashSet<PackId> = self.plan.heal_packs.iter().copied().collect();
            let mut search = Search::new(self.repository, &blobs, self.peers, &damaged, &healing, control)?;
            for (label, snapshot) in snapshots {
                search.snapshot(label, snapshot)?;
            }
            self.take(search, &damaged);
        }
        self.strays();
        Ok(())
    }

    fn take(&mut self, search: Search<'_>, damaged: &BTreeMap<PackId, &PackDamage>) {
        let found = search.finish();
        self.plan.copied_blobs = found.blobs.iter().filter(|blob| blob.is_here).count();
        self.plan.fetched_blobs = found.blobs.len() - self.plan.copied_blobs;
        self.plan.blobs = found.blobs;
        self.plan.cannot.extend(found.cannot);
        // Marking fails while something is nowhere in the index, and then nothing is deleted; and a pack goes only when
        // all of it that is needed is elsewhere.
        if !found.is_incomplete {
            let condemned = &self.index.states().condemned;
            let goes = |pack: &&PackId| !found.keep.contains(*pack) && !condemned.contains(*pack);
            self.plan.condemn_packs = damaged.keys().filter(goes).copied().collect();
        }
    }

    /// What is condemned besides: damaged manifests that nothing holds go the way of forgotten ones. Nothing is
    /// condemned while it is not known what is kept.
    fn strays(&mut self) {
        let published: HashSet<SnapshotId> = self.published.iter().map(|(_, id)| *id).collect();
        let is_blind = self.plan.cannot.iter().any(|left| hides_what_is_kept(&left.object));
        if is_blind {
            self.plan.condemn_packs.clear();
            return;
        }
        let name = |key: &Key| key.name().parse().ok();
        let strays = self.damage.strays.iter().filter_map(name);
        self.plan.condemn_manifests = strays.filter(|id| !published.contains(id)).collect();
    }
}

/// Whether nobody knows what is kept while this object cannot be read.
pub(super) fn hides_what_is_kept(object: &str) -> bool {
    ["refs/", "snapshots/", "sessions/", "condemned/"].iter().any(|prefix| object.starts_with(prefix))
}
