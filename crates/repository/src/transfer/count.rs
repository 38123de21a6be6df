//! A store that counts what passes through it: requests and bytes, by what they are for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leeward_store::bucket::RequestCounts;
use leeward_store::{Chains, Entry, Key, Locks, Object, Result, SharedStore, Store, Version};
use serde::Serialize;

use crate::repository::PREFIXES;

/// What a listing tells of an object beside its key.
const LISTED_BYTES: u64 = 8;

/// Counts of one class of objects.
#[derive(Debug, Default)]
struct Counter {
    requests: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counter {
    fn count(&self, sent: u64, received: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.sent.fetch_add(sent, Ordering::Relaxed);
        self.received.fetch_add(received, Ordering::Relaxed);
    }
}

/// What has passed through a [`CountedStore`].
#[derive(Debug, Default)]
pub struct Traffic {
    /// In the order of [`PREFIXES`]; what has none of them, such as the configuration, comes last.
    counters: [Counter; PREFIXES.len() + 1],
}

/// Requests and bytes of one class of objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TrafficClass {
    /// Requests: opening, reading, writing, listing, deleting.
    pub requests: u64,
    /// Bytes of objects that were written.
    pub sent_bytes: u64,
    /// Bytes of objects that were read, and of listings.
    pub received_bytes: u64,
}

/// What has passed, by the prefix of the keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TrafficReport {
    /// All classes together.
    pub total: TrafficClass,
    /// By prefix, and `other`; classes without a request are left out.
    pub by_class: BTreeMap<&'static str, TrafficClass>,
}

impl Traffic {
    fn counter(&self, key: &str) -> &Counter {
        let prefix = key.split('/').next().unwrap_or_default();
        let number = PREFIXES.iter().position(|known| *known == prefix);
        &self.counters[number.unwrap_or(PREFIXES.len())]
    }

    /// What has passed so far.
    #[must_use]
    pub fn report(&self) -> TrafficReport {
        let mut report = TrafficReport::default();
        for (name, counter) in PREFIXES.iter().copied().chain(["other"]).zip(&self.counters) {
            let class = TrafficClass {
                requests: counter.requests.load(Ordering::Relaxed),
                sent_bytes: counter.sent.load(Ordering::Relaxed),
                received_bytes: counter.received.load(Ordering::Relaxed),
            };
            report.total.requests += class.requests;
            report.total.sent_bytes += class.sent_bytes;
            report.total.received_bytes += class.received_bytes;
            if class.requests > 0 {
                report.by_class.insert(name, class);
            }
        }
        report
    }
}

/// A store that counts.
pub struct CountedStore {
    store: SharedStore,
    traffic: Arc<Traffic>,
}

impl CountedStore {
    /// The store, counted from here on.
    pub fn wrap(store: SharedStore, traffic: &Arc<Traffic>) -> SharedStore {
        Arc::new(Self { store, traffic: Arc::clone(traffic) })
    }
}

struct CountedObject {
    object: Arc<dyn Object>,
    traffic: Arc<Traffic>,
    key: Key,
}

impl Object for CountedObject {
    fn size(&self) -> u64 {
        self.object.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.traffic.counter(self.key.as_str()).count(0, buffer.len() as u64);
        self.object.read_at(buffer, offset)
    }
}

impl Store for CountedStore {
    fn name(&self) -> &str {
        self.store.name()
    }

    fn requests_at_once(&self) -> usize {
        self.store.requests_at_once()
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

    fn open(&self, key: &Key) -> Result<Arc<dyn Object>> {
        self.traffic.counter(key.as_str()).count(0, 0);
        let object = self.store.open(key)?;
        Ok(Arc::new(CountedObject { object, traffic: Arc::clone(&self.traffic), key: key.clone() }))
    }

    fn get(&self, key: &Key, size_max: u64) -> Result<(Vec<u8>, Version)> {
        let got = self.store.get(key, size_max);
        let bytes = got.as_ref().map_or(0, |(bytes, _)| bytes.len() as u64);
        self.traffic.counter(key.as_str()).count(0, bytes);
        got
    }

    fn put_if_absent(&self, key: &Key, parts: &[&[u8]]) -> Result<()> {
        self.traffic.counter(key.as_str()).count(parts.iter().map(|part| part.len() as u64).sum(), 0);
        self.store.put_if_absent(key, parts)
    }

    fn put_if_match(&self, key: &Key, content: &[u8], expected: &Version) -> Result<()> {
        self.traffic.counter(key.as_str()).count(content.len() as u64, 0);
        self.store.put_if_match(key, content, expected)
    }

    fn delete(&self, key: &Key) -> Result<bool> {
        self.traffic.counter(key.as_str()).count(0, 0);
        self.store.delete(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let listed = self.store.list(prefix);
        let bytes = |entry: &Entry| entry.key.as_str().len() as u64 + LISTED_BYTES;
        let received = listed.as_ref().map_or(0, |entries| entries.iter().map(bytes).sum());
        self.traffic.counter(prefix).count(0, received);
        listed
    }

    fn settle(&self, prefix: &str) -> Result<()> {
        self.store.settle(prefix)
    }

    fn sweep_leftovers(&self) -> Result<u64> {
        self.store.sweep_leftovers()
    }
}
