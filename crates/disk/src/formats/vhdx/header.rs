//! The two headers; [MS-VHDX] 2.2.2.

use super::super::bytes::{le16, le32, le64};
use super::super::image_file::ImageFile;
use super::MIB;
use super::crc32c::crc32c_without_own;
use super::guid::Guid;
use crate::Result;

const PLACES: [u64; 2] = [64 << 10, 128 << 10];
const HEADER_BYTES: usize = 4096;
/// The largest log that is read; writers use 1 MiB, some up to 32.
const LOG_BYTES_MAX: u64 = 64 << 20;

/// A header, checked.
pub(super) struct Header {
    sequence: u64,
    /// Changes whenever the disk's content does; by it a child knows its parent.
    pub(super) data_write: Guid,
    /// Which entries of the log count; zero when none does.
    pub(super) log: Guid,
    /// Place of the log.
    pub(super) log_offset: u64,
    /// Bytes of the log.
    pub(super) log_bytes: u64,
}

impl Header {
    /// The sound header with the higher sequence number.
    pub(super) fn newest(file: &ImageFile) -> Result<Self> {
        let mut newest: Option<(Self, Vec<u8>)> = None;
        for place in PLACES {
            let bytes = file.read("a header", place, HEADER_BYTES)?;
            if !bytes.starts_with(b"head") || crc32c_without_own(&bytes) != le32(&bytes, 4) {
                continue;
            }
            let header = Self::parse(&bytes);
            if newest.as_ref().is_none_or(|(held, _)| held.sequence < header.sequence) {
                newest = Some((header, bytes));
            }
        }
        let Some((header, bytes)) = newest else {
            return Err(file.corrupt("neither header has a right checksum — copy the image again"));
        };
        header.check(file, le16(&bytes, 66), le16(&bytes, 64))?;
        Ok(header)
    }

    fn parse(bytes: &[u8]) -> Self {
        Self {
            sequence: le64(bytes, 8),
            data_write: Guid::at(bytes, 32),
            log: Guid::at(bytes, 48),
            log_bytes: le32(bytes, 68).into(),
            log_offset: le64(bytes, 72),
        }
    }

    fn check(&self, file: &ImageFile, version: u16, log_version: u16) -> Result<()> {
        if version != 1 {
            return Err(file.unsupported(format!("version {version}")));
        }
        if !self.log.is_zero() && log_version != 0 {
            return Err(file.unsupported(format!("log version {log_version}")));
        }
        if !self.log_offset.is_multiple_of(MIB) || !self.log_bytes.is_multiple_of(MIB) {
            return Err(file.corrupt(format!(
                "the log at offset {} ({} bytes) does not lie on whole MiB",
                self.log_offset, self.log_bytes
            )));
        }
        if self.log_bytes > LOG_BYTES_MAX {
            return Err(file.unsupported(format!("a log of {} bytes", self.log_bytes)));
        }
        if self.log_bytes > 0 && self.log_offset < MIB {
            return Err(file.corrupt("the log lies over the headers"));
        }
        file.check("the log", self.log_offset, self.log_bytes)?;
        Ok(())
    }
}
