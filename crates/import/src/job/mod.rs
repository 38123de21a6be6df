//! The import as a durable run: an object of a source becomes volumes of a target.
//!
//! The plan has the 14 steps that people know from the published DAG (`1_virtual_disk_to_oci_block_volume`), under the same
//! names and in the same order, so that a run reads alike in both. What a step does is often more, and sometimes nothing:
//! nothing is downloaded, and where the daemon or a standing worker writes volumes there is none to launch.
//!
//! An object may hold several disks (an OVA): then each step does its part for all of them, and the run ends with one volume
//! for each.

mod attach;
mod export;
mod fault;
mod finish;
mod inspect;
mod place;
mod plan;
mod restore;
mod script;
mod snapshot;
mod upload;
mod vault;
mod volume;
mod worker;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use leeward_cloud::provider::{AttachmentKind, Cloud, Images, InstanceId, Performance};
use leeward_remote::objects::SharedObjects;
use leeward_repository::Repository;
use leeward_runs::step::{Kind, Step};
use leeward_store::RateLimit;
use serde::{Deserialize, Serialize};

pub use export::{Bucket, EXPORT, ExportFormat, ExportInputs, ExportKind, export_plan};
pub(crate) use fault::of_bench as fault_of;
pub use plan::{KIND, PLAN_VERSION, STEPS, plan, pools};
pub use restore::{RESTORE, RestoreInputs, RestoreKind, restore_plan};
pub use snapshot::{HOLD as HOLD_STEP, SnapshotName};
pub use vault::{ImageTemplate, OpenRepository, Opening, Vault};
pub use worker::{Standing, Temporary, Worker, WorkerKind};

use crate::work::Board;

/// What an import is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// What `object` and `version` are names of.
    #[serde(skip)]
    pub origin: Origin,
    /// Name of the source, as the site has it.
    pub source: String,
    /// The object in it.
    pub object: String,
    /// Name of the target, as the site has it.
    pub target: String,
    /// The version that is meant, where an event or a person said so; the present one otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Availability domain, counted from 1; 0 is any. Overrides the object's metadata, as all below does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ad_number: Option<u32>,
    /// What the volume is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_name: Option<String>,
    /// What the worker is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The provider's backup policy: name or id; empty for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_policy: Option<String>,
    /// Performance once the import is done, in VPU per GB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpus_per_gb: Option<u32>,
    /// The provider's key that encrypts the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
    /// What errors in a file system lead to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem_errors: Option<Verdict>,
    /// Whether the backup of a GPT is moved to the end of a larger volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub move_gpt: Option<bool>,
}

/// What is written to a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Origin {
    /// What an object of a source holds.
    #[default]
    Object,
    /// A snapshot of the site's repository: the object is its image, the version its digest, and there is no source.
    Snapshot,
}

/// What errors in a file system lead to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The run waits for a person, who accepts them by skipping the step.
    #[default]
    Hold,
    /// The run ends and what it made is removed.
    Fail,
    /// They are told in the log.
    Warn,
}

/// A target as the site has it.
#[derive(Clone)]
pub struct Target {
    /// The provider.
    pub cloud: Cloud,
    /// The machine that writes; where the provider knows no machines, none.
    pub writer: Option<InstanceId>,
    /// The directory under which that machine's devices are seen: `/` as a rule.
    pub device_root: PathBuf,
    /// The device as which a volume shows, where the provider lets one choose.
    pub device: Option<PathBuf>,
    /// How a volume comes to that machine, where the provider knows several ways.
    pub attachment: AttachmentKind,
    /// Performance while writing.
    pub import_performance: Option<Performance>,
    /// Performance afterwards.
    pub final_performance: Option<Performance>,
    /// Backup policy of new volumes.
    pub backup_policy: Option<String>,
    /// Key of new volumes.
    pub kms_key: Option<String>,
    /// What errors in a file system lead to.
    pub filesystem_errors: Verdict,
    /// Whether the backup of a GPT is moved.
    pub move_gpt: bool,
    /// How fast objects are read.
    pub limit: Option<Arc<RateLimit>>,
    /// The same as a number, for each worker.
    pub bytes_per_second: Option<u64>,
    /// Who writes, where it is not the daemon.
    pub worker: Option<Arc<Worker>>,
    /// The repository, where an import ends as a snapshot in it.
    pub vault: Option<Arc<Vault>>,
}

impl Target {
    /// The ability by which volumes are made of images, where that is the only way to write them from here.
    fn uploads(&self) -> Option<&Arc<dyn Images>> {
        match (&self.cloud.attachments, &self.cloud.images) {
            (None, Some(images)) => Some(images),
            _ => None,
        }
    }

    /// Whether what is made here could be copied by somebody with all its tags, so that these alone do not tell whose it is.
    fn is_copied_with_tags(&self) -> bool {
        self.uploads().is_some() || self.vault.is_some()
    }
}

/// What an import needs of the site that runs it.
pub trait Places: Send + Sync {
    /// A source by its name.
    ///
    /// # Errors
    /// There is none, or it cannot be reached: in words.
    fn source(&self, name: &str) -> Result<SharedObjects, String>;

    /// A target by its name.
    ///
    /// # Errors
    /// There is none, or its provider cannot be reached: in words.
    fn target(&self, name: &str) -> Result<Target, String>;

    /// A bucket for exports by its name.
    ///
    /// # Errors
    /// There is none, or it cannot be reached: in words.
    fn bucket(&self, name: &str) -> Result<Bucket, String>;

    /// Opens the site's repository.
    ///
    /// # Errors
    /// There is none, or it cannot be opened: in words.
    fn repository(&self) -> Result<Repository, String>;

    /// Where work is offered to workers.
    fn board(&self) -> &Board;

    /// Keeps the digest of a token that the temporary worker of a run will show; it is durable when this returns.
    ///
    /// # Errors
    /// It cannot be kept: in words.
    fn keep_token(&self, run: &str, digest: &str) -> Result<(), String>;

    /// Ends all tokens of a run.
    ///
    /// # Errors
    /// That cannot be kept: in words.
    fn end_tokens(&self, run: &str) -> Result<(), String>;
}

/// The code of imports.
pub struct ImportKind {
    steps: BTreeMap<&'static str, Arc<dyn Step>>,
}

impl ImportKind {
    /// Imports with the sources and targets of a site.
    #[must_use]
    pub fn new(places: &Arc<dyn Places>) -> Self {
        let made = |name: &'static str| -> Option<(&'static str, Arc<dyn Step>)> {
            let places = Arc::clone(places);
            let step: Arc<dyn Step> = match name {
                "get_file_head" => Arc::new(inspect::Head(places)),
                "create_instance" => Arc::new(place::CreateInstance(places)),
                "get_private_ip" => Arc::new(place::PrivateAddress(places)),
                "wait_cloud_init_execution" => Arc::new(place::WaitForWorker(places)),
                "download_image_from_bucket" => Arc::new(inspect::Open(places)),
                "create_block_volume" => Arc::new(volume::Create(places)),
                "attach_block_volume" => Arc::new(attach::Attach(places)),
                "wait_for_attachment" => Arc::new(attach::Wait(places)),
                "write_image_to_bv" => Arc::new(write::Write(places)),
                "fsck_on_block_volume" => Arc::new(finish::Check(places)),
                "detach_block_volume" => Arc::new(attach::Detach(places)),
                "terminate_instance" => Arc::new(place::TerminateInstance(places)),
                "update_performance_of_bv" => Arc::new(finish::Performance(places)),
                "setup_backup_policy" => Arc::new(finish::Policy(places)),
                _ => return None,
            };
            Some((name, step))
        };
        Self { steps: STEPS.iter().filter_map(|(name, _)| made(name)).collect() }
    }
}

impl Kind for ImportKind {
    fn name(&self) -> &str {
        KIND
    }

    fn step(&self, version: u32, name: &str) -> Option<Arc<dyn Step>> {
        (version == PLAN_VERSION).then(|| self.steps.get(name).cloned())?
    }
}
