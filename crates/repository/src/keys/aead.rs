//! AES-256-GCM: secrecy and authenticity of bytes, with a header that is only authentic.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::secret::Secret;
use crate::{Error, Result};

/// Bytes of a nonce.
pub(crate) const NONCE_BYTES: usize = 12;
/// Bytes of a tag.
pub(crate) const TAG_BYTES: usize = 16;

/// A key of AES-256-GCM. The caller sees to it that no nonce is used twice.
pub(crate) struct Aead(LessSafeKey);

impl Aead {
    pub(crate) fn new(key: &Secret) -> Result<Self> {
        UnboundKey::new(&AES_256_GCM, key.expose())
            .map(|key| Self(LessSafeKey::new(key)))
            .map_err(|_| unusable())
    }

    /// Encrypts `content` where it is and returns the tag.
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        header: &[u8],
        content: &mut [u8],
    ) -> Result<[u8; TAG_BYTES]> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag =
            self.0.seal_in_place_separate_tag(nonce, Aad::from(header), content).map_err(|_| unusable())?;
        tag.as_ref().first_chunk().copied().ok_or_else(unusable)
    }

    /// Decrypts `sealed` (ciphertext and tag) into `plain`; `None` when it is not what was sealed under this key, nonce and
    /// header.
    pub(crate) fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        header: &[u8],
        sealed: &[u8],
        plain: &mut Vec<u8>,
    ) -> Option<()> {
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_BYTES>()?;
        plain.resize(ciphertext.len(), 0);
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_separate_gather(nonce, Aad::from(header), ciphertext, tag, plain).ok()
    }
}

fn unusable() -> Error {
    Error::Invalid("the cipher cannot be used".to_owned())
}
