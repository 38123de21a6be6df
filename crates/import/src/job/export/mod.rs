//! The export as a durable run: a snapshot of the site's repository becomes an object in a bucket, in a format that others read.
//!
//! The object is sent in parts, several at once, straight from the repository; where each part begins is known beforehand, so an
//! attempt that died is gone on with after the last part that is told to be there. When all are there they become the object, in
//! one move; then it is read back as an import would read it, and compared with the snapshot.
//!
//! What is made is known as this run's by the object's metadata ([`RUN_KEY`]) and its version; by its size where the daemon died
//! before the version was told. A run that is cancelled or undone gives its upload up, and removes the object if it is its own; what
//! somebody else has put there, before or since, is replaced only where that was asked for, and then only by a whole object.

mod body;
mod compare;
mod send;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use leeward_remote::objects::SharedObjects;
use leeward_runs::step::{Kind, Step};
use leeward_runs::{OnCancel, OnFailure, Plan, Retry, StepPlan};
use leeward_store::RateLimit;
use serde::{Deserialize, Serialize};

use super::Places;
use super::restore::{hold_step, release_step};
use super::snapshot::{HOLD, Hold, RELEASE, Release};

/// What runs of this kind are called.
pub const EXPORT: &str = "export";
/// The version of the steps.
const VERSION: u32 = 1;
/// The step that sends the object.
const WRITE: &str = "write_object";
/// The step that compares it.
const COMPARE: &str = "compare_object";
/// The key of an object's metadata with the run that wrote it.
pub const RUN_KEY: &str = "leeward-export";
/// The key of an object's metadata with the snapshot that it holds.
pub const SNAPSHOT_KEY: &str = "leeward-snapshot";

/// What the object is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExportFormat {
    /// A qcow2 image of version 3, not compressed: empty parts of the disk take nothing.
    #[default]
    Qcow2,
    /// The disk itself, with all its zeros.
    Raw,
    /// The disk itself, compressed by Zstandard.
    Zst,
    /// A streamOptimized image of VMware's, not compressed: empty parts of the disk take nothing.
    Vmdk,
    /// A dynamic VHD: empty parts of the disk take nothing.
    Vhd,
    /// A fixed VHD, of whole MiB, as Azure takes it: the disk itself with all its zeros, and what describes it.
    VhdFixed,
    /// A dynamic VHDX: empty parts of the disk take nothing.
    Vhdx,
}

impl ExportFormat {
    /// What the names of such objects end with.
    #[must_use]
    pub fn ending(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Zst => "raw.zst",
            Self::Vmdk => "vmdk",
            Self::Vhd | Self::VhdFixed => "vhd",
            Self::Vhdx => "vhdx",
        }
    }
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Zst => "raw in zstd",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::VhdFixed => "fixed vhd",
            Self::Vhdx => "vhdx",
        })
    }
}

/// What an export is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportInputs {
    /// The image.
    pub image: String,
    /// The whole digest of the snapshot.
    pub snapshot: String,
    /// Name of the bucket, as the site has it.
    pub bucket: String,
    /// The object in it.
    pub object: String,
    /// What the object is.
    #[serde(default)]
    pub format: ExportFormat,
    /// Whether an object that is there is replaced.
    #[serde(default)]
    pub replace: bool,
}

/// Which object of which content is made: what an attempt before has left counts only for the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    image: String,
    snapshot: String,
    bucket: String,
    object: String,
    format: ExportFormat,
}

impl From<&ExportInputs> for Asked {
    fn from(inputs: &ExportInputs) -> Self {
        Self {
            image: inputs.image.clone(),
            snapshot: inputs.snapshot.clone(),
            bucket: inputs.bucket.clone(),
            object: inputs.object.clone(),
            format: inputs.format,
        }
    }
}

/// A bucket as the site has it.
#[derive(Clone)]
pub struct Bucket {
    /// Its objects.
    pub objects: SharedObjects,
    /// How fast it is written.
    pub limit: Option<Arc<RateLimit>>,
}

/// The plan of an export. What a failed step leaves is kept for a person to mend; what a cancelled run has made is removed.
#[must_use]
pub fn export_plan(inputs: &ExportInputs) -> Plan {
    let like = StepPlan {
        name: String::new(),
        title: String::new(),
        after: BTreeSet::new(),
        retry: Retry { attempts: 6, first_ms: 1_000, most_ms: 60_000 },
        // As long as the disk is large; what stands still is noticed by the requests' own limits.
        deadline_seconds: None,
        may_skip: false,
        has_undo: false,
    };
    let step = |name: &str, title: &str, after: &str| StepPlan {
        name: name.to_owned(),
        title: title.to_owned(),
        after: BTreeSet::from([after.to_owned()]),
        has_undo: name == WRITE,
        ..like.clone()
    };
    Plan {
        kind: EXPORT.to_owned(),
        version: VERSION,
        steps: vec![
            hold_step(&like),
            step(WRITE, "Write the object", HOLD),
            step(COMPARE, "Read the object back and compare", WRITE),
            release_step(&like, BTreeSet::from([COMPARE.to_owned()])),
        ],
        on_failure: OnFailure::Hold,
        on_cancel: OnCancel::Undo,
        pools: BTreeSet::from(["exports".to_owned(), format!("bucket:{}", inputs.bucket)]),
    }
}

/// The code of exports.
pub struct ExportKind(Arc<dyn Places>);

impl ExportKind {
    /// Exports with the repository and the buckets of a site.
    #[must_use]
    pub fn new(places: &Arc<dyn Places>) -> Self {
        Self(Arc::clone(places))
    }
}

impl Kind for ExportKind {
    fn name(&self) -> &str {
        EXPORT
    }

    fn step(&self, version: u32, name: &str) -> Option<Arc<dyn Step>> {
        let places = Arc::clone(&self.0);
        match name {
            _ if version != VERSION => None,
            HOLD => Some(Arc::new(Hold(places, EXPORT))),
            WRITE => Some(Arc::new(send::Write(places))),
            COMPARE => Some(Arc::new(compare::Compare(places))),
            RELEASE => Some(Arc::new(Release(places))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_holds_first_and_lets_go_last() {
        let plan = export_plan(&ExportInputs::default());
        plan.check().unwrap();
        let order: Vec<_> = plan.in_order().iter().map(|at| plan.steps[*at].name.as_str()).collect();
        assert_eq!(order, [HOLD, WRITE, COMPARE, RELEASE]);
    }
}
