//! Decoded chunks that had to leave memory, in a file that has no name and ends with the process.
//!
//! What comes back from it is compared with its name like anything else, so the file needs no care: a slot that is written
//! anew while it is read, or a disk that lies, costs a chunk that is decoded again. Slots are used in a circle: the chunk
//! that was put away first is overwritten first.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::id::{BlobId, IdKeys};
use crate::writer::lock;
use crate::{Error, Result};

/// Where decoded chunks go that memory has no room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpillOptions {
    /// A directory on a local disk. The file has no name there, and its space is free again when the reader has gone.
    pub directory: PathBuf,
    /// Bytes that the file takes at most; it grows as it is used.
    pub bytes: u64,
}

#[derive(Default)]
struct Slots {
    places: HashMap<BlobId, u32>,
    /// What is in each slot that was used.
    names: Vec<Option<BlobId>>,
    next: u32,
}

impl Slots {
    /// Takes the next slot, whose chunk is forgotten.
    fn take(&mut self, slots_max: u32) -> u32 {
        let slot = self.next;
        self.next = (slot + 1) % slots_max;
        match self.names.get_mut(slot as usize) {
            None => self.names.push(None),
            Some(name) => {
                if let Some(id) = name.take()
                    && self.places.get(&id) == Some(&slot)
                {
                    self.places.remove(&id);
                }
            }
        }
        slot
    }
}

/// The file and what is where in it.
pub(super) struct Spill {
    file: File,
    chunk_bytes: usize,
    slots_max: u32,
    slots: Mutex<Slots>,
    /// The disk is full or broken: nothing is put there any more.
    is_closed: AtomicBool,
}

impl Spill {
    /// Makes the file.
    pub(super) fn create(options: &SpillOptions, chunk_bytes: usize) -> Result<Self> {
        let file = tempfile::tempfile_in(&options.directory).map_err(|error| {
            let place = options.directory.display();
            Error::Invalid(format!("no file for decoded chunks can be made in {place}: {error}"))
        })?;
        let slots_max = u32::try_from(options.bytes / chunk_bytes as u64).unwrap_or(u32::MAX).max(1);
        Ok(Self { file, chunk_bytes, slots_max, slots: Mutex::default(), is_closed: AtomicBool::new(false) })
    }

    fn offset(&self, slot: u32) -> u64 {
        u64::from(slot) * self.chunk_bytes as u64
    }

    /// Whether a chunk of this name was put there.
    pub(super) fn contains(&self, id: &BlobId) -> bool {
        lock(&self.slots).places.contains_key(id)
    }

    /// Puts a chunk there, unless it is there. That it cannot be put costs only time.
    pub(super) fn put(&self, id: BlobId, bytes: &[u8]) {
        if bytes.len() != self.chunk_bytes || self.is_closed.load(Ordering::Relaxed) {
            return;
        }
        let slot = {
            let mut slots = lock(&self.slots);
            if slots.places.contains_key(&id) {
                return;
            }
            slots.take(self.slots_max)
        };
        if self.file.write_all_at(bytes, self.offset(slot)).is_err() {
            self.is_closed.store(true, Ordering::Relaxed);
            return;
        }
        let mut slots = lock(&self.slots);
        if let Some(name) = slots.names.get_mut(slot as usize) {
            *name = Some(id);
            slots.places.insert(id, slot);
        }
    }

    /// The chunk of this name, compared with it.
    pub(super) fn get(&self, id: &BlobId, keys: &IdKeys) -> Option<Vec<u8>> {
        let slot = *lock(&self.slots).places.get(id)?;
        let mut bytes = vec![0; self.chunk_bytes];
        let is_read = self.file.read_exact_at(&mut bytes, self.offset(slot)).is_ok();
        if is_read && keys.chunk(&bytes) == *id {
            return Some(bytes);
        }
        let mut slots = lock(&self.slots);
        if slots.places.get(id) == Some(&slot) {
            slots.places.remove(id);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 4096;

    fn spill(chunks: u64) -> (Spill, IdKeys, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let options = SpillOptions { directory: directory.path().to_owned(), bytes: chunks * SIZE as u64 };
        (Spill::create(&options, SIZE).unwrap(), IdKeys::new(&[0; 32]), directory)
    }

    fn chunk(keys: &IdKeys, number: u8) -> (BlobId, Vec<u8>) {
        let bytes = vec![number; SIZE];
        (keys.chunk(&bytes), bytes)
    }

    #[test]
    fn it_has_the_last_chunks_and_never_grows_beyond_its_size() {
        let (spill, keys, directory) = spill(10);
        for number in 0..95 {
            let (id, bytes) = chunk(&keys, number);
            spill.put(id, &bytes);
            spill.put(id, &bytes);
        }
        for number in 0..95 {
            let (id, bytes) = chunk(&keys, number);
            assert_eq!(spill.get(&id, &keys), (number >= 85).then_some(bytes), "{number}");
        }
        assert_eq!(lock(&spill.slots).places.len(), 10);
        assert_eq!(spill.file.metadata().unwrap().len(), 10 * SIZE as u64);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "the file has no name");
    }

    #[test]
    fn what_was_changed_on_the_disk_is_not_handed_out() {
        let (spill, keys, _directory) = spill(4);
        let (id, bytes) = chunk(&keys, 7);
        spill.put(id, &bytes);
        spill.file.write_all_at(&[8], 100).unwrap();
        assert_eq!(spill.get(&id, &keys), None);
        assert!(!spill.contains(&id));
        spill.put(id, &bytes);
        assert_eq!(spill.get(&id, &keys), Some(bytes));
        spill.file.set_len(0).unwrap();
        assert_eq!(spill.get(&id, &keys), None, "and a file that was cut off has nothing");
    }

    #[test]
    fn many_threads_get_what_they_put_or_nothing() {
        let (spill, keys, _directory) = spill(3);
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let (spill, keys) = (&spill, &keys);
                scope.spawn(move || {
                    for round in 0..200_u8 {
                        let (id, bytes) = chunk(keys, round % 8 + thread % 2);
                        spill.put(id, &bytes);
                        assert!(spill.get(&id, keys).is_none_or(|found| found == bytes));
                    }
                });
            }
        });
    }
}
