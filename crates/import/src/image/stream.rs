//! Images that are wrapped in a compression: gzip, Zstandard, xz.
//!
//! What comes out can only be read in order. A raw image needs no more: it is written as it comes. Its size is not known
//! before all of it was seen, and a volume has to be made before it is written; so the object is read twice, first to
//! measure it ([`measure`](super::expand::measure)), when its digest is compared too, then to write it. Other formats inside need seeking: they are
//! expanded into a scratch file where the caller gives room for one ([`Scratch`](super::Scratch)).
//!
//! What a decompressor may take is bounded: a window of 128 MiB (Zstandard), a dictionary of 64 MiB (xz, `-9`).

use std::io::{self, Read};
use std::sync::Arc;

use leeward_disk::{SharedStorage, Storage, is_zero};
use serde::{Deserialize, Serialize};

use super::ahead::{AheadReader, Failure, PARTS_AHEAD};
use crate::digest::DigestCheck;
use crate::ledger::UNIT_BYTES;
use crate::plan::{Feed, Work};
use crate::{Error, Progress, Result, Watch};

/// The largest window of Zstandard, as a power of two.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// What the decompressor of xz may take, in KiB.
const XZ_MEMORY_KIB_MAX: u32 = 96 << 10;
/// The end of a fixed VHD.
pub(super) const FOOTER_BYTES: usize = 512;

/// A compression around an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// gzip, of one or several members.
    Gzip,
    /// Zstandard, of one or several frames.
    Zstd,
    /// xz, of one or several streams.
    Xz,
}

impl Compression {
    /// The compression that a storage begins like.
    pub(super) fn detect(storage: &dyn Storage) -> Result<Option<Self>> {
        let mut start = [0; 6];
        let start = &mut start[..storage.size().min(6) as usize];
        storage.read_at(start, 0)?;
        Ok(if start.starts_with(b"\x1f\x8b\x08") {
            Some(Self::Gzip)
        } else if start.starts_with(b"\x28\xb5\x2f\xfd") {
            Some(Self::Zstd)
        } else if start == b"\xfd7zXZ\0" {
            Some(Self::Xz)
        } else {
            None
        })
    }

    fn open(self, input: AheadReader) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(input)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY_KIB_MAX)),
        })
    }
}

/// What came out of a compression, as it was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expanded {
    /// The version of the object.
    pub version: String,
    /// Bytes that came out.
    pub bytes: u64,
    /// Whether they end with the footer of a fixed VHD, which is no part of the disk.
    pub has_footer: bool,
    /// What came of the digests that are stated for the object.
    pub digest: DigestCheck,
}

impl Expanded {
    /// Size of the disk in bytes.
    pub(super) fn disk_bytes(&self) -> u64 {
        if self.has_footer { self.bytes - FOOTER_BYTES as u64 } else { self.bytes }
    }
}

/// Reads what comes out of a compression.
pub(super) struct Expander {
    reader: Box<dyn Read + Send>,
    failure: Failure,
    name: String,
    bytes: u64,
    bytes_max: u64,
}

impl Expander {
    pub(super) fn new(storage: &SharedStorage, compression: Compression, bytes_max: u64) -> Result<Self> {
        Self::ahead(storage, compression, bytes_max, PARTS_AHEAD)
    }

    /// One that fetches so many parts ahead at most.
    pub(super) fn ahead(
        storage: &SharedStorage,
        compression: Compression,
        bytes_max: u64,
        parts_ahead: u64,
    ) -> Result<Self> {
        let failure = Failure::default();
        let name = storage.name().to_owned();
        let wrong = |error: io::Error| Error::Image { object: name.clone(), what: error.to_string() };
        let input = AheadReader::new(Arc::clone(storage), parts_ahead, failure.clone()).map_err(wrong)?;
        let reader = compression.open(input).map_err(wrong)?;
        Ok(Self { reader, failure, name, bytes: 0, bytes_max })
    }

    /// Bytes that came out so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fills the buffer; less comes at the end only.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
        self.bytes += filled as u64;
        if self.bytes > self.bytes_max {
            return Err(Error::Expands { object: self.name.clone(), bytes_max: self.bytes_max });
        }
        Ok(filled)
    }

    fn failed(&self, error: &io::Error) -> Error {
        match self.failure.take() {
            Some(error) => error.into(),
            None => Error::Image {
                object: self.name.clone(),
                what: format!("the compressed data cannot be read ({error}); upload it again"),
            },
        }
    }
}

/// A raw disk inside of a compression.
pub(crate) struct StreamImage {
    pub(super) storage: SharedStorage,
    pub(super) compression: Compression,
    pub(super) expanded: Expanded,
}

impl StreamImage {
    pub(crate) fn digest(&self) -> &DigestCheck {
        &self.expanded.digest
    }

    /// Work from `position` on: what lies before is expanded and left out.
    pub(crate) fn feed(&self, volume_bytes: u64, position: u64, watch: &dyn Watch) -> Result<StreamFeed> {
        let mut feed = StreamFeed {
            expander: Expander::new(&self.storage, self.compression, self.expanded.bytes)?,
            disk_bytes: self.expanded.disk_bytes(),
            volume_bytes,
            position: 0,
        };
        let mut left = vec![0; UNIT_BYTES as usize];
        while feed.position < position.min(feed.disk_bytes) {
            if watch.is_cancelled() {
                return Err(Error::Cancelled);
            }
            feed.fill(&mut left)?;
            watch.progress(Progress {
                done_bytes: feed.position,
                total_bytes: volume_bytes,
                ..Progress::default()
            });
        }
        feed.position = position;
        Ok(feed)
    }
}

/// Work from a stream.
pub(crate) struct StreamFeed {
    expander: Expander,
    disk_bytes: u64,
    volume_bytes: u64,
    position: u64,
}

impl StreamFeed {
    /// Fills the buffer with the next unit of the disk; behind its end with zeros.
    fn fill(&mut self, unit: &mut [u8]) -> Result<()> {
        let of_disk = self.disk_bytes.saturating_sub(self.position).min(unit.len() as u64) as usize;
        let count = self.expander.read(&mut unit[..of_disk])?;
        if count < of_disk {
            return Err(Error::Image {
                object: self.expander.name.clone(),
                what: format!(
                    "{} bytes came out of it, and it was measured at more",
                    self.position + count as u64
                ),
            });
        }
        unit[of_disk..].fill(0);
        self.position += unit.len() as u64;
        Ok(())
    }
}

impl Feed for StreamFeed {
    fn next(&mut self) -> Result<Option<Work>> {
        let offset = self.position;
        if offset >= self.volume_bytes {
            return Ok(None);
        }
        if offset >= self.disk_bytes {
            let length = (self.volume_bytes - offset).min(1 << 30);
            self.position += length;
            return Ok(Some(Work::Zeros { offset, length }));
        }
        let mut unit = vec![0; (self.volume_bytes - offset).min(UNIT_BYTES) as usize];
        self.fill(&mut unit)?;
        let length = unit.len() as u64;
        Ok(Some(if is_zero(&unit) {
            Work::Zeros { offset, length }
        } else {
            Work::Data { offset, length, content: Some(unit) }
        }))
    }
}
