//! What one repository has forgotten and another still keeps a copy of.
//!
//! Only copies count that came from that very repository, as their entries say: what was backed up at the target, or came
//! to it from elsewhere, was never the source's to forget. Where the source has no ref of an image, or an empty one, it
//! may have been lost or rolled back as well as forgotten; then nothing is proposed.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Result;
use crate::id::SnapshotId;
use crate::image::ImageName;
use crate::repository::Repository;

use super::select::published;

/// A copy of a snapshot that the source has forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stale {
    /// Its image.
    pub image: ImageName,
    /// Its name at the target.
    pub snapshot: SnapshotId,
    /// Why it must stay: the reason of a hold on it, or that the source has none left of its image.
    pub kept_because: Option<String>,
}

/// What a target keeps that the source does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extra {
    /// Copies that came from the source, which has forgotten them.
    pub stale: Vec<Stale>,
    /// Copies, of images that the source has, that came from other repositories: how many, by the identity of the
    /// repository. They are not the source's to forget.
    pub foreign: BTreeMap<String, u64>,
}

impl Repository {
    /// The copies at `to` of snapshots that this repository has forgotten, of the images that `is_wanted` names.
    ///
    /// # Errors
    /// A ref or session is damaged, or a store fails.
    pub fn stale_copies(&self, to: &Self, is_wanted: &dyn Fn(&ImageName) -> bool) -> Result<Vec<Stale>> {
        Ok(self.extra_at(to, is_wanted)?.stale)
    }

    /// As [`Repository::stale_copies`], with what came from elsewhere.
    ///
    /// # Errors
    /// As [`Repository::stale_copies`].
    pub fn extra_at(&self, to: &Self, is_wanted: &dyn Fn(&ImageName) -> bool) -> Result<Extra> {
        // The target first: what is forgotten here between the two looks is found the next time.
        let there = published(to, None)?;
        let here = published(self, None)?;
        let mut extra = Extra::default();
        for (image, entries) in there.into_iter().filter(|(image, _)| is_wanted(image)) {
            let kept = here.get(&image).map_or(&[][..], Vec::as_slice);
            for entry in entries {
                // What was backed up there has no origin, and is no copy.
                let Some(origin) = &entry.origin else { continue };
                if kept.iter().any(|other| other.is_same_as(&entry)) {
                    continue;
                }
                if origin.repository != self.config().repository_id {
                    if !kept.is_empty() {
                        *extra.foreign.entry(origin.repository.clone()).or_default() += 1;
                    }
                    continue;
                }
                let hold = entry.holds.first().map(|hold| format!("held ({}: {})", hold.name, hold.reason));
                let kept_because = match kept {
                    [] => Some(format!("{} has no snapshot of the image left", self.location())),
                    _ => hold,
                };
                extra.stale.push(Stale { image: image.clone(), snapshot: entry.id, kept_because });
            }
        }
        Ok(extra)
    }

    /// Forgets copies that nothing keeps; returns those. Their data stays until a collection.
    ///
    /// # Errors
    /// One of them is held since, or not there any more, or the store fails; then the copies of other images may be
    /// forgotten already.
    pub fn forget_stale(&self, stale: &[Stale]) -> Result<Vec<Stale>> {
        let forgotten: Vec<Stale> =
            stale.iter().filter(|copy| copy.kept_because.is_none()).cloned().collect();
        for part in forgotten.chunk_by(|a, b| a.image == b.image) {
            if let Some(first) = part.first() {
                let ids: Vec<SnapshotId> = part.iter().map(|copy| copy.snapshot).collect();
                self.forget(&first.image, &ids)?;
            }
        }
        Ok(forgotten)
    }
}
