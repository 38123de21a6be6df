//! Who is told what, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use leeward_import::job::{EXPORT, RESTORE};
use leeward_remote::http::{HeaderName, HeaderValue};
use serde::Deserialize;
use url::{Host, Url};

use super::Config;
use super::schedule::duration;
use crate::notify::{Mailbox, Occasion};
use crate::schedule::Job;

/// The most addresses that one receiver has.
const ADDRESSES_MAX: usize = 50;
/// For how long it is tried to tell a receiver something, where nothing is said.
const GIVE_UP_AFTER: SignedDuration = SignedDuration::from_hours(72);

/// Headers that a webhook has anyway: what is configured would spoil the signature or the request.
const OWN_HEADERS: [&str; 9] = [
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "content-type",
    "content-length",
    "transfer-encoding",
    "connection",
    "host",
    "user-agent",
];

/// A receiver: on which occasions it is told, of what, and in what way.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// On which occasions.
    #[serde(default = "trouble_of_all_kinds")]
    pub on: BTreeSet<Occasion>,
    /// Only runs of these kinds; of all where empty.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// Only imports from these sources.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Only imports to these targets.
    #[serde(default)]
    pub targets: Vec<String>,
    /// Only what these schedules begin, or miss.
    #[serde(default)]
    pub schedules: Vec<String>,
    /// For how long it is tried, as `3d`.
    #[serde(default)]
    pub give_up_after: Option<String>,
    /// By an HTTP request.
    #[serde(default)]
    pub webhook: Option<Webhook>,
    /// By mail.
    #[serde(default)]
    pub mail: Option<Mail>,
}

/// A server that takes notices as HTTP requests.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where.
    pub url: String,
    /// A file with the secrets that sign requests, one a line.
    pub secret_file: PathBuf,
    /// A file with authorities of the server's certificate, beside those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Headers that are sent as well.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The same, with their values in files.
    #[serde(default)]
    pub header_files: BTreeMap<String, PathBuf>,
}

/// A server that takes notices as mail.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    /// `smtps://HOST[:PORT]` for TLS from the beginning, `smtp://HOST[:PORT]` for STARTTLS.
    pub smtp: String,
    /// Who sends it.
    pub from: String,
    /// To whom.
    pub to: Vec<String>,
    /// The name to log in with.
    #[serde(default)]
    pub username: Option<String>,
    /// A file with the password for that.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// A file with authorities of the server's certificate, beside those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Whether mail goes without TLS, as to a relay on the same machine.
    #[serde(default)]
    pub insecure: bool,
}

fn trouble_of_all_kinds() -> BTreeSet<Occasion> {
    Occasion::UNWANTED.into_iter().collect()
}

impl Notify {
    pub(super) fn resolve(&mut self, base: &Path) {
        let resolve = |path: &mut PathBuf| *path = base.join(&*path);
        if let Some(webhook) = &mut self.webhook {
            resolve(&mut webhook.secret_file);
            webhook.ca.iter_mut().chain(webhook.header_files.values_mut()).for_each(resolve);
        }
        if let Some(mail) = &mut self.mail {
            mail.password_file.iter_mut().chain(mail.ca.iter_mut()).for_each(resolve);
        }
    }

    /// For how long it is tried to deliver a notice.
    pub(crate) fn give_up_after(&self) -> SignedDuration {
        // It was checked when the configuration was read.
        self.give_up_after.as_deref().and_then(|text| duration("", text).ok()).unwrap_or(GIVE_UP_AFTER)
    }

    pub(super) fn check(&self, config: &Config) -> Result<(), String> {
        if self.on.is_empty() {
            return Err("`on` is empty, so nothing would ever be told".to_owned());
        }
        self.give_up_after
            .as_deref()
            .map_or(Ok(SignedDuration::ZERO), |text| duration("give_up_after", text))?;
        // Beside what a schedule begins.
        let kinds = [&Job::KINDS[..], &[RESTORE, EXPORT]].concat();
        if let Some(kind) = self.kinds.iter().find(|kind| !kinds.contains(&kind.as_str())) {
            return Err(format!("kinds: there are no runs of kind {kind:?}; use {}", kinds.join(", ")));
        }
        known("source", &self.sources, &config.sources)?;
        known("target", &self.targets, &config.targets)?;
        known("schedule", &self.schedules, &config.schedules)?;
        match (&self.webhook, &self.mail) {
            (Some(webhook), None) => webhook.check().map_err(|what| format!("webhook: {what}")),
            (None, Some(mail)) => mail.check().map_err(|what| format!("mail: {what}")),
            _ => Err("give one of webhook and mail".to_owned()),
        }
    }
}

fn known<T>(what: &str, names: &[String], there: &BTreeMap<String, T>) -> Result<(), String> {
    match names.iter().find(|name| !there.contains_key(*name)) {
        Some(name) => Err(format!("{what}s: there is no [{what}.{name}]")),
        None => Ok(()),
    }
}

impl Webhook {
    /// Its address, taken apart.
    ///
    /// # Errors
    /// It is none, or others on the way could read what is sent.
    pub(crate) fn address(&self) -> Result<Url, String> {
        let url = Url::parse(&self.url).map_err(|error| format!("url: {error}"))?;
        let is_own = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => return Err("url: it names no host".to_owned()),
        };
        match url.scheme() {
            "https" => {}
            "http" if is_own => {}
            "http" => return Err("url: http:// is for this machine itself; use https://".to_owned()),
            other => return Err(format!("url: {other}:// is no way to send a webhook; use https://")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("url: it holds a name or password; give them as a header of header_files".to_owned());
        }
        if url.fragment().is_some() {
            return Err("url: what stands behind # is never sent".to_owned());
        }
        Ok(url)
    }

    fn check(&self) -> Result<(), String> {
        self.address()?;
        for name in self.headers.keys().chain(self.header_files.keys()) {
            let lower = name.to_ascii_lowercase();
            if OWN_HEADERS.contains(&lower.as_str()) {
                return Err(format!("headers: {name} is set by the daemon"));
            }
            HeaderName::try_from(&lower).map_err(|_| format!("headers: {name:?} is no name of a header"))?;
        }
        match self.headers.iter().find(|(_, value)| HeaderValue::from_str(value).is_err()) {
            Some((name, _)) => Err(format!("headers: the value of {name} cannot be sent in a header")),
            None => Ok(()),
        }
    }
}

/// How a mail server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Safety {
    /// TLS from the first byte.
    Tls,
    /// TLS before anything is said.
    StartTls,
    /// None.
    Plain,
}

impl Mail {
    /// Host and port of the server, and how the connection is kept safe.
    ///
    /// # Errors
    /// The address is none.
    pub(crate) fn server(&self) -> Result<(String, u16, Safety), String> {
        let url = Url::parse(&self.smtp).map_err(|error| format!("smtp: {error}"))?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("smtp: it names no host")?;
        let is_more = !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some();
        if is_more || !url.username().is_empty() || url.password().is_some() {
            return Err("smtp: give smtps://HOST:PORT or smtp://HOST:PORT and nothing else; the name to log in with is \
                        username, and its password stands in password_file"
                .to_owned());
        }
        let (port, safety) = match (url.scheme(), self.insecure) {
            ("smtps", false) => (465, Safety::Tls),
            ("smtps", true) => return Err("smtps:// and insecure exclude each other".to_owned()),
            ("smtp", false) => (587, Safety::StartTls),
            ("smtp", true) => (25, Safety::Plain),
            (other, _) => {
                return Err(format!("smtp: {other}:// is no way to send mail; use smtps:// or smtp://"));
            }
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Ok((host.to_owned(), url.port().unwrap_or(port), safety))
    }

    fn check(&self) -> Result<(), String> {
        let (_, _, safety) = self.server()?;
        if self.username.is_some() != self.password_file.is_some() {
            return Err("username and password_file go together".to_owned());
        }
        if safety == Safety::Plain && self.username.is_some() {
            return Err("insecure: a password is not sent where others could read it".to_owned());
        }
        if self.to.is_empty() || self.to.len() > ADDRESSES_MAX {
            return Err(format!("to: give 1 to {ADDRESSES_MAX} addresses"));
        }
        self.from.parse::<Mailbox>().map_err(|what| format!("from: {what}"))?;
        self.to
            .iter()
            .try_for_each(|to| to.parse::<Mailbox>().map(drop))
            .map_err(|what| format!("to: {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEBHOOK: &str = "webhook={url='https://h.example/x',secret_file='s'}";
    const MAIL: &str = "mail={smtp='smtp://m.example',from='L <l@a.example>',to=['o@a.example']}";

    fn parse(keys: &str) -> Result<Notify, String> {
        let text = format!(
            "name='a'\nstate='s'\n[source.inbox]\nlocation='/x'\n[target.t]\nkind='directory'\npath='v'\n[notify.n]\n{keys}"
        );
        Config::parse(&text, Path::new("/srv")).map(|config| config.receivers["n"].clone())
    }

    #[test]
    fn what_is_configured_is_taken_with_its_defaults() {
        let webhook = parse(WEBHOOK).unwrap();
        assert_eq!(webhook.webhook.as_ref().unwrap().secret_file, Path::new("/srv/s"));
        assert_eq!(webhook.give_up_after(), SignedDuration::from_hours(72));
        assert!(webhook.on.contains(&Occasion::UndoFailed) && !webhook.on.contains(&Occasion::Succeeded));
        let filtered = format!(
            "on=['succeeded']\nkinds=['import', 'restore', 'export']\nsources=['inbox']\ntargets=['t']\ngive_up_after='2h'\n{MAIL}"
        );
        let mail = parse(&filtered).unwrap();
        assert_eq!(mail.give_up_after(), SignedDuration::from_hours(2));
        let server = |smtp: &str, insecure: bool| {
            Mail { smtp: smtp.to_owned(), insecure, ..mail.mail.clone().unwrap() }.server().unwrap()
        };
        assert_eq!(server("smtp://m.example", false), ("m.example".to_owned(), 587, Safety::StartTls));
        assert_eq!(server("smtps://m.example", false), ("m.example".to_owned(), 465, Safety::Tls));
        assert_eq!(server("smtp://[::1]:2525", true), ("::1".to_owned(), 2525, Safety::Plain));
    }

    #[test]
    fn what_could_not_work_or_would_tell_secrets_is_refused() {
        let webhook = |keys: &str| format!("webhook={{secret_file='s',{keys}}}");
        let mail = |keys: &str| format!("mail={{from='l@a.example',to=['o@a.example'],{keys}}}");
        for (keys, why) in [
            (String::new(), "one of webhook and mail"),
            (format!("{WEBHOOK}\n{MAIL}"), "one of webhook and mail"),
            (format!("on=[]\n{WEBHOOK}"), "`on` is empty"),
            (format!("on=['sometimes']\n{WEBHOOK}"), "sometimes"),
            (format!("kinds=['x']\n{WEBHOOK}"), "kind \"x\""),
            (format!("sources=['x']\n{WEBHOOK}"), "[source.x]"),
            (format!("schedules=['x']\n{WEBHOOK}"), "[schedule.x]"),
            (format!("give_up_after='soon'\n{WEBHOOK}"), "give_up_after"),
            (webhook("url='http://h.example/'"), "use https://"),
            (webhook("url='file:///etc/passwd'"), "no host"),
            (webhook("url='ftp://h.example'"), "use https://"),
            (webhook("url='https://u:p@h.example/'"), "header_files"),
            (webhook("url='https://h.example/#x'"), "#"),
            (webhook("url='https://h.example/',headers={Host='x'}"), "set by the daemon"),
            (webhook("url='https://h.example/',headers={'a b'='x'}"), "no name of a header"),
            (webhook("url='https://h.example/',headers={a=\"x\\ny\"}"), "cannot be sent"),
            (mail("smtp='https://m.example'"), "use smtps://"),
            (mail("smtp='smtp://u:p@m.example'"), "password_file"),
            (mail("smtp='smtps://m.example',insecure=true"), "exclude"),
            (
                mail("smtp='smtp://m.example',insecure=true,username='u',password_file='p'"),
                "others could read",
            ),
            (mail("smtp='smtp://m.example',username='u'"), "go together"),
            ("mail={smtp='smtp://m.example',from='l@a.example',to=[]}".to_owned(), "addresses"),
            ("mail={smtp='smtp://m.example',from='nobody',to=['o@a.example']}".to_owned(), "from:"),
        ] {
            let told = parse(&keys).unwrap_err();
            assert!(
                told.contains("[notify.n]") && told.contains(why) || told.contains("sometimes"),
                "{keys}: {told}"
            );
        }
        parse(&webhook("url='http://127.0.0.1:9/x'")).unwrap();
    }
}
