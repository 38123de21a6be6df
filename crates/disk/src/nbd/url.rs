//! URLs of exports.

use std::path::PathBuf;

use super::tls::TlsClient;
use crate::{Error, Result};

const PORT: u16 = 10809;
/// The protocol's limit for names.
const EXPORT_BYTES_MAX: usize = 4096;

/// Where an export is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdUrl {
    /// As the person wrote it.
    pub(super) text: String,
    pub(super) address: Address,
    pub(super) export: String,
    tls: Option<Security>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Security {
    /// Where the certificates are.
    directory: PathBuf,
    hostname: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl NbdUrl {
    /// Whether `spec` is meant as the URL of an export.
    #[must_use]
    pub fn is_nbd(spec: &str) -> bool {
        spec.split_once("://")
            .is_some_and(|(scheme, _)| matches!(scheme, "nbd" | "nbd+unix" | "nbds" | "nbds+unix"))
    }

    /// Reads `nbd://HOST:PORT/EXPORT` and `nbd+unix:///EXPORT?socket=PATH`, and with TLS `nbds://…` and `nbds+unix://…`, as
    /// nbd_connect_uri(3) of libnbd describes them. TLS needs `tls-certificates=DIRECTORY`; `tls-hostname=NAME` says which
    /// name the server's certificate must carry, if not that of the host (or `localhost`, behind a Unix socket).
    ///
    /// # Errors
    /// It is no such URL.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |what: &str| Error::Invalid {
            path: text.to_owned(),
            what: format!("{what}: write nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH"),
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("not a URL"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        let export = decode(export).ok_or_else(|| invalid("the export's name is not sound"))?;
        if export.len() > EXPORT_BYTES_MAX {
            return Err(invalid("the export's name is too long"));
        }
        let query = Query::parse(scheme, query).map_err(|what| invalid(&what))?;
        let address = match scheme {
            "nbd" | "nbds" => tcp(authority).ok_or_else(|| invalid("host or port is not sound"))?,
            "nbd+unix" | "nbds+unix" if authority.is_empty() => {
                Address::Unix(query.socket.ok_or_else(|| invalid("no socket is named"))?.into())
            }
            _ => return Err(invalid("not a URL of an export")),
        };
        let tls = match (scheme.starts_with("nbds"), query.directory) {
            (false, _) => None,
            (true, Some(directory)) => {
                Some(Security { directory: directory.into(), hostname: query.hostname })
            }
            (true, None) => {
                let what =
                    "TLS needs ?tls-certificates=DIRECTORY, with the server's authority in ca-cert.pem";
                return Err(invalid(what));
            }
        };
        Ok(Self { text: text.to_owned(), address, export, tls })
    }

    /// What the connection needs for TLS, if it is to have TLS.
    pub(super) fn tls(&self) -> Result<Option<TlsClient>> {
        let Some(security) = &self.tls else { return Ok(None) };
        let host = match (&security.hostname, &self.address) {
            (Some(name), _) => name,
            (None, Address::Tcp { host, .. }) => host,
            (None, Address::Unix(_)) => "localhost",
        };
        TlsClient::load(&security.directory, host).map(Some)
    }
}

/// What stands behind the question mark.
#[derive(Default)]
struct Query {
    socket: Option<String>,
    directory: Option<String>,
    hostname: Option<String>,
}

impl Query {
    fn parse(scheme: &str, query: &str) -> Result<Self, String> {
        let (unix, tls) = (scheme.ends_with("+unix"), scheme.starts_with("nbds"));
        let mut found = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).filter(|value| !value.is_empty());
            let value = value.ok_or_else(|| format!("{name:?} has no sound value"))?;
            match name {
                "socket" if unix => found.socket = Some(value),
                "tls-certificates" if tls => found.directory = Some(value),
                "tls-hostname" if tls => found.hostname = Some(value),
                _ => return Err(format!("{name:?} is not known here")),
            }
        }
        Ok(found)
    }
}

fn tcp(authority: &str) -> Option<Address> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some(""))?)
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let port = if port.is_empty() { PORT } else { port.parse().ok()? };
    let sound = !host.is_empty() && !host.contains('@');
    sound.then(|| Address::Tcp { host: host.to_owned(), port })
}

/// Resolves `%XX`.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte == b'%' {
            let (digits, behind) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = behind;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_host_port_socket_and_export() {
        let url = NbdUrl::parse("nbd://backup:10810/vm%201/root").unwrap();
        assert_eq!(url.address, Address::Tcp { host: "backup".into(), port: 10810 });
        assert_eq!(url.export, "vm 1/root");
        assert_eq!(
            NbdUrl::parse("nbd://[::1]").unwrap().address,
            Address::Tcp { host: "::1".into(), port: PORT }
        );
        let url = NbdUrl::parse("nbd+unix:///disk?socket=/run/a%20b").unwrap();
        assert_eq!((url.address, url.export.as_str()), (Address::Unix("/run/a b".into()), "disk"));
        let url = NbdUrl::parse("nbds://h/x?tls-certificates=/etc/pki&tls-hostname=backup").unwrap();
        let security = Security { directory: "/etc/pki".into(), hostname: Some("backup".into()) };
        assert_eq!(url.tls, Some(security));
    }

    #[test]
    fn unsound_urls_are_refused() {
        for text in ["nbd://", "nbd://a:99999/x", "nbd+unix:///x", "nbd://h/%zz", "nbd+unix://h/x?socket=/s"]
        {
            assert!(NbdUrl::parse(text).is_err(), "{text}");
        }
        for text in
            ["nbd://h/x?socket=/s", "nbd://h/x?tls-certificates=/d", "nbds://h/x?tls-verify-peer=false"]
        {
            assert!(NbdUrl::parse(text).unwrap_err().to_string().contains("not known here"), "{text}");
        }
        assert!(NbdUrl::parse("nbds://host/x").unwrap_err().to_string().contains("tls-certificates"));
    }
}
