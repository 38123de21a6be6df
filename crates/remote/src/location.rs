//! Locations of repositories in object stores: `s3://BUCKET[/PREFIX][?OPTION=VALUE&…]`.
//!
//! A location holds no secret: credentials come from the environment and from files, so that a location can be printed,
//! logged and given as an argument.

use std::collections::BTreeMap;
use std::fmt;

use leeward_store::Key;

use crate::error::{Error, Result};
use crate::sftp;

/// The longest location, in bytes.
const LENGTH_MAX: usize = 2048;

/// Which service keeps a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Scheme {
    /// `s3`: Amazon S3 and what speaks like it.
    S3,
    /// `azure`: Azure Blob Storage.
    AzureBlob,
    /// `gs`: Google Cloud Storage.
    Gcs,
    /// `oss`: Aliyun OSS.
    Oss,
    /// `oci`: OCI Object Storage.
    Oci,
    /// `swift`: OpenStack Swift and what speaks like it.
    Swift,
    /// `sftp`: a directory of a server, reached by SSH.
    Sftp,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::S3, Self::AzureBlob, Self::Gcs, Self::Oss, Self::Oci, Self::Swift, Self::Sftp];

    /// Its name in a location.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::AzureBlob => "azure",
            Self::Gcs => "gs",
            Self::Oss => "oss",
            Self::Oci => "oci",
            Self::Swift => "swift",
            Self::Sftp => "sftp",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &["endpoint", "region", "path-style", "profile", "allow-http", "at"],
            Self::AzureBlob => &["endpoint", "account", "allow-http"],
            Self::Gcs => &["endpoint", "allow-http"],
            Self::Oss => &["endpoint", "region", "path-style", "allow-http"],
            Self::Oci => &["endpoint", "region", "allow-http"],
            Self::Swift => &["cloud", "lag", "allow-http"],
            Self::Sftp => &["lag", "sync"],
        }
    }
}

/// Where a repository is, in an object store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    /// The service.
    pub scheme: Scheme,
    /// The bucket (Azure: container; SFTP: `[USER@]HOST[:PORT]`).
    pub bucket: String,
    /// What the names of all objects begin with, without a slash at the end; empty for the whole bucket. SFTP: the path of
    /// the directory without the slash at its beginning, or `~/` and what is below the user's home.
    pub prefix: String,
    options: BTreeMap<String, String>,
}

impl Location {
    /// Reads a location; `None` when it is none of an object store but, say, a path.
    ///
    /// # Errors
    /// It begins like one and is not.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(None);
        };
        // The text itself may hold what somebody took for a place for a password.
        let shown = without_secrets(text);
        let wrong = |what: String| Error::Location { text: shown.clone(), what };
        if text.len() > LENGTH_MAX {
            return Err(Error::Location {
                text: format!("{scheme}://…"), what: "it is too long".to_owned()
            });
        }
        let Some(scheme) = Scheme::ALL.into_iter().find(|known| known.name() == scheme) else {
            let known: Vec<String> = Scheme::ALL.iter().map(|known| format!("{}://", known.name())).collect();
            return Err(wrong(format!("no such kind of store; use a path or one of {}", known.join(", "))));
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let prefix = prefix.trim_end_matches('/');
        if scheme == Scheme::Sftp {
            sftp::refuse_no_directory(bucket, prefix).map_err(wrong)?;
        } else if !is_bucket(bucket, scheme) {
            return Err(wrong(format!(
                "the name of a bucket comes after {}://, of letters, digits, '.', '-' and '_'",
                scheme.name()
            )));
        }
        if scheme != Scheme::Sftp && !prefix.is_empty() && Key::new(prefix).is_none() {
            return Err(wrong(
                "a prefix is letters, digits, '-', '_' and '.', with slashes in between".to_owned(),
            ));
        }
        let options = read_options(query, scheme).map_err(wrong)?;
        Ok(Some(Self { scheme, bucket: bucket.to_owned(), prefix: prefix.to_owned(), options }))
    }

    /// An option's value.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// Whether an option is set to `true`; `None` when it is not given.
    ///
    /// # Errors
    /// It is neither `true` nor `false`.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.option(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(self.wrong(format!("{name} is true or false"))),
        }
    }

    /// That something is wrong with this location.
    #[must_use]
    pub fn wrong(&self, what: impl Into<String>) -> Error {
        Error::Location { text: self.to_string(), what: what.into() }
    }

    /// The scheme, host and port of an endpoint, if requests may be sent there: without TLS only to this machine, or where
    /// `allow-http=true` says so.
    ///
    /// # Errors
    /// It is no address, or not safe.
    pub fn origin(&self, endpoint: &str) -> Result<String> {
        let is_plain_fine = self.flag("allow-http")? == Some(true);
        safe_origin(endpoint, is_plain_fine, "add allow-http=true to the location")
            .map_err(|what| self.wrong(what))
    }
}

/// An endpoint's scheme, host and port, if secrets may be sent there: by TLS, to this machine, or where it `is_plain_fine`;
/// `how` says how one asks for that.
pub(crate) fn safe_origin(endpoint: &str, is_plain_fine: bool, how: &str) -> Result<String, String> {
    let endpoint = endpoint.trim_end_matches('/');
    let url: url::Url =
        endpoint.parse().map_err(|error| format!("the endpoint {endpoint} is no address ({error})"))?;
    let host = url.host_str().ok_or("the endpoint names no host")?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("an endpoint is scheme, host and port; credentials come from the environment".to_owned());
    }
    let is_here = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => Ok(endpoint.to_owned()),
        "http" if is_here || is_plain_fine => Ok(endpoint.to_owned()),
        "http" => Err(format!(
            "{endpoint} is not encrypted: anybody on the way could read and change what is sent; use https, or {how}"
        )),
        _ => Err("an endpoint begins with https:// or http://".to_owned()),
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        for (number, (name, value)) in self.options.iter().enumerate() {
            write!(f, "{}{name}={value}", if number == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

fn is_bucket(name: &str, scheme: Scheme) -> bool {
    // OCI's buckets lie in namespaces: BUCKET@NAMESPACE.
    let name = match name.split_once('@') {
        Some((bucket, namespace)) if scheme == Scheme::Oci && is_bucket(namespace, Scheme::S3) => bucket,
        _ => name,
    };
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b".-_$".contains(&byte);
    (1..=255).contains(&name.len()) && name.bytes().all(sound) && !name.starts_with('.')
}

fn read_options(query: &str, scheme: Scheme) -> Result<BTreeMap<String, String>, String> {
    let mut options = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("an option is NAME=VALUE")?;
        if !scheme.options().contains(&name) {
            return Err(format!("there is no such option; there are {}", scheme.options().join(", ")));
        }
        if value.is_empty()
            || value.bytes().any(|byte| byte.is_ascii_control() || byte == b' ' || byte == b'@')
        {
            return Err(format!("{name} has no sound value"));
        }
        if options.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    Ok(options)
}

/// The location without what stands before an `@`.
fn without_secrets(text: &str) -> String {
    match (text.split_once("://"), text.rfind('@')) {
        (Some((scheme, _)), Some(end)) => format!("{scheme}://…{}", &text[end..]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Location, Scheme};

    fn parsed(text: &str) -> Location {
        Location::parse(text).unwrap().unwrap()
    }

    #[test]
    fn locations_are_read_and_shown() {
        let location = parsed("s3://bucket/a/b/?region=eu-1&endpoint=https://h:1");
        assert_eq!(
            (location.scheme, location.bucket.as_str(), location.prefix.as_str()),
            (Scheme::S3, "bucket", "a/b")
        );
        assert_eq!(location.option("region"), Some("eu-1"));
        assert_eq!(location.to_string(), "s3://bucket/a/b?endpoint=https://h:1&region=eu-1");
        assert_eq!(parsed(&location.to_string()), location);
        assert_eq!(Location::parse("/var/backups").unwrap(), None);
        assert_eq!(Location::parse("file:here").unwrap(), None);
    }

    #[test]
    fn what_is_no_location_is_refused_with_a_reason() {
        for (bad, why) in [
            ("ftp://x", "no such kind"),
            ("s3://", "name of a bucket"),
            ("s3://b c", "name of a bucket"),
            ("s3://b/../c", "prefix"),
            ("s3://b?colour=red", "endpoint, region"),
            ("s3://b?region=", "no sound value"),
            ("s3://b?region=a&region=b", "twice"),
            ("s3://b?region", "NAME=VALUE"),
        ] {
            let error = Location::parse(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn a_password_in_a_location_is_refused_and_not_repeated() {
        let error = Location::parse("s3://key:hunter2@bucket/x").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        let error = Location::parse("s3://bucket?endpoint=https://key:hunter2@host").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_directory_of_a_server_is_read_and_shown() {
        let location = parsed("sftp://backup@nas:2222/srv/my repo/?lag=1");
        assert_eq!((location.bucket.as_str(), location.prefix.as_str()), ("backup@nas:2222", "srv/my repo"));
        assert_eq!(location.to_string(), "sftp://backup@nas:2222/srv/my repo?lag=1");
        assert_eq!(parsed("sftp://nas/~/repo").prefix, "~/repo");
        for (bad, why) in [
            ("sftp://nas", "a path comes after"),
            ("sftp://nas/../x", "a path comes after"),
            ("sftp://-oProxyCommand=x/y", "comes after sftp"),
            ("sftp://u:hunter2@nas/x", "no password"),
        ] {
            let error = Location::parse(bad).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("hunter2"), "{bad}: {error}");
        }
    }

    #[test]
    fn requests_leave_this_machine_encrypted_or_by_permission() {
        let location = parsed("s3://b");
        for fine in
            ["https://s3.example.com", "http://127.0.0.1:7480/", "http://localhost:1", "http://[::1]:1"]
        {
            assert_eq!(location.origin(fine).unwrap(), fine.trim_end_matches('/'));
        }
        for bad in [
            "http://s3.example.com",
            "http://127.example.com@evil.com",
            "ftp://127.0.0.1",
            "s3.example.com",
            "https://",
        ] {
            assert!(location.origin(bad).is_err(), "{bad}");
        }
        assert!(location.origin("http://127.evil.com").is_err());
        assert!(parsed("s3://b?allow-http=true").origin("http://s3.example.com").is_ok());
        assert!(parsed("s3://b?allow-http=yes").origin("http://s3.example.com").is_err());
    }
}
