//! How far a write is.

use serde::{Deserialize, Serialize};

use crate::digest::HashState;
use crate::identity::{SourceIdentity, TargetIdentity};
use crate::ledger::{RangeDigests, Settled, UNIT_BYTES};
use crate::{Error, Result};

/// The version of what is kept.
const VERSION: u32 = 1;

/// All before its position is on the volume, durably. To be kept as JSON, 100 KiB at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The version of its form.
    pub version: u32,
    /// What is written.
    pub source: SourceIdentity,
    /// Onto what.
    pub target: TargetIdentity,
    /// How far, in bytes of the volume.
    pub position: u64,
    /// Bytes of data among them.
    pub data_bytes: u64,
    /// What was written.
    pub digests: RangeDigests,
    /// How far the object's own digests are.
    pub hash: Option<HashState>,
}

impl Checkpoint {
    /// Whether the whole volume is written.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.position == self.target.bytes
    }

    /// Where to begin: at the start, or at a checkpoint if it belongs to the same disk and volume.
    pub(super) fn start(
        source: &SourceIdentity,
        target: &TargetIdentity,
        from: Option<&Self>,
    ) -> Result<Self> {
        match from {
            Some(from) => {
                from.check(source, target)?;
                Ok(from.clone())
            }
            None => Ok(Self {
                version: VERSION,
                source: source.clone(),
                target: target.clone(),
                position: 0,
                data_bytes: 0,
                digests: RangeDigests::new(target.bytes),
                hash: None,
            }),
        }
    }

    fn check(&self, source: &SourceIdentity, target: &TargetIdentity) -> Result<()> {
        let differs = |what: &str, kept: &dyn std::fmt::Debug, now: &dyn std::fmt::Debug| {
            Err(Error::Checkpoint { what: format!("its {what} is {kept:?}, and here it is {now:?}") })
        };
        if self.version != VERSION {
            return differs("version", &self.version, &VERSION);
        }
        if self.target != *target {
            return differs("volume", &self.target, target);
        }
        if self.source != *source {
            return differs("source", &self.source, source);
        }
        let is_aligned = self.position.is_multiple_of(UNIT_BYTES) || self.position == target.bytes;
        if !is_aligned || self.position > target.bytes || !self.digests.are_of(self.position, target.bytes) {
            return Err(Error::Checkpoint {
                what: "its position and its digests do not fit together".to_owned(),
            });
        }
        Ok(())
    }

    pub(super) fn settled(&self) -> Settled {
        Settled {
            position: self.position,
            digests: self.digests.clone(),
            data_bytes: self.data_bytes,
            hash: self.hash.clone(),
        }
    }

    pub(super) fn at(&self, settled: &Settled) -> Self {
        Self {
            position: settled.position,
            data_bytes: settled.data_bytes,
            digests: settled.digests.clone(),
            hash: settled.hash.clone(),
            ..self.clone()
        }
    }
}
