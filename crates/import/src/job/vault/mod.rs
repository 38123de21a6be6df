//! The repository as a target: an import that ends as a snapshot.
//!
//! Of the 14 steps, `create_block_volume` decides which images the snapshots are added to, `write_image_to_bv` reads the disks from
//! their first byte to their last into a session of the repository, publishes all of them at once, and compares them with what was
//! read; `fsck_on_block_volume` checks the file systems of the snapshots. Nothing is attached, and nothing of a disk is kept elsewhere.
//!
//! What is kept, and what is found again:
//! - what was read is written down right before publication, with its digests: a snapshot that a lost attempt has published is found by
//!   the tags of the run, and compared with them;
//! - an attempt that broke off before that begins again; the chunks that it had stored are used;
//! - at the end there is one snapshot for each disk. What a run that had succeeded has left is never forgotten.

mod compare;
mod name;
mod plan;
mod reading;
mod store;
mod volumes;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use leeward_cloud::provider::{Tags, VolumeId};
use leeward_disk::SharedSource;
use leeward_repository::{ErrorKind, ImageName, ReadOptions, Repository, SnapshotEntry};
use leeward_runs::step::{Context, Fault};
use serde::{Deserialize, Serialize};

use super::fault::{self, Watching};
use super::volume::{Made, Volumes};
use crate::DigestCheck;
use crate::filesystem::{self, CheckOptions, FileSystemReport};
use crate::identity::SourceIdentity;
use crate::ledger::RangeDigests;

pub use name::ImageTemplate;
pub(super) use plan::plan;
pub(super) use store::write;

/// The step that stores.
const STEP: &str = "write_image_to_bv";

/// Why steps that are about devices do nothing.
pub(super) const NOTHING_ATTACHED: &str =
    "the disk becomes a snapshot in the repository; nothing is attached";

/// How the repository is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// As for a backup.
    Usual,
    /// To examine what it holds: nothing that is read was kept on this machine.
    Examined,
}

/// Opens the site's repository, or says in words why that cannot be.
pub type OpenRepository = Arc<dyn Fn(Opening) -> Result<Repository, String> + Send + Sync>;

/// The repository as a target of imports.
pub struct Vault {
    name: String,
    opener: OpenRepository,
    template: ImageTemplate,
}

impl Vault {
    /// The repository at `location`, as people read it, with images that are called after `template`.
    #[must_use]
    pub fn new(location: &str, opener: OpenRepository, template: ImageTemplate) -> Self {
        Self { name: format!("repository {location}"), opener, template }
    }

    fn open(&self, opening: Opening) -> Result<Repository, Fault> {
        (self.opener)(opening).map_err(|what| {
            let hint =
                "see [repository] in the site's configuration, and whether the repository can be reached";
            Fault::passing(what, hint)
        })
    }

    /// Has what an earlier process published brought to where it is looked for.
    pub(super) fn settle(&self) -> Result<(), Fault> {
        self.open(Opening::Usual)?.complete_sessions().map_err(|error| of_repository(&error))
    }

    /// The snapshots that runs have made here, in all images.
    fn made(&self, repository: &Repository) -> leeward_repository::Result<Vec<(ImageName, SnapshotEntry)>> {
        self.made_in(repository, &repository.images()?)
    }

    /// Those in some images.
    fn made_in(
        &self,
        repository: &Repository,
        images: &[ImageName],
    ) -> leeward_repository::Result<Vec<(ImageName, SnapshotEntry)>> {
        let mut made = Vec::new();
        for image in images {
            let found = match repository.image(image) {
                Ok(found) => found,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let of_runs = found.snapshots.into_iter().filter(volumes::is_made);
            made.extend(of_runs.map(|entry| (image.clone(), entry)));
        }
        Ok(made)
    }
}

/// What `create_block_volume` leaves for a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Intended {
    /// The image that the snapshot is added to.
    pub image: ImageName,
    /// Which disk of the object it is of.
    pub disk: String,
    /// The snapshot's size in bytes.
    pub bytes: u64,
    /// Its tags, with those of the run.
    pub tags: Tags,
}

/// What was read of a disk, all of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Read {
    source: SourceIdentity,
    /// The snapshot's size in bytes.
    bytes: u64,
    /// Of it, with zeros behind the disk.
    digests: RangeDigests,
    object_digest: DigestCheck,
}

/// What the step keeps for its next attempt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// What was read of the disks when their snapshots were published last, or were about to be.
    #[serde(default)]
    read: Vec<Read>,
    /// The snapshots that were made, in all attempts.
    made: BTreeSet<VolumeId>,
    /// Of these what a run that had succeeded has left, and which is therefore never forgotten.
    delivered: BTreeSet<VolumeId>,
    /// Of which success these are: [`leeward_runs::StepRecord::delivered`].
    delivered_at: u32,
}

impl Kept {
    /// What is kept as of now: what was made until the run last succeeded is delivered.
    fn read_from(context: &Context) -> Result<Self, Fault> {
        let mut kept: Self = context.kept_by(STEP)?.unwrap_or_default();
        let success = context.run().step(STEP).map_or(0, |step| step.delivered);
        if success != kept.delivered_at {
            kept.delivered.extend(kept.made.iter().cloned());
            kept.delivered_at = success;
        }
        Ok(kept)
    }
}

/// What a run that had succeeded has left, and all that it made.
pub(super) fn delivered(context: &Context) -> Result<super::upload::Delivered, Fault> {
    let kept = Kept::read_from(context)?;
    Ok(super::upload::Delivered { volumes: kept.delivered, made: kept.made, is_any: kept.delivered_at > 0 })
}

/// What the step says of a disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stored {
    image: ImageName,
    snapshot: String,
    virtual_bytes: u64,
    /// Bytes that hold something other than zeros.
    data_bytes: u64,
    /// Those of them that the repository did not have.
    new_bytes: u64,
    /// Bytes that were added to the repository.
    stored_bytes: u64,
    /// Bytes that were read back and compared.
    read_back_bytes: u64,
    object_digest: DigestCheck,
}

/// What the step leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Published {
    snapshots: Vec<Stored>,
    volumes: Vec<Made>,
}

/// The snapshots of the run, as volumes, once they hold their disks.
pub(super) fn volumes(context: &Context, intended: Volumes) -> Result<Volumes, Fault> {
    let published: Published = context.needed(STEP)?;
    Ok(Volumes { volumes: published.volumes, ..intended })
}

/// `fsck_on_block_volume`: the file systems of the snapshots.
pub(super) fn check(
    context: &Context,
    vault: &Vault,
    volumes: &Volumes,
) -> Result<Vec<(String, FileSystemReport)>, Fault> {
    let repository = vault.open(Opening::Usual)?;
    let options = ReadOptions { cache_bytes: 32 << 20, read_ahead_bytes: 4 << 20, threads: 2, spill: None };
    let mut reports = Vec::new();
    for volume in &volumes.volumes {
        let Some((image, id)) = volumes::parse(&volume.id) else {
            return Err(Fault::lasting(format!("{} names no snapshot", volume.id), format!("retry {STEP}")));
        };
        let source = repository.source_with(id, options.clone()).map_err(|error| of_repository(&error))?;
        let source: SharedSource = Arc::new(source);
        let watching = Watching { context, note: "checking file systems" };
        let report =
            filesystem::check_disk(&source, Path::new(image.as_str()), &CheckOptions::default(), &watching)
                .map_err(|error| fault::of_import(&error))?;
        reports.push((volume.id.to_string(), report));
    }
    Ok(reports)
}

/// A repository's failure.
fn of_repository(error: &leeward_repository::Error) -> Fault {
    let text = leeward_store::with_causes(error);
    match error.kind() {
        ErrorKind::Io | ErrorKind::Conflict | ErrorKind::Interrupted => {
            Fault::passing(text, "see that the repository can be reached and has room, then retry the step")
        }
        ErrorKind::Damaged => Fault::lasting(
            text,
            "the repository holds something damaged: see with leeward check, mend it with leeward check --repair, then retry the step",
        ),
        ErrorKind::NotFound => {
            Fault::lasting(text, "somebody may have forgotten it meanwhile: retry write_image_to_bv")
        }
        _ => Fault::lasting(text, "see the repository and the daemon's rights and keys, then retry the step"),
    }
}
