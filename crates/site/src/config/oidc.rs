//! Providers of OpenID Connect whose tokens are taken beside the site's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use url::{Host, Url};

use super::SignIn;

/// The most values that are mapped to roles, and audiences and clients that are named.
const NAMES_MAX: usize = 256;
/// The longest of them, in bytes.
const NAME_BYTES_MAX: usize = 512;
/// The most seconds by which clocks may differ: what is more would keep expired tokens alive.
const LEEWAY_SECONDS_MAX: u32 = 600;

/// A provider, and what its tokens are to say.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// The issuer, exactly as its tokens and its discovery document spell it.
    pub issuer: String,
    /// Names of this site at the provider: a token is for one of them.
    pub audience: Vec<String>,
    /// Which kind of token is taken.
    #[serde(default)]
    pub tokens: TokenKind,
    /// The only clients (`azp`, or `client_id`) whose tokens are taken; any where empty.
    #[serde(default)]
    pub clients: Vec<String>,
    /// Where a token says what the person or the program is called.
    #[serde(default = "preferred_username")]
    pub name_claim: ClaimPath,
    /// Where it says what decides of the role.
    pub roles_claim: ClaimPath,
    /// Which value there is which role.
    pub roles: BTreeMap<String, ProviderRole>,
    /// Algorithms of signatures that are taken.
    #[serde(default = "usual_algorithms")]
    pub algorithms: Vec<SignatureAlgorithm>,
    /// Seconds by which the provider's clock may differ from this one's.
    #[serde(default = "usual_leeway")]
    pub leeway_seconds: u32,
    /// An authority of the provider's certificate beside those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// How people sign in there from the web pages; not at all where absent.
    #[serde(default)]
    pub sign_in: Option<SignIn>,
}

/// Which kind of token is taken from a provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenKind {
    /// Access tokens that are JWTs (RFC 9068, or as providers made them before).
    #[default]
    Access,
    /// ID tokens: for providers whose access tokens say nothing to others.
    Id,
}

/// A role that a value of a claim may stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProviderRole {
    /// Reads.
    Reader,
    /// Begins imports.
    Writer,
    /// Does everything at a site.
    Operator,
    /// As an operator.
    Admin,
}

/// An algorithm of signatures by a key pair. There is none here for which a provider and a site share a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "names of RFC 7518 and RFC 8037")]
pub enum SignatureAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// Where a claim is: its name, or the names of the objects around it and its own. A name may have dots and slashes in it, as
/// those of some providers do, so no sign can part the names of a path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum ClaimPath {
    /// At the top.
    Name(String),
    /// Inside other claims.
    Path(Vec<String>),
}

impl ClaimPath {
    /// The names, from the outermost.
    #[must_use]
    pub fn names(&self) -> &[String] {
        match self {
            Self::Name(name) => std::slice::from_ref(name),
            Self::Path(names) => names,
        }
    }
}

impl std::fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.names().join(" → "))
    }
}

fn preferred_username() -> ClaimPath {
    ClaimPath::Name("preferred_username".to_owned())
}

fn usual_algorithms() -> Vec<SignatureAlgorithm> {
    use SignatureAlgorithm::{ES256, EdDSA, PS256, RS256};
    vec![RS256, PS256, ES256, EdDSA]
}

fn usual_leeway() -> u32 {
    60
}

impl Provider {
    pub(super) fn resolve(&mut self, base: &Path) {
        self.ca.iter_mut().for_each(|path| *path = base.join(&*path));
        self.sign_in.iter_mut().for_each(|sign_in| sign_in.resolve(base));
    }

    /// Where the provider describes itself.
    ///
    /// # Errors
    /// The issuer is no address that can be asked; in words.
    pub fn discovery(&self) -> Result<Url, String> {
        let issuer = &self.issuer;
        let url = endpoint(issuer).map_err(|what| format!("issuer = {issuer:?}: {what}"))?;
        if url.query().is_some() {
            return Err(format!("issuer = {issuer:?}: an issuer has no query"));
        }
        // OpenID Connect Discovery 1.0, section 4: a slash at the end of the issuer is left out.
        let place = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        Url::parse(&place).map_err(|error| format!("issuer = {issuer:?}: {error}"))
    }

    /// Whether it lets in somebody, and nobody else. `url` is where people's browsers find the site.
    pub(super) fn check(&self, url: Option<&str>) -> Result<(), String> {
        self.discovery()?;
        check_names("audience", &self.audience)?;
        check_names("clients", &self.clients)?;
        check_names("name_claim", self.name_claim.names())?;
        check_names("roles_claim", self.roles_claim.names())?;
        check_names("roles", self.roles.keys())?;
        let wrong = if self.audience.is_empty() {
            "audience: name this site as the provider knows it, so that tokens for others are none here"
        } else if self.roles.is_empty() {
            "roles: say which value is which role, as { leeward-admins = \"admin\" }; nobody would be let in"
        } else if self.name_claim.names().is_empty() || self.roles_claim.names().is_empty() {
            "name_claim and roles_claim need a name"
        } else if self.algorithms.is_empty() {
            "algorithms: name at least one"
        } else if self.leeway_seconds > LEEWAY_SECONDS_MAX {
            "leeway_seconds is at most 600: more would keep expired tokens alive; set the clocks right"
        } else {
            return self.sign_in.as_ref().map_or(Ok(()), |sign_in| sign_in.check(self, url));
        };
        Err(wrong.to_owned())
    }
}

pub(super) fn check_names<'a>(key: &str, names: impl IntoIterator<Item = &'a String>) -> Result<(), String> {
    let mut count = 0;
    for name in names {
        count += 1;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(format!("{key}: {name:?} has not 1 to {NAME_BYTES_MAX} bytes of plain text"));
        }
    }
    match count > NAMES_MAX {
        true => Err(format!("{key}: at most {NAMES_MAX} can be given")),
        false => Ok(()),
    }
}

/// An address of a provider that may be asked: by TLS, or on this machine itself.
///
/// # Errors
/// Why not.
pub fn endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let is_here = match url.host() {
        None => return Err("it names no host".to_owned()),
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
    };
    if url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("it has a fragment, or a user's name".to_owned());
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_here => Ok(url),
        "http" => Err("without TLS anybody on the way could make keys up: use https".to_owned()),
        _ => Err("use https".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn provider(issuer: &str, keys: &str) -> Result<Provider, String> {
        let text = format!(
            "name='a'\nstate='s'\n[server.oidc.company]\nissuer='{issuer}'\nroles_claim='groups'\n{keys}\n"
        );
        Config::parse(&text, Path::new("/srv")).map(|config| config.server.oidc["company"].clone())
    }

    #[test]
    fn a_provider_is_described_where_its_issuer_says() {
        let rest = "audience=['leeward']\nroles={admins='admin'}\nca='ca.pem'";
        for (issuer, place) in [
            ("https://a.example", "https://a.example/.well-known/openid-configuration"),
            ("https://a.example/", "https://a.example/.well-known/openid-configuration"),
            (
                "https://a.example:8443/realms/x",
                "https://a.example:8443/realms/x/.well-known/openid-configuration",
            ),
            ("http://127.0.0.1:5556/dex", "http://127.0.0.1:5556/dex/.well-known/openid-configuration"),
            ("http://[::1]:5556", "http://[::1]:5556/.well-known/openid-configuration"),
        ] {
            let found = provider(issuer, rest).unwrap();
            assert_eq!(found.discovery().unwrap().as_str(), place);
            assert_eq!(found.ca.as_deref(), Some(Path::new("/srv/ca.pem")));
            assert_eq!((found.tokens, found.leeway_seconds), (TokenKind::Access, 60));
        }
    }

    #[test]
    fn what_would_let_in_nobody_or_anybody_is_refused() {
        let (fine, rest) = ("https://a.example", "audience=['leeward']\nroles={admins='admin'}\n");
        for (issuer, keys, why) in [
            ("http://a.example", rest.to_owned(), "use https"),
            ("ftp://a.example", rest.to_owned(), "use https"),
            ("a.example", rest.to_owned(), "issuer"),
            ("https://a.example?x=1", rest.to_owned(), "no query"),
            ("https://a.example#x", rest.to_owned(), "fragment"),
            ("https://me:secret@a.example", rest.to_owned(), "fragment"),
            (fine, "audience=[]\nroles={admins='admin'}".to_owned(), "audience"),
            (fine, "roles={admins='admin'}".to_owned(), "audience"),
            (fine, "audience=['leeward']\nroles={}".to_owned(), "roles"),
            (fine, "audience=['leeward']\nroles={admins='worker'}".to_owned(), "worker"),
            (fine, "audience=['leeward']\nroles={''='admin'}".to_owned(), "roles"),
            (fine, format!("{rest}algorithms=['HS256']"), "HS256"),
            (fine, format!("{rest}algorithms=['none']"), "none"),
            (fine, format!("{rest}algorithms=[]"), "algorithms"),
            (fine, format!("{rest}leeway_seconds=601"), "leeway_seconds"),
            (fine, format!("{rest}name_claim=[]"), "name_claim"),
            (fine, format!("{rest}tokens='refresh'"), "refresh"),
            (fine, format!("{rest}secret='x'"), "secret"),
        ] {
            let told = provider(issuer, &keys).unwrap_err();
            assert!(told.contains(why), "{issuer} {keys}: {told}");
        }
        let two = "name='a'\nstate='s'\n[server.oidc.one]\nissuer='https://a.example'\naudience=['x']\nroles_claim='g'\nroles={a='admin'}\n";
        let told = Config::parse(
            &format!(
                "{two}{}",
                two.split("[server")
                    .nth(1)
                    .map(|rest| format!("[server{}", rest.replace("one", "two")))
                    .unwrap()
            ),
            Path::new("/"),
        );
        assert!(told.unwrap_err().contains("both have the issuer"));
    }
}
