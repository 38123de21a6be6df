//! Snapshots of images, what keeps them, and how the repository grows.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use leeward_repository::{
    Error as RepositoryError, ErrorKind as RepositoryErrorKind, Hold, ImageName, ImageRef, Repository,
    SnapshotEntry, SnapshotId,
};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Site};

/// Manifests that are read at once.
const READERS: usize = 8;
/// Snapshots whose figures are remembered, at most; some 100 bytes each.
const KNOWN_MAX: usize = 200_000;
/// How long the bytes of a store that was listed count as its present ones: the listing of a large one takes its time.
const STORED_AGE_MAX: Duration = Duration::from_secs(60);
/// Points of a line of growth, at most.
const POINTS_MAX: usize = 400;
/// The longest name of a hold, in characters.
const HOLD_NAME_MAX: usize = 64;
/// The longest reason of a hold, in characters.
const REASON_MAX: usize = 500;

/// A snapshot of an image.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotLine {
    /// Its id.
    pub id: SnapshotId,
    /// When its backup began.
    pub time: Timestamp,
    /// Size of the disk that a guest sees, in bytes.
    pub virtual_bytes: u64,
    /// Bytes of the disk that hold something.
    pub data_bytes: u64,
    /// Bytes that its backup added to the repository.
    pub stored_bytes: u64,
    /// What keeps it from being forgotten.
    pub holds: Vec<Hold>,
    /// What people say of it.
    pub tags: BTreeMap<String, String>,
}

/// What a person wants a snapshot to be held by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldRequest {
    /// Name of the hold; letting go names it.
    pub name: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

impl HoldRequest {
    fn check(&self) -> Result<()> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=HOLD_NAME_MAX).contains(&self.name.len()) || !self.name.bytes().all(is_plain) {
            return Err(Error::Invalid(format!(
                "a hold is named by 1 to {HOLD_NAME_MAX} letters, digits, dots, dashes and underscores"
            )));
        }
        if self.reason.chars().count() > REASON_MAX || self.reason.contains(char::is_control) {
            return Err(Error::Invalid(format!("a reason is a line of at most {REASON_MAX} characters")));
        }
        Ok(())
    }
}

/// What a repository holds, and how that came.
#[derive(Debug, Clone, Serialize)]
pub struct RepositoryFigures {
    /// Bytes of its objects in the store.
    pub stored_bytes: u64,
    /// When they were counted.
    pub counted: Timestamp,
    /// Sum of the data of all snapshots that are kept, in bytes.
    pub data_bytes: u64,
    /// Images.
    pub images: usize,
    /// Snapshots that are kept.
    pub snapshots: usize,
    /// Snapshots that were forgotten and of which nothing is removed yet.
    pub forgotten: usize,
    /// What backups have added, over time: the sum over all snapshots that are still there, by the moments when their backups
    /// began. What was collected is in it no more, so it is at most what was ever stored.
    pub growth: Vec<GrowthPoint>,
}

/// A point of the line of growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GrowthPoint {
    /// When.
    pub time: Timestamp,
    /// Bytes that backups up to then have added.
    pub stored_bytes: u64,
}

/// What the manifest of a snapshot says.
#[derive(Debug, Clone, Copy, Default)]
struct Figure {
    data_bytes: u64,
    stored_bytes: u64,
}

/// Figures that cost something to find out. A manifest is named by its content, so what it says never changes.
#[derive(Default)]
pub(crate) struct Figures {
    known: Mutex<HashMap<SnapshotId, Figure>>,
    stored: Mutex<Option<(Instant, Timestamp, u64)>>,
    /// Held by who counts: one at a time.
    counting: Mutex<()>,
}

impl Figures {
    /// Those of snapshots; of one that is gone there are none.
    fn of(&self, repository: &Repository, ids: &[SnapshotId]) -> Result<HashMap<SnapshotId, Figure>> {
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<SnapshotId> = {
            let known = lock();
            ids.iter().filter(|id| !known.contains_key(id)).copied().collect()
        };
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        let has_failed = AtomicBool::new(false);
        let found = Mutex::new(HashMap::new());
        let read = || {
            while !has_failed.load(Ordering::Acquire) {
                let Some(id) = missing.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                match repository.snapshot(*id) {
                    Ok(snapshot) => {
                        let (data_bytes, stored_bytes) =
                            (snapshot.statistics.data_bytes, snapshot.statistics.stored_bytes);
                        let figure = Figure { data_bytes, stored_bytes };
                        found.lock().unwrap_or_else(PoisonError::into_inner).insert(*id, figure);
                    }
                    // Collected since it was listed.
                    Err(error) if error.kind() == RepositoryErrorKind::NotFound => {}
                    Err(error) => {
                        has_failed.store(true, Ordering::Release);
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..READERS.min(missing.len()) {
                scope.spawn(read);
            }
            read();
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error.into());
        }
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut known = lock();
        if known.len() + found.len() > KNOWN_MAX {
            known.clear();
        }
        let mut figures: HashMap<_, _> =
            ids.iter().filter_map(|id| known.get(id).map(|figure| (*id, *figure))).collect();
        figures.extend(&found);
        if found.len() <= KNOWN_MAX {
            known.extend(found);
        }
        Ok(figures)
    }

    /// Bytes of the repository's objects, and when they were counted.
    fn stored(&self, repository: &Repository) -> Result<(Timestamp, u64)> {
        let fresh = || {
            let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
            stored.filter(|(at, ..)| at.elapsed() < STORED_AGE_MAX).map(|(_, when, bytes)| (when, bytes))
        };
        if let Some(found) = fresh() {
            return Ok(found);
        }
        let _turn = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = fresh() {
            return Ok(found);
        }
        let (when, bytes) = (Timestamp::now(), repository.store_bytes()?);
        *self.stored.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), when, bytes));
        Ok((when, bytes))
    }
}

/// The line of growth, of at most so many points; the last one is always there.
fn growth(mut added: Vec<(Timestamp, u64)>, most: usize) -> Vec<GrowthPoint> {
    added.sort_unstable();
    let count = added.len();
    let mut sum = 0_u64;
    let mut points = Vec::new();
    for (number, (time, bytes)) in added.into_iter().enumerate() {
        sum = sum.saturating_add(bytes);
        // Of each so many one: that which is the last of them.
        if count <= most || (number + 1) * most / count > number * most / count {
            points.push(GrowthPoint { time, stored_bytes: sum });
        }
    }
    points
}

fn line(entry: &SnapshotEntry, figure: Figure) -> SnapshotLine {
    SnapshotLine {
        id: entry.id,
        time: entry.created,
        virtual_bytes: entry.virtual_size,
        data_bytes: figure.data_bytes,
        stored_bytes: figure.stored_bytes,
        holds: entry.holds.clone(),
        tags: entry.tags.clone(),
    }
}

fn no_snapshot(image: &ImageName, id: SnapshotId) -> Error {
    Error::NotFound(format!("image {image} has no snapshot {}", id.short()))
}

impl Site {
    /// The snapshots of an image, newest first.
    ///
    /// # Errors
    /// There is no such image or repository, or it cannot be read.
    pub fn image(&self, name: &ImageName) -> Result<Vec<SnapshotLine>> {
        let repository = self.repository()?;
        let image = repository.image(name)?;
        let ids: Vec<_> = image.snapshots.iter().map(|entry| entry.id).collect();
        let figures = self.inner().figures.of(&repository, &ids)?;
        let figure = |entry: &SnapshotEntry| figures.get(&entry.id).copied().unwrap_or_default();
        Ok(image.snapshots.iter().rev().map(|entry| line(entry, figure(entry))).collect())
    }

    /// What an image's ref says of one of its snapshots.
    pub(crate) fn entry(repository: &Repository, image: &ImageName, id: SnapshotId) -> Result<SnapshotEntry> {
        let found = repository.image(image)?.entry(id).cloned();
        found.ok_or_else(|| no_snapshot(image, id))
    }

    fn line_of(&self, repository: &Repository, image: &ImageRef, id: SnapshotId) -> Result<SnapshotLine> {
        let entry = image.entry(id).ok_or_else(|| no_snapshot(&image.image, id))?;
        let figures = self.inner().figures.of(repository, &[id])?;
        Ok(line(entry, figures.get(&id).copied().unwrap_or_default()))
    }

    /// Has a snapshot held: it is not forgotten until the hold is let go. Returns the snapshot, and whether the hold is new:
    /// to ask for one that is there with the same reason changes nothing.
    ///
    /// # Errors
    /// There is no such snapshot, the name or reason is none, there is a hold of that name for another reason, or the
    /// repository fails.
    pub fn hold(
        &self,
        image: &ImageName,
        id: SnapshotId,
        request: &HoldRequest,
    ) -> Result<(SnapshotLine, bool)> {
        request.check()?;
        let repository = self.repository()?;
        // Looked at first, and again where somebody else was faster.
        for _ in 0..2 {
            let found = repository.image(image)?;
            let entry = found.entry(id).ok_or_else(|| no_snapshot(image, id))?;
            if let Some(hold) = entry.holds.iter().find(|hold| hold.name == request.name) {
                return match hold.reason == request.reason {
                    true => Ok((self.line_of(&repository, &found, id)?, false)),
                    false => Err(Error::Conflict(format!(
                        "snapshot {} of {image} has a hold {} already, since {}, for another reason",
                        id.short(),
                        hold.name,
                        hold.created
                    ))),
                };
            }
            match repository.hold(image, id, &request.name, &request.reason) {
                Ok(held) => return Ok((self.line_of(&repository, &held, id)?, true)),
                Err(RepositoryError::Invalid(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Conflict(format!("the holds of snapshot {} of {image} change just now", id.short())))
    }

    /// Lets go of a hold; returns the snapshot.
    ///
    /// # Errors
    /// There is no such snapshot or hold, or the repository fails.
    pub fn let_go(&self, image: &ImageName, id: SnapshotId, hold: &str) -> Result<SnapshotLine> {
        let repository = self.repository()?;
        let none = || Error::NotFound(format!("snapshot {} of {image} has no hold {hold:?}", id.short()));
        let entry = Self::entry(&repository, image, id)?;
        if !entry.holds.iter().any(|other| other.name == hold) {
            return Err(none());
        }
        match repository.release(image, id, hold) {
            Ok(released) => self.line_of(&repository, &released, id),
            // Somebody else let go of it in between.
            Err(RepositoryError::Invalid(_)) => Err(none()),
            Err(error) => Err(error.into()),
        }
    }

    /// What the repository holds, and how that came. The store is listed for it, at most once a minute, and the manifest of
    /// each snapshot is read once.
    ///
    /// # Errors
    /// The site has no repository, or it cannot be read.
    pub fn repository_figures(&self) -> Result<RepositoryFigures> {
        let repository = self.repository()?;
        let names = repository.images()?;
        let (mut kept, mut forgotten) = (Vec::new(), Vec::new());
        for name in &names {
            let image = match repository.image(name) {
                Ok(image) => image,
                Err(RepositoryError::NoImage { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            kept.extend(image.snapshots.iter().map(|entry| (entry.id, entry.created)));
            forgotten.extend(image.forgotten.iter().map(|gone| (gone.entry.id, gone.entry.created)));
        }
        let all: Vec<_> = kept.iter().chain(&forgotten).copied().collect();
        let ids: Vec<_> = all.iter().map(|(id, _)| *id).collect();
        let figures = self.inner().figures.of(&repository, &ids)?;
        let (counted, stored_bytes) = self.inner().figures.stored(&repository)?;
        let data = kept.iter().filter_map(|(id, _)| figures.get(id)).map(|figure| figure.data_bytes);
        let added = all.iter().filter_map(|(id, created)| Some((*created, figures.get(id)?.stored_bytes)));
        Ok(RepositoryFigures {
            stored_bytes,
            counted,
            data_bytes: data.sum(),
            images: names.len(),
            snapshots: kept.len(),
            forgotten: forgotten.len(),
            growth: growth(added.collect(), POINTS_MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn growth_is_the_sum_by_time_and_keeps_its_ends_however_many_there_are() {
        assert_eq!(growth(Vec::new(), 3), []);
        let points = growth(vec![(at(30), 5), (at(10), 1), (at(20), 2)], 3);
        let sums: Vec<_> = points.iter().map(|point| (point.time.as_second(), point.stored_bytes)).collect();
        assert_eq!(sums, [(10, 1), (20, 3), (30, 8)]);
        for count in [4_usize, 399, 400, 401, 1000, 12_345] {
            let points = growth((0..count).map(|second| (at(second as i64), 1)).collect(), 400);
            assert!(points.len() <= 400 && points.len() >= count.min(399), "{count}: {}", points.len());
            assert_eq!(points.last().unwrap().stored_bytes, count as u64, "nothing is left out of the sum");
            assert!(points.windows(2).all(|pair| pair[0].time < pair[1].time));
        }
    }

    #[test]
    fn holds_have_plain_names_and_reasons_of_a_line() {
        let request =
            |name: &str, reason: &str| HoldRequest { name: name.to_owned(), reason: reason.to_owned() };
        for (name, reason) in
            [("a", ""), ("audit-2026.1_x", "year’s end"), (&"n".repeat(64), &"ä".repeat(500))]
        {
            request(name, reason).check().unwrap();
        }
        let long = ("n".repeat(65), "ä".repeat(501));
        for (name, reason) in
            [("", ""), ("a b", ""), ("a/b", ""), ("ä", ""), (&long.0, ""), ("a", &long.1), ("a", "x\ny")]
        {
            assert!(request(name, reason).check().is_err(), "{name:?} {reason:?}");
        }
    }
}
