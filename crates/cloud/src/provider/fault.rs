//! What a provider says instead of doing what was asked.

use std::fmt;
use std::time::Duration;

use crate::ErrorKind;

/// The longest text of a provider that is shown, in characters.
const SAID_CHARS_MAX: usize = 400;

/// A failed call of a provider: which, what it said, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Name of the provider.
    pub provider: String,
    /// What was tried: `make the volume web-01`.
    pub action: String,
    /// What a caller can do about it.
    pub kind: ErrorKind,
    /// The provider's code: `LimitExceeded`; empty when it has none.
    pub code: String,
    /// What was said, or what was found wrong here.
    pub what: String,
    /// What a person can do.
    pub hint: Option<String>,
    /// By what the provider's people find the call.
    pub request: Option<String>,
    /// How long the provider asks to wait.
    pub wait: Option<Duration>,
}

impl Fault {
    /// A fault with what every one has.
    #[must_use]
    pub fn new(
        kind: ErrorKind,
        provider: impl Into<String>,
        action: impl Into<String>,
        what: impl Into<String>,
    ) -> Self {
        Self {
            provider: provider.into(),
            action: action.into(),
            kind,
            code: String::new(),
            what: what.into(),
            hint: None,
            request: None,
            wait: None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: cannot {}: ", shown(&self.provider), shown(&self.action))?;
        if !self.code.is_empty() {
            write!(f, "{}: ", shown(&self.code))?;
        }
        f.write_str(&shown(&self.what))?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        if let Some(request) = &self.request {
            write!(f, " (request {})", shown(request))?;
        }
        Ok(())
    }
}

/// Text from outside: no control characters, and an end.
fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(SAID_CHARS_MAX).collect()
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::Fault;
    use crate::ErrorKind;

    #[test]
    fn a_fault_tells_all_it_knows_and_nothing_that_moves_a_cursor() {
        let mut fault = Fault::new(ErrorKind::Limit, "oci r1", "make the volume a\x1b[2Jb", "x".repeat(9999));
        fault.code = "LimitExceeded".to_owned();
        fault.hint = Some("ask for more".to_owned());
        fault.request = Some("id/1".to_owned());
        let text = fault.to_string();
        assert!(text.starts_with("oci r1: cannot make the volume a[2Jb: LimitExceeded: xxx"), "{text}");
        assert!(text.ends_with("x; ask for more (request id/1)"), "{text}");
        assert!(text.len() < 700);
    }
}
