//! Dirty bitmaps: their names, and when one is trusted.
//!
//! A bitmap records what the guest writes from the moment of one snapshot on. Its name says which repository and which
//! group backup started it, and the manifest of that snapshot names it: only the bitmap that the image's last snapshot
//! names tells what has changed since that snapshot.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Granularity of our bitmaps, in bytes: that of chunks.
pub const GRANULARITY: u64 = 64 << 10;
/// Granularities that QEMU makes.
const GRANULARITIES: std::ops::RangeInclusive<u64> = 512..=(64 << 20);

/// A dirty bitmap as `query-block` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bitmap {
    /// Its name on its node.
    pub name: String,
    /// Whether it takes note of writes.
    pub recording: bool,
    /// Whether a job or an export uses it.
    pub busy: bool,
    /// Whether it is stored in the image file.
    pub persistent: bool,
    /// Whether QEMU ended without storing it; it can be removed and nothing else.
    pub inconsistent: bool,
    /// Bytes for each bit.
    pub granularity: u64,
    /// Bytes that it marks, in whole granules.
    pub dirty_bytes: u64,
    /// Whether a node that is no machine's disk, such as the backing file of one, has a bitmap of that name too. libvirt
    /// makes such doubles when it makes a snapshot: each then tells of a part only.
    pub has_double: bool,
}

impl Bitmap {
    /// The bitmaps of a list of QEMU; what has no name cannot be used.
    pub(super) fn list(list: &Value) -> Vec<Self> {
        let is = |bitmap: &Value, name: &str| bitmap[name].as_bool().unwrap_or(false);
        let entry = |bitmap: &Value| {
            Some(Self {
                name: bitmap["name"].as_str()?.to_owned(),
                recording: is(bitmap, "recording"),
                busy: is(bitmap, "busy"),
                persistent: is(bitmap, "persistent"),
                inconsistent: is(bitmap, "inconsistent"),
                granularity: bitmap["granularity"].as_u64()?,
                dirty_bytes: bitmap["count"].as_u64()?,
                has_double: false,
            })
        };
        list.as_array().into_iter().flatten().filter_map(entry).collect()
    }
}

/// What the names of a repository's bitmaps begin with. `repository` is its identity in hexadecimal digits.
#[must_use]
pub fn prefix(repository: &str) -> String {
    let short: String = repository.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    format!("leeward-{short}-")
}

/// The name of the bitmap that a group backup starts.
#[must_use]
pub fn name(repository: &str, group: &str) -> String {
    format!("{}{group}", prefix(repository))
}

/// What is known of the image's last snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastSnapshot {
    /// Size of its disk, in bytes.
    pub virtual_size: u64,
    /// The bitmap that was started at its moment.
    pub bitmap: Option<String>,
    /// The file in which the disk was, without secrets.
    pub file: Option<String>,
}

/// How a disk is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum Mode {
    /// What the bitmap marks; all else equals the image's last snapshot.
    Incremental {
        /// The bitmap.
        bitmap: String,
    },
    /// All of it; what the repository has is recognised by its digest.
    Full {
        /// Why.
        reason: String,
    },
}

impl Mode {
    fn full(reason: impl Into<String>) -> Self {
        Self::Full { reason: reason.into() }
    }

    /// The reason why all is read.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Incremental { .. } => None,
            Self::Full { reason } => Some(reason),
        }
    }

    /// The bitmap that tells what is read.
    #[must_use]
    pub fn bitmap(&self) -> Option<&str> {
        match self {
            Self::Incremental { bitmap } => Some(bitmap),
            Self::Full { .. } => None,
        }
    }
}

/// Decides how a disk of `virtual_size` bytes with these bitmaps in this file is read. Whatever is doubtful leads to a full
/// read.
#[must_use]
pub fn decide(
    bitmaps: &[Bitmap],
    virtual_size: u64,
    file: &str,
    last: Option<&LastSnapshot>,
    full: bool,
) -> Mode {
    if full {
        return Mode::full("a full backup was asked for");
    }
    let Some(last) = last else { return Mode::full("the image has no snapshot yet") };
    let Some(name) = &last.bitmap else {
        return Mode::full("the last snapshot was not made from a running machine");
    };
    if last.virtual_size != virtual_size {
        return Mode::full(format!(
            "the disk was resized: it had {} bytes and has {virtual_size}",
            last.virtual_size
        ));
    }
    let Some(bitmap) = bitmaps.iter().find(|bitmap| bitmap.name == *name) else {
        return Mode::full(
            "the bitmap of the last snapshot is gone: the machine was started anew, the disk was replaced, or \
             another backup took its place",
        );
    };
    let doubt = if last.file.as_deref() != Some(file) {
        "the disk is in another file than it was: a snapshot was made or committed, or it was moved"
    } else if bitmap.has_double {
        "a snapshot of the disk was made since, and each of its files tells of a part of what changed"
    } else if bitmap.inconsistent {
        "the bitmap of the last snapshot is inconsistent: QEMU ended without storing it"
    } else if bitmap.busy {
        "the bitmap of the last snapshot is in use by another job"
    } else if !bitmap.recording {
        "the last backup was not finished"
    } else if !GRANULARITIES.contains(&bitmap.granularity) || !bitmap.granularity.is_power_of_two() {
        "the bitmap of the last snapshot makes no sense"
    } else {
        return Mode::Incremental { bitmap: name.clone() };
    };
    Mode::full(doubt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitmap(name: &str) -> Bitmap {
        Bitmap {
            name: name.to_owned(),
            recording: true,
            busy: false,
            persistent: false,
            inconsistent: false,
            granularity: GRANULARITY,
            dirty_bytes: 0,
            has_double: false,
        }
    }

    #[test]
    fn a_bitmap_is_trusted_only_when_nothing_speaks_against_it() {
        let last =
            LastSnapshot { virtual_size: 1000, bitmap: Some("b".to_owned()), file: Some("/f".to_owned()) };
        let reason = |bitmaps: &[Bitmap], size, last: Option<&LastSnapshot>, full| {
            decide(bitmaps, size, "/f", last, full).reason().map(str::to_owned)
        };
        let good = [bitmap("a"), bitmap("b")];
        assert_eq!(decide(&good, 1000, "/f", Some(&last), false).bitmap(), Some("b"));
        let told = [
            (reason(&good, 1000, Some(&last), true), "asked for"),
            (reason(&good, 1000, None, false), "no snapshot"),
            (reason(&good, 1001, Some(&last), false), "resized"),
            (reason(&good[..1], 1000, Some(&last), false), "gone"),
            (
                reason(&good, 1000, Some(&LastSnapshot { bitmap: None, ..last.clone() }), false),
                "not made from",
            ),
            (
                reason(&[Bitmap { inconsistent: true, ..bitmap("b") }], 1000, Some(&last), false),
                "inconsistent",
            ),
            (reason(&[Bitmap { has_double: true, ..bitmap("b") }], 1000, Some(&last), false), "a part"),
            (
                reason(
                    &good,
                    1000,
                    Some(&LastSnapshot { file: Some("/g".to_owned()), ..last.clone() }),
                    false,
                ),
                "another file",
            ),
            (reason(&good, 1000, Some(&LastSnapshot { file: None, ..last.clone() }), false), "another file"),
            (reason(&[Bitmap { busy: true, ..bitmap("b") }], 1000, Some(&last), false), "in use"),
            (reason(&[Bitmap { recording: false, ..bitmap("b") }], 1000, Some(&last), false), "not finished"),
            (reason(&[Bitmap { granularity: 3, ..bitmap("b") }], 1000, Some(&last), false), "no sense"),
        ];
        for (reason, part) in told {
            assert!(reason.as_ref().is_some_and(|reason| reason.contains(part)), "{reason:?}: {part}");
        }
    }

    #[test]
    fn names_tell_repository_and_group() {
        assert_eq!(name("0123456789abcdef", "77"), "leeward-01234567-77");
        assert_eq!(prefix("01-23-45-67-89"), "leeward-01234567-");
    }
}
