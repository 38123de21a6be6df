//! Where a domain is: `libvirt:DOMAIN[?disk=TARGET&…&connect=URI]`.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// What begins the name of a source that is a domain.
pub const SCHEME: &str = "libvirt:";
/// The longest name of a domain, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// A domain, and the disks of it that are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name or UUID.
    pub domain: String,
    /// Targets of disks: `vda` …; all of them without.
    pub disks: Vec<String>,
    /// The daemon, as a URI of libvirt; the usual one without.
    pub connect: Option<String>,
}

impl Place {
    /// Takes a source apart; `None` for other sources.
    ///
    /// # Errors
    /// The domain or a disk has no name, or a name that none can have.
    pub fn parse(source: &str) -> Option<Result<Self, String>> {
        Some(Self::parse_rest(source.strip_prefix(SCHEME)?))
    }

    fn parse_rest(rest: &str) -> Result<Self, String> {
        let (domain, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut place = Self { domain: decode(domain)?, disks: Vec::new(), connect: None };
        check(&place.domain, "domain")?;
        let mut parts = query.split('&').filter(|part| !part.is_empty()).peekable();
        while let Some(part) = parts.next() {
            match part.split_once('=') {
                Some(("disk", name)) => {
                    let name = decode(name)?;
                    check(&name, "disk")?;
                    place.disks.push(name);
                }
                // Its own query may follow as it is, so it takes all the rest.
                Some(("connect", uri)) => {
                    let rest: Vec<&str> = std::iter::once(uri).chain(parts.by_ref()).collect();
                    place.connect = Some(decode(&rest.join("&"))?);
                }
                _ => return Err(format!("{part} is neither disk=TARGET nor connect=URI")),
            }
        }
        Ok(place)
    }
}

fn check(name: &str, what: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(format!("a {what} cannot have the name {name:?}"));
    }
    Ok(())
}

/// Replaces `%XX`.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        bytes.push(match byte {
            b'%' => match (digit(rest.next()), digit(rest.next())) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => return Err(format!("{text}: two hexadecimal digits are wanted after %")),
            },
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| format!("{text} is not UTF-8"))
}

/// A daemon on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Daemon {
    /// What it is asked to open.
    pub(super) uri: String,
    /// Its sockets, the first that exists is taken.
    pub(super) sockets: Vec<PathBuf>,
}

/// What the environment says.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    pub(super) is_root: bool,
    pub(super) default_uri: Option<String>,
    pub(super) runtime_directory: Option<PathBuf>,
    pub(super) home: Option<PathBuf>,
}

impl Surroundings {
    pub(super) fn current() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            is_root: rustix::process::geteuid().is_root(),
            default_uri: text("LIBVIRT_DEFAULT_URI"),
            runtime_directory: text("XDG_RUNTIME_DIR").map(PathBuf::from),
            home: text("HOME").map(PathBuf::from),
        }
    }
}

impl Daemon {
    /// The daemon behind a URI of libvirt, or behind the usual one.
    ///
    /// # Errors
    /// It runs on another host, or is not about QEMU.
    pub(super) fn find(uri: Option<&str>, around: &Surroundings) -> Result<Self> {
        let usual = if around.is_root { "qemu:///system" } else { "qemu:///session" };
        let uri = uri.or(around.default_uri.as_deref()).unwrap_or(usual);
        let refused = |what: &str| Error::Refused { peer: uri.to_owned(), what: what.to_owned() };
        let (scheme, rest) = uri.split_once("://").ok_or_else(|| refused("it is not a URI of libvirt"))?;
        if scheme != "qemu" && scheme != "qemu+unix" {
            return Err(refused(
                "only machines of QEMU on this host can be backed up (qemu:///system, qemu:///session): their disks \
                 and overlays are passed as open files — run leeward on the host of the domain",
            ));
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let given = query.split('&').find_map(|part| part.strip_prefix("socket="));
        let sockets = match (given, path) {
            (Some(socket), "/system" | "/session") => {
                vec![PathBuf::from(decode(socket).map_err(|what| refused(&what))?)]
            }
            (None, "/system") => Self::in_directory(Path::new("/run/libvirt")),
            (None, "/session") => Self::in_directory(&session(around).ok_or_else(|| {
                refused("neither XDG_RUNTIME_DIR nor HOME tells where the sockets of the session are")
            })?),
            _ => return Err(refused("only qemu:///system and qemu:///session are known")),
        };
        Ok(Self { uri: format!("qemu://{path}"), sockets })
    }

    /// The sockets of the daemon for QEMU alone, and of the one for everything.
    fn in_directory(directory: &Path) -> Vec<PathBuf> {
        ["virtqemud-sock", "libvirt-sock"].map(|name| directory.join(name)).to_vec()
    }
}

fn session(around: &Surroundings) -> Option<PathBuf> {
    let runtime = around.runtime_directory.clone();
    runtime.or_else(|| Some(around.home.as_ref()?.join(".cache"))).map(|directory| directory.join("libvirt"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_its_disks_and_its_daemon_are_told_apart() {
        assert!(Place::parse("disk.raw").is_none() && Place::parse("qmp:/a").is_none());
        let place = Place::parse("libvirt:web%201?disk=vda&disk=sdb").unwrap().unwrap();
        assert_eq!((place.domain.as_str(), place.connect), ("web 1", None));
        assert_eq!(place.disks, ["vda", "sdb"]);
        for uri in ["qemu+unix:///session?socket=/a&x=y", "qemu%2Bunix%3A///session%3Fsocket=/a%26x=y"] {
            let place = Place::parse(&format!("libvirt:a?disk=vda&connect={uri}")).unwrap().unwrap();
            assert_eq!(place.connect.as_deref(), Some("qemu+unix:///session?socket=/a&x=y"));
        }
        for bad in
            ["libvirt:", "libvirt:?disk=a", "libvirt:a?disk=", "libvirt:a?b=c", "libvirt:%zz", "libvirt:a%0a"]
        {
            assert!(Place::parse(bad).unwrap().is_err(), "{bad}");
        }
    }

    #[test]
    fn daemons_are_found_on_this_host_and_no_other() {
        let root = Surroundings { is_root: true, ..Surroundings::default() };
        let person =
            Surroundings { runtime_directory: Some("/run/user/7".into()), ..Surroundings::default() };
        let first = |uri, around: &_| Daemon::find(uri, around).unwrap().sockets[0].display().to_string();
        assert_eq!(first(None, &root), "/run/libvirt/virtqemud-sock");
        assert_eq!(first(None, &person), "/run/user/7/libvirt/virtqemud-sock");
        let private = Daemon::find(Some("qemu+unix:///session?socket=/tmp/a%20b"), &root).unwrap();
        assert_eq!((private.uri.as_str(), private.sockets), ("qemu:///session", vec!["/tmp/a b".into()]));
        for bad in [
            "qemu+ssh://host/system",
            "qemu+tcp://host/system",
            "xen:///system",
            "qemu:///embed?root=/a",
            "x",
        ] {
            assert!(Daemon::find(Some(bad), &root).is_err(), "{bad}");
        }
        assert!(Daemon::find(None, &Surroundings::default()).is_err());
    }
}
