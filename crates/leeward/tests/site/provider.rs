//! A provider of OpenID Connect as far as a site sees one: a discovery document, keys, and tokens. It signs with the library
//! below the one that checks, so that the two are not the same mistake.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    RsaEncoding,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::sign_ins::SignIns;

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

pub fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key pair with a name.
pub struct Signer {
    pub id: String,
    pair: Pair,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    pub fn rsa(id: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        Self { id: id.to_owned(), pair: Pair::Rsa(Box::new(pair)) }
    }

    pub fn p256(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { id: id.to_owned(), pair: Pair::P256(pair) }
    }

    pub fn ed25519(id: &str) -> Self {
        Self { id: id.to_owned(), pair: Pair::Ed25519(Ed25519KeyPair::generate().unwrap()) }
    }

    /// The public key as it is published.
    pub fn published(&self) -> Value {
        match &self.pair {
            Pair::Rsa(pair) => {
                let (n, e) = (pair.public_key().modulus(), pair.public_key().exponent());
                let (n, e) = (n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero());
                json!({ "kty": "RSA", "use": "sig", "kid": self.id, "n": encoded(n), "e": encoded(e) })
            }
            Pair::P256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "kid": self.id, "x": encoded(x), "y": encoded(y) })
            }
            Pair::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": encoded(pair.public_key()) })
            }
        }
    }

    /// The algorithm that it is used with where nothing else is said.
    pub fn algorithm(&self) -> &'static str {
        match &self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
            Pair::Ed25519(_) => "EdDSA",
        }
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let padding: &'static dyn RsaEncoding =
                    if algorithm == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::P256(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with this header and these claims.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
        let algorithm = header["alg"].as_str().unwrap_or_default();
        format!("{message}.{}", encoded(self.sign(algorithm, message.as_bytes())))
    }

    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.algorithm(), "kid": self.id, "typ": "at+jwt" }), claims)
    }
}

/// What it answers.
#[derive(Default)]
pub struct Answers {
    /// A discovery document instead of the right one.
    pub discovery: Option<Value>,
    /// Where to instead of a discovery document.
    pub moved: Option<String>,
    pub keys: Vec<Value>,
    /// Bytes of nothing before a document.
    pub padding: usize,
    /// Who signs in, and what comes of it.
    pub sign_ins: Option<SignIns>,
}

/// A provider that listens.
pub struct Provider {
    pub issuer: String,
    pub answers: Arc<Mutex<Answers>>,
    /// Requests for keys.
    pub asked: Arc<AtomicU32>,
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    server: Option<std::thread::JoinHandle<()>>,
}

impl Provider {
    pub fn start(keys: &[&Signer]) -> Self {
        let mut provider = Self::absent(keys);
        provider.up();
        provider
    }

    /// One whose address is known, and where nobody answers yet.
    pub fn absent(keys: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let keys = keys.iter().map(|signer| signer.published()).collect();
        Self {
            issuer: format!("http://{address}/realms/home"),
            answers: Arc::new(Mutex::new(Answers { keys, ..Answers::default() })),
            asked: Arc::default(),
            address,
            is_over: Arc::default(),
            server: None,
        }
    }

    pub fn up(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        let (issuer, answers) = (self.issuer.clone(), Arc::clone(&self.answers));
        let (asked, is_over) = (Arc::clone(&self.asked), Arc::clone(&self.is_over));
        self.server = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                if is_over.load(Ordering::Acquire) {
                    return;
                }
                // A client that goes away is its own matter.
                let _ = stream.and_then(|stream| answer(stream, &issuer, &answers, &asked));
            }
        }));
    }

    pub fn publish(&self, keys: &[&Signer]) {
        self.answers.lock().unwrap().keys = keys.iter().map(|signer| signer.published()).collect();
    }

    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Claims of a token that is good now, for somebody with these groups.
    pub fn claims(&self, groups: &[&str]) -> Value {
        json!({
            "iss": self.issuer, "sub": "248289761001", "aud": ["leeward", "account"], "exp": now() + 3600, "iat": now(),
            "preferred_username": "alice", "groups": groups, "client_id": "pages", "jti": "1",
        })
    }

    /// What a site's configuration says of it.
    pub fn configuration(&self) -> String {
        format!(
            "[server.oidc.company]\nissuer = \"{}\"\naudience = [\"leeward\"]\nroles_claim = \"groups\"\n\
             roles = {{ readers = \"reader\", writers = \"writer\", operators = \"operator\", admins = \"admin\" }}\n",
            self.issuer
        )
    }

    /// A site's configuration with this provider, and more keys of its table.
    pub fn added(&self, text: &str, more: &str) -> String {
        format!("{text}\n{}{more}\n", self.configuration())
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(server) = self.server.take() {
            let _ = TcpStream::connect(self.address);
            let _ = server.join();
        }
    }
}

fn answer(
    mut stream: TcpStream,
    issuer: &str,
    answers: &Mutex<Answers>,
    asked: &AtomicU32,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = reader.by_ref().lines();
    let target =
        lines.next().transpose()?.unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (mut length, mut authorization) = (0, None);
    for line in lines {
        let line = line?;
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().unwrap()
            }
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                authorization = Some(value.to_owned());
            }
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    let mut form = vec![0; length];
    reader.read_exact(&mut form)?;
    let form = String::from_utf8(form).unwrap();
    let mut answers = answers.lock().unwrap();
    let right = json!({
        "issuer": issuer, "jwks_uri": format!("{issuer}/keys"),
        "authorization_endpoint": format!("{issuer}/authorize?of=home"), "token_endpoint": format!("{issuer}/token"),
        "code_challenge_methods_supported": ["S256"],
    });
    let returned;
    let (status, place, body) = match path {
        "/realms/home/authorize" => {
            returned = answers.sign_ins.as_mut().unwrap().authorize(query);
            ("302 Found", returned.as_str(), String::new())
        }
        "/realms/home/token" => {
            let (status, tokens) =
                answers.sign_ins.as_mut().unwrap().tokens(issuer, authorization.as_deref(), &form);
            (status, "", tokens)
        }
        "/realms/home/.well-known/openid-configuration" => match &answers.moved {
            Some(place) => ("302 Found", place.as_str(), String::new()),
            None => ("200 OK", "", answers.discovery.as_ref().unwrap_or(&right).to_string()),
        },
        "/realms/home/keys" => {
            asked.fetch_add(1, Ordering::SeqCst);
            ("200 OK", "", json!({ "keys": answers.keys }).to_string())
        }
        _ => ("404 Not Found", "", String::new()),
    };
    let body = format!("{}{body}", " ".repeat(answers.padding));
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\nlocation: {place}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}
