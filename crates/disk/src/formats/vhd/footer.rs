//! The footer of a VHD.
//!
//! | offset | bytes | meaning |
//! | --- | --- | --- |
//! | 0 | 8 | `conectix` |
//! | 8 | 4 | features: 1 temporary, 2 always set |
//! | 12 | 4 | version: major, minor |
//! | 16 | 8 | place of the dynamic header; all ones in a fixed image |
//! | 28 | 4 | program that made it |
//! | 48 | 8 | current size in bytes |
//! | 56 | 4 | geometry: cylinders (2), heads, sectors per track |
//! | 60 | 4 | kind: 2 fixed, 3 dynamic, 4 differencing |
//! | 64 | 4 | checksum |
//! | 68 | 16 | UUID, by which a child knows its parent |

use super::super::bytes::{array, be16, be32, be64};
use super::super::image_file::ImageFile;
use crate::{Result, Storage};

/// Bytes of a footer.
pub(super) const FOOTER_BYTES: u64 = 512;
const COOKIE: &[u8; 8] = b"conectix";
const CHECKSUM_OFFSET: usize = 64;
const SECTOR_BYTES: u64 = 512;
/// Place of the dynamic header in images that have none.
pub(super) const NO_HEADER: u64 = u64::MAX;
/// The largest disk that a geometry can express, in sectors: it stands for "larger than this".
pub(super) const GEOMETRY_MAX: u64 = 65535 * 16 * 255;
/// The features that the specification names.
const FEATURES_KNOWN: u32 = 3;

/// How an image is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The whole disk in order.
    Fixed,
    /// Blocks where something was written.
    Dynamic,
    /// Blocks where something differs from a parent.
    Differencing,
}

impl Kind {
    /// Name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        }
    }
}

/// What a footer says, checked.
pub(super) struct Footer {
    /// How the image is laid out.
    pub(super) kind: Kind,
    /// Size of the disk.
    pub(super) disk_bytes: u64,
    /// Place of the dynamic header.
    pub(super) header_offset: u64,
    /// By which a child knows this image.
    pub(super) uuid: [u8; 16],
    /// Whether it was read at the end of the file, where it belongs.
    pub(super) at_end: bool,
    creator: [u8; 4],
}

impl Footer {
    /// The footer at the end of the file, or its copy at the front.
    pub(super) fn find(file: &ImageFile) -> Result<Self> {
        if let Some(bytes) = at_end(file.storage().as_ref())? {
            return Self::parse(file, &bytes, true);
        }
        let bytes = file.read("the footer", 0, FOOTER_BYTES as usize)?;
        if is_sound(&bytes) {
            return Self::parse(file, &bytes, false);
        }
        Err(file.corrupt(
            "neither the footer at the end nor its copy at the front has a right checksum — copy the image again",
        ))
    }

    fn parse(file: &ImageFile, bytes: &[u8], at_end: bool) -> Result<Self> {
        let features = be32(bytes, 8);
        if features & !FEATURES_KNOWN != 0 {
            return Err(file.unsupported(format!("features {features:#x}")));
        }
        if be16(bytes, 12) != 1 {
            return Err(file.unsupported(format!("version {}.{}", be16(bytes, 12), be16(bytes, 14))));
        }
        let kind = match be32(bytes, 60) {
            2 => Kind::Fixed,
            3 => Kind::Dynamic,
            4 => Kind::Differencing,
            other => return Err(file.unsupported(format!("disk type {other}"))),
        };
        if kind == Kind::Fixed && !at_end {
            return Err(file.corrupt("a fixed image has its footer at the end, and there is none"));
        }
        Ok(Self {
            kind,
            disk_bytes: disk_bytes(bytes),
            header_offset: be64(bytes, 16),
            uuid: array(bytes, 68).unwrap_or_default(),
            at_end,
            creator: array(bytes, 28).unwrap_or_default(),
        })
    }

    /// Program that made the image.
    pub(super) fn creator(&self) -> String {
        self.creator.escape_ascii().to_string().trim_end().to_owned()
    }
}

/// Size of the disk.
///
/// There are two in a footer, which may differ: the current size, and the geometry, which can only express some sizes.
/// Virtual PC, and qemu in its image format of old, give the guest the disk of the geometry: qemu marks these images
/// with the creator `qemu`, and those where it was told to keep the size to the byte with `qem2`. Every other writer
/// means the current size. Images by qemu where both differ come from versions that rounded one of them only. A
/// geometry at its greatest value stands for a larger disk, so it does not count.
///
/// qemu also takes the geometry of an unknown creator's image; we follow the specification there and lose no sector.
fn disk_bytes(bytes: &[u8]) -> u64 {
    let sectors = u64::from(be16(bytes, 56))
        * u64::from(bytes.get(58).copied().unwrap_or(0))
        * u64::from(bytes.get(59).copied().unwrap_or(0));
    let by_geometry = array(bytes, 28) == Some(*b"qemu") && sectors != 0 && sectors < GEOMETRY_MAX;
    if by_geometry { sectors * SECTOR_BYTES } else { be64(bytes, 48) }
}

/// Whether a footer with a right checksum ends the file and fits it.
pub(super) fn is_at_end(storage: &dyn Storage) -> Result<bool> {
    Ok(at_end(storage)?.is_some_and(|bytes| match be32(&bytes, 60) {
        2 => disk_bytes(&bytes).checked_add(FOOTER_BYTES).is_some_and(|end| end <= storage.size()),
        _ => be64(&bytes, 16).checked_add(FOOTER_BYTES).is_some_and(|end| end <= storage.size()),
    }))
}

/// Whether the file begins like a dynamic image.
pub(super) fn is_at_front(storage: &dyn Storage) -> Result<bool> {
    let mut cookie = [0; 8];
    if storage.size() < FOOTER_BYTES {
        return Ok(false);
    }
    storage.read_at(&mut cookie, 0)?;
    Ok(cookie == *COOKIE)
}

fn at_end(storage: &dyn Storage) -> Result<Option<[u8; FOOTER_BYTES as usize]>> {
    let Some(offset) = storage.size().checked_sub(FOOTER_BYTES) else { return Ok(None) };
    let mut bytes = [0; FOOTER_BYTES as usize];
    storage.read_at(&mut bytes, offset)?;
    Ok(is_sound(&bytes).then_some(bytes))
}

fn is_sound(bytes: &[u8]) -> bool {
    bytes.starts_with(COOKIE) && checksum(bytes, CHECKSUM_OFFSET) == be32(bytes, CHECKSUM_OFFSET)
}

/// The ones' complement of the sum of all bytes but those of the checksum itself, at `place`.
pub(super) fn checksum(bytes: &[u8], place: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_add((*byte).into()));
    let own = bytes.get(place..place + 4).unwrap_or_default();
    !sum(bytes).wrapping_sub(sum(own))
}

/// Whether `offset` can be the place of a dynamic header.
pub(super) fn names_header(offset: u64) -> bool {
    offset != NO_HEADER && offset >= FOOTER_BYTES && offset.is_multiple_of(SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;

    fn footer(kind: u32, creator: &[u8; 4], current: u64, geometry: (u16, u8, u8)) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..8].copy_from_slice(COOKIE);
        bytes[12..16].copy_from_slice(&0x1_0000_u32.to_be_bytes());
        bytes[16..24].copy_from_slice(&NO_HEADER.to_be_bytes());
        bytes[28..32].copy_from_slice(creator);
        bytes[48..56].copy_from_slice(&current.to_be_bytes());
        bytes[56..58].copy_from_slice(&geometry.0.to_be_bytes());
        bytes[58] = geometry.1;
        bytes[59] = geometry.2;
        bytes[60..64].copy_from_slice(&kind.to_be_bytes());
        let sum = checksum(&bytes, CHECKSUM_OFFSET);
        bytes[64..68].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn only_images_that_qemu_made_without_force_size_have_the_size_of_their_geometry() {
        assert_eq!(disk_bytes(&footer(2, b"qemu", 1000, (2, 3, 4))), 24 * 512);
        for creator in [b"qem2", b"win ", b"vpc ", b"vbox", b"tap\0"] {
            assert_eq!(disk_bytes(&footer(2, creator, 1000, (2, 3, 4))), 1000);
        }
        assert_eq!(disk_bytes(&footer(2, b"qemu", 1000, (65535, 16, 255))), 1000);
    }

    #[test]
    fn a_footer_that_does_not_fit_the_file_is_no_signature() {
        let found = |bytes: Vec<u8>| is_at_end(&MemoryStorage::new("image", bytes)).unwrap();
        let fixed = |size: u64| [vec![0; 2048], footer(2, b"win ", size, (0, 0, 0))].concat();
        assert!(found(fixed(2048)));
        assert!(found(fixed(1024)), "a file may hold more than the disk");
        assert!(!found(fixed(2049)));
        assert!(!found(fixed(u64::MAX)));
        let mut damaged = fixed(2048);
        damaged[2048 + 100] ^= 1;
        assert!(!found(damaged));
    }
}
