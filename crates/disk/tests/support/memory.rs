//! A disk in memory that can be written, which notes what was asked of it.
#![allow(dead_code, missing_docs, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};

use leeward_disk::nbd::{Device, Writable};
use leeward_disk::{Error, Extent, ExtentKind, Format, Info, Result, Source};

pub const BLOCK: u64 = 4096;

struct Content {
    bytes: Vec<u8>,
    /// What each block is.
    kinds: Vec<ExtentKind>,
}

pub struct MemoryDisk {
    content: RwLock<Content>,
    read_only: bool,
    /// Reads of this offset fail, and those of the next byte panic.
    pub damaged: Option<u64>,
    pub flushes: AtomicU64,
    pub trims: AtomicU64,
    pub unmaps: AtomicU64,
    pub cached: Mutex<Vec<(u64, u64)>>,
    violated: AtomicBool,
}

impl MemoryDisk {
    pub fn new(bytes: Vec<u8>, read_only: bool) -> Self {
        let kind = |block: &[u8]| {
            if leeward_disk::is_zero(block) { ExtentKind::Unallocated } else { ExtentKind::Data }
        };
        let kinds = bytes.chunks(BLOCK as usize).map(kind).collect();
        Self {
            content: RwLock::new(Content { bytes, kinds }),
            read_only,
            damaged: None,
            flushes: AtomicU64::new(0),
            trims: AtomicU64::new(0),
            unmaps: AtomicU64::new(0),
            cached: Mutex::default(),
            violated: AtomicBool::new(false),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.content.read().unwrap().bytes.clone()
    }

    /// Whether something was asked for that the disk does not have.
    pub fn is_violated(&self) -> bool {
        self.violated.load(Ordering::Relaxed)
    }

    fn range(&self, content: &Content, offset: u64, length: usize) -> Result<std::ops::Range<usize>> {
        let size = content.bytes.len() as u64;
        match offset.checked_add(length as u64) {
            Some(end) if end <= size => Ok(offset as usize..end as usize),
            _ => {
                self.violated.store(true, Ordering::Relaxed);
                panic!("the server asks for {length} bytes at {offset} of {size}")
            }
        }
    }

    fn mark(content: &mut Content, range: std::ops::Range<usize>, kind: ExtentKind) {
        let block = BLOCK as usize;
        let end = content.bytes.len();
        for index in range.start / block..range.end.div_ceil(block) {
            let whole = index * block >= range.start && ((index + 1) * block).min(end) <= range.end;
            content.kinds[index] = if whole { kind } else { ExtentKind::Data };
        }
    }
}

impl Source for MemoryDisk {
    fn virtual_size(&self) -> u64 {
        self.content.read().unwrap().bytes.len() as u64
    }

    fn info(&self) -> Info {
        Info {
            format: Format::Raw,
            virtual_size: self.virtual_size(),
            allocated_bytes: None,
            details: Vec::new(),
        }
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        let content = self.content.read().unwrap();
        assert!(length > 0, "extents of nothing");
        self.range(&content, offset, length as usize)?;
        let mut found = Vec::new();
        let mut position = offset;
        while position < offset + length {
            let end = ((position / BLOCK + 1) * BLOCK).min(offset + length);
            let kind = content.kinds[(position / BLOCK) as usize];
            Extent { offset: position, length: end - position, kind }.push_merged(&mut found);
            position = end;
        }
        Ok(found)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if let Some(damaged) = self.damaged {
            let holds = |byte: u64| (offset..offset + buffer.len() as u64).contains(&byte);
            if holds(damaged) {
                return Err(Error::Corrupt {
                    path: "memory".to_owned(),
                    format: Format::Raw,
                    what: format!("the chunk at {damaged} does not match its digest"),
                });
            }
            assert!(!holds(damaged + 1), "a device that panics, as it should in this test");
        }
        let content = self.content.read().unwrap();
        let range = self.range(&content, offset, buffer.len())?;
        buffer.copy_from_slice(&content.bytes[range]);
        Ok(())
    }
}

impl Device for MemoryDisk {
    fn source(&self) -> &dyn Source {
        self
    }

    fn writable(&self) -> Option<&dyn Writable> {
        (!self.read_only).then_some(self)
    }
}

impl Writable for MemoryDisk {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut content = self.content.write().unwrap();
        let range = self.range(&content, offset, data.len())?;
        content.bytes[range.clone()].copy_from_slice(data);
        Self::mark(&mut content, range, ExtentKind::Data);
        Ok(())
    }

    fn zero_at(&self, offset: u64, length: u64, may_unmap: bool) -> Result<()> {
        let mut content = self.content.write().unwrap();
        let range = self.range(&content, offset, length as usize)?;
        content.bytes[range.clone()].fill(0);
        let kind = if may_unmap { ExtentKind::Unallocated } else { ExtentKind::Zero };
        self.unmaps.fetch_add(u64::from(may_unmap), Ordering::Relaxed);
        Self::mark(&mut content, range, kind);
        Ok(())
    }

    fn trim(&self, offset: u64, length: u64) -> Result<()> {
        self.trims.fetch_add(1, Ordering::Relaxed);
        self.zero_at(offset, length, true)
    }

    fn flush(&self) -> Result<()> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn cache(&self, offset: u64, length: u64) -> Result<()> {
        self.cached.lock().unwrap().push((offset, length));
        Ok(())
    }
}
