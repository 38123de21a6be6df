//! All that comes out of a compression, once: to tell what it is, to measure it, or into a scratch file.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use leeward_disk::{SharedStorage, is_zero};
use rustix::fs::{Mode, OFlags};

use super::Scratch;
use super::ahead::{AheadReader, Failure, PARTS_AHEAD};
use super::stream::{Compression, Expanded, Expander, FOOTER_BYTES};
use crate::digest::{DigestCheck, Hasher, Stated};
use crate::ledger::UNIT_BYTES;
use crate::{Error, Progress, Result, Watch};

/// Zeros of this length make a hole in a scratch file, in bytes.
const HOLE_BYTES: usize = 64 << 10;

/// The first bytes that come out.
pub(super) fn start(storage: &SharedStorage, compression: Compression, bytes: usize) -> Result<Vec<u8>> {
    let mut start = vec![0; bytes];
    let count = Expander::ahead(storage, compression, u64::MAX, 1)?.read(&mut start)?;
    start.truncate(count);
    Ok(start)
}

/// Reads all of it once: how much comes out, whether it ends like a fixed VHD, whether the object has its digest.
pub(super) fn measure(
    storage: &SharedStorage,
    compression: Compression,
    version: &str,
    stated: Stated,
    bytes_max: u64,
    watch: &dyn Watch,
) -> Result<Expanded> {
    let digest = compare(storage, stated, watch)?;
    let mut expander = Expander::new(storage, compression, bytes_max)?;
    let mut buffer = vec![0; UNIT_BYTES as usize];
    let mut last = Vec::new();
    loop {
        check(watch)?;
        let count = expander.read(&mut buffer)?;
        if count > 0 {
            last.extend_from_slice(&buffer[count.saturating_sub(FOOTER_BYTES)..count]);
            last.drain(..last.len().saturating_sub(FOOTER_BYTES));
        }
        watch.progress(Progress {
            done_bytes: expander.bytes(),
            total_bytes: 0,
            data_bytes: expander.bytes(),
        });
        if count < buffer.len() {
            break;
        }
    }
    let has_footer = last.len() == FOOTER_BYTES && last.starts_with(b"conectix");
    Ok(Expanded { version: version.to_owned(), bytes: expander.bytes(), has_footer, digest })
}

/// Compares the object itself with the digests that are stated for it.
fn compare(storage: &SharedStorage, stated: Stated, watch: &dyn Watch) -> Result<DigestCheck> {
    if stated.is_empty() {
        return Ok(DigestCheck::NotStated);
    }
    let failure = Failure::default();
    let failed = |error: io::Error| match failure.take() {
        Some(error) => error.into(),
        None => Error::Image { object: storage.name().to_owned(), what: error.to_string() },
    };
    let mut reader = AheadReader::new(Arc::clone(storage), PARTS_AHEAD, failure.clone()).map_err(failed)?;
    let mut hasher = Hasher::new(stated);
    let mut buffer = vec![0; 1 << 20];
    loop {
        check(watch)?;
        match reader.read(&mut buffer).map_err(failed)? {
            0 => return hasher.finish(storage.name()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Expands all of it into a file without a name, with holes where there are zeros.
pub(super) fn spool(
    storage: &SharedStorage,
    compression: Compression,
    bytes_max: u64,
    scratch: &Scratch,
    watch: &dyn Watch,
) -> Result<File> {
    let failed =
        |source: io::Error| crate::target::failed(&scratch.directory, "write a scratch file in", source);
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(&scratch.directory, flags, Mode::RUSR | Mode::WUSR);
    let file: File = file.map_err(|errno| failed(errno.into()))?.into();
    let mut expander = Expander::new(storage, compression, bytes_max)?;
    let mut buffer = vec![0; UNIT_BYTES as usize];
    let (mut position, mut written) = (0_u64, 0_u64);
    loop {
        check(watch)?;
        let count = expander.read(&mut buffer)?;
        for part in buffer[..count].chunks(HOLE_BYTES) {
            if !is_zero(part) {
                written += part.len() as u64;
                if written > scratch.bytes_max {
                    return Err(Error::Expands {
                        object: storage.name().to_owned(),
                        bytes_max: scratch.bytes_max,
                    });
                }
                file.write_all_at(part, position).map_err(failed)?;
            }
            position += part.len() as u64;
        }
        watch.progress(Progress { done_bytes: position, total_bytes: 0, data_bytes: written });
        if count < buffer.len() {
            break;
        }
    }
    file.set_len(position).map_err(failed)?;
    Ok(file)
}

fn check(watch: &dyn Watch) -> Result<()> {
    if watch.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}
