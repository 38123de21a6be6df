//! Small objects: configuration, manifests, refs, sessions, condemned lists.
//!
//! A record is a header, a payload and the digest of both. The payload is JSON. Layout, numbers little-endian:
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..8 | `LEEWARDR` |
//! | 8..10 | version, 1 |
//! | 10 | kind, see [`Kind`] |
//! | 11 | cipher: 0 none, others reserved |
//! | 12..16 | length of the payload as stored |
//! | 16..40 | nonce, zero when there is no cipher |
//! | 40.. | payload as stored |
//! | last 32 | digest of all before it, checked without any key |

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::{DIGEST_BYTES, domain, stored_digest};

const MAGIC: &[u8; 8] = b"LEEWARDR";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 40;

/// The largest record, in bytes. An image with a hundred thousand snapshots stays below it.
pub(crate) const RECORD_BYTES_MAX: u64 = 64 << 20;

/// What a record is about. The number is part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Config = 1,
    Snapshot = 2,
    Ref = 3,
    Session = 4,
    Condemned = 5,
    // 6 is reserved for recovery points, 7 for wrapped keys.
}

/// The record with this payload.
pub(crate) fn encode(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len() + DIGEST_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.push(kind as u8);
    bytes.push(0);
    // A payload beyond 4 GiB cannot come up: it would have been refused long before (RECORD_BYTES_MAX).
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&[0; 24]);
    bytes.extend_from_slice(payload);
    let digest = stored_digest(domain::RECORD, &[&bytes]);
    bytes.extend_from_slice(digest.as_bytes());
    bytes
}

/// The payload of a record of this kind, or what is wrong with it.
pub(crate) fn decode(kind: Kind, bytes: &[u8]) -> Result<&[u8], String> {
    let (content, digest) = bytes.split_last_chunk::<DIGEST_BYTES>().ok_or("it is too short")?;
    if stored_digest(domain::RECORD, &[content]).as_bytes() != digest {
        return Err("its bytes do not match its digest".to_owned());
    }
    let (header, payload) = content.split_first_chunk::<HEADER_BYTES>().ok_or("it is too short")?;
    if &header[..8] != MAGIC {
        return Err("it is not a record".to_owned());
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != VERSION {
        return Err(format!("its version is {version}; this leeward knows version {VERSION}"));
    }
    if header[10] != kind as u8 {
        return Err(format!("it is a record of kind {}, not {} ({kind:?})", header[10], kind as u8));
    }
    if header[11] != 0 {
        return Err(format!("it is encrypted with cipher {}, which this leeward does not know", header[11]));
    }
    let length = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    if length as usize != payload.len() {
        return Err(format!("it holds {} bytes but says {length}", payload.len()));
    }
    Ok(payload)
}

/// The record of a value.
pub(crate) fn encode_value(kind: Kind, value: &impl Serialize) -> Vec<u8> {
    // Our own plain types: maps have text keys, so they always have a JSON form.
    encode(kind, &serde_json::to_vec(value).unwrap_or_default())
}

/// The value in a record, or what is wrong with it.
pub(crate) fn decode_value<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, String> {
    let payload = decode(kind, bytes)?;
    serde_json::from_slice(payload).map_err(|error| format!("its content cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let record = encode(Kind::Ref, b"{\"a\":1}");
        assert_eq!(decode(Kind::Ref, &record), Ok(&b"{\"a\":1}"[..]));
        for bit in 0..record.len() * 8 {
            let mut bad = record.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(Kind::Ref, &bad).is_err(), "bit {bit}");
        }
        for length in 0..record.len() {
            assert!(decode(Kind::Ref, &record[..length]).is_err(), "length {length}");
        }
        assert!(decode(Kind::Session, &record).is_err());
    }
}
