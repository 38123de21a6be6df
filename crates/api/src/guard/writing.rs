//! What a token may change.

use jiff::Timestamp;
use leeward_repository::verify::{Inspected, RefRecord, SessionState, inspect};
use leeward_repository::{ImageName, PackId, SnapshotEntry};
use leeward_store::{Key, Version};

use super::history::{added, is_of_now, session_step};
use super::reading::unknown;
use super::{Condition, Content, Guard, image_of, key_under, parts, rules, who};
use crate::problem::{Code, Problem};
use crate::token::{Role, Token, TokenFile};

impl Guard {
    /// Refuses at once what the role may never write, before a body is read.
    ///
    /// # Errors
    /// The token may not write such an object.
    pub fn may_write(&self, token: &Token, key: &Key, condition: &Condition) -> Result<(), Problem> {
        if self.content == Content::Opaque {
            return Ok(());
        }
        let denied = |what: &str| Err(Problem::denied(format!("{} may not write {key}: {what}", who(token))));
        let (prefix, name) = parts(key);
        if token.role == Role::Reader {
            return denied("it may only read");
        }
        match prefix {
            "packs" | "parity" | "index" | "snapshots" if *condition != Condition::Absent => {
                denied("what is named by its content is never replaced")
            }
            "packs" | "parity" | "index" | "snapshots" | "sessions" => Ok(()),
            "refs" => match image_of(name) {
                Some(image) if token.covers(&image) => Ok(()),
                _ => denied("it lies outside its images"),
            },
            "condemned" if rules(token) && !token.is_confined() => Ok(()),
            "condemned" => denied("only an operator of all images may collect"),
            "config" | "keys" if token.role == Role::Admin && !token.is_confined() => Ok(()),
            "config" | "keys" => denied("only an admin of all images may"),
            _ => Err(unknown(key)),
        }
    }

    /// Checks and writes an object; its version.
    ///
    /// # Errors
    /// The object is not what its name says, the token may not write it, the condition does not hold, the quota is used up,
    /// or the store fails.
    pub fn write(
        &self,
        token: &Token,
        tokens: &TokenFile,
        key: &Key,
        condition: &Condition,
        bytes: &[u8],
    ) -> Result<Version, Problem> {
        self.may_write(token, key, condition)?;
        if self.content == Content::Repository {
            let inspected = inspect(key.as_str(), bytes).map_err(|what| {
                Problem::rejected(format!("{} sent {key}, which cannot be accepted: {what}", who(token)))
            })?;
            self.check(token, key, condition, &inspected)?;
        }
        let charge = || self.ledger.charge(token, tokens, bytes.len() as u64);
        let charge = match charge() {
            Err(problem) if problem.code == Code::Full && self.ledger.look_for_deleted(&self.store) => {
                charge()?
            }
            other => other?,
        };
        let is_new_session = parts(key).0 == "sessions" && *condition == Condition::Absent;
        let owned = match is_new_session {
            true => self.begin_session(token, key).inspect_err(|_| self.ledger.refund(&charge))?,
            false => false,
        };
        let written = match condition {
            Condition::Absent => self.store.put_if_absent(key, &[bytes]),
            Condition::Matches(version) => self.store.put_if_match(key, bytes, version),
        };
        match written {
            Ok(()) => {
                self.ledger.paid(&charge, key);
                Ok(Version::of(bytes))
            }
            Err(error) => {
                self.ledger.refund(&charge);
                if owned {
                    self.ledger.disown(key.name());
                }
                Err(error.into())
            }
        }
    }

    /// Writes down whose a new session is; `false` when it was written down before. One that is there already, made by
    /// somebody who did not come through the server, becomes nobody's by that.
    fn begin_session(&self, token: &Token, key: &Key) -> Result<bool, Problem> {
        if self.exists(key)? {
            return Err(Problem::new(
                Code::Exists,
                format!("object {key} exists already"),
                "use it as it is",
            ));
        }
        self.ledger.own(key.name(), token)
    }

    /// What the object refers to has to be there, and a writer has to keep what was there.
    fn check(&self, token: &Token, key: &Key, condition: &Condition, new: &Inspected) -> Result<(), Problem> {
        match new {
            Inspected::Run(packs) => self.packs_are_there(token, key, packs),
            Inspected::Manifest(Some(image)) if !token.covers(image) => Err(Problem::denied(format!(
                "{} may not write {key}: it is a snapshot of {image}, outside its images",
                who(token)
            ))),
            Inspected::Ref(record) => self.check_ref(token, key, condition, record),
            Inspected::Session(state) => self.check_session(token, key, condition, state),
            _ => Ok(()),
        }
    }

    fn packs_are_there(&self, token: &Token, key: &Key, packs: &[PackId]) -> Result<(), Problem> {
        for pack in packs {
            let pack = key_under("packs", &pack.to_string())?;
            if !self.exists(&pack)? {
                return Err(Problem::rejected(format!(
                    "{} sent {key}, which speaks of {pack}: that is not here",
                    who(token)
                )));
            }
        }
        Ok(())
    }

    /// A snapshot that is published has its manifest, which is of an image of the token where it can be read.
    fn manifest_is_there(
        &self,
        token: &Token,
        key: &Key,
        image: &ImageName,
        entry: &SnapshotEntry,
    ) -> Result<(), Problem> {
        let manifest = key_under("snapshots", &entry.id.to_string())?;
        if !self.exists(&manifest)? {
            return Err(Problem::rejected(format!(
                "{} sent {key}, which publishes snapshot {} of {image} without its manifest",
                who(token),
                entry.id.short()
            )));
        }
        match self.manifest_image(&manifest)? {
            Some(other) if !token.covers(&other) => Err(Problem::denied(format!(
                "{} may not publish snapshot {}: it is of {other}, outside its images",
                who(token),
                entry.id.short()
            ))),
            _ => Ok(()),
        }
    }

    fn check_ref(
        &self,
        token: &Token,
        key: &Key,
        condition: &Condition,
        new: &RefRecord,
    ) -> Result<(), Problem> {
        let old = match condition {
            Condition::Absent => None,
            Condition::Matches(expected) => match self.record(key)? {
                Some((Inspected::Ref(old), version)) if version == *expected => Some(old),
                // The comparison of the store tells it.
                _ => return self.store_conflict(key),
            },
        };
        let image = &new.image_ref.image;
        let refused = |what: String| Problem::denied(format!("{} may not replace {key}: {what}", who(token)));
        if rules(token) {
            // Nobody ever goes back, not even by mistake: who witnesses refs would rightly take it for a fraud.
            let before = old.as_ref().map_or(0, |old| old.image_ref.generation);
            if new.image_ref.generation <= before {
                return Err(refused(format!(
                    "its generation goes from {before} to {}",
                    new.image_ref.generation
                )));
            }
            let known: Vec<_> =
                old.iter().flat_map(|old| old.image_ref.snapshots.iter().map(|entry| entry.id)).collect();
            let fresh = new.image_ref.snapshots.iter().filter(|entry| !known.contains(&entry.id));
            return fresh.into_iter().try_for_each(|entry| self.manifest_is_there(token, key, image, entry));
        }
        let now = Timestamp::now();
        for entry in added(old.as_ref(), new).map_err(refused)? {
            is_of_now(entry, now).map_err(refused)?;
            self.manifest_is_there(token, key, image, entry)?;
        }
        Ok(())
    }

    fn store_conflict(&self, key: &Key) -> Result<(), Problem> {
        Err(Problem::new(
            Code::Conflict,
            format!("object {key} was changed by somebody else in the meantime"),
            "read it again and decide anew",
        ))
    }

    fn check_session(
        &self,
        token: &Token,
        key: &Key,
        condition: &Condition,
        new: &SessionState,
    ) -> Result<(), Problem> {
        let refused = |what: String| Problem::denied(format!("{} may not write {key}: {what}", who(token)));
        match condition {
            Condition::Absent if *new != SessionState::Open && !rules(token) => {
                return Err(refused("a session begins open".to_owned()));
            }
            Condition::Absent => {}
            Condition::Matches(_) if rules(token) && !token.is_confined() => {}
            Condition::Matches(expected) => {
                if !self.ledger.owns(key.name(), token) {
                    return Err(refused("it is the session of another token".to_owned()));
                }
                match self.record(key)? {
                    Some((Inspected::Session(old), version)) if version == *expected => {
                        session_step(&old, new).map_err(refused)?;
                    }
                    _ => return self.store_conflict(key),
                }
            }
        }
        let SessionState::Committed(published) = new else { return Ok(()) };
        let now = Timestamp::now();
        for (image, entry) in published {
            if !token.covers(image) {
                return Err(refused(format!("it publishes a snapshot of {image}, outside its images")));
            }
            if !rules(token) {
                is_of_now(entry, now).map_err(refused)?;
            }
            self.manifest_is_there(token, key, image, entry)?;
        }
        Ok(())
    }

    /// Deletes an object; `false` when it was not there.
    ///
    /// # Errors
    /// The token may not, or the store fails.
    pub fn delete(&self, token: &Token, key: &Key) -> Result<bool, Problem> {
        let (prefix, _) = parts(key);
        let is_all = rules(token) && !token.is_confined();
        let denied =
            |what: &str| Err(Problem::denied(format!("{} may not delete {key}: {what}", who(token))));
        match prefix {
            _ if self.content == Content::Opaque => {}
            "sessions" if is_all => {}
            "sessions" if token.role != Role::Reader => self.may_end_session(token, key)?,
            "config" => return denied("a repository is not deleted through its server"),
            "refs" => return denied("no ref is ever deleted; forget its snapshots instead"),
            "keys" if is_all && token.role == Role::Admin => {}
            "keys" => return denied("only an admin of all images may"),
            "packs" | "parity" | "index" | "snapshots" | "condemned" if is_all => {}
            _ => return denied("only an operator of all images may"),
        }
        let was_there = self.store.delete(key)?;
        self.ledger.deleted(key);
        if prefix == "sessions" {
            self.ledger.disown(key.name());
        }
        Ok(was_there)
    }

    /// A writer ends its own session; and any that is committed, once all that it published is in the refs: so a backup
    /// completes what another could not, and loses nothing of it.
    fn may_end_session(&self, token: &Token, key: &Key) -> Result<(), Problem> {
        match self.record(key)? {
            None => Ok(()),
            Some((Inspected::Session(SessionState::Committed(published)), _)) => {
                published.iter().try_for_each(|(image, entry)| self.is_in_ref(token, key, image, entry))
            }
            Some(_) if self.ledger.owns(key.name(), token) => Ok(()),
            Some(_) => Err(Problem::denied(format!(
                "{} may not delete {key}: it is the session of another token",
                who(token)
            ))),
        }
    }

    fn is_in_ref(
        &self,
        token: &Token,
        key: &Key,
        image: &ImageName,
        entry: &SnapshotEntry,
    ) -> Result<(), Problem> {
        let name = key_under("refs", &image.as_str().replace('/', "%2F"))?;
        match self.record(&name)? {
            Some((Inspected::Ref(record), _)) if record.image_ref.entry(entry.id).is_some() => Ok(()),
            _ => Err(Problem::denied(format!(
                "{} may not delete {key}: its snapshot {} is not in the ref of {image} yet",
                who(token),
                entry.id.short()
            ))),
        }
    }
}
