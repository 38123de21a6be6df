//! How far work is, and whether it is to stop.

use serde::{Deserialize, Serialize};

/// How far work is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes of the disk that are done, zeros included.
    pub done_bytes: u64,
    /// Bytes of the disk in all.
    pub total_bytes: u64,
    /// Bytes that were moved: data, without zeros and gaps.
    pub data_bytes: u64,
}

/// Who watches a piece of work; called from any of its threads.
pub trait Watch: Sync {
    /// How far the work is. Called often: it must be cheap.
    fn progress(&self, _progress: Progress) {}

    /// Something that a person may want to know.
    fn log(&self, _line: &str) {}

    /// Whether the work is to stop with [`Error::Cancelled`](crate::Error::Cancelled). Asked often.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Nobody watches.
pub struct Quiet;

impl Watch for Quiet {}
