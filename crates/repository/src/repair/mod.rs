//! Mending what a check has found: from what is here, and from peers that share names.
//!
//! A peer is another repository whose names are the same (both without encryption, or of one secret). Nothing that it
//! says is believed: every blob and every manifest is compared with its name, which comes from here, before it is stored.
//!
//! What always holds:
//! - what is damaged is deleted by the protocol of collections alone, after its sound parts and their replacement were
//!   stored, made durable, read back and compared;
//! - a damaged object whose name is its content is replaced only by the bytes of that name, by comparison;
//! - the whole of it may be stopped anywhere and run again: what was had before is not had twice.
//!
//! `docs/repair.md` says what each object is mended from, and why that is safe beside backups and collections.

mod blobs;
mod chains;
mod execute;
mod peer;
mod plan;
mod refs;

use leeward_store::Key;
use serde::Serialize;

use crate::Result;
use crate::backup::Control;
use crate::check::{CheckOutcome, Damage, ReadData, Reading};
use crate::frame::BlobKind;
use crate::id::{BlobId, PackId, SnapshotId};
use crate::image::{ImageName, SnapshotEntry};
use crate::index::Location;
use crate::repository::Repository;
pub use chains::ChainRepair;
use peer::Peer;

/// How to repair.
#[derive(Clone, Copy, Default)]
pub struct RepairOptions<'a> {
    /// Repositories to take from what is not here, the one to ask first before the others.
    pub peers: &'a [Repository],
    /// How much of the packs to read to find damage; what describes them is always read.
    pub read: ReadData,
    /// The caller knows that no collection runs anywhere: then damaged condemned lists are deleted, which nothing else
    /// makes safe.
    pub no_collect_runs: bool,
    /// A ref that is made again gets all snapshots of which a peer's ref tells, also those of which nothing is here.
    pub whole_refs: bool,
    /// Refs are made again though a manifest here is damaged that may have stood in one of them.
    pub incomplete_refs: bool,
}

/// A manifest that a peer has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ManifestRepair {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its image.
    pub image: ImageName,
    /// The peer, by its number.
    pub peer: usize,
}

/// A ref that is made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefRepair {
    /// The image.
    pub image: ImageName,
    /// The snapshots that it gets, oldest first.
    pub snapshots: Vec<SnapshotEntry>,
    /// What peers have counted up to.
    pub generation: u64,
    /// Snapshots of which a peer's ref tells, and that are left out because nothing of them is here.
    pub left_out: usize,
}

/// A pack of which a peer has the same, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PackRepair {
    /// The pack.
    pub pack: PackId,
    /// The peer, by its number.
    pub peer: usize,
}

/// A blob that live snapshots need and that has no copy in a sound pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRepair {
    /// What it is.
    pub kind: BlobKind,
    /// Its name.
    pub id: BlobId,
    /// Its copies in damaged packs here.
    pub places: Vec<Location>,
    /// Whether one of those can still be read.
    pub is_here: bool,
    /// Whether a peer says that it has it.
    pub is_at_peer: bool,
}

/// Something that cannot be mended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct CannotMend {
    /// Key of the object, or the name of what is missing.
    pub object: String,
    /// Why not.
    pub why: String,
    /// The snapshots that it touches, as `IMAGE@DIGEST`.
    pub touches: Vec<String>,
}

/// What a repair means to do, in the order in which it does it: pure values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairPlan {
    /// Objects whose parts were lost and whose value the others tell. A plan that is only shown does not look into them.
    pub chains: Vec<ChainRepair>,
    /// Sessions and condemned lists that cannot be read and that are deleted, by their keys.
    pub drop: Vec<String>,
    /// Manifests that come from peers.
    pub manifests: Vec<ManifestRepair>,
    /// Refs that are made again.
    pub refs: Vec<RefRepair>,
    /// The index is made anew from the packs.
    pub rebuild_index: bool,
    /// Packs that their parity mends.
    pub heal_packs: Vec<PackId>,
    /// Packs that have parity which is not enough.
    pub unhealed: Vec<CannotMend>,
    /// Packs whose parity is made anew.
    pub remake_parity: Vec<PackId>,
    /// Packs that get the parity that they lack. They are read whole.
    pub make_parity: Vec<PackId>,
    /// Their size in bytes.
    pub make_parity_bytes: u64,
    /// Packs that come from peers whole.
    pub replace_packs: Vec<PackRepair>,
    /// Blobs that are stored again in new packs.
    #[serde(skip)]
    pub blobs: Vec<BlobRepair>,
    /// How many of them are copied from the sound frames of damaged packs.
    pub copied_blobs: usize,
    /// How many of them come from peers.
    pub fetched_blobs: usize,
    /// Damaged packs that are condemned after that.
    pub condemn_packs: Vec<PackId>,
    /// Damaged manifests that nothing holds, condemned as well.
    pub condemn_manifests: Vec<SnapshotId>,
    /// What cannot be mended.
    pub cannot: Vec<CannotMend>,
}

impl RepairPlan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self { cannot: self.cannot.clone(), unhealed: self.unhealed.clone(), ..Self::default() }
    }
}

/// What a repair did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RepairOutcome {
    /// What was found at first.
    pub found: CheckOutcome,
    /// What it meant to do.
    pub plan: RepairPlan,
    /// Blobs that were stored again.
    pub stored_blobs: u64,
    /// Those of them that came from peers.
    pub peer_blobs: u64,
    /// Bytes of packs that came from peers whole.
    pub peer_pack_bytes: u64,
    /// Packs that could not be mended in their place, and were stored under new names.
    pub renewed_packs: usize,
    /// Packs that got parity, or got it anew.
    pub made_parity: usize,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Bytes of damaged packs that were deleted.
    pub deleted_bytes: u64,
    /// Damaged packs that wait for backups to end and go with the next collection.
    pub pending_packs: usize,
    /// The sessions for which they wait.
    pub waits_for: Vec<String>,
    /// What was not mended though it was planned, with the reason.
    pub failed: Vec<CannotMend>,
    /// What is still wrong.
    pub left: CheckOutcome,
}

impl Repository {
    /// What a repair would do now. Changes nothing.
    ///
    /// # Errors
    /// The store or a peer fails, or the work is cancelled.
    pub fn plan_repair(
        &self,
        options: &RepairOptions<'_>,
        control: &dyn Control,
    ) -> Result<(CheckOutcome, RepairPlan)> {
        let chains = self.plan_chains()?;
        let (outcome, _, mut plan, _) = self.look_for_repair(options, &chains, control)?;
        plan.chains = chains;
        Ok((outcome, plan))
    }

    /// Mends what can be mended. Safe while backups, restores and collections run; may be stopped and run again.
    ///
    /// # Errors
    /// The store fails, or the work is cancelled. What cannot be mended is no error but stands in the outcome.
    pub fn repair(&self, options: &RepairOptions<'_>, control: &dyn Control) -> Result<RepairOutcome> {
        let mut chains = Self::mend_chains(self.store())?;
        self.tell_values(&mut chains)?;
        // From here on no collection deletes what is being looked at.
        let session = execute::Registered::begin(self)?;
        let (found, damage, mut plan, peers) = self.look_for_repair(options, &[], control)?;
        plan.chains = chains;
        let outcome = RepairOutcome { found, plan, ..RepairOutcome::default() };
        execute::Mender::new(self, peers, damage, control).mend(session, outcome)
    }

    fn look_for_repair(
        &self,
        options: &RepairOptions<'_>,
        unmended: &[ChainRepair],
        control: &dyn Control,
    ) -> Result<(CheckOutcome, Damage, RepairPlan, Vec<Peer>)> {
        let mut survey = self.survey(&mut Reading::By(options.read), control)?;
        let is_planned = |key: &Key| unmended.iter().any(|one| one.object == key.as_str());
        survey.damage.refs.retain(|image| image.key().is_ok_and(|key| !is_planned(&key)));
        survey.damage.sessions.retain(|key| !is_planned(key));
        survey.damage.lists.retain(|key| !is_planned(key));
        let peers = options.peers.iter().map(Peer::open).collect::<Result<Vec<_>>>()?;
        let (damage, mut plan) = if survey.outcome.findings.is_empty() {
            (survey.damage, RepairPlan::default())
        } else {
            plan::plan(self, options, &peers, survey.damage, &survey.published, &survey.index, control)?
        };
        plan::missing_parity(&mut plan, &damage, &survey.index);
        Ok((survey.outcome, damage, plan, peers))
    }
}
