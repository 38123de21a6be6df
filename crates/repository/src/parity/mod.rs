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

use leeward_store::{ErrorKind as StoreErrorKind, Key};
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

    /// The bytes of a damaged pack, mended by its parity and compared with its name; `None` where it has no parity, and a
    /// reason where that is not enough.
    pub(crate) fn healed(&self, pack: PackId) -> Result<Option<std::result::Result<Vec<u8>, String>>> {
        if !self.config().has_parity() {
            return Ok(None);
        }
        let parity = match self.store().get(&parity_key(pack)?, object::bytes_max(PACK_BYTES_MAX)) {
            Ok((bytes, _)) => bytes,
            Err(error) if error.kind() == StoreErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == StoreErrorKind::Damaged => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let damaged = match self.store().get(&pack_key(pack)?, PACK_BYTES_MAX) {
            Ok((bytes, _)) => bytes,
            Err(error) if error.kind() == StoreErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == StoreErrorKind::Damaged => Vec::new(),
            Err(error) => return Err(error.into()),
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

    /// Makes the parity of a sound pack anew, in the place of what is there; `false` where the pack is not sound.
    pub(crate) fn remake_parity(&self, pack: PackId) -> Result<bool> {
        let bytes = match self.store().get(&pack_key(pack)?, PACK_BYTES_MAX) {
            Ok((bytes, _)) => bytes,
            Err(error) if error.kind() == StoreErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if !pack_flaws(self, pack, &bytes)?.is_ok_and(|flaws| flaws.is_empty()) {
            return Ok(false);
        }
        self.store().delete(&parity_key(pack)?)?;
        self.put_parity(pack, &bytes)?;
        Ok(true)
    }
}
