//! A bounded map shared by many threads.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 8;

/// Values by number. Each shard has a lock of its own, held for a lookup and never over input, output or inflating; a
/// full shard drops the value that was used longest ago.
pub(crate) struct Cache<V> {
    shards: [Mutex<Shard<V>>; SHARDS],
    shard_entries_max: usize,
}

struct Shard<V> {
    clock: u64,
    entries: HashMap<u64, (u64, V)>,
}

impl<V: Clone> Cache<V> {
    /// A cache of about `entries_max` values, at least two per shard.
    pub(crate) fn new(entries_max: usize) -> Self {
        let shards = std::array::from_fn(|_| Mutex::new(Shard { clock: 0, entries: HashMap::new() }));
        Self { shards, shard_entries_max: (entries_max / SHARDS).max(2) }
    }

    /// The value of `key`.
    pub(crate) fn get(&self, key: u64) -> Option<V> {
        self.shard(key).touch(key)
    }

    /// The value of `key`, after storing `make()` where there is none. `make` runs under the lock: it must be cheap.
    pub(crate) fn get_or_insert(&self, key: u64, make: impl FnOnce() -> V) -> V {
        let mut shard = self.shard(key);
        if let Some(value) = shard.touch(key) {
            return value;
        }
        if shard.entries.len() >= self.shard_entries_max {
            shard.evict();
        }
        let value = make();
        let clock = shard.clock;
        shard.entries.insert(key, (clock, value.clone()));
        value
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, Shard<V>> {
        let index = (key % SHARDS as u64) as usize;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Clone> Shard<V> {
    fn touch(&mut self, key: u64) -> Option<V> {
        self.clock += 1;
        let clock = self.clock;
        self.entries.get_mut(&key).map(|(used, value)| {
            *used = clock;
            value.clone()
        })
    }

    /// Looks at every entry: a shard holds few, and each miss costs a read of a table anyway.
    fn evict(&mut self) {
        let oldest = self.entries.iter().min_by_key(|(_, (used, _))| *used).map(|(&key, _)| key);
        if let Some(key) = oldest {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_shard_drops_what_was_used_longest_ago() {
        let cache = Cache::new(2 * SHARDS);
        let key = |n: u64| n * SHARDS as u64;
        cache.get_or_insert(key(1), || 1);
        cache.get_or_insert(key(2), || 2);
        assert_eq!(cache.get(key(1)), Some(1));
        cache.get_or_insert(key(3), || 3);
        assert_eq!((cache.get(key(1)), cache.get(key(2)), cache.get(key(3))), (Some(1), None, Some(3)));
    }
}
