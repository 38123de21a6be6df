//! What a check does where keys are missing, and what it does about wrapped keys.

use std::collections::HashSet;

use super::{Check, FROM_A_COPY, HARMLESS};
use crate::Result;
use crate::id::SnapshotId;
use crate::record::{self, Kind, RECORD_BYTES_MAX};
use crate::repository::{SNAPSHOTS, UNREADABLE, snapshot_key};

const NO_TREES: &str = "without a key: trees, names of content, and who wrote the records";
const NO_CHUNKS: &str = "with a write-only key: the content of chunks, only their stored bytes";
const ASK_KEY: &str = "check with a key: only that tells whether a snapshot needs it";
const REMOVE_KEY: &str =
    "if nobody misses it, remove it with key remove; else restore it from another copy of the repository";

impl Check<'_> {
    /// Says what a check with these keys cannot look into.
    pub(super) fn tell_limits(&mut self) {
        let keyring = self.repository.keyring();
        if keyring.is_locked() {
            self.outcome.not_checked.push(NO_TREES);
        } else if !keyring.reads_chunks() {
            self.outcome.not_checked.push(NO_CHUNKS);
        }
    }

    /// Whether there are keys, or none are needed.
    pub(super) fn has_keys(&self) -> bool {
        !self.repository.keyring().is_locked()
    }

    /// Says of packs that are missing that a key would tell whether anything needs them: a run may go on speaking of a pack
    /// that a collection deleted.
    pub(super) fn doubt_missing(&mut self) {
        for number in std::mem::take(&mut self.missing) {
            self.outcome.findings[number].advice = ASK_KEY;
        }
    }

    /// The wrapped keys: each must be what it was when it was stored.
    pub(super) fn wrapped_keys(&mut self) -> Result<()> {
        if self.repository.keyring().is_plain() {
            return Ok(());
        }
        for slot in self.repository.slots()? {
            if let Some(flaw) = slot.flaw() {
                self.find(slot.key.as_str(), flaw, REMOVE_KEY);
            }
        }
        Ok(())
    }

    /// The manifests, as far as they can be checked without keys: every one that is published must be there, and all must
    /// match their digests.
    pub(super) fn stored_manifests(&mut self) -> Result<()> {
        let published = std::mem::take(&mut self.snapshots);
        let ids: HashSet<SnapshotId> = published.iter().map(|(_, id)| *id).collect();
        for (image, id) in published {
            let flaw = self.stored_manifest(id)?;
            let Some(flaw) = flaw else { continue };
            // Forgotten while the check ran?
            if self.repository.read_ref(&image)?.is_some_and(|(image, _)| image.entry(id).is_some()) {
                let number = self.find(snapshot_key(id)?.as_str(), flaw, FROM_A_COPY);
                self.outcome.findings[number].touches.push(format!("{image}@{}", id.short()));
            }
        }
        for entry in self.repository.store().list(SNAPSHOTS)? {
            let Ok(id) = entry.key.name().parse::<SnapshotId>() else { continue };
            if !ids.contains(&id)
                && let Some(flaw) = self.stored_manifest(id)?
            {
                self.find(entry.key.as_str(), format!("{flaw} (no image holds it)"), HARMLESS);
            }
        }
        Ok(())
    }

    /// What is wrong with the stored bytes of a manifest, if anything is.
    fn stored_manifest(&self, id: SnapshotId) -> Result<Option<String>> {
        match self.repository.store().get(&snapshot_key(id)?, RECORD_BYTES_MAX) {
            Ok((bytes, _)) => {
                Ok(record::check_stored(Kind::Snapshot, &bytes, self.repository.keyring()).err())
            }
            Err(error) if error.kind() == leeward_store::ErrorKind::NotFound => {
                Ok(Some("the manifest is missing".to_owned()))
            }
            Err(error) if error.is_bad_place() => Ok(Some(format!("{UNREADABLE}: {error}"))),
            Err(error) => Err(error.into()),
        }
    }
}
