//! Whether the log holds changes that are not yet in their places.
//!
//! The log is not replayed here. A file system that was unmounted ends its log with a record that says so; where the
//! last record is another one, the caller is told that recent changes may be missing.

use crate::Result;
use crate::bytes;
use crate::disk::Disk;

use super::superblock::Superblock;

const SECTOR: u64 = 512;
const RECORD: u32 = 0xfeed_babe;
const UNMOUNT: u8 = 0x20;
/// A record holds at most 256 KiB, and its head up to eight sectors.
const RECORD_SECTORS_MAX: u64 = 512 + 16;

/// What is known of the log.
pub(super) enum State {
    /// All changes are in their places.
    Clean,
    /// Some may not be.
    Dirty,
    /// It cannot be told: the log is on another disk.
    Unknown,
}

pub(super) fn state(disk: &Disk, superblock: &Superblock) -> Result<State> {
    if superblock.log_start == 0 {
        return Ok(State::Unknown);
    }
    let start = superblock.block_place(superblock.log_start)?;
    let sectors = superblock.log_blocks.saturating_mul(superblock.block_bytes) / SECTOR;
    if sectors == 0 {
        return Ok(State::Unknown);
    }
    let sector = |number: u64| disk.bytes(start.saturating_add((number % sectors) * SECTOR), SECTOR as usize);
    // Every sector begins with the number of the turn in which it was written; the head of a record with its signature
    // and then that number.
    let turn = |number: u64| -> Result<u32> {
        let sector = sector(number)?;
        Ok(if bytes::be32(&sector, 0) == RECORD { bytes::be32(&sector, 4) } else { bytes::be32(&sector, 0) })
    };
    let (first, last) = (turn(0)?, turn(sectors - 1)?);
    if first == 0 {
        return Ok(State::Clean);
    }
    // The log ends where the number changes.
    let head = if first == last {
        sectors
    } else {
        let (mut low, mut high) = (0, sectors - 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if turn(middle)? == first { low = middle + 1 } else { high = middle }
        }
        low
    };
    for back in 1..=RECORD_SECTORS_MAX.min(sectors) {
        let place = (head + sectors - back) % sectors;
        let record = sector(place)?;
        if bytes::be32(&record, 0) != RECORD {
            continue;
        }
        let size = u64::from(bytes::be32(&record, 320));
        let is_v2 = bytes::be32(&record, 8) & 2 != 0;
        let heads = if is_v2 { size.div_ceil(32 << 10).max(1) } else { 1 };
        let length = u64::from(bytes::be32(&record, 12)).div_ceil(SECTOR);
        let operations = bytes::be32(&record, 40);
        let operation = sector(place + heads)?;
        let ends = back == heads + length && operations == 1 && bytes::byte(&operation, 9) & UNMOUNT != 0;
        return Ok(if ends { State::Clean } else { State::Dirty });
    }
    Ok(State::Dirty)
}
