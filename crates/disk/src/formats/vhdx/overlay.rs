//! Bytes that stand over those of a file: the log's, until somebody writes them into the image.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Error, Extent, ExtentKind, Result, SharedStorage, Storage};

/// A file seen through changes of it. Past the file's end, and where nothing else stands, it reads as zeros.
pub(super) struct Overlay {
    below: SharedStorage,
    size: u64,
    /// By first byte; disjoint.
    patches: BTreeMap<u64, Patch>,
}

#[derive(Clone)]
struct Patch {
    end: u64,
    /// The bytes, or none for zeros.
    bytes: Option<Arc<[u8]>>,
}

impl Overlay {
    /// The file `below` grown to `size` bytes, without changes. `size` is not less than the file's.
    pub(super) fn new(below: SharedStorage, size: u64) -> Self {
        Self { below, size, patches: BTreeMap::new() }
    }

    /// Puts bytes at `offset`, over what stood there.
    pub(super) fn put(&mut self, offset: u64, bytes: &[u8]) {
        self.insert(offset, bytes.len() as u64, Some(bytes.into()));
    }

    /// Puts zeros at `offset`, over what stood there.
    pub(super) fn put_zeros(&mut self, offset: u64, length: u64) {
        self.insert(offset, length, None);
    }

    fn insert(&mut self, offset: u64, length: u64, bytes: Option<Arc<[u8]>>) {
        let end = offset.saturating_add(length);
        if length == 0 {
            return;
        }
        self.cut(offset);
        self.cut(end);
        let under: Vec<u64> = self.patches.range(offset..end).map(|(start, _)| *start).collect();
        for start in under {
            self.patches.remove(&start);
        }
        self.patches.insert(offset, Patch { end, bytes });
    }

    /// Splits the patch that lies across `place`.
    fn cut(&mut self, place: u64) {
        let Some((&start, patch)) = self.patches.range_mut(..place).next_back() else { return };
        if patch.end <= place {
            return;
        }
        let after = Patch {
            end: patch.end,
            bytes: patch.bytes.as_ref().map(|bytes| bytes[(place - start) as usize..].into()),
        };
        patch.end = place;
        if let Some(bytes) = &mut patch.bytes {
            *bytes = bytes[..(place - start) as usize].into();
        }
        self.patches.insert(place, after);
    }

    /// What stands at `offset`: a patch with its start, or none up to where the next begins.
    fn at(&self, offset: u64) -> (Option<(u64, &Patch)>, u64) {
        if let Some((&start, patch)) = self.patches.range(..=offset).next_back()
            && patch.end > offset
        {
            return (Some((start, patch)), patch.end);
        }
        let next = self.patches.range(offset..).next().map_or(u64::MAX, |(start, _)| *start);
        (None, next)
    }

    fn read_below(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let held = self.below.size().saturating_sub(offset).min(buffer.len() as u64);
        let (held, beyond) = buffer.split_at_mut(held as usize);
        beyond.fill(0);
        if held.is_empty() { Ok(()) } else { self.below.read_at(held, offset) }
    }

    fn extents_below(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        match self.below.size().saturating_sub(offset).min(length) {
            0 => Ok(vec![Extent { offset, length, kind: ExtentKind::Unallocated }]),
            held => self.below.extents(offset, held),
        }
    }
}

impl Storage for Overlay {
    fn name(&self) -> &str {
        self.below.name()
    }

    fn path(&self) -> Option<&std::path::Path> {
        self.below.path()
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.size) {
            return Err(Error::Io {
                path: self.name().to_owned(),
                action: "read",
                offset,
                length: buffer.len() as u64,
                source: std::io::ErrorKind::UnexpectedEof.into(),
            });
        }
        let mut done = 0;
        while done < buffer.len() {
            let position = offset + done as u64;
            let (patch, end) = self.at(position);
            let length = (end - position).min((buffer.len() - done) as u64) as usize;
            let part = &mut buffer[done..done + length];
            match patch {
                None => self.read_below(part, position)?,
                Some((_, Patch { bytes: None, .. })) => part.fill(0),
                Some((start, Patch { bytes: Some(bytes), .. })) => {
                    part.copy_from_slice(&bytes[(position - start) as usize..][..length]);
                }
            }
            done += length;
        }
        Ok(())
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let (patch, end) = self.at(offset);
        let length = (end - offset).min(length);
        match patch {
            None => self.extents_below(offset, length),
            Some((_, patch)) => {
                let kind = if patch.bytes.is_some() { ExtentKind::Data } else { ExtentKind::Zero };
                Ok(vec![Extent { offset, length, kind }])
            }
        }
    }

    fn allocated_bytes(&self) -> Option<u64> {
        self.below.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;

    #[test]
    fn an_overlay_reads_as_if_its_patches_had_been_written() {
        let mut plain = vec![7_u8; 300];
        plain.resize(400, 0);
        let below = Arc::new(MemoryStorage::new("image", vec![7_u8; 300]));
        let mut overlay = Overlay::new(below, 400);
        let patches =
            [(10, 20, 1), (15, 5, 0), (290, 60, 2), (0, 12, 3), (299, 2, 0), (5, 300, 0), (100, 8, 9)];
        for (offset, length, value) in patches {
            plain[offset..offset + length].fill(value);
            match value {
                0 => overlay.put_zeros(offset as u64, length as u64),
                value => overlay.put(offset as u64, &vec![value; length]),
            }
            for start in [0, 3, 14, 99, 250, 399] {
                let mut bytes = vec![0xee; 400 - start];
                overlay.read_at(&mut bytes, start as u64).unwrap();
                assert_eq!(bytes, plain[start..]);
            }
            let mut position = 0;
            while position < 400 {
                for extent in overlay.extents(position, 400 - position).unwrap() {
                    assert_eq!(extent.offset, position);
                    position = extent.end();
                    let range = extent.offset as usize..position as usize;
                    assert!(extent.kind.is_data() || plain[range].iter().all(|byte| *byte == 0));
                }
            }
        }
        assert!(overlay.read_at(&mut [0; 2], 399).is_err());
    }
}
