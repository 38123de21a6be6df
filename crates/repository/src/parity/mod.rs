//! Parity: what mends a pack in its place when a part of it is damaged and no other copy is there.
//!
//! Beside `packs/NAME` lies `parity/NAME`, made when the pack was stored, over the pack's stored bytes: no key is needed to
//! make it, check it or use it. It mends damage within the pack; a pack that is gone it cannot bring back. Nothing else
//! depends on it: it may be missing, and whatever it gives is compared with the pack's name.
//!
//! What always holds: a parity object is stored after its pack, and deleted after it. So one without a pack is of no use to
//! anybody.

mod heal;
mod object;

use std::collections::HashMap;

use leeward_store::{Error as StoreError, ErrorKind as StoreErrorKind, Key, Object};
use serde_json::Value;

use crate::check::pack_flaws;
use crate::config::{Config, PARITY, PARITY_PERCENT_MAX};
use crate::id::PackId;
use crate::record::{Kind, RECORD_BYTES_MAX};
use crate::repository::{PARITIES, Repository, config_key, pack_key, put_once};
use crate::{Error, Result};

pub(crate) use object::{check_object, make};

/// The largest pack that is mended: it is held in memory, some three times.
const PACK_BYTES_MAX: u64 = 512 << 20;
/// The least that is read around a place that the medium cannot read, in bytes.
const SECTOR_BYTES: usize = 4096;
/// How often the configuration is tried to be changed when others change it.
const ATTEMPTS_MAX: usize = 10;

pub(crate) fn parity_key(pack: PackId) -> Result<Key> {
    Key::under(PARITIES, &pack.to_string()).ok_or_else(|| Error::Invalid(format!("{pack} is not a key")))
}

impl Repository {
    /// Sets how much of each pack stored from now on its parity can mend, in percent; 0 makes none. What there is stays.
    ///
    /// # Errors
    /// More than 100, the store fails, or others change the configuration all the time.
    pub fn set_parity(&mut self, percent: u8) -> Result<()> {
        if percent > PARITY_PERCENT_MAX {
            return Err(Error::Invalid(format!(
                "parity can be {PARITY_PERCENT_MAX} % at most, not {percent} %"
            )));
        }
        let key = config_key()?;
        for _ in 0..ATTEMPTS_MAX {
            let (bytes, version) = self.store().get(&key, RECORD_BYTES_MAX)?;
            // What this version does not know stays as it is.
            let mut value: Value = self.decode_record(Kind::Config, &key, &bytes)?;
            value["parity_percent"] = percent.into();
            if let Some(features) = value["features_optional"].as_array_mut()
                && !features.iter().any(|feature| feature == PARITY)
            {
                features.push(PARITY.into());
            }
            let config: Config = serde_json::from_value(value.clone()).map_err(|error| {
                self.damaged(key.as_str(), format!("its content cannot be read: {error}"))
            })?;
            let bytes = self.encode_record(Kind::Config, &key, &value)?;
            match self.store().put_if_match(&key, &bytes, &version) {
                Ok(()) => {
                    self.replace_config(config);
                    return Ok(());
                }
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contended { store: self.location().to_owned(), key: key.to_string() })
    }

    /// Makes and stores the parity of a pack that is stored; returns its size in bytes, 0 where none is wanted.
    pub(crate) fn put_parity(&self, pack: PackId, bytes: &[u8]) -> Result<u64> {
        let percent = self.config().parity_percent;
        if percent == 0 {
            return Ok(0);
        }
        let parity = make(pack, bytes, percent).map_err(Error::Invalid)?;
        put_once(self.store(), &parity_key(pack)?, &parity)?;
        Ok(parity.len() as u64)
    }

    /// The parity objects that are there, with their sizes.
    pub(crate) fn present_parity(&self) -> Result<HashMap<PackId, u64>> {
        if !self.config().has_parity() {
            return Ok(HashMap::new());
        }
        match self.store().list(PARITIES) {
            Ok(listed) => Ok(listed
                .into_iter()
                .filter_map(|entry| Some((entry.key.name().parse().ok()?, entry.size)))
                .collect()),
            // A directory is made with the first of them.
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(HashMap::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes the parity of packs that are gone; returns the bytes deleted.
    pub(crate) fn sweep_parity(&self) -> Result<u64> {
        // Parity before packs: it is stored after its pack, so one whose pack is not listed then has lost it.
        let parity = self.present_parity()?;
        if parity.is_empty() {
            return Ok(0);
        }
        let packs = self.present_packs()?;
        let mut deleted = 0;
        for (pack, size) in parity.into_iter().filter(|(pack, _)| !packs.contains_key(pack)) {
            if self.store().delete(&parity_key(pack)?)? {
                deleted += size;
            }
        }
        Ok(deleted)
    }

    /// What can be read of an object, or of so much of it; what the medium cannot read is zeros. Nothing where it is not there.
    fn legible(&self, key: &Key, bytes_max: u64) -> std::result::Result<Option<Vec<u8>>, StoreError> {
        let object = match self.store().open(key) {
            Ok(object) => object,
            Err(error) if error.kind() == StoreErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; usize::try_from(object.size().min(bytes_max)).unwrap_or(usize::MAX)];
        read_around(object.as_ref(), &mut bytes, 0)?;
        Ok(Some(bytes))
    }

    /// The bytes of a damaged pack, mended by its parity and compared with its name; `None` where it has no parity, and a
    /// reason where that is not enough or one of the two cannot be read. Stretches that the medium cannot read are
    /// mended like others.
    pub(crate) fn healed(&self, pack: PackId) -> Result<Option<std::result::Result<Vec<u8>, String>>> {
        if !self.config().has_parity() {
            return Ok(None);
        }
        let parity = match self.legible(&parity_key(pack)?, object::bytes_max(PACK_BYTES_MAX)) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) => return Ok(Some(Err(told("its parity cannot be read", &error)))),
        };
        let damaged = match self.legible(&pack_key(pack)?, PACK_BYTES_MAX) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) => return Ok(Some(Err(told("what is left of it cannot be read", &error)))),
        };
        let healed = match heal::heal(pack, damaged, &parity) {
            Ok(healed) => healed,
            Err(why) => return Ok(Some(Err(why))),
        };
        Ok(Some(match pack_flaws(self, pack, &healed)? {
            Ok(flaws) if flaws.is_empty() => Ok(healed),
            _ => Err("what its parity gives is not the pack: the parity is of no use".to_owned()),
        }))
    }

    /// Makes the parity of a sound pack, in the place of what is there, if that is damaged; its size in bytes, and nothing where
    /// the pack is not sound or none is wanted.
    pub(crate) fn make_parity(&self, pack: PackId, is_damaged: bool) -> Result<Option<u64>> {
        // A writer that was between a pack and its parity has gone on.
        if !is_damaged && self.store().open(&parity_key(pack)?).is_ok() {
            return Ok(None);
        }
        let bytes = match self.store().get(&pack_key(pack)?, PACK_BYTES_MAX) {
            Ok((bytes, _)) => bytes,
            Err(error) if matches!(error.kind(), StoreErrorKind::NotFound | StoreErrorKind::Damaged) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        if !pack_flaws(self, pack, &bytes)?.is_ok_and(|flaws| flaws.is_empty()) {
            return Ok(None);
        }
        if is_damaged {
            self.store().delete(&parity_key(pack)?)?;
        }
        Ok(Some(self.put_parity(pack, &bytes)?).filter(|size| *size > 0))
    }
}

/// Reads a part of an object. Where the medium cannot read it, it is read in halves down to a sector, and what is left unread
/// becomes zeros.
fn read_around(object: &dyn Object, bytes: &mut [u8], offset: u64) -> std::result::Result<(), StoreError> {
    match object.read_at(bytes, offset) {
        Err(error) if error.is_bad_place() && bytes.len() <= SECTOR_BYTES => {
            bytes.fill(0);
            Ok(())
        }
        Err(error) if error.is_bad_place() => {
            let half = (bytes.len() / 2).next_multiple_of(SECTOR_BYTES);
            let (first, second) = bytes.split_at_mut(half);
            read_around(object, first, offset)?;
            read_around(object, second, offset + half as u64)
        }
        other => other,
    }
}

fn told(what: &str, error: &StoreError) -> String {
    format!("{what}: {}", leeward_store::with_causes(error))
}
