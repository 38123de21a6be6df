//! What is fixed when a repository is made.

use serde::{Deserialize, Serialize};

use crate::id::to_hex;
use crate::keys::NewKey;
use crate::{Error, Result};

/// The version of the format that this code writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// The feature of a repository whose content is encrypted.
const ENCRYPTION: &str = "encryption-1";
/// The feature of a repository whose packs may have parity; who does not know it loses nothing but that.
pub(crate) const PARITY: &str = "parity-1";
/// The most that parity may mend of a pack, in percent.
pub(crate) const PARITY_PERCENT_MAX: u8 = 100;
/// Features of the format that this code knows.
const FEATURES_KNOWN: [&str; 2] = [ENCRYPTION, PARITY];

/// Bits of the smallest and the largest chunk size: 16 KiB and 4 MiB.
const CHUNK_BITS: std::ops::RangeInclusive<u8> = 14..=22;

/// What is fixed when a repository is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Version of the format.
    pub format_version: u32,
    /// Features that a reader or writer has to know; one that does not must refuse.
    pub features_required: Vec<String>,
    /// Features that a writer has to know; a reader may ignore them.
    pub features_to_write: Vec<String>,
    /// Features that may be ignored.
    pub features_optional: Vec<String>,
    /// Random identity of the repository, 32 hexadecimal digits.
    pub repository_id: String,
    /// Chunk size as a power of two.
    pub chunk_bits: u8,
    /// Children of a tree node as a power of two.
    pub fanout_bits: u8,
    /// Chunks that were read together are compressed together up to this many bytes, as a power of two.
    pub frame_bits: u8,
    /// Size at which a pack is closed, in bytes.
    pub pack_bytes: u32,
    /// Level of zstd.
    pub zstd_level: i32,
    /// How much of each new pack its parity can mend, in percent; 0 where none is made.
    #[serde(default, skip_serializing_if = "is_none")]
    pub parity_percent: u8,
    /// When it was made, RFC 3339.
    pub created: String,
    /// What made it.
    pub tool: String,
}

/// What a caller may choose when a repository is made.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// Chunk size in bytes: a power of two from 16 KiB to 4 MiB.
    pub chunk_bytes: u64,
    /// Size at which a pack is closed, in bytes: 1 MiB to 256 MiB.
    pub pack_bytes: u32,
    /// Level of zstd, -7 to 19.
    pub zstd_level: i32,
    /// Who may open the repository; empty for one that is not encrypted. One of them has to be a full key.
    pub keys: Vec<NewKey>,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self { chunk_bytes: 64 << 10, pack_bytes: 32 << 20, zstd_level: 2, keys: Vec::new() }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_none(percent: &u8) -> bool {
    *percent == 0
}

/// The name of this tool with its version, as it stands in manifests.
#[must_use]
pub fn tool() -> String {
    format!("leeward {}", env!("CARGO_PKG_VERSION"))
}

impl Config {
    /// The configuration of a new repository.
    ///
    /// # Errors
    /// An option lies outside its range, or the system gives no random bytes.
    pub(crate) fn new(options: &InitOptions, created: String) -> Result<Self> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|error| Error::Invalid(format!("the system gives no random bytes: {error}")))?;
        let bits = options.chunk_bytes.trailing_zeros() as u8;
        if !options.chunk_bytes.is_power_of_two() || !CHUNK_BITS.contains(&bits) {
            return Err(Error::Invalid(format!(
                "the chunk size must be a power of two from 16 KiB to 4 MiB, not {} bytes",
                options.chunk_bytes
            )));
        }
        let config = Self {
            format_version: FORMAT_VERSION,
            features_required: if options.keys.is_empty() { Vec::new() } else { vec![ENCRYPTION.to_owned()] },
            features_to_write: Vec::new(),
            features_optional: Vec::new(),
            repository_id: to_hex(&id),
            chunk_bits: bits,
            fanout_bits: 7,
            frame_bits: bits.max(21),
            pack_bytes: options.pack_bytes,
            zstd_level: options.zstd_level,
            parity_percent: 0,
            created,
            tool: tool(),
        };
        config.check_ranges().map_err(Error::Invalid)?;
        Ok(config)
    }

    /// Refuses what this code does not know or what makes no sense. `store` is for messages.
    pub(crate) fn check(&self, store: &str) -> Result<()> {
        let too_new = |what: String| Error::TooNew { store: store.to_owned(), what };
        if self.format_version != FORMAT_VERSION {
            return Err(too_new(format!("format version {}", self.format_version)));
        }
        let needed = self.features_required.iter().chain(&self.features_to_write);
        for feature in needed {
            if !FEATURES_KNOWN.contains(&feature.as_str()) {
                return Err(too_new(format!("the feature {feature:?}")));
            }
        }
        self.check_ranges().map_err(|what| Error::Damaged {
            store: store.to_owned(),
            key: "config".to_owned(),
            what,
        })
    }

    fn check_ranges(&self) -> Result<(), String> {
        let sound = CHUNK_BITS.contains(&self.chunk_bits)
            && (4..=12).contains(&self.fanout_bits)
            && (self.chunk_bits..=24).contains(&self.frame_bits)
            && (1 << 20..=256 << 20).contains(&self.pack_bytes)
            && (-7..=19).contains(&self.zstd_level)
            && self.parity_percent <= PARITY_PERCENT_MAX;
        if sound {
            Ok(())
        } else {
            Err("a value lies outside its range: chunks 16 KiB to 4 MiB, packs 1 to 256 MiB, zstd level -7 to 19, \
                 parity 0 to 100 %"
                .to_owned())
        }
    }

    /// Whether the content is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.features_required.iter().any(|feature| feature == ENCRYPTION)
    }

    /// Whether packs have parity, or had it once.
    #[must_use]
    pub fn has_parity(&self) -> bool {
        self.features_optional.iter().any(|feature| feature == PARITY)
    }

    /// Chunk size in bytes.
    #[must_use]
    pub fn chunk_bytes(&self) -> usize {
        1 << self.chunk_bits
    }

    /// Children of a tree node.
    #[must_use]
    pub fn fanout(&self) -> usize {
        1 << self.fanout_bits
    }

    /// Bytes of disk under one leaf of the tree.
    #[must_use]
    pub fn leaf_bytes(&self) -> u64 {
        1 << (self.chunk_bits + self.fanout_bits)
    }

    /// The largest frame, in bytes before compression.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        1 << self.frame_bits
    }
}
