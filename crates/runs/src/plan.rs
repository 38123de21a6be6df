//! Plans: which steps, in what order, and what is done when one fails.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The most steps of one plan.
const STEPS_MAX: usize = 256;
/// The longest wait between two attempts, in milliseconds: a week.
const WAIT_MS_MAX: u64 = 7 * 24 * 3_600 * 1_000;
/// The longest time that a step may be given, in seconds: a year.
const DEADLINE_SECONDS_MAX: u64 = 366 * 24 * 3_600;

/// What a run executes. It is stored with the run, so a release that has other plans still knows what a run meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What kind of work, as in `import`; says which code executes the steps.
    pub kind: String,
    /// The version of that kind's steps.
    pub version: u32,
    /// The steps, in an order in which a person reads them.
    pub steps: Vec<StepPlan>,
    /// What happens when a step has failed for good.
    pub on_failure: OnFailure,
    /// What happens to what was made when a person cancels.
    pub on_cancel: OnCancel,
    /// Pools of which the run takes one place each before it begins, and keeps until it ends or is on hold.
    #[serde(default)]
    pub pools: BTreeSet<String>,
}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepPlan {
    /// Its name: lower-case letters, digits, `_` and `-`.
    pub name: String,
    /// What it does, for people.
    pub title: String,
    /// The steps that must have ended well, or been skipped, before.
    #[serde(default)]
    pub after: BTreeSet<String>,
    /// How often it is tried.
    #[serde(default)]
    pub retry: Retry,
    /// How long it may take from its first attempt on, waiting between attempts included.
    #[serde(default)]
    pub deadline_seconds: Option<u64>,
    /// Whether a person may skip it.
    #[serde(default)]
    pub may_skip: bool,
    /// Whether there is something to undo.
    #[serde(default)]
    pub has_undo: bool,
}

/// How often a step is tried, and after how long. The wait doubles each time, with a random part of up to a quarter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Attempts in all, at least 1.
    pub attempts: u32,
    /// The wait after the first attempt, in milliseconds.
    pub first_ms: u64,
    /// The longest wait, in milliseconds.
    pub most_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 5, first_ms: 2_000, most_ms: 120_000 }
    }
}

impl Retry {
    /// The wait after an attempt (counted from 1), in milliseconds. `chance` is from 0 to 255.
    #[must_use]
    pub fn wait_ms(&self, attempt: u32, chance: u8) -> u64 {
        let doubled =
            self.first_ms.saturating_mul(1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX));
        let wait = doubled.min(self.most_ms).min(WAIT_MS_MAX);
        wait + wait / 4 * u64::from(chance) / 255
    }

    /// The longest wait after any attempt, in milliseconds.
    #[must_use]
    pub fn longest_wait_ms(&self) -> u64 {
        self.wait_ms(u32::MAX, u8::MAX).max(self.wait_ms(1, u8::MAX))
    }
}

/// What happens when a step has failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The run waits for a person, who mends and retries, or has it undone.
    Hold,
    /// What was made is undone, in reverse.
    Undo,
}

/// What happens to what was made when a person cancels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnCancel {
    /// It is undone, in reverse.
    Undo,
    /// It stays.
    Leave,
}

impl Plan {
    /// Whether it can be executed at all.
    ///
    /// # Errors
    /// No steps or too many, names that are no names or appear twice, steps that wait for what is not there or for each
    /// other.
    pub fn check(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::Invalid(format!("plan {}: {what}", self.kind)));
        if self.steps.is_empty() || self.steps.len() > STEPS_MAX {
            return invalid(format!("{} steps; 1 to {STEPS_MAX} are possible", self.steps.len()));
        }
        let mut names = BTreeSet::new();
        for step in &self.steps {
            if !is_name(&step.name) {
                return invalid(format!("{:?} is no name of a step", step.name));
            }
            if !names.insert(step.name.as_str()) {
                return invalid(format!("two steps are named {}", step.name));
            }
            if step.retry.attempts == 0 {
                return invalid(format!("step {} has no attempt", step.name));
            }
            if step.retry.first_ms > WAIT_MS_MAX || step.retry.most_ms > WAIT_MS_MAX {
                return invalid(format!("step {} waits longer than {WAIT_MS_MAX} ms", step.name));
            }
            if step.deadline_seconds.is_some_and(|seconds| seconds > DEADLINE_SECONDS_MAX) {
                return invalid(format!("step {} has more than {DEADLINE_SECONDS_MAX} s", step.name));
            }
        }
        for step in &self.steps {
            if let Some(unknown) = step.after.iter().find(|name| !names.contains(name.as_str())) {
                return invalid(format!("step {} waits for {unknown}, which is no step", step.name));
            }
        }
        match self.in_order().len() == self.steps.len() {
            true => Ok(()),
            false => invalid("steps wait for each other in a circle".to_owned()),
        }
    }

    /// A step by its name.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<&StepPlan> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// The steps' positions, each after those it waits for; without those in a circle.
    #[must_use]
    pub fn in_order(&self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.steps.len());
        let mut done = BTreeSet::new();
        loop {
            let found = self.steps.iter().enumerate().find(|(_, step)| {
                !done.contains(step.name.as_str())
                    && step.after.iter().all(|name| done.contains(name.as_str()))
            });
            let Some((at, step)) = found else { return order };
            done.insert(step.name.as_str());
            order.push(at);
        }
    }

    /// The steps that wait for this one, directly or through others, by name.
    #[must_use]
    pub fn followers(&self, name: &str) -> BTreeSet<String> {
        let mut found = BTreeMap::from([(name.to_owned(), ())]);
        for at in self.in_order() {
            let step = &self.steps[at];
            if step.after.iter().any(|before| found.contains_key(before)) {
                found.insert(step.name.clone(), ());
            }
        }
        found.remove(name);
        found.into_keys().collect()
    }
}

fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    (1..=64).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn step(name: &str, after: &[&str]) -> StepPlan {
        StepPlan {
            name: name.to_owned(),
            title: format!("Does {name}"),
            after: after.iter().map(|name| (*name).to_owned()).collect(),
            retry: Retry { attempts: 3, first_ms: 1, most_ms: 10 },
            deadline_seconds: None,
            may_skip: false,
            has_undo: true,
        }
    }

    pub(crate) fn plan(steps: Vec<StepPlan>) -> Plan {
        Plan {
            kind: "test".to_owned(),
            version: 1,
            steps,
            on_failure: OnFailure::Hold,
            on_cancel: OnCancel::Undo,
            pools: BTreeSet::new(),
        }
    }

    #[test]
    fn a_diamond_is_a_plan() {
        let diamond =
            plan(vec![step("d", &["b", "c"]), step("b", &["a"]), step("c", &["a"]), step("a", &[])]);
        diamond.check().unwrap();
        assert_eq!(diamond.in_order(), [3, 1, 2, 0]);
        assert_eq!(diamond.followers("b"), BTreeSet::from(["d".to_owned()]));
        assert_eq!(diamond.followers("a").len(), 3);
    }

    #[test]
    fn plans_that_cannot_end_are_refused() {
        for steps in [
            vec![],
            vec![step("a", &["a"])],
            vec![step("a", &["b"]), step("b", &["a"])],
            vec![step("a", &[]), step("a", &[])],
            vec![step("a", &["z"])],
            vec![step("A b", &[])],
        ] {
            plan(steps).check().unwrap_err();
        }
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let retry = Retry { attempts: 99, first_ms: 100, most_ms: 1_000 };
        assert_eq!(
            [1, 2, 3, 4, 5, 80].map(|attempt| retry.wait_ms(attempt, 0)),
            [100, 200, 400, 800, 1_000, 1_000]
        );
        assert_eq!(retry.wait_ms(1, 255), 125);
    }
}
