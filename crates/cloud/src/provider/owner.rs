//! Who makes a thing: a step of a run. By this, what a lost attempt made is found again.

use serde::{Deserialize, Serialize};

use super::Tags;

/// The tag that names the run that a thing belongs to.
pub const RUN_TAG: &str = "leeward-run";
/// The tag that names the step that made it.
pub const STEP_TAG: &str = "leeward-step";

/// The step that creates something. The same owner asks for the same thing, however often.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Id of the run.
    pub run: String,
    /// Id of the step in it.
    pub step: String,
}

impl Owner {
    /// The owner `step` of `run`.
    #[must_use]
    pub fn new(run: impl Into<String>, step: impl Into<String>) -> Self {
        Self { run: run.into(), step: step.into() }
    }

    /// Whether tags say that a thing is this owner's.
    #[must_use]
    pub fn owns(&self, tags: &Tags) -> bool {
        tags.get(RUN_TAG) == Some(&self.run) && tags.get(STEP_TAG) == Some(&self.step)
    }

    /// These tags, and those of this owner.
    #[must_use]
    pub fn mark(&self, tags: &Tags) -> Tags {
        let mut marked = tags.clone();
        marked.insert(RUN_TAG.to_owned(), self.run.clone());
        marked.insert(STEP_TAG.to_owned(), self.step.clone());
        marked
    }

    /// The token that goes with the request for a thing of that kind (`volume`, `instance` …).
    ///
    /// `turn` is 0 at first. A provider that says that a token is used up, though nothing of this owner exists (it was
    /// removed since), is asked with the next turn; the order is fixed, so that a lost answer to that is found as well.
    #[must_use]
    pub fn token(&self, kind: &str, turn: u32) -> Token {
        let mut hasher = blake3::Hasher::new_derive_key("leeward 2026 provider idempotency token");
        for part in [kind, &self.run, &self.step] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&turn.to_le_bytes());
        Token(format!("leeward-{}", &hasher.finalize().to_hex()[..48]))
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step {} of run {}", self.step, self.run)
    }
}

/// An idempotency token: at most 56 letters, digits and hyphens, which every provider takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Owner;
    use crate::provider::Tags;

    #[test]
    fn tokens_differ_with_everything_and_with_nothing_else() {
        let owner = Owner::new("r1", "create");
        let token = owner.token("volume", 0);
        assert_eq!(token, Owner::new("r1", "create").token("volume", 0));
        assert!(token.as_str().len() <= 64, "{token:?}");
        let others = [
            Owner::new("r1c", "reate").token("volume", 0),
            owner.token("instance", 0),
            owner.token("volume", 1),
        ];
        assert!(others.iter().all(|other| *other != token));
    }

    #[test]
    fn a_thing_is_its_owners_by_both_tags() {
        let owner = Owner::new("r1", "create");
        let marked = owner.mark(&Tags::from([("a".to_owned(), "b".to_owned())]));
        assert_eq!(marked.len(), 3);
        assert!(owner.owns(&marked));
        assert!(!Owner::new("r1", "launch").owns(&marked) && !Owner::new("r2", "create").owns(&marked));
        assert!(!owner.owns(&Tags::new()));
    }
}
