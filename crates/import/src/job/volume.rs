//! `create_block_volume`: one volume for each disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use leeward_cloud::provider::{
    GIB, Goal, Owner, Performance, Progress, RUN_TAG, Volume, VolumeId, VolumeSpec, choose_domain,
};
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault, Outcome, Step};
use serde::{Deserialize, Serialize};

use super::inspect::{Image, Seen};
use super::{Inputs, Places, Target, fault};
use crate::metadata;

/// A volume that was made for a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    /// The provider's name of it.
    pub id: VolumeId,
    /// What people call it.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its domain.
    pub domain: String,
    /// Which disk of the object it is for.
    pub disk: String,
}

/// What the step leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Volumes {
    /// The target in which they are. The inputs may name another one since: somebody may have edited them.
    pub target: String,
    /// In the order of the disks.
    pub volumes: Vec<Made>,
}

/// How often a list is read, a poll interval apart, before it is believed that it shows nothing.
const LOOKS: usize = 3;

/// What the step writes down before it acts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The targets in which something may have been made.
    targets: BTreeSet<String>,
    /// What was made.
    made: BTreeSet<VolumeId>,
    /// Of these what a run that had succeeded has left, and which is therefore never removed.
    delivered: BTreeSet<VolumeId>,
    /// Of which success these are: [`leeward_runs::StepRecord::delivered`].
    #[serde(default)]
    delivered_at: u32,
}

impl Kept {
    /// What is kept as of now: what was made until the run last succeeded is delivered. Asked before anything that may fail,
    /// and again by the undo: an attempt may have ended before it had written this down.
    fn read(context: &Context) -> Result<Self, Fault> {
        let mut kept: Self = context.kept()?.unwrap_or_default();
        let success = context.run().step(context.step()).map_or(0, |step| step.delivered);
        if success != kept.delivered_at {
            kept.delivered.extend(kept.made.iter().cloned());
            kept.delivered_at = success;
        }
        Ok(kept)
    }
}

/// The step.
pub(super) struct Create(pub Arc<dyn Places>);

/// The owner of the volume for a disk: the step, and for further disks their number.
pub(super) fn owner(context: &Context, step: &str, number: usize) -> Owner {
    let step = if number == 0 { step.to_owned() } else { format!("{step}.{number}") };
    Owner::new(context.run_id().as_str(), step)
}

impl Create {
    fn domain(
        &self,
        context: &Context,
        inputs: &Inputs,
        target: &Target,
        seen: &Seen,
    ) -> Result<String, Fault> {
        let domains = target.cloud.volumes.domains().map_err(|error| fault::of_cloud(&error))?;
        let bound = writer_domain(target).map_err(|error| fault::of_cloud(&error))?;
        let number = inputs.ad_number.or(seen.wishes.ad_number).unwrap_or(0);
        let provider = target.cloud.volumes.name();
        if number == 0
            && let Some(domain) = bound
        {
            return Ok(domain);
        }
        let chosen = choose_domain(provider, &domains, number, context.run_id().as_str())
            .map_err(|error| fault::of_cloud(&error))?;
        match bound {
            Some(domain) if domain != chosen.name => Err(Fault::lasting(
                format!(
                    "the volume is to be in {}, and the machine that writes it is in {domain}",
                    chosen.name
                ),
                "configure a target whose instance is in that domain, or ask for the other one",
            )),
            _ => Ok(chosen.name.clone()),
        }
    }

    fn spec(
        &self,
        context: &Context,
        inputs: &Inputs,
        target: &Target,
        seen: &Seen,
        (number, disk): (usize, &super::inspect::DiskSeen),
        domain: &str,
    ) -> Result<VolumeSpec, Fault> {
        let volumes = &target.cloud.volumes;
        let wanted = seen.wishes.size_gib.map_or(0, |size| size.saturating_mul(GIB));
        let bytes = volumes
            .volume_limits()
            .volume_bytes(volumes.name(), disk.virtual_bytes.max(wanted))
            .map_err(|error| fault::of_cloud(&error))?;
        let fitted = volumes.tag_limits().fit(&metadata::tags(&seen.metadata));
        if number == 0 {
            fitted.notes.iter().for_each(|note| context.log(Level::Warning, note));
        }
        Ok(VolumeSpec {
            name: seen.volume_name(inputs, number, disk),
            bytes,
            domain: domain.to_owned(),
            performance: target.import_vpus.map(Performance::VpusPerGb),
            encryption_key: inputs.kms_key.clone().or(seen.wishes.kms_key.clone()).or(target.kms_key.clone()),
            tags: fitted.tags,
            owner: owner(context, "create_block_volume", number),
        })
    }

    /// Whether nothing of this run is left in the targets that were named before.
    fn is_alone(&self, context: &Context, kept: &Kept, inputs: &Inputs) -> Result<(), Fault> {
        for name in kept.targets.iter().filter(|name| **name != inputs.target) {
            let target = self.0.target(name).map_err(fault::of_place)?;
            if let Some(volume) = mine(context, &target)?.first() {
                return Err(Fault::lasting(
                    format!(
                        "this run has made volume {} in target {name}, and is now to make one in {}",
                        volume.id, inputs.target
                    ),
                    format!(
                        "set the target back to {name}; or cancel this run, which removes what is not in use, and begin another import"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn make(&self, context: &Context, target: &Target, spec: &VolumeSpec) -> Result<Made, Fault> {
        let volumes = &target.cloud.volumes;
        let mut volume = volumes.create_volume(spec).map_err(|error| fault::of_cloud(&error))?;
        context.say(format!(
            "volume {} ({}, {} GiB) in {}",
            volume.id,
            spec.name,
            spec.bytes >> 30,
            spec.domain
        ));
        loop {
            match volume.state.progress(Goal::Use) {
                Progress::Ready => break,
                Progress::Changing => context.wait(volumes.poll_interval())?,
                Progress::Broken => {
                    // It will not become usable, and its name stands in the way of another: it goes before the next attempt.
                    let word = volume.state.word.clone();
                    volumes.delete_volume(&volume.id).map_err(|error| fault::of_cloud(&error))?;
                    return Err(Fault::passing(
                        format!("volume {} became {word} and was removed", volume.id),
                        "the next attempt makes another one",
                    ));
                }
            }
            volume = volumes.volume(&volume.id).map_err(|error| fault::of_cloud(&error))?;
        }
        Ok(Made {
            id: volume.id,
            name: volume.name,
            bytes: volume.bytes,
            domain: volume.domain,
            disk: String::new(),
        })
    }
}

impl Step for Create {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let mut kept = Kept::read(context)?;
        context.keep(&kept)?;
        let inputs: Inputs = context.inputs()?;
        let seen: Seen = context.needed("get_file_head")?;
        let image: Image = context.needed("download_image_from_bucket")?;
        self.is_alone(context, &kept, &inputs)?;
        let target = self.0.target(&inputs.target).map_err(fault::of_place)?;
        kept.targets.insert(inputs.target.clone());
        context.keep(&kept)?;
        let domain = self.domain(context, &inputs, &target, &seen)?;
        let mut made = Vec::new();
        for (number, disk) in image.disks.iter().enumerate() {
            context.check()?;
            let spec = self.spec(context, &inputs, &target, &seen, (number, disk), &domain)?;
            let volume = Made { disk: disk.name.clone(), ..self.make(context, &target, &spec)? };
            kept.made.insert(volume.id.clone());
            made.push(volume);
        }
        context.keep(&kept)?;
        Outcome::done(&Volumes { target: inputs.target, volumes: made })
    }

    fn undo(&self, context: &Context) -> Result<(), Fault> {
        let kept = Kept::read(context)?;
        for name in &kept.targets {
            let target = self.0.target(name).map_err(fault::of_place)?;
            for volume in all_mine(context, &target)? {
                if kept.delivered.contains(&volume.id) {
                    context.say(format!("volume {} stays: it is what the run had made before", volume.id));
                    continue;
                }
                target.cloud.volumes.delete_volume(&volume.id).map_err(|error| left(&volume.id, &error))?;
                wait_gone(context, &target, &volume.id)?;
                context.say(format!("volume {} is removed", volume.id));
            }
        }
        Ok(())
    }
}

/// The volumes of this run in a target.
fn mine(context: &Context, target: &Target) -> Result<Vec<Volume>, Fault> {
    let found = target.cloud.volumes.volumes_tagged(RUN_TAG, Some(context.run_id().as_str()));
    let mut found = found.map_err(|error| fault::of_cloud(&error))?;
    found.retain(|volume| volume.state.progress(Goal::End) != Progress::Ready);
    Ok(found)
}

/// The same, for who must miss none: a volume whose making was begun last may be missing from a list for a while.
fn all_mine(context: &Context, target: &Target) -> Result<Vec<Volume>, Fault> {
    for _ in 1..LOOKS {
        let found = mine(context, target)?;
        if !found.is_empty() {
            return Ok(found);
        }
        context.wait(target.cloud.volumes.poll_interval())?;
    }
    mine(context, target)
}

/// The domain of the machine that writes: the volume must be in the same.
fn writer_domain(target: &Target) -> leeward_cloud::Result<Option<String>> {
    match (&target.writer, &target.cloud.instances) {
        (Some(writer), Some(instances)) => instances.instance(writer).map(|instance| Some(instance.domain)),
        (Some(_), None) => Ok(None),
        (None, _) => Ok(target.cloud.attachments.here()?.and_then(|here| here.domain)),
    }
}

fn left(id: &VolumeId, error: &leeward_cloud::Error) -> Fault {
    match fault::of_cloud(error) {
        Fault::Failed(failure) => Fault::Failed(leeward_runs::Failure {
            message: format!("volume {id} is left: {}", failure.message),
            hint: format!("remove volume {id} in the provider's console, then undo again"),
            ..failure
        }),
        stopped => stopped,
    }
}

fn wait_gone(context: &Context, target: &Target, id: &VolumeId) -> Result<(), Fault> {
    let volumes = &target.cloud.volumes;
    loop {
        match volumes.volume(id) {
            Ok(volume) if volume.state.progress(Goal::End) == Progress::Changing => {
                context.wait(volumes.poll_interval())?
            }
            Ok(volume) if volume.state.progress(Goal::End) == Progress::Ready => return Ok(()),
            Ok(volume) => {
                return Err(Fault::passing(
                    format!("volume {id} is {} and does not go", volume.state.word),
                    format!("remove volume {id} in the provider's console, then undo again"),
                ));
            }
            Err(error) if error.kind() == leeward_cloud::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(left(id, &error)),
        }
    }
}
