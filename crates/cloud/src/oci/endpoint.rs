//! Where the services of a region are.

use super::Settings;
use crate::{Error, Result};

/// The commercial realm.
const REALM: &str = "oraclecloud.com";

/// Origins of the services, without a slash at the end.
#[derive(Debug, Clone)]
pub(super) struct Endpoints {
    /// Name of the region.
    pub region: String,
    /// Block Volume, Compute and Networking.
    pub core: String,
    /// Identity.
    pub identity: String,
    /// The service that gives tokens to instances.
    pub auth: String,
}

impl Endpoints {
    /// Those of a region and a realm, or the ones that the settings name.
    pub(super) fn of(settings: &Settings, region: Option<String>, realm: Option<&str>) -> Result<Self> {
        let region = match (region, &settings.endpoint) {
            (Some(region), _) => name(region, "the region")?,
            (None, Some(_)) => "(no region)".to_owned(),
            (None, None) => {
                return Err(refused(
                    "there is no region; name it in the settings or in the profile".to_owned(),
                ));
            }
        };
        let realm = name(realm.unwrap_or(REALM).to_owned(), "the realm")?;
        let one = settings.endpoint.as_deref().map(origin).transpose()?;
        let at = |usual: String| one.clone().unwrap_or(usual);
        let auth = match &settings.auth_endpoint {
            Some(endpoint) => origin(endpoint)?,
            None => at(format!("https://auth.{region}.{realm}")),
        };
        Ok(Self {
            core: at(format!("https://iaas.{region}.{realm}")),
            identity: at(format!("https://identity.{region}.oci.{realm}")),
            auth,
            region,
        })
    }
}

/// An address without a path. Only this machine may be spoken to without encryption.
fn origin(text: &str) -> Result<String> {
    let text = text.trim_end_matches('/');
    let host = match text.split_once("://") {
        Some(("https", host)) => host,
        Some(("http", host)) if is_local(host) => host,
        Some(("http", _)) => {
            return Err(refused(format!(
                "{text} is not encrypted; use https:// (http:// is for this machine only)"
            )));
        }
        _ => return Err(refused(format!("{text} is no address such as https://host:port"))),
    };
    if host.is_empty() || host.contains(['/', '?', '#', '@', ' ']) {
        return Err(refused(format!("{text} is no address such as https://host:port")));
    }
    Ok(text.to_owned())
}

fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost"
        || name == "[::1]"
        || name.parse().is_ok_and(|address: std::net::Ipv4Addr| address.is_loopback())
}

/// A part of a host's name, which comes from a file or from the instance.
fn name(text: String, what: &str) -> Result<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if text.is_empty() || text.len() > 100 || !text.bytes().all(plain) {
        return Err(refused(format!("{what} {text:?} is none; it looks like eu-frankfurt-1")));
    }
    Ok(text)
}

fn refused(what: String) -> Error {
    Error::refused("oci", "find the services", what)
}

#[cfg(test)]
mod tests {
    use super::{Endpoints, Settings};

    #[test]
    fn services_are_found_by_region_and_realm() {
        let of = |settings: &Settings, region: Option<&str>, realm| {
            Endpoints::of(settings, region.map(str::to_owned), realm)
        };
        let usual = of(&Settings::default(), Some("eu-frankfurt-1"), None).unwrap();
        assert_eq!(usual.core, "https://iaas.eu-frankfurt-1.oraclecloud.com");
        assert_eq!(usual.identity, "https://identity.eu-frankfurt-1.oci.oraclecloud.com");
        let other = of(&Settings::default(), Some("us-gov-x-1"), Some("oraclegovcloud.com")).unwrap();
        assert_eq!(other.auth, "https://auth.us-gov-x-1.oraclegovcloud.com");
        let at = |endpoint: &str| Settings { endpoint: Some(endpoint.to_owned()), ..Settings::default() };
        assert_eq!(of(&at("http://127.0.0.1:80/"), None, None).unwrap().identity, "http://127.0.0.1:80");
        for wrong in
            ["http://10.0.0.1", "https://", "https://a/b", "ftp://a", "a", "http://127.0.0.1.evil.example"]
        {
            assert!(of(&at(wrong), Some("r"), None).is_err(), "{wrong}");
        }
        assert!(of(&Settings::default(), None, None).is_err());
        assert!(of(&Settings::default(), Some("evil.example/"), None).is_err());
    }
}
