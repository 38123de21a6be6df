//! X25519: what is wrapped for a public key is opened only by who has the private one.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};

use super::secret::Secret;
use super::text;
use crate::{Error, Result};

/// Bytes of a public key.
pub(crate) const PUBLIC_BYTES: usize = 32;

/// A public key: keys can be wrapped for it. No secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub(crate) [u8; PUBLIC_BYTES]);

/// The private half of a key pair: opens what was wrapped for its public key. A key file and a recovery key are this.
#[derive(Clone)]
pub struct Identity {
    private: Secret,
    public: PublicKey,
}

impl Identity {
    /// A new key pair.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate() -> Result<Self> {
        Self::from_private(Secret::random()?)
    }

    pub(crate) fn from_private(private: Secret) -> Result<Self> {
        let public = parsed(&private)?.compute_public_key().map_err(|_| unusable())?;
        let public = PublicKey(public.as_ref().try_into().map_err(|_| unusable())?);
        Ok(Self { private, public })
    }

    /// Its public key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The secret that only the holders of the two private keys can compute; none when the other key is no sound one.
    /// Never used as it is: the caller derives from it, together with both public keys.
    pub(crate) fn agree(&self, other: PublicKey) -> Option<Secret> {
        let private = parsed(&self.private).ok()?;
        agree(&private, UnparsedPublicKey::new(&X25519, other.0), (), |shared| {
            shared.try_into().map(Secret::new).map_err(|_| ())
        })
        .ok()
    }

    /// The text of it, to be kept where nobody else reads it: 14 groups of four letters and digits with a checksum.
    #[must_use]
    pub fn to_secret_text(&self) -> zeroize::Zeroizing<String> {
        text::encode(text::Tag::Secret, self.private.expose())
    }

    /// The identity in a text, as a key file or a recovery key has it. Lines that begin with `#`, spaces, dashes and
    /// upper or lower case do not count.
    ///
    /// # Errors
    /// It is no such text, or was mistyped.
    pub fn from_secret_text(text: &str) -> Result<Self> {
        text::decode(text::Tag::Secret, text)
            .map_err(|what| Error::Invalid(format!("this is no key: {what}")))
            .and_then(Self::from_private)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({}, …)", self.public)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&text::encode(text::Tag::Public, &self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text::decode(text::Tag::Public, text)
            .map(|bytes| Self(*bytes.expose()))
            .map_err(|what| Error::Invalid(format!("this is no public key: {what}")))
    }
}

fn parsed(private: &Secret) -> Result<PrivateKey> {
    PrivateKey::from_private_key(&X25519, private.expose()).map_err(|_| unusable())
}

fn unusable() -> Error {
    Error::Invalid("the key pair cannot be used".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_agree_and_others_do_not() {
        let (a, b, c) =
            (Identity::generate().unwrap(), Identity::generate().unwrap(), Identity::generate().unwrap());
        let shared = a.agree(b.public()).unwrap();
        assert_eq!(shared.expose(), b.agree(a.public()).unwrap().expose());
        assert_ne!(shared.expose(), c.agree(a.public()).unwrap().expose());
    }

    #[test]
    fn a_public_key_that_gives_everybody_the_same_secret_is_refused() {
        assert!(Identity::generate().unwrap().agree(PublicKey([0; 32])).is_none());
    }

    #[test]
    fn keys_survive_text_and_are_never_taken_for_each_other() {
        let identity = Identity::generate().unwrap();
        let secret = identity.to_secret_text();
        let again = Identity::from_secret_text(&format!("# a comment\n{}\n", secret.to_lowercase())).unwrap();
        assert_eq!(again.public(), identity.public());
        let public = identity.public().to_string();
        assert_eq!(public.parse::<PublicKey>().unwrap(), identity.public());
        assert!(secret.parse::<PublicKey>().is_err());
        assert!(Identity::from_secret_text(&public).is_err());
        assert!(!format!("{identity:?}").contains(&secret[6..]));
    }
}
