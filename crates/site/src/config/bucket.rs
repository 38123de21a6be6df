//! Where snapshots are exported to.

use leeward_remote::{Location, Scheme};
use serde::Deserialize;

use super::Config;

/// A bucket or directory for exports.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// `s3://…`, `oci://…`, `swift://…` or a directory.
    pub location: String,
    /// Bytes per second that an export writes at most.
    #[serde(default)]
    pub limit_bytes_per_second: Option<u64>,
}

impl Bucket {
    /// Whether it is a directory of this machine.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        !self.location.contains("://")
    }

    /// What makes no sense.
    pub(super) fn check(&self, config: &Config) -> Result<(), String> {
        let location = Location::parse(&self.location).map_err(|error| error.to_string())?;
        if let Some(location) = location
            && !matches!(location.scheme, Scheme::S3 | Scheme::Oci | Scheme::Swift)
        {
            return Err("exports go to s3://, oci://, swift:// and directories".to_owned());
        }
        if self.limit_bytes_per_second == Some(0) {
            return Err("limit_bytes_per_second must be at least 1".to_owned());
        }
        let is_watched = |source: &super::Source| {
            (source.watch.polls() || source.watch.takes_events())
                && is_within(&self.location, &source.location)
        };
        match config.sources.iter().find(|(_, source)| is_watched(source)) {
            Some((name, _)) => {
                Err(format!("[source.{name}] watches this place: each export would be imported at once"))
            }
            None => Ok(()),
        }
    }
}

/// Whether a place is another one, or lies in it. What is behind a question mark says how a place is reached.
fn is_within(place: &str, other: &str) -> bool {
    let [place, other] =
        [place, other].map(|text| text.split('?').next().unwrap_or(text).trim_end_matches('/'));
    place.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_lies_in_another_by_whole_parts() {
        for (place, other, expected) in [
            ("/data/in/", "/data/in", true),
            ("/data/in/out", "/data/in", true),
            ("/data/inbox", "/data/in", false),
            ("/data", "/data/in", false),
            ("s3://b/x?endpoint=http://a", "s3://b", true),
            ("s3://bucket", "s3://b", false),
        ] {
            assert_eq!(is_within(place, other), expected, "{place} {other}");
        }
    }
}
