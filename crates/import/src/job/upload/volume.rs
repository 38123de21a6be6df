//! A volume of an image.

use std::time::{Duration, Instant};

use leeward_cloud::ErrorKind;
use leeward_cloud::provider::{Goal, IMAGE_TAG, Progress, Volume, VolumeId, VolumeState};
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault};

use super::super::volume::{Made, mine, wait_gone};
use super::super::{Target, fault};
use super::image::Filled;
use super::{Drafted, Finished, Job, Kept, Sent};
use crate::image::Disk;

impl Job<'_> {
    /// Sees that there is a volume for a disk, made of an image that holds it.
    pub(super) fn one(
        &self,
        kept: &mut Kept,
        number: usize,
        disk: &Disk,
        draft: &Drafted,
    ) -> Result<(), Fault> {
        let mut existing = self.existing(draft)?;
        existing.retain(|volume| kept.delivered.contains(&volume.id) || self.is_own(kept, volume));
        if let Some(finished) = kept.finished.get(number) {
            if existing.iter().any(|volume| volume.id == finished.volume.id) {
                self.context.say(format!(
                    "volume {} was made before of an image with the digest of this disk; it is not read back",
                    finished.volume.id
                ));
                return Ok(());
            }
            kept.finished.truncate(number);
        }
        let mut others = existing.iter().filter(|volume| {
            let of = kept.filled.as_ref().map(|filled| filled.image.as_str());
            of.is_none() || volume.tags.get(IMAGE_TAG).map(String::as_str) != of
        });
        if let Some(delivered) = others.clone().find(|volume| kept.delivered.contains(&volume.id)) {
            return Err(Fault::lasting(
                format!("this run has delivered volume {} before, which holds another disk", delivered.id),
                "begin another import; a volume that is made of an image cannot be written again",
            ));
        }
        others.try_for_each(|volume| {
            self.context.say(format!("volume {} is of an attempt that broke off; it is removed", volume.id));
            self.remove(&volume.id)
        })?;
        let filled = self.filled(kept, disk, draft)?;
        let volume = self.make(kept, draft, &filled)?;
        self.images.set_bootable(&volume.id, number == 0).map_err(|error| fault::of_cloud(&error))?;
        self.context.say(format!("volume {} is made of image {}", volume.id, filled.image));
        self.context.say(
            "compared was the image, by its digest; the volume cannot be read from here: the cloud's own copying was not checked",
        );
        kept.finished.push(Finished {
            source: filled.source,
            sent: Sent {
                volume: volume.id.to_string(),
                virtual_bytes: filled.bytes,
                data_bytes: filled.data_bytes,
                image_digest: format!("{}:{}", kept.algorithm, filled.digest),
                read_back_bytes: 0,
                object_digest: filled.object_digest,
            },
            volume: Made {
                id: volume.id,
                name: volume.name,
                bytes: volume.bytes,
                domain: volume.domain,
                disk: draft.disk.clone(),
            },
        });
        kept.filled = None;
        self.context.keep(&*kept)
    }

    /// Whether this run made a volume, as far as it knows. Once it has succeeded, what has its tags may be somebody's who restored it from
    /// a backup of what was delivered; before that there is nothing to restore.
    fn is_own(&self, kept: &Kept, volume: &Volume) -> bool {
        if kept.delivered_at == 0 || kept.made.contains(&volume.id) {
            return true;
        }
        let what = format!(
            "volume {} has the tags of this run and was not made by it, as far as it knows: it stays",
            volume.id
        );
        self.context.log(Level::Warning, &what);
        false
    }

    /// The live volumes of this disk.
    fn existing(&self, draft: &Drafted) -> Result<Vec<Volume>, Fault> {
        let mut found = mine(self.context, self.target)?;
        found.retain(|volume| draft.volume.owner.owns(&volume.tags) && volume.state.is_live());
        Ok(found)
    }

    fn make(&self, kept: &mut Kept, draft: &Drafted, filled: &Filled) -> Result<Volume, Fault> {
        let volumes = &self.target.cloud.volumes;
        let mut volume = self
            .images
            .volume_of_image(&draft.volume, &filled.image)
            .map_err(|error| fault::of_cloud(&error))?;
        kept.made.insert(volume.id.clone());
        self.context.keep(&*kept)?;
        self.context.say(format!(
            "volume {} ({}, {} GiB) in {}: {}",
            volume.id,
            volume.name,
            volume.bytes >> 30,
            volume.domain,
            volume.state.word
        ));
        if volume.bytes > filled.bytes {
            self.context.say(format!(
                "the last {} bytes of the volume are behind the disk, and stay as the cloud gives them",
                volume.bytes - filled.bytes
            ));
        }
        let end = Instant::now() + time_for(volume.bytes);
        loop {
            match volume.state.progress(Goal::Use) {
                Progress::Ready => return Ok(volume),
                Progress::Changing if Instant::now() >= end => return Err(stuck(&volume)),
                Progress::Changing => self.context.wait(volumes.poll_interval())?,
                Progress::Broken => return Err(self.failed(&volume)),
            }
            volume = volumes.volume(&volume.id).map_err(|error| fault::of_cloud(&error))?;
        }
    }

    /// A volume that could not be made goes, and what the provider says about it stays. The image stays for the next attempt.
    fn failed(&self, volume: &Volume) -> Fault {
        let why = match self.images.why_faulty(&volume.id) {
            Ok(Some(why)) => format!(": {why}"),
            Ok(None) => String::new(),
            Err(error) => {
                self.context.log(Level::Warning, &leeward_store::with_causes(&error));
                String::new()
            }
        };
        match self.remove(&volume.id) {
            Ok(()) => Fault::passing(
                format!("volume {} became {} and was removed{why}", volume.id, volume.state.word),
                "the next attempt makes another one of the same image",
            ),
            Err(fault) => fault,
        }
    }

    fn remove(&self, id: &VolumeId) -> Result<(), Fault> {
        settle(self.context, self.target, id)?;
        self.target.cloud.volumes.delete_volume(id).map_err(|error| fault::of_cloud(&error))?;
        wait_gone(self.context, self.target, id)
    }

    /// Leaves one volume for each disk, and no image.
    pub(super) fn tidy(&self, kept: &Kept) -> Result<(), Fault> {
        for volume in mine(self.context, self.target)? {
            let is_kept = kept.finished.iter().any(|finished| finished.volume.id == volume.id);
            if !is_kept && !kept.delivered.contains(&volume.id) && self.is_own(kept, &volume) {
                self.context.say(format!("volume {} is one too many, and is removed", volume.id));
                self.remove(&volume.id)?;
            }
        }
        for image in self.own_images()? {
            self.let_go(&image.id)?;
        }
        Ok(())
    }
}

/// How long a cloud may take to make a volume of that size, in bytes: a minute for each GiB comes on top of three quarters of an hour.
fn time_for(bytes: u64) -> Duration {
    Duration::from_secs(45 * 60 + 60 * (bytes >> 30))
}

/// A volume that neither comes nor goes: a service of the cloud that died over it leaves it so for ever.
fn stuck(volume: &Volume) -> Fault {
    Fault::lasting(
        format!("volume {} is {} and does not change", volume.id, volume.state.word),
        format!(
            "see that the cloud's volume service runs; its operator can say: cinder reset-state {}; then retry the step",
            volume.id
        ),
    )
}

/// Waits until a volume that is being made can be removed.
pub(super) fn settle(context: &Context, target: &Target, id: &VolumeId) -> Result<(), Fault> {
    let volumes = &target.cloud.volumes;
    let begun = Instant::now();
    loop {
        match volumes.volume(id) {
            Ok(volume) if volume.state.state == VolumeState::Changing => {
                if begun.elapsed() >= time_for(volume.bytes) {
                    return Err(stuck(&volume));
                }
                context.wait(volumes.poll_interval())?;
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(fault::of_cloud(&error)),
            _ => return Ok(()),
        }
    }
}
