//! Tags, holds, forgetting, comparing, and making the index anew.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::backup::Control;
use crate::blobs::Blobs;
use crate::id::{PackId, RunId, SnapshotId};
use crate::image::{Forgetting, Hold, ImageName, ImageRef, SnapshotEntry, SnapshotSpec};
use crate::index::{Entry, Run, run};
use crate::repository::{INDEX, PACKS, Repository, UNREADABLE};
use crate::session::{SESSIONS, Session};
use crate::snapshot::Snapshot;
use crate::walk::{Difference, diff};
use crate::{Error, Result};

/// What making the index anew came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RebuildOutcome {
    /// Packs whose directories were read.
    pub packs: usize,
    /// Blobs that the new index has.
    pub blobs: u64,
    /// Packs that could not be read, or not all of them, with the reason.
    pub unreadable: Vec<(String, String)>,
}

impl Repository {
    fn change_entry(
        &self,
        image: &ImageName,
        id: SnapshotId,
        mut change: impl FnMut(&mut crate::SnapshotEntry) -> Result<bool>,
    ) -> Result<ImageRef> {
        self.change_ref(image, false, |image_ref| match image_ref.entry_mut(id) {
            Some(entry) => change(entry),
            None => Err(Error::NoSnapshot { image: image.to_string(), wanted: id.short() }),
        })
    }

    /// Sets and removes tags of a snapshot.
    ///
    /// # Errors
    /// There is no such snapshot, or the store fails.
    pub fn tag(
        &self,
        image: &ImageName,
        id: SnapshotId,
        set: &BTreeMap<String, String>,
        remove: &[String],
    ) -> Result<ImageRef> {
        self.change_entry(image, id, |entry| {
            let before = entry.tags.clone();
            entry.tags.extend(set.clone());
            entry.tags.retain(|name, _| !remove.contains(name));
            Ok(entry.tags != before)
        })
    }

    /// Adds a hold: the snapshot is not forgotten until the hold is released.
    ///
    /// # Errors
    /// There is no such snapshot, it has a hold of that name, or the store fails.
    pub fn hold(&self, image: &ImageName, id: SnapshotId, name: &str, reason: &str) -> Result<ImageRef> {
        let hold = Hold { name: name.to_owned(), reason: reason.to_owned(), created: self.now().to_string() };
        self.change_entry(image, id, |entry| {
            if entry.holds.iter().any(|other| other.name == name) {
                return Err(Error::Invalid(format!(
                    "snapshot {} of {image} has a hold {name:?} already",
                    id.short()
                )));
            }
            entry.holds.push(hold.clone());
            Ok(true)
        })
    }

    /// Releases a hold.
    ///
    /// # Errors
    /// There is no such snapshot or hold, or the store fails.
    pub fn release(&self, image: &ImageName, id: SnapshotId, name: &str) -> Result<ImageRef> {
        self.change_entry(image, id, |entry| {
            let before = entry.holds.len();
            entry.holds.retain(|hold| hold.name != name);
            if entry.holds.len() == before {
                return Err(Error::Invalid(format!(
                    "snapshot {} of {image} has no hold {name:?}",
                    id.short()
                )));
            }
            Ok(true)
        })
    }

    /// Forgets snapshots: they are out of sight, and [`Repository::undelete`] brings them back until a collection lets
    /// them go, see [`crate::CollectOptions::window`].
    ///
    /// # Errors
    /// One of them is held or not there (then none is forgotten), or the store fails.
    pub fn forget(&self, image: &ImageName, ids: &[SnapshotId]) -> Result<ImageRef> {
        // What a dead writer had published must be in the ref before, or it could come back afterwards.
        self.complete_sessions()?;
        // A session whose removal a crash undid would bring its snapshot back as well.
        self.store().settle(SESSIONS)?;
        let forgetting = Forgetting { at: self.now(), by: self.process().host.clone() };
        self.change_ref(image, false, |image_ref| {
            for id in ids {
                let entry = image_ref
                    .entry(*id)
                    .ok_or_else(|| Error::NoSnapshot { image: image.to_string(), wanted: id.short() })?;
                if let Some(hold) = entry.holds.first() {
                    return Err(Error::Held {
                        image: image.to_string(),
                        snapshot: *id,
                        reason: format!("{}: {}", hold.name, hold.reason),
                    });
                }
            }
            Ok(image_ref.forget(ids, &forgetting))
        })
    }

    /// The forgotten snapshot that a reference means: `IMAGE` is the one that was forgotten last.
    ///
    /// # Errors
    /// There is no such image or forgotten snapshot, several match, or the store fails.
    pub fn resolve_forgotten(&self, spec: &SnapshotSpec) -> Result<SnapshotEntry> {
        spec.which.resolve(&self.image(&spec.image)?.of_forgotten()).cloned()
    }

    /// Brings a forgotten snapshot back. When this returns, it is kept as it was before.
    ///
    /// # Errors
    /// It is not there: it was never forgotten, or a collection has let it go; or the store fails.
    pub fn undelete(&self, image: &ImageName, id: SnapshotId) -> Result<ImageRef> {
        self.change_ref(image, false, |image_ref| {
            // Asked again after each lost comparison: a collection may have been faster.
            if image_ref.undelete(id) {
                return Ok(true);
            }
            Err(Error::NoSnapshot {
                image: image.to_string(),
                wanted: format!("{} among the forgotten", id.short()),
            })
        })
    }

    /// Finds where two snapshots differ, through their trees, without reading data.
    ///
    /// # Errors
    /// A tree is damaged, or the store fails.
    pub fn diff(&self, a: &Snapshot, b: &Snapshot, mut visit: impl FnMut(Difference)) -> Result<()> {
        if !a.is_comparable(b) {
            return Err(Error::Invalid("the snapshots were cut into chunks of different sizes".to_owned()));
        }
        let blobs = Blobs::open(self)?;
        diff(&blobs, a, b, &mut |difference| {
            visit(difference);
            Ok(())
        })
    }

    /// Makes the index anew from the packs alone. Safe while backups run: the new runs are there before the old ones
    /// go, and runs that others write meanwhile stay.
    ///
    /// # Errors
    /// The store fails, or the work is cancelled; then the old index stands, perhaps beside some new runs.
    pub fn rebuild_index(&self, control: &dyn Control) -> Result<RebuildOutcome> {
        // The session keeps collections from deleting packs that are being read.
        let session = Session::begin(self, "rebuild of the index".to_owned())?;
        let rebuilt = self.rebuild_in_session(control);
        let ended = session.end(self);
        let outcome = rebuilt?;
        ended?;
        Ok(outcome)
    }

    fn rebuild_in_session(&self, control: &dyn Control) -> Result<RebuildOutcome> {
        self.delete_damaged_runs()?;
        let old = self.store().list(INDEX)?;
        let mut outcome = RebuildOutcome::default();
        let mut kept = HashSet::new();
        let mut entries: Vec<Entry> = Vec::new();
        let mut put = |entries: &mut Vec<Entry>| -> Result<()> {
            entries.sort_unstable();
            entries.dedup();
            for part in entries.chunks(run::RUN_ENTRIES_MAX) {
                kept.insert(self.put_run(part)?.id);
            }
            entries.clear();
            Ok(())
        };
        for listed in self.store().list(PACKS)? {
            if control.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let Ok(pack) = listed.key.name().parse::<PackId>() else { continue };
            match self.pack_entries(pack) {
                Ok((found, flaws)) => {
                    outcome.packs += 1;
                    outcome.blobs += found.len() as u64;
                    entries.extend(found);
                    let key = listed.key.as_str();
                    outcome.unreadable.extend(flaws.into_iter().map(|what| (key.to_owned(), what)));
                }
                Err(Error::Damaged { key, what, .. }) => outcome.unreadable.push((key, what)),
                // The medium cannot read it.
                Err(error) if error.kind() == crate::ErrorKind::Damaged => {
                    outcome.unreadable.push((listed.key.to_string(), format!("{UNREADABLE}: {error}")));
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
            control.advance(listed.size);
            if entries.len() >= run::RUN_ENTRIES_MAX {
                put(&mut entries)?;
            }
        }
        put(&mut entries)?;
        self.store().settle(INDEX)?;
        for run in old {
            // A run whose name is no digest, or that is damaged, goes as well: it serves nobody.
            if !run.key.name().parse().is_ok_and(|id| kept.contains(&id)) {
                self.store().delete(&run.key)?;
            }
        }
        // Many overlapping runs into few.
        self.merge_runs(&HashSet::new())?;
        Ok(outcome)
    }

    /// Deletes runs that do not match their names. A sound run with the same entries has the same name, and could not be
    /// stored while a damaged one stands there.
    fn delete_damaged_runs(&self) -> Result<()> {
        for listed in self.store().list(INDEX)? {
            let Ok(id) = listed.key.name().parse::<RunId>() else { continue };
            let opened = self.store().open(&listed.key).map_err(Error::from);
            let verified = opened.and_then(|object| Run::open(id, object, self.location())?.verify());
            match verified {
                Ok(true) => {}
                Ok(false) | Err(Error::Damaged { .. }) => drop(self.store().delete(&listed.key)?),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Bytes of all packs, for progress.
    ///
    /// # Errors
    /// The store fails.
    pub fn pack_bytes(&self) -> Result<u64> {
        Ok(self.store().list(PACKS)?.iter().map(|entry| entry.size).sum())
    }
}
