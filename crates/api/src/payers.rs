//! Who paid for which object: so that the quota that it took is given back when it is deleted.
//!
//! One small file for each object beside the ledger, or nothing but memory where the ledger has no file. It is written when the
//! object was stored and before that is acknowledged, and goes when the object has gone. A server that dies in between gives
//! nothing back, and never too much.

use std::collections::HashMap;
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

    /// Takes what was remembered of an object that has gone; only one of several callers gets it.
    pub(crate) fn take(&self, key: &Key) -> Option<Payer> {
        if self.place.is_none() {
            return self.memory().remove(key);
        }
        let path = self.path(key)?;
        let _turn = self.memory();
        let is_small = std::fs::metadata(&path).ok()?.len() <= FILE_BYTES_MAX;
        let payer = is_small.then(|| std::fs::read(&path).ok()).flatten();
        std::fs::remove_file(&path).ok()?;
        serde_json::from_slice(&payer?).ok()
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
    fn what_was_paid_is_known_after_a_restart_and_given_back_once() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = directory.path().join("ledger");
        let key = Key::new(format!("packs/{}", "ab".repeat(32))).unwrap();
        let payer = Payer { token: "t".to_owned(), epoch: 1, under: vec!["web".to_owned()], bytes: 7 };
        Payers::beside(Some(&ledger)).remember(&key, &payer);
        let payers = Payers::beside(Some(&ledger));
        assert_eq!(payers.objects("packs"), std::slice::from_ref(&key));
        assert!(payers.objects("index").is_empty());
        assert_eq!(payers.take(&key), Some(payer));
        assert_eq!(payers.take(&key), None);
        // Nothing but objects that are written once.
        let session = Key::new("sessions/ab").unwrap();
        payers.remember(&session, &Payer { token: String::new(), epoch: 0, under: Vec::new(), bytes: 1 });
        assert_eq!(payers.take(&session), None);
    }
}
