//! Names by content.
//!
//! Everything in a repository is named by a BLAKE3 digest in keyed mode. Each kind of thing has a key of its own,
//! derived from the repository's secret, so a digest of one kind can never stand for another (a manifest can never
//! pass for a chunk). A repository without encryption has a public secret of zeros: its names can be computed by
//! anybody, those of an encrypted one only by who has the secret.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::keys::Secret;

/// Bytes in a digest.
pub const DIGEST_BYTES: usize = 32;

/// Lower-case hexadecimal.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes that `N` pairs of hexadecimal digits stand for.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N * 2 || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

macro_rules! digests {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; DIGEST_BYTES]);

        impl $name {
            /// The bytes of the digest.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; DIGEST_BYTES] {
                &self.0
            }

            /// The first 12 hexadecimal digits, for people.
            #[must_use]
            pub fn short(&self) -> String {
                to_hex(&self.0[..6])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                from_hex(text).map(Self).ok_or_else(|| format!("{text:?} is not a digest of 64 hexadecimal digits"))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

digests! {
    /// The name of a chunk or a tree node: its content's keyed digest.
    BlobId;
    /// The name of a snapshot: its manifest's keyed digest.
    SnapshotId;
    /// The name of a pack: the digest of its header and directory, which hold the digests of its frames.
    PackId;
    /// The name of an index run: the digest of its bytes.
    RunId;
    /// The digest of bytes as they are stored; needs no key to be checked.
    StoredDigest;
}

/// The domains of unkeyed digests. These strings are part of the format.
pub(crate) mod domain {
    pub(crate) const FRAME: &str = "leeward v1 stored frame";
    pub(crate) const PACK: &str = "leeward v1 pack header and directory";
    pub(crate) const RECORD: &str = "leeward v1 stored record";
    pub(crate) const PARITY: &str = "leeward v1 parity outline";
    pub(crate) const PARITY_PIECE: &str = "leeward v1 parity piece";
    pub(crate) const RUN: &str = "leeward v1 index run";
    pub(crate) const CHUNK_KEY: &str = "leeward v1 chunk id key";
    pub(crate) const NODE_KEY: &str = "leeward v1 tree node id key";
    pub(crate) const SNAPSHOT_KEY: &str = "leeward v1 snapshot id key";
}

/// The keys under which content is named. Overwritten when dropped: those of an encrypted repository are secret.
#[derive(Clone)]
pub struct IdKeys {
    chunk: Secret,
    node: Secret,
    snapshot: Secret,
}

impl IdKeys {
    /// The keys of a repository with this secret; all zeros for one without encryption.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self {
            chunk: Secret::derive(domain::CHUNK_KEY, &[secret]),
            node: Secret::derive(domain::NODE_KEY, &[secret]),
            snapshot: Secret::derive(domain::SNAPSHOT_KEY, &[secret]),
        }
    }

    /// The keys of chunks, nodes and snapshots.
    pub(crate) fn from_parts([chunk, node, snapshot]: [[u8; 32]; 3]) -> Self {
        Self { chunk: Secret::new(chunk), node: Secret::new(node), snapshot: Secret::new(snapshot) }
    }

    /// The keys of chunks, nodes and snapshots.
    pub(crate) fn parts(&self) -> [&[u8; 32]; 3] {
        [self.chunk.expose(), self.node.expose(), self.snapshot.expose()]
    }

    /// The name of a chunk.
    #[must_use]
    pub fn chunk(&self, content: &[u8]) -> BlobId {
        BlobId(*blake3::keyed_hash(self.chunk.expose(), content).as_bytes())
    }

    /// The name of an encoded tree node.
    #[must_use]
    pub fn node(&self, content: &[u8]) -> BlobId {
        BlobId(*blake3::keyed_hash(self.node.expose(), content).as_bytes())
    }

    /// The name of a snapshot manifest.
    #[must_use]
    pub fn snapshot(&self, content: &[u8]) -> SnapshotId {
        SnapshotId(*blake3::keyed_hash(self.snapshot.expose(), content).as_bytes())
    }
}

impl fmt::Debug for IdKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdKeys(…)")
    }
}

/// The digest of stored bytes, given in parts, in a domain.
pub(crate) fn stored_digest(domain: &str, parts: &[&[u8]]) -> StoredDigest {
    let mut hasher = blake3::Hasher::new_derive_key(domain);
    for part in parts {
        hasher.update(part);
    }
    StoredDigest(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_never_share_a_name() {
        let keys = IdKeys::new(&[0; 32]);
        assert_ne!(keys.chunk(b"x").0, keys.node(b"x").0);
        assert_ne!(keys.chunk(b"x").0, keys.snapshot(b"x").0);
        assert_ne!(keys.chunk(b"x"), IdKeys::new(&[1; 32]).chunk(b"x"));
    }

    #[test]
    fn digests_survive_text() {
        let id = BlobId([0xa7; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("zz".parse::<BlobId>().is_err());
        assert!("A7".repeat(32).parse::<BlobId>().is_err());
    }
}
