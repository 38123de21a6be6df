//! How a file comes to its name: written under another, synced, named at one moment, and its folders synced.

use std::sync::atomic::Ordering;

use leeward_store::bucket::Condition;
use leeward_store::{Error, Key, Result};

use super::Sftp;
use super::files::Files;
use super::refusal::refused;
use super::wire::{Answer, status};
use crate::answer::At;
use crate::encode::hex;

/// The folder of files that are being written; no key begins with a dot.
const TEMPORARY: &str = ".leeward";
/// How old such a file is, by the server's clock, when nobody can be writing it any more. If somebody is, he fails and
/// writes again.
const LEFTOVER_SECONDS: u32 = 7 * 24 * 3600;
/// How often a name is given anew because others removed the folder, which was empty, at that moment.
const NAMINGS_MAX: usize = 20;

impl Sftp {
    /// A name for a file that is being written.
    pub(super) fn temporary(&self, at: &At<'_>) -> Result<String> {
        let mut nonce = [0; 12];
        getrandom::fill(&mut nonce)
            .map_err(|error| at.denied(format!("this machine has no random numbers: {error}")))?;
        Ok(self.path(&format!("{TEMPORARY}/{}", hex(&nonce))))
    }

    /// Writes a file under a temporary name. The folder of those is made when it is missing, the repository's is not: where
    /// its disk is not mounted, nothing shall be written to another.
    pub(super) fn upload(&self, files: &Files<'_>, temporary: &str, parts: &[&[u8]]) -> Result<()> {
        match files.write(temporary, parts, self.syncs) {
            Err(Error::NotFound { .. }) => {}
            other => return other,
        }
        files.make_folder(&self.path(TEMPORARY))?;
        match files.write(temporary, parts, self.syncs) {
            Err(Error::NotFound { .. }) => Err(files
                .at
                .denied(format!("the directory {} is not there; see that its disk is mounted", self.root))),
            other => other,
        }
    }

    /// Gives a file its name, in a folder that is made when it is missing.
    pub(super) fn publish(
        &self,
        files: &Files<'_>,
        temporary: &str,
        key: &Key,
        condition: Condition<'_>,
    ) -> Result<()> {
        let path = self.path(key.as_str());
        let creates = files.session.abilities.has("hardlink@openssh.com");
        if matches!(condition, Condition::Absent) && !creates {
            return Err(Error::Unsupported {
                store: self.name.clone(),
                what: "its SFTP server does not create names that must not be there (hardlink@openssh.com)"
                    .to_owned(),
            });
        }
        for _ in 0..NAMINGS_MAX {
            let named = match condition {
                Condition::Absent => files.link(temporary, &path)?,
                _ => files.replace(temporary, &path)?,
            };
            match named {
                Ok(()) => return self.sync_above(files, key),
                Err(Answer::Status(status::NO_SUCH_FILE, _)) => self.make_above(files, key)?,
                Err(answer) if matches!(condition, Condition::Absent) => {
                    return Err(match files.look(&path) {
                        Ok(_) => Error::AlreadyExists { store: self.name.clone(), key: key.to_string() },
                        Err(_) => refused(files.at, &answer),
                    });
                }
                Err(answer) => return Err(refused(files.at, &answer)),
            }
        }
        Err(files.at.denied("its folder cannot be made or does not stay; see whose the directory is"))
    }

    /// The folders above a key, from the highest.
    pub(super) fn above<'a>(&self, key: &'a Key) -> impl DoubleEndedIterator<Item = &'a str> + use<'a> {
        let text = key.as_str();
        let ends: Vec<usize> = text.match_indices('/').map(|(end, _)| end).collect();
        ends.into_iter().map(move |end| &text[..end])
    }

    fn make_above(&self, files: &Files<'_>, key: &Key) -> Result<()> {
        self.above(key).try_for_each(|folder| files.make_folder(&self.path(folder)))?;
        // A folder that is not durable would take with it what is in it.
        if self.syncs {
            files.sync_folder(&self.root)?;
            self.above(key).try_for_each(|folder| files.sync_folder(&self.path(folder)).map(|_| ()))?;
        }
        Ok(())
    }

    /// Syncs the nearest folder above a key that is there.
    pub(super) fn sync_above(&self, files: &Files<'_>, key: &Key) -> Result<()> {
        if !self.syncs {
            return Ok(());
        }
        for folder in self.above(key).rev() {
            if files.sync_folder(&self.path(folder))? {
                return Ok(());
            }
        }
        files.sync_folder(&self.root).map(|_| ())
    }

    /// Removes what interrupted writers left behind, once in the life of a process. `latest` is a file that was just written.
    pub(super) fn sweep(&self, files: &Files<'_>, latest: &str) {
        if self.has_swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let Some(now) = files.look(latest).ok().and_then(|attributes| attributes.changed) else { return };
        let folder = self.path(TEMPORARY);
        for (path, attributes) in files.list(&folder).unwrap_or_default() {
            if attributes.changed.is_some_and(|changed| changed.saturating_add(LEFTOVER_SECONDS) < now) {
                let _ = files.remove(&format!("{folder}{path}"));
            }
        }
    }
}
