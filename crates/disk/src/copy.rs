//! Copying a disk onto another.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::plan::{Planner, UNIT_BYTES, Unit};
use crate::zero::split_zeros;
use crate::{Error, Result, Source, Target};

/// How work on whole disks is done.
#[derive(Clone, Copy)]
pub struct WorkOptions<'a> {
    /// Threads that read, test, compress and write; at least one is used.
    pub threads: usize,
    /// Told how many more bytes of the disk are done, from any thread.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Set from outside to stop with [`Error::Cancelled`].
    pub cancel: &'a AtomicBool,
}

/// As many threads as keep processors and media busy at once.
#[must_use]
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |processors| processors.get().clamp(2, 8))
}

/// What [`copy`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Bytes written as data.
    pub data_bytes: u64,
    /// Bytes that were zero, and were left out or written as zeros by the cheapest means.
    pub zero_bytes: u64,
}

/// Copies the whole of `source` to the start of `target`, which is left for the caller to finish. Zeros are not written
/// to a blank target. What a larger target holds behind the end of the source stays.
///
/// # Errors
/// The target is smaller than the source, either fails, or the caller cancelled.
pub fn copy(source: &dyn Source, target: &dyn Target, options: &WorkOptions<'_>) -> Result<Copied> {
    let size = source.virtual_size();
    if target.virtual_size() < size {
        return Err(Error::Invalid {
            path: "target".to_owned(),
            what: format!("it has {} bytes, and the disk {size}", target.virtual_size()),
        });
    }
    let planner = Planner::new(source, size, target.block_size());
    let (data, zero) = (AtomicU64::new(0), AtomicU64::new(0));
    run(planner, options, |unit, buffer| {
        let copied = match unit {
            Unit::Gap { offset, length } => copy_gap(target, offset, length)?,
            Unit::Data { offset, .. } => {
                source.read_at(buffer, offset)?;
                write_data(target, buffer, offset)?
            }
        };
        data.fetch_add(copied.data_bytes, Ordering::Relaxed);
        zero.fetch_add(copied.zero_bytes, Ordering::Relaxed);
        Ok(())
    })?;
    Ok(Copied { data_bytes: data.into_inner(), zero_bytes: zero.into_inner() })
}

fn copy_gap(target: &dyn Target, offset: u64, length: u64) -> Result<Copied> {
    if !target.is_blank() {
        target.zero_at(offset, length)?;
    }
    Ok(Copied { data_bytes: 0, zero_bytes: length })
}

fn write_data(target: &dyn Target, buffer: &[u8], offset: u64) -> Result<Copied> {
    let mut copied = Copied::default();
    let block = target.block_size() as usize;
    split_zeros(buffer, block, |start, end, zero| {
        let length = (end - start) as u64;
        if zero {
            copied.zero_bytes += length;
            copy_gap(target, offset + start as u64, length).map(|_| ())
        } else {
            copied.data_bytes += length;
            target.write_at(&buffer[start..end], offset + start as u64)
        }
    })?;
    Ok(copied)
}

/// Hands the units of `planner` to threads, each with a buffer as long as its unit of data. The first error stops all.
pub(crate) fn run(
    planner: Planner<'_>,
    options: &WorkOptions<'_>,
    work: impl Fn(Unit, &mut [u8]) -> Result<()> + Sync,
) -> Result<()> {
    let planner = Mutex::new(planner);
    let failed = AtomicBool::new(false);
    let worker = || {
        let result = worker(&planner, options, &failed, &work);
        failed.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..options.threads).map(|_| scope.spawn(worker)).collect();
        let own = worker();
        others.into_iter().fold(own, |result, other| {
            let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result.and(other)
        })
    })
}

fn worker(
    planner: &Mutex<Planner<'_>>,
    options: &WorkOptions<'_>,
    failed: &AtomicBool,
    work: &impl Fn(Unit, &mut [u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = Vec::with_capacity(UNIT_BYTES as usize);
    while !failed.load(Ordering::Relaxed) {
        if options.cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        let next = planner.lock().unwrap_or_else(PoisonError::into_inner).next()?;
        let Some(unit) = next else { break };
        let (read, length) = match unit {
            Unit::Data { length, .. } => (length as usize, length),
            Unit::Gap { length, .. } => (0, length),
        };
        if buffer.len() < read {
            buffer.resize(read, 0);
        }
        work(unit, &mut buffer[..read])?;
        (options.progress)(length);
    }
    Ok(())
}
