//! A disk described by where each stretch of it lies; what the sparse formats have in common.

use std::sync::Arc;

use crate::source::check_range;
use crate::{Extent, ExtentKind, Info, Result, SharedStorage, Source};

/// Table look-ups in one call of `extents`, at most.
const LOOKUPS_MAX: usize = 1 << 16;
/// Extents returned by one call, at most.
const EXTENTS_MAX: usize = 4096;

/// Where a stretch of a disk lies.
pub(crate) struct Run<'a> {
    /// Length in bytes: at least 1, at most what was asked for.
    pub(crate) length: u64,
    /// Where its bytes come from.
    pub(crate) content: Content<'a>,
}

/// Where bytes come from.
pub(crate) enum Content<'a> {
    /// They lie in a file as they are, from `offset` on, checked to be inside it.
    Stored {
        /// The file.
        storage: &'a SharedStorage,
        /// First byte in the file.
        offset: u64,
    },
    /// They are the bytes after the first `skip` of a packed block.
    Packed {
        /// Who unpacks it.
        packed: &'a dyn Packed,
        /// Number of the block, for its reader.
        block: u64,
        /// Bytes of the block before the run.
        skip: usize,
    },
    /// The image says that they are zeros.
    Zero,
    /// The image holds nothing for them.
    Unallocated,
    /// They are what the parent has at the same place, and nothing beyond the parent's end.
    Parent(&'a dyn Source),
}

/// Blocks that must be unpacked.
pub(crate) trait Packed: Send + Sync {
    /// The whole block.
    fn unpack(&self, block: u64) -> Result<Arc<[u8]>>;
}

/// The map of a disk.
pub(crate) trait Mapping: Send + Sync {
    /// Where the image lies, for messages.
    fn name(&self) -> &str;

    /// Size of the disk in bytes.
    fn virtual_size(&self) -> u64;

    /// Facts about the image.
    fn info(&self) -> Info;

    /// The run that begins at `offset`, of at most `length` bytes. The range lies inside the disk and is not empty.
    fn run(&self, offset: u64, length: u64) -> Result<Run<'_>>;
}

/// A mapping as a source.
pub(crate) struct Mapped<M>(pub(crate) M);

impl<M: Mapping> Mapped<M> {
    /// The run at `offset`, joined with those that go on where it ends: neighbouring blocks are one read, one extent.
    fn joined(&self, offset: u64, length: u64, lookups: &mut usize) -> Result<Run<'_>> {
        let mut first = self.0.run(offset, length)?;
        *lookups = lookups.saturating_sub(1);
        while first.length < length && *lookups > 0 && !matches!(first.content, Content::Packed { .. }) {
            let next = self.0.run(offset + first.length, length - first.length)?;
            if !goes_on(&first, &next.content) {
                break;
            }
            *lookups = lookups.saturating_sub(1);
            first.length += next.length;
        }
        Ok(first)
    }
}

fn goes_on(run: &Run<'_>, next: &Content<'_>) -> bool {
    match (&run.content, next) {
        (Content::Stored { storage, offset }, Content::Stored { storage: other, offset: place }) => {
            Arc::ptr_eq(storage, other) && offset.checked_add(run.length) == Some(*place)
        }
        (Content::Zero, Content::Zero)
        | (Content::Unallocated, Content::Unallocated)
        | (Content::Parent(_), Content::Parent(_)) => true,
        _ => false,
    }
}

/// What of a range of `length` bytes at `offset` lies inside a parent of `size` bytes.
fn inside(size: u64, offset: u64, length: u64) -> u64 {
    size.saturating_sub(offset).min(length)
}

/// The extents of a run that begins at `position` of the disk.
fn extents_of(run: &Run<'_>, position: u64) -> Result<Vec<Extent>> {
    let whole = |kind| vec![Extent { offset: position, length: run.length, kind }];
    Ok(match run.content {
        Content::Zero => whole(ExtentKind::Zero),
        Content::Unallocated => whole(ExtentKind::Unallocated),
        Content::Packed { .. } => whole(ExtentKind::Data),
        Content::Stored { storage, offset } => {
            let mut extents = storage.extents(offset, run.length)?;
            for extent in &mut extents {
                extent.offset = extent.offset - offset + position;
            }
            // A file that shrinks while it is read: the read will say so.
            if extents.is_empty() { whole(ExtentKind::Data) } else { extents }
        }
        Content::Parent(parent) => match inside(parent.virtual_size(), position, run.length) {
            0 => whole(ExtentKind::Unallocated),
            length => parent.extents(position, length)?,
        },
    })
}

fn read_run(run: &Run<'_>, buffer: &mut [u8], position: u64) -> Result<()> {
    match run.content {
        Content::Zero | Content::Unallocated => buffer.fill(0),
        Content::Stored { storage, offset } => storage.read_at(buffer, offset)?,
        Content::Packed { packed, block, skip } => {
            let bytes = packed.unpack(block)?;
            let bytes = bytes.get(skip..).unwrap_or_default();
            let (held, rest) = buffer.split_at_mut(bytes.len().min(buffer.len()));
            held.copy_from_slice(&bytes[..held.len()]);
            rest.fill(0);
        }
        Content::Parent(parent) => {
            let length = inside(parent.virtual_size(), position, buffer.len() as u64);
            let (below, beyond) = buffer.split_at_mut(length as usize);
            if !below.is_empty() {
                parent.read_at(below, position)?;
            }
            beyond.fill(0);
        }
    }
    Ok(())
}

impl<M: Mapping> Source for Mapped<M> {
    fn virtual_size(&self) -> u64 {
        self.0.virtual_size()
    }

    fn info(&self) -> Info {
        self.0.info()
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range(self.0.name(), offset, length, self.virtual_size())?;
        let end = offset + length;
        let mut lookups = LOOKUPS_MAX;
        let mut found = Vec::new();
        let mut position = offset;
        while position < end && lookups > 0 && found.len() < EXTENTS_MAX {
            let run = self.joined(position, end - position, &mut lookups)?;
            for extent in extents_of(&run, position)? {
                position = extent.end();
                extent.push_merged(&mut found);
            }
        }
        Ok(found)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.0.name(), offset, buffer.len() as u64, self.virtual_size())?;
        let mut done = 0;
        while done < buffer.len() {
            let rest = &mut buffer[done..];
            let position = offset + done as u64;
            let run = self.joined(position, rest.len() as u64, &mut usize::MAX.clone())?;
            let length = run.length as usize;
            read_run(&run, &mut rest[..length], position)?;
            done += length;
        }
        Ok(())
    }
}
