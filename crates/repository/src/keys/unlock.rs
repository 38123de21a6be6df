//! From what a person has to the keys of a repository.

use std::fmt;

use leeward_store::Store;

use super::agreement::Identity;
use super::keyring::{Fingerprint, Keyring};
use super::manage::read_slots;
use super::secret::Passphrase;
use crate::{Config, Error, Result};

/// What opens a wrapped key.
#[derive(Clone)]
pub enum Credential {
    /// A passphrase.
    Passphrase(Passphrase),
    /// A private key.
    Identity(Identity),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passphrase(passphrase) => passphrase.fmt(f),
            Self::Identity(identity) => identity.fmt(f),
        }
    }
}

/// Gives what opens a repository, when it turns out to be needed.
pub trait Unlock {
    /// Whether the caller takes the repository to be encrypted. One that is not is then refused: a store could have
    /// put it in the place of the one that was meant.
    fn expects_encryption(&self) -> bool;

    /// What opens the repository at `location`; none when the caller has nothing.
    ///
    /// # Errors
    /// It cannot be had: a file is missing, a command fails, a person ends the dialogue.
    fn credential(
        &self,
        location: &str,
    ) -> Result<Option<Credential>, Box<dyn std::error::Error + Send + Sync>>;

    /// The fingerprint that the repository must have; see [`Fingerprint`].
    ///
    /// # Errors
    /// What was given is none.
    fn fingerprint(&self) -> Result<Option<Fingerprint>> {
        Ok(None)
    }
}

/// Nothing at hand: opens only what is not encrypted.
#[derive(Debug, Clone, Copy)]
pub struct NoCredential;

impl Unlock for NoCredential {
    fn expects_encryption(&self) -> bool {
        false
    }

    fn credential(
        &self,
        _location: &str,
    ) -> Result<Option<Credential>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(None)
    }
}

impl Unlock for Credential {
    fn expects_encryption(&self) -> bool {
        true
    }

    fn credential(
        &self,
        _location: &str,
    ) -> Result<Option<Credential>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Some(self.clone()))
    }
}

/// Wrapped keys that a passphrase is tried on, at most: each try costs a second.
const TRIES_MAX: usize = 16;

/// The keys of an encrypted repository.
pub(crate) fn unlock(store: &dyn Store, config: &Config, unlock: &dyn Unlock) -> Result<Keyring> {
    let location = store.name();
    let credential = unlock
        .credential(location)
        .map_err(|source| Error::NoCredential { store: location.to_owned(), source })?
        .ok_or_else(|| Error::Locked { store: location.to_owned() })?;
    let denied = || Error::NoKeyFits { store: location.to_owned() };
    let slots = read_slots(store, &config.repository_id, &Keyring::locked())?;
    let bundle = slots
        .iter()
        .filter_map(|slot| slot.record.as_ref().ok())
        .filter(|record| record.is_for(&credential))
        .take(TRIES_MAX)
        .find_map(|record| record.unwrap(&credential))
        .ok_or_else(denied)?;
    let keyring = bundle.keyring()?;
    match unlock.fingerprint()? {
        Some(expected) if expected != keyring.fingerprint() => Err(Error::WrongFingerprint {
            store: location.to_owned(),
            expected: expected.to_string(),
            found: keyring.fingerprint().to_string(),
        }),
        _ => Ok(keyring),
    }
}
