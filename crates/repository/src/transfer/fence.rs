//! Keeping those who delete manifests by name apart from those who publish under a name that was there before.
//!
//! The manifest of a backup is its own: it names the session that made it. That of a copy is not. The same name may have
//! been stored here by a transfer that died, or may have been forgotten and be on a list to be deleted. So whoever
//! deletes manifests first registers as one who deletes, and then spares what a writer that is at work says that it
//! copies; whoever copies first registers with the names, and then waits for those who were deleting before. Of two
//! parties at least one sees the other (`docs/collection.md`).

use std::collections::HashSet;

use crate::id::SnapshotId;
use crate::repository::{Repository, snapshot_key};
use crate::session::{Session, State};
use crate::{Error, Result};

impl Repository {
    /// Deletes manifests that a decided list names, but for those that are published, or that somebody is about to
    /// publish, once more.
    pub(crate) fn delete_manifests(&self, ids: &[SnapshotId]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let session = Session::begin_deletion(self)?;
        let deleted = self.delete_unclaimed(ids);
        let ended = session.end(self);
        deleted?;
        ended
    }

    fn delete_unclaimed(&self, ids: &[SnapshotId]) -> Result<()> {
        // Open sessions before what is published: one that commits between the two looks is seen twice, never missed.
        let mut spared: HashSet<SnapshotId> = HashSet::new();
        for session in self.sessions()? {
            if session.record.state == State::Open {
                spared.extend(session.record.copies);
            }
        }
        spared.extend(self.live_snapshots()?.into_iter().map(|entry| entry.id));
        for id in ids.iter().filter(|id| !spared.contains(id)) {
            self.store().delete(&snapshot_key(*id)?)?;
        }
        Ok(())
    }

    /// Makes sure that nobody who began before now is still deleting manifests.
    ///
    /// # Errors
    /// [`Error::Contended`] when somebody is.
    pub(crate) fn await_deletions(&self) -> Result<()> {
        let is_deleting = self.sessions()?.into_iter().find(|session| {
            let record = &session.record;
            record.deletes && record.state == State::Open && !self.has_ended(&record.process)
        });
        match is_deleting {
            None => Ok(()),
            Some(session) => Err(Error::Contended {
                store: self.location().to_owned(),
                key: format!("{} (a collection that deletes manifests)", session.key),
            }),
        }
    }
}
