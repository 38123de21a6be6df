//! Tables of an image that are read when they are needed, page by page, and checked the first time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::claims::Claims;
use super::image_file::ImageFile;
use crate::Result;
use crate::cache::Cache;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pieces of an image, by number. Two threads that miss the same piece both read it: no lock is held during I/O.
pub(crate) type Pieces = Cache<Arc<[u8]>>;

/// The piece with this number, loaded if it is not here.
pub(crate) fn piece(
    pieces: &Pieces,
    number: u64,
    load: impl FnOnce() -> Result<Arc<[u8]>>,
) -> Result<Arc<[u8]>> {
    if let Some(bytes) = pieces.get(number) {
        return Ok(bytes);
    }
    let bytes = load()?;
    Ok(pieces.get_or_insert(number, || bytes))
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
    pages: Pieces,
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
        Ok(Self { file, part, offset, length, pages: Cache::new(PAGES_KEPT) })
    }

    /// First byte in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Length in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Entry `index`, of `N` bytes, and how many entries from there on, at most `most`, are the same as far as it is
    /// known without reading on. `check` sees every page before any entry of it is used: the number of the page, the
    /// index of its first entry, and its bytes.
    pub(crate) fn entries<const N: usize>(
        &self,
        index: u64,
        most: u64,
        check: impl FnOnce(u64, u64, &[u8]) -> Result<()>,
    ) -> Result<([u8; N], u64)> {
        let per_page = PAGE_BYTES / N as u64;
        let page = index / per_page;
        let bytes = piece(&self.pages, page, || {
            let start = (page * PAGE_BYTES).min(self.length);
            let length = PAGE_BYTES.min(self.length - start);
            let bytes = self.file.read(self.part, self.offset + start, length as usize)?;
            check(page, page * per_page, &bytes)?;
            Ok(bytes.into())
        })?;
        alike(&bytes, index % per_page, most)
            .ok_or_else(|| self.file.corrupt(format!("{} has no entry {index}", self.part)))
    }
}

/// Entry `index` of a table in memory, and how many entries from there on, at most `most`, are the same. Empty images of
/// many TiB are walked at the speed of this.
pub(crate) fn alike<const N: usize>(table: &[u8], index: u64, most: u64) -> Option<([u8; N], u64)> {
    let entries = table.as_chunks::<N>().0.get(index as usize..)?;
    let first = entries.first()?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let count = entries.iter().take(most).take_while(|entry| *entry == first).count();
    Some((*first, count.max(1) as u64))
}
