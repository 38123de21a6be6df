//! The keys of an open repository.

use std::fmt;
use std::str::FromStr;

use super::agreement::{Identity, PublicKey};
use super::bundle::{Bundle, KeyAccess};
use super::frames::FrameKeys;
use super::secret::Secret;
use crate::id::{IdKeys, from_hex, to_hex};
use crate::{Error, Result};

/// The contexts in which keys are derived. These strings are part of the format.
pub(crate) mod context {
    pub(crate) const MANIFEST: &str = "leeward v1 manifest key";
    pub(crate) const AUTHENTICITY: &str = "leeward v1 record authenticity key";
    pub(crate) const NAMES_ID: &str = "leeward v1 identity of name keys";
    pub(crate) const CIPHER_ID: &str = "leeward v1 identity of cipher keys";
    pub(crate) const FINGERPRINT: &str = "leeward v1 repository fingerprint";
}

/// The keys under which a repository names and seals things. Cannot be printed.
pub struct Keyring {
    names: IdKeys,
    access: Access,
}

enum Access {
    /// The repository is not encrypted: its names are computed with a public secret, nothing is sealed.
    Plain,
    /// The repository is encrypted and no key was given: only stored bytes can be checked.
    Locked,
    /// The repository is encrypted and was opened.
    Open(Box<OpenKeys>),
}

struct OpenKeys {
    metadata: Secret,
    /// Key of the authenticity of records that stay readable.
    authenticity: Secret,
    content: PublicKey,
    frames: FrameKeys,
    /// None for a holder who may only write.
    root: Option<Secret>,
}

/// What tells the keys of one repository from those of another, without telling anything of them: 32 bytes, written as 64
/// hexadecimal digits. A person compares it, or pins it, where a public key is all that a repository is opened with:
/// anybody can wrap keys of their own making for a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&to_hex(&self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        from_hex(&text.trim().to_ascii_lowercase())
            .map(Self)
            .ok_or_else(|| Error::Invalid("a fingerprint has 64 hexadecimal digits".to_owned()))
    }
}

impl Keyring {
    /// The keys of a repository that is not encrypted.
    #[must_use]
    pub fn plain() -> Self {
        // Without encryption the secret is public.
        Self { names: IdKeys::new(&[0; 32]), access: Access::Plain }
    }

    /// The keys that follow from a root secret.
    #[cfg(test)]
    pub(crate) fn of_root(root: [u8; 32]) -> Self {
        Bundle::Full(Secret::new(root)).keyring().unwrap()
    }

    /// No keys, for an encrypted repository.
    pub(crate) fn locked() -> Self {
        Self { names: IdKeys::new(&[0; 32]), access: Access::Locked }
    }

    pub(super) fn full(names: IdKeys, metadata: Secret, content: Identity, root: Secret) -> Self {
        let public = content.public();
        let frames = FrameKeys::new(metadata.clone(), public, Some(content));
        Self::open(names, metadata, public, frames, Some(root))
    }

    pub(super) fn write_only(names: IdKeys, metadata: Secret, content: PublicKey) -> Self {
        let frames = FrameKeys::new(metadata.clone(), content, None);
        Self::open(names, metadata, content, frames, None)
    }

    fn open(
        names: IdKeys,
        metadata: Secret,
        content: PublicKey,
        frames: FrameKeys,
        root: Option<Secret>,
    ) -> Self {
        let authenticity = Secret::derive(context::AUTHENTICITY, &[metadata.expose()]);
        let keys = OpenKeys { metadata, authenticity, content, frames, root };
        Self { names, access: Access::Open(Box::new(keys)) }
    }

    /// The keys of names.
    pub(crate) fn names(&self) -> &IdKeys {
        &self.names
    }

    fn keys(&self) -> Option<&OpenKeys> {
        match &self.access {
            Access::Open(keys) => Some(keys),
            Access::Plain | Access::Locked => None,
        }
    }

    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.access, Access::Plain)
    }

    pub(crate) fn is_locked(&self) -> bool {
        matches!(self.access, Access::Locked)
    }

    /// How frames are sealed; none where they are not.
    pub(crate) fn frames(&self) -> Option<&FrameKeys> {
        self.keys().map(|keys| &keys.frames)
    }

    /// What the holder may do; none where nothing is encrypted or nothing was opened.
    #[must_use]
    pub fn access(&self) -> Option<KeyAccess> {
        self.keys().map(|keys| if keys.root.is_some() { KeyAccess::Full } else { KeyAccess::WriteOnly })
    }

    /// Whether chunks can be read with these keys.
    pub(crate) fn reads_chunks(&self) -> bool {
        match &self.access {
            Access::Plain => true,
            Access::Locked => false,
            Access::Open(keys) => keys.root.is_some(),
        }
    }

    /// The bundle of this kind, for another holder; only who has everything can give.
    pub(super) fn bundle(&self, access: KeyAccess) -> Option<Bundle> {
        let keys = self.keys()?;
        let root = keys.root.as_ref()?;
        Some(match access {
            KeyAccess::Full => Bundle::Full(root.clone()),
            KeyAccess::WriteOnly => Bundle::WriteOnly {
                names: self.names.clone(),
                metadata: keys.metadata.clone(),
                content: keys.content,
            },
        })
    }

    /// The key that seals one manifest, told from all others by its salt.
    pub(crate) fn manifest_key(&self, salt: &[u8]) -> Option<Secret> {
        self.keys().map(|keys| Secret::derive(context::MANIFEST, &[keys.metadata.expose(), salt]))
    }

    /// What proves that a record was written by a holder of these keys, for this object; see `docs/format.md`.
    pub(crate) fn authenticate(&self, object: &str, content: &[u8]) -> Option<blake3::Hash> {
        let mut hasher = blake3::Hasher::new_keyed(self.keys()?.authenticity.expose());
        // The name's length first, so that no byte can move from the name to the content.
        hasher.update(&(object.len() as u64).to_le_bytes());
        hasher.update(object.as_bytes());
        hasher.update(content);
        Some(hasher.finalize())
    }

    /// What tells these keys from others; all zeros where nothing is encrypted.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let identity = |keys: &OpenKeys| {
            let (names, cipher) = (self.names_id(), self.cipher_id_of(keys));
            *Secret::derive(context::FINGERPRINT, &[&names, &cipher]).expose()
        };
        Fingerprint(self.keys().map_or([0; 32], identity))
    }

    /// Equal exactly where content gets the same names.
    pub(crate) fn names_id(&self) -> [u8; 32] {
        let [chunk, node, snapshot] = self.names.parts();
        *Secret::derive(context::NAMES_ID, &[chunk, node, snapshot]).expose()
    }

    /// Equal exactly where stored frames can be read by the same holders; zeros where frames are not sealed. None when
    /// nothing was opened.
    pub(crate) fn cipher_id(&self) -> Option<[u8; 32]> {
        match &self.access {
            Access::Plain => Some([0; 32]),
            Access::Locked => None,
            Access::Open(keys) => Some(self.cipher_id_of(keys)),
        }
    }

    fn cipher_id_of(&self, keys: &OpenKeys) -> [u8; 32] {
        *Secret::derive(context::CIPHER_ID, &[keys.metadata.expose(), &keys.content.0]).expose()
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.access {
            Access::Plain => "plain",
            Access::Locked => "locked",
            Access::Open(keys) if keys.root.is_some() => "full",
            Access::Open(_) => "write-only",
        };
        write!(f, "Keyring({state}, …)")
    }
}
