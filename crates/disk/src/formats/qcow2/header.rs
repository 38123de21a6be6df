//! The header.

use super::entry::Geometry;
use super::extensions::Extensions;
use super::{corrupt, features, unsupported};
use crate::formats::bytes::{be32, be64};
use crate::{Result, Storage};

/// Length of the header of version 2, and the least of version 3.
const LENGTH_V2: usize = 72;
const LENGTH_V3: usize = 104;

/// QEMU's limits, beyond which it does not open an image either.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
pub(super) const L1_BYTES_MAX: u64 = 32 << 20;
pub(super) const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;
const REFERENCE_BYTES_MAX: usize = 1023;

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Zlib,
    Zstd,
}

/// A table of numbers in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// What the header says, checked.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) geometry: Geometry,
    pub(super) virtual_size: u64,
    pub(super) l1: Table,
    pub(super) refcount_table: Table,
    pub(super) refcount_bits: u32,
    pub(super) snapshots_offset: u64,
    pub(super) snapshots_count: u32,
    pub(super) compression: Compression,
    pub(super) backing: Option<String>,
    pub(super) is_dirty: bool,
    pub(super) has_data_file: bool,
    pub(super) data_file_is_raw: bool,
    pub(super) extensions: Extensions,
}

impl Header {
    pub(super) fn read(storage: &dyn Storage) -> Result<Self> {
        let mut start = vec![0; storage.size().min(LENGTH_V3 as u64 + 8) as usize];
        storage.read_at(&mut start, 0)?;
        let version = be32(&start, 4);
        let least = match version {
            2 => LENGTH_V2,
            3 => LENGTH_V3,
            other => return Err(unsupported(storage, format!("version {other} of the format"))),
        };
        if start.len() < least {
            return Err(corrupt(storage, "the file ends inside the header"));
        }
        let cluster_bits = be32(&start, 20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(corrupt(storage, format!("cluster_bits is {cluster_bits}, not 9 to 21")));
        }
        let mut bytes = vec![0; storage.size().min(1 << cluster_bits) as usize];
        storage.read_at(&mut bytes, 0)?;
        Parser { storage, bytes: &bytes, version, cluster_bits }.header()
    }
}

struct Parser<'a> {
    storage: &'a dyn Storage,
    /// The first cluster.
    bytes: &'a [u8],
    version: u32,
    cluster_bits: u32,
}

impl Parser<'_> {
    fn header(&self) -> Result<Header> {
        let bytes = self.bytes;
        match be32(bytes, 32) {
            0 => {}
            1 => return Err(unsupported(self.storage, "decryption (AES)")),
            2 => return Err(unsupported(self.storage, "decryption (LUKS)")),
            other => return Err(corrupt(self.storage, format!("crypt_method is {other}"))),
        }
        let length = self.length()?;
        let extensions = Extensions::parse(self.storage, bytes, length, be64(bytes, 8))?;
        let incompatible = if self.version == 3 { be64(bytes, 72) } else { 0 };
        features::check(self.storage, incompatible, &extensions)?;
        let geometry = Geometry::new(self.cluster_bits, incompatible & features::EXTENDED_L2 != 0);
        if geometry.is_extended() && self.cluster_bits < 14 {
            return Err(corrupt(self.storage, "extended L2 entries with clusters smaller than 16 KiB"));
        }
        let virtual_size = be64(bytes, 24);
        Ok(Header {
            version: self.version,
            geometry,
            virtual_size,
            l1: self.l1_table(&geometry, virtual_size)?,
            refcount_table: self.refcount_table()?,
            refcount_bits: self.refcount_bits()?,
            snapshots_count: be32(bytes, 60),
            snapshots_offset: be64(bytes, 64),
            compression: self.compression(length, incompatible)?,
            backing: self.backing()?,
            is_dirty: incompatible & features::DIRTY != 0,
            has_data_file: incompatible & features::DATA_FILE != 0,
            data_file_is_raw: self.version == 3 && be64(bytes, 88) & features::AUTOCLEAR_RAW_DATA_FILE != 0,
            extensions,
        })
    }

    fn length(&self) -> Result<usize> {
        if self.version == 2 {
            return Ok(LENGTH_V2);
        }
        let length = be32(self.bytes, 100) as usize;
        if length < LENGTH_V3 || !length.is_multiple_of(8) || length > self.bytes.len() {
            return Err(corrupt(self.storage, format!("the header says that it is {length} bytes long")));
        }
        Ok(length)
    }

    fn l1_table(&self, geometry: &Geometry, virtual_size: u64) -> Result<Table> {
        let table = Table { offset: be64(self.bytes, 40), bytes: u64::from(be32(self.bytes, 36)) * 8 };
        check_l1(self.storage, geometry, table, virtual_size)?;
        Ok(table)
    }

    fn refcount_table(&self) -> Result<Table> {
        let table = Table {
            offset: be64(self.bytes, 48),
            bytes: u64::from(be32(self.bytes, 56)) << self.cluster_bits,
        };
        if table.bytes == 0 || table.bytes > REFCOUNT_TABLE_BYTES_MAX {
            return Err(corrupt(self.storage, format!("a refcount table of {} bytes", table.bytes)));
        }
        check_inside(self.storage, "the refcount table", table, self.cluster_bits)?;
        Ok(table)
    }

    fn refcount_bits(&self) -> Result<u32> {
        match if self.version == 3 { be32(self.bytes, 96) } else { 4 } {
            order @ 0..=6 => Ok(1 << order),
            order => Err(corrupt(self.storage, format!("refcount_order is {order}, above 6"))),
        }
    }

    fn compression(&self, length: usize, incompatible: u64) -> Result<Compression> {
        let code = if self.version == 3 && length > LENGTH_V3 { self.bytes[LENGTH_V3] } else { 0 };
        let flagged = incompatible & features::COMPRESSION != 0;
        match code {
            0 if !flagged => Ok(Compression::Zlib),
            1 if flagged => Ok(Compression::Zstd),
            0 | 1 => Err(corrupt(self.storage, "the compression type and the feature bit for it disagree")),
            other => Err(unsupported(self.storage, format!("compression type {other}"))),
        }
    }

    fn backing(&self) -> Result<Option<String>> {
        let offset = be64(self.bytes, 8);
        let length = be32(self.bytes, 16) as usize;
        if offset == 0 || length == 0 {
            return Ok(None);
        }
        let name = usize::try_from(offset)
            .ok()
            .filter(|_| length <= REFERENCE_BYTES_MAX)
            .and_then(|start| self.bytes.get(start..start.checked_add(length)?))
            .ok_or_else(|| {
                corrupt(
                    self.storage,
                    format!("a backing file name of {length} bytes at {offset}, outside the header cluster"),
                )
            })?;
        match std::str::from_utf8(name) {
            Ok(name) if !name.contains('\0') => Ok(Some(name.to_owned())),
            _ => Err(corrupt(self.storage, "the name of the backing file is not text")),
        }
    }
}

/// Refuses an L1 table that is too small for the disk, too large, or not where it can be.
pub(super) fn check_l1(
    storage: &dyn Storage,
    geometry: &Geometry,
    table: Table,
    virtual_size: u64,
) -> Result<()> {
    let needed = virtual_size.div_ceil(geometry.l2_coverage());
    if table.bytes > L1_BYTES_MAX {
        return Err(corrupt(storage, format!("an L1 table of {} bytes", table.bytes)));
    }
    if table.bytes / 8 < needed {
        return Err(corrupt(
            storage,
            format!(
                "the L1 table has {} entries, and a disk of {virtual_size} bytes needs {needed}",
                table.bytes / 8
            ),
        ));
    }
    if table.bytes == 0 {
        return Ok(());
    }
    check_inside(storage, "the L1 table", table, geometry.cluster_bits())
}

/// Refuses a table that does not begin at a cluster or does not lie inside the file.
pub(super) fn check_inside(storage: &dyn Storage, what: &str, table: Table, cluster_bits: u32) -> Result<()> {
    let aligned = table.offset.is_multiple_of(1 << cluster_bits);
    let inside = table.offset.checked_add(table.bytes).is_some_and(|end| end <= storage.size());
    if aligned && inside {
        return Ok(());
    }
    Err(corrupt(
        storage,
        format!(
            "{what} ({} bytes at {}) is not at a cluster inside the file of {} bytes",
            table.bytes,
            table.offset,
            storage.size()
        ),
    ))
}
