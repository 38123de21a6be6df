//! A bucket as it was at a moment of the past, where the service has kept the versions of its objects.
//!
//! Whoever deletes or replaces objects in a bucket with versions leaves the versions that were there before, unless he may
//! delete those too and no lock keeps them. `at=TIME` in a location shows each object as its last version of that time. It
//! can be read from, cloned and taken as a peer to repair from; it cannot be changed.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use jiff::Timestamp;
use leeward_store::{Entry, Error, Key, Result};

/// A version of an object, or that it was deleted, as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedVersion {
    /// Its whole name in the bucket.
    pub name: String,
    /// What the service calls this version.
    pub version: String,
    /// When it was written, by the service's clock.
    pub written: Timestamp,
    /// Its size in bytes; `None` for a deletion.
    pub size: Option<u64>,
}

/// One page of versions; those of one object come together, the last one first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionsPage {
    /// The versions.
    pub versions: Vec<ListedVersion>,
    /// Where the next page begins, if there is one.
    pub next: Option<(String, String)>,
}

/// The version of an object that is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) version: String,
    size: u64,
}

/// A moment, and what the bucket held then.
#[derive(Debug)]
pub(crate) struct Past {
    time: Timestamp,
    objects: OnceLock<BTreeMap<Key, Shown>>,
}

impl Past {
    /// The moment; nothing is read yet.
    pub(crate) fn new(time: Timestamp) -> Self {
        Self { time, objects: OnceLock::new() }
    }

    /// What the bucket held; `list` gives all versions under the prefix that `key_of` takes off their names.
    pub(crate) fn objects(
        &self,
        list: impl FnOnce() -> Result<Vec<ListedVersion>>,
        key_of: impl Fn(&str) -> Option<Key>,
    ) -> Result<&BTreeMap<Key, Shown>> {
        if let Some(objects) = self.objects.get() {
            return Ok(objects);
        }
        let objects = choose(list()?, self.time, key_of);
        Ok(self.objects.get_or_init(|| objects))
    }

    /// That nothing can be changed here.
    pub(crate) fn denied(&self, store: &str, action: &'static str, key: &str) -> Error {
        Error::Denied {
            store: store.to_owned(),
            action,
            key: key.to_owned(),
            what: format!("the bucket is shown as it was at {}, and the past cannot be changed", self.time),
        }
    }
}

/// Of each object the last version that was written at `time` or before; none where that was a deletion.
fn choose(
    versions: Vec<ListedVersion>,
    time: Timestamp,
    key_of: impl Fn(&str) -> Option<Key>,
) -> BTreeMap<Key, Shown> {
    let mut last: BTreeMap<Key, ListedVersion> = BTreeMap::new();
    for version in versions.into_iter().filter(|version| version.written <= time) {
        // What is no key is nobody's object here.
        let Some(key) = key_of(&version.name) else { continue };
        match last.get(&key) {
            // Of two of one moment the listing has the last one first.
            Some(found) if found.written >= version.written => {}
            _ => {
                last.insert(key, version);
            }
        }
    }
    let shown = |version: ListedVersion| Some(Shown { version: version.version, size: version.size? });
    last.into_iter().filter_map(|(key, version)| Some((key, shown(version)?))).collect()
}

/// The objects under a prefix, in order.
pub(crate) fn listed(objects: &BTreeMap<Key, Shown>, prefix: &str) -> Vec<Entry> {
    let is_under = |key: &Key| key.as_str().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
    objects
        .iter()
        .filter(|(key, _)| is_under(key))
        .map(|(key, shown)| Entry { key: key.clone(), size: shown.size })
        .collect()
}

#[cfg(test)]
mod tests {
    use leeward_store::Key;

    use super::{ListedVersion, choose, listed};

    fn version(name: &str, version: &str, second: i64, size: Option<u64>) -> ListedVersion {
        let written = jiff::Timestamp::from_second(second).unwrap();
        ListedVersion { name: name.to_owned(), version: version.to_owned(), written, size }
    }

    #[test]
    fn each_object_is_shown_as_it_was() {
        let versions = vec![
            version("p/packs/a", "3", 30, None),
            version("p/packs/a", "2", 20, Some(2)),
            version("p/packs/a", "1", 10, Some(1)),
            version("p/packs/b", "2", 20, Some(9)),
            version("p/packs/b", "1", 20, Some(8)),
            version("p/refs/c", "1", 31, Some(1)),
            version("elsewhere", "1", 1, Some(1)),
        ];
        let at = |second| {
            let time = jiff::Timestamp::from_second(second).unwrap();
            let objects = choose(versions.clone(), time, |name| Key::new(name.strip_prefix("p/")?));
            listed(&objects, "packs").into_iter().map(|entry| entry.size).collect::<Vec<_>>()
        };
        assert_eq!(
            (at(9), at(10), at(20), at(29), at(30)),
            (vec![], vec![1], vec![2, 9], vec![2, 9], vec![9])
        );
    }
}
