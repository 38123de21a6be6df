//! A disk onto a volume.
//!
//! Only the extents with data are read; many are in flight at once, and land out of order. What the image has no data for,
//! and what lies behind its end on a larger volume, is made zero: a new volume is not trusted, it may hold what another
//! tenant left there. After each window the volume is flushed and a [`Checkpoint`] handed out.
//!
//! Memory: each request in flight takes two buffers of 2 MiB (the answer, and the unit of the disk), the cache of the
//! object 48 MiB, the tables of a format reader a few MiB; with the usual 12 requests about 100 MiB together.

mod checkpoint;
mod in_order;

use std::sync::Arc;
use std::time::Duration;

use leeward_disk::is_zero;
use leeward_disk::zero::split_zeros;
use leeward_store::RateLimit;
use serde::{Deserialize, Serialize};

pub use checkpoint::Checkpoint;
use in_order::InOrder;

use crate::digest::{DigestCheck, Hasher};
use crate::direct::aligned;
use crate::identity::TargetIdentity;
use crate::image::{Content, Disk};
use crate::ledger::{Digest, Done, Ledger, Settled};
use crate::plan::{ExtentFeed, Feed, Work, read_unit};
use crate::pool::Pool;
use crate::{Error, Result, VolumeTarget, Watch};

/// Zeros inside of data are left out from this length on, in bytes.
const ZEROS_BYTES: usize = 64 << 10;

/// What is done about the places for which the image has no data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Zeros {
    /// They are made zero.
    #[default]
    Make,
    /// They are read, and made zero where they are not: cheaper on a volume that is empty as a rule and cannot be zeroed
    /// but by writing.
    Prove,
}

/// How a disk is written.
#[derive(Clone)]
pub struct WriteOptions {
    /// Requests in flight at once; one thread for each. The service may slow them down.
    pub requests: usize,
    /// What a crash may cost, in bytes of data that are read again.
    pub window_bytes: u64,
    /// How often a checkpoint is made at least.
    pub window_time: Duration,
    /// What is done about places without data.
    pub zeros: Zeros,
    /// How fast the object is read; of a wrapped image, how fast what comes out of it is written.
    pub limit: Option<Arc<RateLimit>>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            requests: 12,
            window_bytes: 256 << 20,
            window_time: Duration::from_secs(15),
            zeros: Zeros::Make,
            limit: None,
        }
    }
}

/// Keeps a checkpoint durably before it returns.
pub type Keep<'a> = dyn Fn(&Checkpoint) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Sync + 'a;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The last checkpoint: of the whole volume. [`verify`](crate::verify::verify) compares with it.
    pub checkpoint: Checkpoint,
    /// What came of the digests that are stated for the object.
    pub digest: DigestCheck,
}

/// Writes a disk onto the whole of a volume: `target_id` is what nobody else's volume is called. Goes on from a checkpoint
/// of the same disk and volume. The volume is flushed when this returns.
///
/// # Errors
/// The object was replaced, is damaged or does not match its digest, the service or the volume fails, the checkpoint is of
/// another import, or the caller cancelled. All that was settled by then is in the last checkpoint that `keep` was given.
pub fn write(
    disk: &Disk,
    target: &VolumeTarget,
    target_id: &str,
    from: Option<&Checkpoint>,
    options: &WriteOptions,
    watch: &dyn Watch,
    keep: &Keep<'_>,
) -> Result<Written> {
    let identity = TargetIdentity { id: target_id.to_owned(), bytes: target.bytes() };
    let needed = disk.virtual_size();
    if target.bytes() < needed {
        return Err(Error::TooSmall { path: target.path().to_owned(), bytes: target.bytes(), needed });
    }
    let start = Checkpoint::start(disk.identity(), &identity, from)?;
    let job = Job::new(disk, target, &start, options, watch);
    // All may be written, and the attempt have ended before its digest was compared.
    let settled = if start.is_complete() { start.settled() } else { job.run(&start, keep)? };
    let digest = job.finish(disk)?;
    Ok(Written { checkpoint: start.at(&settled), digest })
}

/// A write while it is done.
struct Job<'a> {
    disk: &'a Disk,
    target: &'a VolumeTarget,
    options: &'a WriteOptions,
    watch: &'a dyn Watch,
    in_order: Option<InOrder>,
    is_lost: bool,
}

impl<'a> Job<'a> {
    fn new(
        disk: &'a Disk,
        target: &'a VolumeTarget,
        start: &Checkpoint,
        options: &'a WriteOptions,
        watch: &'a dyn Watch,
    ) -> Self {
        let stated = match &disk.content {
            Content::Source { whole: Some(stated), .. } if !stated.is_empty() => Some(stated.clone()),
            _ => None,
        };
        let hasher = stated.as_ref().and_then(|stated| match &start.hash {
            _ if start.position == 0 => Some(Hasher::new(stated.clone())),
            Some(state) => Hasher::resume(stated.clone(), state)
                .filter(|hasher| hasher.bytes() == start.position.min(disk.virtual_size())),
            None => None,
        });
        let is_lost = stated.is_some() && hasher.is_none();
        Self { disk, target, options, watch, in_order: hasher.map(InOrder::new), is_lost }
    }

    fn run(&self, start: &Checkpoint, keep: &Keep<'_>) -> Result<Settled> {
        let mut feed: Box<dyn Feed + '_> = match &self.disk.content {
            Content::Source { source, .. } => {
                Box::new(ExtentFeed::new(source.as_ref(), self.target.bytes(), start.position))
            }
            Content::Stream(stream) => {
                Box::new(stream.feed(self.target.bytes(), start.position, self.watch)?)
            }
        };
        let pool = Pool {
            threads: self.options.requests,
            window_bytes: self.options.window_bytes.max(1),
            window_time: self.options.window_time,
            total_bytes: self.target.bytes(),
            watch: self.watch,
        };
        let ledger = Ledger::new(self.target.bytes(), start.settled());
        let settle = |settled: &Settled| {
            self.target.sync()?;
            keep(&start.at(settled)).map_err(|source| Error::Keep { position: settled.position, source })
        };
        pool.run(feed.as_mut(), ledger, &|work, buffer| self.work(work, buffer), &settle)
    }

    fn work(&self, work: Work, buffer: &mut Vec<u8>) -> Result<Done> {
        let done = match work {
            Work::Zeros { offset, length } => self.make_zero(offset, length).map(|()| Done::Zeros),
            Work::Data { offset, length, content: Some(content) } => {
                let unit = aligned(buffer, content.len());
                unit.copy_from_slice(&content);
                self.pay(length).and_then(|()| self.put(unit, offset, None))
            }
            Work::Data { offset, length, content: None } => {
                let unit = aligned(buffer, length as usize);
                self.read(unit, offset)
                    .and_then(|()| self.hash(unit, offset))
                    .and_then(|hash| self.put(unit, offset, hash))
            }
        };
        // Others may wait for this unit's turn.
        done.inspect_err(|_| self.in_order.iter().for_each(InOrder::break_off))
    }

    /// Fills the buffer with the disk from `offset` on: data is read, all else is zero.
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let Content::Source { source, .. } = &self.disk.content else { return Ok(()) };
        read_unit(source.as_ref(), buffer, offset, &|bytes| self.pay(bytes))
    }

    fn pay(&self, bytes: u64) -> Result<()> {
        let Some(limit) = &self.options.limit else { return Ok(()) };
        limit.wait(bytes, &|| self.watch.is_cancelled());
        if self.watch.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Lets the unit into the digests of the object when it is its turn.
    fn hash(&self, unit: &[u8], offset: u64) -> Result<Option<crate::digest::HashState>> {
        let Some(in_order) = &self.in_order else { return Ok(None) };
        let of_disk = (self.disk.virtual_size() - offset).min(unit.len() as u64) as usize;
        in_order.take(&unit[..of_disk], offset, self.watch).map(Some)
    }

    fn put(&self, unit: &[u8], offset: u64, hash: Option<crate::digest::HashState>) -> Result<Done> {
        split_zeros(unit, ZEROS_BYTES, |start, end, zero| {
            let at = offset + start as u64;
            if zero {
                self.make_zero(at, (end - start) as u64)
            } else {
                self.target.write_at(&unit[start..end], at)
            }
        })?;
        Ok(Done::Data { digest: Digest::of(unit), hash })
    }

    fn make_zero(&self, offset: u64, length: u64) -> Result<()> {
        match self.options.zeros {
            _ if self.target.is_new() => Ok(()),
            Zeros::Make => self.target.zero_at(offset, length),
            Zeros::Prove => self.prove_zero(offset, length),
        }
    }

    fn prove_zero(&self, offset: u64, length: u64) -> Result<()> {
        let mut buffer = vec![0; length.min(1 << 20) as usize];
        let mut position = offset;
        while position < offset + length {
            if self.watch.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let part = (offset + length - position).min(buffer.len() as u64);
            self.target.read_at(&mut buffer[..part as usize], position)?;
            if !is_zero(&buffer[..part as usize]) {
                self.target.zero_at(position, part)?;
            }
            position += part;
        }
        Ok(())
    }

    fn finish(self, disk: &Disk) -> Result<DigestCheck> {
        match (&disk.content, self.in_order) {
            (Content::Stream(stream), _) => Ok(stream.digest().clone()),
            (_, Some(in_order)) => in_order.finish(&disk.identity().object),
            (Content::Source { whole: Some(stated), .. }, None) if stated.is_empty() => {
                Ok(DigestCheck::NotStated)
            }
            _ if self.is_lost => Ok(DigestCheck::NotChecked {
                why: "the import went on from a checkpoint without the state of the digest".to_owned(),
            }),
            _ => Ok(DigestCheck::of_part()),
        }
    }
}
