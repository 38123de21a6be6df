//! The digest of all bytes of a disk.

use leeward_disk::{Source, walk_extents};

use super::tools::check_interrupt;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Progress;

const BUFFER_BYTES: usize = 1 << 20;

/// BLAKE3 over every byte that a guest would read, in order: of a raw file, what `b3sum` says.
pub fn digest(source: &dyn Source, label: &str, output: &Output) -> Result<blake3::Hash, Failure> {
    let progress = Progress::new(output, source.virtual_size(), label);
    let mut hasher = blake3::Hasher::new();
    let (zeros, mut buffer) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    walk_extents(source, 0, source.virtual_size(), |extent| {
        let mut position = extent.offset;
        while position < extent.end() {
            check_interrupt()?;
            let length = (extent.end() - position).min(BUFFER_BYTES as u64) as usize;
            if extent.kind.is_data() {
                source.read_at(&mut buffer[..length], position)?;
                hasher.update(&buffer[..length]);
            } else {
                hasher.update(&zeros[..length]);
            }
            position += length as u64;
            progress.add(length as u64);
        }
        Ok::<(), Failure>(())
    })?;
    Ok(hasher.finalize())
}
