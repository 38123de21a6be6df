//! The disk of a running machine as it was at one moment.
//!
//! What the guest has not overwritten since is read from the disk itself, the rest from the overlay into which QEMU
//! copied it before. Which of the two is asked *after* the disk was read: QEMU has copied before it lets the guest write,
//! so what the overlay still lacks when the bytes have arrived was not touched while they were read. What it has by
//! then is read again, from there, where it does not change any more.

use std::sync::atomic::{AtomicU64, Ordering};

use leeward_disk::nbd::NbdDisk;
use leeward_disk::{Extent, ExtentKind, Info, Result, Source};

/// The context that tells which node of a chain has a range; 0 for none of them.
pub(super) const DEPTH: &str = "qemu:allocation-depth";
/// One call for extents looks at so much, at most.
const EXTENTS_BYTES_MAX: u64 = 1 << 30;

/// A disk at the moment of its capture.
pub struct CaptureSource {
    disk: NbdDisk,
    overlay: NbdDisk,
    disk_bytes: AtomicU64,
    overlay_bytes: AtomicU64,
}

impl CaptureSource {
    pub(super) fn new(disk: NbdDisk, overlay: NbdDisk) -> Self {
        Self { disk, overlay, disk_bytes: AtomicU64::new(0), overlay_bytes: AtomicU64::new(0) }
    }

    /// Bytes read from the disk so far.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes.load(Ordering::Relaxed)
    }

    /// Bytes read again, from what the guest had overwritten.
    #[must_use]
    pub fn overlay_bytes(&self) -> u64 {
        self.overlay_bytes.load(Ordering::Relaxed)
    }

    /// What a dirty bitmap of the disk marks, as offset and length, in order and apart. `context` is its meta context.
    ///
    /// # Errors
    /// The connection breaks.
    pub(super) fn marked(&self, context: &str) -> Result<Vec<(u64, u64)>> {
        let size = self.disk_size();
        let mut found: Vec<(u64, u64)> = Vec::new();
        let mut position = 0;
        while position < size {
            let length = EXTENTS_BYTES_MAX.min(size - position);
            let ranges = self.disk.ranges(context, position, length)?;
            for (offset, length, _) in ranges.into_iter().filter(|(.., flags)| flags & 1 != 0) {
                match found.last_mut() {
                    Some(last) if last.0 + last.1 == offset => last.1 += length,
                    _ => found.push((offset, length)),
                }
            }
            position += length;
        }
        Ok(found)
    }

    fn disk_size(&self) -> u64 {
        Source::virtual_size(&self.disk)
    }
}

impl Source for CaptureSource {
    fn virtual_size(&self) -> u64 {
        self.disk_size()
    }

    fn info(&self) -> Info {
        self.disk.info()
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        let told = self.disk.extents(offset, length.min(EXTENTS_BYTES_MAX))?;
        let Some(end) = told.last().map(Extent::end) else { return Ok(told) };
        // As with reading: what is not in the overlay by now was as the disk said.
        let saved = self.overlay.ranges(DEPTH, offset, end - offset)?;
        let mut found = Vec::new();
        let mut position = offset;
        let (mut of_disk, mut of_overlay) = (told.into_iter().peekable(), saved.into_iter().peekable());
        // Both tell of the same range without gaps: each step goes to the next end of either.
        while let (Some(extent), Some(&(start, length, depth))) = (of_disk.peek(), of_overlay.peek()) {
            let (disk_end, overlay_end) = (extent.end(), start + length);
            let next = disk_end.min(overlay_end);
            let kind = if depth > 0 { ExtentKind::Data } else { extent.kind };
            Extent { offset: position, length: next - position, kind }.push_merged(&mut found);
            if next == disk_end {
                of_disk.next();
            }
            if next == overlay_end {
                of_overlay.next();
            }
            position = next;
        }
        Ok(found)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.disk.read_at(buffer, offset)?;
        self.disk_bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        if buffer.is_empty() {
            return Ok(());
        }
        let saved = self.overlay.ranges(DEPTH, offset, buffer.len() as u64)?;
        for (start, length, _) in saved.into_iter().filter(|(.., depth)| *depth > 0) {
            let from = (start - offset) as usize;
            self.overlay.read_at(&mut buffer[from..from + length as usize], start)?;
            self.overlay_bytes.fetch_add(length, Ordering::Relaxed);
        }
        Ok(())
    }
}
