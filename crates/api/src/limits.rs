//! Bounds that both sides keep: sizes of objects by kind, and how slow the other side may be.

use std::time::{Duration, Instant};

use leeward_store::Key;

/// The largest record, in bytes.
pub(crate) const RECORD_BYTES_MAX: u64 = 64 << 20;
/// The largest run, in bytes: 2^20 entries and what stands before them, with room to spare.
const RUN_BYTES_MAX: u64 = 256 << 20;
/// The largest pack, in bytes: offsets in a pack have 32 bits.
const PACK_BYTES_MAX: u64 = 4 << 30;
/// The most entries of one page of a listing.
pub(crate) const PAGE_ENTRIES_MAX: usize = 10_000;
/// The largest page of a listing, in bytes.
pub(crate) const PAGE_BYTES_MAX: u64 = 16 << 20;

/// The most bytes that an object of this key may have.
#[must_use]
pub fn size_max(key: &Key) -> u64 {
    match key.as_str().split_once('/') {
        Some(("packs", _)) => PACK_BYTES_MAX,
        Some(("index", _)) => RUN_BYTES_MAX,
        _ => RECORD_BYTES_MAX,
    }
}

/// How slow the other side may be: in every interval so many bytes have to move, else the transfer is given up. There is no
/// limit for a whole transfer, which may be as long as it is large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How often it is looked at.
    pub interval: Duration,
    /// Bytes that have to move in an interval.
    pub bytes_min: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { interval: Duration::from_secs(30), bytes_min: 32 << 10 }
    }
}

impl std::fmt::Display for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes in {:?}", self.bytes_min, self.interval)
    }
}

/// Counts what moves against a pace.
pub(crate) struct Pacer {
    pace: Pace,
    until: Instant,
    moved: u64,
}

impl Pacer {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, until: Instant::now() + pace.interval, moved: 0 }
    }

    /// Counts bytes; the interval begins anew once enough have moved in it.
    pub(crate) fn count(&mut self, bytes: u64) {
        self.moved = self.moved.saturating_add(bytes);
        if self.moved >= self.pace.bytes_min {
            (self.moved, self.until) = (0, Instant::now() + self.pace.interval);
        }
    }

    /// How long may still be waited.
    pub(crate) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}
