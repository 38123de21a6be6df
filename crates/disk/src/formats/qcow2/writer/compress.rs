//! Compressed clusters of a new image.

use std::cell::RefCell;

use zstd::zstd_safe::{CCtx, DCtx, get_error_name};

use super::{Qcow2Target, space};
use crate::formats::qcow2::entry::{Geometry, Mapping};
use crate::{Error, Format, Result};

/// Level 1: three times the speed of QEMU's level 3 for a few percent more space.
const LEVEL: i32 = 1;

struct Scratch {
    context: CCtx<'static>,
    /// Compressed clusters of one write, each aligned.
    packed: Vec<u8>,
    /// One cluster, where the data ends before it does.
    cluster: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        context: CCtx::create(),
        packed: Vec::new(),
        cluster: Vec::new(),
    });
}

/// A compressed cluster among those of one write.
struct Piece {
    position: u64,
    start: u64,
    length: u64,
}

impl Qcow2Target {
    /// Writes whole clusters, compressed where that saves space. The caller's thread compresses, outside the lock; all
    /// clusters of one call are written at once.
    pub(super) fn write_compressed(&self, data: &[u8], offset: u64) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let pieces = self.pack(scratch, data, offset)?;
            let Some(last) = pieces.last() else { return Ok(()) };
            let total = last.start + last.length;
            let host = {
                let mut state = self.state();
                let host = state.space.packed(total);
                for piece in &pieces {
                    let entry = descriptor(&self.geometry, host + piece.start, piece.length);
                    self.set_entry(&mut state, piece.position, entry);
                }
                host
            };
            self.staged.write_at(&scratch.packed[..total as usize], host)
        })
    }

    /// Compresses clusters into the scratch buffer. Those that do not shrink, or already have a place, are written at
    /// once, plain.
    fn pack(&self, scratch: &mut Scratch, data: &[u8], offset: u64) -> Result<Vec<Piece>> {
        let cluster_bytes = self.geometry.cluster_bytes() as usize;
        let clusters = data.len().div_ceil(cluster_bytes);
        scratch.packed.resize(clusters * (cluster_bytes + 64), 0);
        let mut pieces = Vec::with_capacity(clusters);
        let mut start = 0;
        for (index, part) in data.chunks(cluster_bytes).enumerate() {
            let position = offset + (index * cluster_bytes) as u64;
            if matches!(self.lookup(&self.state(), position), Mapping::Data { .. }) {
                self.write_plain(part, position)?;
                continue;
            }
            let whole = if part.len() == cluster_bytes {
                part
            } else {
                scratch.cluster.clear();
                scratch.cluster.extend_from_slice(part);
                scratch.cluster.resize(cluster_bytes, 0);
                &scratch.cluster
            };
            // Room for one byte less than the cluster: what does not fit in there is not worth compressing.
            let room = &mut scratch.packed[start as usize..start as usize + cluster_bytes - 1];
            match scratch.context.compress(room, whole, LEVEL) {
                Ok(length) => {
                    let length = length as u64;
                    pieces.push(Piece { position, start, length });
                    start = space::align(start + length);
                }
                Err(_) => self.write_plain(part, position)?,
            }
        }
        Ok(pieces)
    }

    /// The content of a compressed cluster that was written before.
    pub(super) fn inflate(&self, host: u64, length: u32) -> Result<Vec<u8>> {
        let broken = |what: &str| Error::Corrupt {
            path: self.staged.name().to_owned(),
            format: Format::Qcow2,
            what: format!("the compressed cluster at {host}, just written, {what}"),
        };
        let mut compressed = vec![0; length as usize];
        let held = self.staged.read_available(&mut compressed, host)?;
        let frame = zstd::zstd_safe::find_frame_compressed_size(&compressed[..held])
            .map_err(|code| broken(get_error_name(code)))?;
        let mut cluster = vec![0; self.geometry.cluster_bytes() as usize];
        let inflated = DCtx::create()
            .decompress(&mut cluster[..], compressed.get(..frame).unwrap_or_default())
            .map_err(|code| broken(get_error_name(code)))?;
        if inflated == cluster.len() { Ok(cluster) } else { Err(broken("is short")) }
    }
}

/// The L2 entry of `length` compressed bytes at `host`.
fn descriptor(geometry: &Geometry, host: u64, length: u64) -> u64 {
    let offset_bits = 62 - (geometry.cluster_bits() - 8);
    let sectors = ((host + length - 1) >> 9) - (host >> 9);
    1 << 62 | sectors << offset_bits | host
}
