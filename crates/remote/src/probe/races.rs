//! The experiments of a probe.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use leeward_store::bucket::{Backoff, Bucket, Condition, RetryPolicy, Tag};
use leeward_store::{Error, ErrorKind, Key, Result};

use super::abilities::{Abilities, State};
use crate::encode::hex;
use crate::settings::Settings;

/// Threads that race, and how often.
const THREADS: u8 = 8;
const ROUNDS: usize = 5;
/// The largest object of a probe, in bytes.
const BYTES_MAX: u64 = 4096;
const PREFIX: &str = "probe";

/// Keys that nobody else uses.
pub(super) struct Place<'a> {
    bucket: &'a dyn Bucket,
    nonce: String,
    used: Mutex<Vec<Key>>,
}

/// What a racing writer heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Written,
    Refused,
    Nothing,
}

impl<'a> Place<'a> {
    pub(super) fn new(bucket: &'a dyn Bucket) -> Result<Self> {
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|error| Error::Unsupported {
            store: bucket.name().to_owned(),
            what: format!("this machine has no random numbers: {error}"),
        })?;
        Ok(Self { bucket, nonce: hex(&nonce), used: Mutex::new(Vec::new()) })
    }

    fn key(&self, name: &str) -> Result<Key> {
        let key = Key::under(PREFIX, &format!("{}-{name}", self.nonce)).ok_or_else(|| {
            Error::Unsupported { store: self.bucket.name().to_owned(), what: format!("{name} is no key") }
        })?;
        self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(key.clone());
        Ok(key)
    }

    pub(super) fn clear(&self) {
        for key in self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner).drain(..) {
            let _ = again(|| self.bucket.delete(&key));
        }
    }

    fn put(&self, key: &Key, content: &[u8]) -> Result<()> {
        again(|| self.bucket.write(key, &[content], Condition::Always))
    }

    fn get(&self, key: &Key) -> Result<(Vec<u8>, Option<Tag>)> {
        let read = again(|| self.bucket.read(key, None, BYTES_MAX))?;
        Ok((read.content, read.tag))
    }

    /// Reads, listings and deletions. The rest of the value is not found out yet.
    pub(super) fn reads(&self) -> Result<Abilities> {
        let key = self.key("read")?;
        let (mut read, mut listed) = (State::Has, State::Has);
        for round in 0..3_u8 {
            self.put(&key, &[round; 300])?;
            match self.get(&key) {
                Ok((content, _)) if content == [round; 300] => {}
                Ok(_) => read = State::Lacks("an older content came back".to_owned()),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    read = State::Lacks("the object was not there yet".to_owned());
                }
                Err(error) => return Err(error),
            }
            if !self.is_listed(&key)? {
                listed = State::Lacks("a new object is not listed".to_owned());
            }
            again(|| self.bucket.delete(&key))?;
            if self.is_listed(&key)? {
                listed = State::Lacks("a deleted object is listed".to_owned());
            }
        }
        let ranged_reads = self.ranges(&key)?;
        Ok(Abilities {
            abilities_version: 1,
            probed: Timestamp::now(),
            tool: concat!("leeward ", env!("CARGO_PKG_VERSION")).to_owned(),
            create: State::Untold("not tried".to_owned()),
            replace: State::Untold("not tried".to_owned()),
            bare_tags: false,
            read_after_write: read,
            list_after_write: listed,
            ranged_reads,
            settings: Settings::default(),
            clock_ahead_seconds: None,
        })
    }

    fn is_listed(&self, key: &Key) -> Result<bool> {
        Ok(again(|| self.bucket.list(PREFIX))?.iter().any(|entry| entry.key == *key))
    }

    fn ranges(&self, key: &Key) -> Result<State> {
        let content: Vec<u8> = (0..=255).collect();
        self.put(key, &content)?;
        let part = again(|| self.bucket.read(key, Some(100..200), BYTES_MAX));
        Ok(match part {
            Ok(read) if read.content == content[100..200] && read.size == 256 => State::Has,
            Ok(_) => State::Lacks("another part came back".to_owned()),
            Err(error) => State::Lacks(error.to_string()),
        })
    }

    /// Which form of a version the service takes: `Ok(true)` without quotes; or why none.
    pub(super) fn find_tag_form(&self, use_bare: &dyn Fn(bool)) -> Result<Result<bool, String>> {
        let key = self.key("form")?;
        self.put(&key, b"before")?;
        let (_, Some(tag)) = self.get(&key)? else {
            return Ok(Err("the service tells no version of an object".to_owned()));
        };
        let mut refused = String::new();
        for bare in [false, true] {
            use_bare(bare);
            let written = self.bucket.write(&key, &[b"after"], Condition::Matches(&tag));
            match written {
                Ok(()) => return Ok(Ok(bare)),
                Err(error) if self.get(&key)?.0 == b"after" && error.is_transient() => return Ok(Ok(bare)),
                Err(error) => refused = error.to_string(),
            }
        }
        use_bare(false);
        Ok(Err(refused))
    }

    /// Whether one of several racing writers creates an object, and none creates what is there.
    pub(super) fn creation(&self) -> Result<State> {
        for round in 0..ROUNDS {
            let key = self.key(&format!("create-{round}"))?;
            let write = |content: &[u8]| self.bucket.write(&key, &[content], Condition::Absent);
            if let Some(wrong) = self.race(&key, None, &write)? {
                return Ok(State::Lacks(wrong));
            }
            let (before, _) = self.get(&key)?;
            if write(b"late").is_ok() || self.get(&key)?.0 != before {
                return Ok(State::Lacks("an object that was there was replaced".to_owned()));
            }
        }
        Ok(State::Has)
    }

    /// Whether one of several racing writers replaces an object, and none who knows an older version.
    pub(super) fn replacement(&self) -> Result<State> {
        let key = self.key("replace")?;
        for round in 0..ROUNDS {
            let start = format!("start {round}").into_bytes();
            self.put(&key, &start)?;
            let (_, Some(tag)) = self.get(&key)? else {
                return Ok(State::Lacks("the service tells no version of an object".to_owned()));
            };
            let write = |content: &[u8]| self.bucket.write(&key, &[content], Condition::Matches(&tag));
            if let Some(wrong) = self.race(&key, Some(&start), &write)? {
                return Ok(State::Lacks(wrong));
            }
            let (before, _) = self.get(&key)?;
            if write(b"late").is_ok() || self.get(&key)?.0 != before {
                return Ok(State::Lacks("who knew an older version replaced the object".to_owned()));
            }
        }
        Ok(State::Has)
    }

    /// Lets threads write at the same moment; what is wrong with what came of it.
    fn race(
        &self,
        key: &Key,
        start: Option<&[u8]>,
        write: &(dyn Fn(&[u8]) -> Result<()> + Sync),
    ) -> Result<Option<String>> {
        let go = AtomicBool::new(false);
        let heard: Vec<Heard> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let go = &go;
                    scope.spawn(move || {
                        while !go.load(Ordering::Acquire) {
                            std::thread::yield_now();
                        }
                        heard(write(&content_of(thread)))
                    })
                })
                .collect();
            go.store(true, Ordering::Release);
            racers.into_iter().map(|racer| racer.join().unwrap_or(Heard::Nothing)).collect()
        });
        let found = match self.get(key) {
            Ok((content, _)) => Some(content),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(judge(&heard, found.as_deref(), start))
    }
}

fn content_of(thread: u8) -> Vec<u8> {
    vec![thread; 1000]
}

fn heard(written: Result<()>) -> Heard {
    match written {
        Ok(()) => Heard::Written,
        Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Conflict) => {
            Heard::Refused
        }
        Err(_) => Heard::Nothing,
    }
}

/// What is wrong with a race: several heard that they won, or another content stands than a winner's.
fn judge(heard: &[Heard], found: Option<&[u8]>, start: Option<&[u8]>) -> Option<String> {
    let winners = heard.iter().filter(|heard| **heard == Heard::Written).count();
    let has_written = |is: Heard| {
        (0..).zip(heard).any(|(thread, heard)| *heard == is && found == Some(&content_of(thread)[..]))
    };
    match winners {
        0 if heard.iter().all(|heard| *heard == Heard::Nothing) => {
            Some("no racing write was answered".to_owned())
        }
        0 if found == start || has_written(Heard::Nothing) => None,
        0 => Some("a writer that was refused has written".to_owned()),
        1 if has_written(Heard::Written) => None,
        1 => Some("one writer won, and another's content stands".to_owned()),
        _ => Some(format!("{winners} of {} racing writers won", heard.len())),
    }
}

/// Repeats what may be repeated.
fn again<T>(act: impl Fn() -> Result<T>) -> Result<T> {
    let mut backoff = Backoff::new(RetryPolicy { times_max: 5, ..RetryPolicy::default() });
    loop {
        match act() {
            Err(error) if backoff.pause(&error) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Heard::{Nothing, Refused, Written};
    use super::{content_of, judge};

    #[test]
    fn a_race_has_one_winner_whose_content_stands() {
        let of = |thread| Some(content_of(thread));
        for (heard, found, is_right) in [
            (vec![Refused, Written, Refused], of(1), true),
            (vec![Refused, Written, Refused], of(0), false),
            (vec![Written, Written, Refused], of(1), false),
            (vec![Refused, Refused, Refused], Some(b"start".to_vec()), true),
            (vec![Refused, Refused, Refused], of(2), false),
            (vec![Refused, Nothing, Refused], of(1), true),
            (vec![Nothing, Nothing, Nothing], Some(b"start".to_vec()), false),
        ] {
            let wrong = judge(&heard, found.as_deref(), Some(b"start"));
            assert_eq!(wrong.is_none(), is_right, "{heard:?}: {wrong:?}");
        }
    }
}
