//! Transfer: snapshots travel from one repository to another.
//!
//! What the target lacks is found by walking the wanted trees beside one that it has published; equal subtrees are
//! skipped, everything else is looked up. Missing chunks travel in frames, as they are stored where that is possible
//! ([`frames`]). The target is written by an ordinary writer in one session, so all that `docs/collection.md` says of
//! writers holds here.
//!
//! What always holds:
//! - what is read is compared with its names before it is stored, and a snapshot is published only when everything
//!   below it is stored and in the index;
//! - where both repositories name content alike, a snapshot keeps its manifest and so its name; where they do not, it is
//!   read, named and stored anew, and remembers the name that it came from ([`rename`]);
//! - a snapshot that is there already is not sent again: to know that, only refs are read ([`select`]);
//! - what cannot be read at the source is named, and does not keep other snapshots from travelling.

mod copy;
mod count;
mod estimate;
mod fence;
mod frames;
mod labels;
mod mirror;
mod relay;
mod rename;
mod select;
mod verify;
mod walk;

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

pub use count::{CountedStore, Traffic, TrafficClass, TrafficReport};
pub use estimate::Estimate;
pub use mirror::{Extra, Stale};
pub use relay::{Lacking, Relay, Relayed, WholePack, rename_pack};
pub use select::{Pick, Selection};

use crate::backup::Control;
use crate::id::SnapshotId;
use crate::image::ImageName;
use crate::repository::Repository;
use crate::{ErrorKind, Result};
use select::Selected;

/// Which side is quick to read, where both have what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Near {
    /// The repository that is read: snapshots are pushed.
    From,
    /// The repository that is written: snapshots are pulled.
    To,
}

/// How to transfer.
#[derive(Debug, Clone)]
pub struct TransferOptions {
    /// Which side is quick to read.
    pub near: Near,
    /// Frames that are read, checked and passed on at once; each takes three times the size of a frame, 6 MiB by default.
    pub in_flight: usize,
    /// Whether to walk the new snapshots once more in the target when they are published.
    pub verify: bool,
    /// How long to wait for a collection that is just deleting manifests at the target.
    pub patience: Duration,
    /// Whether the source only carries what comes from elsewhere, as a seed does: copies then say where it came from, and
    /// not that they came from the source.
    pub is_carried: bool,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            near: Near::From,
            in_flight: 8,
            verify: false,
            patience: Duration::from_secs(30),
            is_carried: false,
        }
    }
}

/// A snapshot that travelled, or would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Travelled {
    /// Its image, on both sides.
    pub image: ImageName,
    /// Its name at the source.
    pub snapshot: SnapshotId,
    /// Its name at the target; the same where both repositories name content alike.
    pub copy: SnapshotId,
    /// When it was backed up.
    pub created: Timestamp,
    /// Size of the disk that a guest sees, in bytes.
    pub virtual_size: u64,
}

/// A snapshot that could not travel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Its image.
    pub image: ImageName,
    /// Its name at the source.
    pub snapshot: SnapshotId,
    /// What is wrong, with the name of the damaged object.
    pub reason: String,
}

/// What a transfer did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TransferOutcome {
    /// Snapshots that travelled, in the order in which they were made.
    pub snapshots: Vec<Travelled>,
    /// Snapshots that cannot be had at the source.
    pub refused: Vec<Refused>,
    /// Snapshots that were there already.
    pub present: usize,
    /// Snapshots among those whose tags or holds were added to.
    pub labelled: usize,
    /// Tree nodes that were read at the source.
    pub nodes_examined: u64,
    /// Chunks that were looked up at the target, or compared with those of a snapshot there.
    pub chunks_examined: u64,
    /// Tree nodes that were stored.
    pub nodes_sent: u64,
    /// Chunks that were stored because the target lacked them.
    pub chunks_sent: u64,
    /// Their content in bytes, before compression.
    pub content_bytes: u64,
    /// Frames that were passed on as they are stored at the source.
    pub frames_untouched: u64,
    /// Frames of which only a part was wanted: they were encoded anew.
    pub frames_encoded: u64,
    /// Bytes that were added to the target: packs and index.
    pub stored_bytes: u64,
    /// Whether the snapshots got other names, because the repositories name content differently.
    pub is_renamed: bool,
    /// What went from store to store without passing this process.
    pub relayed: Option<Relayed>,
}

/// A comparison of what is wanted of one repository with what another has, ready to be acted upon.
pub struct Transfer<'a> {
    from: &'a Repository,
    to: &'a Repository,
    selected: Selected,
}

impl Repository {
    /// Compares the wanted snapshots with those of another repository. Only refs and sessions are read.
    ///
    /// # Errors
    /// A wanted image or snapshot is not there, a ref is damaged, or a store fails.
    pub fn prepare_transfer<'a>(&'a self, to: &'a Self, selection: &Selection) -> Result<Transfer<'a>> {
        let selected = select::select(self, to, selection)?;
        Ok(Transfer { from: self, to, selected })
    }
}

impl Transfer<'_> {
    /// The snapshots that the target lacks, oldest first. None of them has its name at the target yet.
    #[must_use]
    pub fn missing(&self) -> Vec<Travelled> {
        self.selected.missing.iter().map(|candidate| candidate.travelled(candidate.entry.id)).collect()
    }

    /// How many of the wanted snapshots the target has.
    #[must_use]
    pub fn present(&self) -> usize {
        self.selected.present
    }

    /// The sizes of the missing disks together, in bytes: what [`Control::advance`] comes to.
    #[must_use]
    pub fn virtual_bytes(&self) -> u64 {
        self.selected.missing.iter().map(|candidate| candidate.entry.virtual_size).sum()
    }

    /// Why no pack can be moved whole from the one repository to the other, whoever could do that; nothing where it can.
    #[must_use]
    pub fn why_not_whole(&self) -> Option<&'static str> {
        if !self.from.shares_names_with(self.to) {
            return Some(
                "the repositories name content differently, so all of it is named and encoded anew here",
            );
        }
        (!self.from.shares_cipher_with(self.to)).then_some(
            "what is stored in the one repository cannot be passed on to the other as it is: that takes full keys, and of one \
             secret",
        )
    }

    /// Sends what is missing. When this returns, the snapshots of the outcome survive anything at the target.
    ///
    /// # Errors
    /// A store fails, the target is damaged, the work is cancelled, or a collection declared this writer dead. What was
    /// stored until then is used by the next run.
    pub fn run(&self, options: &TransferOptions, control: &dyn Control) -> Result<TransferOutcome> {
        self.run_with(options, None, control)
    }

    /// As [`Transfer::run`]; what is worth it is moved by somebody else, where there is one.
    ///
    /// # Errors
    /// As [`Transfer::run`], or the mover says that the transfer is to end.
    pub fn run_with(
        &self,
        options: &TransferOptions,
        relay: Option<&dyn Relay>,
        control: &dyn Control,
    ) -> Result<TransferOutcome> {
        let mut outcome = TransferOutcome {
            present: self.selected.present,
            is_renamed: !self.from.shares_names_with(self.to),
            ..TransferOutcome::default()
        };
        if !self.selected.missing.is_empty() {
            if outcome.is_renamed {
                rename::run(self, options, control, &mut outcome)?;
            } else {
                copy::run(self, options, relay, control, &mut outcome)?;
            }
        }
        outcome.labelled = labels::merge(self.to, &self.selected.matches)?;
        if options.verify {
            verify::verify(self.to, &outcome.snapshots)?;
        }
        Ok(outcome)
    }
}

/// Whether an error of the source concerns what is stored there, and not the medium or the caller.
fn is_damage(error: &crate::Error) -> bool {
    matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound)
}
