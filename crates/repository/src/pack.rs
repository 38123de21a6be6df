//! Packs: objects of tens of MiB that hold frames and describe themselves.
//!
//! Layout, numbers little-endian:
//!
//! | part | bytes | content |
//! | --- | --- | --- |
//! | header | 0..8 | `LEEWARDP` |
//! | | 8..10 | version, 1 |
//! | | 10 | kind of its blobs: 1 chunks, 2 tree nodes |
//! | | 11 | 0; a frame says itself how it is encrypted |
//! | | 12 | chunk size as a power of two |
//! | | 13..16 | 0 |
//! | | 16..32 | identity of the repository that made it |
//! | | 32..64 | random: makes every pack's name its own |
//! | frames | 64.. | one after the other, see [`crate::frame`] |
//! | directory | | for each frame: stored length (4), number of blobs (4), digest of the stored frame (32), ids of its blobs (32 each, in order) |
//! | footer | 0..8 | `LEEWARDD` |
//! | | 8..16 | offset of the directory |
//! | | 16..20 | length of the directory |
//! | | 20..24 | number of frames |
//! | | 24..32 | 0 |
//! | | 32..64 | name of the pack: digest of header and directory |
//!
//! The name covers header and directory, the directory covers every frame: so whoever holds a pack can check every
//! byte of it against its name, without any key.

use crate::config::Config;
use crate::frame::{BlobKind, Frame};
use crate::id::{BlobId, DIGEST_BYTES, PackId, StoredDigest, domain, from_hex, stored_digest};
use crate::{Error, Result};

pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const FOOTER_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"LEEWARDP";
const FOOTER_MAGIC: &[u8; 8] = b"LEEWARDD";
const VERSION: u16 = 1;
/// Where the random bytes lie in the header, and how many they are.
const SALT_AT: usize = 32;
const SALT_BYTES: usize = HEADER_BYTES - SALT_AT;
/// Where the name lies in the footer.
const NAME_AT: usize = 32;
/// Bytes of a directory entry before its ids.
const ENTRY_BYTES: usize = 8 + DIGEST_BYTES;

/// A frame as the directory of a pack has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrameEntry {
    /// Offset in the pack.
    pub(crate) offset: u32,
    /// Stored length with its header.
    pub(crate) length: u32,
    /// Digest of the stored bytes.
    pub(crate) digest: StoredDigest,
    /// Its blobs, in order.
    pub(crate) blobs: Vec<BlobId>,
}

/// The directory of a pack, checked against the pack's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directory {
    /// What its blobs are.
    pub(crate) kind: BlobKind,
    /// Its frames, in order.
    pub(crate) frames: Vec<FrameEntry>,
}

/// A pack that is being filled, in memory.
pub(crate) struct PackBuilder {
    kind: BlobKind,
    bytes: Vec<u8>,
    directory: Vec<u8>,
    frames: Vec<FrameEntry>,
}

/// A pack that is complete.
pub(crate) struct SealedPack {
    pub(crate) id: PackId,
    pub(crate) kind: BlobKind,
    /// All its bytes.
    pub(crate) bytes: Vec<u8>,
    pub(crate) frames: Vec<FrameEntry>,
}

impl PackBuilder {
    /// An empty pack. Its salt is random, so no two packs ever share a name: a pack that a collection means to delete
    /// can never be mistaken for one that was written later.
    pub(crate) fn new(kind: BlobKind, config: &Config) -> Result<Self> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[kind as u8, 0, config.chunk_bits, 0, 0, 0]);
        bytes.extend_from_slice(&from_hex::<16>(&config.repository_id).unwrap_or_default());
        bytes.extend_from_slice(&salt()?);
        Ok(Self { kind, bytes, directory: Vec::new(), frames: Vec::new() })
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.directory.len() + FOOTER_BYTES
    }

    /// Whether it holds no frame.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Appends a frame that holds these blobs. Packs stay far below 4 GiB, see [`crate::config::InitOptions`].
    pub(crate) fn push(&mut self, frame: &Frame<'_>, blobs: Vec<BlobId>) {
        let offset = self.bytes.len() as u32;
        let length = frame.bytes.len() as u32;
        self.bytes.extend_from_slice(frame.bytes);
        self.directory.extend_from_slice(&length.to_le_bytes());
        self.directory.extend_from_slice(&(blobs.len() as u32).to_le_bytes());
        self.directory.extend_from_slice(frame.digest.as_bytes());
        for blob in &blobs {
            self.directory.extend_from_slice(blob.as_bytes());
        }
        self.frames.push(FrameEntry { offset, length, digest: frame.digest, blobs });
    }

    /// Completes the pack.
    pub(crate) fn seal(mut self) -> SealedPack {
        let id = name(&self.bytes[..HEADER_BYTES], &self.directory);
        let directory_offset = self.bytes.len() as u64;
        self.bytes.extend_from_slice(&self.directory);
        self.bytes.extend_from_slice(FOOTER_MAGIC);
        self.bytes.extend_from_slice(&directory_offset.to_le_bytes());
        self.bytes.extend_from_slice(&(self.directory.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&(self.frames.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(id.as_bytes());
        SealedPack { id, kind: self.kind, bytes: self.bytes, frames: self.frames }
    }
}

fn salt() -> Result<[u8; SALT_BYTES]> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt)
        .map_err(|error| Error::Invalid(format!("the system gives no random bytes: {error}")))?;
    Ok(salt)
}

/// Gives a whole pack another salt, and by that a name that no pack has ever had. Its frames and directory stay as they
/// are, so it takes no key.
pub(crate) fn rename(id: PackId, bytes: &mut [u8]) -> Result<PackId, String> {
    parse(id, bytes)?;
    let salt = salt().map_err(|error| error.to_string())?;
    let footer_at = bytes.len() - FOOTER_BYTES;
    let directory_at = le64(bytes, footer_at + 8) as usize;
    bytes[SALT_AT..HEADER_BYTES].copy_from_slice(&salt);
    let new = name(&bytes[..HEADER_BYTES], &bytes[directory_at..footer_at]);
    bytes[footer_at + NAME_AT..].copy_from_slice(new.as_bytes());
    Ok(new)
}

fn name(header: &[u8], directory: &[u8]) -> PackId {
    PackId(*stored_digest(domain::PACK, &[header, directory]).as_bytes())
}

/// Where the directory lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Offset of the directory.
    pub(crate) directory_offset: u64,
    /// Its length in bytes.
    pub(crate) directory_length: u32,
    frame_count: u32,
    id: PackId,
}

/// Reads the footer of a pack of `pack_bytes`, or says what is wrong with it.
pub(crate) fn read_footer(footer: &[u8; FOOTER_BYTES], pack_bytes: u64) -> Result<Footer, String> {
    if &footer[..8] != FOOTER_MAGIC {
        return Err("it does not end as a pack does".to_owned());
    }
    let directory_offset = le64(footer, 8);
    let directory_length = le32(footer, 16);
    let end = directory_offset.checked_add(u64::from(directory_length)).and_then(|end| end.checked_add(64));
    if directory_offset < HEADER_BYTES as u64 || end != Some(pack_bytes) || footer[24..32] != [0; 8] {
        return Err("its footer contradicts its size".to_owned());
    }
    let mut id = [0; DIGEST_BYTES];
    id.copy_from_slice(&footer[NAME_AT..]);
    Ok(Footer { directory_offset, directory_length, frame_count: le32(footer, 20), id: PackId(id) })
}

/// Reads and checks a pack's directory, or says what is wrong with it.
pub(crate) fn read_directory(
    id: PackId,
    header: &[u8],
    footer: Footer,
    directory: &[u8],
) -> Result<Directory, String> {
    if footer.id != id || name(header, directory) != id {
        return Err("its header or directory does not match its name".to_owned());
    }
    // From here on the bytes are what their writer wrote; they are still checked, because a writer may be hostile.
    if header.len() != HEADER_BYTES || &header[..8] != MAGIC {
        return Err("it does not begin as a pack does".to_owned());
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != VERSION {
        return Err(format!("its version is {version}; this leeward knows version {VERSION}"));
    }
    if header[11] != 0 {
        return Err(format!("it has {} where 0 must be", header[11]));
    }
    let kind =
        BlobKind::from_number(header[10]).ok_or_else(|| format!("its kind {} is not known", header[10]))?;
    let mut frames = Vec::new();
    let mut offset = HEADER_BYTES as u64;
    let mut rest = directory;
    while !rest.is_empty() {
        let (entry, after) =
            rest.split_first_chunk::<ENTRY_BYTES>().ok_or("its directory ends within an entry")?;
        let (length, count) = (le32(entry, 0), le32(entry, 4) as usize);
        let ids =
            after.get(..count.saturating_mul(DIGEST_BYTES)).ok_or("its directory ends within an entry")?;
        let mut digest = [0; DIGEST_BYTES];
        digest.copy_from_slice(&entry[8..]);
        let blobs = ids.as_chunks::<DIGEST_BYTES>().0.iter().map(|id| BlobId(*id)).collect();
        let start = u32::try_from(offset).map_err(|_| "it is larger than 4 GiB")?;
        frames.push(FrameEntry { offset: start, length, digest: StoredDigest(digest), blobs });
        offset += u64::from(length);
        rest = &after[ids.len()..];
    }
    if offset != footer.directory_offset || frames.len() != footer.frame_count as usize {
        return Err("its frames do not fill it".to_owned());
    }
    Ok(Directory { kind, frames })
}

pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Reads the directory of a whole pack in memory, or says what is wrong with it.
pub(crate) fn parse(id: PackId, bytes: &[u8]) -> Result<Directory, String> {
    let footer = bytes.last_chunk::<FOOTER_BYTES>().ok_or("it is too short for a pack")?;
    let footer = read_footer(footer, bytes.len() as u64)?;
    let start = usize::try_from(footer.directory_offset).map_err(|_| "it is too large")?;
    let directory = bytes.get(start..bytes.len() - FOOTER_BYTES).ok_or("its footer contradicts its size")?;
    read_directory(id, bytes.get(..HEADER_BYTES).unwrap_or_default(), footer, directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::InitOptions;
    use crate::frame::FrameEncoder;

    fn sealed() -> SealedPack {
        let config = Config::new(&InitOptions::default(), String::new()).unwrap();
        let mut encoder = FrameEncoder::new(1, &std::sync::Arc::new(crate::keys::Keyring::plain())).unwrap();
        let mut builder = PackBuilder::new(BlobKind::Chunk, &config).unwrap();
        for text in [&b"one"[..], b"two"] {
            let frame = encoder.encode(BlobKind::Chunk, text).unwrap();
            builder.push(&frame, vec![BlobId([text[0]; 32])]);
        }
        let expected = builder.len();
        let pack = builder.seal();
        assert_eq!(pack.bytes.len(), expected);
        pack
    }

    #[test]
    fn a_renamed_pack_holds_the_same_under_a_name_of_its_own() {
        let pack = sealed();
        let renamed = || {
            let mut bytes = pack.bytes.clone();
            (rename(pack.id, &mut bytes).unwrap(), bytes)
        };
        let ((first, bytes), (second, _)) = (renamed(), renamed());
        assert!(first != pack.id && second != pack.id && first != second);
        assert_eq!(parse(first, &bytes).unwrap().frames, pack.frames);
        assert!(parse(pack.id, &bytes).is_err(), "the old name is not its own any more");
        let frames = HEADER_BYTES..bytes.len() - FOOTER_BYTES;
        assert!(bytes[frames.clone()] == pack.bytes[frames] && bytes[..SALT_AT] == pack.bytes[..SALT_AT]);
        rename(second, &mut pack.bytes.clone()).unwrap_err();
        rename(pack.id, &mut pack.bytes[..100].to_vec()).unwrap_err();
    }

    #[test]
    fn a_pack_tells_what_it_holds_and_notices_every_flipped_byte() {
        let pack = sealed();
        let directory = parse(pack.id, &pack.bytes).unwrap();
        assert_eq!(directory.frames, pack.frames);
        for at in 0..pack.bytes.len() {
            let mut bad = pack.bytes.clone();
            bad[at] ^= 0x10;
            let noticed = match parse(pack.id, &bad) {
                Err(_) => true,
                Ok(directory) => directory.frames.iter().any(|frame| {
                    let range = frame.offset as usize..(frame.offset + frame.length) as usize;
                    stored_digest(domain::FRAME, &[&bad[range]]) != frame.digest
                }),
            };
            assert!(noticed, "byte {at}");
        }
    }
}
