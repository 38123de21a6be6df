//! What an object that others tell of is to a source.

use leeward_remote::Location;

use super::Source;

/// An object of a bucket, as a source sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// It is the source's: its name there.
    Inside(&'a str),
    /// It is in the source's bucket, but not under the source's location.
    Outside,
    /// It is in another bucket.
    Elsewhere,
}

impl Source {
    /// Whether it is a directory of this machine.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        !self.location.contains("://")
    }

    /// The bucket in which it lies, and what the names of its objects begin with there; none for a directory.
    #[must_use]
    pub fn bucket(&self) -> Option<(String, String)> {
        let location = Location::parse(&self.location).ok().flatten()?;
        let bucket = location.bucket.split('@').next().unwrap_or_default().to_owned();
        let prefix = if location.prefix.is_empty() { String::new() } else { location.prefix + "/" };
        Some((bucket, prefix))
    }

    /// What an object is to it that others call by its bucket and its whole name there. A directory is in no bucket: there
    /// every name is its own.
    #[must_use]
    pub fn place_of<'a>(&self, bucket: &str, name: &'a str) -> Place<'a> {
        let Some((own, prefix)) = self.bucket() else { return Place::Inside(name) };
        match name.strip_prefix(&prefix) {
            _ if own != bucket => Place::Elsewhere,
            Some(name) => Place::Inside(name),
            None => Place::Outside,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Place;
    use crate::Config;

    #[test]
    fn names_in_a_bucket_become_names_under_the_location() {
        let of = |location: &str, bucket: &str, name: &'static str| {
            let text = format!("name='a'\nstate='s'\n[source.x]\nlocation='{location}'\n");
            Config::parse(&text, Path::new("/")).unwrap().sources["x"].place_of(bucket, name)
        };
        assert_eq!(of("s3://b/images/?region=r", "b", "images/web/a.raw"), Place::Inside("web/a.raw"));
        assert_eq!(of("oci://b@ns/images", "b", "images/a.raw"), Place::Inside("a.raw"));
        assert_eq!(of("s3://b", "b", "images/a.raw"), Place::Inside("images/a.raw"));
        assert_eq!(of("/srv/images", "any", "a.raw"), Place::Inside("a.raw"));
        for name in ["a.raw", "images", "images-old/a.raw", "other/images/a.raw"] {
            assert_eq!(of("s3://b/images", "b", name), Place::Outside, "{name}");
        }
        assert_eq!(of("s3://b/images", "c", "images/a.raw"), Place::Elsewhere);
    }
}
