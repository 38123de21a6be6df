//! Writing a new image: version 3, no backing file, 16 bit refcounts, optionally compressed with zstd.
//!
//! Clusters are taken from the end of the file in the order in which they are written, whichever thread writes them; the
//! tables stay in memory (8 bytes per cluster that is written: 16 MiB for 128 GiB) and follow the data when the image is
//! finished. Refcounts are counted then from the tables, so that space which a rewriting gave up is free, not leaked.
//! The header comes last.

mod compress;
mod finish;
mod space;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::entry::{Geometry, Mapping};
use super::head::COPIED;
use super::header::L1_BYTES_MAX;
use crate::source::check_range;
use crate::targets::staged::StagedFile;
use crate::{Error, Result, Target};
use space::Space;

/// How an image is written.
#[derive(Debug, Clone, Copy)]
pub struct WriterOptions {
    /// Cluster size: a power of two between 512 bytes and 2 MiB.
    pub cluster_bytes: u64,
    /// Compress clusters with zstd.
    pub compress: bool,
    /// Replace an existing file.
    pub overwrite: bool,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { cluster_bytes: 64 << 10, compress: false, overwrite: false }
    }
}

/// A new qcow2 image.
pub struct Qcow2Target {
    staged: StagedFile,
    virtual_size: u64,
    geometry: Geometry,
    compress: bool,
    state: Mutex<State>,
}

/// What writers share. The lock is held for table entries, and over input and output only when a part of a compressed
/// cluster is written again.
struct State {
    l2: Vec<Option<Box<[u64]>>>,
    space: Space,
}

impl Qcow2Target {
    /// An image that will appear as `path` when it is finished. The size of the disk is rounded up to sectors of 512
    /// bytes, because QEMU cuts off what does not fill one.
    ///
    /// # Errors
    /// The file exists and may not be replaced, cannot be created, or the disk is too large for the cluster size.
    pub fn create(path: &Path, virtual_size: u64, options: &WriterOptions) -> Result<Self> {
        let invalid = |what: String| Error::Invalid { path: path.display().to_string(), what };
        let cluster_bytes = options.cluster_bytes;
        if !cluster_bytes.is_power_of_two() || !(512..=2 << 20).contains(&cluster_bytes) {
            return Err(invalid(format!(
                "a cluster size of {cluster_bytes} bytes: use a power of two from 512 to 2M"
            )));
        }
        let geometry = Geometry::new(cluster_bytes.ilog2(), false);
        let l1_entries = virtual_size.div_ceil(geometry.l2_coverage()).max(1);
        if l1_entries * 8 > L1_BYTES_MAX {
            return Err(invalid(format!(
                "a disk of {virtual_size} bytes needs larger clusters than {cluster_bytes} bytes"
            )));
        }
        Ok(Self {
            staged: StagedFile::create(path, options.overwrite)?,
            virtual_size: virtual_size.next_multiple_of(512),
            geometry,
            compress: options.compress,
            state: Mutex::new(State {
                l2: vec![None; l1_entries as usize],
                space: Space::new(cluster_bytes),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Splits a range at cluster boundaries; calls `visit` with offset and length of each part.
    fn by_cluster(
        &self,
        offset: u64,
        length: u64,
        mut visit: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let cluster = self.geometry.cluster_bytes();
        let mut position = offset;
        while position < offset + length {
            let end = ((position & !(cluster - 1)) + cluster).min(offset + length);
            visit(position, end - position)?;
            position = end;
        }
        Ok(())
    }

    /// Writes uncompressed. A new cluster lies in a part of the file that was never written, so what is not written of
    /// it reads as zeros.
    fn write_plain(&self, data: &[u8], offset: u64) -> Result<()> {
        // Host offset, and the stretch of `data` that goes there.
        let mut runs: Vec<(u64, std::ops::Range<usize>)> = Vec::new();
        {
            let mut state = self.state();
            self.by_cluster(offset, data.len() as u64, |position, length| {
                let host = self.plain_host(&mut state, position, length)?;
                let start = (position - offset) as usize;
                let part = start..start + length as usize;
                match runs.last_mut() {
                    Some((first, run)) if *first + run.len() as u64 == host => run.end = part.end,
                    _ => runs.push((host, part)),
                }
                Ok(())
            })?;
        }
        runs.into_iter().try_for_each(|(host, part)| self.staged.write_at(&data[part], host))
    }

    /// Where `length` bytes of the disk at `position`, inside one cluster, are to be written in place.
    fn plain_host(&self, state: &mut State, position: u64, length: u64) -> Result<u64> {
        let cluster = self.geometry.cluster_bytes();
        let within = position % cluster;
        match self.lookup(state, position) {
            Mapping::Data { host } => return Ok(host),
            Mapping::Compressed { host, length: stored } if length < cluster => {
                let whole = self.inflate(host, stored)?;
                let new = state.space.clusters(1);
                self.staged.write_at(&whole, new)?;
                self.set_entry(state, position, new | COPIED);
                return Ok(new + within);
            }
            _ => {}
        }
        let new = state.space.clusters(1);
        self.set_entry(state, position, new | COPIED);
        Ok(new + within)
    }

    fn lookup(&self, state: &State, position: u64) -> Mapping {
        let coverage = self.geometry.l2_coverage();
        match &state.l2[(position / coverage) as usize] {
            Some(table) => self.geometry.lookup(table, position % coverage).0,
            None => Mapping::Unallocated,
        }
    }

    fn set_entry(&self, state: &mut State, position: u64, entry: u64) {
        let coverage = self.geometry.l2_coverage();
        let entries = self.geometry.l2_entries() as usize;
        let table = state.l2[(position / coverage) as usize]
            .get_or_insert_with(|| vec![0; entries].into_boxed_slice());
        table[((position % coverage) >> self.geometry.cluster_bits()) as usize] = entry;
    }

    /// Makes a stretch inside one cluster zero.
    fn zero_in_cluster(&self, position: u64, length: u64) -> Result<()> {
        let whole = length == self.geometry.cluster_bytes();
        let mut state = self.state();
        let host = match self.lookup(&state, position) {
            Mapping::Unallocated | Mapping::Zero => return Ok(()),
            Mapping::Compressed { .. } if whole => {
                self.set_entry(&mut state, position, 0);
                return Ok(());
            }
            Mapping::Data { host } => host,
            Mapping::Compressed { .. } => self.plain_host(&mut state, position, length)?,
        };
        if whole {
            self.set_entry(&mut state, position, 0);
        }
        drop(state);
        self.staged.zero_at(host, length)
    }
}

impl Target for Qcow2Target {
    fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    fn is_blank(&self) -> bool {
        true
    }

    /// Compressing needs whole clusters; without it, the zeros in a large cluster are still worth leaving out.
    fn block_size(&self) -> u64 {
        self.geometry.cluster_bytes().clamp(4 << 10, if self.compress { 2 << 20 } else { 64 << 10 })
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        check_range(self.staged.name(), offset, data.len() as u64, self.virtual_size)?;
        if !self.compress {
            return self.write_plain(data, offset);
        }
        let cluster = self.geometry.cluster_bytes();
        let length = data.len() as u64;
        let end = offset + length;
        // Whole clusters in the middle are compressed; the last of the disk may be short.
        let start = offset.next_multiple_of(cluster).min(end);
        let stop = if end == self.virtual_size { end } else { (end & !(cluster - 1)).max(start) };
        let (head, rest) = data.split_at((start - offset) as usize);
        let (middle, tail) = rest.split_at((stop - start) as usize);
        self.write_plain(head, offset)?;
        self.write_compressed(middle, start)?;
        self.write_plain(tail, stop)
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        check_range(self.staged.name(), offset, length, self.virtual_size)?;
        let coverage = self.geometry.l2_coverage();
        let end = offset + length;
        let mut position = offset;
        while position < end {
            let stop = ((position / coverage + 1) * coverage).min(end);
            let mapped = self.state().l2[(position / coverage) as usize].is_some();
            if mapped {
                self.by_cluster(position, stop - position, |at, length| self.zero_in_cluster(at, length))?;
            }
            position = stop;
        }
        Ok(())
    }

    fn finish(&self, durable: bool) -> Result<()> {
        self.write_tables()?;
        self.staged.commit(durable)
    }
}
