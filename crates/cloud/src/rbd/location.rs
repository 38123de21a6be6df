//! Where an image is.

use std::fmt;
use std::path::PathBuf;

/// What a location begins with.
const SCHEME: &str = "rbd:";
/// The longest name of a pool, image or snapshot. Ceph allows a few more for some of them.
const NAME_BYTES_MAX: usize = 96;

/// An image of RBD, or one of its snapshots, and how to reach its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The pool.
    pub pool: String,
    /// The namespace within the pool.
    pub namespace: Option<String>,
    /// The image.
    pub image: String,
    /// The snapshot; without it the image itself is meant.
    pub snapshot: Option<String>,
    /// The cluster's configuration file; without it that of the environment (`CEPH_CONF`) or the usual one.
    pub configuration: Option<PathBuf>,
    /// The user, as in `client.USER`; without it the tool's usual one.
    pub user: Option<String>,
}

impl Location {
    /// Reads `rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][?conf=FILE&id=USER]`; `None` when the text means something else.
    ///
    /// # Errors
    /// What is wrong with it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Result<Self, String>> {
        Some(Self::parse_rest(text.strip_prefix(SCHEME)?))
    }

    fn parse_rest(text: &str) -> Result<Self, String> {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let (path, snapshot) = match path.split_once('@') {
            Some((path, snapshot)) => (path, Some(name("snapshot", snapshot)?)),
            None => (path, None),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (pool, namespace, image) = match parts[..] {
            [pool, image] => (pool, None, image),
            [pool, namespace, image] => (pool, Some(name("namespace", namespace)?), image),
            _ => return Err("write rbd:POOL/IMAGE[@SNAPSHOT][?conf=FILE&id=USER]".to_owned()),
        };
        let mut location = Self {
            pool: name("pool", pool)?,
            namespace,
            image: name("image", image)?,
            snapshot,
            configuration: std::env::var_os("CEPH_CONF").map(PathBuf::from),
            user: None,
        };
        for option in query.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("conf", file)) if !file.is_empty() => location.configuration = Some(file.into()),
                Some(("id", user)) => location.user = Some(name("user", user)?),
                _ => return Err(format!("{option:?} is not known: conf=FILE and id=USER are")),
            }
        }
        Ok(location)
    }

    /// The image itself, whatever snapshot is meant.
    #[must_use]
    pub fn without_snapshot(&self) -> Self {
        Self { snapshot: None, ..self.clone() }
    }

    /// With all that is needed to reach it, as [`Location::parse`] reads it.
    #[must_use]
    pub fn to_address(&self) -> String {
        let configuration = self.configuration.iter().map(|path| format!("conf={}", path.display()));
        let user = self.user.iter().map(|user| format!("id={user}"));
        let query: Vec<_> = configuration.chain(user).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{self}{mark}{}", query.join("&"))
    }

    /// This snapshot of the image.
    #[must_use]
    pub fn at(&self, snapshot: &str) -> Self {
        Self { snapshot: Some(snapshot.to_owned()), ..self.clone() }
    }
}

/// A name that no program in between can take for an option, a path or a list.
fn name(what: &str, text: &str) -> Result<String, String> {
    let sound = !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && !text.starts_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+%#".contains(&byte));
    if sound {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is no name of a {what} that can be used here: letters, digits and ._-+%# are, a colon is not"
    ))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/", self.pool)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.image)?;
        match &self.snapshot {
            Some(snapshot) => write!(f, "@{snapshot}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_snapshots_are_told_apart() {
        let parse = |text: &str| Location::parse(text).unwrap();
        let whole = parse("rbd:vms/team/web-01@monday?conf=/etc/ceph/b.conf&id=backup").unwrap();
        assert_eq!(whole.to_string(), "rbd:vms/team/web-01@monday");
        assert_eq!(
            (whole.user.as_deref(), whole.configuration),
            (Some("backup"), Some("/etc/ceph/b.conf".into()))
        );
        let text = "rbd:vms/team/web-01@monday?conf=/etc/ceph/b.conf&id=backup";
        assert_eq!(parse(text).unwrap().to_address(), text);
        assert_eq!(parse("rbd:vms/web-01").unwrap().snapshot, None);
        assert!(Location::parse("vms/web-01").is_none());
        for bad in [
            "rbd:",
            "rbd:vms",
            "rbd:/x",
            "rbd:vms/",
            "rbd:a/b/c/d",
            "rbd:vms/x@",
            "rbd:vms/x:id=admin",
            "rbd:-p/x",
            "rbd:vms/x?conf=",
            "rbd:vms/x?key=1",
            "rbd:vms/a,driver=file",
            "rbd:vms/a b",
            "rbd:vms/x?id=-k",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
