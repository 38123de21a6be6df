//! How runs are done, and what becomes of what they leave.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;

use super::schedule::duration;

/// How runs are done.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSettings {
    /// Steps at once.
    pub steps: usize,
    /// Runs at once in a pool: `imports`, and `target:NAME` for each target.
    pub pools: BTreeMap<String, u32>,
    /// Days for which ended runs are kept.
    pub keep_days: u32,
    /// Seconds for which a run stays this daemon's without a word.
    pub lease_seconds: u64,
    /// What becomes of what runs have left in clouds.
    pub sweep: SweepPolicy,
    /// How often it is looked for, as `6h`.
    pub sweep_every: String,
    /// How old it must be, and how long ago its run must have ended, to be removed without asking.
    pub sweep_age: String,
}

/// What becomes of what runs have left in clouds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SweepPolicy {
    /// It is not looked for.
    Off,
    /// It is told.
    #[default]
    Tell,
    /// What is plainly the remains of a run that has ended is removed, all else is told.
    Remove,
}

impl RunSettings {
    /// How often leftovers are looked for.
    pub(crate) fn sweep_every(&self) -> Duration {
        let every = duration("sweep_every", &self.sweep_every).ok();
        every.and_then(|every| Duration::try_from(every).ok()).unwrap_or(Duration::from_secs(6 * 3600))
    }

    /// How old a leftover must be to be removed without asking.
    pub(crate) fn sweep_age(&self) -> SignedDuration {
        duration("sweep_age", &self.sweep_age).unwrap_or(SignedDuration::from_hours(24))
    }
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            steps: 32,
            pools: BTreeMap::from([("imports".to_owned(), 3)]),
            keep_days: 90,
            lease_seconds: 30,
            sweep: SweepPolicy::Tell,
            sweep_every: "6h".to_owned(),
            sweep_age: "24h".to_owned(),
        }
    }
}
