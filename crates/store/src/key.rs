//! Keys of objects.

use std::fmt;

/// The key of an object: segments of letters, digits, `-`, `_`, `.` and `%`, separated by `/`.
/// No segment is empty or begins with a dot, so a key can never leave the directory of a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

/// The longest key, in bytes.
const LENGTH_MAX: usize = 512;
/// The longest segment, in bytes: what file systems take for a name.
const SEGMENT_LENGTH_MAX: usize = 255;

impl Key {
    /// Checks and takes a key; `None` when it is not one.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let sound = text.len() <= LENGTH_MAX && text.split('/').all(is_segment);
        sound.then_some(Self(text))
    }

    /// The key of `name` under `prefix`; `None` when that is not a key.
    #[must_use]
    pub fn under(prefix: &str, name: &str) -> Option<Self> {
        Self::new(format!("{prefix}/{name}"))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

fn is_segment(segment: &str) -> bool {
    !segment.is_empty()
        && segment.len() <= SEGMENT_LENGTH_MAX
        && !segment.starts_with('.')
        && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.%".contains(&byte))
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn keys_cannot_leave_their_directory() {
        for bad in ["", "/", "a/", "/a", "a//b", "..", "a/../b", ".hidden", "a/.b", "a b", "a\0b", "ä"] {
            assert_eq!(Key::new(bad), None, "{bad:?}");
        }
        for good in ["config", "packs/00ff", "refs/web-01%2Froot", "a/b..c"] {
            assert!(Key::new(good).is_some(), "{good:?}");
        }
    }
}
