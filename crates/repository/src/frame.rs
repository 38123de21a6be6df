//! Frames: blobs that were read together, compressed together.
//!
//! A chunk is the unit of naming, a frame the unit of compression: the new chunks of one stretch of a disk share a
//! frame, which compresses better and faster than each alone (`docs/decisions/0002-frames.md`). Layout, numbers
//! little-endian:
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..4 | `LWFR` |
//! | 4 | encoding: 0 as it is, 1 zstd |
//! | 5 | cipher: 0 none, 1 chunks, 2 nodes; see [`crate::keys`] |
//! | 6 | kind: 1 chunks, 2 tree nodes |
//! | 7 | 0 |
//! | 8..12 | length of the content |
//! | 12..16 | length of what follows |
//! | 16.. | the content, encoded; with a cipher then encrypted |

use std::sync::Arc;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{
    CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, Strategy, get_error_name,
};

use crate::id::{StoredDigest, domain, stored_digest};
use crate::keys::{FRAME_PREFIX_BYTES, FRAME_TAG_BYTES, FrameKeys, Keyring};
use crate::{Error, Result};

/// Bytes before the content.
pub(crate) const HEADER_BYTES: usize = 16;
const MAGIC: &[u8; 4] = b"LWFR";
/// The largest content of a frame. Bounds what a damaged or hostile pack can make a reader allocate.
pub(crate) const CONTENT_BYTES_MAX: usize = 16 << 20;

/// What a frame or pack holds. The number is part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BlobKind {
    /// Slices of disks.
    Chunk = 1,
    /// Nodes of extent trees.
    Node = 2,
}

impl BlobKind {
    /// The kind with this number.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Chunk),
            2 => Some(Self::Node),
            _ => None,
        }
    }

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chunk => "chunk",
            Self::Node => "tree node",
        }
    }
}

/// An encoded frame, in the buffer of its encoder.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    /// Header and encoded content.
    pub(crate) bytes: &'a [u8],
    /// Digest of `bytes`.
    pub(crate) digest: StoredDigest,
}

/// The level that is tuned for frames: see `docs/decisions/0002-frames.md`.
const TUNED_LEVEL: i32 = 2;
/// Level 3's strategy with tables that stay in the nearest caches: nearly its ratio, a seventh faster.
const TUNED_PARAMETERS: [CParameter; 5] = [
    CParameter::Strategy(Strategy::ZSTD_dfast),
    CParameter::WindowLog(21),
    CParameter::HashLog(16),
    CParameter::ChainLog(14),
    CParameter::MinMatch(5),
];

/// Encodes frames; keeps its buffers from one to the next. One per thread.
pub(crate) struct FrameEncoder {
    keyring: Arc<Keyring>,
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
    check: Vec<u8>,
    output: Vec<u8>,
}

impl FrameEncoder {
    /// An encoder at a level of zstd, for a repository with these keys.
    pub(crate) fn new(level: i32, keyring: &Arc<Keyring>) -> Result<Self> {
        if keyring.is_locked() {
            // Nothing may be stored in the clear for want of a key.
            return Err(Error::Invalid("nothing can be stored without the repository's keys".to_owned()));
        }
        let failed = |error: std::io::Error| Error::Invalid(format!("zstd cannot be set up: {error}"));
        let mut compressor = Compressor::new(level).map_err(failed)?;
        // The length and a checksum of the content are in our own header and digests.
        compressor.include_contentsize(false).map_err(failed)?;
        compressor.include_checksum(false).map_err(failed)?;
        if level == TUNED_LEVEL {
            for parameter in TUNED_PARAMETERS {
                compressor.set_parameter(parameter).map_err(failed)?;
            }
        }
        let decompressor = Decompressor::new().map_err(failed)?;
        let keyring = Arc::clone(keyring);
        Ok(Self { keyring, compressor, decompressor, check: Vec::new(), output: Vec::new() })
    }

    /// The frame with this content, compressed where that makes it smaller, then encrypted where the repository is. What
    /// was compressed is decompressed again and compared: a fault of memory or processor must not reach the repository.
    pub(crate) fn encode(&mut self, kind: BlobKind, content: &[u8]) -> Result<Frame<'_>> {
        let too_large = || Error::Invalid("a frame cannot hold so much".to_owned());
        let content_length = u32::try_from(content.len()).map_err(|_| too_large())?;
        let keyring = Arc::clone(&self.keyring);
        let frames = keyring.frames();
        let (prefix, tag) = if frames.is_some() { (FRAME_PREFIX_BYTES, FRAME_TAG_BYTES) } else { (0, 0) };
        let (encoding, encoded) = self.compress(kind, content, HEADER_BYTES + prefix, tag)?;
        let stored = prefix + encoded + tag;
        let stored_length = u32::try_from(stored).map_err(|_| too_large())?;
        self.output[..4].copy_from_slice(MAGIC);
        let cipher = frames.map_or(0, |_| FrameKeys::cipher(kind));
        self.output[4..8].copy_from_slice(&[encoding, cipher, kind as u8, 0]);
        self.output[8..12].copy_from_slice(&content_length.to_le_bytes());
        self.output[12..16].copy_from_slice(&stored_length.to_le_bytes());
        if let Some(frames) = frames {
            let (header, payload) = self.output[..HEADER_BYTES + stored].split_at_mut(HEADER_BYTES);
            frames.seal(kind, header, payload)?;
        }
        let bytes = &self.output[..HEADER_BYTES + stored];
        Ok(Frame { bytes, digest: stored_digest(domain::FRAME, &[bytes]) })
    }

    /// Puts the encoded content into the output from `start` on, with room for `after` bytes behind it; returns the
    /// encoding and the length.
    fn compress(
        &mut self,
        kind: BlobKind,
        content: &[u8],
        start: usize,
        after: usize,
    ) -> Result<(u8, usize)> {
        let bound = start + zstd::zstd_safe::compress_bound(content.len()) + after;
        if self.output.len() < bound {
            self.output.resize(bound, 0);
        }
        let compressed = match kind {
            // Nodes are digests: nothing to gain.
            BlobKind::Node => content.len(),
            BlobKind::Chunk => self
                .compressor
                .compress_to_buffer(content, &mut self.output[start..])
                .map_err(|_| Error::BadCompression)?,
        };
        let worth = content.len() - content.len() / 32;
        if compressed >= worth {
            self.output[start..start + content.len()].copy_from_slice(content);
            return Ok((0, content.len()));
        }
        self.check.resize(content.len(), 0);
        let length = self
            .decompressor
            .decompress_to_buffer(&self.output[start..start + compressed], &mut self.check[..])
            .map_err(|_| Error::BadCompression)?;
        if length != content.len() || self.check != content {
            return Err(Error::BadCompression);
        }
        Ok((1, compressed))
    }
}

/// A frame whose header was looked at.
struct Parsed<'a> {
    encoding: u8,
    /// At most [`CONTENT_BYTES_MAX`].
    content_length: usize,
    payload: &'a [u8],
}

/// Looks at the header of a frame and takes off its encryption, into `plain`; or says what is wrong with it. A frame that
/// is not encrypted as the repository's keys say is refused: nothing else could have been written there.
fn parse<'a>(
    kind: BlobKind,
    bytes: &'a [u8],
    keyring: &Keyring,
    plain: &'a mut Vec<u8>,
) -> Result<Parsed<'a>, String> {
    let parsed = parse_header(kind, bytes)?;
    let expected = keyring.frames().map_or(0, |_| FrameKeys::cipher(kind));
    if bytes[5] != expected {
        return Err(format!("the frame has cipher {}, where the repository has {expected}", bytes[5]));
    }
    let Some(frames) = keyring.frames() else { return Ok(parsed) };
    frames.open(kind, &bytes[..HEADER_BYTES], parsed.payload, plain)?;
    Ok(Parsed { payload: plain, ..parsed })
}

/// Looks at the header of a frame, or says what is wrong with it.
fn parse_header(kind: BlobKind, bytes: &[u8]) -> Result<Parsed<'_>, String> {
    let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or("the frame is too short")?;
    if &header[..4] != MAGIC {
        return Err("there is no frame at its place".to_owned());
    }
    if header[5] > FrameKeys::CIPHER_MAX {
        return Err(format!("the frame is encrypted with cipher {}, which is not known here", header[5]));
    }
    if header[6] != kind as u8 {
        return Err(format!("the frame is of kind {}, not {}", header[6], kind as u8));
    }
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let content_length = number(8) as usize;
    if content_length > CONTENT_BYTES_MAX {
        return Err(format!("the frame says that it holds {content_length} bytes, more than a frame may"));
    }
    if number(12) as usize != payload.len() {
        return Err(format!("the frame says {} bytes but has {}", number(12), payload.len()));
    }
    Ok(Parsed { encoding: header[4], content_length, payload })
}

/// Decodes frames; one per thread.
pub(crate) struct FrameDecoder {
    keyring: Arc<Keyring>,
    /// What a frame held before it was encrypted.
    plain: Vec<u8>,
    decompressor: Decompressor<'static>,
    /// Made when a frame is first decoded in blocks; takes as much memory as a frame has content.
    stream: Option<DCtx<'static>>,
}

impl FrameDecoder {
    /// A decoder for a repository with these keys.
    pub(crate) fn new(keyring: &Arc<Keyring>) -> Result<Self> {
        let decompressor =
            Decompressor::new().map_err(|error| Error::Invalid(format!("zstd cannot be set up: {error}")))?;
        Ok(Self { keyring: Arc::clone(keyring), plain: Vec::new(), decompressor, stream: None })
    }

    /// Decodes a frame into `content`, or says what is wrong with it. Whether the content is the right one only the
    /// digests of its blobs can tell.
    pub(crate) fn decode(
        &mut self,
        kind: BlobKind,
        bytes: &[u8],
        content: &mut Vec<u8>,
    ) -> Result<(), String> {
        let Parsed { encoding, content_length, payload } =
            parse(kind, bytes, &self.keyring, &mut self.plain)?;
        match encoding {
            0 if content_length == payload.len() => {
                content.clear();
                content.extend_from_slice(payload);
                Ok(())
            }
            0 => Err("the frame's two lengths differ though it is not compressed".to_owned()),
            1 => {
                // Into the capacity of the vector, which is not filled with zeros first.
                content.clear();
                content.reserve_exact(content_length);
                match self.decompressor.decompress_to_buffer(payload, content) {
                    Ok(length) if length == content_length => Ok(()),
                    Ok(length) => {
                        Err(format!("the frame decompresses to {length} bytes, not {content_length}"))
                    }
                    Err(error) => Err(format!("the frame does not decompress: {error}")),
                }
            }
            other => Err(format!("the frame has encoding {other}, which is not known here")),
        }
    }

    /// Decodes the first `end` bytes of the content of a frame, or all where it has less, and hands them on in blocks of
    /// `block_bytes`, each with its offset; the last may be shorter. Decoding stops there, which saves the time for the
    /// rest.
    pub(crate) fn decode_blocks(
        &mut self,
        kind: BlobKind,
        bytes: &[u8],
        block_bytes: usize,
        end: usize,
        mut take: impl FnMut(usize, Vec<u8>),
    ) -> Result<(), String> {
        let Parsed { encoding, content_length, payload } =
            parse(kind, bytes, &self.keyring, &mut self.plain)?;
        let end = end.min(content_length);
        match encoding {
            0 if content_length == payload.len() => {
                for (index, block) in payload[..end].chunks(block_bytes).enumerate() {
                    take(index * block_bytes, block.to_vec());
                }
                Ok(())
            }
            0 => Err("the frame's two lengths differ though it is not compressed".to_owned()),
            1 => {
                let stream = ready(&mut self.stream)?;
                let mut input = InBuffer::around(payload);
                for start in (0..end).step_by(block_bytes) {
                    take(start, next_block(stream, &mut input, block_bytes.min(end - start))?);
                }
                Ok(())
            }
            other => Err(format!("the frame has encoding {other}, which is not known here")),
        }
    }
}

/// The streaming decoder, at the beginning of a frame; made where there is none yet.
fn ready<'a>(kept: &'a mut Option<DCtx<'static>>) -> Result<&'a mut DCtx<'static>, String> {
    if kept.is_none() {
        let mut stream = DCtx::try_create().ok_or("there is no memory for a decoder")?;
        // No frame needs a larger window than its content; a hostile one must not make us allocate more.
        stream.set_parameter(DParameter::WindowLogMax(CONTENT_BYTES_MAX.ilog2())).map_err(unusable)?;
        *kept = Some(stream);
    }
    let stream = kept.as_mut().ok_or("there is no decoder")?;
    stream.reset(ResetDirective::SessionOnly).map_err(unusable)?;
    Ok(stream)
}

fn unusable(code: usize) -> String {
    format!("the frame does not decompress: {}", get_error_name(code))
}

/// The next `length` bytes of a compressed stream.
fn next_block(stream: &mut DCtx<'_>, input: &mut InBuffer<'_>, length: usize) -> Result<Vec<u8>, String> {
    // Into the capacity of the vector, which is not filled with zeros first.
    let mut block = Vec::with_capacity(length);
    while block.len() < length {
        let before = (input.pos(), block.len());
        let position = block.len();
        let mut output = OutBuffer::around_pos(&mut block, position);
        stream.decompress_stream(&mut output, input).map_err(unusable)?;
        if before == (input.pos(), block.len()) {
            return Err("the compressed content of the frame ends too early".to_owned());
        }
    }
    if block.len() > length {
        return Err("the allocator gave more than it was asked for".to_owned());
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_survives_whether_it_compresses_or_not() {
        let mut encoder = FrameEncoder::new(3, &Arc::new(Keyring::plain())).unwrap();
        let mut decoder = FrameDecoder::new(&Arc::new(Keyring::plain())).unwrap();
        let noise: Vec<u8> = blake3::Hasher::new().finalize_xof().take_bytes(70_000);
        for content in [vec![7; 100_000], noise, vec![], vec![1]] {
            let frame = encoder.encode(BlobKind::Chunk, &content).unwrap();
            let mut back = Vec::new();
            decoder.decode(BlobKind::Chunk, frame.bytes, &mut back).unwrap();
            assert_eq!(back, content);
            assert!(frame.bytes.len() <= content.len() + HEADER_BYTES);
            assert!(decoder.decode(BlobKind::Node, frame.bytes, &mut back).is_err());
            for (block, end) in [(4096, content.len()), (65536, content.len() / 2), (1000, usize::MAX)] {
                let mut joined = Vec::new();
                decoder
                    .decode_blocks(BlobKind::Chunk, frame.bytes, block, end, |offset, bytes| {
                        assert_eq!(offset, joined.len());
                        assert!(bytes.len() <= block);
                        joined.extend_from_slice(&bytes);
                    })
                    .unwrap();
                assert_eq!(joined, content[..end.min(content.len())]);
            }
        }
    }

    #[test]
    fn frames_that_are_cut_off_or_promise_too_much_are_refused_in_blocks() {
        let mut encoder = FrameEncoder::new(3, &Arc::new(Keyring::plain())).unwrap();
        let mut decoder = FrameDecoder::new(&Arc::new(Keyring::plain())).unwrap();
        let content: Vec<u8> = (0..200_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
        let frame = encoder.encode(BlobKind::Chunk, &content).unwrap().bytes.to_vec();
        let decode = |decoder: &mut FrameDecoder, bytes: &[u8]| {
            decoder.decode_blocks(BlobKind::Chunk, bytes, 65536, usize::MAX, |_, _| {})
        };
        decode(&mut decoder, &frame).unwrap();
        let mut short = frame.clone();
        short.truncate(frame.len() / 2);
        assert!(decode(&mut decoder, &short).is_err());
        let length = (short.len() - HEADER_BYTES) as u32;
        short[12..16].copy_from_slice(&length.to_le_bytes());
        assert!(decode(&mut decoder, &short).is_err());
        let mut more = frame.clone();
        more[8..12].copy_from_slice(&(content.len() as u32 + 1).to_le_bytes());
        assert!(decode(&mut decoder, &more).is_err());
        // A decoder that has met bad frames decodes good ones.
        decode(&mut decoder, &frame).unwrap();
    }

    trait TakeBytes {
        fn take_bytes(self, count: usize) -> Vec<u8>;
    }

    impl TakeBytes for blake3::OutputReader {
        fn take_bytes(mut self, count: usize) -> Vec<u8> {
            let mut bytes = vec![0; count];
            self.fill(&mut bytes);
            bytes
        }
    }
}
