//! A snapshot of the site's repository as what a run reads: held while the run is under way, opened, let go at the end.
//!
//! The hold is named by the run, so whoever looks at the snapshot sees why it cannot be forgotten, and a repeated step finds
//! it. It goes with the run's last step, or with the undo of its first; a run that is held keeps it, as it is to go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use leeward_disk::{Format, SharedSource, default_threads};
use leeward_repository::{ErrorKind, ImageName, ReadOptions, Repository, SnapshotEntry, SnapshotId};
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault, Outcome, Step};
use leeward_store::with_causes;
use serde::{Deserialize, Serialize};

use super::{Places, fault};
use crate::digest::Stated;
use crate::identity::SourceIdentity;
use crate::image::{Content, Disk, ObjectImage};

/// Bytes that are decoded ahead of who reads in order.
const AHEAD_BYTES: u64 = 8 << 20;
/// Threads that decode ahead, at most.
const THREADS_MAX: usize = 4;

/// Which snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotName {
    /// The image.
    pub image: String,
    /// The whole digest of the snapshot.
    pub snapshot: String,
}

impl SnapshotName {
    fn parts(&self) -> Result<(ImageName, SnapshotId), Fault> {
        let wrong = |what: String| Fault::lasting(what, "edit the inputs, then retry the step");
        let image = self.image.parse::<ImageName>().map_err(|error| wrong(error.to_string()))?;
        let id = serde_json::from_value(self.snapshot.clone().into());
        let id = id.map_err(|_| wrong(format!("{:?} is no whole digest of a snapshot", self.snapshot)))?;
        Ok((image, id))
    }
}

/// What runs that read a snapshot are given: which one it is.
#[derive(Deserialize)]
struct Named {
    image: String,
    snapshot: String,
}

/// The snapshot that a run is asked for.
fn asked(context: &Context) -> Result<SnapshotName, Fault> {
    let Named { image, snapshot } = context.inputs()?;
    Ok(SnapshotName { image, snapshot })
}

/// What the first step leaves.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    held: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold: Option<String>,
    of: SnapshotName,
}

/// The snapshot that a run is about: the one that it began with, and holds.
pub(super) fn of_run(context: &Context) -> Result<SnapshotName, Fault> {
    let asked = asked(context)?;
    let held: Option<Held> = context.output(HOLD)?;
    match held {
        Some(Held { of, .. }) if of != asked => Err(Fault::lasting(
            format!(
                "the run began with snapshot {}@{}, and is asked for {}@{} now",
                of.image, of.snapshot, asked.image, asked.snapshot
            ),
            format!("retry {HOLD}, so that all of it is done with the other one"),
        )),
        _ => Ok(asked),
    }
}

/// A failure of the repository.
pub(super) fn fault_of(error: &leeward_repository::Error) -> Fault {
    let text = with_causes(error);
    match error.kind() {
        ErrorKind::Interrupted => Fault::Stopped,
        ErrorKind::Io | ErrorKind::Conflict => {
            Fault::passing(text, "see that the repository answers, then retry the step")
        }
        ErrorKind::NotFound => Fault::lasting(
            text,
            "the snapshot was forgotten, or never was there: if it was forgotten, bring it back with: leeward undelete; then retry the step",
        ),
        ErrorKind::Damaged => {
            Fault::lasting(text, "mend the repository with: leeward check --repair; then retry the step")
        }
        _ => Fault::lasting(text, "see [repository] in the site's configuration, then retry the step"),
    }
}

/// A snapshot that is there, with the repository that has it.
pub(super) struct Found {
    pub repository: Repository,
    pub image: ImageName,
    pub entry: SnapshotEntry,
}

impl Found {
    /// Looks for the snapshot.
    pub fn look(places: &dyn Places, name: &SnapshotName) -> Result<Self, Fault> {
        let (image, id) = name.parts()?;
        let repository = places.repository().map_err(fault::of_place)?;
        let found = repository.image(&image).map_err(|error| fault_of(&error))?;
        let entry = found.entry(id).cloned().ok_or_else(|| {
            let image = image.to_string();
            fault_of(&leeward_repository::Error::NoSnapshot { image, wanted: id.short() })
        })?;
        Ok(Self { repository, image, entry })
    }

    /// The disk, to be read by many threads, mostly in order.
    pub fn source(&self) -> Result<SharedSource, Fault> {
        let threads = default_threads().min(THREADS_MAX);
        let options = ReadOptions { read_ahead_bytes: AHEAD_BYTES, threads, ..ReadOptions::default() };
        let source = self.repository.source_with(self.entry.id, options);
        Ok(Arc::new(source.map_err(|error| fault_of(&error))?))
    }

    /// Which disk of what it is.
    pub fn identity(&self, virtual_size: u64) -> SourceIdentity {
        SourceIdentity {
            place: self.repository.location().to_owned(),
            object: self.image.to_string(),
            version: self.entry.id.to_string(),
            parts: BTreeMap::new(),
            disk: String::new(),
            virtual_size,
        }
    }
}

/// Opens a snapshot as what an import reads. Whatever its content looks like: it is the disk itself, and no image.
pub(super) fn open(places: &dyn Places, name: &SnapshotName) -> Result<ObjectImage, Fault> {
    let found = Found::look(places, name)?;
    let source = found.source()?;
    let identity = found.identity(source.virtual_size());
    // Each chunk is compared with its name when it is read: there is no digest of the whole beside that.
    let content = Content::Source { source, whole: Some(Stated::default()) };
    let disk = Disk::new(identity, Format::Raw, content);
    Ok(ObjectImage { disks: vec![disk], notes: Vec::new(), expanded: BTreeMap::new() })
}

/// The step that holds the snapshot, in the runs that read one. Its hold is called `run-` and the run.
pub const HOLD: &str = "hold_snapshot";
/// The step that lets it go.
pub(super) const RELEASE: &str = "release_snapshot";

fn hold_name(context: &Context) -> String {
    format!("run-{}", context.run_id())
}

/// What the hold is written down as before it is made: the inputs may be edited later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    held: Vec<SnapshotName>,
}

/// Holds the snapshot, so that no rule of retention forgets it meanwhile.
pub(super) struct Hold(pub Arc<dyn Places>, pub &'static str);

impl Step for Hold {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let name = asked(context)?;
        let mut kept: Kept = context.kept()?.unwrap_or_default();
        if !kept.held.contains(&name) {
            kept.held.push(name.clone());
            context.keep(&kept)?;
        }
        let found = Found::look(self.0.as_ref(), &name)?;
        let hold = hold_name(context);
        let is_held = |entry: &SnapshotEntry| entry.holds.iter().any(|other| other.name == hold);
        if !is_held(&found.entry) {
            let reason = format!("{} {}", self.1, context.run_id());
            if let Err(error) = found.repository.hold(&found.image, found.entry.id, &hold, &reason) {
                match error.kind() {
                    // What may not be written from here, nobody here forgets from either.
                    ErrorKind::Refused | ErrorKind::Denied => {
                        let what = format!("the snapshot is not held: {}", with_causes(&error));
                        context.log(Level::Warning, &what);
                        return Outcome::done(&Held { held: false, hold: None, of: name });
                    }
                    // Another attempt at this step may still have been on its way.
                    _ if Found::look(self.0.as_ref(), &name).is_ok_and(|now| is_held(&now.entry)) => {}
                    _ => return Err(fault_of(&error)),
                }
            }
        }
        let short = found.entry.id.short();
        context.say(format!("{}@{short} is held by {hold} until this run is over", found.image));
        Outcome::done(&Held { held: true, hold: Some(hold), of: name })
    }

    fn undo(&self, context: &Context) -> Result<(), Fault> {
        let_go(self.0.as_ref(), context)
    }
}

/// Lets the snapshot go.
pub(super) struct Release(pub Arc<dyn Places>);

impl Step for Release {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let_go(self.0.as_ref(), context)?;
        Outcome::done(&serde_json::json!({}))
    }
}

/// Removes the run's hold from all snapshots that it may have held; from one that is not there any more there is none to remove.
fn let_go(places: &dyn Places, context: &Context) -> Result<(), Fault> {
    let kept: Kept = context.kept_by(HOLD)?.unwrap_or_default();
    let hold = hold_name(context);
    for name in &kept.held {
        let Ok((image, id)) = name.parts() else { continue };
        let repository = places.repository().map_err(fault::of_place)?;
        let found = match repository.image(&image) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            found => found.map_err(|error| fault_of(&error))?,
        };
        let is_held =
            |entry: &SnapshotEntry| entry.id == id && entry.holds.iter().any(|other| other.name == hold);
        if !found.snapshots.iter().any(is_held) {
            continue;
        }
        match repository.release(&image, id, &hold) {
            // Another attempt, or a person, was faster.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Usage) => {}
            released => {
                released.map_err(|error| match fault_of(&error) {
                    Fault::Failed(failure) => Fault::Failed(leeward_runs::Failure {
                        hint: format!(
                            "release it with: leeward release {image}@{} --name {hold}",
                            id.short()
                        ),
                        ..failure
                    }),
                    stopped => stopped,
                })?;
                context.say(format!("{image}@{} is let go", id.short()));
            }
        }
    }
    Ok(())
}
