//! Refs, sessions, condemned lists, manifests that nothing holds.

use std::collections::HashSet;

use leeward_store::Key;

use crate::condemned::{CONDEMNED, CondemnedRecord};
use crate::id::SnapshotId;
use crate::image::{ImageName, REFS};
use crate::record::{Kind, RECORD_BYTES_MAX};
use crate::repository::{SNAPSHOTS, UNREADABLE};
use crate::session::{SESSIONS, SessionRecord, State, session_key};
use crate::{Error, Result};

use super::{Check, FROM_A_COPY, HARMLESS, LOST_REF, MEND, NO_COLLECT};

impl Check<'_> {
    pub(super) fn small_objects(&mut self) -> Result<()> {
        self.refs()?;
        self.sessions_and_lists()?;
        self.snapshots.sort_unstable();
        self.snapshots.dedup();
        if !self.has_keys() {
            return self.stored_manifests();
        }
        let published: HashSet<SnapshotId> = self.snapshots.iter().map(|(_, id)| *id).collect();
        self.stranded(&published)?;
        self.unheld_manifests(&published)
    }

    fn refs(&mut self) -> Result<()> {
        let store = self.repository.store();
        for entry in store.list(REFS)? {
            let Some(name) = ImageName::from_key(&entry.key) else {
                self.find(entry.key.as_str(), "its name is not that of an image", HARMLESS);
                continue;
            };
            match self.repository.read_ref(&name) {
                Ok(Some((image, _))) => {
                    self.snapshots.extend(image.snapshots.iter().map(|entry| (name.clone(), entry.id)));
                    // They can be brought back, so they have to be sound.
                    let forgotten = image.forgotten.iter().map(|one| (name.clone(), one.entry.id));
                    self.snapshots.extend(forgotten);
                }
                Ok(None) => {}
                Err(Error::Damaged { key, what, .. }) => {
                    let number = self.find(key, what, FROM_A_COPY);
                    self.outcome.findings[number].touches = vec![format!("{name} (all of its snapshots)")];
                    self.damage.refs.insert(name);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn sessions_and_lists(&mut self) -> Result<()> {
        let store = self.repository.store();
        for (prefix, kind) in [(SESSIONS, Kind::Session), (CONDEMNED, Kind::Condemned)] {
            for entry in store.list(prefix)? {
                let bytes = match store.get(&entry.key, RECORD_BYTES_MAX) {
                    Ok((bytes, _)) => bytes,
                    Err(error) if error.kind() == leeward_store::ErrorKind::NotFound => continue,
                    Err(error) if error.kind() == leeward_store::ErrorKind::Damaged => {
                        // Its other parts may tell what it was, and that something is published.
                        let what = match error {
                            leeward_store::Error::Damaged { what, .. } => what,
                            other => format!("{UNREADABLE}: {other}"),
                        };
                        self.damaged_record(kind, entry.key, what, MEND);
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                let flaw = match kind {
                    Kind::Session => {
                        match self.repository.decode_record::<SessionRecord>(kind, &entry.key, &bytes) {
                            Ok(SessionRecord { state: State::Committed { snapshots }, .. }) => {
                                // Published, though its writer did not get to the refs.
                                let published = snapshots.into_iter();
                                self.snapshots.extend(published.map(|one| (one.image, one.entry.id)));
                                None
                            }
                            other => other.err(),
                        }
                    }
                    _ => self.repository.decode_record::<CondemnedRecord>(kind, &entry.key, &bytes).err(),
                };
                let flaw = flaw.map(|error| match error {
                    Error::Damaged { what, .. } => what,
                    other => other.to_string(),
                });
                if let Some(what) = flaw {
                    let advice = if kind == Kind::Condemned { NO_COLLECT } else { HARMLESS };
                    self.damaged_record(kind, entry.key, what, advice);
                }
            }
        }
        Ok(())
    }

    fn damaged_record(&mut self, kind: Kind, key: Key, what: String, advice: &'static str) {
        self.find(key.as_str(), what, advice);
        let is_list = kind == Kind::Condemned;
        let found = if is_list { &mut self.damage.lists } else { &mut self.damage.sessions };
        found.push(key);
    }

    /// Snapshots whose image has no ref.
    fn stranded(&mut self, published: &HashSet<SnapshotId>) -> Result<()> {
        let store = self.repository.store();
        for (id, snapshot) in self.repository.stranded_snapshots(published)? {
            // The first backup of an image has no ref yet while it runs.
            if session_key(&snapshot.session).is_some_and(|key| store.open(&key).is_ok()) {
                continue;
            }
            let Ok(image) = snapshot.image.parse::<ImageName>() else { continue };
            let what = "it is missing, but snapshots of the image are there";
            let number = self.find(image.key()?.as_str(), what, LOST_REF);
            self.outcome.findings[number].touches.push(format!("{image}@{}", id.short()));
            self.damage.lost_refs.insert(image);
        }
        Ok(())
    }

    fn unheld_manifests(&mut self, published: &HashSet<SnapshotId>) -> Result<()> {
        let store = self.repository.store();
        for entry in store.list(SNAPSHOTS)? {
            let Ok(id) = entry.key.name().parse::<SnapshotId>() else {
                self.find(entry.key.as_str(), "its name is not a digest", HARMLESS);
                continue;
            };
            // Those that are published are read with their trees.
            if !published.contains(&id)
                && let Err(Error::Damaged { key, what, .. }) = self.repository.snapshot(id)
            {
                self.find(key, format!("{what} (no image holds it)"), HARMLESS);
                self.damage.strays.push(entry.key);
            }
        }
        Ok(())
    }
}
