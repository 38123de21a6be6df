//! What a person wants to see first.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use leeward_protect::job::Opening;
use leeward_repository::{ImageName, Repository, SnapshotEntry};
use leeward_runs::RunState;
use leeward_runs::state::{Filter, Summary};
use serde::Serialize;

use crate::{Error, Result, Site};

/// How long a repository that was opened is used before what others added to it is looked for.
const REPOSITORY_AGE_MAX: Duration = Duration::from_secs(15);

/// The state of a site at a glance.
#[derive(Debug, Serialize)]
pub struct Overview {
    /// How many runs stand where.
    pub runs: Vec<RunCount>,
    /// Runs that wait for a person.
    pub held: Vec<Summary>,
    /// Runs that failed of late.
    pub failed: Vec<Summary>,
    /// The images of the repository; absent where the site has none, or it cannot be read.
    pub images: Option<Vec<ImageLine>>,
    /// Why the images are absent, where that is a failure.
    pub images_problem: Option<String>,
}

/// How many runs stand somewhere.
#[derive(Debug, Serialize)]
pub struct RunCount {
    /// Their kind.
    pub kind: String,
    /// Where they stand.
    pub state: RunState,
    /// How many.
    pub count: u64,
}

/// An image at a glance.
#[derive(Debug, Serialize)]
pub struct ImageLine {
    /// Its name.
    pub image: ImageName,
    /// How many snapshots it has.
    pub snapshots: usize,
    /// When the newest one was begun.
    pub latest: Option<Timestamp>,
    /// The age of that, in seconds.
    pub age_seconds: Option<i64>,
    /// Whether there is a snapshot at all.
    pub protected: bool,
}

/// A snapshot of an image.
#[derive(Debug, Serialize)]
pub struct SnapshotLine {
    /// Its name.
    pub id: String,
    /// When its backup began.
    pub time: Timestamp,
    /// Size of the disk that a guest sees, in bytes.
    pub virtual_bytes: u64,
    /// Bytes of the disk that hold something.
    pub data_bytes: u64,
    /// Bytes that its backup added to the repository.
    pub stored_bytes: u64,
    /// Names of the holds on it.
    pub holds: Vec<String>,
    /// What people say of it.
    pub tags: BTreeMap<String, String>,
}

impl Site {
    /// The site at a glance.
    ///
    /// # Errors
    /// The state of runs fails.
    pub fn overview(&self) -> Result<Overview> {
        let state = self.runs().state();
        let of = |states: &[RunState]| {
            let filter = Filter { states: states.to_vec(), most: 20, ..Filter::default() };
            state.list(&filter).map(|page| page.runs)
        };
        let counts = state.counts()?.into_iter().map(|(kind, state, count)| RunCount { kind, state, count });
        let (images, images_problem) = match self.images() {
            Ok(images) => (Some(images), None),
            Err(Error::NotOffered { .. }) => (None, None),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(Overview {
            runs: counts.collect(),
            held: of(&[RunState::Held, RunState::UndoFailed])?,
            failed: of(&[RunState::Failed])?,
            images,
            images_problem,
        })
    }

    /// The images of the repository.
    ///
    /// # Errors
    /// The site has no repository, or it cannot be read.
    pub fn images(&self) -> Result<Vec<ImageLine>> {
        let repository = self.repository()?;
        let now = Timestamp::now();
        let mut lines = Vec::new();
        for name in repository.images()? {
            let image = repository.image(&name)?;
            let latest = image.snapshots.last().map(|entry| entry.created);
            lines.push(ImageLine {
                snapshots: image.snapshots.len(),
                age_seconds: latest.map(|created| now.duration_since(created).as_secs()),
                protected: latest.is_some(),
                latest,
                image: name,
            });
        }
        Ok(lines)
    }

    /// The snapshots of an image, newest first.
    ///
    /// # Errors
    /// There is no such image or repository, or it cannot be read.
    pub fn image(&self, name: &ImageName) -> Result<Vec<SnapshotLine>> {
        let repository = self.repository()?;
        let image = repository.image(name)?;
        let line = |entry: &SnapshotEntry| {
            let statistics = repository.snapshot(entry.id)?.statistics;
            Ok(SnapshotLine {
                id: entry.id.to_string(),
                time: entry.created,
                virtual_bytes: entry.virtual_size,
                data_bytes: statistics.data_bytes,
                stored_bytes: statistics.stored_bytes,
                holds: entry.holds.iter().map(|hold| hold.name.clone()).collect(),
                tags: entry.tags.clone(),
            })
        };
        image.snapshots.iter().rev().map(line).collect()
    }

    fn repository(&self) -> Result<Arc<Repository>> {
        let inner = self.inner();
        let open = inner.open_repository.as_ref().ok_or(Error::NotOffered { what: "repository" })?;
        let mut opened = inner.repository.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, repository)) = opened.as_ref().filter(|(at, _)| at.elapsed() < REPOSITORY_AGE_MAX) {
            let _ = at;
            return Ok(Arc::clone(repository));
        }
        let repository = Arc::new(open(&Opening::default()).map_err(Error::Other)?);
        *opened = Some((Instant::now(), Arc::clone(&repository)));
        Ok(repository)
    }
}
