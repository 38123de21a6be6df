//! What a server has done.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a server has done since it was bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Connections at the moment.
    pub connections: u64,
    /// Connections so far, with those that were refused or failed to negotiate.
    pub connections_total: u64,
    /// Connections refused because there were too many.
    pub connections_refused: u64,
    /// Requests answered.
    pub requests: u64,
    /// Those of them that failed.
    pub requests_failed: u64,
    /// Bytes of the disks that were read by clients, holes included.
    pub bytes_read: u64,
    /// Bytes written by clients, without zeroing.
    pub bytes_written: u64,
    /// From binding to the first read that was served.
    pub first_read: Option<Duration>,
}

/// The counters behind [`Statistics`].
#[derive(Debug)]
pub(super) struct Counters {
    start: Instant,
    pub(super) connections: AtomicU64,
    pub(super) connections_total: AtomicU64,
    pub(super) connections_refused: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) requests_failed: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    first_read: OnceLock<Duration>,
}

impl Counters {
    pub(super) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            start: Instant::now(),
            connections: zero(),
            connections_total: zero(),
            connections_refused: zero(),
            requests: zero(),
            requests_failed: zero(),
            bytes_read: zero(),
            bytes_written: zero(),
            first_read: OnceLock::new(),
        }
    }

    pub(super) fn read(&self, length: u32) {
        self.bytes_read.fetch_add(u64::from(length), Ordering::Relaxed);
        self.first_read.get_or_init(|| self.start.elapsed());
    }

    pub(super) fn written(&self, length: u32) {
        self.bytes_written.fetch_add(u64::from(length), Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> Statistics {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            connections: value(&self.connections),
            connections_total: value(&self.connections_total),
            connections_refused: value(&self.connections_refused),
            requests: value(&self.requests),
            requests_failed: value(&self.requests_failed),
            bytes_read: value(&self.bytes_read),
            bytes_written: value(&self.bytes_written),
            first_read: self.first_read.get().copied(),
        }
    }
}
