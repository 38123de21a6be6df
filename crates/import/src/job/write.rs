//! `write_image_to_bv`: the disks onto their volumes, and the volumes read back.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault, Outcome, Step};
use serde::{Deserialize, Serialize};

use super::attach::{self, Devices};
use super::fault::Watching;
use super::inspect::{self, Image};
use super::volume::{Made, Volumes};
use super::{Places, Target, fault};
use crate::image::Disk;
use crate::verify::{VerifyCheckpoint, VerifyOptions, verify};
use crate::write::{Checkpoint, WriteOptions, write};
use crate::{DigestCheck, VolumeTarget};

/// How long what was written may be lost by a crash.
const WINDOW: Duration = Duration::from_secs(5);

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

/// A disk that is written and compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Finished {
    checkpoint: Checkpoint,
    done: Done,
}

/// What the step says of such a disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Done {
    volume: String,
    virtual_bytes: u64,
    data_bytes: u64,
    read_back_bytes: u64,
    past_the_page_cache: bool,
    object_digest: DigestCheck,
}

/// The step.
pub(super) struct Write(pub Arc<dyn Places>);

impl Step for Write {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let image: Image = context.needed("download_image_from_bucket")?;
        let volumes: Volumes = context.needed("create_block_volume")?;
        let devices: Devices = context.needed("wait_for_attachment")?;
        let target = self.0.target(&volumes.target).map_err(fault::of_place)?;
        let opened = inspect::open(self.0.as_ref(), context, &image.expanded)?;
        let mut kept = context.kept::<Kept>()?.unwrap_or_default().for_these(&opened.disks, &volumes.volumes);
        while kept.done.len() < opened.disks.len() {
            let number = kept.done.len();
            let (Some(disk), Some(volume), Some(device)) =
                (opened.disks.get(number), volumes.volumes.get(number), devices.devices.get(number))
            else {
                return Err(Fault::lasting("there are more disks than volumes", "retry create_block_volume"));
            };
            attach::confirm(context, &target, number, &volume.id, device)?;
            if kept.write.is_none() {
                kept.write = kept.before.get(number).cloned();
            }
            let job = Job { context, target: &target, disk, volume, device };
            let finished = job.run(&kept)?;
            kept.done.push(finished);
            kept = Kept { write: None, verify: None, ..kept };
            context.keep(&kept)?;
        }
        let disks: Vec<_> = kept.done.into_iter().map(|finished| finished.done).collect();
        Outcome::done(&serde_json::json!({ "disks": disks }))
    }
}

/// Whether a checkpoint is of this disk on this volume. One of another volume or another object says nothing: the volume was
/// made anew, or the inputs were edited.
fn is_of(checkpoint: &Checkpoint, disk: &Disk, volume: &Made) -> bool {
    checkpoint.target.id == volume.id.as_str() && checkpoint.source == *disk.identity()
}

impl Kept {
    /// What of this counts for these disks and volumes.
    fn for_these(mut self, disks: &[Disk], volumes: &[Made]) -> Self {
        let is_mine = |number: usize, checkpoint: &Checkpoint| {
            let pair = disks.get(number).zip(volumes.get(number));
            pair.is_some_and(|(disk, volume)| is_of(checkpoint, disk, volume))
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
}

struct Job<'a> {
    context: &'a Context,
    target: &'a Target,
    disk: &'a Disk,
    volume: &'a Made,
    device: &'a Path,
}

impl Job<'_> {
    fn run(&self, kept: &Kept) -> Result<Finished, Fault> {
        let mine = kept.write.as_ref().filter(|checkpoint| is_of(checkpoint, self.disk, self.volume));
        let (checkpoint, digest) = self.write(kept, mine)?;
        let verified = self.compare(kept, &checkpoint, mine.and(kept.verify.as_ref()))?;
        let done = Done {
            volume: self.volume.id.to_string(),
            virtual_bytes: self.disk.virtual_size(),
            data_bytes: checkpoint.data_bytes,
            read_back_bytes: verified.read_bytes,
            past_the_page_cache: verified.is_direct,
            object_digest: digest,
        };
        Ok(Finished { checkpoint, done })
    }

    fn write(&self, kept: &Kept, from: Option<&Checkpoint>) -> Result<(Checkpoint, DigestCheck), Fault> {
        if let Some(from) = from.filter(|from| !from.is_complete()) {
            self.context.say(format!("going on at byte {} of {}", from.position, self.disk.virtual_size()));
        }
        let target =
            VolumeTarget::open(self.device, self.disk.virtual_size()).map_err(|error| self.failed(&error))?;
        let options =
            WriteOptions { limit: self.target.limit.clone(), window_time: WINDOW, ..WriteOptions::default() };
        let keep = |checkpoint: &Checkpoint| {
            self.keep(&Kept { write: Some(checkpoint.clone()), verify: None, ..kept.clone() })
        };
        let watching = Watching { context: self.context, note: "writing" };
        let written = write(self.disk, &target, self.volume.id.as_str(), from, &options, &watching, &keep)
            .map_err(|error| self.failed(&error))?;
        self.context.say(format!(
            "{} bytes of data on {}; digest of the object: {}",
            written.checkpoint.data_bytes,
            self.device.display(),
            serde_json::to_string(&written.digest).unwrap_or_default()
        ));
        Ok((written.checkpoint, written.digest))
    }

    fn compare(
        &self,
        kept: &Kept,
        checkpoint: &Checkpoint,
        from: Option<&VerifyCheckpoint>,
    ) -> Result<crate::verify::Verified, Fault> {
        let keep = |verify: &VerifyCheckpoint| {
            self.keep(&Kept { write: Some(checkpoint.clone()), verify: Some(verify.clone()), ..kept.clone() })
        };
        let watching = Watching { context: self.context, note: "reading back and comparing" };
        let verified = verify(self.device, checkpoint, from, &VerifyOptions::default(), &watching, &keep)
            .map_err(|error| self.failed(&error))?;
        if verified.is_equal() {
            let way = if verified.is_direct { "past the page cache" } else { "through the page cache" };
            self.context.say(format!("read back {} bytes {way}: all as written", verified.read_bytes));
            return Ok(verified);
        }
        for difference in &verified.differences {
            let what = format!("differs: {} bytes at byte {}", difference.length, difference.offset);
            self.context.log(Level::Error, &what);
        }
        // What is on the volume cannot be believed: the next attempt writes all of it again.
        self.context.keep(&Kept { write: None, verify: None, before: Vec::new(), ..kept.clone() })?;
        Err(Fault::passing(
            format!(
                "volume {} does not hold what was written: {} ranges differ",
                self.volume.id,
                verified.differences.len()
            ),
            "it is written again; if that does not help, the volume's medium is not sound: remove it and retry create_block_volume",
        ))
    }

    fn keep(&self, kept: &Kept) -> Result<(), Box<dyn StdError + Send + Sync>> {
        self.context.keep(kept).map_err(|fault| match fault {
            Fault::Stopped => "another daemon has the run".into(),
            Fault::Failed(failure) => failure.message.into(),
        })
    }

    fn failed(&self, error: &crate::Error) -> Fault {
        match self.context.is_stopped() {
            true => Fault::Stopped,
            false => fault::of_import(error),
        }
    }
}
