//! The stored form of parity.
//!
//! | part | bytes | content |
//! | --- | --- | --- |
//! | outline | 0..8 | `LEEWARDQ` |
//! | | 8..10 | version, 1 |
//! | | 10..16 | 0 |
//! | | 16..24 | size of the pack, n |
//! | | 24..28 | size of a piece, s: a multiple of 64 |
//! | | 28..32 | number of pieces of the pack, k = n / s rounded up; the last is filled up with zeros |
//! | | 32..36 | number of pieces of parity, m |
//! | | 36..40 | 0 |
//! | | 40..72 | name of the pack |
//! | | 72.. | the first 16 bytes of the digest of each piece: k of the pack, m of parity |
//! | | after | digest of the outline before it |
//! | parity | | m pieces |
//! | outline | | the same once more |
//! | end | last 16 | `LEEWARDE`, length of an outline (4), 0 (4) |
//!
//! The outline stands twice, so that damage at one end leaves the other. Pieces are stretches of the pack, in order: damage
//! that hangs together touches few of them. Any k sound ones of the k + m pieces give the others back.

use reed_solomon_simd::ReedSolomonEncoder;

use crate::id::{DIGEST_BYTES, PackId, domain, stored_digest};
use crate::pack::{le32, le64};

const MAGIC: &[u8; 8] = b"LEEWARDQ";
const END_MAGIC: &[u8; 8] = b"LEEWARDE";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 72;
const END_BYTES: usize = 16;
/// Bytes of the digest of a piece: enough to find damage; whether the pack is whole, its name tells.
const PIECE_DIGEST_BYTES: usize = 16;
/// About so many pieces a pack has.
const PIECES: u64 = 512;
/// The smallest piece in bytes: below it, digests would weigh more than what they tell.
const PIECE_BYTES_MIN: u64 = 1024;
/// The most pieces that are believed, of the pack and of parity each.
const PIECES_MAX: u32 = 1 << 15;

pub(super) type PieceDigest = [u8; PIECE_DIGEST_BYTES];
/// The pieces of parity, in order, as far as they are sound.
pub(super) type ParityPieces<'a> = Vec<Option<&'a [u8]>>;

/// What a parity object says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outline {
    pub(super) pack: PackId,
    pub(super) pack_bytes: u64,
    pub(super) piece_bytes: u32,
    /// Of the pack's pieces, then of those of parity.
    pub(super) digests: Vec<PieceDigest>,
    pub(super) pack_pieces: usize,
}

/// The largest parity object of a pack of so many bytes, in bytes.
pub(super) fn bytes_max(pack_bytes: u64) -> u64 {
    pack_bytes.saturating_mul(2).saturating_add(16 << 20)
}

pub(super) fn piece_digest(piece: &[u8]) -> PieceDigest {
    let digest = stored_digest(domain::PARITY_PIECE, &[piece]);
    digest.as_bytes().first_chunk().copied().unwrap_or_default()
}

/// Size of the pieces of a pack, and how many of parity mend a stretch of so many percent of it wherever it begins.
fn cut(pack_bytes: u64, percent: u8) -> (u64, u64) {
    let piece = pack_bytes.div_ceil(PIECES).next_multiple_of(64).max(PIECE_BYTES_MIN);
    let stretch = (pack_bytes * u64::from(percent)).div_ceil(100);
    // A stretch that begins within a piece touches one more.
    (piece, stretch.div_ceil(piece) + 1)
}

/// The pieces of a pack; the last is filled up with zeros.
pub(super) fn pieces(bytes: &[u8], piece_bytes: usize) -> impl Iterator<Item = std::borrow::Cow<'_, [u8]>> {
    bytes.chunks(piece_bytes.max(1)).map(move |piece| match piece.len() == piece_bytes {
        true => piece.into(),
        false => {
            let mut whole = piece.to_vec();
            whole.resize(piece_bytes, 0);
            whole.into()
        }
    })
}

/// Makes the parity of a pack.
pub(crate) fn make(pack: PackId, bytes: &[u8], percent: u8) -> Result<Vec<u8>, String> {
    let (piece, parity) = cut(bytes.len() as u64, percent);
    let (piece, parity) = (piece as usize, parity as usize);
    let count = bytes.len().div_ceil(piece);
    let failed = |error| format!("parity of pack {pack} cannot be computed: {error}");
    let mut encoder = ReedSolomonEncoder::new(count, parity, piece).map_err(failed)?;
    let mut digests = Vec::with_capacity(count + parity);
    for one in pieces(bytes, piece) {
        digests.push(piece_digest(&one));
        encoder.add_original_shard(one).map_err(failed)?;
    }
    let encoded = encoder.encode().map_err(failed)?;
    digests.extend(encoded.recovery_iter().map(piece_digest));
    let outline = Outline {
        pack,
        pack_bytes: bytes.len() as u64,
        piece_bytes: piece as u32,
        digests,
        pack_pieces: count,
    }
    .encode();
    let mut object = Vec::with_capacity(2 * outline.len() + parity * piece + END_BYTES);
    object.extend_from_slice(&outline);
    encoded.recovery_iter().for_each(|one| object.extend_from_slice(one));
    object.extend_from_slice(&outline);
    object.extend_from_slice(END_MAGIC);
    object.extend_from_slice(&(outline.len() as u32).to_le_bytes());
    object.extend_from_slice(&[0; 4]);
    Ok(object)
}

impl Outline {
    pub(super) fn parity_pieces(&self) -> usize {
        self.digests.len() - self.pack_pieces
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity(HEADER_BYTES + self.digests.len() * PIECE_DIGEST_BYTES + DIGEST_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(&self.pack_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.piece_bytes.to_le_bytes());
        bytes.extend_from_slice(&(self.pack_pieces as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.parity_pieces() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(self.pack.as_bytes());
        self.digests.iter().for_each(|digest| bytes.extend_from_slice(digest));
        let digest = stored_digest(domain::PARITY, &[&bytes]);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    /// Reads the outline that begins here, and its length; or says what is wrong with it.
    fn decode(bytes: &[u8]) -> Result<(Self, usize), String> {
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or("it is too short")?;
        if &header[..8] != MAGIC {
            return Err("it does not begin as parity does".to_owned());
        }
        let version = u16::from_le_bytes([header[8], header[9]]);
        if version != VERSION {
            return Err(format!("its version is {version}; this leeward knows version {VERSION}"));
        }
        let (pack_bytes, piece_bytes) = (le64(header, 16), le32(header, 24));
        let (count, parity) = (le32(header, 28), le32(header, 32));
        // Both bound the memory that is spent on its word: a writer makes no larger pieces, and no more of them.
        let piece_bytes_max =
            pack_bytes.checked_next_multiple_of(64).unwrap_or(u64::MAX).max(PIECE_BYTES_MIN);
        let is_whole = piece_bytes > 0
            && piece_bytes.is_multiple_of(64)
            && u64::from(piece_bytes) <= piece_bytes_max
            && parity <= count.saturating_add(1)
            && (1..=PIECES_MAX).contains(&count)
            && (1..=PIECES_MAX).contains(&parity)
            && pack_bytes.div_ceil(u64::from(piece_bytes)) == u64::from(count)
            && header[10..16] == [0; 6]
            && header[36..40] == [0; 4];
        if !is_whole {
            return Err("its outline contradicts itself".to_owned());
        }
        let end = HEADER_BYTES + (count + parity) as usize * PIECE_DIGEST_BYTES;
        let digest = bytes.get(end..end + DIGEST_BYTES).ok_or("it is too short")?;
        if stored_digest(domain::PARITY, &[&bytes[..end]]).as_bytes() != digest {
            return Err("its outline does not match its digest".to_owned());
        }
        let digests = bytes[HEADER_BYTES..end].as_chunks::<PIECE_DIGEST_BYTES>().0.to_vec();
        let pack = PackId(header[40..].try_into().map_err(|_| "it is too short")?);
        Ok((Self { pack, pack_bytes, piece_bytes, digests, pack_pieces: count as usize }, end + DIGEST_BYTES))
    }
}

/// Reads a parity object: its outline, from the end that is sound, and its pieces of parity.
pub(super) fn read(pack: PackId, bytes: &[u8]) -> Result<(Outline, ParityPieces<'_>), String> {
    let (outline, start) = Outline::decode(bytes).or_else(|first| {
        let end =
            bytes.last_chunk::<END_BYTES>().filter(|end| &end[..8] == END_MAGIC).ok_or(first.clone())?;
        let length = le32(end, 8) as usize;
        let start = bytes.len().checked_sub(END_BYTES).and_then(|end| end.checked_sub(length));
        start.and_then(|start| bytes.get(start..)).map_or(Err(first), Outline::decode)
    })?;
    if outline.pack != pack {
        return Err(format!("it is the parity of pack {}", outline.pack));
    }
    let piece = outline.piece_bytes as usize;
    let found = (0..outline.parity_pieces()).map(|number| {
        let at = start + number * piece;
        let sound = |one: &&[u8]| piece_digest(one) == outline.digests[outline.pack_pieces + number];
        bytes.get(at..at + piece).filter(sound)
    });
    let found = found.collect();
    Ok((outline, found))
}

/// Compares every byte of a parity object with its digests, and those of the pack with the pack where that is given and
/// sound; what is wrong, if anything is.
pub(crate) fn check_object(pack: PackId, bytes: &[u8], pack_bytes: Option<&[u8]>) -> Result<(), String> {
    let (outline, start) = Outline::decode(bytes)?;
    if outline.pack != pack {
        return Err(format!("it is the parity of pack {}", outline.pack));
    }
    let (_, parity) = read(pack, bytes)?;
    let bad = parity.iter().filter(|piece| piece.is_none()).count();
    if bad > 0 {
        return Err(format!("{bad} of its {} pieces do not match their digests", parity.len()));
    }
    let after = start + parity.len() * outline.piece_bytes as usize;
    let mut end = bytes[..start].to_vec();
    end.extend_from_slice(END_MAGIC);
    end.extend_from_slice(&(start as u32).to_le_bytes());
    end.extend_from_slice(&[0; 4]);
    if bytes.get(after..) != Some(end.as_slice()) {
        return Err("its end does not match its beginning".to_owned());
    }
    let Some(pack_bytes) = pack_bytes else { return Ok(()) };
    let own = pieces(pack_bytes, outline.piece_bytes as usize).map(|piece| piece_digest(&piece));
    let is_of_it = pack_bytes.len() as u64 == outline.pack_bytes
        && own.eq(outline.digests[..outline.pack_pieces].iter().copied());
    if is_of_it { Ok(()) } else { Err("it was made of other bytes than the pack has".to_owned()) }
}
