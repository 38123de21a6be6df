//! Machines that the site backs up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use leeward_cloud::qemu::{GuardianProgram, Wanted};
use leeward_protect::{CaptureSettings, FREEZE_LIMIT, MachineBackup, MachinePlace, job, size};
use leeward_repository::ImageName;
use leeward_store::RateLimit;
use serde::Deserialize;

use super::disk::rate;

/// For how long a guest's file systems may be frozen, in seconds, as `leeward backup` has it.
const FREEZE_SECONDS: std::ops::RangeInclusive<u64> = 1..=600;

/// A machine, and what the names of its disks' images begin with: what `leeward backup` is given.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// `qmp:SOCKET` or `libvirt:DOMAIN`, with the disks that are meant, all where none are named.
    pub location: String,
    /// Its disks become `IMAGE/DISK`.
    pub image: ImageName,
    /// How far the content has to agree with itself.
    #[serde(default)]
    pub consistency: MachineConsistency,
    /// Socket of the guest's agent; the machine is asked where absent.
    #[serde(default)]
    pub agent: Option<PathBuf>,
    /// How long the guest's file systems may be frozen.
    #[serde(default)]
    pub freeze_seconds: Option<u64>,
    /// Where to keep what the guest overwrites during a backup.
    #[serde(default)]
    pub overlay_dir: Option<PathBuf>,
    /// How much of it to keep for each disk, as `10G`.
    #[serde(default)]
    pub overlay_max: Option<String>,
    /// The directory in which files lie that images of a domain that is shut off may name.
    #[serde(default)]
    pub allow_references: Option<PathBuf>,
    /// Tags of its snapshots.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Threads that read, hash and compress.
    #[serde(default)]
    pub threads: Option<usize>,
    /// How fast its disks are read at most, all together, as `20M`.
    #[serde(default)]
    pub limit_read: Option<String>,
    /// How fast the repository is written at most.
    #[serde(default)]
    pub limit_write: Option<String>,
}

/// How far the content has to agree with itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineConsistency {
    /// File systems at rest where the guest's agent answers, or else as after a power cut.
    #[default]
    Auto,
    /// As after a power cut; the guest is not asked.
    Crash,
    /// File systems at rest, or no backup.
    Filesystem,
}

impl Machine {
    /// Paths in it are relative to a directory.
    pub(super) fn resolve(&mut self, base: &Path) {
        for path in [&mut self.agent, &mut self.overlay_dir, &mut self.allow_references] {
            path.iter_mut().for_each(|path| *path = base.join(&*path));
        }
    }

    /// As a backup takes it.
    ///
    /// # Errors
    /// What makes no sense; in words.
    pub(crate) fn backup(&self) -> Result<job::Machine, String> {
        let place = MachinePlace::parse(&self.location).ok_or_else(|| {
            format!("location = {:?}: give a machine as qmp:SOCKET or libvirt:DOMAIN", self.location)
        })?;
        let place = place.map_err(|error| format!("location = {:?}: {error}", self.location))?;
        if let MachinePlace::Socket { socket, .. } = &place
            && !socket.is_absolute()
        {
            return Err(format!("location = {:?}: give the socket's whole path", self.location));
        }
        if self.freeze_seconds.is_some_and(|seconds| !FREEZE_SECONDS.contains(&seconds)) {
            return Err("freeze_seconds is from 1 to 600".to_owned());
        }
        let overlay_bytes_max = self.overlay_max.as_deref().map(size::parse).transpose();
        let capture = CaptureSettings {
            consistency: match self.consistency {
                MachineConsistency::Auto => Wanted::Auto,
                MachineConsistency::Crash => Wanted::Crash,
                MachineConsistency::Filesystem => Wanted::Filesystem,
            },
            agent: self.agent.clone(),
            // This very program, also if its file was replaced since the daemon was started.
            guardian: Some(GuardianProgram {
                program: "/proc/self/exe".into(),
                arguments: vec!["thaw-orphan".into()],
            }),
            freeze_limit: self.freeze_seconds.map_or(FREEZE_LIMIT, Duration::from_secs),
            overlay_directory: self.overlay_dir.clone(),
            overlay_bytes_max: overlay_bytes_max.map_err(|what| format!("overlay_max: {what}"))?,
        };
        let backup = MachineBackup {
            place,
            image: self.image.clone(),
            full: false,
            capture,
            // What another one has left may be at work; a person decides.
            take_over: false,
            allow_references: self.allow_references.clone(),
            tags: self.tags.clone(),
            threads: self.threads.map(|threads| threads.max(1)),
            limit_read: rate("limit_read", self.limit_read.as_deref())?.map(RateLimit::new),
        };
        Ok(job::Machine { backup, limit_write: rate("limit_write", self.limit_write.as_deref())? })
    }
}
