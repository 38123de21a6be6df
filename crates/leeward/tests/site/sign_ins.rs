//! The part of a made-up provider at which people sign in: everybody who comes is let in, and codes become tokens for who can show what
//! belongs to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use leeward_remote::encode::{component, decoded_form};
use serde_json::{Value, json};

use super::provider::{Signer, encoded, now};

pub type Pairs = BTreeMap<String, String>;

/// The pairs of a query or a form.
pub fn pairs(text: &str) -> Pairs {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded_form(name).unwrap(), decoded_form(value).unwrap())
    };
    text.split('&').filter(|pair| !pair.is_empty()).map(pair).collect()
}

/// Who signs in, and what comes of it.
pub struct SignIns {
    pub signer: Arc<Signer>,
    pub groups: Vec<&'static str>,
    /// Members of the tokens that are other than they should be.
    pub of_id: Value,
    pub of_access: Value,
    /// An error instead of a code.
    pub denies: Option<&'static str>,
    /// What comes back as `iss`.
    pub iss: Option<String>,
    /// The client's secret, and whether it is to stand in the form.
    pub secret: Option<(&'static str, bool)>,
    /// What is answered instead of tokens.
    pub answers: Option<(&'static str, String)>,
    /// Codes that were given and not used, with what was asked.
    pub codes: BTreeMap<String, Pairs>,
    pub given: u32,
    /// Tokens that were given.
    pub exchanges: u32,
}

impl SignIns {
    pub fn new(signer: &Arc<Signer>, groups: &[&'static str]) -> Self {
        Self {
            signer: Arc::clone(signer),
            groups: groups.to_vec(),
            of_id: json!({}),
            of_access: json!({}),
            denies: None,
            iss: None,
            secret: None,
            answers: None,
            codes: BTreeMap::new(),
            given: 0,
            exchanges: 0,
        }
    }

    /// Where to a browser is sent that has come with this query.
    pub fn authorize(&mut self, query: &str) -> String {
        let asked = pairs(query);
        assert_eq!(
            (asked["response_type"].as_str(), asked["code_challenge_method"].as_str()),
            ("code", "S256")
        );
        assert!(asked["scope"].split(' ').any(|scope| scope == "openid"), "{asked:?}");
        assert_eq!(asked["of"], "home", "what the endpoint's address has of its own stays");
        let mut back = format!("{}?state={}", asked["redirect_uri"], component(&asked["state"]));
        match self.denies {
            Some(error) => {
                back.push_str(&format!("&error={error}&error_description=%3Cb%3Ecall%20555%3C/b%3E"))
            }
            None => {
                self.given += 1;
                let code = format!("c+d/{}", self.given);
                back.push_str(&format!("&code={}", component(&code)));
                self.codes.insert(code, asked);
            }
        }
        if let Some(iss) = &self.iss {
            back.push_str(&format!("&iss={}", component(iss)));
        }
        back
    }

    /// The tokens for a code, as its status and body.
    pub fn tokens(
        &mut self,
        issuer: &str,
        authorization: Option<&str>,
        form: &str,
    ) -> (&'static str, String) {
        if let Some((status, body)) = &self.answers {
            return (status, body.clone());
        }
        let form = pairs(form);
        let is_client = match self.secret {
            None => form["client_id"] == "pages" && authorization.is_none(),
            Some((secret, true)) => form["client_id"] == "pages" && form["client_secret"] == secret,
            Some((secret, false)) => {
                authorization
                    == Some(format!("Basic {}", STANDARD.encode(format!("pages:{secret}"))).as_str())
            }
        };
        if !is_client {
            return ("401 Unauthorized", json!({ "error": "invalid_client" }).to_string());
        }
        // A code is good for one time, whoever shows it.
        let asked = self.codes.remove(&form["code"]);
        let fitting = asked.filter(|asked| {
            asked["redirect_uri"] == form["redirect_uri"]
                && asked["code_challenge"] == encoded(digest(&SHA256, form["code_verifier"].as_bytes()))
        });
        let Some(asked) = fitting else {
            return ("400 Bad Request", json!({ "error": "invalid_grant" }).to_string());
        };
        self.exchanges += 1;
        let common = json!({
            "iss": issuer, "sub": "248289761001", "exp": now() + 3600, "iat": now(),
            "preferred_username": "alice", "groups": self.groups,
        });
        let with = |more: [&Value; 2]| {
            let mut claims = common.clone();
            for members in more {
                claims.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
            }
            claims
        };
        let id = with([&json!({ "aud": "pages", "nonce": asked["nonce"] }), &self.of_id]);
        let access = with([&json!({ "aud": "leeward", "client_id": "pages" }), &self.of_access]);
        let plain = json!({ "alg": self.signer.algorithm(), "kid": self.signer.id, "typ": "JWT" });
        let tokens = json!({
            "id_token": self.signer.token_with(&plain, &id), "access_token": self.signer.token(&access), "token_type": "Bearer",
        });
        ("200 OK", tokens.to_string())
    }
}
