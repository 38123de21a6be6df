//! Finding what is left: asked of the providers, and of the runs that the tags name.

use std::collections::BTreeSet;

use jiff::Timestamp;
use leeward_cloud::ErrorKind as CloudKind;
use leeward_cloud::provider::{
    Attachment, AttachmentId, Goal, Instance, InstanceId, Progress, RUN_TAG, STEP_TAG, Volume, VolumeId,
};
use leeward_import::job::Target;
use leeward_runs::state::State;
use leeward_runs::{OnCancel, Run, RunId, RunState};
use leeward_store::with_causes;
use serde_json::Value;

use super::holds::REPOSITORY;
use super::judge::{DELIVERED, Known, RunFacts, Thing, Verdict, judge};
use super::view::{Leftover, LeftoverProblem, Leftovers};
use crate::config::TargetKind;
use crate::site::Inner;
use crate::{Error, Result};

/// Of how many things, of which it makes no difference, it is asked to what they are attached: each is a call.
const ATTACHMENTS_MAX: usize = 50;

/// What runs have delivered into a target, as it is remembered: the thing and the run.
pub(super) type Delivered = BTreeSet<(String, String)>;

pub(super) enum Found {
    Volume(Box<Volume>),
    Instance(Box<Instance>),
}

impl Found {
    pub(super) fn id(&self) -> String {
        match self {
            Self::Volume(volume) => volume.id.to_string(),
            Self::Instance(instance) => instance.id.to_string(),
        }
    }

    fn run(&self) -> Option<&String> {
        let tags = match self {
            Self::Volume(volume) => &volume.tags,
            Self::Instance(instance) => &instance.tags,
        };
        // The one without the other is not ours.
        tags.get(STEP_TAG).and(tags.get(RUN_TAG))
    }

    fn created(&self) -> Option<Timestamp> {
        match self {
            Self::Volume(volume) => volume.created,
            Self::Instance(instance) => instance.created,
        }
    }

    fn is_going(&self) -> bool {
        let progress = match self {
            Self::Volume(volume) => volume.state.progress(Goal::End),
            Self::Instance(instance) => instance.state.progress(Goal::End),
        };
        progress != Progress::Broken
    }
}

/// What the run of a name says of a thing.
fn known(state: &dyn State, run: &str, id: &str, delivered: &Delivered) -> Result<(Known, Option<RunState>)> {
    let lost = match delivered.contains(&(id.to_owned(), run.to_owned())) {
        true => Known::Remembered,
        false => Known::Unknown,
    };
    let Ok(name) = RunId::try_from(run.to_owned()) else { return Ok((lost, None)) };
    let run = match state.load(&name) {
        Ok(Some((run, _))) => run,
        Ok(None) => return Ok((lost, None)),
        Err(error) if error.kind() == leeward_runs::ErrorKind::Lasting => {
            return Ok((Known::Unreadable, None));
        }
        Err(error) => return Err(error.into()),
    };
    let facts = RunFacts {
        state: run.state,
        finished: run.finished,
        has_delivered: run.steps.iter().any(|step| step.delivered > 0),
        names_it: names(state, &run, id)?,
        leaves_it: run.plan.on_cancel == OnCancel::Leave,
    };
    let stands = facts.state;
    Ok((Known::Run(facts), Some(stands)))
}

/// Whether a run names a thing anywhere: in what its steps left, or in what they wrote down before they acted.
fn names(state: &dyn State, run: &Run, id: &str) -> Result<bool> {
    for step in &run.steps {
        let kept = state.checkpoint(&run.id, &step.name)?;
        if has(&step.outputs, id) || kept.is_some_and(|kept| has(&kept, id)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found == text,
        Value::Array(values) => values.iter().any(|value| has(value, text)),
        Value::Object(values) => values.iter().any(|(key, value)| key == text || has(value, text)),
        _ => false,
    }
}

pub(super) fn cloud(error: leeward_cloud::Error) -> Error {
    Error::Cloud(error)
}

/// All things in a target that carry the tag of a run.
pub(super) fn tagged(target: &Target) -> Result<Vec<Found>> {
    let volumes = target.cloud.volumes.volumes_tagged(RUN_TAG, None).map_err(cloud)?;
    let mut found: Vec<_> = volumes.into_iter().map(|volume| Found::Volume(Box::new(volume))).collect();
    if let Some(instances) = &target.cloud.instances {
        let instances = instances.instances_tagged(RUN_TAG, None).map_err(cloud)?;
        found.extend(instances.into_iter().map(|instance| Found::Instance(Box::new(instance))));
    }
    Ok(found)
}

/// The machines to which a volume is attached.
pub(super) fn attached(target: &Target, id: &VolumeId) -> Result<Vec<(AttachmentId, InstanceId)>> {
    // Where nothing is attached from here, the provider itself refuses to remove what is in use.
    let Some(attachments) = &target.cloud.attachments else { return Ok(Vec::new()) };
    let found = match attachments.attachments_of(id) {
        Ok(found) => found,
        Err(error) if error.kind() == CloudKind::NotFound => Vec::new(),
        Err(error) => return Err(cloud(error)),
    };
    let is_there = |attachment: &Attachment| attachment.state.progress(Goal::End) != Progress::Ready;
    Ok(found.into_iter().filter(is_there).map(|attachment| (attachment.id, attachment.instance)).collect())
}

impl Inner {
    /// What is to be said of a thing, or why it stays; none where it is none of ours.
    pub(super) fn judged(
        &self,
        name: &str,
        target: &Target,
        found: &Found,
        delivered: &Delivered,
        asks: &mut usize,
    ) -> Result<Option<std::result::Result<Leftover, &'static str>>> {
        let Some(run) = found.run() else { return Ok(None) };
        let id = found.id();
        let (known, run_state) = known(self.runs.state().as_ref(), run, &id, delivered)?;
        let now = self.runs.state().now()?;
        let mut thing = Thing { created: found.created(), is_going: found.is_going(), is_in_use: false };
        let age_min = self.config.runs.sweep_age();
        let first = judge(&thing, &known, now, age_min);
        if let Verdict::Stays(why) = first {
            return Ok(Some(Err(why)));
        }
        let is_asked = matches!(first, Verdict::Removable(_)) || *asks > 0;
        let attached_to = match found {
            Found::Volume(volume) if is_asked => {
                *asks = asks.saturating_sub(1);
                Some(attached(target, &volume.id)?)
            }
            Found::Volume(_) => None,
            Found::Instance(_) => Some(Vec::new()),
        };
        thing.is_in_use = attached_to.as_ref().is_some_and(|attached| !attached.is_empty());
        let (why, removable) = match judge(&thing, &known, now, age_min) {
            Verdict::Stays(why) => return Ok(Some(Err(why))),
            Verdict::Offered(why) => (why, false),
            // A snapshot is never forgotten unasked: somebody may have brought it back on purpose.
            Verdict::Removable(why) => (why, target.vault.is_none()),
        };
        let (kind, shown, state, bytes) = match found {
            Found::Volume(volume) => ("volume", &volume.name, &volume.state.word, Some(volume.bytes)),
            Found::Instance(instance) => ("instance", &instance.name, &instance.state.word, None),
        };
        Ok(Some(Ok(Leftover {
            id,
            kind,
            name: shown.clone(),
            target: name.to_owned(),
            state: state.clone(),
            bytes,
            created: thing.created,
            age_seconds: thing.created.map(|created| now.duration_since(created).as_secs()),
            run: run.clone(),
            run_state,
            attached_to: attached_to
                .map(|attached| attached.into_iter().map(|(_, instance)| instance.to_string()).collect()),
            why: why.to_owned(),
            removable,
        })))
    }

    /// The targets in which something can be left. A device is one volume that is there anyway.
    fn swept_targets(&self, only: Option<&str>) -> Result<Vec<String>> {
        let is_there = |name: &str| match name {
            REPOSITORY => self.open_repository.is_some(),
            name => self.config.targets.contains_key(name),
        };
        if let Some(name) = only.filter(|name| !is_there(name)) {
            return Err(Error::NotFound(format!("this site has no target {name}")));
        }
        let targets = self.config.targets.iter().filter(|(_, target)| target.kind != TargetKind::Device);
        let names = targets.map(|(name, _)| name).filter(|name| only.is_none_or(|only| only == *name));
        let mut names: Vec<String> = names.cloned().collect();
        if self.open_repository.is_some() && only.is_none_or(|only| only == REPOSITORY) {
            names.push(REPOSITORY.to_owned());
        }
        Ok(names)
    }

    fn leftovers_in(&self, name: &str) -> Result<Vec<Leftover>> {
        let target = self.places.target(name).map_err(Error::Other)?;
        let delivered = self.catalog.delivered(name)?;
        let mut gone: BTreeSet<String> = delivered.iter().map(|(id, _)| id.clone()).collect();
        let mut asks = ATTACHMENTS_MAX;
        let mut leftovers = Vec::new();
        for found in tagged(&target)? {
            gone.remove(&found.id());
            match self.judged(name, &target, &found, &delivered, &mut asks)? {
                Some(Ok(leftover)) => leftovers.push(leftover),
                Some(Err(DELIVERED)) => {
                    let run = found.run().map(String::as_str).unwrap_or_default();
                    if !delivered.contains(&(found.id(), run.to_owned())) {
                        self.catalog.remember_delivered(name, &found.id(), run, Timestamp::now())?;
                    }
                }
                Some(Err(_)) | None => {}
            }
        }
        for id in gone {
            self.catalog.forget_delivered(name, &id)?;
        }
        Ok(leftovers)
    }

    pub(super) fn leftovers(&self, only: Option<&str>) -> Result<Leftovers> {
        let mut all = Leftovers::default();
        for name in self.swept_targets(only)? {
            let found = match name.as_str() {
                REPOSITORY => self.holds_left(&mut all.problems),
                name => self.leftovers_in(name),
            };
            match found {
                Ok(found) => all.leftovers.extend(found),
                Err(error @ Error::Runs(_)) => return Err(error),
                Err(error) => all.problems.push(LeftoverProblem { target: name, what: with_causes(&error) }),
            }
        }
        Ok(all)
    }
}
