//! `attach_block_volume`, `wait_for_attachment`, `detach_block_volume`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use leeward_cloud::provider::{
    Attachment, AttachmentId, AttachmentSpec, Attachments, Device, Goal, InstanceId, Progress, VolumeId,
};
use leeward_cloud::{ErrorKind, bridge};
use leeward_runs::step::{Context, Fault, Outcome, Step};
use serde::{Deserialize, Serialize};

use super::volume::{Made, Volumes, owner};
use super::{Places, Target, WorkerKind, fault, worker};

/// What `attach_block_volume` leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attached {
    /// In the order of the volumes.
    pub attachments: Vec<AttachmentId>,
}

/// What `wait_for_attachment` leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Devices {
    /// Where the volumes show on the machine that writes, in their order: as people read it. How a device is reached is asked
    /// of the provider each time ([`confirm`]), as the configuration may change meanwhile.
    pub devices: Vec<String>,
}

/// What `attach_block_volume` writes down before it acts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The machines to which it may have attached something: whatever else a volume is attached to was not this run's doing.
    instances: BTreeSet<InstanceId>,
    /// What it may have attached, by target.
    volumes: BTreeSet<(String, VolumeId)>,
}

/// `attach_block_volume`.
pub(super) struct Attach(pub Arc<dyn Places>);

impl Attach {
    fn instance(&self, context: &Context, target: &Target, volumes: &Volumes) -> Result<InstanceId, Fault> {
        if target.worker.as_ref().is_some_and(|worker| worker.temporary().is_some()) {
            let domain = volumes.volumes.first().map(|volume| volume.domain.as_str());
            return worker::instance(self.0.as_ref(), context, target, domain).map(|instance| instance.id);
        }
        machine(target)
    }
}

/// The machine that writes, where it is there already: the standing worker's, or the daemon's.
fn machine(target: &Target) -> Result<InstanceId, Fault> {
    match target.worker.as_deref().map(|worker| &worker.kind) {
        Some(WorkerKind::Standing(standing)) => writer(target, standing.instance.as_ref()),
        _ => writer(target, target.writer.as_ref()),
    }
}

/// The ability to attach volumes.
fn ability(target: &Target) -> Result<&Arc<dyn Attachments>, Fault> {
    target.cloud.attachments().map_err(|error| fault::of_cloud(&error))
}

fn spec(
    context: &Context,
    target: &Target,
    instance: InstanceId,
    number: usize,
    volume: &VolumeId,
) -> AttachmentSpec {
    AttachmentSpec {
        volume: volume.clone(),
        instance,
        kind: target.attachment,
        device: target.device.as_deref().map(|device| numbered(device, number)),
        read_only: false,
        owner: owner(context, "attach_block_volume", number),
    }
}

/// The machine that writes: the one that is configured, or the one that this daemon runs on.
fn writer(target: &Target, configured: Option<&InstanceId>) -> Result<InstanceId, Fault> {
    if let Some(writer) = configured {
        return Ok(writer.clone());
    }
    let here = ability(target)?.here().map_err(|error| fault::of_cloud(&error))?;
    here.map(|here| here.instance).ok_or_else(|| {
        Fault::lasting(
            format!("{}: this daemon does not run on one of its machines", target.cloud.volumes.name()),
            "name the machine in the target's `instance`, and run the daemon there",
        )
    })
}

/// The device for a further disk: the letter counts up.
fn numbered(device: &Path, number: usize) -> PathBuf {
    let text = device.to_string_lossy();
    match text.as_bytes().last() {
        Some(last) if last.is_ascii_lowercase() && usize::from(b'z' - last) >= number => {
            let letter = char::from(last + u8::try_from(number).unwrap_or(0));
            PathBuf::from(format!("{}{letter}", &text[..text.len() - 1]))
        }
        _ if number == 0 => device.to_owned(),
        _ => PathBuf::from(format!("{text}{number}")),
    }
}

impl Step for Attach {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let volumes: Volumes = context.needed("create_block_volume")?;
        if let Some(why) = volumes.unattached() {
            return Ok(Outcome::Skipped(why.to_owned()));
        }
        let target = self.0.target(&volumes.target).map_err(fault::of_place)?;
        let instance = self.instance(context, &target, &volumes)?;
        let mut kept: Kept = context.kept()?.unwrap_or_default();
        kept.instances.insert(instance.clone());
        kept.volumes.extend(volumes.volumes.iter().map(|volume| (volumes.target.clone(), volume.id.clone())));
        context.keep(&kept)?;
        let mut attachments = Vec::new();
        for (number, volume) in volumes.volumes.iter().enumerate() {
            context.check()?;
            let spec = spec(context, &target, instance.clone(), number, &volume.id);
            let attachment = ability(&target)?.attach(&spec).map_err(|error| fault::of_cloud(&error))?;
            context.say(format!(
                "volume {} to instance {}: {}",
                volume.id, spec.instance, attachment.state.word
            ));
            attachments.push(attachment.id);
        }
        Outcome::done(&Attached { attachments })
    }

    fn undo(&self, context: &Context) -> Result<(), Fault> {
        let kept: Kept = context.kept()?.unwrap_or_default();
        for (target, volume) in &kept.volumes {
            detach(context, &self.0.target(target).map_err(fault::of_place)?, volume)?;
        }
        Ok(())
    }
}

/// `wait_for_attachment`.
pub(super) struct Wait(pub Arc<dyn Places>);

impl Wait {
    fn device(&self, context: &Context, target: &Target, id: &AttachmentId) -> Result<String, Fault> {
        let attachments = ability(target)?;
        loop {
            let attachment = attachments.attachment(id).map_err(|error| fault::of_cloud(&error))?;
            match attachment.state.progress(Goal::Use) {
                Progress::Ready => {
                    let device = device_of(target, &attachment)?;
                    match &device {
                        // A worker's devices are seen by the worker alone, which waits for them itself.
                        Device::Path(path) if target.worker.is_none() && !path.exists() => {}
                        device => return Ok(device.to_string()),
                    }
                    // The provider is ready before the kernel of the machine is.
                    context.wait(attachments.poll_interval())?;
                }
                Progress::Changing => context.wait(attachments.poll_interval())?,
                Progress::Broken => {
                    return Err(Fault::lasting(
                        format!("attachment {id} is {}", attachment.state.word),
                        "retry attach_block_volume, which attaches it anew",
                    ));
                }
            }
        }
    }
}

/// As which device of this machine an attachment shows.
fn device_of(target: &Target, attachment: &Attachment) -> Result<Device, Fault> {
    match &attachment.device {
        // Where a worker sees its devices is its own affair.
        Some(Device::Path(path)) if target.worker.is_some() => Ok(Device::Path(path.clone())),
        Some(Device::Path(path)) => {
            let path = target.device_root.join(path.strip_prefix("/").unwrap_or(path));
            Ok(Device::Path(path))
        }
        Some(device) => Ok(device.clone()),
        None => Err(Fault::lasting(
            format!("the provider does not say as which device attachment {} shows", attachment.id),
            "give the target a `device`",
        )),
    }
}

impl Step for Wait {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let volumes: Volumes = context.needed("create_block_volume")?;
        if let Some(why) = volumes.unattached() {
            return Ok(Outcome::Skipped(why.to_owned()));
        }
        let attached: Attached = context.needed("attach_block_volume")?;
        let target = self.0.target(&volumes.target).map_err(fault::of_place)?;
        let devices = attached.attachments.iter().map(|id| self.device(context, &target, id));
        Outcome::done(&Devices { devices: devices.collect::<Result<_, _>>()? })
    }
}

/// `detach_block_volume`.
pub(super) struct Detach(pub Arc<dyn Places>);

impl Step for Detach {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let volumes: Volumes = context.needed("create_block_volume")?;
        if let Some(why) = volumes.unattached() {
            return Ok(Outcome::Skipped(why.to_owned()));
        }
        let target = self.0.target(&volumes.target).map_err(fault::of_place)?;
        volumes.volumes.iter().try_for_each(|volume| detach(context, &target, &volume.id))?;
        Outcome::done(&serde_json::json!({ "detached": volumes.volumes.len() }))
    }
}

/// Asks the provider, right before a device is used, whether it still is that volume: an attachment may have been undone
/// since, and its device have become another volume's. Where the worker is one that comes and goes, the volume is brought to
/// the one that is there now. Returns how the device is reached.
pub(super) fn confirm(
    places: &dyn Places,
    context: &Context,
    target: &Target,
    (number, made, device): (usize, &Made, &str),
) -> Result<Device, Fault> {
    if target.worker.as_ref().is_some_and(|worker| worker.temporary().is_some()) {
        return bring(places, context, target, number, made);
    }
    let volume = &made.id;
    let attached: Attached = context.needed("attach_block_volume")?;
    let gone = |what: String| {
        Fault::lasting(
            format!("volume {volume} is not at {device} any more: {what}"),
            "nothing was written there; retry attach_block_volume, which attaches it anew",
        )
    };
    let Some(id) = attached.attachments.get(number) else {
        return Err(gone("it has no attachment".to_owned()));
    };
    let found = match ability(target)?.attachment(id) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(gone(error.to_string())),
        Err(error) => return Err(fault::of_cloud(&error)),
    };
    if found.state.progress(Goal::Use) != Progress::Ready {
        return Err(gone(format!("attachment {id} is {}", found.state.word)));
    }
    // The same path on another machine is another disk.
    let expected = machine(target)?;
    if found.instance != expected {
        return Err(gone(format!("it is attached to {}, and {expected} is what writes now", found.instance)));
    }
    let place = device_of(target, &found)?;
    if found.volume != *volume || place.to_string() != device {
        return Err(gone(format!("attachment {id} is of volume {} at {place}", found.volume)));
    }
    Ok(place)
}

/// Attaches a volume to the run's temporary worker, whichever that is now. Workers that were lost are gone for certain when
/// another is launched; what the provider still tells of their attachments is waited out.
fn bring(
    places: &dyn Places,
    context: &Context,
    target: &Target,
    number: usize,
    made: &Made,
) -> Result<Device, Fault> {
    let instance = worker::instance(places, context, target, Some(&made.domain))?;
    let attachments = ability(target)?;
    let end = Instant::now() + worker::of(target)?.start;
    loop {
        if Instant::now() >= end {
            return Err(Fault::passing(
                format!("volume {} cannot be attached to instance {}", made.id, instance.id),
                "see its attachments in the provider's console, then retry the step",
            ));
        }
        let found = attachments.attachments_of(&made.id).map_err(|error| fault::of_cloud(&error))?;
        let mine = found.iter().find(|one| one.instance == instance.id);
        if let Some(ready) = mine.filter(|one| one.state.progress(Goal::Use) == Progress::Ready) {
            return device_of(target, ready);
        }
        for other in found.iter().filter(|one| one.instance != instance.id) {
            if !worker::all(context, target)?.iter().any(|known| known.id == other.instance) {
                return Err(Fault::lasting(
                    format!("volume {} is attached to {}, which is not this run's", made.id, other.instance),
                    "detach it there, then retry the step",
                ));
            }
            if other.state.is_live() {
                attachments.detach(&other.id).map_err(|error| fault::of_cloud(&error))?;
            }
        }
        if found.is_empty() {
            let spec = spec(context, target, instance.id.clone(), number, &made.id);
            attachments.attach(&spec).map_err(|error| fault::of_cloud(&error))?;
            context.say(format!("volume {} to instance {}", made.id, instance.id));
        }
        context.wait(attachments.poll_interval())?;
    }
}

/// Detaches a volume from the machines to which this run has attached it, and waits until that is over.
fn detach(context: &Context, target: &Target, volume: &VolumeId) -> Result<(), Fault> {
    let attachments = ability(target)?;
    let mut kept: Kept = context.kept_by("attach_block_volume")?.unwrap_or_default();
    kept.instances.extend(worker::all(context, target)?.into_iter().map(|instance| instance.id));
    loop {
        let found = match attachments.attachments_of(volume) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(fault::of_cloud(&error)),
        };
        let left: Vec<_> = found
            .iter()
            .filter(|attachment| kept.instances.contains(&attachment.instance))
            .filter(|attachment| attachment.state.progress(Goal::End) != Progress::Ready)
            .collect();
        if left.is_empty() {
            context.say(format!("volume {volume} is detached"));
            return Ok(());
        }
        for attachment in
            left.iter().filter(|attachment| attachment.state.progress(Goal::End) == Progress::Broken)
        {
            if let Some(device) = attachment.device.as_ref().filter(|_| target.worker.is_none()) {
                bridge::settle(device).map_err(|error| fault::of_cloud(&error))?;
            }
            match attachments.detach(&attachment.id) {
                // One that is still being attached can be detached later.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                result => result.map_err(|error| fault::of_cloud(&error))?,
            }
        }
        context.wait(attachments.poll_interval())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_earlier_records_are_read() {
        let earlier = r#"{"devices":["/dev/oracleoci/oraclevdb"]}"#;
        let devices: Devices = serde_json::from_str(earlier).unwrap();
        assert_eq!(devices.devices, ["/dev/oracleoci/oraclevdb"]);
        assert_eq!(serde_json::to_string(&devices).unwrap(), earlier);
    }

    #[test]
    fn further_disks_have_further_letters() {
        let device = Path::new("/dev/oracleoci/oraclevdb");
        let text = |number| numbered(device, number).display().to_string();
        assert_eq!(
            (text(0).as_str(), text(2).as_str()),
            ("/dev/oracleoci/oraclevdb", "/dev/oracleoci/oraclevdd")
        );
        assert_eq!(numbered(Path::new("/dev/x0"), 1), Path::new("/dev/x01"));
    }
}
