//! Images and the refs that hold their snapshots.
//!
//! An image is a named line of snapshots. Its ref is the one object of it that changes: the list of the snapshots that
//! are kept, with what people say of them (tags, holds). It is replaced only by whoever has read its present version,
//! so concurrent backups of one image all end up in it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use leeward_store::Key;
use serde::{Deserialize, Serialize};

use crate::id::SnapshotId;
use crate::{Error, Result};

/// The name of an image: segments of letters, digits, `.`, `_` and `-` between slashes, as in `web-01/root`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

const NAME_BYTES_MAX: usize = 128;

impl ImageName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Key of the image's ref.
    pub(crate) fn key(&self) -> Result<Key> {
        Key::under(REFS, &self.0.replace('/', "%2F"))
            .ok_or_else(|| Error::BadImageName { name: self.0.clone(), why: "it is too long" })
    }

    /// The name whose ref has this key.
    pub(crate) fn from_key(key: &Key) -> Option<Self> {
        key.name().replace("%2F", "/").parse().ok()
    }
}

/// Prefix of the keys of refs.
pub(crate) const REFS: &str = "refs";

impl FromStr for ImageName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why| Error::BadImageName { name: text.to_owned(), why };
        if text.len() > NAME_BYTES_MAX {
            return Err(bad("it is longer than 128 bytes"));
        }
        for segment in text.split('/') {
            if segment.is_empty() {
                return Err(bad("it is empty, or has an empty part beside a slash"));
            }
            if segment.starts_with(['.', '-']) {
                return Err(bad("no part of it may begin with a dot or a dash"));
            }
            if !segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
                return Err(bad("only letters, digits, '.', '_', '-' and '/' may stand in it"));
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for ImageName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A reason not to forget a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Name of the hold; releasing names it.
    pub name: String,
    /// Why, in a person's words.
    pub reason: String,
    /// Since when, RFC 3339.
    pub created: String,
}

/// A snapshot as its image's ref has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEntry {
    /// The snapshot.
    pub id: SnapshotId,
    /// When its backup began.
    pub created: Timestamp,
    /// Size of the disk that a guest sees, in bytes.
    pub virtual_size: u64,
    /// The group of snapshots of one moment to which it belongs, see [`crate::GroupRecord`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What people say of it.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Reasons not to forget it.
    #[serde(default)]
    pub holds: Vec<Hold>,
    /// Where it was taken over from; none where it was backed up here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Where a snapshot was taken over from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The repository that it was read from: 32 hexadecimal digits.
    pub repository: String,
    /// The name that it had when it was backed up; another than its present one where repositories name differently.
    pub snapshot: SnapshotId,
}

impl SnapshotEntry {
    /// The name that it had when it was backed up.
    #[must_use]
    pub fn first_name(&self) -> SnapshotId {
        self.origin.as_ref().map_or(self.id, |origin| origin.snapshot)
    }

    /// Whether both are of one backup, wherever they lie.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        [self.id, self.first_name()].iter().any(|id| [other.id, other.first_name()].contains(id))
    }
}

/// When a snapshot was forgotten, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgetting {
    /// When, by the clock of whoever did it.
    pub at: Timestamp,
    /// Name of the machine on which it was done.
    pub by: String,
}

/// A snapshot that was forgotten and can still be brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForgottenSnapshot {
    /// What the ref says of it.
    pub entry: SnapshotEntry,
    /// When it was forgotten, and by whom.
    pub forgetting: Forgetting,
}

/// An element of a ref's `snapshots` as it is stored.
///
/// A forgotten snapshot stands among the others with a mark, not in a list of its own: a program that does not know the
/// mark then takes it for one that is kept, and deletes nothing of it.
#[derive(Serialize, Deserialize)]
struct StoredEntry {
    #[serde(flatten)]
    entry: SnapshotEntry,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forgotten: Option<Forgetting>,
}

/// A ref as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredRef {
    ref_version: u32,
    image: ImageName,
    generation: u64,
    snapshots: Vec<StoredEntry>,
}

impl From<StoredRef> for ImageRef {
    fn from(stored: StoredRef) -> Self {
        let StoredRef { ref_version, image, generation, snapshots: entries } = stored;
        let (mut snapshots, mut forgotten) = (Vec::new(), Vec::new());
        for StoredEntry { entry, forgotten: mark } in entries {
            match mark {
                None => snapshots.push(entry),
                Some(forgetting) => forgotten.push(ForgottenSnapshot { entry, forgetting }),
            }
        }
        Self { ref_version, image, generation, snapshots, forgotten }
    }
}

impl From<ImageRef> for StoredRef {
    fn from(image: ImageRef) -> Self {
        // Forgotten ones first, so that the last of all is the last that is kept, also for whoever does not know the mark.
        let forgotten = image.forgotten.into_iter().map(|ForgottenSnapshot { entry, forgetting }| {
            StoredEntry { entry, forgotten: Some(forgetting) }
        });
        let kept = image.snapshots.into_iter().map(|entry| StoredEntry { entry, forgotten: None });
        Self {
            ref_version: image.ref_version,
            image: image.image,
            generation: image.generation,
            snapshots: forgotten.chain(kept).collect(),
        }
    }
}

/// The ref of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredRef", into = "StoredRef")]
pub struct ImageRef {
    /// Version of this record, 1.
    pub ref_version: u32,
    /// The image.
    pub image: ImageName,
    /// Counts the changes.
    pub generation: u64,
    /// The snapshots that are kept, in the order in which they were published.
    pub snapshots: Vec<SnapshotEntry>,
    /// Those that were forgotten and that a collection has not yet let go.
    pub forgotten: Vec<ForgottenSnapshot>,
}

impl ImageRef {
    pub(crate) fn new(image: ImageName) -> Self {
        Self { ref_version: 1, image, generation: 0, snapshots: Vec::new(), forgotten: Vec::new() }
    }

    /// The entry of a snapshot.
    #[must_use]
    pub fn entry(&self, id: SnapshotId) -> Option<&SnapshotEntry> {
        self.snapshots.iter().find(|entry| entry.id == id)
    }

    /// Adds a snapshot: one that was backed up here as the last, a copy where its time puts it.
    pub(crate) fn add(&mut self, entry: SnapshotEntry) {
        let is_later = |other: &&SnapshotEntry| (other.created, other.id) > (entry.created, entry.id);
        let later = match entry.origin {
            Some(_) => self.snapshots.iter().rev().take_while(is_later).count(),
            None => 0,
        };
        self.snapshots.insert(self.snapshots.len() - later, entry);
    }

    /// Marks kept snapshots as forgotten; `false` when there is none of them.
    pub(crate) fn forget(&mut self, ids: &[SnapshotId], forgetting: &Forgetting) -> bool {
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.snapshots).into_iter().partition(|entry| ids.contains(&entry.id));
        self.snapshots = kept;
        let has_changed = !gone.is_empty();
        let marked =
            gone.into_iter().map(|entry| ForgottenSnapshot { entry, forgetting: forgetting.clone() });
        self.forgotten.extend(marked);
        has_changed
    }

    /// Takes the mark from a forgotten snapshot, which goes back to where its time puts it; `false` when it is not there.
    pub(crate) fn undelete(&mut self, id: SnapshotId) -> bool {
        let Some(place) = self.forgotten.iter().position(|forgotten| forgotten.entry.id == id) else {
            return false;
        };
        let entry = self.forgotten.remove(place).entry;
        let later = self.snapshots.iter().position(|other| other.created > entry.created);
        self.snapshots.insert(later.unwrap_or(self.snapshots.len()), entry);
        true
    }

    /// The image as it would be if what is forgotten were all that it has: for finding one of those by name.
    pub(crate) fn of_forgotten(&self) -> Self {
        let snapshots = self.forgotten.iter().map(|forgotten| forgotten.entry.clone()).collect();
        Self { snapshots, forgotten: Vec::new(), ..self.clone() }
    }

    pub(crate) fn entry_mut(&mut self, id: SnapshotId) -> Option<&mut SnapshotEntry> {
        self.snapshots.iter_mut().find(|entry| entry.id == id)
    }
}

/// Which snapshot of an image is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The last published, or so many before it.
    Back(usize),
    /// The one whose digest begins with these digits, or whose tag has this name, or the last one at or before this
    /// time, tried in that order.
    Text(String),
}

/// `IMAGE` or `IMAGE@SPEC`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSpec {
    /// The image.
    pub image: ImageName,
    /// Which of its snapshots.
    pub which: Which,
}

impl FromStr for SnapshotSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::BadSpec { text: text.to_owned() };
        let (image, which) = text.split_once('@').unwrap_or((text, "latest"));
        let which = match which {
            "latest" => Which::Back(0),
            "" => return Err(bad()),
            other => match other.strip_prefix('~') {
                Some(count) => Which::Back(count.parse().map_err(|_| bad())?),
                None => Which::Text(other.to_owned()),
            },
        };
        Ok(Self { image: image.parse()?, which })
    }
}

impl Which {
    /// The entry that is meant.
    pub(crate) fn resolve<'a>(&self, image: &'a ImageRef) -> Result<&'a SnapshotEntry> {
        let none = |wanted: String| Error::NoSnapshot { image: image.image.to_string(), wanted };
        match self {
            Self::Back(count) => image
                .snapshots
                .len()
                .checked_sub(count + 1)
                .map(|index| &image.snapshots[index])
                .ok_or_else(|| none(if *count == 0 { "at all".to_owned() } else { format!("~{count}") })),
            Self::Text(text) => {
                let digits = text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                if digits {
                    let prefix = text.to_ascii_lowercase();
                    let found: Vec<_> = image
                        .snapshots
                        .iter()
                        .filter(|entry| entry.id.to_string().starts_with(&prefix))
                        .collect();
                    match found[..] {
                        [] => {}
                        [entry] => return Ok(entry),
                        _ => {
                            return Err(Error::AmbiguousSnapshot {
                                image: image.image.to_string(),
                                wanted: text.clone(),
                                count: found.len(),
                            });
                        }
                    }
                }
                if let Some(entry) = image.snapshots.iter().rev().find(|entry| entry.tags.contains_key(text))
                {
                    return Ok(entry);
                }
                let at = parse_time(text).ok_or_else(|| none(text.clone()))?;
                image
                    .snapshots
                    .iter()
                    .filter(|entry| entry.created <= at)
                    .max_by_key(|entry| entry.created)
                    .ok_or_else(|| none(format!("at or before {text}")))
            }
        }
    }
}

/// A time as people write it: with a zone (`2026-11-21T10:00:00Z`), or in local time (`2026-11-21T10:00`, `2026-11-21`
/// for the end of that day).
fn parse_time(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    let zone = jiff::tz::TimeZone::system();
    let civil = match text.parse::<jiff::civil::Date>() {
        Ok(date) if !text.contains(['T', ' ', ':']) => date.at(23, 59, 59, 999_999_999),
        _ => text.parse::<jiff::civil::DateTime>().ok()?,
    };
    civil.to_zoned(zone).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageRef {
        let mut image = ImageRef::new("web/root".parse().unwrap());
        for (number, time) in
            ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"].iter().enumerate()
        {
            image.snapshots.push(SnapshotEntry {
                id: SnapshotId([0xa0 + number as u8 / 2; 32]),
                created: time.parse().unwrap(),
                virtual_size: 0,
                group: None,
                tags: BTreeMap::from([(format!("t{number}"), String::new())]),
                holds: Vec::new(),
                origin: None,
            });
        }
        image
    }

    fn rank(text: &str) -> Result<usize> {
        let image = image();
        let entry = text.parse::<SnapshotSpec>()?.which.resolve(&image)?;
        Ok(image.snapshots.iter().position(|other| other.created == entry.created).unwrap())
    }

    #[test]
    fn snapshots_are_found_by_age_digest_tag_and_time() {
        assert_eq!(rank("web/root").unwrap(), 2);
        assert_eq!(rank("web/root@latest").unwrap(), 2);
        assert_eq!(rank("web/root@~2").unwrap(), 0);
        assert_eq!(rank("web/root@a1a1").unwrap(), 2);
        assert_eq!(rank("web/root@t1").unwrap(), 1);
        assert_eq!(rank("web/root@2026-01-02T12:00:00Z").unwrap(), 1);
        assert!(matches!(rank("web/root@a0a0"), Err(Error::AmbiguousSnapshot { count: 2, .. })));
        for missing in ["web/root@~3", "web/root@ffff", "web/root@2025-01-01T00:00:00Z", "web/root@nothing"] {
            assert!(matches!(rank(missing), Err(Error::NoSnapshot { .. })), "{missing}");
        }
        assert!(matches!(rank("web/root@"), Err(Error::BadSpec { .. })));
    }

    #[test]
    fn what_is_forgotten_is_out_of_sight_stored_with_a_mark_and_comes_back_to_its_place() {
        let mut image = image();
        image.snapshots[0].id = SnapshotId([1; 32]);
        let before = image.clone();
        let (first, last) = (image.snapshots[0].id, image.snapshots[2].id);
        let forgetting = Forgetting { at: "2026-02-01T00:00:00Z".parse().unwrap(), by: "here".to_owned() };
        assert!(image.forget(&[first], &forgetting));
        assert!(!image.forget(&[first], &forgetting), "once is enough");
        assert!(
            image.entry(first).is_none()
                && image.forgotten[0].entry.id == first
                && image.entry(last).is_some()
        );
        let text = serde_json::to_string(&image).unwrap();
        let read: ImageRef = serde_json::from_str(&text).unwrap();
        assert_eq!(read, image);
        // What a program that does not know the mark reads.
        let old: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(old["snapshots"].as_array().unwrap().len(), 3);
        assert_eq!(old["snapshots"][2]["id"], last.to_string());
        assert!(old.get("forgotten").is_none());
        assert!(image.undelete(first) && !image.undelete(first));
        assert_eq!(image, before);
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        for bad in ["", "/", "a//b", "../a", "a/..", ".a", "-a", "a b", "a@b", "a%2Fb", "ä", &"x".repeat(129)]
        {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
        let name: ImageName = "web-01/disk_0.a".parse().unwrap();
        assert_eq!(ImageName::from_key(&name.key().unwrap()), Some(name));
    }
}
