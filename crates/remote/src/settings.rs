//! Settings of a bucket that matter to what is kept in it.

use serde::{Deserialize, Serialize};

/// What is known about a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Known<T> {
    /// It is this.
    Is(T),
    /// The service has no such thing.
    Absent,
    /// The service did not tell: why.
    Untold(String),
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self::Untold("this service is not asked for it".to_owned())
    }
}

impl<T> Known<T> {
    /// The value, if it is known.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Untold(_) => None,
        }
    }
}

/// A rule by which the service deletes or moves objects by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleRule {
    /// Its name, as the service has it.
    pub id: String,
    /// The objects that it concerns: those whose names begin so.
    pub prefix: String,
    /// What it does to them, for people.
    pub action: String,
}

/// The settings of a bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Whether deleted and replaced objects are kept as old versions.
    pub versioning: Known<bool>,
    /// Whether objects can be locked against deletion.
    pub object_lock: Known<bool>,
    /// Enabled rules that delete or move objects of the repository, now or later.
    pub lifecycle: Known<Vec<LifecycleRule>>,
}

/// Whether a rule for names that begin with `rule` concerns any object under `prefix`.
#[must_use]
pub fn concerns(rule: &str, prefix: &str) -> bool {
    rule.starts_with(prefix) || prefix.starts_with(rule)
}

#[cfg(test)]
mod tests {
    use super::concerns;

    #[test]
    fn a_rule_concerns_a_repository_above_and_below_its_prefix() {
        assert!(
            concerns("", "backups/")
                && concerns("back", "backups/")
                && concerns("backups/packs/", "backups/")
        );
        assert!(concerns("x", "") && !concerns("logs/", "backups/"));
    }
}
