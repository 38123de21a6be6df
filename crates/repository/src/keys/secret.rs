//! Secret bytes: overwritten when dropped, never printed.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

use crate::{Error, Result};

/// Bytes of a secret.
pub(crate) const SECRET_BYTES: usize = 32;

/// 32 secret bytes.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<[u8; SECRET_BYTES]>);

impl Secret {
    pub(crate) fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A new secret.
    pub(crate) fn random() -> Result<Self> {
        let mut secret = Self::new([0; SECRET_BYTES]);
        fill_random(&mut secret.0[..])?;
        Ok(secret)
    }

    /// The secret that follows from key material, given in parts, in a context.
    pub(crate) fn derive(context: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        for part in parts {
            hasher.update(part);
        }
        let mut digest = hasher.finalize();
        let secret = Self::new(*digest.as_bytes());
        hasher.zeroize();
        digest.zeroize();
        secret
    }

    /// The bytes, for whoever computes with them.
    pub(crate) fn expose(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Fills a buffer with random bytes of the system.
pub(crate) fn fill_random(buffer: &mut [u8]) -> Result<()> {
    getrandom::fill(buffer)
        .map_err(|error| Error::Invalid(format!("the system gives no random bytes: {error}")))
}

/// Words that a person remembers.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// A passphrase, as it was typed or read; an empty one is refused.
    ///
    /// # Errors
    /// It is empty.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = Zeroizing::new(text.into());
        if text.is_empty() {
            return Err(Error::Invalid("the passphrase is empty".to_owned()));
        }
        Ok(Self(text))
    }

    pub(crate) fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let passphrase = Passphrase::new("open sesame").unwrap();
        let shown = format!("{:?} {:?}", Secret::new([0x41; 32]), passphrase);
        assert!(!shown.contains("sesame") && !shown.contains("65") && !shown.contains("41"), "{shown}");
        assert!(Passphrase::new("").is_err());
    }
}
