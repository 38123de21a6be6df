//! Disks and file systems that stay open for a moment, because who looks into one mostly looks again.
//!
//! What all of them together may take is bounded: one cache of decoded chunks, a few disks, a few file systems, each of which
//! keeps some of its tables. What nobody has used for a minute is closed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use leeward_disk::SharedSource;
use leeward_files::{FileSystem, OpenOptions, Volumes, volumes};
use leeward_repository::{ReadOptions, Repository, SnapshotId, SnapshotReader};

use crate::Result;

/// Disks that stay open.
const DISKS_MAX: usize = 4;
/// File systems that stay open: each keeps up to 16 MiB of its tables.
const FILES_MAX: usize = 6;
/// How long what nobody uses stays open.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long the index of the repository is used before it is opened again.
const READER_AGE_MAX: Duration = Duration::from_secs(600);

/// A snapshot's disk, and what is on it.
pub(super) struct OpenDisk {
    pub volumes: Volumes,
}

/// A file system that is open.
pub(super) type SharedFiles = Arc<dyn FileSystem>;

/// Things that stay open, the last used one last.
struct Kept<K, V> {
    most: usize,
    things: VecDeque<(K, Instant, V)>,
}

impl<K: PartialEq, V: Clone> Kept<K, V> {
    fn new(most: usize) -> Self {
        Self { most, things: VecDeque::new() }
    }

    fn get(&mut self, key: &K) -> Option<V> {
        let place = self.things.iter().position(|(other, ..)| other == key)?;
        let (key, _, value) = self.things.remove(place)?;
        self.things.push_back((key, Instant::now(), value.clone()));
        Some(value)
    }

    /// Keeps a thing; one that is there already is better. Returns the one to use, and what has to go.
    fn put(&mut self, key: K, value: V) -> (V, Option<V>) {
        if let Some(found) = self.get(&key) {
            return (found, Some(value));
        }
        self.things.push_back((key, Instant::now(), value.clone()));
        let over = (self.things.len() > self.most).then(|| self.things.pop_front()).flatten();
        (value, over.map(|(_, _, value)| value))
    }

    fn take_idle(&mut self, idle: Duration) -> Vec<V> {
        let mut gone = Vec::new();
        while self.things.front().is_some_and(|(_, used, _)| used.elapsed() >= idle) {
            gone.extend(self.things.pop_front().map(|(_, _, value)| value));
        }
        gone
    }
}

struct Open {
    reader: Option<(Instant, SnapshotReader)>,
    disks: Kept<SnapshotId, Arc<OpenDisk>>,
    files: Kept<(SnapshotId, usize), SharedFiles>,
}

/// What is open. Things are opened and closed outside of its lock: both may wait for the store.
pub(super) struct Shelf(Mutex<Open>);

impl Default for Shelf {
    fn default() -> Self {
        Self(Mutex::new(Open { reader: None, disks: Kept::new(DISKS_MAX), files: Kept::new(FILES_MAX) }))
    }
}

impl Shelf {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader(&self, repository: &Repository) -> Result<SnapshotReader> {
        if let Some((_, reader)) = self.open().reader.as_ref().filter(|(at, _)| at.elapsed() < READER_AGE_MAX)
        {
            return Ok(reader.clone());
        }
        let options =
            ReadOptions { cache_bytes: 64 << 20, read_ahead_bytes: 4 << 20, threads: 2, spill: None };
        let reader = repository.reader(options)?;
        let old = self.open().reader.replace((Instant::now(), reader.clone()));
        drop(old);
        Ok(reader)
    }

    /// The disk of a snapshot.
    pub fn disk(&self, repository: &Repository, id: SnapshotId) -> Result<Arc<OpenDisk>> {
        let found = self.open().disks.get(&id);
        if let Some(found) = found {
            return Ok(found);
        }
        let source: SharedSource = Arc::new(self.reader(repository)?.source(id)?);
        let disk = Arc::new(OpenDisk { volumes: volumes(&source)? });
        let (disk, over) = self.open().disks.put(id, disk);
        drop(over);
        Ok(disk)
    }

    /// The file system of a volume, by its place among the disk's.
    pub fn files(&self, id: SnapshotId, disk: &OpenDisk, number: usize) -> Result<Option<SharedFiles>> {
        let found = self.open().files.get(&(id, number));
        if let Some(found) = found {
            return Ok(Some(found));
        }
        let Some(volume) = disk.volumes.volumes.get(number) else { return Ok(None) };
        let files: SharedFiles = volume.open(OpenOptions::default())?.into();
        let (files, over) = self.open().files.put((id, number), files);
        drop(over);
        Ok(Some(files))
    }

    /// Closes what nobody has used for a while.
    pub fn close_idle(&self) {
        let (disks, files, reader) = {
            let mut open = self.open();
            let (disks, files) = (open.disks.take_idle(IDLE_MAX), open.files.take_idle(IDLE_MAX));
            let is_empty = open.disks.things.is_empty() && open.files.things.is_empty();
            let is_old = open.reader.as_ref().is_some_and(|(at, _)| at.elapsed() >= IDLE_MAX);
            (disks, files, if is_empty && is_old { open.reader.take() } else { None })
        };
        drop((disks, files, reader));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_what_is_too_much_or_idle_goes() {
        let mut kept = Kept::new(2);
        assert_eq!(kept.put('a', 1), (1, None));
        assert_eq!(kept.put('b', 2), (2, None));
        assert_eq!(kept.put('a', 7), (1, Some(7)), "the one that is open already is used");
        assert_eq!(kept.put('c', 3), (3, Some(2)), "the one that was not used for longest goes");
        assert_eq!((kept.get(&'b'), kept.get(&'a')), (None, Some(1)));
        assert_eq!(kept.take_idle(Duration::from_secs(3600)), [0; 0]);
        assert_eq!(kept.take_idle(Duration::ZERO), [3, 1]);
    }
}
