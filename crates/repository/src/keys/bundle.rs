//! What a holder of a key gets: all of it, or what is needed to write.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::agreement::{Identity, PUBLIC_BYTES, PublicKey};
use super::keyring::Keyring;
use super::secret::{SECRET_BYTES, Secret};
use crate::Result;
use crate::id::IdKeys;

/// The contexts in which secrets are derived. These strings are part of the format.
pub(crate) mod context {
    pub(crate) const METADATA: &str = "leeward v1 metadata secret";
    pub(crate) const CONTENT: &str = "leeward v1 content private key";
}

/// What a key gives access to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyAccess {
    /// Everything.
    Full,
    /// Everything but the content of chunks: enough for backups.
    WriteOnly,
}

impl KeyAccess {
    /// The number that is bound to a wrapped bundle.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Full => 1,
            Self::WriteOnly => 2,
        }
    }

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::WriteOnly => "write-only",
        }
    }
}

/// The secrets of a holder, before they are put to use.
pub(super) enum Bundle {
    /// The root secret, from which everything follows.
    Full(Secret),
    /// Keys of names, metadata secret, public half of the content key.
    WriteOnly { names: IdKeys, metadata: Secret, content: PublicKey },
}

const WRITE_ONLY_BYTES: usize = 4 * SECRET_BYTES + PUBLIC_BYTES;

impl Bundle {
    /// The bytes that are wrapped.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        // With room for all of it: a vector that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(WRITE_ONLY_BYTES + super::aead::TAG_BYTES));
        match self {
            Self::Full(root) => bytes.extend_from_slice(root.expose()),
            Self::WriteOnly { names, metadata, content } => {
                names.parts().iter().for_each(|part| bytes.extend_from_slice(&part[..]));
                bytes.extend_from_slice(metadata.expose());
                bytes.extend_from_slice(&content.0);
            }
        }
        bytes
    }

    /// The bundle of this kind in unwrapped bytes; none when they have another length.
    pub(super) fn decode(access: KeyAccess, bytes: &[u8]) -> Option<Self> {
        match access {
            KeyAccess::Full => bytes.try_into().ok().map(Secret::new).map(Self::Full),
            KeyAccess::WriteOnly => {
                let ([chunk, node, snapshot, metadata, content], []) = bytes.as_chunks::<SECRET_BYTES>()
                else {
                    return None;
                };
                Some(Self::WriteOnly {
                    names: IdKeys::from_parts([*chunk, *node, *snapshot]),
                    metadata: Secret::new(*metadata),
                    content: PublicKey(*content),
                })
            }
        }
    }

    /// The keys that follow from it.
    pub(super) fn keyring(self) -> Result<Keyring> {
        match self {
            Self::Full(root) => {
                let metadata = Secret::derive(context::METADATA, &[root.expose()]);
                let content = Identity::from_private(Secret::derive(context::CONTENT, &[root.expose()]))?;
                let names = IdKeys::new(root.expose());
                Ok(Keyring::full(names, metadata, content, root))
            }
            Self::WriteOnly { names, metadata, content } => Ok(Keyring::write_only(names, metadata, content)),
        }
    }
}
