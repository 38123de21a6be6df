//! URLs of exports.

use std::fmt;
use std::path::PathBuf;

use crate::{Error, Format, Result};

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

    /// Reads `nbd://host:port/export` and `nbd+unix:///export?socket=PATH`.
    ///
    /// # Errors
    /// It is no such URL, or asks for TLS.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |what: &str| Error::Invalid {
            path: text.to_owned(),
            what: format!("{what}: write nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH"),
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("not a URL"))?;
        if scheme.starts_with("nbds") {
            return Err(Error::Unsupported {
                path: text.to_owned(),
                format: Format::Nbd,
                what: "TLS (nbds://); use nbd:// through a tunnel, or nbd+unix://".to_owned(),
            });
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        let export = decode(export).ok_or_else(|| invalid("the export's name is not sound"))?;
        if export.len() > EXPORT_BYTES_MAX {
            return Err(invalid("the export's name is too long"));
        }
        let address = match scheme {
            "nbd" if query.is_empty() => {
                tcp(authority).ok_or_else(|| invalid("host or port is not sound"))?
            }
            "nbd+unix" if authority.is_empty() => {
                let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket="));
                let socket = socket.and_then(decode).filter(|path| !path.is_empty());
                Address::Unix(socket.ok_or_else(|| invalid("no socket is named"))?.into())
            }
            _ => return Err(invalid("not a URL of an export")),
        };
        Ok(Self { text: text.to_owned(), address, export })
    }

    /// Whether two URLs name one export at one address, however they are written. Of Unix sockets the paths are
    /// resolved; names of hosts are not.
    #[must_use]
    pub fn is_same_export(&self, other: &Self) -> bool {
        let is_same_place = match (&self.address, &other.address) {
            (Address::Unix(one), Address::Unix(two)) => {
                one == two
                    || matches!((one.canonicalize(), two.canonicalize()), (Ok(one), Ok(two)) if one == two)
            }
            (one, two) => one == two,
        };
        is_same_place && self.export == other.export
    }
}

impl fmt::Display for NbdUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
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
    }

    #[test]
    fn one_export_has_many_urls() {
        let same = |one, two| NbdUrl::parse(one).unwrap().is_same_export(&NbdUrl::parse(two).unwrap());
        assert!(same("nbd://h/a%2Fb", "nbd://h:10809/a/b"));
        assert!(same("nbd+unix:///a?socket=/no/x", "nbd+unix:///a?socket=%2Fno/x"));
        assert!(!same("nbd+unix:///a?socket=/no/x", "nbd+unix:///b?socket=/no/x"));
        assert!(!same("nbd+unix:///a?socket=/no/x", "nbd+unix:///a?socket=/no/y"));
        assert!(!same("nbd://h/a", "nbd://h:1/a"));
    }

    #[test]
    fn unsound_urls_are_refused() {
        for text in ["nbd://", "nbd://a:99999/x", "nbd+unix:///x", "nbd://h/%zz", "nbd+unix://h/x?socket=/s"]
        {
            assert!(NbdUrl::parse(text).is_err(), "{text}");
        }
        assert!(NbdUrl::parse("nbds://host/x").unwrap_err().to_string().contains("TLS"));
    }
}
