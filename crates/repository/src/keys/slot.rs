//! Wrapped keys: a bundle of secrets under `keys/ID`, sealed for a passphrase or a public key.
//!
//! The record stays readable JSON, so that whoever holds the store sees how many may open the repository, and who has no key
//! yet can find the own one. It is authenticated as other records are, which can be checked once the repository is open; what
//! is wrapped is bound to its kind, its repository and its place before that.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::aead::{Aead, NONCE_BYTES};
use super::agreement::{Identity, PublicKey};
use super::bundle::{Bundle, KeyAccess};
use super::passphrase::{PassphraseCost, SALT_BYTES};
use super::secret::{Passphrase, Secret, fill_random};
use super::unlock::Credential;
use crate::id::{from_hex, to_hex};
use crate::{Error, Result};

/// The contexts in which wrapping keys are derived. These strings are part of the format.
pub(crate) mod context {
    pub(crate) const PASSPHRASE: &str = "leeward v1 wrapping key of a passphrase";
    pub(crate) const RECIPIENT: &str = "leeward v1 wrapping key of a public key";
}

/// The version of the record that this code writes and reads.
pub(super) const KEY_VERSION: u32 = 1;
const NAME_BYTES_MAX: usize = 128;

/// For whom a bundle is to be wrapped.
#[derive(Debug, Clone)]
pub enum Recipient {
    /// Whoever knows the passphrase.
    Passphrase(Passphrase, PassphraseCost),
    /// Whoever has the private key.
    PublicKey(PublicKey),
}

/// A key that is to be added to a repository.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What people call it: 1 to 128 bytes without control characters.
    pub name: String,
    /// What its holder may do.
    pub access: KeyAccess,
    /// Who its holder is.
    pub recipient: Recipient,
}

/// The record of a wrapped key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SlotRecord {
    pub(super) key_version: u32,
    /// Random; the name of its object.
    pub(super) id: String,
    pub(super) repository_id: String,
    pub(super) name: String,
    pub(super) created: String,
    pub(super) access: KeyAccess,
    pub(super) recipient: SlotRecipient,
    /// Nonce, ciphertext and tag, in hexadecimal digits.
    pub(super) wrapped: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(super) enum SlotRecipient {
    /// Argon2id of version 0x13.
    Passphrase { memory_kib: u32, passes: u32, lanes: u32, salt: String },
    /// `public` is the recipient's; `passing` that of a key pair made for this record alone.
    X25519 { public: String, passing: String },
}

impl NewKey {
    fn check(&self) -> Result<()> {
        let length = self.name.len();
        if length == 0 || length > NAME_BYTES_MAX || self.name.chars().any(char::is_control) {
            return Err(Error::Invalid(
                "the name of a key has 1 to 128 bytes and no control characters".to_owned(),
            ));
        }
        Ok(())
    }

    /// Wraps a bundle.
    pub(super) fn wrap(&self, bundle: &Bundle, repository_id: &str) -> Result<SlotRecord> {
        self.check()?;
        let mut id = [0; 16];
        fill_random(&mut id)?;
        let mut nonce = [0; NONCE_BYTES];
        fill_random(&mut nonce)?;
        let (recipient, key) = match &self.recipient {
            Recipient::Passphrase(passphrase, cost) => wrap_for_passphrase(passphrase, *cost)?,
            Recipient::PublicKey(public) => wrap_for_public_key(*public, &Identity::generate()?)?,
        };
        let record = SlotRecord {
            key_version: KEY_VERSION,
            id: to_hex(&id),
            repository_id: repository_id.to_owned(),
            name: self.name.clone(),
            created: jiff::Timestamp::now().to_string(),
            access: self.access,
            recipient,
            wrapped: String::new(),
        };
        record.with_wrapped(&key, nonce, bundle)
    }
}

fn wrap_for_passphrase(passphrase: &Passphrase, cost: PassphraseCost) -> Result<(SlotRecipient, Secret)> {
    let mut salt = [0; SALT_BYTES];
    fill_random(&mut salt)?;
    let key = passphrase_key(passphrase, cost, &salt).map_err(Error::Invalid)?;
    let PassphraseCost { memory_kib, passes, lanes } = cost;
    Ok((SlotRecipient::Passphrase { memory_kib, passes, lanes, salt: to_hex(&salt) }, key))
}

fn passphrase_key(passphrase: &Passphrase, cost: PassphraseCost, salt: &[u8]) -> Result<Secret, String> {
    let stretched = cost.derive(passphrase, salt)?;
    Ok(Secret::derive(context::PASSPHRASE, &[stretched.expose()]))
}

pub(super) fn wrap_for_public_key(public: PublicKey, passing: &Identity) -> Result<(SlotRecipient, Secret)> {
    let shared = passing.agree(public).ok_or_else(|| {
        Error::Invalid("nothing can be wrapped for this public key: it is not sound".to_owned())
    })?;
    let recipient = SlotRecipient::X25519 { public: to_hex(&public.0), passing: to_hex(&passing.public().0) };
    Ok((recipient, recipient_key(&shared, passing.public(), public)))
}

fn recipient_key(shared: &Secret, passing: PublicKey, recipient: PublicKey) -> Secret {
    Secret::derive(context::RECIPIENT, &[shared.expose(), &passing.0, &recipient.0])
}

impl SlotRecord {
    /// What is bound to the wrapped bundle: its kind, the repository, the place.
    fn binding(&self) -> Option<[u8; 33]> {
        let mut binding = [self.access.number(); 33];
        binding[1..17].copy_from_slice(&from_hex::<16>(&self.repository_id)?);
        binding[17..].copy_from_slice(&from_hex::<16>(&self.id)?);
        Some(binding)
    }

    pub(super) fn with_wrapped(
        mut self,
        key: &Secret,
        nonce: [u8; NONCE_BYTES],
        bundle: &Bundle,
    ) -> Result<Self> {
        let binding =
            self.binding().ok_or_else(|| Error::Invalid("the repository has no identity".to_owned()))?;
        let mut content = bundle.encode();
        let tag = Aead::new(key)?.seal(nonce, &binding, &mut content)?;
        self.wrapped = to_hex(&[&nonce[..], &content[..], &tag[..]].concat());
        Ok(self)
    }

    /// Whether it could be for this holder at all: told without spending anything.
    pub(super) fn is_for(&self, credential: &Credential) -> bool {
        match (&self.recipient, credential) {
            (SlotRecipient::Passphrase { .. }, Credential::Passphrase(_)) => true,
            (SlotRecipient::X25519 { public, .. }, Credential::Identity(identity)) => {
                *public == to_hex(&identity.public().0)
            }
            _ => false,
        }
    }

    /// The bundle, if the credential opens it. Why it does not, nobody is told.
    pub(super) fn unwrap(&self, credential: &Credential) -> Option<Bundle> {
        let key = self.wrapping_key(credential)?;
        let wrapped = bytes(&self.wrapped)?;
        let (nonce, sealed) = wrapped.split_first_chunk::<NONCE_BYTES>()?;
        // With room for all of it: a vector that grows leaves copies behind.
        let mut plain = Zeroizing::new(Vec::with_capacity(sealed.len()));
        Aead::new(&key).ok()?.open(*nonce, &self.binding()?, sealed, &mut plain)?;
        Bundle::decode(self.access, &plain)
    }

    fn wrapping_key(&self, credential: &Credential) -> Option<Secret> {
        match (&self.recipient, credential) {
            (
                SlotRecipient::Passphrase { memory_kib, passes, lanes, salt },
                Credential::Passphrase(passphrase),
            ) => {
                let cost = PassphraseCost { memory_kib: *memory_kib, passes: *passes, lanes: *lanes };
                passphrase_key(passphrase, cost, &from_hex::<SALT_BYTES>(salt)?).ok()
            }
            (SlotRecipient::X25519 { passing, .. }, Credential::Identity(identity)) => {
                let passing = PublicKey(from_hex(passing)?);
                let shared = identity.agree(passing)?;
                Some(recipient_key(&shared, passing, identity.public()))
            }
            _ => None,
        }
    }

    /// Who its holder is, for people.
    pub(super) fn describe(&self) -> String {
        match &self.recipient {
            SlotRecipient::Passphrase { .. } => "passphrase".to_owned(),
            SlotRecipient::X25519 { public, .. } => match from_hex(public) {
                Some(public) => PublicKey(public).to_string(),
                None => "public key that cannot be read".to_owned(),
            },
        }
    }

    /// What makes no sense in it, if anything does.
    pub(super) fn flaw(&self) -> Option<String> {
        if self.key_version != KEY_VERSION {
            return Some(format!("its version is {}, which is not known here", self.key_version));
        }
        if let SlotRecipient::Passphrase { memory_kib, passes, lanes, .. } = self.recipient {
            return PassphraseCost { memory_kib, passes, lanes }.flaw();
        }
        None
    }
}

/// The bytes that hexadecimal digits stand for.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| from_hex::<1>(std::str::from_utf8(pair).ok()?).map(|[byte]| byte)).collect()
}
