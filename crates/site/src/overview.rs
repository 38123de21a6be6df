//! What a person wants to see first.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
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
    /// The newest one.
    pub latest: Option<SnapshotEntry>,
    /// The age of that, in seconds.
    pub age_seconds: Option<i64>,
}

/// An image with its snapshots.
#[derive(Debug, Serialize)]
pub struct ImageSummary {
    /// Its name.
    pub image: ImageName,
    /// Its snapshots, newest first.
    pub snapshots: Vec<SnapshotEntry>,
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
            let latest = image.snapshots.last().cloned();
            lines.push(ImageLine {
                snapshots: image.snapshots.len(),
                age_seconds: latest.as_ref().map(|entry| now.duration_since(entry.created).as_secs()),
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
    pub fn image(&self, name: &ImageName) -> Result<ImageSummary> {
        let image = self.repository()?.image(name)?;
        let snapshots = image.snapshots.into_iter().rev().collect();
        Ok(ImageSummary { image: name.clone(), snapshots })
    }

    fn repository(&self) -> Result<Arc<Repository>> {
        let inner = self.inner();
        let open = inner.open_repository.as_ref().ok_or(Error::NotOffered { what: "repository" })?;
        let mut opened = inner.repository.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, repository)) = opened.as_ref().filter(|(at, _)| at.elapsed() < REPOSITORY_AGE_MAX) {
            let _ = at;
            return Ok(Arc::clone(repository));
        }
        let repository = Arc::new(open().map_err(Error::Other)?);
        *opened = Some((Instant::now(), Arc::clone(&repository)));
        Ok(repository)
    }
}
