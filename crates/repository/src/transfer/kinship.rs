//! What two repositories have in common, and so what may travel untouched.

use crate::repository::Repository;

impl Repository {
    /// Whether equal content has equal names in both: chunks, nodes and snapshots.
    #[must_use]
    pub fn shares_names_with(&self, other: &Self) -> bool {
        let (a, b) = (self.config(), other.config());
        // Two sets of keys are the same when they name the same thing alike; that needs no look at the keys themselves.
        let names = |repository: &Self| {
            let keys = repository.keys();
            (keys.chunk(b""), keys.node(b""), keys.snapshot(b""))
        };
        (a.chunk_bits, a.fanout_bits) == (b.chunk_bits, b.fanout_bits) && names(self) == names(other)
    }

    /// Whether a stored frame of one can be read in the other. Without encryption it always can.
    #[must_use]
    pub fn shares_cipher_with(&self, other: &Self) -> bool {
        self.shares_names_with(other)
    }
}
