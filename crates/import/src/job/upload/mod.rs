//! Volumes that are made of images: for providers whose volumes nobody here can attach.
//!
//! Of the 14 steps, `create_block_volume` sees that there is room and makes the images' records, `write_image_to_bv` sends the
//! disks' bytes, has the provider's own digest of them compared with what was read, makes the volumes of the images, and
//! removes the images. Nothing is attached, and so no volume is read back.
//!
//! What is kept, and what is found again:
//! - an upload cannot be gone on with: one that broke off begins again, with another image; the old one is removed;
//! - an image whose bytes had all been sent, and whose answer was lost, is found by its digest;
//! - a volume whose answer was lost is found by its tags, and used if it was made of the image that is believed;
//! - at the end there is one volume for each disk, and no image.

mod disguise;
mod image;
mod volume;

use std::collections::BTreeSet;
use std::sync::Arc;

use leeward_cloud::provider::{ImageId, ImageSpec, Images, Owner, VolumeId, VolumeSpec};
use leeward_runs::step::{Context, Fault, Outcome};
use serde::{Deserialize, Serialize};

use super::inspect::{self, Image};
use super::volume::{Made, Volumes};
use super::{Places, Target, fault};
use crate::identity::SourceIdentity;
use crate::{DigestCheck, image as images_of_objects};
use image::Filled;

/// The step that sends and makes.
pub(super) const STEP: &str = "write_image_to_bv";

/// Why steps that are about devices do nothing.
pub(super) const NOTHING_ATTACHED: &str =
    "the provider makes the volume of an image that is sent to it; nothing is attached";

/// What `create_block_volume` leaves for a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Drafted {
    /// The record of the image.
    pub image: ImageId,
    /// Which disk of the object it is for.
    pub disk: String,
    /// The volume that will be made of it.
    pub volume: VolumeSpec,
}

/// A disk whose volume is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Finished {
    source: SourceIdentity,
    volume: Made,
    sent: Sent,
}

/// What the step says of such a disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Sent {
    volume: String,
    virtual_bytes: u64,
    data_bytes: u64,
    /// The provider's digest of what it got, which is that of what was read.
    image_digest: String,
    /// The provider copied the image to the volume; that was not read back.
    read_back_bytes: u64,
    object_digest: DigestCheck,
}

/// What the step leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Uploaded {
    disks: Vec<Sent>,
    volumes: Vec<Made>,
}

/// What the step keeps for its next attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// The first disks, whose volumes are made.
    finished: Vec<Finished>,
    /// The image of the disk after these, once all its bytes were sent.
    filled: Option<Filled>,
    /// The digest that the provider computes of images.
    algorithm: String,
    /// The images that were made, in all attempts.
    #[serde(default)]
    images: BTreeSet<ImageId>,
    /// The volumes that were made, in all attempts.
    made: BTreeSet<VolumeId>,
    /// Of these what a run that had succeeded has left, and which is therefore never removed.
    delivered: BTreeSet<VolumeId>,
    /// Of which success these are: [`leeward_runs::StepRecord::delivered`].
    delivered_at: u32,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            finished: Vec::new(),
            filled: None,
            algorithm: "sha512".to_owned(),
            images: BTreeSet::new(),
            made: BTreeSet::new(),
            delivered: BTreeSet::new(),
            delivered_at: 0,
        }
    }
}

impl Kept {
    /// What is kept as of now: what was made until the run last succeeded is delivered.
    fn read(context: &Context) -> Result<Self, Fault> {
        let mut kept: Self = context.kept_by(STEP)?.unwrap_or_default();
        let success = context.run().step(STEP).map_or(0, |step| step.delivered);
        if success != kept.delivered_at {
            kept.delivered.extend(kept.made.iter().cloned());
            kept.delivered_at = success;
        }
        Ok(kept)
    }
}

/// What a run that had succeeded has left.
pub(super) struct Delivered {
    /// These volumes.
    pub volumes: BTreeSet<VolumeId>,
    /// All volumes that were made, in all attempts.
    pub made: BTreeSet<VolumeId>,
    /// Whether it has succeeded at all.
    pub is_any: bool,
}

impl Delivered {
    pub fn read(context: &Context) -> Result<Self, Fault> {
        let kept = Kept::read(context)?;
        Ok(Self { volumes: kept.delivered, made: kept.made, is_any: kept.delivered_at > 0 })
    }
}

/// The images of this run that are not gone.
pub(super) fn own_images(
    context: &Context,
    target: &Target,
    images: &Arc<dyn Images>,
) -> Result<Vec<ImageId>, Fault> {
    let found = Job { context, target, images: images.as_ref() }.own_images()?;
    Ok(found.into_iter().map(|image| image.id).collect())
}

/// The volumes of the run, once they hold their disks.
pub(super) fn volumes(context: &Context, drafted: Volumes) -> Result<Volumes, Fault> {
    let uploaded: Uploaded = context.needed(STEP)?;
    Ok(Volumes { volumes: uploaded.volumes, ..drafted })
}

/// `create_block_volume`: the records of the images.
pub(super) fn draft(
    context: &Context,
    target: &Target,
    images: &Arc<dyn Images>,
    wanted: Vec<(String, VolumeSpec)>,
    keep: &mut dyn FnMut(&ImageId) -> Result<(), Fault>,
) -> Result<Vec<Drafted>, Fault> {
    // What this run has made already needs no room.
    if super::volume::mine(context, target)?.is_empty() {
        let bytes: Vec<u64> = wanted.iter().map(|(_, spec)| spec.bytes).collect();
        images.check_room(&bytes).map_err(|error| fault::of_cloud(&error))?;
    }
    let mut draft = |(disk, volume): (String, VolumeSpec)| {
        context.check()?;
        let image = images.create_image(&record(&volume)).map_err(|error| fault::of_cloud(&error))?;
        keep(&image.id)?;
        context.say(format!(
            "image {} ({}); a volume of {} GiB in {} will be made of it",
            image.id,
            volume.name,
            volume.bytes >> 30,
            volume.domain
        ));
        Ok(Drafted { image: image.id, disk, volume })
    };
    wanted.into_iter().map(&mut draft).collect()
}

/// The record of the image for a volume.
fn record(volume: &VolumeSpec) -> ImageSpec {
    let Owner { run, step } = &volume.owner;
    ImageSpec {
        name: volume.name.clone(),
        tags: leeward_cloud::provider::Tags::new(),
        owner: Owner::new(run.as_str(), step.as_str()),
    }
}

/// `write_image_to_bv`.
pub(super) fn write(
    places: &dyn Places,
    context: &Context,
    target: &Target,
    images: &Arc<dyn Images>,
    drafts: &[Drafted],
) -> Result<Outcome, Fault> {
    let mut kept = Kept::read(context)?;
    context.keep(&kept)?;
    let image: Image = context.needed("download_image_from_bucket")?;
    let opened = inspect::open(places, context, &image.expanded)?;
    if opened.disks.len() != drafts.len() {
        return Err(Fault::lasting("there are other disks than volumes", "retry create_block_volume"));
    }
    let job = Job { context, target, images: images.as_ref() };
    kept.for_these(&opened.disks);
    for (number, (disk, draft)) in opened.disks.iter().zip(drafts).enumerate() {
        context.check()?;
        job.one(&mut kept, number, disk, draft)?;
    }
    job.tidy(&kept)?;
    let (disks, volumes) = kept.finished.into_iter().map(|finished| (finished.sent, finished.volume)).unzip();
    Outcome::done(&Uploaded { disks, volumes })
}

impl Kept {
    /// Forgets what is of other disks: the object's version is another, or the inputs were edited.
    fn for_these(&mut self, disks: &[images_of_objects::Disk]) {
        let is_of =
            |(finished, disk): &(&Finished, &images_of_objects::Disk)| finished.source == *disk.identity();
        let same = self.finished.iter().zip(disks).take_while(is_of).count();
        if same < self.finished.len() {
            self.finished.truncate(same);
            self.filled = None;
        }
    }
}

/// The step while it is done.
struct Job<'a> {
    context: &'a Context,
    target: &'a Target,
    images: &'a dyn Images,
}

/// Removes the images of this run; for who undoes it.
pub(super) fn remove_images(
    context: &Context,
    target: &Target,
    images: &Arc<dyn Images>,
) -> Result<(), Fault> {
    Job { context, target, images: images.as_ref() }.remove_images()
}

/// Waits until a volume that is being made can be removed.
pub(super) fn settle(context: &Context, target: &Target, id: &VolumeId) -> Result<(), Fault> {
    volume::settle(context, target, id)
}
