//! Index runs, compared with their names and with the packs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::id::{PackId, RunId};
use crate::index::{Entry, Index, Run};
use crate::pack::Directory;
use crate::repository::{INDEX, pack_key, run_key};
use crate::{Error, Result};

use super::{Check, FROM_A_COPY, HARMLESS, PackDamage, REBUILD};

impl Check<'_> {
    /// Opens and checks the index runs; those that are sound are returned.
    pub(super) fn runs(&mut self) -> Result<Vec<Arc<Run>>> {
        let store = self.repository.store();
        let mut runs = Vec::new();
        for entry in store.list(INDEX)? {
            self.stop_when_cancelled()?;
            let Ok(id) = entry.key.name().parse::<RunId>() else {
                self.find(entry.key.as_str(), "its name is not a digest", HARMLESS);
                continue;
            };
            let object = match store.open(&run_key(id)?) {
                Ok(object) => object,
                Err(error) if error.kind() == leeward_store::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            match Run::open(id, object, store.name()).and_then(|run| Ok((run.verify()?, run))) {
                Ok((true, run)) => runs.push(Arc::new(run)),
                Ok((false, _)) => {
                    self.find(entry.key.as_str(), "its content does not match its name", REBUILD);
                    self.damage.index = true;
                }
                Err(Error::Damaged { key, what, .. }) => {
                    self.find(key, what, REBUILD);
                    self.damage.index = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(runs)
    }

    /// Every blob of a pack must be in the index.
    pub(super) fn indexed(
        &mut self,
        pack: PackId,
        directory: &Directory,
        index: &Index,
        known: bool,
    ) -> Result<()> {
        if !known {
            // Left by a writer that died, or being written right now: the next backup takes it into the index.
            return Ok(());
        }
        for frame in &directory.frames {
            for blob in &frame.blobs {
                let mut found = false;
                for run in index.runs() {
                    run.find(blob, |_, location| found |= location.pack == pack)?;
                }
                if !found {
                    self.find(
                        format!("packs/{pack}"),
                        format!("the index lacks its {} {blob}", directory.kind.name()),
                        REBUILD,
                    );
                    self.damage.index = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Every entry of the index must point to a frame.
    pub(super) fn entries(&mut self, index: &Index, frames: &HashMap<PackId, Vec<(u32, u32)>>) -> Result<()> {
        let mut missing: BTreeMap<PackId, usize> = BTreeMap::new();
        let unreadable: HashSet<PackId> = self.damage.packs.keys().copied().collect();
        for run in index.runs() {
            let mut wrong: Option<Entry> = None;
            run.scan::<Error>(|_, entry| {
                let pack = entry.location.pack;
                match frames.get(&pack) {
                    None if unreadable.contains(&pack) => {}
                    None => *missing.entry(pack).or_default() += 1,
                    Some(frames) => {
                        if frames.binary_search(&(entry.location.offset, entry.location.length)).is_err() {
                            wrong = Some(entry);
                        }
                    }
                }
                Ok(())
            })?;
            if let Some(entry) = wrong {
                let what =
                    format!("its entry for {} points to no frame of pack {}", entry.id, entry.location.pack);
                self.find(format!("index/{}", run.id), what, REBUILD);
                self.damage.index = true;
            }
        }
        for (pack, count) in missing {
            // It may have been written after the packs were listed.
            if self.repository.store().open(&pack_key(pack)?).is_ok() {
                continue;
            }
            let number = self.find(
                format!("packs/{pack}"),
                format!("it is missing; the index has {count} blobs in it"),
                FROM_A_COPY,
            );
            self.missing.push(number);
            self.damage.packs.insert(pack, PackDamage::Missing);
            self.blame_pack(pack, number, index)?;
        }
        Ok(())
    }

    /// Notes that the blobs of a pack cannot be had from it.
    pub(super) fn blame_pack(&mut self, pack: PackId, number: usize, index: &Index) -> Result<()> {
        let mut blobs = Vec::new();
        for run in index.runs() {
            run.scan::<Error>(|_, entry| {
                if entry.location.pack == pack {
                    blobs.push(entry.id);
                }
                Ok(())
            })?;
        }
        for blob in blobs {
            self.bad.entry(blob).or_default().push((pack, number));
        }
        Ok(())
    }
}
