//! What came of it: the closing summary, and the same as JSON.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use leeward_repository::{BackupStatistics, ImageStatistics};

use super::boot::{self, Boot};
use super::change::Change;
use crate::output::Output;
use crate::size;

/// The disk at the start.
#[derive(Debug, Serialize)]
pub struct Disk {
    /// Named by the person, and so only read.
    pub is_given: bool,
    /// File, device or URL.
    pub location: String,
    /// Format of the image.
    pub format: String,
    /// How a generated disk was made.
    pub made: Option<String>,
    /// Number of files on a generated disk.
    pub files: Option<usize>,
    /// Size that a guest sees.
    pub virtual_size: u64,
    /// Digest of all bytes.
    pub blake3: String,
    /// Whether the person's disk had the same digest at the end.
    pub is_unchanged: Option<bool>,
}

/// A backup.
#[derive(Debug, Serialize)]
pub struct Backup {
    /// Its snapshot.
    pub snapshot: String,
    /// What it found and stored.
    pub statistics: BackupStatistics,
    /// How long it took.
    pub seconds: f64,
}

/// The copy at the second site.
#[derive(Debug, Serialize)]
pub struct Copy {
    /// Snapshots copied.
    pub snapshots: usize,
    /// Bytes that it added to the second repository.
    pub stored_bytes: u64,
    /// Whether the tree roots of both sites are the same.
    pub roots_equal: bool,
    /// How long it took.
    pub seconds: f64,
}

/// The machine that ran straight from the repository.
#[derive(Debug, Serialize)]
pub struct AtOnce {
    /// From the decision to start it to the first read that was served; none when nothing was read.
    pub first_read_seconds: Option<f64>,
    /// Bytes that it read.
    pub read_bytes: u64,
    /// From the disaster to the machine that was up.
    pub recovery_time_seconds: Option<f64>,
    /// How it went.
    pub boot: Boot,
}

/// The recovered disk.
#[derive(Debug, Serialize)]
pub struct Recovery {
    /// Bytes written, zeros not counted.
    pub written_bytes: u64,
    /// How long the restore took.
    pub restore_seconds: f64,
    /// Digest of all bytes of the disk as it was before the disaster.
    pub blake3_before: String,
    /// Digest of all bytes that were recovered.
    pub blake3_recovered: String,
    /// Whether those are the same, and no chunk differs from the snapshot.
    pub every_byte_equal: bool,
    /// Bytes that differ from the snapshot, in whole chunks.
    pub differing_bytes: u64,
    /// Age of the recovery point at the disaster.
    pub recovery_point_seconds: f64,
    /// From the disaster to the verified disk.
    pub recovery_time_seconds: f64,
    /// From the disaster to the booted machine.
    pub recovery_time_booted_seconds: Option<f64>,
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The disk at the start.
    pub disk: Disk,
    /// The backups at the first site.
    pub backups: Vec<Backup>,
    /// What was changed between them.
    pub change: Change,
    /// What the first repository held before the disaster.
    pub repository: ImageStatistics,
    /// The copy at the second site.
    pub copy: Copy,
    /// The machine that ran straight from the second repository.
    pub at_once: AtOnce,
    /// The recovered disk.
    pub recovery: Recovery,
    /// The booted machine.
    pub boot: Boot,
    /// The temporary folder, where it was kept.
    pub kept: Option<PathBuf>,
    /// How long everything took.
    pub seconds: f64,
}

impl Report {
    /// Whether all disks and copies are equal that have to be.
    pub fn is_equal(&self) -> bool {
        self.disk.is_unchanged != Some(false) && self.copy.roots_equal && self.recovery.every_byte_equal
    }

    /// Whether everything is as it should be. A guest that was silent is no fault.
    pub fn is_good(&self) -> bool {
        let is_well = |boot: &Boot| boot.result != boot::Result::Failed;
        self.is_equal() && is_well(&self.boot) && is_well(&self.at_once.boot)
    }

    /// The summary that a person wants at the end.
    pub fn print_closing(&self, output: &Output) {
        let verdict = match (self.is_good(), self.boot.result) {
            (false, _) if self.is_equal() => "Every byte equal, but the guest is not well: see above",
            (false, _) => "SOMETHING DIFFERS: see above",
            (true, boot::Result::Booted) => "Recovered: every byte equal, and the machine is up",
            (true, _) => "Recovered: every byte equal",
        };
        output.line(format!("\n{verdict}"));
        self.lines().iter().for_each(|(name, text)| output.line(format!("  {name:<16} {text}")));
        self.print_next(output);
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let held = &self.repository;
        let [first, second] = &self.backups[..] else { return Vec::new() };
        let recovery = &self.recovery;
        let time = |seconds| size::show_time(Duration::from_secs_f64(seconds));
        let rate = |bytes, seconds| size::show_rate(bytes, Duration::from_secs_f64(seconds));
        let mut lines = vec![
            (
                "disk",
                format!(
                    "{}, of which {} data",
                    size::show(self.disk.virtual_size),
                    size::show(first.statistics.data_bytes)
                ),
            ),
            (
                "two snapshots",
                format!(
                    "{} of data in {} on each site: dedupe {}, compression {}",
                    size::show(held.data_bytes),
                    size::show(held.stored_bytes),
                    size::show_ratio(held.data_bytes, held.unique_bytes),
                    size::show_ratio(held.unique_bytes, held.stored_bytes)
                ),
            ),
            (
                "speed",
                format!(
                    "first backup {}, second {}, restore {}",
                    rate(first.statistics.read_bytes, first.seconds),
                    rate(second.statistics.read_bytes, second.seconds),
                    rate(recovery.written_bytes, recovery.restore_seconds)
                ),
            ),
            (
                "recovery point",
                format!(
                    "{} before the disaster (nothing was written after it)",
                    time(recovery.recovery_point_seconds)
                ),
            ),
            ("recovery time", format!("{} to the verified disk", time(recovery.recovery_time_seconds))),
        ];
        if let Some(seconds) = recovery.recovery_time_booted_seconds
            && let Some((_, text)) = lines.last_mut()
        {
            *text += &format!(", {} to the running machine", time(seconds));
        }
        if let Some(seconds) = self.at_once.recovery_time_seconds {
            let read = size::show(self.at_once.read_bytes);
            lines.push((
                "at once",
                format!("{} to the machine running from the repository, which read {read}", time(seconds)),
            ));
        }
        lines.push(("all of it", time(self.seconds)));
        lines
    }

    fn print_next(&self, output: &Output) {
        let program = std::env::args().next().unwrap_or_else(|| "leeward".to_owned());
        output.line("\nWith a disk of your own:");
        if !self.disk.is_given {
            output.line(format!(
                "  {program} quickstart DISK             all of this, with your disk, which is only read"
            ));
        }
        for command in [
            "export LEEWARD_REPO=/srv/leeward",
            &format!("{program} repo init"),
            &format!("{program} backup DISK web-01/root"),
            &format!("{program} export web-01/root@latest --listen unix:/run/web-01.sock"),
            &format!("{program} restore web-01/root@latest restored.qcow2 --verify"),
            &format!("{program} check --read-data"),
        ] {
            output.line(format!("  {command}"));
        }
    }
}
