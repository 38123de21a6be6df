//! The header of a sparse extent. Places and lengths are in sectors of 512 bytes.
//!
//! | offset | bytes | meaning |
//! | --- | --- | --- |
//! | 0 | 4 | `KDMV` |
//! | 4 | 4 | version: 1, 2 or 3 |
//! | 8 | 4 | flags |
//! | 12 | 8 | length of the extent |
//! | 20 | 8 | length of a grain |
//! | 28, 36 | 8, 8 | place and length of the embedded descriptor |
//! | 44 | 4 | entries per grain table |
//! | 48 | 8 | place of the redundant grain directory, which we do not use |
//! | 56 | 8 | place of the grain directory; all ones: see the footer |
//! | 73 | 4 | LF, space, CR, LF: damaged by transfers that take the file for text |
//! | 77 | 2 | compression: 0 none, 1 deflate |
//!
//! An image that is written as a stream has its directory at the end. Its *footer*, a copy of the header that knows
//! where, is the last sector but one, between two sectors with *markers*.

use super::super::bytes::{le16, le32, le64};
use super::super::image_file::ImageFile;
use super::{SECTOR_BYTES, SPARSE_SIGNATURE};
use crate::Result;

/// Entries of a grain table, always.
pub(super) const TABLE_ENTRIES: u64 = 512;
const DIRECTORY_IS_AT_END: u64 = u64::MAX;
const NEWLINES: &[u8] = b"\n \r\n";
const MARKER_FOOTER: u32 = 3;

const FLAG_NEWLINES: u32 = 1;
const FLAG_REDUNDANT: u32 = 2;
const FLAG_ZEROED_GRAINS: u32 = 4;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
const FLAGS_KNOWN: u32 = FLAG_NEWLINES | FLAG_REDUNDANT | FLAG_ZEROED_GRAINS | FLAG_COMPRESSED | FLAG_MARKERS;

/// The largest grain, in sectors, that is read; VMware and qemu write 128. It bounds the memory for unpacking.
const GRAIN_SECTORS_MAX: u64 = 4096;
const DESCRIPTOR_SECTORS_MAX: u64 = 2048;

/// What a header says, checked; in bytes.
pub(super) struct Header {
    /// Length of the extent.
    pub(super) disk_bytes: u64,
    /// Length of a grain.
    pub(super) grain_bytes: u64,
    /// Place and length of the embedded descriptor, if there is one.
    pub(super) descriptor: Option<(u64, u64)>,
    /// Place of the grain directory.
    pub(super) directory_offset: u64,
    /// Whether a table entry of 1 stands for a grain of zeros.
    pub(super) zeroed_grains: bool,
    /// Whether grains are compressed.
    pub(super) compressed: bool,
    /// Place of the footer that was used.
    pub(super) footer: Option<u64>,
}

impl Header {
    /// Reads and checks the header, and the footer if the directory is at the end.
    pub(super) fn read(file: &ImageFile) -> Result<Self> {
        let bytes = file.read("the header", 0, SECTOR_BYTES as usize)?;
        if !bytes.starts_with(SPARSE_SIGNATURE) {
            return Err(file.corrupt("it is named as a sparse extent but does not begin like one"));
        }
        if le64(&bytes, 56) != DIRECTORY_IS_AT_END {
            return Self::parse(file, &bytes, None);
        }
        let (place, footer) = footer(file)?;
        for (offset, length) in [(4, 8), (12, 16)] {
            if footer[offset..offset + length] != bytes[offset..offset + length] {
                return Err(file.corrupt("header and footer describe different disks"));
            }
        }
        // The footer need not repeat where the descriptor is.
        let mut header = Self::parse(file, &footer, Some(place))?;
        header.descriptor = descriptor(file, &bytes)?;
        Ok(header)
    }

    fn parse(file: &ImageFile, bytes: &[u8], footer: Option<u64>) -> Result<Self> {
        let (version, flags) = (le32(bytes, 4), le32(bytes, 8));
        if !(1..=3).contains(&version) {
            return Err(file.unsupported(format!("version {version}")));
        }
        if flags & !FLAGS_KNOWN != 0 {
            return Err(file.unsupported(format!("the features of flags {:#x}", flags & !FLAGS_KNOWN)));
        }
        if flags & FLAG_NEWLINES != 0 && !bytes.get(73..).unwrap_or_default().starts_with(NEWLINES) {
            return Err(file.corrupt("a transfer has changed its line ends: copy it again, in binary mode"));
        }
        if u64::from(le32(bytes, 44)) != TABLE_ENTRIES {
            return Err(file.unsupported(format!("grain tables of {} entries", le32(bytes, 44))));
        }
        Ok(Self {
            disk_bytes: in_bytes(file, "the length of the extent", le64(bytes, 12))?,
            grain_bytes: grain_bytes(file, le64(bytes, 20))?,
            descriptor: descriptor(file, bytes)?,
            directory_offset: in_bytes(file, "the place of the grain directory", le64(bytes, 56))?,
            zeroed_grains: flags & FLAG_ZEROED_GRAINS != 0,
            compressed: compressed(file, flags, le16(bytes, 77))?,
            footer,
        })
    }
}

fn in_bytes(file: &ImageFile, what: &str, sectors: u64) -> Result<u64> {
    sectors
        .checked_mul(SECTOR_BYTES)
        .filter(|bytes| *bytes <= i64::MAX as u64)
        .ok_or_else(|| file.corrupt(format!("{what} is {sectors} sectors")))
}

fn grain_bytes(file: &ImageFile, sectors: u64) -> Result<u64> {
    if !sectors.is_power_of_two() || sectors > GRAIN_SECTORS_MAX {
        return Err(file.unsupported(format!("grains of {sectors} sectors")));
    }
    Ok(sectors * SECTOR_BYTES)
}

fn descriptor(file: &ImageFile, bytes: &[u8]) -> Result<Option<(u64, u64)>> {
    let (place, length) = (le64(bytes, 28), le64(bytes, 36));
    if place == 0 || length == 0 {
        return Ok(None);
    }
    if length > DESCRIPTOR_SECTORS_MAX {
        return Err(file.unsupported(format!("a descriptor of {length} sectors")));
    }
    Ok(Some((in_bytes(file, "the place of the descriptor", place)?, length * SECTOR_BYTES)))
}

fn compressed(file: &ImageFile, flags: u32, algorithm: u16) -> Result<bool> {
    match (flags & FLAG_COMPRESSED != 0, flags & FLAG_MARKERS != 0, algorithm) {
        (false, _, _) => Ok(false),
        (true, true, 1) => Ok(true),
        (true, false, _) => Err(file.unsupported("compressed grains without markers")),
        (true, true, other) => Err(file.unsupported(format!("compression {other}"))),
    }
}

/// The footer and its place.
fn footer(file: &ImageFile) -> Result<(u64, Vec<u8>)> {
    let missing = "the footer with the place of the grain directory is missing at the end — the file may have been cut off: copy it again";
    let place = file
        .size()
        .checked_sub(3 * SECTOR_BYTES)
        .filter(|place| *place > 0)
        .ok_or_else(|| file.corrupt(missing))?;
    let mut bytes = file.read("the footer", place, 2 * SECTOR_BYTES as usize)?;
    let footer = bytes.split_off(SECTOR_BYTES as usize);
    let marked = le32(&bytes, 8) == 0 && le32(&bytes, 12) == MARKER_FOOTER;
    if !marked || !footer.starts_with(SPARSE_SIGNATURE) || le64(&footer, 56) == DIRECTORY_IS_AT_END {
        return Err(file.corrupt(missing));
    }
    Ok((place, footer))
}
