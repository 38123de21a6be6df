//! Backups of disks and machines: a step for each.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use leeward_repository::{Repository, SnapshotEntry};
use leeward_runs::step::{Context, Fault, Kind, Outcome, Step};
use leeward_runs::{Plan, StepPlan};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::machine::BackUpMachine;
use super::{Attended, Disk, Ground, Opening, fault, open, plan_of, step_of};
use crate::size;

/// The kind of these runs.
pub const BACKUP: &str = "backup";
const VERSION: u32 = 1;
/// What the names of the steps begin with.
const STEP: &str = "disk-";
/// The same, of machines.
const MACHINE_STEP: &str = "machine-";
/// The tag that says which run made a snapshot: a run that is done again after its process died finds it.
pub(super) const RUN_TAG: &str = "run";
/// Disks and machines that are read at once, of all runs: each uses all processors, and memory (docs/operations.md).
const AT_ONCE: u32 = 2;

/// What a backup is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupInputs {
    /// The disks, as the site's configuration names them.
    pub disks: Vec<String>,
    /// The machines, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<String>,
    /// Whether all of them is read, where otherwise only what has changed would be.
    #[serde(default)]
    pub full: bool,
}

/// The plan of a backup. Disks and machines wait for no other: where one fails, the others are backed up all the same.
#[must_use]
pub fn backup_plan(inputs: &BackupInputs) -> Plan {
    let step = |kind: &str, name: &String| -> StepPlan {
        step_of(&format!("{kind}{name}"), &format!("Back up {name}"), &[])
    };
    let disks = inputs.disks.iter().map(|disk| step(STEP, disk));
    let machines = inputs.machines.iter().map(|machine| step(MACHINE_STEP, machine));
    plan_of(BACKUP, VERSION, disks.chain(machines).collect())
}

/// Places of which each holder has one.
pub(super) struct Places(Mutex<u32>, Condvar);

pub(super) struct Place<'a>(&'a Places);

impl Places {
    pub(super) fn take(&self, context: &Context) -> Result<Place<'_>, Fault> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while *left == 0 {
            context.check()?;
            (left, _) =
                self.1.wait_timeout(left, Duration::from_millis(200)).unwrap_or_else(PoisonError::into_inner);
        }
        *left -= 1;
        Ok(Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.1.notify_one();
    }
}

pub(super) struct BackupKind {
    ground: Arc<dyn Ground>,
    places: Arc<Places>,
}

impl BackupKind {
    pub fn new(ground: &Arc<dyn Ground>) -> Self {
        Self { ground: Arc::clone(ground), places: Arc::new(Places(Mutex::new(AT_ONCE), Condvar::new())) }
    }
}

impl Kind for BackupKind {
    fn name(&self) -> &str {
        BACKUP
    }

    fn step(&self, version: u32, name: &str) -> Option<Arc<dyn Step>> {
        if version != VERSION {
            return None;
        }
        let (ground, places) = (Arc::clone(&self.ground), Arc::clone(&self.places));
        if let Some(machine) = name.strip_prefix(MACHINE_STEP) {
            return Some(Arc::new(BackUpMachine { ground, places, machine: machine.to_owned() }));
        }
        let disk = name.strip_prefix(STEP)?.to_owned();
        Some(Arc::new(BackUp { ground, places, disk }))
    }
}

struct BackUp {
    ground: Arc<dyn Ground>,
    places: Arc<Places>,
    disk: String,
}

impl Step for BackUp {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let inputs: BackupInputs = context.inputs()?;
        let Disk { mut volume, limit_write } = self.ground.disk(&self.disk).map_err(|what| {
            Fault::lasting(what, "see [disk.NAME] in the site's configuration, and start the daemon again")
        })?;
        let _place = self.places.take(context)?;
        let repository = open(&self.ground, &Opening { limit_write, ..Opening::default() })?;
        // What an earlier attempt has committed, and had no time to publish, is published before it is looked for.
        repository.complete_sessions_leniently().map_err(|error| fault(&error.into(), context))?;
        let run = context.run_id().to_string();
        if let Some(made) =
            made_before(&repository, &volume.image, &run).map_err(|error| fault(&error, context))?
        {
            context.say(format!("snapshot {} was made before the daemon ended", made.id.short()));
            return Ok(Outcome::Done(json!({ "image": volume.image, "snapshot": made.id })));
        }
        volume.full |= inputs.full;
        volume.tags.insert(RUN_TAG.to_owned(), run);
        let note = format!("{} to {}", self.disk, volume.image);
        let done =
            volume.back_up(&repository, &Attended(context, &note)).map_err(|error| fault(&error, context))?;
        let snapshot = &done.outcome.snapshot;
        let statistics = &snapshot.statistics;
        context.say(format!(
            "snapshot {}@{}: data {}, read {}, new {}, stored {}",
            snapshot.image,
            done.outcome.id.short(),
            size::show(statistics.data_bytes),
            size::show(statistics.read_bytes),
            size::show(statistics.new_bytes),
            size::show(statistics.stored_bytes)
        ));
        Ok(Outcome::Done(json!({
            "image": snapshot.image,
            "snapshot": done.outcome.id,
            "virtual_size": snapshot.virtual_size,
            "capture": snapshot.capture,
            "statistics": statistics,
            "mounted_at": done.mounted_at,
        })))
    }
}

/// The snapshot that an earlier attempt of a run has published.
fn made_before(
    repository: &Repository,
    image: &leeward_repository::ImageName,
    run: &str,
) -> crate::Result<Option<SnapshotEntry>> {
    match repository.image(image) {
        Ok(found) => {
            let is_its_own = |entry: &SnapshotEntry| entry.tags.get(RUN_TAG).is_some_and(|tag| tag == run);
            Ok(found.snapshots.into_iter().rev().find(is_its_own))
        }
        Err(leeward_repository::Error::NoImage { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
