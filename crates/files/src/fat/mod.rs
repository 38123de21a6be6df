//! FAT with 12, 16 and 32 bits, and exFAT.
//!
//! Format: Microsoft's *FAT32 File System Specification* and *exFAT file system specification*. Neither has owners or
//! Unix modes, so files belong to 0 and have the mode 0644, or 0444 if they are read-only. FAT keeps local time without
//! saying where; it is taken for UTC.

mod chain;
mod exfat;
mod plain;

use crate::{Time, bytes};

pub(crate) use exfat::ExFat;
pub(crate) use plain::{Fat, is_fat};

const READ_ONLY: u16 = 0x1;
const DIRECTORY: u16 = 0x10;

fn mode(attributes: u16) -> u32 {
    match (attributes & DIRECTORY != 0, attributes & READ_ONLY != 0) {
        (true, _) => 0o755,
        (false, true) => 0o444,
        (false, false) => 0o644,
    }
}

/// A moment out of a word of time and one of the date, as in MS-DOS.
fn moment(time: u16, date: u16) -> Time {
    let year = i64::from(date >> 9) + 1980;
    let (month, day) = (i64::from(date >> 5 & 15).clamp(1, 12), i64::from(date & 31).clamp(1, 31));
    // Days since 1970 in the Gregorian calendar, with years that begin in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year - 719_468;
    let clock = i64::from(time >> 11) * 3600 + i64::from(time >> 5 & 63) * 60 + i64::from(time & 31) * 2;
    Time { seconds: days * 86_400 + clock, nanoseconds: 0 }
}

/// A file's or directory's entry, in what both formats have in common.
#[derive(Debug, Clone)]
struct Found {
    attributes: u16,
    size: u64,
    /// Bytes that were written; what lies behind reads as zeros.
    valid: u64,
    cluster: u32,
    /// Whether the clusters follow each other without a chain.
    contiguous: bool,
    modified: Time,
}

impl Found {
    fn is_directory(&self) -> bool {
        self.attributes & DIRECTORY != 0
    }
}

/// The serial number as Windows shows it.
fn serial(bytes: &[u8]) -> String {
    let number = bytes::le32(bytes, 0);
    format!("{:04X}-{:04X}", number >> 16, number & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_counted_from_1970() {
        let date = |year: u16, month: u16, day: u16| (year - 1980) << 9 | month << 5 | day;
        assert_eq!(moment(0, date(1980, 1, 1)).seconds, 315_532_800);
        assert_eq!(moment(13 << 11 | 37 << 5 | 21, date(2024, 2, 29)).seconds, 1_709_213_862);
        assert_eq!(moment(0, date(2100, 3, 1)).seconds, 4_107_542_400);
    }
}
