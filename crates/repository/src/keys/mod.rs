//! Keys of an encrypted repository: what is derived from what, how content is sealed, and for whom the keys are wrapped.
//!
//! A repository has one *root secret*. Everything else is derived from it: the keys of names, the *metadata secret* (tree
//! nodes, manifests, and the authenticity of the records that stay readable) and the *content key pair* (chunks). Whoever is
//! to use the repository gets one of two bundles, wrapped for a passphrase or a public key and stored under `keys/`:
//! the full one holds the root secret, the write-only one everything but the private half of the content key.
//!
//! What always holds:
//! - secrets lie in types that overwrite themselves when they are dropped and that cannot be printed;
//! - no key seals two things with one nonce: chunk frames count under a key pair of their writer, all else has a key of its
//!   own by a random salt;
//! - what a wrapped key asks of its reader (memory, time) is bounded before it is spent.
//!
//! Layouts are in `docs/format.md`, the reasons in `docs/decisions/0012-encryption.md`, who can do what in `docs/keys.md`.

mod aead;
mod agreement;
mod bundle;
mod frames;
mod keyring;
mod locked;
mod manage;
mod passphrase;
mod secret;
mod slot;
mod text;
mod unlock;
#[cfg(test)]
mod vectors;

pub use agreement::{Identity, PublicKey};
pub use bundle::KeyAccess;
pub use keyring::{Fingerprint, Keyring};
pub use locked::KeylessRepository;
pub use manage::KeyInfo;
pub use passphrase::PassphraseCost;
pub use secret::Passphrase;
pub use slot::{NewKey, Recipient};
pub use unlock::{Credential, NoCredential, Unlock};

pub(crate) use aead::{Aead, NONCE_BYTES};
pub(crate) use frames::{FRAME_PREFIX_BYTES, FRAME_TAG_BYTES, FrameKeys};
pub(crate) use manage::{KEYS, store_first_keys, store_keys_of};
pub(crate) use secret::{Secret, fill_random};
pub(crate) use unlock::unlock;
