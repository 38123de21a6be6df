//! Condemned lists: what a collection means to delete, announced before it does.

use leeward_store::{ErrorKind as StoreErrorKind, Key, Version};
use serde::{Deserialize, Serialize};

use crate::id::{PackId, SnapshotId, to_hex};
use crate::record::Kind;
use crate::repository::Repository;
use crate::{Error, Result};

/// Prefix of the keys of condemned lists.
pub(crate) const CONDEMNED: &str = "condemned";

/// What a collection means to delete, and for whom it has to wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CondemnedRecord {
    pub(crate) condemned_version: u32,
    /// Random, so that no two records are alike.
    pub(crate) id: String,
    pub(crate) created: String,
    /// Nothing new may refer to these.
    pub(crate) packs: Vec<PackId>,
    /// Manifests that no ref held.
    pub(crate) snapshots: Vec<SnapshotId>,
    /// The sessions that were registered when this list had been published; none yet when they have not been
    /// counted.
    pub(crate) waits_for: Option<Vec<String>>,
    /// The decision is made: nothing refers to what is listed, and nothing ever will. From here on the list does not
    /// change, and whoever finds it goes on deleting.
    #[serde(default)]
    pub(crate) decided: bool,
}

/// A list as it was found in the store.
pub(crate) struct FoundList {
    pub(crate) key: Key,
    pub(crate) record: CondemnedRecord,
    pub(crate) version: Version,
}

impl Repository {
    /// All condemned lists there are.
    pub(crate) fn condemned_lists(&self) -> Result<Vec<FoundList>> {
        let mut found = Vec::new();
        for entry in self.store().list(CONDEMNED)? {
            let (bytes, version) = match self.record_bytes(&entry.key) {
                Ok(read) => read,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            let record = self.decode_record(Kind::Condemned, &entry.key, &bytes)?;
            found.push(FoundList { key: entry.key, record, version });
        }
        Ok(found)
    }

    /// Publishes a condemned list.
    pub(crate) fn condemn(&self, packs: Vec<PackId>, snapshots: Vec<SnapshotId>) -> Result<FoundList> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|error| Error::Invalid(format!("the system gives no random bytes: {error}")))?;
        let id = to_hex(&id);
        let key =
            Key::under(CONDEMNED, &id).ok_or_else(|| Error::Invalid("a list has no name".to_owned()))?;
        let record = CondemnedRecord {
            condemned_version: 1,
            id,
            created: self.now().to_string(),
            packs,
            snapshots,
            waits_for: None,
            decided: false,
        };
        let bytes = self.encode_record(Kind::Condemned, &key, &record)?;
        self.store().put_if_absent(&key, &[&bytes])?;
        Ok(FoundList { key, record, version: Version::of(&bytes) })
    }

    /// Replaces a condemned list; `false` when another collection has dealt with it in the meantime.
    pub(crate) fn replace_list(&self, list: &mut FoundList) -> Result<bool> {
        let bytes = self.encode_record(Kind::Condemned, &list.key, &list.record)?;
        match self.store().put_if_match(&list.key, &bytes, &list.version) {
            Ok(()) => {
                list.version = Version::of(&bytes);
                Ok(true)
            }
            Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
