//! The work on one disk, wherever it is done: by the daemon on its own machine, or by a worker.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use leeward_cloud::provider::Device;
use leeward_runs::state::Level;
use leeward_runs::step::Fault;
use leeward_store::RateLimit;
use serde::{Deserialize, Serialize};

use super::Kept;
use crate::filesystem::{self, CheckOptions, FileSystemReport};
use crate::image::Disk;
use crate::job::fault_of;
use crate::verify::{Verified, VerifyCheckpoint, VerifyOptions, verify};
use crate::write::{Checkpoint, WriteOptions, write};
use crate::{DigestCheck, Progress, VolumeTarget, Watch, gpt};

/// How long what was written may be lost by a crash.
const WINDOW: Duration = Duration::from_secs(5);

/// Who does the work: whom it tells, and where it is kept.
pub trait Bench: Sync {
    /// Writes a line of the step's log.
    fn log(&self, level: Level, text: &str);

    /// How far the work is, and at what. Called often: it must be cheap.
    fn progress(&self, note: &str, progress: Progress);

    /// Whether to stop. Asked often.
    fn is_stopped(&self) -> bool;

    /// Keeps how far the work is; it is durable when this returns.
    ///
    /// # Errors
    /// It could not be kept, or the work is somebody else's now.
    fn keep(&self, kept: &Kept) -> Result<(), Box<dyn StdError + Send + Sync>>;
}

/// A disk that is written and compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// What was written.
    pub(crate) checkpoint: Checkpoint,
    /// What is said of it.
    pub(crate) done: Done,
}

/// What the step says of such a disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Done {
    pub volume: String,
    pub virtual_bytes: u64,
    pub data_bytes: u64,
    pub read_back_bytes: u64,
    pub past_the_page_cache: bool,
    pub object_digest: DigestCheck,
}

/// Whether a checkpoint is of this disk on this volume. One of another volume or another object says nothing: the volume was
/// made anew, or the inputs were edited.
pub(crate) fn is_of(checkpoint: &Checkpoint, disk: &Disk, volume: &str) -> bool {
    checkpoint.target.id == volume && checkpoint.source == *disk.identity()
}

/// The data path, watched for a bench.
pub(super) struct Watching<'a> {
    pub bench: &'a dyn Bench,
    pub note: &'a str,
}

impl Watch for Watching<'_> {
    fn progress(&self, progress: Progress) {
        self.bench.progress(self.note, progress);
    }

    fn log(&self, line: &str) {
        self.bench.log(Level::Info, line);
    }

    fn is_cancelled(&self) -> bool {
        self.bench.is_stopped()
    }
}

/// Writes a disk onto its volume and compares the two, from where `kept` says.
pub(crate) fn write_disk(
    bench: &dyn Bench,
    disk: &Disk,
    volume: &str,
    device: &Device,
    kept: &Kept,
    limit: Option<Arc<RateLimit>>,
) -> Result<Finished, Fault> {
    let job = Job { bench, disk, volume, device, limit };
    let mine = kept.write.as_ref().filter(|checkpoint| is_of(checkpoint, disk, volume));
    let (checkpoint, digest) = job.write(mine)?;
    let verified = job.compare(&checkpoint, mine.and(kept.verify.as_ref()))?;
    let done = Done {
        volume: volume.to_owned(),
        virtual_bytes: disk.virtual_size(),
        data_bytes: checkpoint.data_bytes,
        read_back_bytes: verified.read_bytes,
        past_the_page_cache: verified.is_direct,
        object_digest: digest,
    };
    Ok(Finished { checkpoint, done })
}

struct Job<'a> {
    bench: &'a dyn Bench,
    disk: &'a Disk,
    volume: &'a str,
    device: &'a Device,
    limit: Option<Arc<RateLimit>>,
}

impl Job<'_> {
    fn say(&self, text: &str) {
        self.bench.log(Level::Info, text);
    }

    fn write(&self, from: Option<&Checkpoint>) -> Result<(Checkpoint, DigestCheck), Fault> {
        if let Some(from) = from.filter(|from| !from.is_complete()) {
            self.say(&format!("going on at byte {} of {}", from.position, self.disk.virtual_size()));
        }
        let target =
            VolumeTarget::open(self.device, self.disk.virtual_size()).map_err(|error| self.failed(&error))?;
        let options =
            WriteOptions { limit: self.limit.clone(), window_time: WINDOW, ..WriteOptions::default() };
        let keep = |checkpoint: &Checkpoint| {
            self.bench.keep(&Kept { write: Some(checkpoint.clone()), verify: None })
        };
        let watching = Watching { bench: self.bench, note: "writing" };
        let written = write(self.disk, &target, self.volume, from, &options, &watching, &keep)
            .map_err(|error| self.failed(&error))?;
        self.say(&format!(
            "{} bytes of data on {}; digest of the object: {}",
            written.checkpoint.data_bytes,
            self.device,
            serde_json::to_string(&written.digest).unwrap_or_default()
        ));
        Ok((written.checkpoint, written.digest))
    }

    fn compare(&self, checkpoint: &Checkpoint, from: Option<&VerifyCheckpoint>) -> Result<Verified, Fault> {
        let keep = |verify: &VerifyCheckpoint| {
            self.bench.keep(&Kept { write: Some(checkpoint.clone()), verify: Some(verify.clone()) })
        };
        let watching = Watching { bench: self.bench, note: "reading back and comparing" };
        let verified = verify(self.device, checkpoint, from, &VerifyOptions::default(), &watching, &keep)
            .map_err(|error| self.failed(&error))?;
        if verified.is_equal() {
            let way = if verified.is_direct { "past the page cache" } else { "through the page cache" };
            self.say(&format!("read back {} bytes {way}: all as written", verified.read_bytes));
            return Ok(verified);
        }
        for difference in &verified.differences {
            let what = format!("differs: {} bytes at byte {}", difference.length, difference.offset);
            self.bench.log(Level::Error, &what);
        }
        // What is on the volume cannot be believed: the next attempt writes all of it again.
        self.bench.keep(&Kept::default()).map_err(|error| {
            let hint = "see that the daemon's state can be written, then retry the step";
            Fault::passing(format!("that the volume differs could not be kept: {error}"), hint)
        })?;
        Err(Fault::passing(
            format!(
                "volume {} does not hold what was written: {} ranges differ",
                self.volume,
                verified.differences.len()
            ),
            "it is written again; if that does not help, the volume's medium is not sound: remove it and retry create_block_volume",
        ))
    }

    fn failed(&self, error: &crate::Error) -> Fault {
        fault_of(self.bench, error)
    }
}

/// Moves the backup of the GPT, where asked, and checks the file systems.
pub(crate) fn check_disk(
    bench: &dyn Bench,
    volume: &str,
    device: &Device,
    move_gpt: bool,
) -> Result<FileSystemReport, Fault> {
    if move_gpt {
        move_backup(bench, device)?;
    }
    let watching = Watching { bench, note: "checking file systems" };
    let report = filesystem::check(device, &CheckOptions::default(), &watching)
        .map_err(|error| fault_of(bench, &error))?;
    say_report(bench, volume, &report);
    Ok(report)
}

/// Says what was found on a volume.
pub(crate) fn say_report(bench: &dyn Bench, volume: &str, report: &FileSystemReport) {
    bench.log(Level::Info, &format!("volume {volume}: table {}", report.table));
    report.problems.iter().for_each(|problem| bench.log(Level::Warning, problem));
    report.confinement.iter().for_each(|note| bench.log(Level::Info, note));
    for part in &report.volumes {
        tell(bench, part);
    }
}

fn move_backup(bench: &dyn Bench, device: &Device) -> Result<(), Fault> {
    let target = VolumeTarget::open(device, 0).map_err(|error| fault_of(bench, &error))?;
    let moved = gpt::move_backup(&target).map_err(|error| fault_of(bench, &error))?;
    let what = match moved {
        gpt::Moved::NoTable => "there is no GPT whose backup could be moved".to_owned(),
        gpt::Moved::InPlace => "the backup of the GPT is at the end already".to_owned(),
        gpt::Moved::Moved { from_sector, to_sector, .. } => {
            format!("the backup of the GPT is moved from sector {from_sector} to the end, sector {to_sector}")
        }
    };
    bench.log(Level::Info, &what);
    Ok(())
}

fn tell(bench: &dyn Bench, part: &filesystem::VolumeReport) {
    use filesystem::Verdict;
    let kind = part.file_system.as_deref().unwrap_or("no known file system");
    let (level, what) = match &part.verdict {
        Verdict::Clean => (Level::Info, "clean".to_owned()),
        Verdict::Errors => (Level::Error, "has errors".to_owned()),
        Verdict::Unknown { what } => (Level::Info, what.clone()),
        Verdict::ToolMissing { tool, package } => {
            (Level::Warning, format!("not checked: {tool} is not here; install Debian's package {package}"))
        }
        Verdict::NotChecked { why } => (Level::Warning, format!("not checked: {why}")),
    };
    bench.log(level, &format!("{} ({kind}, {} bytes): {what}", part.id, part.bytes));
    if let Some(command) = part.command.as_ref().filter(|_| level != Level::Info) {
        bench.log(level, &format!("{command}:\n{}", part.output));
    }
}
