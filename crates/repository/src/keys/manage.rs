//! Adding, listing and removing wrapped keys. None of that touches data.

use leeward_store::{ErrorKind as StoreErrorKind, Key, Store};
use serde::Serialize;

use super::bundle::{Bundle, KeyAccess};
use super::keyring::{Fingerprint, Keyring};
use super::secret::Secret;
use super::slot::{NewKey, SlotRecord};
use crate::id::from_hex;
use crate::record::{self, Kind};
use crate::repository::Repository;
use crate::{Error, Result};

/// Prefix of the keys of wrapped keys.
pub(crate) const KEYS: &str = "keys";
/// Wrapped keys in a repository, at most. A store that shows more is not believed.
const SLOTS_MAX: usize = 64;
/// The largest record of a wrapped key, in bytes.
const SLOT_BYTES_MAX: u64 = 64 << 10;

/// A wrapped key, as far as it can be told to anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// Identity: 32 hexadecimal digits.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What its holder may do; none when its record cannot be read.
    pub access: Option<KeyAccess>,
    /// `passphrase`, or the public key of its holder.
    pub recipient: String,
    /// Since when, RFC 3339.
    pub created: String,
    /// What is wrong with it; a key that is not as a holder of the repository's keys wrote it is not to be believed.
    pub flaw: Option<String>,
}

/// A wrapped key as it was found in the store.
pub(crate) struct FoundSlot {
    pub(crate) key: Key,
    /// The record, or what is wrong with it.
    pub(super) record: Result<SlotRecord, String>,
}

impl FoundSlot {
    /// What is wrong with it, if anything is.
    pub(crate) fn flaw(&self) -> Option<&str> {
        self.record.as_ref().err().map(String::as_str)
    }
}

/// The wrapped keys of a repository, in order of their creation. Whether they are authentic is told by the keys.
pub(crate) fn read_slots(
    store: &dyn Store,
    repository_id: &str,
    keyring: &Keyring,
) -> Result<Vec<FoundSlot>> {
    let listed = match store.list(KEYS) {
        Err(error) if error.kind() == StoreErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    if listed.len() > SLOTS_MAX {
        return Err(Error::Damaged {
            store: store.name().to_owned(),
            key: KEYS.to_owned(),
            what: format!("there are {} wrapped keys, more than {SLOTS_MAX}", listed.len()),
        });
    }
    let mut found = Vec::new();
    for entry in listed {
        let bytes = match store.get(&entry.key, SLOT_BYTES_MAX) {
            Ok((bytes, _)) => bytes,
            Err(error) if error.kind() == StoreErrorKind::NotFound => continue,
            Err(error) if error.kind() == StoreErrorKind::Damaged => {
                found.push(FoundSlot { key: entry.key, record: Err(error.to_string()) });
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if is_leftover(&entry.key, &bytes, repository_id) {
            continue;
        }
        let record = decode(&entry.key, &bytes, keyring);
        found.push(FoundSlot { key: entry.key, record });
    }
    let created =
        |slot: &FoundSlot| slot.record.as_ref().map(|record| record.created.clone()).unwrap_or_default();
    found.sort_by_key(created);
    Ok(found)
}

/// Whether a wrapped key was left by somebody who was interrupted while making a repository here: it opens nothing.
fn is_leftover(key: &Key, bytes: &[u8], repository_id: &str) -> bool {
    record::decode_value::<SlotRecord>(Kind::Key, key, bytes, &Keyring::locked())
        .is_ok_and(|record| record.repository_id != repository_id)
}

fn decode(key: &Key, bytes: &[u8], keyring: &Keyring) -> Result<SlotRecord, String> {
    let record: SlotRecord = record::decode_value(Kind::Key, key, bytes, keyring)?;
    if from_hex::<16>(&record.id).is_none() || record.id != key.name() {
        return Err("it lies under another name than its own".to_owned());
    }
    match record.flaw() {
        Some(flaw) => Err(flaw),
        None => Ok(record),
    }
}

/// Wraps a bundle and stores it.
fn store_slot(
    store: &dyn Store,
    keyring: &Keyring,
    bundle: &Bundle,
    repository_id: &str,
    new: &NewKey,
) -> Result<SlotRecord> {
    let record = new.wrap(bundle, repository_id)?;
    let key = slot_key(&record.id)?;
    let bytes = record::encode_value(Kind::Key, &key, &record, keyring)?;
    store.put_if_absent(&key, &[&bytes])?;
    Ok(record)
}

fn slot_key(id: &str) -> Result<Key> {
    Key::under(KEYS, id).ok_or_else(|| Error::Invalid("a wrapped key has no name".to_owned()))
}

/// Makes the root secret of a new repository and stores it for its first holders. They lie there before the repository
/// does: one whose making was interrupted is none, and its keys belong to no other.
pub(crate) fn store_first_keys(store: &dyn Store, repository_id: &str, keys: &[NewKey]) -> Result<Keyring> {
    if !keys.iter().any(|key| key.access == KeyAccess::Full) {
        return Err(Error::Invalid("an encrypted repository needs a full key to begin with".to_owned()));
    }
    let root = Secret::random()?;
    let keyring = Bundle::Full(root).keyring()?;
    store_keys_of(&keyring, store, repository_id, keys)?;
    Ok(keyring)
}

/// Stores keys that there are already for the first holders of another repository.
pub(crate) fn store_keys_of(
    keyring: &Keyring,
    store: &dyn Store,
    repository_id: &str,
    keys: &[NewKey],
) -> Result<()> {
    for new in keys {
        let bundle = bundle_of(keyring, new.access, store.name())?;
        store_slot(store, keyring, &bundle, repository_id, new)?;
    }
    Ok(())
}

fn bundle_of(keyring: &Keyring, access: KeyAccess, location: &str) -> Result<Bundle> {
    keyring.bundle(access).ok_or_else(|| Error::Denied {
        store: location.to_owned(),
        what: "only a full key can add and remove keys",
    })
}

impl KeyInfo {
    fn of(slot: FoundSlot) -> Self {
        match slot.record {
            Ok(record) => Self {
                recipient: record.describe(),
                id: record.id,
                name: record.name,
                access: Some(record.access),
                created: record.created,
                flaw: None,
            },
            Err(what) => Self {
                id: slot.key.name().to_owned(),
                name: String::new(),
                access: None,
                recipient: String::new(),
                created: String::new(),
                flaw: Some(what),
            },
        }
    }
}

impl Repository {
    /// The wrapped keys, oldest first; none where nothing is encrypted.
    ///
    /// # Errors
    /// The store fails.
    pub fn wrapped_keys(&self) -> Result<Vec<KeyInfo>> {
        if self.keyring().is_plain() {
            return Ok(Vec::new());
        }
        Ok(self.slots()?.into_iter().map(KeyInfo::of).collect())
    }

    pub(crate) fn slots(&self) -> Result<Vec<FoundSlot>> {
        read_slots(self.store(), &self.config().repository_id, self.keyring())
    }

    /// Wraps the keys for another holder. Data stays as it is.
    ///
    /// # Errors
    /// The repository is not encrypted, was not opened with a full key, has a key of that name, or has as many as it can
    /// have; or the store fails.
    pub fn add_key(&self, new: &NewKey) -> Result<KeyInfo> {
        let bundle = self.bundle_to_give(new.access)?;
        let slots = self.slots()?;
        if slots.len() >= SLOTS_MAX {
            return Err(Error::Invalid(format!("there are {SLOTS_MAX} keys already: remove one first")));
        }
        if slots.iter().filter_map(|slot| slot.record.as_ref().ok()).any(|record| record.name == new.name) {
            return Err(Error::Invalid(format!(
                "there is a key {:?} already: choose another name",
                new.name
            )));
        }
        let id = &self.config().repository_id;
        let record = store_slot(self.store(), self.keyring(), &bundle, id, new)?;
        let slot = FoundSlot { key: slot_key(&record.id)?, record: Ok(record) };
        Ok(KeyInfo::of(slot))
    }

    fn bundle_to_give(&self, access: KeyAccess) -> Result<Bundle> {
        if self.keyring().is_plain() {
            return Err(Error::NotEncrypted { store: self.location().to_owned() });
        }
        bundle_of(self.keyring(), access, self.location())
    }

    /// Removes a wrapped key, by its name or the first digits (4 or more) of its identity. Its holder can open the
    /// repository no more, unless the secrets that it wrapped, or a copy of it, were kept.
    ///
    /// # Errors
    /// It is not there, several match, it is the last full one, the repository was not opened with a full key, or the
    /// store fails.
    pub fn remove_key(&self, wanted: &str) -> Result<KeyInfo> {
        self.bundle_to_give(KeyAccess::Full)?;
        let mut slots = self.slots()?;
        let at = find(&slots, wanted)?;
        let slot = slots.swap_remove(at);
        let is_last = |slots: &[FoundSlot]| !slots.iter().any(is_full);
        let last = || {
            Error::Invalid("it is the last full key: without it nobody could read the repository".to_owned())
        };
        if is_full(&slot) && is_last(&slots) {
            return Err(last());
        }
        let bytes = match self.store().get(&slot.key, SLOT_BYTES_MAX) {
            Ok((bytes, _)) => bytes,
            // One that cannot be read is the last of nobody.
            Err(error) if error.kind() == StoreErrorKind::Damaged => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        self.store().delete(&slot.key)?;
        // Two who remove a key each at the same time would otherwise be left without any.
        if is_full(&slot) && is_last(&self.slots()?) {
            self.store().put_if_absent(&slot.key, &[&bytes])?;
            return Err(last());
        }
        self.store().settle(KEYS)?;
        Ok(KeyInfo::of(slot))
    }

    /// What tells the keys of this repository from those of others; none where nothing is encrypted.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        (!self.keyring().is_plain()).then(|| self.keyring().fingerprint())
    }
}

fn is_full(slot: &FoundSlot) -> bool {
    slot.record.as_ref().is_ok_and(|record| record.access == KeyAccess::Full)
}

/// The number of the slot that is meant.
fn find(slots: &[FoundSlot], wanted: &str) -> Result<usize> {
    let matches = |slot: &FoundSlot| match &slot.record {
        Ok(record) => record.name == wanted || (wanted.len() >= 4 && record.id.starts_with(wanted)),
        Err(_) => wanted.len() >= 4 && slot.key.name().starts_with(wanted),
    };
    let found: Vec<usize> = (0..slots.len()).filter(|at| matches(&slots[*at])).collect();
    match found[..] {
        [at] => Ok(at),
        [] => Err(Error::Invalid(format!("there is no key {wanted:?}: see them with key list"))),
        _ => {
            Err(Error::Invalid(format!("{wanted:?} could be any of {} keys: give more digits", found.len())))
        }
    }
}
