//! Reading a file system's disk: metadata through a small cache, content directly.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use leeward_disk::SharedSource;

use crate::{Error, Extent, Result};

/// A source that unpacks what it reads does so for the whole page once.
const PAGE: u64 = 64 << 10;
/// 16 MiB.
const PAGES_MAX: usize = 256;

/// Where a stretch of a file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// Length in bytes, at least 1.
    pub(crate) length: u64,
    /// First byte on the disk; `None` for a hole.
    pub(crate) place: Option<u64>,
}

/// A disk as the readers see it.
pub(crate) struct Disk {
    source: SharedSource,
    kind: &'static str,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    pages: HashMap<u64, Arc<[u8]>>,
    order: VecDeque<u64>,
}

impl Disk {
    /// `kind` is the file system's name, for messages.
    pub(crate) fn new(source: SharedSource, kind: &'static str) -> Self {
        Self { source, kind, cache: Mutex::default() }
    }

    pub(crate) fn source(&self) -> &SharedSource {
        &self.source
    }

    pub(crate) fn size(&self) -> u64 {
        self.source.virtual_size()
    }

    fn check(&self, offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(Error::corrupt(
                self.kind,
                format!(
                    "something should lie at {offset} ({length} bytes), the disk ends at {}",
                    self.size()
                ),
            )),
        }
    }

    /// Metadata: `length` bytes at `offset`. The caller bounds `length`.
    pub(crate) fn bytes(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.check(offset, length as u64)?;
        let mut bytes = Vec::with_capacity(length);
        let mut position = offset;
        while bytes.len() < length {
            let page = self.page(position / PAGE)?;
            let start = (position % PAGE) as usize;
            let part = page.get(start..).unwrap_or_default();
            let part = part.get(..length - bytes.len()).unwrap_or(part);
            if part.is_empty() {
                return Err(Error::corrupt(self.kind, format!("nothing lies at {position}")));
            }
            bytes.extend_from_slice(part);
            position += part.len() as u64;
        }
        Ok(bytes)
    }

    fn page(&self, number: u64) -> Result<Arc<[u8]>> {
        if let Some(page) = self.cache.lock().unwrap_or_else(PoisonError::into_inner).pages.get(&number) {
            return Ok(Arc::clone(page));
        }
        let offset = number * PAGE;
        let length = PAGE.min(self.size().saturating_sub(offset));
        let mut bytes = vec![0; length as usize];
        self.source.read_at(&mut bytes, offset)?;
        let page: Arc<[u8]> = bytes.into();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.order.len() >= PAGES_MAX
            && let Some(oldest) = cache.order.pop_front()
        {
            cache.pages.remove(&oldest);
        }
        if cache.pages.insert(number, Arc::clone(&page)).is_none() {
            cache.order.push_back(number);
        }
        Ok(page)
    }

    /// Content: small pieces through the cache, since small files lie beside each other, large ones past it.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if (buffer.len() as u64) < PAGE {
            buffer.copy_from_slice(&self.bytes(offset, buffer.len())?);
            return Ok(());
        }
        self.check(offset, buffer.len() as u64)?;
        Ok(self.source.read_at(buffer, offset)?)
    }

    /// Reads a file of `size` bytes that `map` gives the runs of.
    pub(crate) fn read_runs(
        &self,
        buffer: &mut [u8],
        offset: u64,
        size: u64,
        mut map: impl FnMut(u64, u64) -> Result<Run>,
    ) -> Result<usize> {
        let length = (buffer.len() as u64).min(size.saturating_sub(offset)) as usize;
        let mut done = 0;
        while done < length {
            let wanted = (length - done) as u64;
            let run = map(offset + done as u64, wanted)?;
            let part = run.length.clamp(1, wanted) as usize;
            let target = buffer.get_mut(done..done + part).unwrap_or_default();
            match run.place {
                Some(place) => self.read(target, place)?,
                None => target.fill(0),
            }
            done += part;
        }
        Ok(length)
    }
}

/// The extent at `offset` of a file of `size` bytes, from its run there.
pub(crate) fn extent(
    offset: u64,
    length: u64,
    size: u64,
    map: impl FnOnce(u64, u64) -> Result<Run>,
) -> Result<Option<Extent>> {
    let length = length.min(size.saturating_sub(offset));
    if length == 0 {
        return Ok(None);
    }
    let run = map(offset, length)?;
    Ok(Some(Extent { offset, length: run.length.clamp(1, length), is_data: run.place.is_some() }))
}
