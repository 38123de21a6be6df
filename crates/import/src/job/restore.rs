//! The restore as a durable run: a snapshot of the site's repository becomes a volume of a target.
//!
//! It is an import whose image is the snapshot: the same steps, with one before them that holds the snapshot, and one behind
//! them that lets it go. The daemon itself reads the repository, so no worker can write the volume.

use std::collections::BTreeSet;
use std::sync::Arc;

use leeward_runs::step::{Context, Fault, Kind, Step};
use leeward_runs::{Plan, StepPlan};
use serde::{Deserialize, Serialize};

use super::snapshot::{HOLD, Hold, RELEASE, Release};
use super::{ImportKind, Inputs, Origin, Places, Target, Verdict};

/// What runs of this kind are called.
pub const RESTORE: &str = "restore";
/// The version of the steps.
const VERSION: u32 = 1;

/// What a restore is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreInputs {
    /// The image.
    pub image: String,
    /// The whole digest of the snapshot.
    pub snapshot: String,
    /// Name of the target, as the site has it.
    pub target: String,
    /// What the volume is called; as the image where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_name: Option<String>,
    /// Availability domain, counted from 1; 0 is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ad_number: Option<u32>,
    /// The provider's backup policy: name or id; empty for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_policy: Option<String>,
    /// Performance once the restore is done, in VPU per GB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpus_per_gb: Option<u32>,
    /// The provider's key that encrypts the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
    /// What errors in a file system lead to; they are told in the log where absent. A disk that was backed up while its machine
    /// ran has some as a rule until it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem_errors: Option<Verdict>,
    /// Whether the backup of a GPT is moved to the end of a larger volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub move_gpt: Option<bool>,
}

impl From<RestoreInputs> for Inputs {
    fn from(inputs: RestoreInputs) -> Self {
        Self {
            origin: Origin::Snapshot,
            source: String::new(),
            // The whole name: images of one machine differ in its last part alone.
            volume_name: inputs.volume_name.or_else(|| Some(inputs.image.replace('/', "-"))),
            object: inputs.image,
            version: Some(inputs.snapshot),
            target: inputs.target,
            ad_number: inputs.ad_number,
            display_name: None,
            backup_policy: inputs.backup_policy,
            vpus_per_gb: inputs.vpus_per_gb,
            kms_key: inputs.kms_key,
            filesystem_errors: Some(inputs.filesystem_errors.unwrap_or(Verdict::Warn)),
            move_gpt: inputs.move_gpt,
        }
    }
}

impl Inputs {
    /// What a run of an import or a restore is given.
    pub(super) fn of(context: &Context) -> Result<Self, Fault> {
        match context.run().plan.kind.as_str() {
            RESTORE => context.inputs::<RestoreInputs>().map(Self::from),
            _ => context.inputs(),
        }
    }

    /// Refuses a target that is written by a worker, where that could not read what is to be written, and the repository as the
    /// target of what it has already.
    pub(super) fn check_target(&self, target: &Target) -> Result<(), Fault> {
        if self.origin == Origin::Snapshot && target.vault.is_some() {
            return Err(Fault::lasting(
                format!("target {} is the repository, where the snapshot is already", self.target),
                "name a target that makes volumes, then retry the step",
            ));
        }
        match (self.origin, &target.worker) {
            (Origin::Snapshot, Some(_)) => Err(Fault::lasting(
                format!(
                    "volumes of target {} are written by a worker, and workers cannot read the repository",
                    self.target
                ),
                "name a target that the daemon itself writes, then retry the step",
            )),
            _ => Ok(()),
        }
    }
}

/// The plan of a restore. What a failed step leaves is kept for a person to mend; what a cancelled run has made is removed.
#[must_use]
pub fn restore_plan(inputs: &RestoreInputs) -> Plan {
    let mut plan = super::plan(&Inputs { target: inputs.target.clone(), ..Inputs::default() });
    plan.kind = RESTORE.to_owned();
    plan.version = VERSION;
    plan.pools = BTreeSet::from(["restores".to_owned(), format!("target:{}", inputs.target)]);
    let like = plan.steps.first().cloned();
    let last = plan.steps.last().map(|step| step.name.clone());
    for step in &mut plan.steps {
        match step.name.as_str() {
            "get_file_head" => {
                step.title = "Look at the snapshot".to_owned();
                step.after = BTreeSet::from([HOLD.to_owned()]);
            }
            "download_image_from_bucket" => "Open the snapshot where it lies".clone_into(&mut step.title),
            _ => {}
        }
    }
    if let Some(like) = like {
        plan.steps.insert(0, hold_step(&like));
        plan.steps.push(release_step(&like, last.into_iter().collect()));
    }
    plan
}

/// The step that holds the snapshot; with the patience of another one.
pub(super) fn hold_step(like: &StepPlan) -> StepPlan {
    StepPlan {
        name: HOLD.to_owned(),
        title: "Hold the snapshot".to_owned(),
        after: BTreeSet::new(),
        has_undo: true,
        may_skip: false,
        ..like.clone()
    }
}

/// The step that lets it go.
pub(super) fn release_step(like: &StepPlan, after: BTreeSet<String>) -> StepPlan {
    StepPlan {
        name: RELEASE.to_owned(),
        title: "Let the snapshot go".to_owned(),
        after,
        has_undo: false,
        may_skip: true,
        ..like.clone()
    }
}

/// The code of restores.
pub struct RestoreKind {
    import: ImportKind,
    hold: Arc<dyn Step>,
    release: Arc<dyn Step>,
}

impl RestoreKind {
    /// Restores with the repository and the targets of a site.
    #[must_use]
    pub fn new(places: &Arc<dyn Places>) -> Self {
        Self {
            import: ImportKind::new(places),
            hold: Arc::new(Hold(Arc::clone(places), "restore")),
            release: Arc::new(Release(Arc::clone(places))),
        }
    }
}

impl Kind for RestoreKind {
    fn name(&self) -> &str {
        RESTORE
    }

    fn step(&self, version: u32, name: &str) -> Option<Arc<dyn Step>> {
        match name {
            _ if version != VERSION => None,
            HOLD => Some(Arc::clone(&self.hold)),
            RELEASE => Some(Arc::clone(&self.release)),
            name => self.import.step(super::PLAN_VERSION, name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_that_of_an_import_between_two_steps_about_the_snapshot() {
        let plan = restore_plan(&RestoreInputs::default());
        plan.check().unwrap();
        let order: Vec<_> = plan.in_order().iter().map(|at| plan.steps[*at].name.as_str()).collect();
        assert_eq!((order[0], order[15]), (HOLD, RELEASE));
        assert_eq!(order[1..15], super::super::STEPS.map(|(name, _)| name));
    }

    #[test]
    fn a_volume_is_called_as_its_image_unless_it_is_said() {
        let inputs = |volume_name: Option<&str>| RestoreInputs {
            image: "web/root".to_owned(),
            volume_name: volume_name.map(str::to_owned),
            ..RestoreInputs::default()
        };
        assert_eq!(Inputs::from(inputs(None)).volume_name.as_deref(), Some("web-root"));
        assert_eq!(Inputs::from(inputs(Some("new"))).volume_name.as_deref(), Some("new"));
    }
}
