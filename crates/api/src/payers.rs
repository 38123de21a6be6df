//! Who paid for which object: so that the quota that it took is given back when it is deleted.
//!
//! One small file for each object beside the ledger, or nothing but memory where the ledger has no file. It is written when the
//! object was stored and before that is acknowledged, and goes when the object has gone and the ledger has what it gave back. A
//! server that dies before it is written gives nothing back, and none ever gives back too much.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use leeward_store::Key;
use serde::{Deserialize, Serialize};

use crate::token::replace_file;

/// Prefixes whose objects are written once and deleted by collections.
pub(crate) const PAID: [&str; 4] = ["packs", "parity", "index", "snapshots"];
/// The largest file of a payer, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Who paid for an object, and what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payer {
    /// The id of the token.
    pub(crate) token: String,
    /// How often it had been reset.
    pub(crate) epoch: u32,
    /// The prefixes whose quotas it took.
    pub(crate) under: Vec<String>,
    /// Size of the object in bytes.
    pub(crate) bytes: u64,
}

/// The payers of all objects that were stored through a server.
#[derive(Default)]
pub(crate) struct Payers {
    place: Option<PathBuf>,
    memory: Mutex<HashMap<Key, Payer>>,
}

impl Payers {
    /// The payers beside a ledger.
    pub(crate) fn beside(ledger: Option<&Path>) -> Self {
        let place = ledger.map(|ledger| {
            let mut name = ledger.as_os_str().to_owned();
            name.push(".payers");
            PathBuf::from(name)
        });
        Self { place, memory: Mutex::default() }
    }

    fn memory(&self) -> MutexGuard<'_, HashMap<Key, Payer>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of an object: `PREFIX/AB/NAME`. None for objects that nobody is given anything back for.
    fn path(&self, key: &Key) -> Option<PathBuf> {
        let (prefix, name) = key.as_str().split_once('/')?;
        let is_name = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let place = self.place.as_ref().filter(|_| PAID.contains(&prefix) && is_name)?;
        Some(place.join(prefix).join(&name[..2]).join(name))
    }

    /// Remembers who paid for an object that was just stored. That it cannot be written down costs the payer what it paid.
    pub(crate) fn remember(&self, key: &Key, payer: &Payer) {
        if self.place.is_none() {
            self.memory().insert(key.clone(), payer.clone());
        }
        if let Some(path) = self.path(key)
            && let Some(parent) = path.parent()
            && std::fs::create_dir_all(parent).is_ok()
        {
            let _ = replace_file(&path, &serde_json::to_vec(payer).unwrap_or_default());
        }
    }

    /// What is remembered of an object.
    pub(crate) fn of(&self, key: &Key) -> Option<Payer> {
        if self.place.is_none() {
            return self.memory().get(key).cloned();
        }
        let path = self.path(key)?;
        let is_small = std::fs::metadata(&path).ok()?.len() <= FILE_BYTES_MAX;
        let payer = is_small.then(|| std::fs::read(&path).ok()).flatten();
        serde_json::from_slice(&payer?).ok()
    }

    /// Forgets what was remembered of objects, for good; whether that could be done for all of them.
    pub(crate) fn forget<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> bool {
        if self.place.is_none() {
            let mut memory = self.memory();
            keys.for_each(|key| drop(memory.remove(key)));
            return true;
        }
        let (mut folders, mut is_done) = (BTreeSet::new(), true);
        for path in keys.filter_map(|key| self.path(key)) {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => is_done = false,
                _ => folders.extend(path.parent().map(Path::to_owned)),
            }
        }
        // One that a loss of power brings back would be given back once more.
        let is_synced = |folder: PathBuf| match File::open(folder) {
            Ok(folder) => folder.sync_all().is_ok(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        folders.into_iter().fold(is_done, |is_done, folder| is_synced(folder) && is_done)
    }

    /// The objects of a prefix that somebody paid for.
    pub(crate) fn objects(&self, prefix: &str) -> Vec<Key> {
        let Some(place) = &self.place else {
            let is_under =
                |key: &&Key| key.as_str().split_once('/').is_some_and(|(found, _)| found == prefix);
            return self.memory().keys().filter(is_under).cloned().collect();
        };
        let files = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
        let key = |name: std::ffi::OsString| Key::under(prefix, name.to_str()?);
        files(place.join(prefix))
            .flat_map(|folder| files(folder.path()))
            .filter_map(|file| key(file.file_name()))
            .filter(|key| self.path(key).is_some())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_paid_is_known_after_a_restart_until_it_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = directory.path().join("ledger");
        let key = Key::new(format!("packs/{}", "ab".repeat(32))).unwrap();
        let payer = Payer { token: "t".to_owned(), epoch: 1, under: vec!["web".to_owned()], bytes: 7 };
        Payers::beside(Some(&ledger)).remember(&key, &payer);
        let payers = Payers::beside(Some(&ledger));
        assert_eq!(payers.objects("packs"), std::slice::from_ref(&key));
        assert!(payers.objects("index").is_empty());
        assert_eq!(payers.of(&key), Some(payer));
        assert!(payers.forget(std::iter::once(&key)) && payers.forget(std::iter::once(&key)));
        assert_eq!(payers.of(&key), None);
        // Nothing but objects that are written once.
        let session = Key::new("sessions/ab").unwrap();
        payers.remember(&session, &Payer { token: String::new(), epoch: 0, under: Vec::new(), bytes: 1 });
        assert_eq!(payers.of(&session), None);
    }
}
