//! Internal snapshots.

use super::corrupt;
use super::header::{Header, Table};
use crate::formats::bytes::{be16, be32, be64};
use crate::{Error, Result, Storage};

/// QEMU's limits.
const SNAPSHOTS_MAX: u32 = 65536;
const EXTRA_BYTES_MAX: u32 = 1024;
const FIXED_BYTES: usize = 40;

/// One internal snapshot.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) l1: Table,
    pub(super) virtual_size: u64,
}

/// The snapshots of an image, and where their table lies.
#[derive(Debug)]
pub(super) struct Snapshots {
    pub(super) list: Vec<Snapshot>,
    pub(super) table: Table,
}

impl Snapshots {
    pub(super) fn read(storage: &dyn Storage, header: &Header) -> Result<Self> {
        let offset = header.snapshots_offset;
        if header.snapshots_count == 0 {
            return Ok(Self { list: Vec::new(), table: Table { offset: 0, bytes: 0 } });
        }
        if header.snapshots_count > SNAPSHOTS_MAX || !offset.is_multiple_of(header.geometry.cluster_bytes()) {
            return Err(corrupt(
                storage,
                format!("a table of {} snapshots at {offset}", header.snapshots_count),
            ));
        }
        let mut list = Vec::new();
        let mut position = offset;
        for index in 0..header.snapshots_count {
            let (snapshot, length) =
                read_entry(storage, position, header.virtual_size).ok_or_else(|| {
                    corrupt(storage, format!("snapshot {index} of the table does not fit the file"))
                })??;
            list.push(snapshot);
            position += length;
        }
        Ok(Self { list, table: Table { offset, bytes: position - offset } })
    }

    /// The snapshot with this id, or else with this name.
    pub(super) fn find(&self, storage: &dyn Storage, wanted: &str) -> Result<&Snapshot> {
        let by_id = self.list.iter().find(|snapshot| snapshot.id == wanted);
        by_id.or_else(|| self.list.iter().find(|snapshot| snapshot.name == wanted)).ok_or_else(|| {
            let names: Vec<_> = self.list.iter().map(|snapshot| snapshot.name.as_str()).collect();
            let what = if names.is_empty() {
                format!("it has no internal snapshot {wanted:?}: it has none at all")
            } else {
                format!("it has no internal snapshot {wanted:?}, only: {}", names.join(", "))
            };
            Error::Invalid { path: storage.name().to_owned(), what }
        })
    }
}

/// An entry and its length; `None` when it does not lie inside the file.
fn read_entry(storage: &dyn Storage, offset: u64, disk_size: u64) -> Option<Result<(Snapshot, u64)>> {
    let mut fixed = [0; FIXED_BYTES];
    let mut rest = match read_inside(storage, &mut fixed, offset)? {
        Ok(()) => Vec::new(),
        Err(error) => return Some(Err(error)),
    };
    let (id_length, name_length) = (usize::from(be16(&fixed, 12)), usize::from(be16(&fixed, 14)));
    let extra_length = be32(&fixed, 36);
    if extra_length > EXTRA_BYTES_MAX {
        return None;
    }
    let extra_length = extra_length as usize;
    rest.resize(extra_length + id_length + name_length, 0);
    if let Err(error) = read_inside(storage, &mut rest, offset + FIXED_BYTES as u64)? {
        return Some(Err(error));
    }
    let (extra, names) = rest.split_at(extra_length);
    let (id, name) = names.split_at(id_length);
    let snapshot = Snapshot {
        id: String::from_utf8_lossy(id).into_owned(),
        name: String::from_utf8_lossy(name).into_owned(),
        l1: Table { offset: be64(&fixed, 0), bytes: u64::from(be32(&fixed, 8)) * 8 },
        // The size of the disk when the snapshot was taken; writers of version 2 did not store it.
        virtual_size: if extra.len() >= 16 { be64(extra, 8) } else { disk_size },
    };
    Some(Ok((snapshot, (FIXED_BYTES + rest.len()).next_multiple_of(8) as u64)))
}

fn read_inside(storage: &dyn Storage, buffer: &mut [u8], offset: u64) -> Option<Result<()>> {
    let end = offset.checked_add(buffer.len() as u64)?;
    (end <= storage.size()).then(|| storage.read_at(buffer, offset))
}
