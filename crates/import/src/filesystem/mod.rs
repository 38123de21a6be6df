//! File systems on a volume, each checked by its own tool.
//!
//! What is on the volume came from outside, and the tools are large programs in C that were made for disks people trust. So
//! they never see the volume: [`serve`] shows them one partition or logical volume as a file that cannot be written, and
//! [`confine`] runs them without rights, network and room to write. Nothing is mounted by the kernel's file systems.
//!
//! A tool's word is a verdict, not an error: the caller decides whether it fails the import, holds it, or is a warning.
//! A journal that was not replayed when the disk was taken is replayed by nobody here, as nothing is written; tools may call
//! such a file system damaged, and the output says so.

mod confine;
mod filter;
mod output;
mod serve;
mod tools;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leeward_cloud::provider::Device;
use leeward_disk::SharedSource;
use leeward_files::{Volume, volumes};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Watch};
use confine::{Confinement, Ended};
use serve::Served;
use tools::Tool;

/// File systems of a volume that are checked, at most.
const VOLUMES_MAX: usize = 128;

/// How file systems are checked.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// How long one tool may take.
    pub time_max: Duration,
    /// How much of its output is kept, in bytes; the middle is left out.
    pub output_bytes_max: usize,
    /// How much memory it may take, in bytes of address space.
    pub memory_bytes_max: u64,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { time_max: Duration::from_secs(1800), output_bytes_max: 64 << 10, memory_bytes_max: 4 << 30 }
    }
}

/// What a tool says about a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// It is sound.
    Clean,
    /// It is not, or its journal was not replayed: see the output.
    Errors,
    /// There is no file system that is known here.
    Unknown {
        /// What was found, in words.
        what: String,
    },
    /// The tool is not installed.
    ToolMissing {
        /// The program.
        tool: String,
        /// Debian's package.
        package: String,
    },
    /// It was not checked.
    NotChecked {
        /// Why.
        why: String,
    },
}

/// One partition or logical volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeReport {
    /// `disk`, the number of a partition, or `lvm:GROUP/VOLUME`.
    pub id: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its file system: `ext`, `xfs`, `ntfs`, `fat`, `exfat`, `btrfs`; nothing where there is none known.
    pub file_system: Option<String>,
    /// What came of it.
    pub verdict: Verdict,
    /// The tool with its options.
    pub command: Option<String>,
    /// What it said.
    pub output: String,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
}

/// What was found on a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystemReport {
    /// The kind of partition table.
    pub table: String,
    /// Partitions and logical volumes.
    pub volumes: Vec<VolumeReport>,
    /// What is wrong with the table.
    pub problems: Vec<String>,
    /// How the tools were confined, and what was not possible here.
    pub confinement: Vec<String>,
}

impl FileSystemReport {
    /// Whether a tool found errors.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.volumes.iter().any(|volume| volume.verdict == Verdict::Errors)
    }

    /// Whether every file system that is known here was checked.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let is_open =
            |verdict: &Verdict| matches!(verdict, Verdict::ToolMissing { .. } | Verdict::NotChecked { .. });
        !self.volumes.iter().any(|volume| is_open(&volume.verdict))
    }
}

/// Checks the file systems on the volume on `device`, which is only read.
///
/// # Errors
/// The volume cannot be read, or the caller cancelled. What cannot be checked is in the report.
pub fn check(
    device: impl Into<Device>,
    options: &CheckOptions,
    watch: &dyn Watch,
) -> Result<FileSystemReport> {
    let device = device.into();
    let disk = crate::read_back::source(&device)?;
    check_disk(&disk, Path::new(&device.to_string()), options, watch)
}

/// The same for a disk that is on no volume here; `name` is what it is called in messages.
///
/// # Errors
/// As [`check`].
pub fn check_disk(
    disk: &SharedSource,
    name: &Path,
    options: &CheckOptions,
    watch: &dyn Watch,
) -> Result<FileSystemReport> {
    let found = match volumes(disk) {
        Ok(found) => found,
        Err(error) => return Err(Error::Table { path: name.to_owned(), what: error.to_string() }),
    };
    let confinement = Confinement::find();
    let mut report = FileSystemReport {
        table: format!("{:?}", found.table).to_lowercase(),
        volumes: Vec::new(),
        problems: found.problems.clone(),
        confinement: confinement.notes().to_vec(),
    };
    for volume in found.volumes.iter().take(VOLUMES_MAX) {
        if watch.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let checked = check_volume(volume, &confinement, options, watch)?;
        watch.log(&format!("{}: {:?}", checked.id, checked.verdict));
        report.volumes.push(checked);
    }
    if found.volumes.len() > VOLUMES_MAX {
        report
            .problems
            .push(format!("only the first {VOLUMES_MAX} of {} were looked at", found.volumes.len()));
    }
    Ok(report)
}

fn check_volume(
    volume: &Volume,
    confinement: &Confinement,
    options: &CheckOptions,
    watch: &dyn Watch,
) -> Result<VolumeReport> {
    let tool = Tool::of(volume)?;
    let mut report = VolumeReport {
        id: volume.id.clone(),
        bytes: volume.size,
        file_system: tool.map(|tool| tool.file_system.to_owned()),
        verdict: Verdict::Unknown { what: tools::describe(volume) },
        command: None,
        output: String::new(),
        milliseconds: 0,
    };
    let (Some(tool), Some(source)) = (tool, volume.source()) else { return Ok(report) };
    let Some(program) = tool.find() else {
        report.verdict =
            Verdict::ToolMissing { tool: tool.program.to_owned(), package: tool.package.to_owned() };
        return Ok(report);
    };
    report.command = Some(tool.command());
    let started = Instant::now();
    report.verdict = match run(tool, &program, source, confinement, options, watch) {
        Ok((verdict, output)) => {
            report.output = output;
            verdict
        }
        Err(Error::Cancelled) => return Err(Error::Cancelled),
        Err(error) => Verdict::NotChecked { why: leeward_store::with_causes(&error) },
    };
    report.milliseconds = started.elapsed().as_millis() as u64;
    Ok(report)
}

fn run(
    tool: &Tool,
    program: &Path,
    source: &SharedSource,
    confinement: &Confinement,
    options: &CheckOptions,
    watch: &dyn Watch,
) -> Result<(Verdict, String)> {
    let served = Served::new(Arc::clone(source), confinement.user())?;
    let ended = confinement.run(program, tool, served.file(), options, watch)?;
    Ok(match ended {
        Ended::Exit { code, output } => (tool.verdict(code), output),
        Ended::Signal { signal, output } => {
            let why =
                format!("{} was ended by signal {signal}: it may have asked for too much", tool.program);
            (Verdict::NotChecked { why }, output)
        }
        Ended::TooLong { output } => {
            let why = format!("{} took longer than {} seconds", tool.program, options.time_max.as_secs());
            (Verdict::NotChecked { why }, output)
        }
    })
}
