//! Copy-on-write overlays: a disk that is a base, which is only read, and local changes.
//!
//! The disk `PATH` is a sparse raw file of the virtual size, in which the data of every *local* granule lies at its own
//! offset; what is not local is read from the base. When every granule is local, `PATH` is an ordinary raw disk. Beside
//! it, `PATH.map` has two bits for each granule: `local`, and `changed` (the guest wrote it, so it differs or may differ
//! from the base). A granule that was only fetched is local and not changed. `docs/overlay-format.md` has the layout,
//! `docs/decisions/0006-overlay.md` the alternatives.
//!
//! # What holds after a crash
//!
//! *After [`flush`](crate::nbd::Writable::flush) returns, what was written before survives a kill and a loss of
//! power; what was written later may be lost or there, as with the write cache of a disk.*
//!
//! 1. Bits are only ever set, so every older state of a page of the map is a sound one: it knows less, and nothing wrong.
//!    Pages need no common moment, because each bit speaks of its own granule alone.
//! 2. `local` is set in memory when the granule is complete in the file. A flush takes the states of the pages, *then*
//!    syncs the data, *then* writes and syncs the states: no state on stable storage names data that is not there.
//! 3. A state is written over the older of the two slots of its page, and the next one of that page only after a sync. So
//!    at most one slot of a page can be torn, and the other holds the state of the last flush. A torn slot is seen by
//!    its checksum.
//! 4. Opening begins with a sync of both files. After a kill without a loss of power the newest slot may be in the
//!    kernel's memory only; writing the other one without that sync would put both at risk.
//! 5. A granule that is not local may have rubbish in the file, from writes that a crash cut off. It is completed, or
//!    its hole is punched anew, before it becomes local.
//! 6. `changed` may not be lost where the data survives, or the next backup would miss it. A write to a granule that is not
//!    local, or is changed already, cannot do that by 2. A write in place to a granule that was fetched could: its data
//!    may reach the medium before its bit. So before the first of them the page is marked *doubtful* on stable storage.
//!    A doubtful page that is found when an overlay is opened counts all that is local as changed; a clean close takes
//!    the mark away.
//! 7. A sync that failed may have dropped what it should have written, and the next one would not say so. After one, the
//!    overlay takes no writes and no flushes any more; what the last good flush covered is on stable storage.
//!
//! A full disk is an error of the write that needs the space: the data is allocated by the write, and the slots of a page
//! before its first bit is set.
//!
//! # What runs together
//!
//! Reads hold no lock while they read. A write to granules that are all local goes straight to the file. All else (writes
//! to granules that are not local, fetching) holds its range of granules, so that a fetch never overwrites a
//! write, and two writes to one granule of the base both end up in it. The map has a lock per part, held for moments.

mod bits;
mod file;
mod header;
mod map;
mod ranges;
mod slot;
#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use crate::copy::{WorkOptions, run};
use crate::nbd::{Device, Writable};
use crate::plan::Planner;
use crate::source::check_range;
use crate::targets::staged::{StagedFile, sync_directory_of};
use crate::zero::split_zeros;
use crate::{Error, Extent, ExtentKind, Format, Info, Result, SharedSource, Source, walk_extents};

use file::{LocalFile, RealFile, map_path};
pub use header::Description;
use header::HEADER_BYTES;
use map::Map;
use ranges::{Held, RangeLocks};

/// Bytes of a granule unless told otherwise: what guests write at least, so that no write needs the base.
pub const GRANULE_BYTES: u64 = 4096;
/// Data that is fetched from the base at once.
const FETCH_BYTES: u64 = 1 << 20;
/// Zeros that are fetched from the base at once.
const FETCH_ZEROS: u64 = 1 << 30;
/// Zeros in fetched data become holes where there are so many of them.
const HOLE_BYTES: usize = 32 << 10;
/// Extents returned by one call, at most.
const EXTENTS_MAX: usize = 4096;
/// Bytes that are fetched between two flushes of a hydration: what a kill may cost.
const HYDRATE_FLUSH_BYTES: u64 = 256 << 20;

/// A disk made of a base and local changes.
pub struct Overlay {
    name: String,
    base: SharedSource,
    description: Description,
    data: Box<dyn LocalFile>,
    map: Map,
    ranges: RangeLocks,
    /// Whether it is closed. Held for reading by everything that writes.
    gate: RwLock<bool>,
    /// Flushes that have begun; and, under its lock, the last that ended.
    begun: AtomicU64,
    ended: Mutex<u64>,
    /// A sync failed.
    is_broken: AtomicBool,
}

impl Overlay {
    /// Makes a new overlay over `base`: the disk `path` and its map beside it. `granule_bytes` is a power of two from 512 to
    /// 1 MiB ([`GRANULE_BYTES`] unless there is a reason); `description` says what the base is, in a form of the caller's,
    /// in 4032 bytes at most.
    ///
    /// # Errors
    /// A file of that name exists, or cannot be made.
    pub fn create(path: &Path, base: SharedSource, granule_bytes: u64, description: &str) -> Result<Self> {
        let description =
            Description { virtual_size: base.virtual_size(), granule_bytes, base: description.to_owned() };
        let header = description.encode(&path.display().to_string())?;
        let map = map_path(path);
        let staged = StagedFile::create(&map, false)?;
        staged.write_at(&header, 0)?;
        make_disk(path, description.virtual_size)?;
        staged.commit(true)?;
        sync_directory_of(path).map_err(|source| Error::open(path, "flush the directory of", source))?;
        Self::open(path, base)
    }

    /// Opens the overlay at `path`, whose base must be the one that it was made with ([`Overlay::describe`]).
    ///
    /// # Errors
    /// [`Error::OverlayInUse`] while somebody else has it open; it is no overlay, is damaged, or its base has another size.
    pub fn open(path: &Path, base: SharedSource) -> Result<Self> {
        let name = map_path(path);
        let map = RealFile::open(&name)?;
        map.lock(&name)?;
        if crate::in_use::is_written(path)? {
            return Err(Error::InUse { path: path.display().to_string() });
        }
        Self::assemble(path, Box::new(RealFile::open(path)?), Box::new(map), base)
    }

    fn assemble(
        path: &Path,
        data: Box<dyn LocalFile>,
        map: Box<dyn LocalFile>,
        base: SharedSource,
    ) -> Result<Self> {
        let name = path.display().to_string();
        let description = read_header(map.as_ref())?;
        let size = description.virtual_size;
        for (what, other) in [("the base", base.virtual_size()), ("the file", data.size())] {
            if other != size {
                return Err(Error::Invalid {
                    path: name,
                    what: format!("the overlay is for a disk of {size} bytes, and {what} has {other}"),
                });
            }
        }
        data.sync()?;
        map.sync()?;
        Ok(Self {
            name,
            base,
            map: Map::load(map, size.div_ceil(description.granule_bytes))?,
            description,
            data,
            ranges: RangeLocks::default(),
            gate: RwLock::new(false),
            begun: AtomicU64::new(0),
            ended: Mutex::new(0),
            is_broken: AtomicBool::new(false),
        })
    }

    /// What the map beside `path` says of itself, without opening the overlay: also while somebody else has it open.
    ///
    /// # Errors
    /// There is no map, or it is damaged.
    pub fn describe(path: &Path) -> Result<Description> {
        let name = map_path(path);
        let file =
            OpenOptions::new().read(true).open(&name).map_err(|source| Error::open(&name, "open", source))?;
        read_header(&RealFile::from_file(file, &name)?)
    }

    /// Whether `path` has a map beside it.
    #[must_use]
    pub fn exists(path: &Path) -> bool {
        map_path(path).symlink_metadata().is_ok()
    }

    /// What the header says.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// What the guest wrote, in bytes from the start of the disk, in order and in whole granules.
    #[must_use]
    pub fn changed_ranges(&self) -> Vec<Range<u64>> {
        self.map.changed().into_iter().map(|granules| self.bytes_of(granules)).collect()
    }

    /// Bytes that need the base no more.
    #[must_use]
    pub fn local_bytes(&self) -> u64 {
        (self.map.counts().0.saturating_mul(self.granule())).min(self.virtual_size())
    }

    /// Bytes that the guest wrote.
    #[must_use]
    pub fn changed_bytes(&self) -> u64 {
        (self.map.counts().1.saturating_mul(self.granule())).min(self.virtual_size())
    }

    /// Whether nothing needs the base any more: the local file is then the whole disk.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.map.counts().0 == self.granules()
    }

    /// Pages of the map of which a write did not end, so that the state before it is used. None, unless the machine lost
    /// its power or the medium is bad.
    #[must_use]
    pub fn torn_pages(&self) -> u64 {
        self.map.torn_pages()
    }

    /// Fetches everything that is not local, with several threads, and flushes now and then, so that a rerun continues.
    /// `progress` is told of the base's bytes, also of those that were local already.
    ///
    /// # Errors
    /// The base cannot be read, the local disk is full or fails, or the caller cancelled.
    pub fn hydrate(&self, options: &WorkOptions<'_>) -> Result<()> {
        let pending = AtomicU64::new(0);
        let planner = Planner::new(self.base.as_ref(), self.virtual_size(), 64 << 10);
        run(planner, options, |unit, _| {
            let (offset, length) = unit.range();
            let fetched = self.fetch_range(offset, length)?;
            if pending.fetch_add(fetched, Ordering::Relaxed) + fetched > HYDRATE_FLUSH_BYTES {
                pending.store(0, Ordering::Relaxed);
                self.flush()?;
            }
            Ok(())
        })?;
        self.flush()
    }

    /// Flushes, and ends the writing: later writes are refused. Doing it again does nothing.
    ///
    /// # Errors
    /// Something may not be durable.
    pub fn close(&self) -> Result<()> {
        let mut is_closed = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        if *is_closed {
            return Ok(());
        }
        *is_closed = true;
        self.commit(true)
    }

    /// Deletes the map of a complete overlay: from now on its file is an ordinary raw disk, and what was changed is not
    /// known any more. While it is open elsewhere that goes on with the deleted map.
    ///
    /// # Errors
    /// It cannot be deleted.
    pub fn release(path: &Path) -> Result<()> {
        let map = map_path(path);
        std::fs::remove_file(&map).map_err(|source| Error::open(&map, "remove", source))?;
        sync_directory_of(path).map_err(|source| Error::open(path, "flush the directory of", source))
    }

    fn granule(&self) -> u64 {
        self.description.granule_bytes
    }

    fn granules(&self) -> u64 {
        self.description.virtual_size.div_ceil(self.granule())
    }

    /// The granules that a range of bytes touches.
    fn granules_of(&self, offset: u64, length: u64) -> Range<u64> {
        offset / self.granule()..(offset + length).div_ceil(self.granule())
    }

    /// The granules that lie wholly in a range of bytes; the last of the disk may be short.
    fn inner(&self, offset: u64, end: u64) -> Range<u64> {
        let last = if end == self.virtual_size() { self.granules() } else { end / self.granule() };
        offset.div_ceil(self.granule())..last
    }

    fn bytes_of(&self, granules: Range<u64>) -> Range<u64> {
        granules.start * self.granule()..(granules.end * self.granule()).min(self.virtual_size())
    }

    fn is_local(&self, granule: u64) -> bool {
        self.map.all_local(granule..granule + 1)
    }

    /// Lets a writer in.
    fn enter(&self, offset: u64, length: u64) -> Result<RwLockReadGuard<'_, bool>> {
        check_range(&self.name, offset, length, self.virtual_size())?;
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        if *gate {
            return Err(Error::Invalid { path: self.name.clone(), what: "the overlay is closed".to_owned() });
        }
        self.check_sound()?;
        Ok(gate)
    }

    fn check_sound(&self) -> Result<()> {
        if !self.is_broken.load(Ordering::Acquire) {
            return Ok(());
        }
        let source = std::io::Error::other(
            "an earlier flush failed, and nothing written since the one before it is safe: mend the disk and open the overlay anew",
        );
        Err(Error::Io { path: self.name.clone(), action: "write", offset: 0, length: 0, source })
    }

    /// Brings everything written so far to stable storage. Who comes while one is under way shares the next with others
    /// that came.
    fn commit(&self, is_last: bool) -> Result<()> {
        let wanted = self.begun.load(Ordering::SeqCst) + 1;
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended >= wanted && !is_last {
            return Ok(());
        }
        self.check_sound()?;
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let outgoing = self.map.outgoing(is_last);
        self.must_sync(self.data.sync())?;
        if !outgoing.is_empty() {
            self.map.write(&outgoing)?;
            self.must_sync(self.map.sync())?;
            self.map.settle(&outgoing);
        }
        *ended = number;
        Ok(())
    }

    fn must_sync(&self, result: Result<()>) -> Result<()> {
        self.is_broken.fetch_or(result.is_err(), Ordering::AcqRel);
        result
    }

    /// Sees to it that granules which are local may be written in place.
    fn prepare(&self, granules: Range<u64>) -> Result<()> {
        while !self.map.prepare(granules.clone()) {
            self.commit(false)?;
        }
        Ok(())
    }

    /// Writes to granules that the caller holds.
    fn write_held(&self, _held: &Held<'_>, data: &[u8], offset: u64) -> Result<()> {
        let end = offset + data.len() as u64;
        let granules = self.granules_of(offset, data.len() as u64);
        self.map.reserve(granules.clone())?;
        self.prepare(granules.clone())?;
        let whole = self.bytes_of(granules.clone());
        if whole.start < offset && !self.is_local(granules.start) {
            self.complete(whole.start..offset)?;
        }
        // Where the write lies in one granule, both its sides are completed.
        if end < whole.end && !self.is_local(granules.end - 1) {
            self.complete(end..whole.end)?;
        }
        self.data.write_at(data, offset)?;
        self.map.mark(granules, true);
        Ok(())
    }

    /// Copies a part of a granule from the base.
    fn complete(&self, bytes: Range<u64>) -> Result<()> {
        let mut part = vec![0; (bytes.end - bytes.start) as usize];
        self.base.read_at(&mut part, bytes.start)?;
        self.data.write_at(&part, bytes.start)
    }

    /// Zeros granules that the caller holds. What is not local and reads as zeros stays as it is.
    fn zero_held(&self, granules: Range<u64>, may_unmap: bool) -> Result<()> {
        let mut position = granules.start;
        while position < granules.end {
            let (local, end) = self.map.run(position..granules.end);
            if local {
                self.zero_granules(position..end, may_unmap)?;
            } else {
                for run in self.base_data(position..end)? {
                    self.zero_granules(run, may_unmap)?;
                }
            }
            position = end;
        }
        Ok(())
    }

    fn zero_granules(&self, granules: Range<u64>, may_unmap: bool) -> Result<()> {
        self.map.reserve(granules.clone())?;
        self.prepare(granules.clone())?;
        let bytes = self.bytes_of(granules.clone());
        self.data.zero_at(bytes.start, bytes.end - bytes.start, may_unmap)?;
        self.map.mark(granules, true);
        Ok(())
    }

    /// The granules of a range for which the base has data.
    fn base_data(&self, granules: Range<u64>) -> Result<Vec<Range<u64>>> {
        let bytes = self.bytes_of(granules);
        let mut found: Vec<Range<u64>> = Vec::new();
        walk_extents::<Error>(self.base.as_ref(), bytes.start, bytes.end - bytes.start, |extent| {
            if extent.kind.is_data() {
                let run = self.granules_of(extent.offset, extent.length);
                match found.last_mut() {
                    Some(last) if last.end >= run.start => last.end = run.end,
                    _ => found.push(run),
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Fetches what is not local of a range, and returns how many bytes of data that were.
    fn fetch_range(&self, offset: u64, length: u64) -> Result<u64> {
        let _gate = self.enter(offset, length)?;
        let granules = if length == 0 { 0..0 } else { self.granules_of(offset, length) };
        let (mut position, mut fetched) = (granules.start, 0);
        while position < granules.end {
            let (local, end) = self.map.run(position..granules.end);
            if local {
                position = end;
                continue;
            }
            let (is_data, until) = self.base_run(position..end)?;
            self.fetch(position..until, is_data)?;
            fetched += if is_data { (until - position) * self.granule() } else { 0 };
            position = until;
        }
        Ok(fetched)
    }

    /// Fetches what is not local of a few granules.
    fn fetch(&self, granules: Range<u64>, is_data: bool) -> Result<()> {
        let _held = self.ranges.hold(granules.clone());
        let mut position = granules.start;
        while position < granules.end {
            let (local, end) = self.map.run(position..granules.end);
            if !local {
                self.map.reserve(position..end)?;
                let bytes = self.bytes_of(position..end);
                if is_data {
                    self.fetch_data(bytes)?;
                } else {
                    self.data.zero_at(bytes.start, bytes.end - bytes.start, true)?;
                }
                self.map.mark(position..end, false);
            }
            position = end;
        }
        Ok(())
    }

    fn fetch_data(&self, bytes: Range<u64>) -> Result<()> {
        let mut buffer = vec![0; (bytes.end - bytes.start) as usize];
        self.base.read_at(&mut buffer, bytes.start)?;
        split_zeros(&buffer, HOLE_BYTES, |start, end, zero| {
            let offset = bytes.start + start as u64;
            if zero {
                self.data.zero_at(offset, (end - start) as u64, true)
            } else {
                self.data.write_at(&buffer[start..end], offset)
            }
        })
    }

    /// How far from a granule on the base is all data, or all zeros, in whole granules.
    fn base_run(&self, granules: Range<u64>) -> Result<(bool, u64)> {
        let bytes = self.bytes_of(granules.clone());
        let mut end = bytes.start;
        let mut kind = None;
        for extent in self.base.extents(bytes.start, bytes.end - bytes.start)? {
            if kind.is_some_and(|kind| kind != extent.kind.is_data()) {
                break;
            }
            kind = Some(extent.kind.is_data());
            end = extent.end();
        }
        let whole = if end == bytes.end { granules.end } else { end / self.granule() };
        match kind {
            Some(false) if whole > granules.start => {
                Ok((false, whole.min(granules.start + (FETCH_ZEROS / self.granule()).max(1))))
            }
            _ => {
                let most = (granules.start + (FETCH_BYTES / self.granule()).max(1)).min(granules.end);
                Ok((true, end.div_ceil(self.granule()).clamp(granules.start + 1, most)))
            }
        }
    }
}

impl Source for Overlay {
    fn virtual_size(&self) -> u64 {
        self.description.virtual_size
    }

    fn info(&self) -> Info {
        Info {
            format: Format::Raw,
            virtual_size: self.virtual_size(),
            allocated_bytes: None,
            details: vec![
                ("overlay on", self.description.base.clone()),
                ("local bytes", self.local_bytes().to_string()),
                ("changed bytes", self.changed_bytes().to_string()),
            ],
        }
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range(&self.name, offset, length, self.virtual_size())?;
        let mut found = Vec::new();
        let (mut position, end) = (offset, offset + length);
        while position < end && found.len() < EXTENTS_MAX {
            let (local, run) = self.map.run(self.granules_of(position, end - position));
            let until = (run * self.granule()).min(end);
            let part = if local {
                self.data.extents(position, until - position)?
            } else {
                self.base.extents(position, until - position)?
            };
            for extent in part {
                position = extent.end();
                let kind = match extent.kind {
                    ExtentKind::Unallocated if local => ExtentKind::Zero,
                    kind => kind,
                };
                Extent { kind, ..extent }.push_merged(&mut found);
            }
        }
        Ok(found)
    }

    fn is_at_hand(&self, offset: u64, length: u64) -> bool {
        // The local file may have to come from its disk first.
        let (local, run) = self.map.run(self.granules_of(offset, length));
        !local
            && run.saturating_mul(self.granule()) >= offset + length
            && self.base.is_at_hand(offset, length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        check_range(&self.name, offset, buffer.len() as u64, self.virtual_size())?;
        let (mut position, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let (local, run) = self.map.run(self.granules_of(position, rest.len() as u64));
            let length = (run * self.granule() - position).min(rest.len() as u64);
            let (part, behind) = rest.split_at_mut(length as usize);
            if local {
                self.data.read_at(part, position)?;
            } else {
                self.base.read_at(part, position)?;
            }
            (position, rest) = (position + length, behind);
        }
        Ok(())
    }
}

impl Writable for Overlay {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let _gate = self.enter(offset, data.len() as u64)?;
        if data.is_empty() {
            return Ok(());
        }
        let granules = self.granules_of(offset, data.len() as u64);
        if self.map.all_local(granules.clone()) {
            self.prepare(granules)?;
            return self.data.write_at(data, offset);
        }
        let held = self.ranges.hold(granules);
        self.write_held(&held, data, offset)
    }

    fn zero_at(&self, offset: u64, length: u64, may_unmap: bool) -> Result<()> {
        let _gate = self.enter(offset, length)?;
        if length == 0 {
            return Ok(());
        }
        let granules = self.granules_of(offset, length);
        if self.map.all_local(granules.clone()) {
            self.prepare(granules)?;
            return self.data.zero_at(offset, length, may_unmap);
        }
        let held = self.ranges.hold(granules);
        let end = offset + length;
        let inner = self.inner(offset, end);
        if inner.is_empty() {
            return self.write_held(&held, &vec![0; length as usize], offset);
        }
        let bytes = self.bytes_of(inner.clone());
        for edge in [offset..bytes.start, bytes.end..end] {
            if !edge.is_empty() {
                self.write_held(&held, &vec![0; (edge.end - edge.start) as usize], edge.start)?;
            }
        }
        self.zero_held(inner, may_unmap)
    }

    /// Zeros whole granules, so that reads stay the same; the rest of the range stays as it is.
    fn trim(&self, offset: u64, length: u64) -> Result<()> {
        let _gate = self.enter(offset, length)?;
        let inner = self.inner(offset, offset + length);
        if inner.is_empty() {
            return Ok(());
        }
        let _held = self.ranges.hold(inner.clone());
        self.zero_held(inner, true)
    }

    fn flush(&self) -> Result<()> {
        let _gate = self.enter(0, 0)?;
        self.commit(false)
    }

    fn cache(&self, offset: u64, length: u64) -> Result<()> {
        self.fetch_range(offset, length).map(|_| ())
    }
}

impl Device for Overlay {
    fn source(&self) -> &dyn Source {
        self
    }

    fn writable(&self) -> Option<&dyn Writable> {
        Some(self)
    }
}

impl Drop for Overlay {
    /// Closes it. Who wants to know whether that worked calls [`Overlay::close`] before.
    fn drop(&mut self) {
        let _ = self.close();
    }
}

fn read_header(map: &dyn LocalFile) -> Result<Description> {
    let mut bytes = [0; HEADER_BYTES];
    map.read_at(&mut bytes, 0)?;
    Description::decode(&bytes, map.name())
}

/// The file of a new overlay. One that a crash left behind before there was a map is taken: it holds nothing.
fn make_disk(path: &Path, virtual_size: u64) -> Result<()> {
    let made = match OpenOptions::new().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let is_left_over = path.symlink_metadata().is_ok_and(|found| {
                found.is_file() && found.blocks() == 0 && (found.len() == virtual_size || found.len() == 0)
            });
            if !is_left_over {
                return Err(Error::WouldOverwrite {
                    path: path.display().to_string(),
                    what: "the file exists and is no overlay".to_owned(),
                });
            }
            OpenOptions::new().write(true).open(path)
        }
        other => other,
    };
    let file = made.map_err(|source| Error::open(path, "create", source))?;
    file.set_len(virtual_size)
        .and_then(|()| file.sync_all())
        .map_err(|source| Error::open(path, "set the length of", source))
}
