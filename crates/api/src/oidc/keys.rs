//! The keys that a provider publishes (RFC 7517).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// The most keys of one provider; what comes after them is not looked at.
const KEYS_MAX: usize = 64;

/// A key with which tokens are signed.
#[derive(Debug, Clone)]
pub(super) struct Key {
    id: Option<String>,
    /// Of the algorithms for which a key of its kind is good, the only one for which it is; any where absent.
    only: Option<KeyAlgorithm>,
    kind: Kind,
    key: DecodingKey,
}

/// Kinds of keys, each with the algorithms for which it is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Kind {
    fn fits(self, algorithm: Algorithm) -> bool {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        match self {
            Self::Rsa => matches!(algorithm, RS256 | RS384 | RS512 | PS256 | PS384 | PS512),
            Self::P256 => algorithm == ES256,
            Self::P384 => algorithm == ES384,
            Self::Ed25519 => algorithm == EdDSA,
        }
    }
}

impl Key {
    /// A key of a set, if tokens may be signed with it. Keys of other kinds and for other uses are none of ours, and those that
    /// make no sense do not keep the others from being used (RFC 7517, section 5).
    fn of(value: &serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
        let kind = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Kind::Rsa,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Kind::P256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => Kind::P384,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Kind::Ed25519,
            // Symmetric ones above all: what is published is no secret.
            _ => return None,
        };
        let common = &jwk.common;
        let signs = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
        let verifies =
            common.key_operations.as_ref().is_none_or(|uses| uses.contains(&KeyOperations::Verify));
        if !signs || !verifies {
            return None;
        }
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { id: jwk.common.key_id, only: jwk.common.key_algorithm, kind, key })
    }

    /// Whether a token may be signed with it by this algorithm.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        self.kind.fits(algorithm) && self.only.is_none_or(|only| only == KeyAlgorithm::from(algorithm))
    }

    pub fn decoding(&self) -> &DecodingKey {
        &self.key
    }
}

/// All keys of a provider.
#[derive(Debug, Clone, Default)]
pub(super) struct KeySet(Vec<Key>);

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// The keys of a document.
    ///
    /// # Errors
    /// It is none, or holds no key with which tokens could be signed.
    pub fn parse(document: &[u8]) -> Result<Self, String> {
        let Document { keys } = serde_json::from_slice(document).map_err(|error| error.to_string())?;
        let keys: Vec<Key> = keys.iter().take(KEYS_MAX).filter_map(Key::of).collect();
        match keys.is_empty() {
            true => Err("it holds no key of RSA, P-256, P-384 or Ed25519 for signatures".to_owned()),
            false => Ok(Self(keys)),
        }
    }

    /// The keys with which a token may be signed that names this one. A token may leave the name out where only one key is
    /// possible (OpenID Connect Core 1.0, section 10.1).
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<Key> {
        let fitting = self.0.iter().filter(|key| key.fits(algorithm));
        match id {
            Some(id) => fitting.filter(|key| key.id.as_deref() == Some(id)).cloned().collect(),
            None => {
                let found: Vec<_> = fitting.cloned().collect();
                if found.len() == 1 { found } else { Vec::new() }
            }
        }
    }

    /// How many keys are good for one of these algorithms.
    pub fn usable(&self, algorithms: &[Algorithm]) -> usize {
        self.0.iter().filter(|key| algorithms.iter().any(|algorithm| key.fits(*algorithm))).count()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rsa(more: Value) -> Value {
        let mut key = json!({ "kty": "RSA", "kid": "a", "e": "AQAB", "n": format!("{}w", "u".repeat(341)) });
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key
    }

    fn set(keys: &[Value]) -> Result<KeySet, String> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn a_key_is_good_for_the_algorithms_of_its_kind_and_for_nothing_else() {
        let x = "A".repeat(43);
        let keys = set(&[
            rsa(json!({})),
            json!({ "kty": "EC", "crv": "P-256", "x": x, "y": x, "kid": "b" }),
            json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": "c" }),
            rsa(json!({ "kid": "d", "alg": "PS256" })),
        ])
        .unwrap();
        for (id, fits) in [
            ("a", &[Algorithm::RS256, Algorithm::RS512, Algorithm::PS256][..]),
            ("b", &[Algorithm::ES256]),
            ("c", &[Algorithm::EdDSA]),
            ("d", &[Algorithm::PS256]),
            ("e", &[]),
        ] {
            for algorithm in [
                Algorithm::HS256,
                Algorithm::RS256,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::ES256,
                Algorithm::ES384,
                Algorithm::EdDSA,
            ] {
                let found = keys.find(Some(id), algorithm).len();
                assert_eq!(found, usize::from(fits.contains(&algorithm)), "{id} {algorithm:?}");
            }
        }
        assert_eq!(keys.usable(&[Algorithm::RS256, Algorithm::EdDSA]), 2);
        assert_eq!(keys.find(None, Algorithm::ES256).len(), 1, "there is no other");
        assert!(keys.find(None, Algorithm::PS256).is_empty(), "it may be either");
    }

    #[test]
    fn what_signs_no_tokens_is_left_out_and_keeps_nothing_else_out() {
        let none = [
            rsa(json!({ "use": "enc" })),
            rsa(json!({ "key_ops": ["encrypt"] })),
            json!({ "kty": "oct", "kid": "a", "k": "c2VjcmV0", "alg": "HS256" }),
            json!({ "kty": "OKP", "crv": "X25519", "x": "A".repeat(43) }),
            json!({ "kty": "EC", "crv": "P-521", "x": "A", "y": "A" }),
            json!({ "kty": "RSA", "e": "AQAB" }),
            json!({ "kty": "RSA", "e": "AQAB", "n": "%%%" }),
            json!({ "kty": "made up" }),
            json!(7),
        ];
        assert!(set(&none).is_err() && set(&[]).is_err() && KeySet::parse(b"[]").is_err());
        let mut all = none.to_vec();
        all.push(rsa(json!({ "kid": "good", "use": "sig", "key_ops": ["verify"], "alg": "RS256" })));
        let keys = set(&all).unwrap();
        assert_eq!(keys.find(Some("good"), Algorithm::RS256).len(), 1);
        assert!(keys.find(Some("a"), Algorithm::RS256).is_empty());
        let many: Vec<_> =
            (0..KEYS_MAX + 9).map(|number| rsa(json!({ "kid": number.to_string() }))).collect();
        assert_eq!(set(&many).unwrap().0.len(), KEYS_MAX);
    }
}
