//! What a server serves.

use crate::{Result, SharedSource, Source};

/// A disk that an NBD server can serve.
///
/// The server calls it from many threads at once, and only with ranges that lie within the disk.
pub trait Device: Send + Sync {
    /// Size, extents and reads. The size must not change while the disk is served.
    fn source(&self) -> &dyn Source;

    /// What the server tells of the disk beside its extents; it must not change while the disk is served.
    fn contexts(&self) -> &[Context] {
        &[]
    }

    /// What can be written; `None` where the disk is read-only.
    fn writable(&self) -> Option<&dyn Writable>;
}

/// A meta context that marks ranges of a disk, as QEMU's dirty bitmaps do: flag 1 where marked, 0 elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Its name, with that of its name space: `qemu:dirty-bitmap:NAME` is what clients know.
    pub name: String,
    /// What is marked, as offset and length, in order and apart.
    pub marked: Vec<(u64, u64)>,
}

impl Context {
    /// The stretches of a range, as length and flags.
    pub(super) fn stretches(&self, offset: u64, end: u64) -> impl Iterator<Item = (u64, u32)> {
        let mut next = self.marked.partition_point(|(start, length)| start.saturating_add(*length) <= offset);
        let mut position = offset;
        std::iter::from_fn(move || {
            if position >= end {
                return None;
            }
            let (until, flags) = match self.marked.get(next) {
                Some(&(start, length)) if start <= position => {
                    next += 1;
                    (start.saturating_add(length), 1)
                }
                Some(&(start, _)) => (start, 0),
                None => (end, 0),
            };
            let length = until.min(end) - position;
            position += length;
            Some((length, flags))
        })
    }
}

/// The part of a [`Device`] that takes changes.
pub trait Writable: Send + Sync {
    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// The device cannot take it; how much of it was written is then unknown.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Makes a range read as zeros. Only if `may_unmap` is true may the range give its space back.
    ///
    /// # Errors
    /// The device cannot do it; how much was zeroed is then unknown.
    fn zero_at(&self, offset: u64, length: u64, may_unmap: bool) -> Result<()>;

    /// Says that the content of a range is not needed any more. What it reads as from now on is undefined, but stays the
    /// same from read to read. A device may do nothing.
    ///
    /// # Errors
    /// The device failed.
    fn trim(&self, offset: u64, length: u64) -> Result<()>;

    /// Makes all completed writes of all connections durable.
    ///
    /// # Errors
    /// Something may not be durable.
    fn flush(&self) -> Result<()>;

    /// Brings a range to local storage, so that later reads are fast and need no one else (`NBD_CMD_CACHE`).
    ///
    /// # Errors
    /// The range cannot be fetched or kept.
    fn cache(&self, offset: u64, length: u64) -> Result<()>;
}

/// A disk that can be read and not written.
pub struct ReadOnly {
    source: SharedSource,
    contexts: Vec<Context>,
}

impl ReadOnly {
    /// Serves `source` as it is.
    #[must_use]
    pub fn new(source: SharedSource) -> Self {
        Self::with_contexts(source, Vec::new())
    }

    /// Serves `source` and what is marked on it.
    #[must_use]
    pub fn with_contexts(source: SharedSource, contexts: Vec<Context>) -> Self {
        Self { source, contexts }
    }
}

impl Device for ReadOnly {
    fn source(&self) -> &dyn Source {
        self.source.as_ref()
    }

    fn contexts(&self) -> &[Context] {
        &self.contexts
    }

    fn writable(&self) -> Option<&dyn Writable> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_tells_of_every_byte_of_a_range_once() {
        let context = Context { name: "x:y".to_owned(), marked: vec![(10, 5), (20, 10)] };
        let told = |offset, end| context.stretches(offset, end).collect::<Vec<_>>();
        assert_eq!(told(0, 40), [(10, 0), (5, 1), (5, 0), (10, 1), (10, 0)]);
        assert_eq!(told(12, 22), [(3, 1), (5, 0), (2, 1)]);
        assert_eq!(told(15, 20), [(5, 0)]);
        assert_eq!(told(30, 40), [(10, 0)]);
        assert_eq!(told(5, 5), []);
    }
}
