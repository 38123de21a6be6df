//! How values stand in columns: both databases have signed integers of 64 bits, and times as microseconds since 1970.

use std::time::Duration;

use jiff::Timestamp;

/// How many runs are forgotten in one transaction: others write between two of them.
pub(super) const FORGOTTEN_AT_ONCE: i64 = 100;

pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

pub(super) fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}

pub(super) fn span(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
