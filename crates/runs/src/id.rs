//! Names of runs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Digits of Crockford's base 32, in lower case: no letter that looks like a digit. <https://www.crockford.com/base32.html>
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LENGTH: usize = 26;

/// The name of a run: 26 digits, 48 bits of time in milliseconds and 80 random ones, so that names sort by age (the layout
/// of a ULID).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl RunId {
    /// A new name.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn new(now: jiff::Timestamp) -> Result<Self, getrandom::Error> {
        let mut random = [0; 10];
        getrandom::fill(&mut random)?;
        let time = u64::try_from(now.as_millisecond()).unwrap_or(0) & 0xffff_ffff_ffff;
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&time.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        let mut rest = u128::from_be_bytes(bytes);
        let mut text = [0; LENGTH];
        for digit in text.iter_mut().rev() {
            *digit = DIGITS[(rest & 31) as usize];
            rest >>= 5;
        }
        Ok(Self(text.iter().map(|digit| char::from(*digit)).collect()))
    }

    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for RunId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for RunId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.len() == LENGTH && text.bytes().all(|byte| DIGITS.contains(&byte)) {
            true => Ok(Self(text)),
            false => Err(format!("{text:?} is not the name of a run: 26 digits and small letters")),
        }
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_age_and_read_back() {
        let early = RunId::new("2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
        let late = RunId::new("2026-01-01T00:00:00.001Z".parse().unwrap()).unwrap();
        assert!(early < late);
        assert_eq!(early.as_str().parse::<RunId>().unwrap(), early);
    }

    #[test]
    fn other_text_is_no_name() {
        for text in
            ["", "x", "01hzzzzzzzzzzzzzzzzzzzzzz", "../../../../etc/passwd0000", "01HZZZZZZZZZZZZZZZZZZZZZZZ"]
        {
            text.parse::<RunId>().unwrap_err();
        }
    }
}
