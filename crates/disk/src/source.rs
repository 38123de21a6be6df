//! Virtual disks that can be read.

use std::sync::Arc;

use serde::Serialize;

use crate::{Error, Format, Result};

/// What a stretch of a virtual disk is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExtentKind {
    /// The image holds bytes for it; they may still all be zero.
    Data,
    /// The image says that it reads as zeros.
    Zero,
    /// The image holds nothing for it; it reads as zeros.
    Unallocated,
}

impl ExtentKind {
    /// Whether bytes have to be read to know the content.
    #[must_use]
    pub fn is_data(self) -> bool {
        self == Self::Data
    }
}

/// A stretch of a virtual disk of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// First byte, from the start of the virtual disk.
    pub offset: u64,
    /// Length in bytes, never 0.
    pub length: u64,
    /// What it is made of.
    pub kind: ExtentKind,
}

impl Extent {
    /// The first byte after this extent.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// Appends this extent to a list, growing the last entry instead where they touch and are of one kind.
    pub fn push_merged(self, list: &mut Vec<Self>) {
        if self.length == 0 {
            return;
        }
        match list.last_mut() {
            Some(last) if last.kind == self.kind && last.end() == self.offset => last.length += self.length,
            _ => list.push(self),
        }
    }
}

/// What `disk info` tells of an image.
#[derive(Debug, Clone, Serialize)]
pub struct Info {
    /// Format of the image.
    pub format: Format,
    /// Size of the disk that a guest sees, in bytes.
    pub virtual_size: u64,
    /// Bytes that the image's own file or files take on their medium; `None` where it cannot be told.
    pub allocated_bytes: Option<u64>,
    /// Format specific facts, as name and value: `cluster size`, `subformat`, `compression` …
    pub details: Vec<(&'static str, String)>,
}

/// A virtual disk that can be read, from many threads at once.
pub trait Source: Send + Sync {
    /// Size of the disk that a guest sees, in bytes.
    fn virtual_size(&self) -> u64;

    /// Facts about the image.
    fn info(&self) -> Info;

    /// The extents from `offset` on, in order and without gaps: the first begins at `offset`, none is empty, and none
    /// reaches past `offset + length`. An implementation may stop early (a bound on work and memory), but returns at
    /// least one extent when `length` is not 0. `offset + length` must lie within the disk.
    ///
    /// Data is never called zero or unallocated.
    ///
    /// # Errors
    /// The image is damaged, cannot be read, or the range lies outside the disk.
    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>>;

    /// Fills `buffer` from the disk, beginning at `offset`. The whole range must lie within the disk.
    ///
    /// # Errors
    /// The image is damaged, cannot be read, or the range lies outside the disk.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// Whether reading a range now would take about as long as copying it, with nothing to wait for. A guess that may be
    /// wrong either way, from what is known without waiting; the range must lie within the disk.
    fn is_at_hand(&self, offset: u64, length: u64) -> bool {
        let _ = (offset, length);
        false
    }

    /// Names of the internal snapshots, oldest first; empty where the format or the image has none.
    fn internal_snapshots(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A source shared between threads.
pub type SharedSource = Arc<dyn Source>;

/// Calls `visit` with every extent of `source` between `offset` and `offset + length`, in order.
/// Neighbours of one kind may come apart.
///
/// # Errors
/// Those of [`Source::extents`], and those of `visit`.
pub fn walk_extents<E: From<Error>>(
    source: &dyn Source,
    offset: u64,
    length: u64,
    mut visit: impl FnMut(Extent) -> Result<(), E>,
) -> Result<(), E> {
    let end = offset.saturating_add(length).min(source.virtual_size());
    let mut position = offset;
    while position < end {
        for extent in source.extents(position, end - position)? {
            position = extent.end();
            visit(extent)?;
        }
    }
    Ok(())
}

/// Refuses a range that reaches past the end of the disk.
///
/// # Errors
/// [`Error::OutOfRange`].
pub(crate) fn check_range(path: &str, offset: u64, length: u64, virtual_size: u64) -> Result<()> {
    match offset.checked_add(length) {
        Some(end) if end <= virtual_size => Ok(()),
        _ => Err(Error::OutOfRange { path: path.to_owned(), offset, length, virtual_size }),
    }
}
