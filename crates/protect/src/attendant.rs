//! Who watches work, and may stop it.

use leeward_repository::{Control, Unattended};

/// Watches work, and may stop it.
pub trait Attendant: Sync {
    /// Work of so many bytes begins; it is watched by what is returned.
    fn begins(&self, bytes: u64) -> Box<dyn Control + '_>;

    /// Something that a person should know, and what to do about it. The work goes on.
    fn warns(&self, what: &str, hint: &str);

    /// Something that a person may want to know.
    fn says(&self, _what: &str) {}

    /// Whether to stop as soon as possible.
    fn is_cancelled(&self) -> bool;
}

/// Nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Attendant for Alone {
    fn begins(&self, _bytes: u64) -> Box<dyn Control + '_> {
        Box::new(Unattended)
    }

    fn warns(&self, _what: &str, _hint: &str) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}
