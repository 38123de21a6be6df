//! The volume read back, and compared with what was written.
//!
//! Every byte of the volume is read, also where it should be zero: from the medium, past memory of this machine, where the
//! system lets that be done ([`Verified::is_direct`]). Only the holes of a file that stands for a volume are taken for zeros
//! without being read: the file system has nothing there. So is what a cluster or an iSCSI target says to have nothing of.
//! What is compared are the digests of the ranges that the last checkpoint of the write holds, so the object is not read again.

use std::time::Duration;

use leeward_cloud::provider::Device;
use serde::{Deserialize, Serialize};

use crate::ledger::{Digest, Done, Ledger, RangeDigests, Settled};
use crate::plan::{ExtentFeed, Work};
use crate::pool::Pool;
use crate::read_back::ReadBack;
use crate::write::Checkpoint;
use crate::{Error, Result, Watch};

/// Differing ranges that are told, at most.
const DIFFERENCES_MAX: usize = 64;

/// How a volume is read back.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Reads at once; one thread for each.
    pub reads: usize,
    /// What a crash may cost, in bytes that are read again.
    pub window_bytes: u64,
    /// How often a checkpoint is made at least.
    pub window_time: Duration,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self { reads: 4, window_bytes: 4 << 30, window_time: Duration::from_secs(15) }
    }
}

/// How far a comparison is. It belongs to one checkpoint of a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyCheckpoint {
    /// How far, in bytes of the volume.
    pub position: u64,
    /// Bytes that were read up to there.
    pub read_bytes: u64,
    /// What was found.
    pub digests: RangeDigests,
}

/// A range of a volume that is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Bytes of the volume.
    pub bytes: u64,
    /// Bytes that were read; the others are holes of a file.
    pub read_bytes: u64,
    /// Whether they came past the page cache.
    pub is_direct: bool,
    /// Ranges that differ, 64 at most; none when the volume is what was written.
    pub differences: Vec<Difference>,
}

impl Verified {
    /// Whether the volume is what was written.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Keeps a checkpoint durably before it returns.
pub type Keep<'a> =
    dyn Fn(&VerifyCheckpoint) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Sync + 'a;

/// Compares the volume on `device` with what was written onto it: `written` is the checkpoint of the finished write.
/// A volume that differs is no error of this function; see [`Verified::is_equal`].
///
/// # Errors
/// The write is not finished, the volume is another one or cannot be read, or the caller cancelled.
pub fn verify(
    device: impl Into<Device>,
    written: &Checkpoint,
    from: Option<&VerifyCheckpoint>,
    options: &VerifyOptions,
    watch: &dyn Watch,
    keep: &Keep<'_>,
) -> Result<Verified> {
    let (source, back) = ReadBack::open(&device.into())?;
    let bytes = written.target.bytes;
    check(written, source.virtual_size())?;
    let start = start(bytes, from)?;
    let mut feed = ExtentFeed::new(source.as_ref(), bytes, start.position);
    let pool = Pool {
        threads: options.reads,
        window_bytes: options.window_bytes.max(1),
        window_time: options.window_time,
        total_bytes: bytes,
        watch,
    };
    let settle = |settled: &Settled| {
        let position = settled.position;
        let checkpoint =
            VerifyCheckpoint { position, read_bytes: settled.data_bytes, digests: settled.digests.clone() };
        keep(&checkpoint).map_err(|source| Error::Keep { position, source })
    };
    let work = |work: Work, buffer: &mut Vec<u8>| match work {
        Work::Zeros { .. } => Ok(Done::Zeros),
        Work::Data { offset, length, .. } => {
            let range = back.read(buffer, offset, length)?;
            Ok(Done::Data { digest: Digest::of(&buffer[range]), hash: None })
        }
    };
    let settled = pool.run(&mut feed, Ledger::new(bytes, start), &work, &settle)?;
    Ok(Verified {
        bytes,
        read_bytes: settled.data_bytes,
        is_direct: back.is_direct(),
        differences: differences(&written.digests, &settled.digests, bytes),
    })
}

fn check(written: &Checkpoint, bytes: u64) -> Result<()> {
    if !written.is_complete() {
        return Err(Error::Checkpoint {
            what: format!("only {} of {} bytes are written", written.position, written.target.bytes),
        });
    }
    if bytes != written.target.bytes {
        return Err(Error::Checkpoint {
            what: format!("the volume had {} bytes, and this one has {bytes}", written.target.bytes),
        });
    }
    Ok(())
}

fn start(bytes: u64, from: Option<&VerifyCheckpoint>) -> Result<Settled> {
    let Some(from) = from else {
        return Ok(Settled { position: 0, digests: RangeDigests::new(bytes), data_bytes: 0, hash: None });
    };
    let is_aligned = from.position.is_multiple_of(crate::ledger::UNIT_BYTES) || from.position == bytes;
    if from.position > bytes || !is_aligned || !from.digests.are_of(from.position, bytes) {
        return Err(Error::Checkpoint {
            what: "its position and its digests do not fit the volume".to_owned(),
        });
    }
    Ok(Settled {
        position: from.position,
        digests: from.digests.clone(),
        data_bytes: from.read_bytes,
        hash: None,
    })
}

fn differences(written: &RangeDigests, found: &RangeDigests, bytes: u64) -> Vec<Difference> {
    let range_bytes = written.range_bytes;
    let pairs = written.ranges.iter().zip(&found.ranges).enumerate();
    pairs
        .filter(|(_, (written, found))| written != found)
        .map(|(index, _)| {
            let offset = index as u64 * range_bytes;
            Difference { offset, length: range_bytes.min(bytes - offset) }
        })
        .take(DIFFERENCES_MAX)
        .collect()
}
