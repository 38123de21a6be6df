//! What the claims of a token whose signature is right are worth: a pure function of claims, configuration and time.
//!
//! (OpenID Connect Core 1.0, section 3.1.3.7, for ID tokens; RFC 9068, section 4, and RFC 8725 for access tokens.)

use jiff::Timestamp;
use leeward_site::config::{Provider, ProviderRole, TokenKind};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Identity;
use crate::token::Role;

/// The longest subject, in bytes: OpenID Connect has 255 characters of ASCII.
const SUBJECT_BYTES_MAX: usize = 255;
/// The most characters of a name that are kept.
const NAME_CHARS_MAX: usize = 128;
/// The most values of the claim of roles that are looked at.
const VALUES_MAX: usize = 2048;
/// Claims that only ID tokens have: they tie it to a log-in and to what was issued with it.
const OF_ID_TOKENS: [&str; 4] = ["nonce", "at_hash", "c_hash", "s_hash"];
/// Claims of objects in the form of a list in one text (RFC 8693, section 4.2; Microsoft's name for it).
const LISTS_IN_TEXT: [&str; 2] = ["scope", "scp"];

/// The claims of a token.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    /// In seconds since 1970, as the times that follow; JSON numbers may have a fraction.
    exp: f64,
    nbf: Option<f64>,
    iat: Option<f64>,
    azp: Option<String>,
    client_id: Option<String>,
    /// What Keycloak says that the token is.
    typ: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

impl Claims {
    /// For which sign-in an ID token was made.
    pub fn nonce(&self) -> Option<&str> {
        self.more.get("nonce")?.as_str()
    }
}

/// Who the claims stand for now. `kind` is what the token's header says that it is.
///
/// # Errors
/// Nobody; why, in words.
pub(super) fn judge(
    provider: &str,
    config: &Provider,
    kind: Option<String>,
    claims: &Claims,
    now: Timestamp,
) -> Result<Identity, String> {
    if claims.iss != config.issuer {
        return Err("the token is another issuer's".to_owned());
    }
    let until = check_times(claims, config.leeway_seconds, now)?;
    if !claims.aud.names().iter().any(|name| config.audience.contains(name)) {
        return Err("the token is for somebody else: its audience (aud) does not name this site".to_owned());
    }
    match config.tokens {
        TokenKind::Access => check_access(kind.as_deref(), claims)?,
        TokenKind::Id => check_id(kind.as_deref(), claims, config)?,
    }
    check_client(claims, config)?;
    if claims.sub.is_empty() || claims.sub.len() > SUBJECT_BYTES_MAX || has_control(&claims.sub) {
        return Err("the token does not say whose it is (sub)".to_owned());
    }
    Ok(Identity {
        provider: provider.to_owned(),
        issuer: claims.iss.clone(),
        subject: claims.sub.clone(),
        name: name(claims, config),
        role: role(provider, claims, config),
        until,
    })
}

/// Whether it is valid now; returns until when it is.
fn check_times(claims: &Claims, leeway_seconds: u32, now: Timestamp) -> Result<Timestamp, String> {
    // Exact to a microsecond for centuries, and nobody gives a fraction.
    let (now, leeway) = (now.as_millisecond() as f64 / 1000.0, f64::from(leeway_seconds));
    let told = |seconds: f64| {
        Timestamp::from_second(seconds as i64)
            .map_or_else(|_| "at no time".to_owned(), |time| time.to_string())
    };
    let end = claims.exp + leeway;
    if now >= end {
        return Err(format!("the token has expired ({})", told(claims.exp)));
    }
    if let Some(begin) = claims.nbf.filter(|begin| now + leeway < *begin) {
        return Err(format!("the token is not valid yet ({})", told(begin)));
    }
    if let Some(issued) = claims.iat.filter(|issued| now + leeway < *issued) {
        return Err(format!("the token was issued in the future ({}): see to the clocks", told(issued)));
    }
    Ok(Timestamp::from_second(end as i64).unwrap_or(Timestamp::MAX))
}

fn check_access(kind: Option<&str>, claims: &Claims) -> Result<(), String> {
    let is_marked = match kind {
        None | Some("jwt") => false,
        Some("at+jwt") => true,
        Some(_) => return Err("the token is none for access (typ of its header)".to_owned()),
    };
    let of_id = OF_ID_TOKENS.iter().find(|name| claims.more.contains_key(**name));
    let other = claims.typ.as_deref().is_some_and(|typ| {
        ["id", "refresh", "offline", "logout"].iter().any(|other| typ.eq_ignore_ascii_case(other))
    });
    // RFC 7800: whoever shows it must prove that it is his, and here nobody is asked for such a proof.
    if claims.more.contains_key("cnf") {
        return Err("the token is bound to a key (cnf), which is not supported here: have it issued as a plain bearer token".to_owned());
    }
    match of_id.filter(|_| !is_marked) {
        Some(name) => Err(format!("this is an ID token ({name}), and access tokens are taken here")),
        None if other || claims.more.contains_key("events") => {
            Err("the token is none for access (typ, or events)".to_owned())
        }
        None => Ok(()),
    }
}

fn check_id(kind: Option<&str>, claims: &Claims, config: &Provider) -> Result<(), String> {
    let is_other = claims.typ.as_deref().is_some_and(|typ| !typ.eq_ignore_ascii_case("id"));
    if !matches!(kind, None | Some("jwt")) || is_other || claims.more.contains_key("events") {
        return Err("the token is no ID token, and those are taken here".to_owned());
    }
    let is_ours = |name: &String| config.audience.contains(name) || config.clients.contains(name);
    match &claims.azp {
        Some(client) if !is_ours(client) => {
            Err("the token was issued to another client (azp) than this site's".to_owned())
        }
        None if claims.aud.names().len() > 1 => {
            Err("the token has several audiences, and does not say to whom it was issued (azp)".to_owned())
        }
        _ => Ok(()),
    }
}

/// Whether it was issued to a client whose tokens are taken.
fn check_client(claims: &Claims, config: &Provider) -> Result<(), String> {
    if config.clients.is_empty() {
        return Ok(());
    }
    // For an ID token its audience is the client.
    let of_audience = |name: &&String| config.tokens == TokenKind::Id && config.audience.contains(*name);
    let named: Vec<&String> = claims.azp.iter().chain(&claims.client_id).collect();
    let is_known = |name: &&String| config.clients.contains(*name) || of_audience(name);
    match named.iter().all(is_known) && (!named.is_empty() || config.tokens == TokenKind::Id) {
        true => Ok(()),
        false => {
            Err("the token was issued to a client (azp, client_id) whose tokens are not taken".to_owned())
        }
    }
}

/// A claim at a path.
fn find<'a>(claims: &'a Claims, names: &[String]) -> Option<&'a Value> {
    let (first, rest) = names.split_first()?;
    rest.iter().try_fold(claims.more.get(first)?, |value, name| value.get(name))
}

/// What it is called; the subject where nothing else is said.
fn name(claims: &Claims, config: &Provider) -> String {
    let said = find(claims, config.name_claim.names()).and_then(Value::as_str);
    let said = said.filter(|name| !name.trim().is_empty()).unwrap_or(&claims.sub);
    said.chars().filter(|letter| !letter.is_control()).take(NAME_CHARS_MAX).collect()
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// The role that the values of the claim stand for.
fn role(provider: &str, claims: &Claims, config: &Provider) -> Result<Role, String> {
    let path = config.roles_claim.names();
    let is_list = path.len() == 1 && LISTS_IN_TEXT.contains(&path[0].as_str());
    let values: Vec<&str> = match find(claims, path) {
        Some(Value::String(text)) if is_list => text.split(' ').take(VALUES_MAX).collect(),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(values)) => values.iter().take(VALUES_MAX).filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let mut roles: Vec<ProviderRole> =
        values.iter().filter_map(|value| config.roles.get(*value)).copied().collect();
    roles.sort_unstable();
    roles.dedup();
    match roles.as_slice() {
        [] => Err(format!(
            "it has no value in the claim {} that is a role here: add one to `roles` of [server.oidc.{provider}], or have the provider put it into its tokens",
            config.roles_claim
        )),
        // Neither of the two may what the other may, and no role is both.
        [ProviderRole::Reader, ProviderRole::Writer] => Err(format!(
            "it is a reader and a writer by the claim {}, and no role is both: make one of the values an operator in `roles` of [server.oidc.{provider}], or take one away",
            config.roles_claim
        )),
        [.., most] => Ok(match most {
            ProviderRole::Reader => Role::Reader,
            ProviderRole::Writer => Role::Writer,
            ProviderRole::Operator => Role::Operator,
            ProviderRole::Admin => Role::Admin,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use leeward_site::Config;
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn config(more: &str) -> Provider {
        let text = format!(
            "name='a'\nstate='s'\n[server.oidc.company]\nissuer='https://a.example'\naudience=['leeward', 'leeward-cli']\n\
             roles={{ r='reader', w='writer', o='operator', a='admin' }}\n{}\n{more}\n",
            if more.contains("roles_claim") { "" } else { "roles_claim='groups'" }
        );
        Config::parse(&text, Path::new("/")).unwrap().server.oidc["company"].clone()
    }

    /// What comes of usual claims with these changed; one that is null is left out.
    fn judged(config: &Provider, kind: Option<&str>, change: Value) -> Result<Identity, String> {
        let mut claims = json!({
            "iss": "https://a.example", "sub": "1234", "aud": "leeward", "exp": NOW + 300, "iat": NOW,
            "preferred_username": "alice", "groups": ["x", "o"],
        });
        for (name, value) in change.as_object().unwrap() {
            match value.is_null() {
                true => claims.as_object_mut().unwrap().remove(name),
                false => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
            };
        }
        let claims: Claims = serde_json::from_value(claims).map_err(|error| error.to_string())?;
        judge("company", config, kind.map(str::to_owned), &claims, Timestamp::from_second(NOW).unwrap())
    }

    #[test]
    fn a_token_stands_for_whom_it_says() {
        let found = judged(&config(""), Some("at+jwt"), json!({})).unwrap();
        let wanted = Identity {
            provider: "company".to_owned(),
            issuer: "https://a.example".to_owned(),
            subject: "1234".to_owned(),
            name: "alice".to_owned(),
            role: Ok(Role::Operator),
            until: Timestamp::from_second(NOW + 360).unwrap(),
        };
        assert_eq!(found, wanted);
    }

    #[test]
    fn each_claim_is_judged() {
        let (access, id) = (config(""), config("tokens='id'"));
        let bound = config("clients=['pages']");
        for (config, kind, change, why) in [
            (&access, None, json!({"iss": "https://b.example"}), "another issuer"),
            (&access, None, json!({"iss": "https://a.example/"}), "another issuer"),
            (&access, None, json!({"iss": null}), "iss"),
            (&access, None, json!({"aud": "other"}), "somebody else"),
            (&access, None, json!({"aud": ["other", "LEEWARD"]}), "somebody else"),
            (&access, None, json!({"aud": []}), "somebody else"),
            (&access, None, json!({"aud": null}), "aud"),
            (&access, None, json!({"exp": null}), "exp"),
            (&access, None, json!({"exp": "9999999999"}), "exp"),
            (&access, None, json!({"exp": NOW - 60}), "expired"),
            (&access, None, json!({"exp": -1e300}), "expired"),
            (&access, None, json!({"nbf": NOW + 61}), "not valid yet"),
            (&access, None, json!({"iat": NOW + 61}), "in the future"),
            (&access, None, json!({"sub": ""}), "whose"),
            (&access, None, json!({"sub": "x".repeat(256)}), "whose"),
            (&access, None, json!({"sub": "a\nb"}), "whose"),
            (&access, None, json!({"sub": null}), "sub"),
            (&access, None, json!({"nonce": "n"}), "ID token"),
            (&access, None, json!({"at_hash": "n"}), "ID token"),
            (&access, None, json!({"typ": "ID"}), "none for access"),
            (&access, None, json!({"typ": "Refresh"}), "none for access"),
            (&access, Some("logout+jwt"), json!({}), "none for access"),
            (&access, None, json!({"cnf": {"jkt": "x"}}), "bound to a key"),
            (&id, Some("at+jwt"), json!({}), "no ID token"),
            (&id, None, json!({"typ": "Bearer"}), "no ID token"),
            (&id, None, json!({"events": {}}), "no ID token"),
            (&id, None, json!({"azp": "other"}), "another client"),
            (&id, None, json!({"aud": ["leeward", "other"]}), "several audiences"),
            (&bound, None, json!({}), "client"),
            (&bound, None, json!({"azp": "other"}), "client"),
            (&bound, None, json!({"azp": "pages", "client_id": "other"}), "client"),
        ] {
            let told = judged(config, kind, change.clone()).unwrap_err();
            assert!(told.contains(why), "{change}: {told}");
        }
        for (config, kind, change) in [
            (&access, Some("jwt"), json!({"exp": NOW - 59})),
            (&access, None, json!({"exp": NOW as f64 + 0.5, "nbf": NOW + 60, "iat": NOW + 60})),
            (&access, None, json!({"iat": null, "typ": "Bearer", "azp": "any"})),
            (&access, None, json!({"aud": ["other", "leeward-cli"]})),
            (&access, Some("at+jwt"), json!({"nonce": "n"})),
            (&access, None, json!({"exp": 1e300})),
            (&id, Some("jwt"), json!({"nonce": "n", "at_hash": "h", "typ": "ID"})),
            (&id, None, json!({"aud": ["leeward", "other"], "azp": "leeward"})),
            (&bound, None, json!({"azp": "pages"})),
            (&bound, Some("at+jwt"), json!({"client_id": "pages"})),
        ] {
            let found = judged(config, kind, change.clone());
            assert_eq!(found.map(|found| found.role), Ok(Ok(Role::Operator)), "{change}");
        }
    }

    #[test]
    fn a_role_comes_of_a_value_that_is_one_and_of_nothing_else() {
        let path = config("roles_claim=['realm_access', 'roles']");
        let scope = config("roles_claim='scope'");
        let plain = config("");
        for (config, change, wanted) in [
            (&plain, json!({"groups": ["r"]}), Ok(Role::Reader)),
            (&plain, json!({"groups": "w"}), Ok(Role::Writer)),
            (&plain, json!({"groups": ["r", "w", "o"]}), Ok(Role::Operator)),
            (&plain, json!({"groups": ["a", "r", "a"]}), Ok(Role::Admin)),
            (&plain, json!({"groups": ["r", "w"]}), Err("no role is both")),
            (&plain, json!({"groups": []}), Err("no value")),
            (&plain, json!({"groups": null}), Err("no value")),
            (&plain, json!({"groups": ["A", "admin", " a", 7, null, ["a"], {"a": "a"}]}), Err("no value")),
            (&plain, json!({"groups": "a r"}), Err("no value")),
            (&plain, json!({"groups": {"a": true}}), Err("no value")),
            (&plain, json!({"role": "admin", "roles": ["a"]}), Ok(Role::Operator)),
            (&path, json!({"realm_access": {"roles": ["a"]}}), Ok(Role::Admin)),
            (&path, json!({"realm_access": ["a"], "realm_access.roles": ["a"]}), Err("no value")),
            (&scope, json!({"scope": "openid a profile"}), Ok(Role::Admin)),
            (&scope, json!({"scope": "openid"}), Err("[server.oidc.company]")),
        ] {
            let found = judged(config, None, change.clone()).unwrap().role;
            match wanted {
                Ok(role) => assert_eq!(found, Ok(role), "{change}"),
                Err(why) => {
                    assert!(found.as_ref().is_err_and(|told| told.contains(why)), "{change}: {found:?}")
                }
            }
        }
    }

    #[test]
    fn a_name_is_plain_text_of_some_length_and_the_subject_where_there_is_none() {
        let name = |change| judged(&config(""), None, change).unwrap().name;
        assert_eq!(name(json!({"preferred_username": null})), "1234");
        assert_eq!(name(json!({"preferred_username": 7})), "1234");
        assert_eq!(name(json!({"preferred_username": " "})), "1234");
        assert_eq!(name(json!({"preferred_username": "a\r\n\u{1b}[2Jb"})), "a[2Jb");
        assert_eq!(name(json!({"preferred_username": "é".repeat(500)})), "é".repeat(NAME_CHARS_MAX));
    }
}
