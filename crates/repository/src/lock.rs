//! Locking what snapshots need, so that nobody deletes it before its time: neither by mistake nor with stolen keys.
//!
//! A snapshot is to be kept for a period after it was made, a held one as long as it is held. Whatever it needs gets a lock of
//! the service that lasts so long: the packs of its chunks and nodes, its manifest, its image's ref; and what any reader
//! needs: configuration, slots of keys, index. A pack that newer snapshots share is locked as long as the last of them asks.
//! Locks are only ever made longer. Times are those of the service, so a machine whose clock is wrong locks nothing for
//! years.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};
use leeward_store::{Key, Lock, LockMode, Locks};
use serde::Serialize;

use crate::backup::Control;
use crate::id::SnapshotId;
use crate::image::SnapshotEntry;
use crate::keys::KEYS;
use crate::repository::{CONFIG, INDEX, Repository, pack_key, snapshot_key};
use crate::{Error, Result};

/// A lock that has to be made longer is made longer than needed by this part of the period, so that it is not every day's
/// work.
const SLACK: i32 = 8;

/// How to lock.
#[derive(Debug, Clone, Copy)]
pub struct LockOptions {
    /// How long after it was made nobody shall delete what a snapshot needs.
    pub period: SignedDuration,
    /// Who may take the locks away all the same.
    pub mode: LockMode,
    /// Only look.
    pub dry_run: bool,
}

/// An object whose lock is shorter than wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShortLock {
    /// The object.
    pub object: String,
    /// When its lock ends; none when it has none, or one that can be taken away where that is not wanted.
    pub until: Option<String>,
    /// When it should end at the earliest.
    pub wanted: String,
}

/// What locking came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LockOutcome {
    /// Snapshots whose period has not passed.
    pub snapshots: usize,
    /// Snapshots whose period has passed and that nothing holds: nothing was locked for them.
    pub expired: usize,
    /// Objects that they need.
    pub objects: usize,
    /// Objects that had a lock which lasts long enough.
    pub sufficient: usize,
    /// Objects that had too short a lock or none: they were locked, unless this was only a look.
    pub short: Vec<ShortLock>,
}

/// Until when objects have to be locked.
type Wanted = BTreeMap<Key, Timestamp>;

impl Repository {
    /// Locks what the snapshots need that are not older than the period, or held; or only looks whether that is so.
    ///
    /// # Errors
    /// The store has no locks; something that a snapshot needs is missing or damaged; the service refuses a lock: what was
    /// locked until then stays so; or the work was cancelled.
    pub fn lock(&self, options: &LockOptions, control: &dyn Control) -> Result<LockOutcome> {
        let locks = self.store().locks().ok_or_else(|| {
            Error::Invalid(format!(
                "{}: this store has no locks; a bucket of S3 that was made with object lock has",
                self.location()
            ))
        })?;
        // The first answer tells the service's time.
        locks.lock_of(&fixed_key(CONFIG)?)?;
        let now = Timestamp::try_from(locks.clock()).map_err(|error| Error::Invalid(error.to_string()))?;
        let mut outcome = LockOutcome::default();
        let wanted = self.wanted_locks(options.period, now, &mut outcome)?;
        outcome.objects = wanted.len();
        let lengthener = Lengthener { locks, options, wanted: wanted.into_iter().collect(), control };
        let (sufficient, short) = lengthener.run(self.store().requests_at_once())?;
        outcome.sufficient = sufficient;
        outcome.short = short;
        Ok(outcome)
    }

    fn wanted_locks(
        &self,
        period: SignedDuration,
        now: Timestamp,
        outcome: &mut LockOutcome,
    ) -> Result<Wanted> {
        let mut wanted = Wanted::new();
        let mut snapshots = Vec::new();
        for name in self.images()? {
            let image = self.image(&name)?;
            let times = image.snapshots.iter().map(|entry| end_of(entry, period, now));
            for (entry, end) in image.snapshots.iter().zip(times) {
                match end? {
                    Some(end) => {
                        want(&mut wanted, name.key()?, end);
                        snapshots.push((end, entry.id));
                    }
                    None => outcome.expired += 1,
                }
            }
        }
        outcome.snapshots = snapshots.len();
        self.want_for_all(snapshots.iter().map(|(end, _)| *end).max(), &mut wanted)?;
        // Whatever the one that lasts longest needs is never asked for again.
        snapshots.sort_unstable_by(|a, b| b.cmp(a));
        let ends: HashMap<SnapshotId, Timestamp> = snapshots.iter().map(|(end, id)| (*id, *end)).collect();
        let ids: Vec<SnapshotId> = snapshots.into_iter().map(|(_, id)| id).collect();
        self.packs_in_turn(&ids, &mut |id, packs| {
            let end = ends[&id];
            want(&mut wanted, snapshot_key(id)?, end);
            packs.into_iter().try_for_each(|pack| {
                want(&mut wanted, pack_key(pack)?, end);
                Ok(())
            })
        })?;
        Ok(wanted)
    }

    /// What any reader needs, until the last lock ends.
    fn want_for_all(&self, last: Option<Timestamp>, wanted: &mut Wanted) -> Result<()> {
        let Some(last) = last else { return Ok(()) };
        want(wanted, fixed_key(CONFIG)?, last);
        for prefix in [KEYS, INDEX] {
            for entry in self.store().list(prefix)? {
                want(wanted, entry.key, last);
            }
        }
        Ok(())
    }
}

fn fixed_key(name: &str) -> Result<Key> {
    Key::new(name).ok_or_else(|| Error::Invalid(format!("{name:?} is no key")))
}

fn want(wanted: &mut Wanted, key: Key, end: Timestamp) {
    let known = wanted.entry(key).or_insert(end);
    *known = end.max(*known);
}

/// When a snapshot's locks shall end; `None` when that is over. What was made in the future counts as made now.
fn end_of(entry: &SnapshotEntry, period: SignedDuration, now: Timestamp) -> Result<Option<Timestamp>> {
    let from = if entry.holds.is_empty() { entry.created.min(now) } else { now };
    let end = from.checked_add(period).map_err(|_| Error::Invalid("no lock can last so long".to_owned()))?;
    Ok((end > now).then_some(end))
}

/// Goes through objects, and makes the locks longer that are too short.
struct Lengthener<'a> {
    locks: &'a dyn Locks,
    options: &'a LockOptions,
    wanted: Vec<(Key, Timestamp)>,
    control: &'a dyn Control,
}

impl Lengthener<'_> {
    /// How many locks were long enough, and those that were not.
    fn run(&self, threads: usize) -> Result<(usize, Vec<ShortLock>)> {
        let next = AtomicUsize::new(0);
        let short = Mutex::new(Vec::new());
        let failure = Mutex::new(None);
        let work = || {
            while let Some((key, end)) = self.wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.one(key, *end) {
                    Ok(None) => {}
                    Ok(Some(found)) => lock(&short).push(found),
                    Err(error) => {
                        next.store(self.wanted.len(), Ordering::Relaxed);
                        lock(&failure).get_or_insert(error);
                        return;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            (0..threads.max(1)).for_each(|_| {
                scope.spawn(work);
            });
        });
        if let Some(error) = lock(&failure).take() {
            return Err(error);
        }
        let mut short = std::mem::take(&mut *lock(&short));
        short.sort_unstable_by(|a: &ShortLock, b| a.object.cmp(&b.object));
        Ok((self.wanted.len() - short.len(), short))
    }

    /// Looks at one object; tells of it when its lock was too short.
    fn one(&self, key: &Key, end: Timestamp) -> Result<Option<ShortLock>> {
        if self.control.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let found = self.locks.lock_of(key)?;
        self.control.advance(1);
        let is_strict =
            |lock: &Lock| self.options.mode == LockMode::Governance || lock.mode == LockMode::Compliance;
        if found.filter(is_strict).is_some_and(|lock| lock.until >= SystemTime::from(end)) {
            return Ok(None);
        }
        if !self.options.dry_run {
            self.locks.lock(key, self.longer(end, found)?)?;
        }
        let until = found.filter(is_strict).and_then(|lock| Timestamp::try_from(lock.until).ok());
        Ok(Some(ShortLock {
            object: key.to_string(),
            until: until.map(|until| until.to_string()),
            wanted: end.to_string(),
        }))
    }

    /// The lock that an object gets: never shorter or milder than the one it has.
    fn longer(&self, end: Timestamp, found: Option<Lock>) -> Result<Lock> {
        let slack = self.options.period / SLACK;
        let end =
            end.checked_add(slack).map_err(|_| Error::Invalid("no lock can last so long".to_owned()))?;
        let until = SystemTime::from(end);
        Ok(match found {
            Some(found) => Lock {
                mode: if found.mode == LockMode::Compliance { found.mode } else { self.options.mode },
                until: until.max(found.until),
            },
            None => Lock { mode: self.options.mode, until },
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
