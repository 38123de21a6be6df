//! What a person wants to see first.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use leeward_protect::job::Opening;
use leeward_repository::{ImageName, Repository};
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
    /// How old it may be, where the configuration says so.
    pub rpo_target_seconds: Option<i64>,
    /// Whether there is a snapshot, and it is not older than it may be.
    pub protected: bool,
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

    /// The images of the repository, and those that are configured to be in it and are not.
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
            lines.push(self.line(name, image.snapshots.len(), latest, now));
        }
        let missing: Vec<ImageName> = self.missing(&lines).cloned().collect();
        lines.extend(missing.into_iter().map(|name| self.line(name, 0, None, now)));
        lines.sort_by(|one, other| one.image.as_str().cmp(other.image.as_str()));
        lines.dedup_by(|one, other| one.image == other.image);
        Ok(lines)
    }

    /// The images that the configuration wants and that are not there: those of disks, and of machines without any disk below
    /// them.
    fn missing<'a>(&'a self, lines: &'a [ImageLine]) -> impl Iterator<Item = &'a ImageName> {
        let config = self.config();
        let disks = config.disks.values().map(|disk| &disk.image);
        let machines = config.machines.values().map(|machine| &machine.image);
        let disks = disks.filter(|wanted| lines.iter().all(|line| line.image != **wanted));
        disks.chain(machines.filter(|wanted| !has_disks(wanted, lines)))
    }

    fn line(
        &self,
        image: ImageName,
        snapshots: usize,
        latest: Option<Timestamp>,
        now: Timestamp,
    ) -> ImageLine {
        let age_seconds = latest.map(|created| now.duration_since(created).as_secs());
        let rpo_target_seconds = self.config().rpo.seconds_of(image.as_str());
        let is_young = |age: i64| rpo_target_seconds.is_none_or(|target| age <= target);
        let protected = age_seconds.is_some_and(is_young);
        ImageLine { image, snapshots, latest, age_seconds, rpo_target_seconds, protected }
    }

    /// The repository, opened anew now and then.
    pub(crate) fn repository(&self) -> Result<Arc<Repository>> {
        self.inner().repository()
    }
}

impl crate::site::Inner {
    /// The repository, opened anew now and then.
    pub(crate) fn repository(&self) -> Result<Arc<Repository>> {
        let open = self.open_repository.as_ref().ok_or(Error::NotOffered { what: "repository" })?;
        let mut opened = self.repository.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, repository)) = opened.as_ref().filter(|(at, _)| at.elapsed() < REPOSITORY_AGE_MAX) {
            let _ = at;
            return Ok(Arc::clone(repository));
        }
        let repository = Arc::new(open(&Opening::default()).map_err(Error::Other)?);
        *opened = Some((Instant::now(), Arc::clone(&repository)));
        Ok(repository)
    }
}

/// Whether there are images below a machine's.
fn has_disks(machine: &ImageName, lines: &[ImageLine]) -> bool {
    let below =
        |line: &ImageLine| line.image.as_str().strip_prefix(machine.as_str())?.strip_prefix('/').map(drop);
    lines.iter().any(|line| below(line).is_some())
}
