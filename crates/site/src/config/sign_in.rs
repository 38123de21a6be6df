//! Signing in at a provider from the web pages.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use super::Server;
use super::oidc::{Provider, TokenKind, check_names, endpoint};

/// The scope without which a provider gives no ID token.
const OPENID: &str = "openid";
/// The largest secret, in bytes.
const SECRET_BYTES_MAX: usize = 4096;
/// The largest file with a secret, in bytes: there may be blanks around it.
const FILE_BYTES_MAX: u64 = 16 << 10;

/// What the site is to a provider, so that people sign in there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// The client as which the site is registered.
    pub client_id: String,
    /// A file with the client's secret; neither this nor the variable for a client that has none.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// A variable of the environment that has it.
    #[serde(default)]
    pub client_secret_variable: Option<String>,
    /// What is asked for.
    #[serde(default = "usual_scopes")]
    pub scopes: Vec<String>,
}

fn usual_scopes() -> Vec<String> {
    vec![OPENID.to_owned(), "profile".to_owned()]
}

impl SignIn {
    pub(super) fn resolve(&mut self, base: &Path) {
        self.client_secret_file.iter_mut().for_each(|path| *path = base.join(&*path));
    }

    /// The client's secret, read each time, so that a new one needs no restart; `None` for a client that has none.
    ///
    /// # Errors
    /// It cannot be read, or is none; in words, without it.
    pub fn secret(&self) -> Result<Option<Zeroizing<String>>, String> {
        let (place, text) = match (&self.client_secret_file, &self.client_secret_variable) {
            (None, None) => return Ok(None),
            (Some(file), _) => (file.display().to_string(), read(file)),
            // What the system says of a variable that is no text would tell what is in it.
            (None, Some(name)) => {
                (name.clone(), std::env::var(name).map_err(|_| "it is not set, or no text".to_owned()))
            }
        };
        let text = text.map(Zeroizing::new);
        let text = text.map_err(|what| format!("{place}: the client's secret cannot be read: {what}"))?;
        let secret = text.trim();
        let is_plain = secret.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
        match is_plain && (1..=SECRET_BYTES_MAX).contains(&secret.len()) {
            true => Ok(Some(Zeroizing::new(secret.to_owned()))),
            false => Err(format!(
                "{place}: a client's secret is one line of 1 to {SECRET_BYTES_MAX} plain characters"
            )),
        }
    }

    pub(super) fn check(&self, provider: &Provider, url: Option<&str>) -> Result<(), String> {
        check_names("sign_in.client_id", [&self.client_id])?;
        check_names("sign_in.scopes", &self.scopes)?;
        let fits = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        let wrong = if !self.scopes.iter().any(|scope| scope == OPENID) {
            "sign_in.scopes: \"openid\" must be among them, else the provider does not say who it was"
        } else if !self.scopes.iter().all(|scope| scope.bytes().all(fits)) {
            "sign_in.scopes: a scope is one word, each in quotation marks of its own"
        } else if self.client_secret_file.is_some() && self.client_secret_variable.is_some() {
            "sign_in: name the place of the client's secret once, by client_secret_file or client_secret_variable"
        } else if provider.tokens == TokenKind::Id && !provider.audience.contains(&self.client_id) {
            "sign_in.client_id: it must be in `audience`: an ID token is for the client that asked for it"
        } else if !provider.clients.is_empty()
            && provider.tokens == TokenKind::Access
            && !provider.clients.contains(&self.client_id)
        {
            "sign_in.client_id: it must be in `clients`, else tokens that are issued to it are not taken"
        } else {
            return check_url(url);
        };
        Err(wrong.to_owned())
    }
}

fn read(file: &Path) -> Result<String, String> {
    let read = || {
        let length = std::fs::metadata(file)?.len();
        if length > FILE_BYTES_MAX {
            return Err(std::io::Error::other(format!("{length} bytes are no secret")));
        }
        std::fs::read_to_string(file)
    };
    read().map_err(|error| error.to_string())
}

/// Whether providers can send browsers back there.
fn check_url(url: Option<&str>) -> Result<(), String> {
    let Some(url) = url else {
        return Err("sign_in: `url` of [server] is needed: the provider sends browsers back there".to_owned());
    };
    endpoint(url).map(|_| ()).map_err(|what| format!("sign_in: `url` of [server] is {url:?}: {what}"))
}

impl Server {
    /// What browsers call the site's origin, where it is said where they find it.
    #[must_use]
    pub fn origin(&self) -> Option<String> {
        let url = Url::parse(self.url.as_deref()?).ok()?;
        Some(url.origin().ascii_serialization())
    }
}

/// Where a provider sends browsers back to, at a site of this origin. Each has a place of its own, so that what one of them has
/// sent is never taken to another one (RFC 9700, section 4.4.2).
#[must_use]
pub fn return_address(origin: &str, provider: &str) -> String {
    format!("{origin}/sign-in/{provider}")
}

#[cfg(test)]
mod tests {
    use crate::Config;

    use super::*;

    fn server(server: &str, keys: &str) -> Result<Server, String> {
        let text = format!(
            "name='a'\nstate='s'\n[server]\n{server}\n[server.oidc.company]\nissuer='https://a.example'\nroles_claim='groups'\n\
             roles={{admins='admin'}}\n{keys}\n"
        );
        Config::parse(&text, Path::new("/srv")).map(|config| config.server)
    }

    #[test]
    fn a_client_is_taken_with_what_is_usual() {
        let keys = "audience=['x']\nsign_in={ client_id='pages', client_secret_file='secret' }";
        let found = server("url='https://leeward.example:7443'", keys).unwrap().oidc["company"].clone();
        let found = found.sign_in.unwrap();
        assert_eq!(found.scopes, ["openid", "profile"]);
        assert_eq!(found.client_secret_file.as_deref(), Some(Path::new("/srv/secret")));
        for (url, address) in [
            ("https://leeward.example:7443/", "https://leeward.example:7443/sign-in/company"),
            ("https://leeward.example", "https://leeward.example/sign-in/company"),
            ("http://127.0.0.1:7443", "http://127.0.0.1:7443/sign-in/company"),
        ] {
            let found = server(&format!("url='{url}'"), keys).unwrap();
            assert_eq!(return_address(&found.origin().unwrap(), "company"), address);
        }
    }

    #[test]
    fn what_could_let_nobody_in_is_refused() {
        let url = "url='https://leeward.example'";
        for (site, keys, why) in [
            ("", "audience=['x']\nsign_in={ client_id='p' }", "`url` of [server] is needed"),
            ("url='http://leeward.example'", "audience=['x']\nsign_in={ client_id='p' }", "use https"),
            (url, "audience=['x']\nsign_in={}", "client_id"),
            (url, "audience=['x']\nsign_in={ client_id='' }", "client_id"),
            (url, "audience=['x']\nsign_in={ client_id='p', secret='s' }", "secret"),
            (url, "audience=['x']\nsign_in={ client_id='p', scopes=['profile'] }", "openid"),
            (
                url,
                "audience=['x']\nsign_in={ client_id='p', scopes=['openid profile', 'openid'] }",
                "one word",
            ),
            (
                url,
                "audience=['x']\nsign_in={ client_id='p', client_secret_file='f', client_secret_variable='V' }",
                "once",
            ),
            (url, "audience=['x']\ntokens='id'\nsign_in={ client_id='p' }", "in `audience`"),
            (url, "audience=['x']\nclients=['c']\nsign_in={ client_id='p' }", "in `clients`"),
        ] {
            let told = server(site, keys).unwrap_err();
            assert!(told.contains(why), "{site} {keys}: {told}");
        }
    }

    #[test]
    fn a_secret_is_one_line_and_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let sign_in = |file: Option<PathBuf>| SignIn {
            client_id: "p".to_owned(),
            client_secret_file: file,
            client_secret_variable: None,
            scopes: usual_scopes(),
        };
        assert_eq!(sign_in(None).secret(), Ok(None));
        let told = sign_in(Some(file.clone())).secret().unwrap_err();
        assert!(told.contains("secret") && told.contains("cannot be read"), "{told}");
        std::fs::write(&file, "p4:ss wörd").unwrap();
        let told = sign_in(Some(file.clone())).secret().unwrap_err();
        assert!(!told.contains("p4"), "{told}");
        std::fs::write(&file, " p4:s%s w0rd\n").unwrap();
        assert_eq!(sign_in(Some(file)).secret().unwrap().unwrap().as_str(), "p4:s%s w0rd");
    }
}
