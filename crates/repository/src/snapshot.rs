//! Snapshots: immutable states of an image, described by manifests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{BlobId, SnapshotId};

/// How far the content of a disk agrees with itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Nothing wrote to the disk while it was read.
    AtRest,
    /// One moment of a running machine, as after a power cut.
    Crash,
    /// One moment at which the guest had written everything out.
    Filesystem,
}

impl Consistency {
    /// Its name, as it stands in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AtRest => "at-rest",
            Self::Crash => "crash",
            Self::Filesystem => "filesystem",
        }
    }
}

/// Where a snapshot's content came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// File, device or URL as the person gave it.
    pub location: String,
    /// Format of the image there.
    pub format: String,
    /// Machine on which the backup ran.
    pub host: String,
}

/// Snapshots of one moment: the disks of one machine, published together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Identity: 32 hexadecimal digits, random.
    pub id: String,
    /// The images that have a snapshot in it.
    pub images: Vec<String>,
    /// The machine that had the disks, as its provider describes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<serde_json::Value>,
}

/// How much of a disk was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureMode {
    /// All of it, compared by digests.
    Full,
    /// What had changed since the parent, by the word of a changed-block map.
    Incremental,
}

/// How the content of a running machine's disk was captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRecord {
    /// How much was read.
    pub mode: CaptureMode,
    /// Why it was read whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The dirty bitmap in which the machine records what changes from this moment on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitmap: Option<String>,
    /// Bytes that the changed-block map named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_bytes: Option<u64>,
}

/// What a backup found and stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupStatistics {
    /// Bytes of the disk that hold something other than zeros, in whole chunks.
    pub data_bytes: u64,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Bytes of chunks that the repository did not have.
    pub new_bytes: u64,
    /// Bytes that were added to the store, packs and index together; for a disk of a group its share.
    pub stored_bytes: u64,
}

/// The manifest of a snapshot. Its name is the digest of its stored text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of the manifest, 1.
    pub manifest_version: u32,
    /// The image that it was made for.
    pub image: String,
    /// Size of the disk that a guest sees, in bytes.
    pub virtual_size: u64,
    /// Chunk size as a power of two.
    pub chunk_bits: u8,
    /// Fan-out of the tree as a power of two.
    pub fanout_bits: u8,
    /// Level of the tree's root.
    pub root_level: u8,
    /// The tree's root; none for a disk of zeros.
    pub root: Option<BlobId>,
    /// The snapshots from which this one went on.
    pub parents: Vec<SnapshotId>,
    /// The snapshots of the same moment to which it belongs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupRecord>,
    /// How it was captured from a running machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<CaptureRecord>,
    /// Where the content came from.
    pub source: SourceRecord,
    /// How far the content agrees with itself.
    pub consistency: Consistency,
    /// Names and values given by the person.
    pub tags: BTreeMap<String, String>,
    /// Where it was taken over from under another name; none where it was backed up, or has kept its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<crate::Origin>,
    /// When the backup began, RFC 3339.
    pub created: String,
    /// The session that made it; no two manifests are alike.
    pub session: String,
    /// What made it.
    pub tool: String,
    /// What the backup found and stored.
    pub statistics: BackupStatistics,
}

/// The largest disk, in bytes: 2^62. Offsets of chunks and leaves then never overflow.
pub const VIRTUAL_SIZE_MAX: u64 = 1 << 62;

/// The version of the manifest that this code writes and reads.
pub const MANIFEST_VERSION: u32 = 1;

impl Snapshot {
    /// Number of chunks that the disk spans.
    #[must_use]
    pub fn chunk_count(&self) -> u64 {
        self.virtual_size.div_ceil(1 << self.chunk_bits)
    }

    /// Whether two snapshots cut their disks alike, so that their trees can be compared.
    #[must_use]
    pub fn is_comparable(&self, other: &Self) -> bool {
        (self.chunk_bits, self.fanout_bits) == (other.chunk_bits, other.fanout_bits)
    }

    /// What makes no sense in it, if anything does.
    pub(crate) fn flaw(&self) -> Option<String> {
        if self.manifest_version != MANIFEST_VERSION {
            return Some(format!(
                "its manifest has version {}, which is not known here",
                self.manifest_version
            ));
        }
        if !(14..=22).contains(&self.chunk_bits) || !(4..=12).contains(&self.fanout_bits) {
            return Some("its chunk size or fan-out lies outside the range".to_owned());
        }
        if self.virtual_size > VIRTUAL_SIZE_MAX {
            return Some(format!("its disk of {} bytes is larger than any disk can be", self.virtual_size));
        }
        if self.root_level != crate::tree::root_level(self.chunk_count(), self.fanout_bits) {
            return Some("the level of its root does not fit its size".to_owned());
        }
        None
    }
}
