//! Where the bytes are written from: the daemon's machine, a standing worker's, or one that is launched for the run.

use std::collections::BTreeSet;
use std::sync::Arc;

use leeward_cloud::provider::InstanceId;
use leeward_runs::step::{Context, Fault, Outcome, Step};
use serde::{Deserialize, Serialize};

use super::{Inputs, Places, Target, WorkerKind, fault, worker};

/// What `create_instance` leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Launched {
    /// The worker as it was launched first. One that was lost is followed by another: which it is now, its tags say.
    pub instance: InstanceId,
    /// Its domain, which is that of the volumes as well.
    pub domain: String,
}

/// What `create_instance` writes down before it acts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The targets in which instances may be.
    targets: BTreeSet<String>,
}

/// `create_instance`.
pub(super) struct CreateInstance(pub Arc<dyn Places>);

impl Step for CreateInstance {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let inputs = Inputs::of(context)?;
        let target = self.0.target(&inputs.target).map_err(fault::of_place)?;
        inputs.check_target(&target)?;
        match target.worker.as_deref().map(|worker| &worker.kind) {
            Some(WorkerKind::Temporary(_)) => {}
            Some(WorkerKind::Standing(standing)) => {
                let what =
                    format!("the volume is written by worker {}, which is there already", standing.name);
                return Ok(Outcome::Skipped(what));
            }
            None => {
                if target.vault.is_some() {
                    return Ok(Outcome::Skipped(
                        "the snapshot is made from here; it needs no worker".to_owned(),
                    ));
                }
                return Ok(Outcome::Skipped(match target.writer {
                    Some(writer) => {
                        format!("the volume is written from instance {writer}, which is there already")
                    }
                    None => "the volume is written from here; this target needs no worker".to_owned(),
                }));
            }
        }
        let mut kept: Kept = context.kept()?.unwrap_or_default();
        kept.targets.insert(inputs.target.clone());
        context.keep(&kept)?;
        let instance = worker::instance(self.0.as_ref(), context, &target, None)?;
        Outcome::done(&Launched { instance: instance.id, domain: instance.domain })
    }

    fn undo(&self, context: &Context) -> Result<(), Fault> {
        remove(self.0.as_ref(), context).map(|_| ())
    }
}

/// Removes the run's workers from all targets in which it may have launched one; `None` where there are no such targets.
fn remove(places: &dyn Places, context: &Context) -> Result<Option<usize>, Fault> {
    let kept: Kept = context.kept_by(worker::STEP)?.unwrap_or_default();
    let mut removed = None;
    for name in &kept.targets {
        let target = places.target(name).map_err(fault::of_place)?;
        *removed.get_or_insert(0) += worker::remove(places, context, &target)?;
    }
    Ok(removed)
}

fn no_worker() -> Outcome {
    Outcome::Skipped("no worker was launched for this run".to_owned())
}

/// The target whose worker was launched for this run, if that is so.
fn launched(places: &dyn Places, context: &Context) -> Result<Option<Target>, Fault> {
    let inputs = Inputs::of(context)?;
    let target = places.target(&inputs.target).map_err(fault::of_place)?;
    let is_temporary = target.worker.as_ref().is_some_and(|worker| worker.temporary().is_some());
    Ok(Some(target).filter(|_| is_temporary))
}

/// `get_private_ip`.
pub(super) struct PrivateAddress(pub Arc<dyn Places>);

impl Step for PrivateAddress {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let Some(target) = launched(self.0.as_ref(), context)? else { return Ok(no_worker()) };
        let Some(instances) = &target.cloud.instances else { return Ok(no_worker()) };
        let instance = worker::instance(self.0.as_ref(), context, &target, None)?;
        loop {
            let found = instances.private_address(&instance.id).map_err(|error| fault::of_cloud(&error))?;
            if let Some(address) = found {
                context.say(format!("instance {} is at {address}; nothing listens there", instance.id));
                return Outcome::done(&serde_json::json!({ "address": address }));
            }
            context.wait(instances.poll_interval())?;
        }
    }
}

/// `wait_cloud_init_execution`.
pub(super) struct WaitForWorker(pub Arc<dyn Places>);

impl Step for WaitForWorker {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let Some(target) = launched(self.0.as_ref(), context)? else { return Ok(no_worker()) };
        let instance = worker::instance(self.0.as_ref(), context, &target, None)?;
        worker::wait(self.0.as_ref(), context, &target)?;
        context.say(format!("the worker on instance {} asks for work", instance.id));
        Outcome::done(&serde_json::json!({ "instance": instance.id }))
    }
}

/// `terminate_instance`.
pub(super) struct TerminateInstance(pub Arc<dyn Places>);

impl Step for TerminateInstance {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        match remove(self.0.as_ref(), context)? {
            None => Ok(no_worker()),
            Some(count) => Outcome::done(&serde_json::json!({ "removed": count })),
        }
    }
}
