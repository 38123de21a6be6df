//! What a probe found, as a value and as a table.

use jiff::Timestamp;
use leeward_store::bucket::Comparison;
use serde::{Deserialize, Serialize};

use crate::settings::{Known, Settings};

/// Whether a bucket has an ability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It was seen.
    Has,
    /// It failed: how.
    Lacks(String),
    /// It could not be seen: why.
    Untold(String),
}

/// What a bucket can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// Version of this record: 1.
    pub abilities_version: u32,
    /// When it was found out.
    pub probed: Timestamp,
    /// By which program.
    pub tool: String,
    /// An object is created by exactly one of several racing writers.
    pub create: State,
    /// An object is replaced only by whoever knows its present version, and by one of several racing writers.
    pub replace: State,
    /// Whether versions are given back without their quotes.
    pub bare_tags: bool,
    /// A read shows what was written before it.
    pub read_after_write: State,
    /// A listing shows what was written, and no longer what was deleted, before it.
    pub list_after_write: State,
    /// A part of an object can be read.
    pub ranged_reads: State,
    /// Settings of the bucket.
    pub settings: Settings,
    /// How far the service's clock is ahead of this machine's, in seconds.
    pub clock_ahead_seconds: Option<i64>,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The ability.
    pub ability: &'static str,
    /// `has`, `lacks` or `unknown`.
    pub state: &'static str,
    /// What that means for a repository, or what was seen.
    pub meaning: String,
}

/// From which difference on the clocks are worth a word, in seconds: services refuse requests at 15 minutes.
const CLOCK_SECONDS_MAX: i64 = 60;

impl Abilities {
    /// How conditional writes come about there.
    #[must_use]
    pub fn comparison(&self) -> Comparison {
        match (&self.create, &self.replace) {
            (State::Has, State::Has) => Comparison::Native,
            (State::Has, _) => Comparison::CreateOnly,
            _ => Comparison::None,
        }
    }

    /// Why no repository can be kept there, if so.
    #[must_use]
    pub fn unfit(&self) -> Option<String> {
        [("read", &self.read_after_write), ("listing", &self.list_after_write)].into_iter().find_map(
            |(what, state)| match state {
                State::Lacks(how) => {
                    Some(format!("a {what} does not show what was written before it ({how})"))
                }
                State::Has | State::Untold(_) => None,
            },
        )
    }

    /// Everything in words.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        const OTHER_SCHEME: &str = "changes are decided by another scheme, with more requests";
        vec![
            row(
                "conditional create",
                &self.create,
                "one of several racing writers creates an object",
                OTHER_SCHEME,
            ),
            row("conditional replace", &self.replace, "nobody replaces what he has not read", OTHER_SCHEME),
            row("read after write", &self.read_after_write, "", "no repository can be kept here"),
            row("list after write", &self.list_after_write, "", "no repository can be kept here"),
            row("ranged reads", &self.ranged_reads, "", "a restore reads whole packs"),
            setting("versioning", &self.settings.versioning, |on| match on {
                true => (
                    "has",
                    "what is deleted is kept as an old version, and paid for, until the bucket's rules delete it",
                ),
                false => ("lacks", "what is deleted is gone"),
            }),
            setting("object lock", &self.settings.object_lock, |on| match on {
                true => ("has", "objects can be locked against deletion"),
                false => ("lacks", "whoever has a key that may delete can delete everything"),
            }),
            self.lifecycle_row(),
            self.clock_row(),
        ]
    }

    fn lifecycle_row(&self) -> Row {
        let ability = "no harmful lifecycle rule";
        match &self.settings.lifecycle {
            Known::Is(rules) if rules.is_empty() => Row { ability, state: "has", meaning: String::new() },
            Known::Is(rules) => {
                let rules: Vec<String> =
                    rules.iter().map(|rule| format!("{:?} {}", rule.id, rule.action)).collect();
                let meaning = format!(
                    "the service would take objects of the repository away: rule {}",
                    rules.join("; rule ")
                );
                Row { ability, state: "lacks", meaning }
            }
            Known::Absent => {
                Row { ability, state: "has", meaning: "the service has no such rules".to_owned() }
            }
            Known::Untold(why) => Row { ability, state: "unknown", meaning: why.clone() },
        }
    }

    fn clock_row(&self) -> Row {
        let ability = "clock";
        match self.clock_ahead_seconds {
            None => {
                Row { ability, state: "unknown", meaning: "the service does not tell the time".to_owned() }
            }
            Some(ahead) => {
                let state = if ahead.abs() > CLOCK_SECONDS_MAX { "lacks" } else { "has" };
                let hint = if state == "lacks" { "; set this machine's clock" } else { "" };
                Row {
                    ability,
                    state,
                    meaning: format!("the service's clock is {ahead} s ahead of this machine's{hint}"),
                }
            }
        }
    }
}

fn row(ability: &'static str, state: &State, good: &str, bad: &str) -> Row {
    match state {
        State::Has => Row { ability, state: "has", meaning: good.to_owned() },
        State::Lacks(how) => Row { ability, state: "lacks", meaning: format!("{bad} ({how})") },
        State::Untold(why) => Row { ability, state: "unknown", meaning: why.clone() },
    }
}

fn setting(
    ability: &'static str,
    known: &Known<bool>,
    meaning: impl Fn(bool) -> (&'static str, &'static str),
) -> Row {
    let (state, meaning) = match known {
        Known::Is(on) => {
            let (state, meaning) = meaning(*on);
            (state, meaning.to_owned())
        }
        Known::Absent => ("lacks", "the service has no such thing".to_owned()),
        Known::Untold(why) => ("unknown", why.clone()),
    };
    Row { ability, state, meaning }
}
