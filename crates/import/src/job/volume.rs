//! `create_block_volume`: one volume for each disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use leeward_cloud::provider::{
    GIB, Goal, ImageId, InstanceId, Owner, Progress, RUN_TAG, Volume, VolumeId, VolumeSpec, choose_domain,
};
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault, Outcome, Step};
use serde::{Deserialize, Serialize};

use super::inspect::{Image, Seen};
use super::upload::{self, Drafted};
use super::vault::{self, Intended};
use super::{Inputs, Places, Standing, Target, WorkerKind, fault, worker};
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
    /// The images of which volumes are still to be made, where that is how the provider makes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Drafted>,
    /// The snapshots that are still to be made, where the target is the repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Intended>,
}

impl Volumes {
    fn none(target: String) -> Self {
        Self { target, volumes: Vec::new(), images: Vec::new(), snapshots: Vec::new() }
    }

    /// Why nothing of them is attached, where that is so.
    pub fn unattached(&self) -> Option<&'static str> {
        match (self.images.is_empty(), self.snapshots.is_empty()) {
            (false, _) => Some(upload::NOTHING_ATTACHED),
            (_, false) => Some(vault::NOTHING_ATTACHED),
            _ => None,
        }
    }
}

/// The volumes of the run, once they hold their disks.
pub(super) fn of_run(context: &Context) -> Result<Volumes, Fault> {
    let volumes: Volumes = context.needed("create_block_volume")?;
    match (volumes.images.is_empty(), volumes.snapshots.is_empty()) {
        (false, _) => upload::volumes(context, volumes),
        (_, false) => vault::volumes(context, volumes),
        _ => Ok(volumes),
    }
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
    /// The images that were made, where volumes are made of such.
    #[serde(default)]
    images: BTreeSet<ImageId>,
}

/// The images that `create_block_volume` has made.
pub(super) fn images_made(context: &Context) -> Result<BTreeSet<ImageId>, Fault> {
    let kept: Kept = context.kept_by("create_block_volume")?.unwrap_or_default();
    Ok(kept.images)
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
    /// The domain of the machine that writes: the volume must be in the same.
    fn writer_domain(&self, context: &Context, target: &Target) -> Result<Option<String>, Fault> {
        let found = match target.worker.as_deref().map(|worker| &worker.kind) {
            None => domain_of(target, target.writer.as_ref()),
            Some(WorkerKind::Standing(Standing { domain: Some(domain), .. })) => Ok(Some(domain.clone())),
            Some(WorkerKind::Standing(standing)) => domain_of(target, standing.instance.as_ref()),
            Some(WorkerKind::Temporary(_)) => {
                let instance = worker::instance(self.0.as_ref(), context, target, None)?;
                return Ok(Some(instance.domain));
            }
        };
        found.map_err(|error| fault::of_cloud(&error))
    }

    fn domain(
        &self,
        context: &Context,
        inputs: &Inputs,
        target: &Target,
        seen: &Seen,
    ) -> Result<String, Fault> {
        let domains = target.cloud.volumes.domains().map_err(|error| fault::of_cloud(&error))?;
        let bound = self.writer_domain(context, target)?;
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
            performance: target.import_performance.clone(),
            encryption_key: inputs.kms_key.clone().or(seen.wishes.kms_key.clone()).or(target.kms_key.clone()),
            tags: fitted.tags,
            owner: owner(context, "create_block_volume", number),
        })
    }

    /// Whether nothing of this run is left in the targets that were named before.
    fn is_alone(&self, context: &Context, kept: &Kept, inputs: &Inputs) -> Result<(), Fault> {
        for name in kept.targets.iter().filter(|name| **name != inputs.target) {
            let target = self.0.target(name).map_err(fault::of_place)?;
            if let Some(images) = target.uploads()
                && let Some(image) = upload::own_images(context, &target, images)?.first()
            {
                return Err(Fault::lasting(
                    format!(
                        "this run has image {image} in target {name}, and is now to make a volume in {}",
                        inputs.target
                    ),
                    format!(
                        "set the target back to {name}; or cancel this run, which removes it, and begin another import"
                    ),
                ));
            }
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
        let inputs = Inputs::of(context)?;
        let seen: Seen = context.needed("get_file_head")?;
        let image: Image = context.needed("download_image_from_bucket")?;
        self.is_alone(context, &kept, &inputs)?;
        let target = self.0.target(&inputs.target).map_err(fault::of_place)?;
        inputs.check_target(&target)?;
        kept.targets.insert(inputs.target.clone());
        context.keep(&kept)?;
        if let Some(vault) = &target.vault {
            let snapshots = vault::plan(context, vault, &inputs, &seen, &image)?;
            return Outcome::done(&Volumes { snapshots, ..Volumes::none(inputs.target) });
        }
        let domain = self.domain(context, &inputs, &target, &seen)?;
        let specs = image.disks.iter().enumerate().map(|(number, disk)| {
            let spec = self.spec(context, &inputs, &target, &seen, (number, disk), &domain)?;
            Ok((disk.name.clone(), spec))
        });
        let specs: Vec<_> = specs.collect::<Result<_, Fault>>()?;
        if let Some(images) = target.uploads() {
            let mut keep = |image: &ImageId| {
                kept.images.insert(image.clone());
                context.keep(&kept)
            };
            let images = upload::draft(context, &target, images, specs, &mut keep)?;
            return Outcome::done(&Volumes { images, ..Volumes::none(inputs.target) });
        }
        let mut made = Vec::new();
        for (disk, spec) in specs {
            context.check()?;
            let volume = Made { disk, ..self.make(context, &target, &spec)? };
            kept.made.insert(volume.id.clone());
            made.push(volume);
        }
        context.keep(&kept)?;
        Outcome::done(&Volumes { volumes: made, ..Volumes::none(inputs.target) })
    }

    fn undo(&self, context: &Context) -> Result<(), Fault> {
        let mut kept = Kept::read(context)?;
        let targets = kept.targets.clone();
        for name in &targets {
            let target = self.0.target(name).map_err(fault::of_place)?;
            let uploaded = match &target.vault {
                Some(vault) => {
                    vault.settle()?;
                    vault::delivered(context)?
                }
                None => upload::Delivered::read(context)?,
            };
            kept.delivered.extend(uploaded.volumes);
            kept.made.extend(uploaded.made);
            for volume in all_mine(context, &target)? {
                if kept.delivered.contains(&volume.id) {
                    context.say(format!("volume {} stays: it is what the run had made before", volume.id));
                    continue;
                }
                if target.is_copied_with_tags() {
                    // A volume that somebody restored from a backup of what was delivered has all its tags.
                    if (kept.delivered_at > 0 || uploaded.is_any) && !kept.made.contains(&volume.id) {
                        let what = format!(
                            "volume {} has the tags of this run and was not made by it, as far as it knows: it stays",
                            volume.id
                        );
                        context.log(Level::Warning, &what);
                        continue;
                    }
                }
                if target.uploads().is_some() {
                    upload::settle(context, &target, &volume.id)?;
                }
                target.cloud.volumes.delete_volume(&volume.id).map_err(|error| left(&volume.id, &error))?;
                wait_gone(context, &target, &volume.id)?;
                context.say(format!("volume {} is removed", volume.id));
            }
            // After the volumes: one may be a clone of its image.
            if let Some(images) = target.uploads() {
                upload::remove_images(context, &target, images)?;
            }
        }
        Ok(())
    }
}

/// The volumes of this run in a target.
pub(super) fn mine(context: &Context, target: &Target) -> Result<Vec<Volume>, Fault> {
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

/// The domain of a machine that is there.
fn domain_of(target: &Target, instance: Option<&InstanceId>) -> leeward_cloud::Result<Option<String>> {
    match (instance, &target.cloud.instances) {
        (Some(writer), Some(instances)) => instances.instance(writer).map(|instance| Some(instance.domain)),
        (Some(_), None) => Ok(None),
        (None, _) => match &target.cloud.attachments {
            Some(attachments) => Ok(attachments.here()?.and_then(|here| here.domain)),
            None => Ok(None),
        },
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

pub(super) fn wait_gone(context: &Context, target: &Target, id: &VolumeId) -> Result<(), Fault> {
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
