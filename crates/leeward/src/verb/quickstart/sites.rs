//! Two sites: a repository each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use leeward_disk::{Source, default_threads};
use leeward_repository::{
    BackupOptions, BackupOutcome, Consistency, ImageName, InitOptions, Repository, Snapshot, SourceRecord,
    host_name,
};

use super::workspace::Workspace;
use crate::failure::Failure;
use crate::output::Output;
use crate::verb::repository::{Watch, init};

/// The image of the demonstration.
pub const IMAGE: &str = "quickstart/disk";

/// A site with its repository.
pub struct Site {
    /// Its name, and that of the repository's folder.
    pub name: &'static str,
    /// Its repository.
    pub repository: Repository,
}

impl Site {
    /// A new site with an empty repository.
    pub fn new(name: &'static str, workspace: &Workspace) -> Result<Self, Failure> {
        Ok(Self {
            name,
            repository: init(&workspace.join(name).display().to_string(), &InitOptions::default())?,
        })
    }

    /// Backs a disk up.
    pub fn backup(
        &self,
        source: &dyn Source,
        record: SourceRecord,
        label: &str,
        output: &Output,
    ) -> Result<(BackupOutcome, Duration), Failure> {
        let options = BackupOptions {
            image: image()?,
            source: record,
            consistency: Consistency::AtRest,
            tags: BTreeMap::new(),
            threads: default_threads(),
        };
        let watch = Watch::new(output, source.virtual_size(), label);
        let started = Instant::now();
        let outcome = self.repository.backup(source, &options, &watch);
        watch.finish();
        Ok((outcome?, started.elapsed()))
    }

    /// The snapshots of the image, oldest first.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, Failure> {
        let entries = self.repository.image(&image()?)?.snapshots;
        entries.iter().map(|entry| Ok(self.repository.snapshot(entry.id)?)).collect()
    }

    /// Copies every snapshot from another site, oldest first. Until sites push to each other this is a backup of the
    /// other site's snapshots, each read as a disk: the same chunks get the same names, so the trees come out alike.
    pub fn copy_from(&self, other: &Self, output: &Output) -> Result<u64, Failure> {
        let mut stored_bytes = 0;
        for entry in other.repository.image(&image()?)?.snapshots {
            let source = other.repository.source(entry.id)?;
            let record = SourceRecord {
                location: format!("{IMAGE}@{} at {}", entry.id.short(), other.name),
                format: source.snapshot().source.format.clone(),
                host: host_name(),
            };
            let (copied, _) = self.backup(&source, record, "copy to west", output)?;
            stored_bytes += copied.snapshot.statistics.stored_bytes;
        }
        Ok(stored_bytes)
    }
}

fn image() -> Result<ImageName, Failure> {
    Ok(IMAGE.parse::<ImageName>()?)
}
