//! Limits on how fast disks are read and the repository is written.

use std::sync::Arc;

use leeward_disk::SharedSource;
pub use leeward_store::RateLimit;
use leeward_store::bucket::RequestCounts;
use leeward_store::{Chains, Entry, Key, Locks, Object, Result as StoreResult, SharedStore, Store, Version};

use crate::interrupt;

/// The source under a limit, or as it is without one.
pub fn limited(source: SharedSource, limit: Option<&Arc<RateLimit>>) -> SharedSource {
    match limit {
        Some(limit) => Arc::new(leeward_protect::LimitedSource::new(
            source,
            Some(Arc::clone(limit)),
            &interrupt::is_requested,
        )),
        None => source,
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
            limit.wait(bytes, &interrupt::is_requested);
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
    fn rates_are_parsed() {
        assert_eq!(parse_rate("20M"), Ok(20 << 20));
        assert_eq!(parse_rate("64K/s"), Ok(64 << 10));
        assert!(parse_rate("1000").is_err());
        assert!(parse_rate("fast").is_err());
    }
}
