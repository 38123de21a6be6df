//! Which granules are local, which are changed, and how that comes to stable storage.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::bits::{Bits, PAGE_GRANULES};
use super::file::LocalFile;
use super::header::HEADER_BYTES;
use super::slot::{SLOT_BYTES, Slot, State};
use crate::{Error, Result};

const SHARDS: usize = 16;
/// Bytes of the two slots of a page.
const PAGE_BYTES: u64 = 2 * SLOT_BYTES as u64;
/// Bytes of slots that are read at once.
const LOAD_BYTES: u64 = 128 * PAGE_BYTES;

/// The map. Pages of which nothing was ever said take neither memory nor space.
pub(super) struct Map {
    file: Box<dyn LocalFile>,
    granules: u64,
    shards: [RwLock<HashMap<u64, Page>>; SHARDS],
    local: AtomicU64,
    changed: AtomicU64,
    torn: u64,
}

struct Page {
    /// What holds now. Its sequence is that of the newest slot on stable storage.
    state: State,
    /// Which slot that is; the next state goes into the other.
    slot: usize,
    /// Whether the slot on stable storage says that the page is doubtful.
    is_doubt_durable: bool,
    /// Counts the changes, and which of them was written last.
    version: u64,
    written: u64,
    /// Whether space is set aside for its slots.
    is_reserved: bool,
}

/// A state of a page on its way to stable storage.
pub(super) struct Outgoing {
    number: u64,
    slot: usize,
    version: u64,
    state: State,
}

impl Page {
    fn blank() -> Self {
        let state = State { sequence: 0, local: Bits::Empty, changed: Bits::Empty, doubtful: false };
        Self { state, slot: 1, is_doubt_durable: false, version: 0, written: 0, is_reserved: false }
    }
}

impl Map {
    /// Loads the map of a disk of so many granules. What an earlier crash left in doubt counts as changed.
    pub(super) fn load(file: Box<dyn LocalFile>, granules: u64) -> Result<Self> {
        let mut map = Self {
            file,
            granules,
            shards: std::array::from_fn(|_| RwLock::default()),
            local: AtomicU64::new(0),
            changed: AtomicU64::new(0),
            torn: 0,
        };
        let (mut position, end) = (HEADER_BYTES as u64, map.file.size());
        while position < end {
            for extent in map.file.extents(position, end - position)? {
                if extent.kind.is_data() {
                    map.load_slots(extent.offset, extent.end())?;
                }
                position = extent.end();
            }
        }
        Ok(map)
    }

    /// Loads the pages whose slots lie in a part of the file.
    fn load_slots(&mut self, start: u64, end: u64) -> Result<()> {
        let header = HEADER_BYTES as u64;
        let first = (start.max(header) - header) / PAGE_BYTES;
        let end = (end - header).div_ceil(PAGE_BYTES);
        let step = LOAD_BYTES / PAGE_BYTES;
        for start in (first..end).step_by(step as usize) {
            let mut bytes = vec![0; ((end - start).min(step) * PAGE_BYTES) as usize];
            self.file.read_at(&mut bytes, header + start * PAGE_BYTES)?;
            let (slots, _) = bytes.as_chunks::<SLOT_BYTES>();
            for (number, pair) in (start..).zip(slots.chunks_exact(2)) {
                self.load_page(number, Slot::decode(&pair[0], number), Slot::decode(&pair[1], number))?;
            }
        }
        Ok(())
    }

    fn load_page(&mut self, number: u64, first: Slot, second: Slot) -> Result<()> {
        let damaged = |what: &str| Error::DamagedMap {
            path: self.file.name().to_owned(),
            what: format!("page {number}: {what}"),
        };
        self.torn += u64::from(first == Slot::Torn || second == Slot::Torn);
        let (slot, mut state) = match (first, second) {
            (Slot::Blank, Slot::Blank) => return Ok(()),
            // The first state that was ever written of it did not become whole: nothing had been said of it before.
            (Slot::Torn, Slot::Blank) => return Ok(()),
            (Slot::Whole(first), Slot::Whole(second)) if first.sequence == second.sequence => {
                return Err(damaged("both states have one number"));
            }
            (Slot::Whole(first), Slot::Whole(second)) if first.sequence > second.sequence => (0, first),
            (Slot::Whole(_) | Slot::Torn, Slot::Whole(second)) => (1, second),
            (Slot::Whole(first), Slot::Blank | Slot::Torn) => (0, first),
            (Slot::Torn, Slot::Torn) => return Err(damaged("neither of its two states is whole")),
            (Slot::Blank, _) => return Err(damaged("its first state is missing")),
        };
        let within = self.granules.saturating_sub(number.saturating_mul(PAGE_GRANULES)).min(PAGE_GRANULES);
        if within < PAGE_GRANULES && state.local.run(within..PAGE_GRANULES) != (false, PAGE_GRANULES) {
            return Err(damaged("it speaks of granules behind the end of the disk"));
        }
        let mut page = Page { slot, is_doubt_durable: state.doubtful, is_reserved: true, ..Page::blank() };
        if state.doubtful && state.changed != state.local {
            state.changed = state.local.clone();
            page.version += 1;
        }
        *self.local.get_mut() += state.local.count();
        *self.changed.get_mut() += state.changed.count();
        page.state = state;
        self.write_shard(number).insert(number, page);
        Ok(())
    }

    /// Pages of which one state was unreadable, as a crash leaves it, so that the other is used.
    pub(super) fn torn_pages(&self) -> u64 {
        self.torn
    }

    /// Granules that are local, and that are changed.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.local.load(Ordering::Relaxed), self.changed.load(Ordering::Relaxed))
    }

    /// Whether the first granule of a range is local, and where in the range that changes first.
    pub(super) fn run(&self, range: Range<u64>) -> (bool, u64) {
        let mut found = None;
        for (number, within) in pages(range.clone()) {
            let end = number * PAGE_GRANULES + within.end;
            let (value, change) = match self.read_shard(number).get(&number) {
                Some(page) => page.state.local.run(within),
                None => (false, within.end),
            };
            let change = number * PAGE_GRANULES + change;
            match found {
                Some(other) if other != value => return (other, number * PAGE_GRANULES),
                _ if change < end => return (value, change),
                _ => found = Some(value),
            }
        }
        (found.unwrap_or(false), range.end)
    }

    /// Whether all granules of a range are local.
    pub(super) fn all_local(&self, range: Range<u64>) -> bool {
        pages(range).all(|(number, within)| {
            self.read_shard(number).get(&number).is_some_and(|page| page.state.local.all(within))
        })
    }

    /// The changed granules, in order.
    pub(super) fn changed(&self) -> Vec<Range<u64>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        for number in self.numbers() {
            let shard = self.read_shard(number);
            let Some(page) = shard.get(&number) else { continue };
            let (base, mut position) = (number * PAGE_GRANULES, 0);
            while position < PAGE_GRANULES {
                let (value, end) = page.state.changed.run(position..PAGE_GRANULES);
                match found.last_mut() {
                    _ if !value => {}
                    Some(last) if last.end == base + position => last.end = base + end,
                    _ => found.push(base + position..base + end),
                }
                position = end;
            }
        }
        found
    }

    /// Sets space aside for what will be said of a range, so that a full disk is an error of the write that needs the
    /// space and not of the flush that follows.
    pub(super) fn reserve(&self, range: Range<u64>) -> Result<()> {
        for (number, _) in pages(range) {
            if self.read_shard(number).get(&number).is_some_and(|page| page.is_reserved) {
                continue;
            }
            self.file.allocate(slot_offset(number, 0), PAGE_BYTES)?;
            self.write_shard(number).entry(number).or_insert_with(Page::blank).is_reserved = true;
        }
        Ok(())
    }

    /// Marks as changed what is local in a range, before it is written in place. Returns false where that has to wait
    /// until the pages are known on stable storage to be doubtful: they are then marked so, and a flush and another try
    /// must follow.
    pub(super) fn prepare(&self, range: Range<u64>) -> bool {
        let mut is_ready = true;
        for (number, within) in pages(range) {
            let mut shard = self.write_shard(number);
            let Some(page) = shard.get_mut(&number) else { continue };
            let mut position = within.start;
            while position < within.end {
                let (local, end) = page.state.local.run(position..within.end);
                if local && !page.state.changed.all(position..end) {
                    if page.is_doubt_durable {
                        let added = page.state.changed.set(position..end);
                        self.changed.fetch_add(added, Ordering::Relaxed);
                    } else {
                        page.state.doubtful = true;
                        is_ready = false;
                    }
                    page.version += 1;
                }
                position = end;
            }
        }
        is_ready
    }

    /// Marks a range as local, and as changed if it is.
    pub(super) fn mark(&self, range: Range<u64>, is_changed: bool) {
        for (number, within) in pages(range) {
            let mut shard = self.write_shard(number);
            let page = shard.entry(number).or_insert_with(Page::blank);
            let changed = if is_changed { page.state.changed.set(within.clone()) } else { 0 };
            let local = page.state.local.set(within);
            if local + changed > 0 {
                page.version += 1;
            }
            self.local.fetch_add(local, Ordering::Relaxed);
            self.changed.fetch_add(changed, Ordering::Relaxed);
        }
    }

    /// The states that stable storage does not have, as they are now. With `is_last` no page stays doubtful: nothing will
    /// be written any more.
    pub(super) fn outgoing(&self, is_last: bool) -> Vec<Outgoing> {
        let mut outgoing = Vec::new();
        for number in self.numbers() {
            let mut shard = self.write_shard(number);
            let Some(page) = shard.get_mut(&number) else { continue };
            if is_last && page.state.doubtful {
                page.state.doubtful = false;
                page.version += 1;
            }
            if page.version != page.written {
                let state = State { sequence: page.state.sequence + 1, ..page.state.clone() };
                outgoing.push(Outgoing { number, slot: 1 - page.slot, version: page.version, state });
            }
        }
        outgoing
    }

    /// Writes states over the older slots. After an error nothing has changed for the newer ones.
    pub(super) fn write(&self, outgoing: &[Outgoing]) -> Result<()> {
        outgoing.iter().try_for_each(|page| {
            self.file.write_at(&page.state.encode(page.number), slot_offset(page.number, page.slot))
        })
    }

    /// Brings the file to stable storage.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    /// Notes that states are on stable storage.
    pub(super) fn settle(&self, outgoing: &[Outgoing]) {
        for done in outgoing {
            if let Some(page) = self.write_shard(done.number).get_mut(&done.number) {
                page.slot = done.slot;
                page.state.sequence = done.state.sequence;
                page.is_doubt_durable = done.state.doubtful;
                page.written = done.version;
            }
        }
    }

    /// The pages that there are, in order.
    fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = Vec::new();
        for shard in &self.shards {
            numbers.extend(shard.read().unwrap_or_else(PoisonError::into_inner).keys());
        }
        numbers.sort_unstable();
        numbers
    }

    fn shard(&self, number: u64) -> &RwLock<HashMap<u64, Page>> {
        &self.shards[(number % SHARDS as u64) as usize]
    }

    fn read_shard(&self, number: u64) -> RwLockReadGuard<'_, HashMap<u64, Page>> {
        self.shard(number).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_shard(&self, number: u64) -> RwLockWriteGuard<'_, HashMap<u64, Page>> {
        self.shard(number).write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn slot_offset(number: u64, slot: usize) -> u64 {
    HEADER_BYTES as u64 + number * PAGE_BYTES + (slot * SLOT_BYTES) as u64
}

/// The pages of a range of granules, with the granules within each.
fn pages(range: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
    let numbers =
        if range.is_empty() { 0..0 } else { range.start / PAGE_GRANULES..range.end.div_ceil(PAGE_GRANULES) };
    numbers.map(move |number| {
        let base = number * PAGE_GRANULES;
        (number, range.start.saturating_sub(base)..(range.end - base).min(PAGE_GRANULES))
    })
}
