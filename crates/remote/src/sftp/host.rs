//! Which host, as which user.

/// The longest name of a host or user, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// `[USER@]HOST[:PORT]`. A host may be a name from the configuration of ssh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) user: Option<String>,
    pub(super) name: String,
    pub(super) port: Option<u16>,
}

impl Host {
    /// Reads one; `None` when it is not one. Nothing in it can be taken for an option of ssh.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (user, place) = match text.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, text),
        };
        let (name, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']')?;
                address.parse::<std::net::Ipv6Addr>().ok()?;
                (address, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
            }
            None => match place.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (place, None),
            },
        };
        let port = match port {
            Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
            None => None,
        };
        let is_name = |name: &str, also: &[u8]| {
            let sound =
                |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) || also.contains(&byte);
            (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(sound)
        };
        let sound = is_name(name, b":") && user.is_none_or(|user| is_name(user, b"+"));
        sound.then(|| Self { user: user.map(str::to_owned), name: name.to_owned(), port })
    }
}

/// Whether a text is the path of a directory that a location may name.
fn is_path(path: &str) -> bool {
    const PATH_BYTES_MAX: usize = 1024;
    let sound = |segment: &str| !segment.is_empty() && segment != "." && segment != "..";
    path.len() <= PATH_BYTES_MAX
        && path != "~"
        && path.split('/').all(sound)
        && !path.chars().any(char::is_control)
}

/// Refuses what is no host and path of a server of SFTP.
pub(crate) fn refuse_no_directory(host: &str, path: &str) -> Result<(), String> {
    if Host::parse(host).is_none() {
        return Err(
            "[USER@]HOST[:PORT] comes after sftp://, and no password: ssh has keys for that".to_owned()
        );
    }
    if !is_path(path) {
        return Err("a path comes after the host: /DIRECTORY, or /~/DIRECTORY in the user's home".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Host, is_path};

    #[test]
    fn hosts_are_read() {
        let host = |text: &str| {
            let host = Host::parse(text).unwrap();
            (host.user.unwrap_or_default(), host.name, host.port)
        };
        assert_eq!(host("nas"), (String::new(), "nas".into(), None));
        assert_eq!(host("b-1@nas.example.com:2222"), ("b-1".into(), "nas.example.com".into(), Some(2222)));
        assert_eq!(host("u@[::1]:22"), ("u".into(), "::1".into(), Some(22)));
        assert_eq!(host("[fe80::1]"), (String::new(), "fe80::1".into(), None));
    }

    #[test]
    fn what_could_be_an_option_or_a_password_is_no_host() {
        for bad in [
            "",
            "-oProxyCommand=x",
            "-l@h",
            "u:secret@h",
            "h:",
            "h:0",
            "h:99999",
            "h:x",
            "a b",
            "h;ls",
            "$(x)",
            "[::1",
            "[nas]",
            "[::1]22",
            "@h",
            "::1",
        ] {
            assert_eq!(Host::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_path_leads_downwards() {
        assert!(is_path("srv/backup repo") && is_path("~/repo"));
        for bad in ["", "~", "a//b", "a/../b", "./a", "a\nb"] {
            assert!(!is_path(bad), "{bad:?}");
        }
    }
}
