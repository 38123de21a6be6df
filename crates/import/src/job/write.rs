//! `write_image_to_bv`: the disks onto their volumes, and the volumes read back.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::Arc;

use leeward_cloud::provider::Device;
use leeward_remote::objects::ObjectVersion;
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault, Outcome, Step};
use serde::{Deserialize, Serialize};

use super::attach::{self, Devices};
use super::inspect::{self, Image, Seen};
use super::volume::{Made, Volumes};
use super::{Inputs, Places, Target, fault, upload, vault, worker};
use crate::Progress;
use crate::image::Disk;
use crate::verify::VerifyCheckpoint;
use crate::work::{self, Bench, Ended, Finished, Grant, Work, WriteWork, is_of, write_disk};
use crate::write::Checkpoint;

/// What the step keeps for its next attempt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// The first disks, written and compared.
    done: Vec<Finished>,
    /// What is written of the disk after these.
    write: Option<Checkpoint>,
    /// How far it was compared.
    verify: Option<VerifyCheckpoint>,
    /// What was written of the disks, when the step had ended and was begun again: it is compared again.
    before: Vec<Checkpoint>,
}

/// The step.
pub(super) struct Write(pub Arc<dyn Places>);

impl Step for Write {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let image: Image = context.needed("download_image_from_bucket")?;
        let volumes: Volumes = context.needed("create_block_volume")?;
        let target = self.0.target(&volumes.target).map_err(fault::of_place)?;
        if let Some(vault) = &target.vault {
            return vault::write(self.0.as_ref(), context, &target, vault, &volumes.snapshots);
        }
        if let Some(images) = target.uploads() {
            return upload::write(self.0.as_ref(), context, &target, images, &volumes.images);
        }
        let devices: Devices = context.needed("wait_for_attachment")?;
        let opened = inspect::open(self.0.as_ref(), context, &image.expanded)?;
        let mut kept = context.kept::<Kept>()?.unwrap_or_default().for_these(&opened.disks, &volumes.volumes);
        while kept.done.len() < opened.disks.len() {
            let number = kept.done.len();
            let (Some(disk), Some(volume), Some(device)) =
                (opened.disks.get(number), volumes.volumes.get(number), devices.devices.get(number))
            else {
                return Err(Fault::lasting("there are more disks than volumes", "retry create_block_volume"));
            };
            let place = (number, volume, device.as_str());
            let device = attach::confirm(self.0.as_ref(), context, &target, place)?;
            if kept.write.is_none() {
                kept.write = kept.before.get(number).cloned();
            }
            let here = Here { context, disk, volume, kept: &kept };
            let finished = match &target.worker {
                None => {
                    let from = work::Kept { write: kept.write.clone(), verify: kept.verify.clone() };
                    write_disk(&here, disk, volume.id.as_str(), &device, &from, target.limit.clone())?
                }
                Some(_) => self.by_worker(&target, &image, &here, device)?,
            };
            kept.done.push(finished);
            kept = Kept { write: None, verify: None, ..kept };
            context.keep(&kept)?;
        }
        let disks: Vec<_> = kept.done.into_iter().map(|finished| finished.done).collect();
        Outcome::done(&serde_json::json!({ "disks": disks }))
    }
}

impl Write {
    /// Has a disk written by the target's worker. What comes back was made elsewhere: it is checked to be of this disk and
    /// volume before it is kept.
    fn by_worker(
        &self,
        target: &Target,
        image: &Image,
        here: &Here<'_>,
        device: Device,
    ) -> Result<Finished, Fault> {
        let inputs = Inputs::of(here.context)?;
        inputs.check_target(target)?;
        let seen: Seen = here.context.needed("get_file_head")?;
        let objects = self.0.source(&inputs.source).map_err(fault::of_place)?;
        let identity = here.disk.identity();
        let mut names: BTreeMap<_, _> = identity.parts.clone().into_iter().collect();
        names.insert(inputs.object.clone(), identity.version.clone());
        let names = names.into_iter().map(|(name, version)| (name, ObjectVersion(version))).collect();
        let mine = here.kept.write.as_ref().filter(|found| is_of(found, here.disk, here.volume.id.as_str()));
        let order = Work::Write(Box::new(WriteWork {
            place: objects.name().to_owned(),
            object: inputs.object,
            head: seen.head,
            format: seen.wishes.format,
            expanded: image.expanded.clone(),
            disk: identity.disk.clone(),
            volume: here.volume.id.to_string(),
            device: worker::device(device)?,
            kept: work::Kept { write: mine.cloned(), verify: mine.and(here.kept.verify.clone()) },
            bytes_per_second: target.bytes_per_second,
        }));
        let grant = Some(Grant { objects, names });
        let keep = |kept: &work::Kept| here.take(kept);
        match worker::work(self.0.as_ref(), here.context, target, order, grant, &keep)? {
            Ended::Written(finished) if is_of(&finished.checkpoint, here.disk, here.volume.id.as_str()) => {
                Ok(*finished)
            }
            _ => Err(worker::nonsense("that it has ended with something else")),
        }
    }
}

impl Kept {
    /// What of this counts for these disks and volumes.
    fn for_these(mut self, disks: &[Disk], volumes: &[Made]) -> Self {
        let is_mine = |number: usize, checkpoint: &Checkpoint| {
            let pair = disks.get(number).zip(volumes.get(number));
            pair.is_some_and(|(disk, volume)| is_of(checkpoint, disk, volume.id.as_str()))
        };
        let done = self.done.iter().enumerate();
        let mine = done.take_while(|(number, done)| is_mine(*number, &done.checkpoint)).count();
        if mine < self.done.len() {
            self.done.truncate(mine);
            (self.write, self.verify) = (None, None);
        }
        if self.done.len() == disks.len() {
            // Who has the step done again wants to know that the volumes hold the image, whatever has happened to them since.
            let before = self.done.into_iter().map(|finished| finished.checkpoint).collect();
            return Self { before, ..Self::default() };
        }
        self
    }

    /// With what is known of the disk that is written now.
    fn with(&self, present: &work::Kept) -> Self {
        let kept = Self { write: present.write.clone(), verify: present.verify.clone(), ..self.clone() };
        match present.write {
            Some(_) => kept,
            // It cannot be believed, nor can what was there before.
            None => Self { before: Vec::new(), ..kept },
        }
    }
}

/// One disk, as this step does it or has it done.
struct Here<'a> {
    context: &'a Context,
    disk: &'a Disk,
    volume: &'a Made,
    kept: &'a Kept,
}

impl Here<'_> {
    /// Keeps what a worker tells of this disk.
    fn take(&self, kept: &work::Kept) -> Result<(), Fault> {
        let is_mine = |checkpoint: &Checkpoint| is_of(checkpoint, self.disk, self.volume.id.as_str());
        match kept.write.as_ref().is_none_or(is_mine) {
            true => self.context.keep(&self.kept.with(kept)),
            false => Err(worker::nonsense("a checkpoint of another disk or volume")),
        }
    }
}

impl Bench for Here<'_> {
    fn log(&self, level: Level, text: &str) {
        self.context.log(level, text);
    }

    fn progress(&self, note: &str, progress: Progress) {
        self.context.progress(progress.done_bytes, Some(progress.total_bytes), note);
    }

    fn is_stopped(&self) -> bool {
        self.context.is_stopped()
    }

    fn keep(&self, kept: &work::Kept) -> Result<(), Box<dyn StdError + Send + Sync>> {
        self.context.keep(&self.kept.with(kept)).map_err(|fault| match fault {
            Fault::Stopped => "another daemon has the run".into(),
            Fault::Failed(failure) => failure.message.into(),
        })
    }
}
