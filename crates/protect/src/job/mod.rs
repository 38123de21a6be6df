//! Protection as durable runs: backups, checks and retention, for schedules and for people who ask a site for them.
//!
//! A run is given names only: of disks and images as the site's configuration has them. Who may change a run's inputs can
//! therefore not have the daemon read another file of its machine.
//!
//! What such a run has done need not be undone, so a failed one has ended: the next one does the work anew.

mod backup;
mod check;
mod machine;
mod retain;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leeward_repository::{Control, Repository};
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault, Kind};
use leeward_runs::{OnCancel, OnFailure, Plan, Retry, StepPlan};

pub use backup::{BACKUP, BackupInputs, backup_plan};
pub use check::{CHECK, CheckInputs, check_plan};
pub use retain::{Keep, RETAIN, RetainInputs, retain_plan};

use crate::{Attendant, Error, MachineBackup, Volume};

/// What the names of images begin with that hold the state of a site's daemon. They have rules of their own.
pub const STATE_IMAGES: &str = "leeward/state/";

/// How a repository is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opening {
    /// To examine its objects: nothing that is read was kept here earlier.
    pub examined: bool,
    /// Bytes per second that are written at most.
    pub limit_write: Option<u64>,
}

/// A disk as a site's configuration has it.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The disk, and the image that it is backed up to.
    pub volume: Volume,
    /// Bytes per second that are written to the repository at most.
    pub limit_write: Option<u64>,
}

/// A machine as a site's configuration has it.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The machine, and what the names of its disks' images begin with.
    pub backup: MachineBackup,
    /// Bytes per second that are written to the repository at most.
    pub limit_write: Option<u64>,
}

/// What such runs work with.
pub trait Ground: Send + Sync {
    /// Opens the repository.
    ///
    /// # Errors
    /// There is none, or it cannot be opened; in words.
    fn repository(&self, opening: &Opening) -> Result<Repository, String>;

    /// A disk by its name.
    ///
    /// # Errors
    /// There is no such disk, or its configuration makes no sense; in words.
    fn disk(&self, name: &str) -> Result<Disk, String>;

    /// A machine by its name.
    ///
    /// # Errors
    /// There is no such machine, or its configuration makes no sense; in words.
    fn machine(&self, name: &str) -> Result<Machine, String>;

    /// Where records of what was verified are kept.
    fn verified(&self) -> PathBuf;
}

/// The kinds of runs that work on this ground.
#[must_use]
pub fn kinds(ground: &Arc<dyn Ground>) -> Vec<Arc<dyn Kind>> {
    vec![
        Arc::new(backup::BackupKind::new(ground)),
        Arc::new(check::CheckKind::new(ground)),
        Arc::new(retain::RetainKind::new(ground)),
    ]
}

/// A plan whose steps leave nothing that has to be undone.
#[must_use]
pub fn plan_of(kind: &str, version: u32, steps: Vec<StepPlan>) -> Plan {
    Plan {
        kind: kind.to_owned(),
        version,
        steps,
        on_failure: OnFailure::Undo,
        on_cancel: OnCancel::Leave,
        pools: std::collections::BTreeSet::new(),
    }
}

/// A step that is tried for about a quarter of an hour.
#[must_use]
pub fn step_of(name: &str, title: &str, after: &[&str]) -> StepPlan {
    StepPlan {
        name: name.to_owned(),
        title: title.to_owned(),
        after: after.iter().map(|name| (*name).to_owned()).collect(),
        retry: Retry { attempts: 6, first_ms: 15_000, most_ms: 300_000 },
        deadline_seconds: None,
        may_skip: true,
        has_undo: false,
    }
}

/// Opens the repository for a step.
///
/// # Errors
/// It cannot be opened: the way to it may be disturbed, so that may pass.
pub fn open(ground: &Arc<dyn Ground>, opening: &Opening) -> Result<Repository, Fault> {
    let hint = "see [repository] in the site's configuration, and whether the repository can be reached";
    ground.repository(opening).map_err(|what| Fault::passing(what, hint))
}

/// A failure as a run tells it.
#[must_use]
pub fn fault(error: &Error, context: &Context) -> Fault {
    if context.is_stopped() && error.is_stop() {
        return Fault::Stopped;
    }
    let hint = match error {
        Error::Asked { hint, .. } => hint.clone(),
        _ => "see that the disk and the repository can be read and written, then retry or wait for the next run"
            .to_owned(),
    };
    match error.may_pass() {
        true => Fault::passing(error.told(), hint),
        false => Fault::lasting(error.told(), hint),
    }
}

/// The run that attends its own work: progress goes into its state, warnings into its log.
pub struct Attended<'a>(pub &'a Context, pub &'a str);

impl Attendant for Attended<'_> {
    fn begins(&self, bytes: u64) -> Box<dyn Control + '_> {
        Box::new(Watch { context: self.0, note: self.1, total: bytes, done: AtomicU64::new(0) })
    }

    fn warns(&self, what: &str, hint: &str) {
        self.0.log(Level::Warning, what);
        self.0.log(Level::Warning, &format!("hint: {hint}"));
    }

    fn says(&self, what: &str) {
        self.0.say(what);
    }

    fn is_cancelled(&self) -> bool {
        self.0.is_stopped()
    }
}

struct Watch<'a> {
    context: &'a Context,
    note: &'a str,
    total: u64,
    done: AtomicU64,
}

impl Control for Watch<'_> {
    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let total = Some(self.total).filter(|total| *total >= done);
        self.context.progress(done, total, self.note);
    }

    fn is_cancelled(&self) -> bool {
        self.context.is_stopped()
    }
}
