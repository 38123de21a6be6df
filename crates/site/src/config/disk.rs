//! Disks that the site backs up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use leeward_disk::{Format, OpenOptions, References};
use leeward_protect::{Volume, job, size};
use leeward_repository::ImageName;
use leeward_store::RateLimit;
use serde::Deserialize;

/// The slowest limit, in bytes per second.
const RATE_MIN: u64 = 1024;

/// A disk, and the image that it is backed up to: what `leeward backup` is given.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// An image file, a block device, `nbd://…` or `rbd:POOL/IMAGE`.
    pub location: String,
    /// The image of the repository.
    pub image: ImageName,
    /// Format of the disk; found out where absent and where that is safe.
    #[serde(default)]
    pub format: Option<Format>,
    /// The directory in which files lie that the image may name.
    #[serde(default)]
    pub allow_references: Option<PathBuf>,
    /// An internal snapshot of the image file.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Tags of its snapshots.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Threads that read, hash and compress.
    #[serde(default)]
    pub threads: Option<usize>,
    /// How fast it is read at most, as `20M`.
    #[serde(default)]
    pub limit_read: Option<String>,
    /// How fast the repository is written at most.
    #[serde(default)]
    pub limit_write: Option<String>,
}

impl Disk {
    /// Paths in it are relative to a directory.
    pub(super) fn resolve(&mut self, base: &Path) {
        if !self.location.contains(':') {
            self.location = base.join(&self.location).display().to_string();
        }
        self.allow_references.iter_mut().for_each(|path| *path = base.join(&*path));
    }

    /// As a backup takes it.
    ///
    /// # Errors
    /// What makes no sense; in words.
    pub(crate) fn volume(&self) -> Result<job::Disk, String> {
        if self.location.starts_with("qmp:")
            || self.location.starts_with("libvirt:")
            || self.location.starts_with("overlay:")
        {
            return Err(format!(
                "location = {:?}: overlays are not backed up as disks, and machines are: give a [machine.NAME]",
                self.location
            ));
        }
        let references = self.allow_references.clone().map_or(References::Refuse, References::Within);
        let volume = Volume {
            source: self.location.clone(),
            image: self.image.clone(),
            options: OpenOptions {
                format: self.format,
                references,
                snapshot: self.snapshot.clone(),
                ..OpenOptions::default()
            },
            tags: self.tags.clone(),
            threads: self.threads.map(|threads| threads.max(1)),
            limit_read: rate("limit_read", self.limit_read.as_deref())?.map(RateLimit::new),
            full: false,
        };
        Ok(job::Disk { volume, limit_write: rate("limit_write", self.limit_write.as_deref())? })
    }
}

pub(super) fn rate(key: &str, text: Option<&str>) -> Result<Option<u64>, String> {
    let Some(text) = text else { return Ok(None) };
    match size::parse(text.strip_suffix("/s").unwrap_or(text)) {
        Ok(rate) if rate >= RATE_MIN => Ok(Some(rate)),
        Ok(_) => Err(format!("{key} = {text:?}: a limit has 1K/s at least")),
        Err(what) => Err(format!("{key} = {text:?}: {what}")),
    }
}

/// A name that is a part of a step's name.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    match (1..=48).contains(&name.len()) && name.bytes().all(fits) {
        true => Ok(()),
        false => Err(format!("{what} {name:?}: a name has 1 to 48 small letters, digits, '-' or '_'")),
    }
}
