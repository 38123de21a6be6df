//! `write_image_to_bv`: the disks onto their volumes, and the volumes read back.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault, Outcome, Step};
use serde::{Deserialize, Serialize};

use super::attach::Devices;
use super::fault::Watching;
use super::inspect::{self, Image};
use super::volume::{Made, Volumes};
use super::{Inputs, Places, Target, fault};
use crate::image::Disk;
use crate::verify::{VerifyCheckpoint, VerifyOptions, verify};
use crate::write::{Checkpoint, WriteOptions, write};
use crate::{DigestCheck, VolumeTarget};

/// How long what was written may be lost by a crash.
const WINDOW: Duration = Duration::from_secs(5);

/// What the step keeps for its next attempt: the disks before `number` are done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    number: usize,
    /// What is written of disk `number`.
    write: Option<Checkpoint>,
    /// How far it was compared.
    verify: Option<VerifyCheckpoint>,
    done: Vec<Done>,
}

/// A disk that is written and compared.
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
        let inputs: Inputs = context.inputs()?;
        let image: Image = context.needed("download_image_from_bucket")?;
        let volumes: Volumes = context.needed("create_block_volume")?;
        let devices: Devices = context.needed("wait_for_attachment")?;
        let target = self.0.target(&inputs.target).map_err(fault::of_place)?;
        let opened = inspect::open(self.0.as_ref(), context, &image.expanded)?;
        let mut kept: Kept = context.kept()?.unwrap_or_default();
        while kept.number < opened.disks.len() {
            let number = kept.number;
            let (Some(disk), Some(volume), Some(device)) =
                (opened.disks.get(number), volumes.volumes.get(number), devices.devices.get(number))
            else {
                return Err(Fault::lasting("there are more disks than volumes", "retry create_block_volume"));
            };
            let job = Job { context, target: &target, disk, volume, device };
            let done = job.run(&kept)?;
            kept.done.push(done);
            kept = Kept { number: number + 1, done: kept.done, ..Kept::default() };
            context.keep(&kept)?;
        }
        Outcome::done(&serde_json::json!({ "disks": kept.done }))
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
    fn run(&self, kept: &Kept) -> Result<Done, Fault> {
        // A checkpoint of another volume or another object says nothing: the volume was made anew, or the inputs were edited.
        let mine = kept.write.as_ref().filter(|checkpoint| {
            checkpoint.target.id == self.volume.id.as_str() && checkpoint.source == *self.disk.identity()
        });
        let (checkpoint, digest) = match mine {
            Some(checkpoint) if checkpoint.is_complete() => (checkpoint.clone(), self.disk.digest()),
            from => self.write(kept, from)?,
        };
        let verified = self.compare(kept, &checkpoint, mine.and(kept.verify.as_ref()))?;
        Ok(Done {
            volume: self.volume.id.to_string(),
            virtual_bytes: self.disk.virtual_size(),
            data_bytes: checkpoint.data_bytes,
            read_back_bytes: verified.read_bytes,
            past_the_page_cache: verified.is_direct,
            object_digest: digest,
        })
    }

    fn write(&self, kept: &Kept, from: Option<&Checkpoint>) -> Result<(Checkpoint, DigestCheck), Fault> {
        if let Some(from) = from {
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
        self.context.keep(&Kept { write: None, verify: None, ..kept.clone() })?;
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
