//! Tables of an image that are read when they are needed, page by page, and checked the first time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bytes::array;
use super::claims::Claims;
use super::image_file::ImageFile;
use crate::Result;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something kept, and its number.
type Slot = Mutex<Option<(u64, Arc<[u8]>)>>;

/// A few pieces of an image, by number. A slot's lock is held to look or to put, never during I/O: two threads that
/// miss the same piece both read it.
pub(crate) struct Cache {
    slots: Box<[Slot]>,
}

impl Cache {
    /// A cache of `slots` pieces.
    pub(crate) fn new(slots: usize) -> Self {
        Self { slots: (0..slots.max(1)).map(|_| Mutex::new(None)).collect() }
    }

    /// The piece with this number, loaded if it is not here.
    pub(crate) fn get(&self, number: u64, load: impl FnOnce() -> Result<Arc<[u8]>>) -> Result<Arc<[u8]>> {
        let slot = &self.slots[(number % self.slots.len() as u64) as usize];
        if let Some((held, bytes)) = &*lock(slot)
            && *held == number
        {
            return Ok(Arc::clone(bytes));
        }
        let bytes = load()?;
        *lock(slot) = Some((number, Arc::clone(&bytes)));
        Ok(bytes)
    }
}

/// What of an image's tables has been checked, and which bytes of the file they use.
pub(crate) struct Ledger {
    file: ImageFile,
    state: Mutex<LedgerState>,
}

struct LedgerState {
    claims: Claims,
    checked: HashSet<u64>,
    /// The first fault found. A half-checked page has claimed bytes, so checking it again would blame the innocent.
    broken: Option<String>,
}

impl Ledger {
    /// Nothing is checked yet but what made `claims`.
    pub(crate) fn new(file: ImageFile, claims: Claims) -> Self {
        let state = LedgerState { claims, checked: HashSet::new(), broken: None };
        Self { file, state: Mutex::new(state) }
    }

    /// Runs `check` unless it has passed before for this `page`.
    pub(crate) fn once(
        &self,
        page: u64,
        check: impl FnOnce(&mut Claims) -> Result<(), String>,
    ) -> Result<()> {
        let mut state = lock(&self.state);
        if state.checked.contains(&page) {
            return Ok(());
        }
        let result = match &state.broken {
            Some(fault) => Err(fault.clone()),
            None => check(&mut state.claims),
        };
        match result {
            Ok(()) => {
                state.checked.insert(page);
                Ok(())
            }
            Err(fault) => {
                state.broken = Some(fault.clone());
                Err(self.file.corrupt(fault))
            }
        }
    }
}

/// Bytes of a page; a multiple of every size of entry.
const PAGE_BYTES: u64 = 64 * 1024;
/// Pages kept per table: 4 MiB, enough for 8 TiB in blocks of 32 MiB and for any walk in order.
const PAGES_KEPT: usize = 64;

/// A table of equal entries that lies in one stretch of the file, of any size.
pub(crate) struct Table {
    file: ImageFile,
    part: &'static str,
    offset: u64,
    length: u64,
    cache: Cache,
}

impl Table {
    /// The table of `entries` entries of `entry_bytes` bytes at `offset`, which must lie inside the file.
    pub(crate) fn new(
        file: ImageFile,
        part: &'static str,
        offset: u64,
        entries: u64,
        entry_bytes: u64,
    ) -> Result<Self> {
        let length = entries.saturating_mul(entry_bytes);
        file.check(part, offset, length)?;
        Ok(Self { file, part, offset, length, cache: Cache::new(PAGES_KEPT) })
    }

    /// First byte in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Length in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Entry `index`, of `N` bytes. `check` sees every page before any entry of it is used: the number of the page, the
    /// index of its first entry, and its bytes.
    pub(crate) fn entry<const N: usize>(
        &self,
        index: u64,
        check: impl FnOnce(u64, u64, &[u8]) -> Result<()>,
    ) -> Result<[u8; N]> {
        let per_page = PAGE_BYTES / N as u64;
        let page = index / per_page;
        let bytes = self.cache.get(page, || {
            let start = (page * PAGE_BYTES).min(self.length);
            let length = PAGE_BYTES.min(self.length - start);
            let bytes = self.file.read(self.part, self.offset + start, length as usize)?;
            check(page, page * per_page, &bytes)?;
            Ok(bytes.into())
        })?;
        array(&bytes, (index % per_page) as usize * N)
            .ok_or_else(|| self.file.corrupt(format!("{} has no entry {index}", self.part)))
    }
}
