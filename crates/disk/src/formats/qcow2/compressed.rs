//! Compressed clusters.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use flate2::{Decompress, FlushDecompress, Status};
use zstd::zstd_safe::{DCtx, find_frame_compressed_size, get_error_name};

use super::corrupt;
use super::header::Compression;
use crate::cache::Cache;
use crate::{Result, SharedStorage};

/// Memory for clusters that were read in part: the next part usually follows.
const CACHE_BYTES: u64 = 8 << 20;

/// Inflates clusters.
pub(super) struct Inflater {
    storage: SharedStorage,
    compression: Compression,
    cluster_bytes: usize,
    partly_read: Cache<Slot>,
}

/// A cluster that is inflated once. Its lock is held meanwhile, by and for those who want this very cluster.
type Slot = Arc<Mutex<Option<Arc<[u8]>>>>;

/// What inflating needs, kept per thread: making it costs as much as inflating a small cluster.
struct Scratch {
    input: Vec<u8>,
    zlib: Decompress,
    zstd: DCtx<'static>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        input: Vec::new(),
        zlib: Decompress::new(false),
        zstd: DCtx::create(),
    });
}

impl Inflater {
    pub(super) fn new(storage: SharedStorage, compression: Compression, cluster_bytes: u64) -> Self {
        let partly_read = Cache::new((CACHE_BYTES / cluster_bytes).min(1024) as usize);
        Self { storage, compression, cluster_bytes: cluster_bytes as usize, partly_read }
    }

    /// Fills `part` with what the cluster, whose compressed bytes are at `host`, holds from `within` on.
    pub(super) fn read(&self, part: &mut [u8], within: usize, host: u64, length: u32) -> Result<()> {
        if part.len() == self.cluster_bytes {
            return self.inflate(part, host, length);
        }
        let slot = self.partly_read.get_or_insert(host, Slot::default);
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = match slot.as_ref() {
            Some(cluster) => Arc::clone(cluster),
            None => {
                let mut cluster = vec![0; self.cluster_bytes];
                self.inflate(&mut cluster, host, length)?;
                Arc::clone(slot.insert(cluster.into()))
            }
        };
        drop(slot);
        part.copy_from_slice(&cluster[within..within + part.len()]);
        Ok(())
    }

    fn inflate(&self, cluster: &mut [u8], host: u64, length: u32) -> Result<()> {
        // The length counts sectors, of which the file need not hold the last to its end.
        let length = u64::from(length).min(self.storage.size().saturating_sub(host)) as usize;
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.input.len() < length {
                scratch.input.resize(length, 0);
            }
            self.storage.read_at(&mut scratch.input[..length], host)?;
            scratch.inflate(self.compression, length, cluster).map_err(|what| {
                corrupt(
                    self.storage.as_ref(),
                    format!("the compressed cluster at {host} ({length} bytes): {what}"),
                )
            })
        })
    }
}

impl Scratch {
    /// Inflates the first `length` bytes of the input, behind which anything may follow, to exactly one cluster.
    fn inflate(&mut self, compression: Compression, length: usize, cluster: &mut [u8]) -> Result<(), String> {
        let input = &self.input[..length];
        let inflated = match compression {
            Compression::Zlib => {
                self.zlib.reset(false);
                let status = self
                    .zlib
                    .decompress(input, cluster, FlushDecompress::Finish)
                    .map_err(|error| error.to_string())?;
                let whole = status == Status::StreamEnd || self.zlib.total_out() == cluster.len() as u64;
                if whole { self.zlib.total_out() as usize } else { 0 }
            }
            Compression::Zstd => {
                let frame = find_frame_compressed_size(input).map_err(zstd_error)?;
                let frame = input.get(..frame).ok_or("the frame is longer than the cluster")?;
                self.zstd.decompress(cluster, frame).map_err(zstd_error)?
            }
        };
        if inflated == cluster.len() {
            return Ok(());
        }
        Err(format!("it inflates to {inflated} bytes, not {}", cluster.len()))
    }
}

fn zstd_error(code: usize) -> String {
    get_error_name(code).to_owned()
}
