//! What a server has to remember of its clients: how much each has stored, and which session is whose.
//!
//! It is written down before what it counts is acknowledged, so a restart forgets nothing; a server that dies between the
//! two has counted an object that is not there, never the other way round.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use leeward_store::{Key, SharedStore};
use serde::{Deserialize, Serialize};

use crate::payers::{PAID, Payer, Payers};
use crate::problem::{Code, Problem};
use crate::token::{Token, TokenFile, is_under, replace_file};

/// The most sessions of which the owner is kept.
const SESSIONS_MAX: usize = 100_000;
/// How long to wait at least before objects are looked for again that were deleted behind the server's back.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Used {
    epoch: u32,
    bytes: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Content {
    ledger_version: u32,
    /// By the id of the token.
    used: BTreeMap<String, Used>,
    /// By prefix.
    used_under: BTreeMap<String, u64>,
    /// The id of the token that made a session.
    sessions: BTreeMap<String, String>,
}

/// What was stored with tokens, as the ledger of a server in a file has it now.
///
/// # Errors
/// The ledger cannot be read.
pub fn ledger_of(path: &Path) -> std::io::Result<impl Fn(&Token) -> u64 + use<>> {
    let ledger = Ledger::open(Some(path))?;
    Ok(move |token: &Token| ledger.used(token))
}

/// The ledger of a server, in a file or in memory alone.
pub(crate) struct Ledger {
    path: Option<PathBuf>,
    content: Mutex<Content>,
    payers: Payers,
    looked: Mutex<Option<Instant>>,
}

/// What was counted for a write; taken back when nothing was written.
#[must_use]
pub(crate) struct Charge {
    payer: Payer,
}

impl Ledger {
    /// The ledger in a file, which is made where it is missing; in memory alone without one.
    pub(crate) fn open(path: Option<&Path>) -> std::io::Result<Self> {
        let content = match path.map(std::fs::read) {
            Some(Ok(bytes)) => serde_json::from_slice(&bytes).map_err(std::io::Error::other)?,
            Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => Content { ledger_version: 1, ..Content::default() },
        };
        let (content, looked) = (Mutex::new(content), Mutex::default());
        Ok(Self { path: path.map(Path::to_owned), content, payers: Payers::beside(path), looked })
    }

    fn change<T>(&self, act: impl FnOnce(&mut Content) -> Result<T, Problem>) -> Result<T, Problem> {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let before = content.clone();
        let done = act(&mut content)?;
        let Some(path) = &self.path else { return Ok(done) };
        let written = serde_json::to_vec(&*content).map_err(std::io::Error::other);
        if written.and_then(|bytes| replace_file(path, &bytes)).is_err() {
            *content = before;
            return Err(Problem::new(
                Code::Full,
                "the server cannot write down what was stored; nothing was stored",
                "see that the place of the server's file of tokens can be written, then run the command again",
            ));
        }
        Ok(done)
    }

    /// Bytes that were stored with a token.
    pub(crate) fn used(&self, token: &Token) -> u64 {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        content.used.get(&token.id).filter(|used| used.epoch == token.epoch).map_or(0, |used| used.bytes)
    }

    /// Counts bytes that are about to be stored, if the quotas leave room for them.
    pub(crate) fn charge(&self, token: &Token, tokens: &TokenFile, bytes: u64) -> Result<Charge, Problem> {
        let under: Vec<String> = tokens
            .prefix_quotas
            .keys()
            .filter(|quota| token.prefixes.iter().any(|prefix| is_under(prefix, quota)))
            .cloned()
            .collect();
        self.change(|content| {
            for prefix in &under {
                let used = content.used_under.get(prefix).copied().unwrap_or(0);
                let quota = tokens.prefix_quotas.get(prefix).copied().unwrap_or(u64::MAX);
                has_room(&format!("the images under {prefix}"), used, bytes, quota)?;
            }
            let used = content.used.entry(token.id.clone()).or_default();
            if used.epoch != token.epoch {
                *used = Used { epoch: token.epoch, bytes: 0 };
            }
            has_room(
                &format!("token {:?}", token.name),
                used.bytes,
                bytes,
                token.quota_bytes.unwrap_or(u64::MAX),
            )?;
            used.bytes = used.bytes.saturating_add(bytes);
            for prefix in &under {
                let used = content.used_under.entry(prefix.clone()).or_default();
                *used = used.saturating_add(bytes);
            }
            Ok(())
        })?;
        Ok(Charge { payer: Payer { token: token.id.clone(), epoch: token.epoch, under, bytes } })
    }

    /// Takes a charge back: what it was for was not written. A failure to write that down leaves it counted.
    pub(crate) fn refund(&self, charge: &Charge) {
        self.give_back(&charge.payer);
    }

    /// Remembers what a charge was for, now that it is stored.
    pub(crate) fn paid(&self, charge: &Charge, key: &Key) {
        if PAID.contains(&key.as_str().split_once('/').map_or("", |(prefix, _)| prefix)) {
            self.payers.remember(key, &charge.payer);
        }
    }

    /// Gives back what an object took that has been deleted.
    pub(crate) fn deleted(&self, key: &Key) {
        if let Some(payer) = self.payers.take(key) {
            self.give_back(&payer);
        }
    }

    /// Looks for objects that were deleted behind the server's back, as by a collection on its machine, and gives back what
    /// they took; whether any were. Once a minute at most.
    pub(crate) fn look_for_deleted(&self, store: &SharedStore) -> bool {
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.is_some_and(|time| time.elapsed() < LOOK_AGAIN) {
                return false;
            }
            *looked = Some(Instant::now());
        }
        let mut found = false;
        for prefix in PAID {
            // Payers before objects: an object is there before its payer is remembered.
            let paid = self.payers.objects(prefix);
            if paid.is_empty() {
                continue;
            }
            let Ok(listed) = store.list(prefix) else { continue };
            let there: HashSet<Key> = listed.into_iter().map(|entry| entry.key).collect();
            for key in paid.iter().filter(|key| !there.contains(*key)) {
                self.deleted(key);
                found = true;
            }
        }
        found
    }

    fn give_back(&self, payer: &Payer) {
        let _ = self.change(|content| {
            if let Some(used) = content.used.get_mut(&payer.token).filter(|used| used.epoch == payer.epoch) {
                used.bytes = used.bytes.saturating_sub(payer.bytes);
            }
            for prefix in &payer.under {
                if let Some(used) = content.used_under.get_mut(prefix) {
                    *used = used.saturating_sub(payer.bytes);
                }
            }
            Ok(())
        });
    }

    /// Remembers whose a session is, before it is stored; `false` when somebody's it was already.
    pub(crate) fn own(&self, session: &str, token: &Token) -> Result<bool, Problem> {
        self.change(|content| {
            if content.sessions.len() >= SESSIONS_MAX {
                return Err(Problem::new(
                    Code::Busy,
                    format!("token {:?}: {SESSIONS_MAX} sessions are open", token.name),
                    "end those that are dead with: leeward collect",
                ));
            }
            let is_known = content.sessions.contains_key(session);
            content.sessions.entry(session.to_owned()).or_insert_with(|| token.id.clone());
            Ok(!is_known)
        })
    }

    /// Forgets whose a session was, once it is gone.
    pub(crate) fn disown(&self, session: &str) {
        let _ = self.change(|content| {
            content.sessions.remove(session);
            Ok(())
        });
    }

    /// Whether a token made a session.
    pub(crate) fn owns(&self, session: &str, token: &Token) -> bool {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        content.sessions.get(session).is_some_and(|owner| *owner == token.id)
    }
}

fn has_room(whose: &str, used: u64, bytes: u64, quota: u64) -> Result<(), Problem> {
    match used.checked_add(bytes).is_some_and(|sum| sum <= quota) {
        true => Ok(()),
        false => Err(Problem::new(
            Code::Full,
            format!(
                "the quota of {whose} is used up: {used} of {quota} bytes are stored, {bytes} more do not fit; nothing was lost"
            ),
            "have the quota raised (leeward token), then run the command again: what was stored is used again",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{NewToken, Role};

    #[test]
    fn what_was_stored_is_known_after_a_restart_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let mut tokens = TokenFile::default();
        tokens
            .add(NewToken {
                name: "a".to_owned(),
                role: Role::Writer,
                prefixes: vec!["web/x".to_owned()],
                quota_bytes: Some(100),
                expires: None,
            })
            .unwrap();
        tokens.set_prefix_quota("web", Some(90)).unwrap();
        let token = tokens.tokens[0].clone();
        let ledger = Ledger::open(Some(&path)).unwrap();
        let charge = ledger.charge(&token, &tokens, 60).unwrap();
        ledger.refund(&charge);
        let _kept = ledger.charge(&token, &tokens, 80).unwrap();
        assert!(ledger.own("s", &token).unwrap());
        let ledger = Ledger::open(Some(&path)).unwrap();
        assert_eq!(ledger.used(&token), 80);
        assert!(ledger.owns("s", &token) && !ledger.owns("t", &token));
        let full = ledger.charge(&token, &tokens, 15).err().unwrap();
        assert!(full.code == Code::Full && full.message.contains("under web"), "{full:?}");
        tokens.set_prefix_quota("web", None).unwrap();
        let full = ledger.charge(&token, &tokens, 30).err().unwrap();
        assert!(full.message.contains("token \"a\""), "{full:?}");
        assert_eq!(ledger.used(&token), 80, "what is refused is not counted");
    }
}
