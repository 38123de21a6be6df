//! Locks where an object is a chain: all parts of it that are there are locked, and its lock is as
//! long as the shortest and as strict as the mildest of theirs. Parts that come later, with the next change, have none until somebody locks the object again.

use std::time::SystemTime;

use super::{VersionedStore, name};
use crate::lock::unsupported;
use crate::{Key, Lock, Locks, Result};

impl VersionedStore {
    fn service_locks(&self) -> Result<&dyn Locks> {
        self.plain.locks().ok_or_else(|| unsupported(self.plain.name()))
    }

    /// The parts of the chain of an object.
    fn parts(&self, key: &Key) -> Result<Vec<Key>> {
        let listed = self.again(|| self.plain.list(&name::folder(key)))?;
        let parts: Vec<Key> =
            listed.into_iter().map(|entry| entry.key).filter(|part| name::parse(part).is_some()).collect();
        if parts.is_empty() { Err(self.not_found(key)) } else { Ok(parts) }
    }
}

impl Locks for VersionedStore {
    fn lock_of(&self, key: &Key) -> Result<Option<Lock>> {
        let locks = self.service_locks()?;
        if Self::is_plain(key) {
            return locks.lock_of(key);
        }
        let mut weakest: Option<Lock> = None;
        for part in self.parts(key)? {
            let Some(lock) = locks.lock_of(&part)? else { return Ok(None) };
            weakest = Some(weakest.map_or(lock, |known| Lock {
                mode: known.mode.min(lock.mode),
                until: known.until.min(lock.until),
            }));
        }
        Ok(weakest)
    }

    fn lock(&self, key: &Key, lock: Lock) -> Result<()> {
        let locks = self.service_locks()?;
        if Self::is_plain(key) {
            return locks.lock(key, lock);
        }
        for part in self.parts(key)? {
            let found = locks.lock_of(&part)?;
            // Never shorter or milder than the one that it has.
            let wanted = found.map_or(lock, |found| Lock {
                mode: found.mode.max(lock.mode),
                until: found.until.max(lock.until),
            });
            if found != Some(wanted) {
                locks.lock(&part, wanted)?;
            }
        }
        Ok(())
    }

    fn clock(&self) -> SystemTime {
        self.plain.locks().map_or_else(SystemTime::now, Locks::clock)
    }
}
