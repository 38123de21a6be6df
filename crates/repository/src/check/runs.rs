//! Index runs, compared with their names and with the packs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::id::{BlobId, PackId, RunId};
use crate::index::{Entry, Index, Run, visit_sorted};
use crate::pack::Directory;
use crate::repository::{INDEX, pack_key, run_key};
use crate::{Error, Result};

use super::{Check, FROM_A_COPY, HARMLESS, PackDamage, REBUILD};

/// What the directory of a pack says.
pub(super) struct Listed {
    /// Offset and length of its frames, in order.
    frames: Vec<(u32, u32)>,
    /// The sum of its blobs' names, less those of its entries: zero when the index has each of them. To look up one name after
    /// the other would read the index all over. That names are made to add up need not be feared: whatever a
    /// snapshot needs is looked up by itself.
    blobs: u128,
    /// Whether the index knows the pack. One that it does not was left by a writer that died, or is being written right now:
    /// the next backup takes it into the index.
    is_known: bool,
}

impl Listed {
    pub(super) fn new(directory: &Directory, is_known: bool) -> Self {
        let frames = directory.frames.iter().map(|frame| (frame.offset, frame.length)).collect();
        let mut names: Vec<&BlobId> = directory.frames.iter().flat_map(|frame| &frame.blobs).collect();
        names.sort_unstable();
        names.dedup();
        let blobs = names.into_iter().fold(0_u128, |sum, id| sum.wrapping_add(part_of(id)));
        Self { frames, blobs, is_known }
    }
}

/// A part of a name as a number.
fn part_of(id: &BlobId) -> u128 {
    id.0.last_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes))
}

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
    fn indexed(&mut self, pack: PackId, directory: &Directory, index: &Index) -> Result<()> {
        for frame in &directory.frames {
            for blob in &frame.blobs {
                if !index.speaks_of_in(blob, &pack)? {
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

    /// Every entry of the index must point to a frame, and every blob of a pack that the index knows must have an entry.
    pub(super) fn entries(&mut self, index: &Index, packs: &mut HashMap<PackId, Listed>) -> Result<()> {
        let mut missing: BTreeMap<PackId, usize> = BTreeMap::new();
        let unreadable: HashSet<PackId> = self.damage.packs.keys().copied().collect();
        let mut wrong: BTreeMap<usize, Entry> = BTreeMap::new();
        let mut last = None;
        visit_sorted(index.runs(), |entry, (run, _)| {
            let pack = entry.location.pack;
            match packs.get_mut(&pack) {
                None if unreadable.contains(&pack) => {}
                None => *missing.entry(pack).or_default() += 1,
                Some(listed) => {
                    if listed.frames.binary_search(&(entry.location.offset, entry.location.length)).is_err() {
                        wrong.insert(run, entry);
                    }
                    // What several runs have counts once.
                    if last != Some(entry) {
                        listed.blobs = listed.blobs.wrapping_sub(part_of(&entry.id));
                    }
                }
            }
            last = Some(entry);
            Ok(())
        })?;
        self.uncounted(index, packs)?;
        for (number, run) in index.runs().iter().enumerate() {
            if let Some(entry) = wrong.get(&number) {
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
            self.missing.insert(number);
            self.damage.packs.insert(pack, PackDamage::Missing);
            self.lost_packs.insert(pack, number);
        }
        Ok(())
    }

    /// Looks into packs whose blobs and entries do not add up.
    fn uncounted(&mut self, index: &Index, packs: &HashMap<PackId, Listed>) -> Result<()> {
        let mut uncounted: Vec<PackId> = packs
            .iter()
            .filter(|(_, listed)| listed.is_known && listed.blobs != 0)
            .map(|(pack, _)| *pack)
            .collect();
        uncounted.sort_unstable();
        for pack in uncounted {
            match self.repository.pack_directory(pack) {
                Ok(directory) => self.indexed(pack, &directory, index)?,
                // Told when it was read first, or gone since.
                Err(Error::Damaged { .. }) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Notes which blobs cannot be had from packs that are lost: one pass over the index for all of them.
    pub(super) fn blame_packs(&mut self, index: &Index) -> Result<()> {
        if self.lost_packs.is_empty() {
            return Ok(());
        }
        for run in index.runs() {
            run.scan::<Error>(|_, entry| {
                if let Some(number) = self.lost_packs.get(&entry.location.pack) {
                    self.bad.entry(entry.id).or_default().push((entry.location.pack, *number));
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
