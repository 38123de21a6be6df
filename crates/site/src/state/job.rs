//! The copy of the state as a run.

use std::sync::Arc;

use leeward_disk::{Format, OpenOptions};
use leeward_protect::job::{Attended, Ground, Keep, Opening, fault, open, plan_of, step_of};
use leeward_protect::{Volume, retain, size};
use leeward_runs::Plan;
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault, Kind, Outcome, Step};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{copy, image_of};
use crate::{Config, Error};

/// The kind of these runs.
pub(crate) const STATE: &str = "state";
const VERSION: u32 = 1;
const STORE: &str = "store";

/// What a copy is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateInputs {
    /// Which copies are kept.
    pub keep: Keep,
}

impl Default for StateInputs {
    fn default() -> Self {
        Self { keep: Keep { hourly: 48, daily: 30, monthly: 12, ..Keep::default() } }
    }
}

/// The plan of a copy.
pub(crate) fn state_plan() -> Plan {
    plan_of(STATE, VERSION, vec![step_of(STORE, "Store the daemon's own state in the repository", &[])])
}

pub(crate) struct StateKind {
    config: Config,
    ground: Arc<dyn Ground>,
}

impl StateKind {
    pub fn new(config: &Config, ground: &Arc<dyn Ground>) -> Self {
        Self { config: config.clone(), ground: Arc::clone(ground) }
    }
}

impl Kind for StateKind {
    fn name(&self) -> &str {
        STATE
    }

    fn step(&self, version: u32, name: &str) -> Option<Arc<dyn Step>> {
        (version == VERSION && name == STORE).then(|| {
            Arc::new(Store { config: self.config.clone(), ground: Arc::clone(&self.ground) }) as Arc<dyn Step>
        })
    }
}

struct Store {
    config: Config,
    ground: Arc<dyn Ground>,
}

fn failed(error: &Error) -> Fault {
    Fault::passing(
        leeward_store::with_causes(error),
        "see that there is room where the daemon keeps its state",
    )
}

impl Step for Store {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let inputs: StateInputs = context.inputs()?;
        let image = image_of(&self.config.name).map_err(|error| failed(&error))?;
        let repository = open(&self.ground, &Opening::default())?;
        let copy = copy::copy(&self.config).map_err(|error| failed(&error))?;
        let volume = Volume {
            source: copy.archive.display().to_string(),
            image: image.clone(),
            options: OpenOptions::with_format(Format::Raw),
            tags: [("run".to_owned(), context.run_id().to_string())].into(),
            threads: Some(1),
            limit_read: None,
            full: false,
        };
        let note = format!("the state to {image}");
        let done =
            volume.back_up(&repository, &Attended(context, &note)).map_err(|error| fault(&error, context))?;
        let stored = done.outcome.snapshot.statistics.stored_bytes;
        context.say(format!("snapshot {image}@{}: stored {}", done.outcome.id.short(), size::show(stored)));
        // The copy is safe: that old ones stay is no reason to call it failed.
        let forgotten = forget(&inputs, &repository, &image).unwrap_or_else(|what| {
            context.log(Level::Warning, &format!("old copies are not forgotten: {what}"));
            0
        });
        Ok(Outcome::Done(json!({
            "image": image, "snapshot": done.outcome.id, "stored_bytes": stored, "forgotten": forgotten,
        })))
    }
}

fn forget(
    inputs: &StateInputs,
    repository: &leeward_repository::Repository,
    image: &leeward_repository::ImageName,
) -> Result<usize, String> {
    let rules = inputs.keep.rules()?;
    let decisions = retain::plan(repository, image, &rules).map_err(|error| error.told())?;
    retain::forget(repository, image, &decisions).map(|gone| gone.len()).map_err(|error| error.told())
}
