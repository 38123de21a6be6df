//! The form of a kept object: a header that says what the file has to be, then the object's bytes.
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..8 | `LEEWARDC` |
//! | 8..16 | length of the object, little-endian |
//! | 16..48 | digest of key and object |
//! | 48.. | the object |
//!
//! The digest covers the key, so that a file which was moved to another's place is not taken for that one. It has no key:
//! it finds accidents. Against others the directory is closed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::Key;

/// Bytes before the object.
pub(super) const HEADER_BYTES: usize = 48;
const MAGIC: &[u8; 8] = b"LEEWARDC";
const CONTEXT: &str = "leeward 2026-11 cached object";
const BUFFER_BYTES: usize = 1 << 18;

fn hasher(key: &Key) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&(key.as_str().len() as u64).to_le_bytes());
    hasher.update(key.as_str().as_bytes());
    hasher
}

fn header_of(length: u64, hasher: &blake3::Hasher) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&length.to_le_bytes());
    header[16..].copy_from_slice(hasher.finalize().as_bytes());
    header
}

/// The header of an object that is given in parts.
pub(super) fn header(key: &Key, parts: &[&[u8]]) -> [u8; HEADER_BYTES] {
    let mut hasher = hasher(key);
    for part in parts {
        hasher.update(part);
    }
    header_of(parts.iter().map(|part| part.len() as u64).sum(), &hasher)
}

/// Whether a file holds this object, whole and unharmed, with so many bytes.
///
/// # Errors
/// The file cannot be read.
pub(super) fn holds(file: &File, key: &Key, size: u64) -> io::Result<bool> {
    if file.metadata()?.len() != size.saturating_add(HEADER_BYTES as u64) {
        return Ok(false);
    }
    let mut found = [0; HEADER_BYTES];
    file.read_exact_at(&mut found, 0)?;
    let mut hasher = hasher(key);
    let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(size).unwrap_or(BUFFER_BYTES))];
    let mut position = 0;
    while position < size {
        let length = (size - position).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..length], HEADER_BYTES as u64 + position)?;
        hasher.update(&buffer[..length]);
        position += length as u64;
    }
    Ok(found == header_of(size, &hasher))
}
