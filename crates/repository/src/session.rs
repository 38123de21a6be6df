//! Sessions: how a writer and a collection keep out of each other's way without a lock.
//!
//! A writer registers a session before it looks at what the repository holds. Its one moment of publication is the
//! replacement of that session's record, from *open* to *committed with this snapshot*; the ref is brought up to date
//! after that, by the writer or, if it died, by whoever comes next. A collection that must go on without a writer
//! replaces the same record, from *open* to *revoked*. Both are conditional writes of one object, so exactly one of the
//! two happens, whatever the clocks say. See `docs/collection.md`.

use leeward_store::{ErrorKind as StoreErrorKind, Key, Version};
use serde::{Deserialize, Serialize};

use crate::id::{SnapshotId, from_hex, to_hex};
use crate::image::{ImageName, SnapshotEntry};
use crate::record::{Kind, RECORD_BYTES_MAX};
use crate::repository::{Repository, SNAPSHOTS, snapshot_key};
use crate::{Error, Result};

/// Prefix of the keys of sessions.
pub(crate) const SESSIONS: &str = "sessions";

/// The process behind a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Name of its machine.
    pub host: String,
    /// Identity of that machine's present run; another after each boot.
    pub boot: String,
    /// Its number there.
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot: tells it from a later process of the same number.
    pub started: u64,
}

impl Process {
    /// This process.
    #[must_use]
    pub fn current() -> Self {
        let pid = std::process::id();
        Self { host: host_name(), boot: boot_id(), pid, started: start_time(pid).unwrap_or(0) }
    }

    /// Whether it is certain that the process has ended. One on another machine is never known to have ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        if self.host != host_name() {
            return false;
        }
        let boot = boot_id();
        if boot.is_empty() || self.boot.is_empty() {
            return false;
        }
        self.boot != boot || start_time(self.pid) != Some(self.started)
    }
}

/// The name of this machine.
#[must_use]
pub fn host_name() -> String {
    read_line("/proc/sys/kernel/hostname").unwrap_or_else(|| "unknown".to_owned())
}

fn boot_id() -> String {
    read_line("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

fn read_line(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Field 22 of `/proc/PID/stat`; see proc_pid_stat(5). `None` for a process that has ended or is a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in brackets, which may hold spaces and brackets itself.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// What a session has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// Its writer is at work.
    Open,
    /// Its writer has published these snapshots, all at once.
    Committed { snapshots: Vec<Published> },
    /// Its writer may not publish any more.
    Revoked,
}

/// A snapshot that a session has published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Published {
    /// The image to whose ref it is added.
    pub(crate) image: ImageName,
    /// What the ref says of it.
    pub(crate) entry: SnapshotEntry,
}

/// The record of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionRecord {
    pub(crate) session_version: u32,
    /// Random, so that no two records are alike.
    pub(crate) id: String,
    pub(crate) process: Process,
    /// What it does, for people.
    pub(crate) purpose: String,
    pub(crate) created: String,
    pub(crate) state: State,
    /// Snapshots of another repository that it is about to publish here under the names that they have there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) copies: Vec<SnapshotId>,
    /// Whether it stands for somebody who deletes manifests by their names, see [`crate::transfer`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) deletes: bool,
}

impl SessionRecord {
    /// The record of a session that begins now.
    fn new(repository: &Repository, purpose: String) -> Result<Self> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|error| Error::Invalid(format!("the system gives no random bytes: {error}")))?;
        Ok(Self {
            session_version: 1,
            id: to_hex(&id),
            process: repository.process().clone(),
            purpose,
            created: repository.now().to_string(),
            state: State::Open,
            copies: Vec::new(),
            deletes: false,
        })
    }
}

/// The session of this writer.
#[derive(Debug)]
pub(crate) struct Session {
    key: Key,
    record: SessionRecord,
    version: Version,
}

impl Session {
    /// Registers a session.
    pub(crate) fn begin(repository: &Repository, purpose: String) -> Result<Self> {
        Self::register(repository, SessionRecord::new(repository, purpose)?)
    }

    /// Registers the session of a writer that is about to publish these snapshots under the names that they have.
    pub(crate) fn begin_copies(
        repository: &Repository,
        purpose: String,
        copies: Vec<SnapshotId>,
    ) -> Result<Self> {
        Self::register(repository, SessionRecord { copies, ..SessionRecord::new(repository, purpose)? })
    }

    /// Registers somebody who is about to delete manifests by their names.
    pub(crate) fn begin_deletion(repository: &Repository) -> Result<Self> {
        let purpose = "deletion of manifests".to_owned();
        Self::register(
            repository,
            SessionRecord { deletes: true, ..SessionRecord::new(repository, purpose)? },
        )
    }

    fn register(repository: &Repository, record: SessionRecord) -> Result<Self> {
        let key =
            session_key(&record.id).ok_or_else(|| Error::Invalid("a session has no name".to_owned()))?;
        let bytes = repository.encode_record(Kind::Session, &key, &record)?;
        repository.store().put_if_absent(&key, &[&bytes])?;
        Ok(Self { key, record, version: Version::of(&bytes) })
    }

    /// Those among snapshots whose manifests nobody but this writer can have stored: they name its session.
    pub(crate) fn own(&self, snapshots: &[Published]) -> Vec<SnapshotId> {
        let ids = snapshots.iter().map(|published| published.entry.id);
        ids.filter(|id| !self.record.copies.contains(id)).collect()
    }

    /// Its identity.
    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    /// Publishes snapshots, all of them or none: from here on they are kept, whatever happens to this process. The
    /// session is brought to its end when that fails.
    pub(crate) fn commit(mut self, repository: &Repository, snapshots: Vec<Published>) -> Result<Self> {
        let ids = self.own(&snapshots);
        self.record.state = State::Committed { snapshots };
        let bytes = repository.encode_record(Kind::Session, &self.key, &self.record)?;
        match repository.store().put_if_match(&self.key, &bytes, &self.version) {
            Ok(()) => {
                self.version = Version::of(&bytes);
                Ok(self)
            }
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                repository.withdraw_snapshots(&ids);
                // What is left of it says that it was revoked; a failure is no harm, others remove it.
                let _ = self.end(repository);
                Err(Error::Revoked { store: repository.store().name().to_owned() })
            }
            Err(error) => {
                // The first error is the one to tell; a session left behind is found to be dead by a collection.
                let _ = self.withdraw(repository, &ids);
                Err(error.into())
            }
        }
    }

    /// Ends a session whose commit has failed, unless it was made all the same: then somebody may be publishing the
    /// snapshot right now and count on the session, and whoever completes it removes it.
    fn withdraw(self, repository: &Repository, snapshots: &[SnapshotId]) -> Result<()> {
        let (bytes, _) = repository.store().get(&self.key, RECORD_BYTES_MAX)?;
        let found: SessionRecord = repository.decode_record(Kind::Session, &self.key, &bytes)?;
        match found.state {
            State::Committed { .. } => Ok(()),
            State::Open | State::Revoked => {
                repository.withdraw_snapshots(snapshots);
                self.end(repository)
            }
        }
    }

    /// Ends a session; what a committed one published must be in its ref by now.
    pub(crate) fn end(self, repository: &Repository) -> Result<()> {
        repository.store().delete(&self.key)?;
        Ok(())
    }
}

pub(crate) fn session_key(id: &str) -> Option<Key> {
    from_hex::<16>(id)?;
    Key::under(SESSIONS, id)
}

/// A session as it was found in the store.
pub(crate) struct FoundSession {
    pub(crate) key: Key,
    pub(crate) record: SessionRecord,
    pub(crate) version: Version,
}

impl FoundSession {
    /// Takes the right to publish from an open session; `false` when it was not open any more.
    pub(crate) fn revoke(&self, repository: &Repository) -> Result<bool> {
        let record = SessionRecord { state: State::Revoked, ..self.record.clone() };
        let bytes = repository.encode_record(Kind::Session, &self.key, &record)?;
        match repository.store().put_if_match(&self.key, &bytes, &self.version) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Repository {
    /// All sessions there are.
    pub(crate) fn sessions(&self) -> Result<Vec<FoundSession>> {
        self.sessions_but(Err)
    }

    /// The sessions there are, where `skip` lets pass those that cannot be read.
    fn sessions_but(&self, skip: impl Fn(Error) -> Result<()>) -> Result<Vec<FoundSession>> {
        let mut found = Vec::new();
        for entry in self.store().list(SESSIONS)? {
            let read = self.record_bytes(&entry.key).and_then(|(bytes, version)| {
                Ok((self.decode_record(Kind::Session, &entry.key, &bytes)?, version))
            });
            let (record, version) = match read {
                Ok(read) => read,
                Err(error) if error.is_not_found() => continue,
                Err(error) => {
                    skip(error)?;
                    continue;
                }
            };
            found.push(FoundSession { key: entry.key, record, version });
        }
        Ok(found)
    }

    /// Removes a session that was revoked, after the manifest that it may have stored: nothing will ever publish that.
    pub(crate) fn bury(&self, session: &FoundSession) -> Result<()> {
        let live = self.live_snapshots()?.into_iter().map(|entry| entry.id).collect();
        for (id, snapshot) in self.unpublished(&live)? {
            if snapshot.session == session.record.id {
                self.store().delete(&snapshot_key(id)?)?;
            }
        }
        // The session is what tells that manifest from one whose ref was lost.
        self.store().settle(SNAPSHOTS)?;
        self.store().delete(&session.key)?;
        Ok(())
    }

    /// Brings into the refs what dead writers had published, and removes the sessions that have come to an end. Who looks
    /// for what an earlier process has published asks for this before.
    ///
    /// # Errors
    /// A record is damaged, or the store fails.
    pub fn complete_sessions(&self) -> Result<()> {
        for session in self.sessions()? {
            self.complete(&session)?;
        }
        Ok(())
    }

    /// As [`Repository::complete_sessions`], but what is damaged of somebody else does not stop a backup: it stays for a check, and
    /// all else is completed.
    ///
    /// # Errors
    /// The store fails.
    pub fn complete_sessions_leniently(&self) -> Result<()> {
        let pass = |error| match error {
            Error::Damaged { .. } => Ok(()),
            other => Err(other),
        };
        for session in self.sessions_but(pass)? {
            self.complete(&session).or_else(pass)?;
        }
        Ok(())
    }

    fn complete(&self, session: &FoundSession) -> Result<()> {
        match &session.record.state {
            State::Open => Ok(()),
            State::Revoked => self.bury(session),
            State::Committed { snapshots } => {
                self.publish(snapshots, &session.key)?;
                self.store().delete(&session.key)?;
                Ok(())
            }
        }
    }

    /// Adds committed snapshots to the refs of their images, as far as nobody has done so before.
    ///
    /// The session is looked for after a ref was read: whoever completes a session removes it before one of its
    /// snapshots can be forgotten, so a forgotten snapshot never comes back.
    pub(crate) fn publish(&self, snapshots: &[Published], session: &Key) -> Result<()> {
        for Published { image, entry } in snapshots {
            self.change_ref(image, true, |image_ref| {
                match self.store().open(session) {
                    Ok(_) => {}
                    Err(error) if error.kind() == StoreErrorKind::NotFound => return Ok(false),
                    Err(error) => return Err(error.into()),
                }
                if image_ref.snapshots.iter().any(|other| other.is_same_as(entry)) {
                    return Ok(false);
                }
                // A copy of what was forgotten here brings that back.
                if !image_ref.undelete(entry.id) {
                    image_ref.add(entry.clone());
                }
                Ok(true)
            })?;
        }
        Ok(())
    }
}

impl Session {
    /// Brings the committed snapshots into their refs.
    pub(crate) fn publish(&self, repository: &Repository) -> Result<()> {
        match &self.record.state {
            State::Committed { snapshots } => repository.publish(snapshots, &self.key),
            State::Open | State::Revoked => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_to_have_ended_only_when_that_is_certain() {
        let own = Process::current();
        assert!(!own.has_ended());
        assert!(Process { started: own.started + 1, ..own.clone() }.has_ended());
        assert!(Process { boot: "another".to_owned(), ..own.clone() }.has_ended());
        assert!(!Process { host: "another".to_owned(), started: 1, ..own.clone() }.has_ended());
    }
}
