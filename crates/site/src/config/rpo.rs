//! How old the newest snapshot of an image may be.

use std::collections::BTreeMap;

use leeward_repository::ImageName;
use serde::Deserialize;

use super::schedule::duration;

/// Recovery point objectives by names of images, or by how names begin: `web-01/root`, `web-*`, `*`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct RpoTargets(BTreeMap<String, String>);

impl RpoTargets {
    pub(super) fn check(&self) -> Result<(), String> {
        for (pattern, length) in &self.0 {
            let is_name = pattern.parse::<ImageName>().is_ok();
            let is_beginning = pattern.strip_suffix('*').is_some_and(|start| !start.contains('*'));
            if !is_name && !is_beginning {
                return Err(format!(
                    "{pattern:?}: name an image, or the beginning of names with a * behind it"
                ));
            }
            duration(pattern, length)?;
        }
        Ok(())
    }

    /// How many seconds old the newest snapshot of an image may be, where that is said: for its name, or else for the longest
    /// beginning of it.
    #[must_use]
    pub fn seconds_of(&self, image: &str) -> Option<i64> {
        let begins = |(pattern, length): (&'_ String, &'_ String)| {
            let start = pattern.strip_suffix('*').filter(|start| image.starts_with(start))?;
            Some((start.len(), length.clone()))
        };
        let longest = || self.0.iter().filter_map(begins).max().map(|(_, length)| length);
        let length = self.0.get(image).cloned().or_else(longest)?;
        duration("rpo", &length).ok().map(|length| length.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(text: &str) -> RpoTargets {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn the_name_counts_before_the_longest_beginning() {
        let targets = targets("'*' = '1d'\n'web-*' = '1h'\n'web-01/*' = '30m'\n'web-01/root' = '5m'");
        targets.check().unwrap();
        for (image, seconds) in
            [("web-01/root", 300), ("web-01/data", 1800), ("web-02/root", 3600), ("db/root", 86400)]
        {
            assert_eq!(targets.seconds_of(image), Some(seconds), "{image}");
        }
        assert_eq!(RpoTargets::default().seconds_of("db/root"), None);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (text, what) in [
            ("'we*b' = '1d'", "name an image"),
            ("'**' = '1d'", "name an image"),
            ("'a b' = '1d'", "name an image"),
            ("'web' = 'soon'", "soon"),
            ("'web' = '0s'", "no time at all"),
        ] {
            let error = targets(text).check().unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
