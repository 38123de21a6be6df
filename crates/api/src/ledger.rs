//! What a server has to remember of its clients: how much each has stored, and which session is whose.
//!
//! It is written down before what it counts is acknowledged, so a restart forgets nothing; a server that dies between the
//! two has counted an object that is not there, never the other way round.
//!
//! Giving back goes the other way: what objects took that are gone is taken off, by one writing for many of them and with
//! their names; then their payers are forgotten, and then the names. So a server that dies anywhere in between, or cannot write,
//! gives back all of it later, and nothing twice.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
/// Objects whose payers are given back by one writing: it bounds the file.
const GIVEN_AT_ONCE: usize = 10_000;

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
    /// Objects that are gone and whose payers have been given back, but may not have been forgotten.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    given_back: BTreeSet<String>,
}

impl Content {
    fn give_back(&mut self, payer: &Payer) {
        if let Some(used) = self.used.get_mut(&payer.token).filter(|used| used.epoch == payer.epoch) {
            used.bytes = used.bytes.saturating_sub(payer.bytes);
        }
        for prefix in &payer.under {
            if let Some(used) = self.used_under.get_mut(prefix) {
                *used = used.saturating_sub(payer.bytes);
            }
        }
    }
}

/// The content as it is written down, and what has to be taken off it with the next writing.
struct Books {
    content: Content,
    /// Charges for what was not written after all, which could not be taken back when it was due.
    owed: Vec<Payer>,
}

/// What was stored with tokens, as the ledger of a server in a file has it now.
///
/// # Errors
/// The ledger cannot be read.
pub fn ledger_of(path: &Path) -> std::io::Result<impl Fn(&Token) -> u64 + use<>> {
    let ledger = Ledger::read(Some(path))?;
    Ok(move |token: &Token| ledger.used(token))
}

/// The ledger of a server, in a file or in memory alone.
pub(crate) struct Ledger {
    path: Option<PathBuf>,
    books: Mutex<Books>,
    payers: Payers,
    /// Held while payers are remembered, or given back and forgotten.
    turn: Mutex<()>,
    /// When objects were last looked for; held while they are.
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
        let ledger = Self::read(path)?;
        ledger.forget_given();
        Ok(ledger)
    }

    fn read(path: Option<&Path>) -> std::io::Result<Self> {
        let content = match path.map(std::fs::read) {
            Some(Ok(bytes)) => serde_json::from_slice(&bytes).map_err(std::io::Error::other)?,
            Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => Content { ledger_version: 1, ..Content::default() },
        };
        Ok(Self {
            path: path.map(Path::to_owned),
            books: Mutex::new(Books { content, owed: Vec::new() }),
            payers: Payers::beside(path),
            turn: Mutex::default(),
            looked: Mutex::default(),
        })
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, act: impl FnOnce(&mut Content) -> Result<T, Problem>) -> Result<T, Problem> {
        let mut books = self.books();
        let mut content = books.content.clone();
        books.owed.iter().for_each(|payer| content.give_back(payer));
        let done = act(&mut content)?;
        if let Some(path) = &self.path {
            let written = serde_json::to_vec(&content).map_err(std::io::Error::other);
            written.and_then(|bytes| replace_file(path, &bytes)).map_err(|_| {
                Problem::new(
                    Code::Full,
                    "the server cannot write down what was stored; nothing was stored",
                    "see that the place of the server's file of tokens can be written, then run the command again",
                )
            })?;
        }
        *books = Books { content, owed: Vec::new() };
        Ok(done)
    }

    /// Bytes that were stored with a token.
    pub(crate) fn used(&self, token: &Token) -> u64 {
        let books = self.books();
        let used = books.content.used.get(&token.id).filter(|used| used.epoch == token.epoch);
        used.map_or(0, |used| used.bytes)
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

    /// Takes a charge back: what it was for was not written. Where that cannot be written down, it is with the next change; if
    /// the server ends before, it stays counted.
    pub(crate) fn refund(&self, charge: &Charge) {
        let taken = self.change(|content| {
            content.give_back(&charge.payer);
            Ok(())
        });
        if taken.is_err() {
            self.books().owed.push(charge.payer.clone());
        }
    }

    /// Remembers what a charge was for, now that it is stored.
    pub(crate) fn paid(&self, charge: &Charge, key: &Key) {
        if PAID.contains(&key.as_str().split_once('/').map_or("", |(prefix, _)| prefix)) {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            self.payers.remember(key, &charge.payer);
        }
    }

    /// Gives back what an object took that has been deleted. Where that cannot be written down, it is done by a later look.
    pub(crate) fn deleted(&self, key: &Key) {
        self.give_back(std::slice::from_ref(key));
    }

    /// Looks for objects that were deleted behind the server's back, as by a collection on its machine, and gives back what
    /// they took; whether there may be more room now. Once a minute at most; who comes while somebody looks waits for that.
    pub(crate) fn look_for_deleted(&self, store: &SharedStore) -> bool {
        let came = Instant::now();
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        match *looked {
            Some(time) if time >= came => return true,
            Some(time) if time.elapsed() < LOOK_AGAIN => return false,
            _ => {}
        }
        let gone = self.gone(store);
        let is_written = self.give_back(&gone);
        // What could not be written down is tried again at once.
        *looked = is_written.then(Instant::now);
        is_written && !gone.is_empty()
    }

    /// Objects that somebody paid for and that are not there any more.
    fn gone(&self, store: &SharedStore) -> Vec<Key> {
        let mut gone = Vec::new();
        for prefix in PAID {
            // Payers before objects: an object is there before its payer is remembered.
            let paid = self.payers.objects(prefix);
            if paid.is_empty() {
                continue;
            }
            let Ok(listed) = store.list(prefix) else { continue };
            let there: HashSet<Key> = listed.into_iter().map(|entry| entry.key).collect();
            gone.extend(paid.into_iter().filter(|key| !there.contains(key)));
        }
        gone
    }

    /// Gives back what objects took that are gone; `false` where that could not be written down.
    fn give_back(&self, gone: &[Key]) -> bool {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // What was given back and not forgotten must not be given back again.
        if !self.forget_given() {
            return false;
        }
        for keys in gone.chunks(GIVEN_AT_ONCE) {
            let payers: Vec<(&Key, Payer)> =
                keys.iter().filter_map(|key| Some((key, self.payers.of(key)?))).collect();
            if payers.is_empty() {
                continue;
            }
            let written = self.change(|content| {
                for (key, payer) in &payers {
                    content.give_back(payer);
                    content.given_back.insert(key.to_string());
                }
                Ok(())
            });
            if written.is_err() {
                return false;
            }
            self.forget_given();
        }
        true
    }

    /// Forgets the payers that were given back; whether that could be done. That they are forgotten is written down with the
    /// next change, which comes before anything of the same name can be paid for again.
    fn forget_given(&self) -> bool {
        let given: Vec<Key> = self.books().content.given_back.iter().cloned().filter_map(Key::new).collect();
        let is_done = given.is_empty() || self.payers.forget(given.iter());
        if is_done {
            self.books().content.given_back.clear();
        }
        is_done
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
        self.books().content.sessions.get(session).is_some_and(|owner| *owner == token.id)
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

    /// A token with a quota, and a ledger that has it pay for so many objects of 10 bytes each, none of which is there.
    fn paid(directory: &Path, count: u8) -> (TokenFile, Vec<Key>, SharedStore) {
        let mut tokens = TokenFile::default();
        let new = NewToken {
            name: "a".to_owned(),
            role: Role::Writer,
            prefixes: Vec::new(),
            quota_bytes: Some(u64::from(count) * 10),
            expires: None,
        };
        tokens.add(new).unwrap();
        let ledger = Ledger::open(Some(&directory.join("ledger"))).unwrap();
        let key = |number: u8| Key::new(format!("packs/{}", format!("{number:02x}").repeat(32))).unwrap();
        let keys: Vec<Key> = (0..count).map(key).collect();
        for key in &keys {
            let charge = ledger.charge(&tokens.tokens[0], &tokens, 10).unwrap();
            ledger.paid(&charge, key);
        }
        let store = leeward_store::DirectoryStore::create(&directory.join("store"), &PAID).unwrap();
        (tokens, keys, std::sync::Arc::new(store))
    }

    #[test]
    fn what_cannot_be_written_down_is_given_back_later_and_once() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("ledger");
        let (tokens, keys, store) = paid(place.path(), 20);
        let token = &tokens.tokens[0];
        let ledger = Ledger::open(Some(&path)).unwrap();
        assert_eq!(ledger.used(token), 200);
        assert!(ledger.charge(token, &tokens, 10).is_err());
        // The ledger cannot be written: a folder that is not empty stands in its place.
        let aside = place.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        std::fs::create_dir_all(path.join("x")).unwrap();
        assert!(!ledger.look_for_deleted(&store));
        ledger.deleted(&keys[0]);
        assert_eq!((ledger.used(token), ledger.payers.objects("packs").len()), (200, 20), "nothing is lost");
        std::fs::remove_dir_all(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        ledger.deleted(&keys[0]);
        assert_eq!(ledger.used(token), 190);
        // A charge for what was not written is taken back as soon as it can be.
        let charge = ledger.charge(token, &tokens, 10).unwrap();
        std::fs::rename(&path, &aside).unwrap();
        std::fs::create_dir_all(path.join("x")).unwrap();
        ledger.refund(&charge);
        std::fs::remove_dir_all(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        assert_eq!(ledger.used(token), 200);
        assert!(ledger.look_for_deleted(&store), "tried again at once");
        assert_eq!((ledger.used(token), ledger.payers.objects("packs").len()), (0, 0));
        assert!(!ledger.look_for_deleted(&store));
        assert_eq!(Ledger::open(Some(&path)).unwrap().used(token), 0);
    }

    #[test]
    fn a_server_that_dies_while_it_gives_back_does_it_once() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("ledger");
        let (tokens, keys, store) = paid(place.path(), 4);
        let token = &tokens.tokens[0];
        // It died when the ledger had been written, and before the payers were forgotten.
        let ledger = Ledger::open(Some(&path)).unwrap();
        let payers: Vec<Payer> = keys[..2].iter().map(|key| ledger.payers.of(key).unwrap()).collect();
        let died = ledger.change(|content| {
            payers.iter().for_each(|payer| content.give_back(payer));
            content.given_back.extend(keys[..2].iter().map(ToString::to_string));
            Ok(())
        });
        assert!(died.is_ok());
        assert_eq!(ledger_of(&path).unwrap()(token), 20);
        assert_eq!(Payers::beside(Some(&path)).objects("packs").len(), 4, "who only reads it alters nothing");
        let ledger = Ledger::open(Some(&path)).unwrap();
        assert_eq!((ledger.used(token), ledger.payers.objects("packs").len()), (20, 2));
        assert!(ledger.look_for_deleted(&store));
        assert_eq!(ledger.used(token), 0);
    }

    #[test]
    fn who_comes_while_somebody_looks_waits_and_tries_again() {
        let place = tempfile::tempdir().unwrap();
        let (_, _, store) = paid(place.path(), 2);
        let ledger = Ledger::open(Some(&place.path().join("ledger"))).unwrap();
        let mut looked = ledger.looked.lock().unwrap();
        std::thread::scope(|scope| {
            let (came, comes) = std::sync::mpsc::channel();
            let (ledger, store) = (&ledger, &store);
            let waits = scope.spawn(move || {
                came.send(()).unwrap();
                ledger.look_for_deleted(store)
            });
            comes.recv().unwrap();
            std::thread::sleep(Duration::from_millis(300));
            *looked = Some(Instant::now());
            drop(looked);
            assert!(waits.join().unwrap(), "there may be room now");
        });
        assert!(!ledger.look_for_deleted(&store), "the next one comes too soon");
    }

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
