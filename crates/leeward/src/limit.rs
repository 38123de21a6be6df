//! Limits on how fast disks are read and the repository is written.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use leeward_disk::{Extent, Info, SharedSource, Source};
use leeward_store::bucket::RequestCounts;
use leeward_store::{Chains, Entry, Key, Locks, Object, Result as StoreResult, SharedStore, Store, Version};

use crate::interrupt;

/// How much may be done at once after a pause, as time at the full rate.
const BURST: Duration = Duration::from_millis(100);
/// How long one wait lasts before an interrupt is looked for.
const NAP: Duration = Duration::from_millis(50);
/// Reads larger than this are made and paid for in parts.
const PART_BYTES: usize = 1 << 20;

/// Bytes per second, shared by everything that it limits.
pub struct RateLimit {
    bytes_per_second: u64,
    /// When all that was granted so far will have been paid for.
    paid_until: Mutex<Instant>,
}

impl RateLimit {
    /// A limit of so many bytes per second, at least one.
    pub fn new(bytes_per_second: u64) -> Arc<Self> {
        Arc::new(Self { bytes_per_second: bytes_per_second.max(1), paid_until: Mutex::new(Instant::now()) })
    }

    /// Waits until `bytes` more may be moved, or the work is interrupted.
    pub fn wait(&self, bytes: u64) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let due = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            // What was not used is lost, but for a short burst.
            let now = Instant::now();
            *paid_until = (*paid_until).max(now.checked_sub(BURST).unwrap_or(now)) + cost;
            *paid_until
        };
        while !interrupt::is_requested() {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}

/// A disk that is read no faster than a limit allows.
pub struct LimitedSource {
    source: SharedSource,
    limit: Arc<RateLimit>,
}

impl LimitedSource {
    /// The source under the limit, or as it is without one.
    pub fn wrap(source: SharedSource, limit: Option<&Arc<RateLimit>>) -> SharedSource {
        match limit {
            Some(limit) => Arc::new(Self { source, limit: Arc::clone(limit) }),
            None => source,
        }
    }
}

impl Source for LimitedSource {
    fn virtual_size(&self) -> u64 {
        self.source.virtual_size()
    }

    fn info(&self) -> Info {
        self.source.info()
    }

    fn extents(&self, offset: u64, length: u64) -> leeward_disk::Result<Vec<Extent>> {
        self.source.extents(offset, length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> leeward_disk::Result<()> {
        let mut position = offset;
        for part in buffer.chunks_mut(PART_BYTES) {
            self.limit.wait(part.len() as u64);
            self.source.read_at(part, position)?;
            position += part.len() as u64;
        }
        Ok(())
    }

    fn internal_snapshots(&self) -> Vec<String> {
        self.source.internal_snapshots()
    }
}

/// A store that is written no faster than a limit allows, or by another number of requests at once than it proposes.
pub struct LimitedStore {
    store: SharedStore,
    limit: Option<Arc<RateLimit>>,
    streams: Option<usize>,
}

impl LimitedStore {
    /// The store under the limit and with so many requests at once, or as it is without either.
    pub fn wrap(store: SharedStore, limit: Option<&Arc<RateLimit>>, streams: Option<usize>) -> SharedStore {
        match (limit, streams) {
            (None, None) => store,
            _ => Arc::new(Self { store, limit: limit.cloned(), streams }),
        }
    }

    fn wait(&self, bytes: u64) {
        if let Some(limit) = &self.limit {
            limit.wait(bytes);
        }
    }
}

impl Store for LimitedStore {
    fn name(&self) -> &str {
        self.store.name()
    }

    fn requests_at_once(&self) -> usize {
        self.streams.unwrap_or_else(|| self.store.requests_at_once())
    }

    fn locks(&self) -> Option<&dyn Locks> {
        self.store.locks()
    }

    fn chains(&self) -> Option<&dyn Chains> {
        self.store.chains()
    }

    fn requests(&self) -> Option<RequestCounts> {
        self.store.requests()
    }

    fn open(&self, key: &Key) -> StoreResult<Arc<dyn Object>> {
        self.store.open(key)
    }

    fn get(&self, key: &Key, size_max: u64) -> StoreResult<(Vec<u8>, Version)> {
        self.store.get(key, size_max)
    }

    fn put_if_absent(&self, key: &Key, parts: &[&[u8]]) -> StoreResult<()> {
        self.wait(parts.iter().map(|part| part.len() as u64).sum());
        self.store.put_if_absent(key, parts)
    }

    fn put_if_match(&self, key: &Key, content: &[u8], expected: &Version) -> StoreResult<()> {
        self.wait(content.len() as u64);
        self.store.put_if_match(key, content, expected)
    }

    fn delete(&self, key: &Key) -> StoreResult<bool> {
        self.store.delete(key)
    }

    fn list(&self, prefix: &str) -> StoreResult<Vec<Entry>> {
        self.store.list(prefix)
    }

    fn settle(&self, prefix: &str) -> StoreResult<()> {
        self.store.settle(prefix)
    }

    fn sweep_leftovers(&self) -> StoreResult<u64> {
        self.store.sweep_leftovers()
    }
}

/// Parses a rate: a size per second, as in `20M` or `20M/s`.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let rate = crate::size::parse(text.strip_suffix("/s").unwrap_or(text))?;
    if rate < 1024 { Err("a limit has 1K/s at least".to_owned()) } else { Ok(rate) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_over_time_and_is_shared() {
        let limit = RateLimit::new(10 << 20);
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..8).for_each(|_| limit.wait(128 << 10)));
            }
        });
        // 4 MiB at 10 MiB/s, less the burst. Longer waits are the machine's doing.
        assert!(started.elapsed() >= Duration::from_millis(280), "{:?}", started.elapsed());
    }

    #[test]
    fn rates_are_parsed() {
        assert_eq!(parse_rate("20M"), Ok(20 << 20));
        assert_eq!(parse_rate("64K/s"), Ok(64 << 10));
        assert!(parse_rate("1000").is_err());
        assert!(parse_rate("fast").is_err());
    }
}
