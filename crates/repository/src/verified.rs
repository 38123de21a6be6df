//! What was read whole when, so that a check with a budget reads the packs that were read longest ago.
//!
//! The record belongs to whoever checks, not to the repository: it says what *this* checker has seen with its own eyes,
//! and a store that shows others another content cannot forge it. Losing it costs time and nothing else. Layout, numbers
//! little-endian:
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..8 | `LEEWARDV` |
//! | 8..10 | version, 1 |
//! | 10..16 | 0 |
//! | 16..32 | identity of the repository |
//! | 32..40 | number of packs |
//! | 40.. | for each pack its name (32) and when it was last found sound, in seconds since 1970 (8); sorted |
//! | last 32 | digest of all before it |

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use crate::backup::Control;
use crate::check::{CheckOutcome, Reading};
use crate::id::{DIGEST_BYTES, PackId, from_hex, stored_digest};
use crate::pack::le64;
use crate::repository::Repository;
use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"LEEWARDV";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 40;
const ENTRY_BYTES: usize = DIGEST_BYTES + 8;
const DOMAIN: &str = "leeward 2026-11 record of verified packs";
/// Packs that a record holds, at most: 128 TiB in packs of the usual size, in a file of 160 MiB.
const PACKS_MAX: usize = 1 << 22;

/// When the packs of a repository were last found sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRecord {
    repository: [u8; 16],
    /// Seconds since 1970.
    packs: BTreeMap<PackId, i64>,
}

impl VerifiedRecord {
    /// A record that knows of nothing.
    #[must_use]
    pub fn new(repository: &Repository) -> Self {
        Self { repository: identity(repository), packs: BTreeMap::new() }
    }

    /// Reads a record. A file that is not there is one that knows of nothing; one that is damaged, too large or of
    /// another repository as well, with the reason as second value.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(path: &Path, repository: &Repository) -> Result<(Self, Option<String>)> {
        let bytes_max = (HEADER_BYTES + PACKS_MAX * ENTRY_BYTES + DIGEST_BYTES) as u64;
        let is_too_large = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > bytes_max);
        if is_too_large {
            return Ok((Self::new(repository), Some("it is too large".to_owned())));
        }
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok((Self::new(repository), None));
            }
            Err(error) => return Err(unusable(path, "read", &error)),
        };
        match Self::decode(&bytes, identity(repository)) {
            Ok(record) => Ok((record, None)),
            Err(what) => Ok((Self::new(repository), Some(what))),
        }
    }

    /// Writes the record; the old one stands until the new one is there whole.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let write = || {
            let directory = path.parent().unwrap_or_else(|| Path::new("."));
            std::fs::create_dir_all(directory)?;
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(&self.encode())?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|error: std::io::Error| unusable(path, "written", &error))
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.packs.len() * ENTRY_BYTES + DIGEST_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(&self.repository);
        bytes.extend_from_slice(&(self.packs.len() as u64).to_le_bytes());
        for (pack, time) in &self.packs {
            bytes.extend_from_slice(pack.as_bytes());
            bytes.extend_from_slice(&time.to_le_bytes());
        }
        let digest = stored_digest(DOMAIN, &[&bytes]);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8], repository: [u8; 16]) -> Result<Self, String> {
        let (content, digest) = bytes.split_last_chunk::<DIGEST_BYTES>().ok_or("it is too short")?;
        if stored_digest(DOMAIN, &[content]).as_bytes() != digest {
            return Err("its bytes do not match its digest".to_owned());
        }
        let (header, rest) = content.split_first_chunk::<HEADER_BYTES>().ok_or("it is too short")?;
        if &header[..8] != MAGIC || u16::from_le_bytes([header[8], header[9]]) != VERSION {
            return Err("it does not begin as a record of version 1 does".to_owned());
        }
        if header[16..32] != repository {
            return Err("it is of another repository".to_owned());
        }
        let (entries, left) = rest.as_chunks::<ENTRY_BYTES>();
        if !left.is_empty() || le64(header, 32) != entries.len() as u64 {
            return Err("its length contradicts its header".to_owned());
        }
        let entry = |bytes: &[u8; ENTRY_BYTES]| {
            let mut name = [0; DIGEST_BYTES];
            name.copy_from_slice(&bytes[..DIGEST_BYTES]);
            (PackId(name), le64(bytes, DIGEST_BYTES).cast_signed())
        };
        Ok(Self { repository, packs: entries.iter().map(entry).collect() })
    }
}

fn identity(repository: &Repository) -> [u8; 16] {
    from_hex(&repository.config().repository_id).unwrap_or_default()
}

fn unusable(path: &Path, done: &str, error: &std::io::Error) -> Error {
    Error::Invalid(format!("the record of what was verified, {}, cannot be {done}: {error}", path.display()))
}

/// How much a check may read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of packs.
    pub bytes: Option<u64>,
    /// Time for reading packs; what describes them is always read.
    pub time: Option<Duration>,
}

/// How far the reading of all packs in turn has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TurnReport {
    /// Packs that are there.
    pub packs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that this check read.
    pub read_packs: usize,
    /// Their bytes.
    pub read_bytes: u64,
    /// Packs that were never found sound by this checker.
    pub unverified_packs: usize,
    /// Their bytes.
    pub unverified_bytes: u64,
    /// When the pack that waits longest was last found sound; none while some never were.
    pub oldest: Option<Timestamp>,
    /// Checks like this one that reading everything once takes; none when this one read nothing.
    pub checks_for_a_turn: Option<u64>,
    /// Seconds that reading everything once takes at the pace since the first entry of the record; none while that is
    /// less than an hour old.
    pub seconds_for_a_turn: Option<u64>,
}

/// A check that reads what was read longest ago, within a budget.
pub(crate) struct Turn {
    record: VerifiedRecord,
    budget: Budget,
    started: Instant,
    now: Timestamp,
    /// Packs that were there at the last look, with their sizes.
    listed: Vec<(PackId, u64)>,
    /// Packs that were read, at the first look.
    read: HashSet<PackId>,
    looks: usize,
}

impl Turn {
    fn new(record: VerifiedRecord, budget: Budget, now: Timestamp) -> Self {
        let (listed, read) = (Vec::new(), HashSet::new());
        Self { record, budget, started: Instant::now(), now, listed, read, looks: 0 }
    }

    /// When a pack was last found sound; a time to come is none.
    fn verified(&self, pack: &PackId) -> Option<i64> {
        self.record.packs.get(pack).copied().filter(|time| *time <= self.now.as_second())
    }

    /// The packs to read, those that wait longest first.
    pub(crate) fn choose(&mut self, listed: &[(PackId, u64)]) -> Vec<(PackId, u64)> {
        self.listed = listed.to_vec();
        self.looks += 1;
        if self.looks > 1 {
            // The same again, whatever it takes: what seemed to be damaged is damaged, or has moved.
            return listed.iter().filter(|(pack, _)| self.read.contains(pack)).copied().collect();
        }
        let mut order = listed.to_vec();
        order.sort_by_key(|(pack, _)| (self.verified(pack), *pack));
        let mut left = self.budget.bytes.unwrap_or(u64::MAX);
        // One pack at least, so that there is an end to it.
        let fits = |(number, (_, size)): &(usize, (PackId, u64))| match left.checked_sub(*size) {
            Some(rest) => {
                left = rest;
                true
            }
            None => *number == 0,
        };
        order.into_iter().enumerate().take_while(fits).map(|(_, pack)| pack).collect()
    }

    /// Whether there is time for another pack.
    pub(crate) fn goes_on(&self) -> bool {
        let is_over = self.budget.time.is_some_and(|time| self.started.elapsed() >= time);
        self.looks > 1 || self.read.is_empty() || !is_over
    }

    /// Notes that a pack was read.
    pub(crate) fn note(&mut self, pack: PackId, is_sound: bool) {
        self.read.insert(pack);
        if !is_sound {
            self.record.packs.remove(&pack);
        } else if self.record.packs.len() < PACKS_MAX || self.record.packs.contains_key(&pack) {
            self.record.packs.insert(pack, self.now.as_second());
        }
    }

    fn finish(mut self) -> (VerifiedRecord, TurnReport) {
        let sizes: BTreeMap<PackId, u64> = self.listed.iter().copied().collect();
        // Nothing was listed when the check failed early: then nothing is known to have gone.
        if self.looks > 0 {
            self.record.packs.retain(|pack, _| sizes.contains_key(pack));
        }
        let bytes: u64 = sizes.values().sum();
        let size = |pack: &PackId| sizes.get(pack).copied().unwrap_or(0);
        let read_bytes: u64 = self.read.iter().map(size).sum();
        let unverified: Vec<&PackId> = sizes.keys().filter(|pack| self.verified(pack).is_none()).collect();
        let unverified_bytes = unverified.iter().map(|pack| size(pack)).sum();
        let first = sizes.keys().filter_map(|pack| self.verified(pack)).min();
        let seconds = first.map_or(0, |first| self.now.as_second().saturating_sub(first)).unsigned_abs();
        let verified_bytes = bytes - unverified_bytes;
        let report = TurnReport {
            packs: sizes.len(),
            bytes,
            read_packs: self.read.len(),
            read_bytes,
            unverified_packs: unverified.len(),
            unverified_bytes,
            oldest: first
                .filter(|_| unverified.is_empty())
                .and_then(|first| Timestamp::from_second(first).ok()),
            checks_for_a_turn: (read_bytes > 0).then(|| bytes.div_ceil(read_bytes)),
            seconds_for_a_turn: (seconds >= 3600 && verified_bytes > 0)
                .then(|| (bytes as f64 / verified_bytes as f64 * seconds as f64) as u64),
        };
        (self.record, report)
    }
}

impl Repository {
    /// Checks the repository and reads the packs that were read longest ago, within a budget. Whatever becomes of the
    /// check, the record then knows what was found sound. `now` is what the record will say; a wrong clock makes some
    /// packs wait longer than others and does no other harm.
    ///
    /// # Errors
    /// As [`Repository::check`].
    pub fn check_in_turn(
        &self,
        record: &mut VerifiedRecord,
        budget: Budget,
        now: Timestamp,
        control: &dyn Control,
    ) -> Result<(CheckOutcome, TurnReport)> {
        let mut turn = Turn::new(record.clone(), budget, now);
        let checked = self.survey(&mut Reading::Turn(&mut turn), control);
        let (verified, report) = turn.finish();
        *record = verified;
        Ok((checked?.outcome, report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(times: &[(u8, i64)]) -> VerifiedRecord {
        let packs = times.iter().map(|(pack, time)| (PackId([*pack; 32]), *time)).collect();
        VerifiedRecord { repository: [7; 16], packs }
    }

    fn turn(times: &[(u8, i64)], bytes: Option<u64>) -> Turn {
        let now = Timestamp::from_second(1_000_000).unwrap();
        Turn::new(record(times), Budget { bytes, time: None }, now)
    }

    fn packs(sizes: &[(u8, u64)]) -> Vec<(PackId, u64)> {
        sizes.iter().map(|(pack, size)| (PackId([*pack; 32]), *size)).collect()
    }

    #[test]
    fn a_record_survives_being_stored_and_every_flipped_bit_is_noticed() {
        let whole = record(&[(1, 5), (2, 6), (9, -3)]);
        let bytes = whole.encode();
        assert_eq!(VerifiedRecord::decode(&bytes, [7; 16]), Ok(whole));
        assert!(VerifiedRecord::decode(&bytes, [8; 16]).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(VerifiedRecord::decode(&bad, [7; 16]).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(VerifiedRecord::decode(&bytes[..length], [7; 16]).is_err(), "length {length}");
        }
    }

    #[test]
    fn what_waits_longest_comes_first_and_the_budget_holds() {
        let listed = packs(&[(1, 10), (2, 10), (3, 10), (4, 10)]);
        let times = [(1, 300), (2, 100), (4, 200)];
        let order = turn(&times, None).choose(&listed);
        assert_eq!(order, packs(&[(3, 10), (2, 10), (4, 10), (1, 10)]));
        assert_eq!(turn(&times, Some(25)).choose(&listed), packs(&[(3, 10), (2, 10)]));
        // A budget that is too small for any pack still comes round.
        assert_eq!(turn(&times, Some(3)).choose(&listed), packs(&[(3, 10)]));
        // A time to come is no time: a clock that went back must not hide a pack for years.
        let ahead = [(1, 2_000_000), (2, 100), (3, 100), (4, 100)];
        assert_eq!(turn(&ahead, Some(10)).choose(&listed), packs(&[(1, 10)]));
    }

    #[test]
    fn a_second_look_reads_the_same_packs() {
        let mut turn = turn(&[], Some(20));
        let listed = packs(&[(1, 10), (2, 10), (3, 10)]);
        for (pack, _) in turn.choose(&listed) {
            turn.note(pack, pack != PackId([2; 32]));
        }
        turn.budget.time = Some(Duration::ZERO);
        assert_eq!(turn.choose(&listed), packs(&[(1, 10), (2, 10)]));
        assert!(turn.goes_on());
        let (record, report) = turn.finish();
        // What was found damaged is not called sound.
        assert_eq!(record.packs.keys().collect::<Vec<_>>(), [&PackId([1; 32])]);
        assert_eq!((report.read_bytes, report.unverified_packs, report.checks_for_a_turn), (20, 2, Some(2)));
        assert_eq!(report.oldest, None);
    }

    #[test]
    fn the_pace_tells_when_everything_will_have_been_read() {
        let mut turn = turn(&[(1, 1_000_000 - 7200)], Some(10));
        for (pack, _) in turn.choose(&packs(&[(1, 10), (2, 10), (3, 10), (4, 10)])) {
            turn.note(pack, true);
        }
        // Half of it in two hours.
        let report = turn.finish().1;
        assert_eq!((report.seconds_for_a_turn, report.unverified_packs), (Some(14_400), 2));
    }
}
