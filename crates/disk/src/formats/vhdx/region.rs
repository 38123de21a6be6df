//! The region table, of which there are two copies; [MS-VHDX] 2.2.3.

use super::super::bytes::{le32, le64};
use super::super::claims::Claims;
use super::super::image_file::ImageFile;
use super::MIB;
use super::crc32c::crc32c_without_own;
use super::guid::Guid;
use super::header::Header;
use crate::Result;

const PLACES: [u64; 2] = [192 << 10, 256 << 10];
const TABLE_BYTES: usize = 64 << 10;
const ENTRIES_MAX: u32 = 2047;
pub(super) const BLOCK_TABLE: Guid =
    Guid::new(0x2dc2_7766, 0xf623, 0x4200, [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08]);
pub(super) const METADATA: Guid =
    Guid::new(0x8b7c_a206, 0x4790, 0x4b9a, [0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e]);

/// A stretch of the file, on whole MiB.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    /// First byte in the file.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) length: u64,
}

/// Where block table and metadata lie, and which bytes of the file they, the log and the headers take.
pub(super) struct Regions {
    /// The block table.
    pub(super) block_table: Region,
    /// The metadata.
    pub(super) metadata: Region,
    all: Vec<(String, Region)>,
}

impl Regions {
    /// Reads the first sound copy.
    pub(super) fn read(file: &ImageFile, header: &Header) -> Result<Self> {
        for place in PLACES {
            let bytes = file.read("a region table", place, TABLE_BYTES)?;
            if bytes.starts_with(b"regi") && crc32c_without_own(&bytes) == le32(&bytes, 4) {
                let log = Region { offset: header.log_offset, length: header.log_bytes };
                let regions = Self::parse(file, &bytes, log)?;
                regions.claims().map_err(|what| file.corrupt(what))?;
                return Ok(regions);
            }
        }
        Err(file.corrupt("neither region table has a right checksum — copy the image again"))
    }

    fn parse(file: &ImageFile, bytes: &[u8], log: Region) -> Result<Self> {
        let count = le32(bytes, 8);
        if count > ENTRIES_MAX {
            return Err(file.corrupt(format!("the region table counts {count} entries")));
        }
        let (mut block_table, mut metadata) = (None, None);
        let mut all =
            vec![("the headers".to_owned(), Region { offset: 0, length: MIB }), ("the log".to_owned(), log)];
        for at in (16..).step_by(32).take(count as usize) {
            let guid = Guid::at(bytes, at);
            let region = Region { offset: le64(bytes, at + 16), length: le32(bytes, at + 24).into() };
            let known = match guid {
                BLOCK_TABLE => &mut block_table,
                METADATA => &mut metadata,
                _ if le32(bytes, at + 28) & 1 != 0 => {
                    return Err(file.unsupported(format!("the region {guid}")));
                }
                _ => &mut None,
            };
            check(file, &guid, region)?;
            if known.replace(region).is_some() {
                return Err(file.corrupt(format!("the region {guid} is there twice")));
            }
            all.push((format!("the region {guid}"), region));
        }
        let missing = |what: &str| file.corrupt(format!("the region table has no {what}"));
        Ok(Self {
            block_table: block_table.ok_or_else(|| missing("block table"))?,
            metadata: metadata.ok_or_else(|| missing("metadata"))?,
            all,
        })
    }

    /// The bytes that no block may use.
    pub(super) fn claims(&self) -> Result<Claims, String> {
        let mut claims = Claims::new(MIB);
        for (what, region) in &self.all {
            claims.area(what, region.offset, region.length)?;
        }
        Ok(claims)
    }
}

fn check(file: &ImageFile, guid: &Guid, region: Region) -> Result<()> {
    let what = format!("the region {guid}");
    if !region.offset.is_multiple_of(MIB) || !region.length.is_multiple_of(MIB) || region.length == 0 {
        return Err(file.corrupt(format!(
            "{what} at offset {} ({} bytes) does not lie on whole MiB",
            region.offset, region.length
        )));
    }
    file.check(&what, region.offset, region.length)?;
    Ok(())
}
