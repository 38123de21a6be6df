//! The private key that signs requests, from a PEM file.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::digest;

/// An RSA key of at least 2048 bits. It cannot be printed.
pub struct SigningKey {
    pair: RsaKeyPair,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(RSA key)")
    }
}

impl SigningKey {
    /// Reads a key in PEM, as PKCS #8 or PKCS #1. Lines outside the markers are passed over: OCI's own tools write the
    /// line `OCI_API_KEY` below the key.
    ///
    /// # Errors
    /// Why it cannot be used, and what to do.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        if pem.contains("BEGIN ENCRYPTED PRIVATE KEY") || pem.contains("Proc-Type: 4,ENCRYPTED") {
            return Err("it is locked with a pass phrase, which is not supported; write an unlocked copy that only you \
                        can read: (umask 077; openssl pkcs8 -topk8 -nocrypt -in KEY -out KEY.unlocked), and name that \
                        as key_file"
                .to_owned());
        }
        let (text, is_pkcs8) = match (body(pem, "PRIVATE KEY"), body(pem, "RSA PRIVATE KEY")) {
            (Some(text), _) => (text, true),
            (None, Some(text)) => (text, false),
            (None, None) => return Err("it holds no RSA private key in PEM".to_owned()),
        };
        let der = STANDARD.decode(text.as_bytes()).map(Zeroizing::new);
        let der = der.map_err(|_| "the text between its PEM markers is damaged")?;
        let pair = if is_pkcs8 { RsaKeyPair::from_pkcs8(&der) } else { RsaKeyPair::from_der(&der) };
        Ok(Self { pair: pair.map_err(|_| "it is no RSA key of 2048 to 8192 bits")? })
    }

    /// A new key of 2048 bits, for a session.
    ///
    /// # Errors
    /// The machine gives no random numbers.
    pub fn generate() -> Result<Self, String> {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048);
        Ok(Self { pair: pair.map_err(|_| "no key can be made: this machine gives no random numbers")? })
    }

    /// The public key as SubjectPublicKeyInfo (DER) in Base64: what stands between the markers of its PEM.
    #[must_use]
    pub fn public_base64(&self) -> Option<String> {
        let public: PublicKeyX509Der<'_> = self.pair.public_key().as_der().ok()?;
        Some(STANDARD.encode(public.as_ref()))
    }

    /// The MD5 of the public key, as OCI shows it: `20:3b:97:…`.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        let public: PublicKeyX509Der<'_> = self.pair.public_key().as_der().ok()?;
        let digits = digest::md5_hex(&[bytes::Bytes::copy_from_slice(public.as_ref())]);
        let pairs: Vec<&str> =
            digits.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok()).collect();
        Some(pairs.join(":"))
    }

    /// Signs with RSA-SHA256 (PKCS #1 v1.5), in Base64.
    ///
    /// # Errors
    /// The machine gives no random numbers.
    pub fn sign(&self, message: &str) -> Result<String, String> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .map_err(|_| "the request cannot be signed with this key".to_owned())?;
        Ok(STANDARD.encode(signature))
    }
}

/// What stands between the markers of that label, without white space.
fn body(pem: &str, label: &str) -> Option<Zeroizing<String>> {
    let (_, rest) = pem.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    Some(Zeroizing::new(body.split_whitespace().collect()))
}

#[cfg(test)]
mod tests {
    use super::SigningKey;
    use crate::oci::profile::tests::{openssl, openssl_key};

    #[test]
    fn keys_of_both_forms_sign_what_openssl_verifies() {
        let Some(folder) = openssl_key() else { return };
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        openssl(&["rsa", "-in", &path("key.pem"), "-traditional", "-out", &path("pkcs1.pem")]);
        openssl(&["rsa", "-in", &path("key.pem"), "-pubout", "-out", &path("public.pem")]);
        std::fs::write(path("message"), "(request-target): get /n/x").unwrap();
        for name in ["key.pem", "pkcs1.pem"] {
            let pem = std::fs::read_to_string(path(name)).unwrap() + "OCI_API_KEY\n";
            let key = SigningKey::from_pem(&pem).unwrap();
            let signature = key.sign("(request-target): get /n/x").unwrap();
            let bytes =
                base64::Engine::decode(&base64::engine::general_purpose::STANDARD, signature).unwrap();
            std::fs::write(path("signature"), bytes).unwrap();
            let verified = openssl(&[
                "dgst",
                "-sha256",
                "-verify",
                &path("public.pem"),
                "-signature",
                &path("signature"),
                &path("message"),
            ]);
            assert!(verified.contains("Verified OK"), "{name}: {verified}");
            assert!(!format!("{key:?}").contains(&pem[40..60]));
        }
    }

    #[test]
    fn what_is_no_key_is_told_why() {
        let told = |pem: &str| SigningKey::from_pem(pem).unwrap_err();
        assert!(told("").contains("no RSA private key"));
        assert!(told("-----BEGIN PRIVATE KEY-----\n???\n-----END PRIVATE KEY-----").contains("damaged"));
        assert!(told("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----").contains("2048"));
        assert!(told("-----BEGIN ENCRYPTED PRIVATE KEY-----\n").contains("openssl pkcs8"));
        assert!(told("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n").contains("pass phrase"));
    }
}
