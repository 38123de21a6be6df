//! Small objects: configuration, manifests, refs, sessions, condemned lists, wrapped keys.
//!
//! A record is a header, a payload and the digest of both. The payload is JSON. Layout, numbers little-endian:
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..8 | `LEEWARDR` |
//! | 8..10 | version, 1 |
//! | 10 | kind, see [`Kind`] |
//! | 11 | cipher: 0 none, 2 encrypted, 3 readable and authenticated |
//! | 12..16 | length of the payload as stored |
//! | 16..40 | salt of the key with cipher 2, else zero |
//! | 40.. | payload as stored |
//! | last 32 | digest of all before it, checked without any key |
//!
//! In an encrypted repository manifests have cipher 2: what was imaged, and when, is nobody's business. All other records
//! have cipher 3: whoever serves the objects without keys can still enforce who may change what. With cipher 2 the payload is
//! AES-256-GCM's ciphertext and tag; with cipher 3 it is the text and 32 bytes that only a holder of the keys can make, over
//! the object's key, the header and the text: so no record can be put in another's place.

use std::borrow::Cow;

use leeward_store::Key;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::{DIGEST_BYTES, domain, stored_digest};
use crate::keys::{Aead, Keyring, NONCE_BYTES, fill_random};
use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"LEEWARDR";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 40;
const SALT_AT: usize = 16;

const CIPHER_NONE: u8 = 0;
const CIPHER_ENCRYPTED: u8 = 2;
const CIPHER_AUTHENTICATED: u8 = 3;
const PROOF_BYTES: usize = 32;

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
    // 6 is reserved for recovery points.
    Key = 7,
}

impl Kind {
    /// The cipher of a record of this kind in a repository with these keys.
    fn cipher(self, keyring: &Keyring) -> u8 {
        match self {
            _ if keyring.is_plain() => CIPHER_NONE,
            Self::Snapshot => CIPHER_ENCRYPTED,
            _ => CIPHER_AUTHENTICATED,
        }
    }
}

/// The record with this payload, under this key of the store.
pub(crate) fn encode(kind: Kind, key: &Key, payload: &[u8], keyring: &Keyring) -> Result<Vec<u8>> {
    if keyring.is_locked() {
        return Err(Error::Invalid("nothing can be stored without the repository's keys".to_owned()));
    }
    let mut salt = [0; HEADER_BYTES - SALT_AT];
    let cipher = kind.cipher(keyring);
    if cipher == CIPHER_ENCRYPTED {
        fill_random(&mut salt)?;
    }
    encode_with(kind, key, payload, keyring, salt)
}

/// As [`encode`], with a salt that the caller sees to be used once.
pub(crate) fn encode_with(
    kind: Kind,
    key: &Key,
    payload: &[u8],
    keyring: &Keyring,
    salt: [u8; HEADER_BYTES - SALT_AT],
) -> Result<Vec<u8>> {
    let cipher = kind.cipher(keyring);
    let added = match cipher {
        CIPHER_ENCRYPTED => crate::keys::FRAME_TAG_BYTES,
        CIPHER_AUTHENTICATED => PROOF_BYTES,
        _ => 0,
    };
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len() + added + DIGEST_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.push(kind as u8);
    bytes.push(cipher);
    // A payload beyond 4 GiB cannot come up: it would have been refused long before (RECORD_BYTES_MAX).
    bytes.extend_from_slice(&u32::try_from(payload.len() + added).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&salt);
    bytes.extend_from_slice(payload);
    match cipher {
        CIPHER_ENCRYPTED => {
            let (header, content) = bytes.split_at_mut(HEADER_BYTES);
            let tag = manifest_cipher(keyring, header)?.seal([0; NONCE_BYTES], header, content)?;
            bytes.extend_from_slice(&tag);
        }
        CIPHER_AUTHENTICATED => {
            let proof = keyring.authenticate(key.as_str(), &bytes).ok_or_else(no_keys)?;
            bytes.extend_from_slice(proof.as_bytes());
        }
        _ => {}
    }
    let digest = stored_digest(domain::RECORD, &[&bytes]);
    bytes.extend_from_slice(digest.as_bytes());
    Ok(bytes)
}

/// The cipher of one manifest. Its key is its own, by the salt in the header; so the nonce can be zero.
fn manifest_cipher(keyring: &Keyring, header: &[u8]) -> Result<Aead> {
    let salt = header.get(SALT_AT..HEADER_BYTES).unwrap_or_default();
    Aead::new(&keyring.manifest_key(salt).ok_or_else(no_keys)?)
}

fn no_keys() -> Error {
    Error::Invalid("the repository's keys are missing".to_owned())
}

/// Whether a record says that it is readable and authenticated; what it is otherwise does not matter here.
pub(crate) fn is_authenticated(bytes: &[u8]) -> bool {
    bytes.get(11) == Some(&CIPHER_AUTHENTICATED)
}

/// Checks what can be checked of a record of this kind without any key, or says what is wrong with it; returns the header
/// and the payload as stored.
pub(crate) fn check_stored<'a>(
    kind: Kind,
    bytes: &'a [u8],
    keyring: &Keyring,
) -> Result<(&'a [u8], &'a [u8]), String> {
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
    let expected = kind.cipher(keyring);
    if header[11] != expected {
        return Err(format!("it has cipher {}, where the repository has {expected}", header[11]));
    }
    let length = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    if length as usize != payload.len() {
        return Err(format!("it holds {} bytes but says {length}", payload.len()));
    }
    Ok((header, payload))
}

/// The payload of a record of this kind that was found under this key, or what is wrong with it. Without keys, what is
/// readable is returned by the word of the store.
pub(crate) fn decode<'a>(
    kind: Kind,
    key: &Key,
    bytes: &'a [u8],
    keyring: &Keyring,
) -> Result<Cow<'a, [u8]>, String> {
    let (header, payload) = check_stored(kind, bytes, keyring)?;
    match header[11] {
        CIPHER_ENCRYPTED => {
            let mut plain = Vec::new();
            manifest_cipher(keyring, header)
                .map_err(|error| error.to_string())?
                .open([0; NONCE_BYTES], header, payload, &mut plain)
                .ok_or("it does not decrypt: it was altered, or sealed for other keys")?;
            Ok(Cow::Owned(plain))
        }
        CIPHER_AUTHENTICATED => {
            let (text, proof) = payload.split_last_chunk::<PROOF_BYTES>().ok_or("it is too short")?;
            let proved = &bytes[..HEADER_BYTES + text.len()];
            match keyring.authenticate(key.as_str(), proved) {
                // Compared in constant time, as hashes of this crate are.
                Some(expected) if expected != blake3::Hash::from_bytes(*proof) => {
                    Err("it is not authentic: no holder of the repository's keys wrote it there".to_owned())
                }
                _ => Ok(Cow::Borrowed(text)),
            }
        }
        _ => Ok(Cow::Borrowed(payload)),
    }
}

/// The record of a value.
pub(crate) fn encode_value(
    kind: Kind,
    key: &Key,
    value: &impl Serialize,
    keyring: &Keyring,
) -> Result<Vec<u8>> {
    // Our own plain types: maps have text keys, so they always have a JSON form.
    encode(kind, key, &serde_json::to_vec(value).unwrap_or_default(), keyring)
}

/// The value in a record, or what is wrong with it.
pub(crate) fn decode_value<T: DeserializeOwned>(
    kind: Kind,
    key: &Key,
    bytes: &[u8],
    keyring: &Keyring,
) -> Result<T, String> {
    let payload = decode(kind, key, bytes, keyring)?;
    serde_json::from_slice(&payload).map_err(|error| format!("its content cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"{\"a\":1}";

    fn key(name: &str) -> Key {
        Key::under("refs", name).unwrap()
    }

    fn keyrings() -> [Keyring; 2] {
        [Keyring::plain(), Keyring::of_root([7; 32])]
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for keyring in keyrings() {
            for kind in [Kind::Ref, Kind::Snapshot] {
                let record = encode(kind, &key("a"), TEXT, &keyring).unwrap();
                let decode = |bytes: &[u8]| decode(kind, &key("a"), bytes, &keyring).map(Cow::into_owned);
                assert_eq!(decode(&record), Ok(TEXT.to_vec()));
                for bit in 0..record.len() * 8 {
                    let mut bad = record.clone();
                    bad[bit / 8] ^= 1 << (bit % 8);
                    assert!(decode(&bad).is_err(), "bit {bit}");
                    // Whoever alters a record can compute its digest anew; what is sealed is noticed all the same.
                    if !keyring.is_plain() && bit < (record.len() - DIGEST_BYTES) * 8 {
                        let end = bad.len() - DIGEST_BYTES;
                        let digest = stored_digest(domain::RECORD, &[&bad[..end]]);
                        bad[end..].copy_from_slice(digest.as_bytes());
                        assert!(decode(&bad).is_err(), "bit {bit}, with its digest");
                    }
                }
                for length in 0..record.len() {
                    assert!(decode(&record[..length]).is_err(), "length {length}");
                }
            }
        }
    }

    #[test]
    fn no_record_stands_for_another() {
        let (keyring, other) = (Keyring::of_root([7; 32]), Keyring::of_root([8; 32]));
        let record = encode(Kind::Ref, &key("a"), TEXT, &keyring).unwrap();
        assert!(decode(Kind::Session, &key("a"), &record, &keyring).is_err(), "another kind");
        assert!(decode(Kind::Ref, &key("b"), &record, &keyring).is_err(), "another place");
        assert!(decode(Kind::Ref, &key("a"), &record, &other).is_err(), "another repository");
        assert!(decode(Kind::Ref, &key("a"), &record, &Keyring::plain()).is_err(), "as if not encrypted");
        let plain = encode(Kind::Ref, &key("a"), TEXT, &Keyring::plain()).unwrap();
        assert!(decode(Kind::Ref, &key("a"), &plain, &keyring).is_err(), "not encrypted at all");
        assert_eq!(
            &*decode(Kind::Ref, &key("a"), &record, &Keyring::locked()).unwrap(),
            TEXT,
            "without keys"
        );
    }

    #[test]
    fn manifests_are_not_readable_and_nothing_is_written_without_keys() {
        let keyring = Keyring::of_root([7; 32]);
        let text = b"the name of an image, the size of its disk";
        let record = encode(Kind::Snapshot, &key("a"), text, &keyring).unwrap();
        assert!(!record.windows(8).any(|window| text.windows(8).any(|part| part == window)));
        assert_ne!(
            record,
            encode(Kind::Snapshot, &key("a"), text, &keyring).unwrap(),
            "each has its own salt"
        );
        assert!(decode(Kind::Snapshot, &key("a"), &record, &Keyring::locked()).is_err());
        assert!(encode(Kind::Ref, &key("a"), text, &Keyring::locked()).is_err());
    }
}
