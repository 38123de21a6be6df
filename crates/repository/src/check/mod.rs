//! Is everything there, and is it what it should be?
//!
//! Every stored object is looked at: configuration, refs, sessions, condemned lists, manifests, index runs, pack
//! directories, tree nodes; with `read_data` also every stored byte of the packs. What is wrong is told by object, with
//! the snapshots that it touches; and as a [`Damage`] to whoever mends it. Without keys, stored bytes are compared with the
//! digests that go with them.

mod packs;
mod reading;
mod records;
mod runs;
mod sealed;
mod trees;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use leeward_store::Key;

use crate::backup::Control;
use crate::blobs::Blobs;
use crate::id::{BlobId, PackId, SnapshotId};
use crate::image::ImageName;
use crate::index::{Index, PackStates};
use crate::repository::{INDEX, Repository};
use crate::{Error, Result};

pub(crate) use packs::pack_flaws;
pub use reading::ReadData;
pub(crate) use reading::Reading;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Finding {
    /// Key of the object, or the name of what is missing.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// The snapshots that it touches, as `IMAGE@DIGEST`.
    pub touches: Vec<String>,
    /// What to do about it.
    pub advice: &'static str,
}

/// What a check saw.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct CheckOutcome {
    /// Snapshots whose trees were walked.
    pub snapshots: usize,
    /// Tree nodes read and compared with their names.
    pub nodes: u64,
    /// Chunks looked up, each once for each leaf that holds it.
    pub chunks: u64,
    /// Packs whose directories were read and compared with their names.
    pub packs: usize,
    /// Bytes of packs that were read and compared.
    pub read_bytes: u64,
    /// Parity objects that were read and compared.
    pub parity: usize,
    /// Packs without parity, where the repository wants it. That is no damage.
    pub packs_without_parity: usize,
    /// What could not be looked into, for want of a key.
    pub not_checked: Vec<&'static str>,
    /// What is wrong; empty when all is well.
    pub findings: Vec<Finding>,
}

/// What is wrong with a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PackDamage {
    /// It is not there, though the index speaks of it.
    Missing,
    /// It cannot be read as a pack; frames of it may be sound.
    Unreadable,
    /// Frames at these offsets are damaged.
    Frames(BTreeSet<u32>),
}

/// What a check found wrong, by kind of object.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    /// Images whose refs cannot be read.
    pub(crate) refs: BTreeSet<ImageName>,
    /// Images that have snapshots but no ref.
    pub(crate) lost_refs: BTreeSet<ImageName>,
    /// Sessions that cannot be read.
    pub(crate) sessions: Vec<Key>,
    /// Condemned lists that cannot be read.
    pub(crate) lists: Vec<Key>,
    /// Manifests that are missing or damaged though something published needs them.
    pub(crate) manifests: BTreeMap<SnapshotId, ImageName>,
    /// Manifests that are damaged and that nothing holds.
    pub(crate) strays: Vec<Key>,
    /// The index is damaged, or lacks something.
    pub(crate) index: bool,
    /// Packs whose parity is damaged.
    pub(crate) parity: BTreeSet<PackId>,
    /// Packs without parity, where the repository wants it.
    pub(crate) without_parity: BTreeSet<PackId>,
    /// Packs.
    pub(crate) packs: BTreeMap<PackId, PackDamage>,
    /// Nodes and chunks that no finding about a pack explains.
    pub(crate) blobs: usize,
}

/// What a check saw, with what is needed to mend it.
pub(crate) struct Survey {
    pub(crate) outcome: CheckOutcome,
    pub(crate) damage: Damage,
    /// What is published: image and snapshot.
    pub(crate) published: Vec<(ImageName, SnapshotId)>,
    /// The index, without the runs that are damaged.
    pub(crate) index: Arc<Index>,
}

/// How often a check is done when collections move things under it.
const LOOKS_MAX: usize = 3;
const FROM_A_COPY: &str =
    "run check --repair --from another copy of the repository, or forget the snapshots that it touches";
const LOST_REF: &str = "run check --repair; until then collections keep the snapshots";
const MEND: &str = "run check --repair";
const REMAKE: &str = "nothing is lost; run check --repair";
const REBUILD: &str = "run rebuild-index";
const HARMLESS: &str = "nothing is lost; delete the object";
const NO_COLLECT: &str = "nothing is lost; delete the object while no collect runs";

impl Repository {
    /// Checks the repository.
    ///
    /// # Errors
    /// The store fails, or the work is cancelled. What is wrong with the repository is no error but a finding.
    pub fn check(&self, read: ReadData, control: &dyn Control) -> Result<CheckOutcome> {
        Ok(self.survey(&mut Reading::By(read), control)?.outcome)
    }

    /// As [`Repository::check`], with what is needed to mend what is wrong.
    pub(crate) fn survey(&self, reading: &mut Reading<'_>, control: &dyn Control) -> Result<Survey> {
        let mut seen = self.store().list(INDEX)?;
        for _ in 1..LOOKS_MAX {
            let survey = match self.check_once(reading, control) {
                // A run has been merged away, and the store does not let those read on who have it open.
                Err(error) if error.is_not_found() => {
                    seen = self.store().list(INDEX)?;
                    continue;
                }
                other => other?,
            };
            if survey.outcome.findings.is_empty() {
                return Ok(survey);
            }
            // What seems to be missing may have been moved by a collection meanwhile.
            let now = self.store().list(INDEX)?;
            if now == seen {
                return Ok(survey);
            }
            seen = now;
        }
        self.check_once(reading, control)
    }

    fn check_once(&self, reading: &mut Reading<'_>, control: &dyn Control) -> Result<Survey> {
        let mut check = Check {
            repository: self,
            control,
            outcome: CheckOutcome::default(),
            damage: Damage::default(),
            bad: HashMap::new(),
            lost_packs: HashMap::new(),
            missing: HashSet::new(),
            snapshots: Vec::new(),
            parity: self.present_parity()?,
        };
        check.tell_limits();
        check.wrapped_keys()?;
        // Refs first: what is published later is not looked for.
        check.small_objects()?;
        // As in `load_index`, but what is damaged becomes a finding.
        let condemned = match self.condemned_packs() {
            // It has been told already.
            Err(Error::Damaged { .. }) => HashSet::new(),
            other => other?,
        };
        let runs = check.runs()?;
        let present = self.present_packs()?;
        let blobs = Blobs::with_compared_index(self, Index::new(runs, PackStates { present, condemned }));
        let index = blobs.index();
        check.packs(&index, reading)?;
        check.look_for_parity(&index.states().present);
        if check.has_keys() {
            check.trees(&blobs)?;
            check.drop_harmless();
        } else {
            check.doubt_missing();
        }
        let Check { mut outcome, damage, snapshots: published, .. } = check;
        outcome.findings.sort();
        Ok(Survey { outcome, damage, published, index })
    }
}

type BadCopies = HashMap<BlobId, Vec<(PackId, usize)>>;

struct Check<'a> {
    repository: &'a Repository,
    control: &'a dyn Control,
    outcome: CheckOutcome,
    damage: Damage,
    /// Copies of blobs that cannot be had: in which pack, and the number of the finding that says so.
    bad: BadCopies,
    /// Packs of which nothing can be had, and the numbers of the findings that say so.
    lost_packs: HashMap<PackId, usize>,
    /// Findings about packs that are missing: they matter only when something published is in them.
    missing: HashSet<usize>,
    /// What is published: image and snapshot.
    snapshots: Vec<(ImageName, SnapshotId)>,
    /// The parity objects that are there, with their sizes.
    parity: HashMap<PackId, u64>,
}

impl Check<'_> {
    fn find(&mut self, object: impl Into<String>, what: impl Into<String>, advice: &'static str) -> usize {
        self.outcome.findings.push(Finding {
            object: object.into(),
            what: what.into(),
            touches: Vec::new(),
            advice,
        });
        self.outcome.findings.len() - 1
    }

    /// Counts the packs that have no parity though the repository wants it: they are from before it did, or from a writer that does
    /// not make any, or that was killed before it had.
    fn look_for_parity(&mut self, present: &HashMap<PackId, u64>) {
        if self.repository.config().parity_percent > 0 {
            let lacking = present.keys().filter(|pack| !self.parity.contains_key(*pack));
            self.damage.without_parity = lacking.copied().collect();
            self.outcome.packs_without_parity = self.damage.without_parity.len();
        }
    }

    fn stop_when_cancelled(&self) -> Result<()> {
        if self.control.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Takes out the packs that are missing and that nothing published needs: a run may go on speaking of a pack that a
    /// collection deleted, until the next one merges it.
    fn drop_harmless(&mut self) {
        let findings = std::mem::take(&mut self.outcome.findings);
        let needed = |(number, finding): &(usize, Finding)| {
            !(finding.touches.is_empty() && self.missing.contains(number))
        };
        self.outcome.findings =
            findings.into_iter().enumerate().filter(needed).map(|(_, finding)| finding).collect();
    }
}
