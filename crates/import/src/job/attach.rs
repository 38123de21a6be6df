//! `attach_block_volume`, `wait_for_attachment`, `detach_block_volume`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leeward_cloud::ErrorKind;
use leeward_cloud::provider::{
    Attachment, AttachmentId, AttachmentKind, AttachmentSpec, Device, Goal, InstanceId, Progress, VolumeId,
};
use leeward_runs::step::{Context, Fault, Outcome, Step};
use serde::{Deserialize, Serialize};

use super::volume::{Volumes, owner};
use super::{Places, Target, fault};

/// What `attach_block_volume` leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attached {
    /// In the order of the volumes.
    pub attachments: Vec<AttachmentId>,
}

/// What `wait_for_attachment` leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Devices {
    /// Where the volumes show on the machine that writes, in their order.
    pub devices: Vec<PathBuf>,
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
    fn spec(
        &self,
        context: &Context,
        target: &Target,
        instance: InstanceId,
        number: usize,
        volume: &VolumeId,
    ) -> AttachmentSpec {
        AttachmentSpec {
            volume: volume.clone(),
            instance,
            kind: AttachmentKind::Paravirtualized,
            device: target.device.as_deref().map(|device| numbered(device, number)),
            read_only: false,
            owner: owner(context, "attach_block_volume", number),
        }
    }
}

/// The machine that writes: the one that is configured, or the one that this daemon runs on.
fn writer(target: &Target) -> Result<InstanceId, Fault> {
    if let Some(writer) = &target.writer {
        return Ok(writer.clone());
    }
    let here = target.cloud.attachments.here().map_err(|error| fault::of_cloud(&error))?;
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
        let target = self.0.target(&volumes.target).map_err(fault::of_place)?;
        let instance = writer(&target)?;
        let mut kept: Kept = context.kept()?.unwrap_or_default();
        kept.instances.insert(instance.clone());
        kept.volumes.extend(volumes.volumes.iter().map(|volume| (volumes.target.clone(), volume.id.clone())));
        context.keep(&kept)?;
        let mut attachments = Vec::new();
        for (number, volume) in volumes.volumes.iter().enumerate() {
            context.check()?;
            let spec = self.spec(context, &target, instance.clone(), number, &volume.id);
            let attachment =
                target.cloud.attachments.attach(&spec).map_err(|error| fault::of_cloud(&error))?;
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
    fn device(&self, context: &Context, target: &Target, id: &AttachmentId) -> Result<PathBuf, Fault> {
        let attachments = &target.cloud.attachments;
        loop {
            let attachment = attachments.attachment(id).map_err(|error| fault::of_cloud(&error))?;
            match attachment.state.progress(Goal::Use) {
                Progress::Ready => {
                    let path = path_of(target, &attachment)?;
                    if path.exists() {
                        return Ok(path);
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

fn path_of(target: &Target, attachment: &Attachment) -> Result<PathBuf, Fault> {
    match &attachment.device {
        Some(Device::Path(path)) => Ok(target.device_root.join(path.strip_prefix("/").unwrap_or(path))),
        Some(Device::Iscsi { portal, .. }) => Err(Fault::lasting(
            format!("attachment {} is by iSCSI at {portal}, which this daemon does not speak", attachment.id),
            "see the target's settings: paravirtualized attachments are needed",
        )),
        Some(_) => Err(Fault::lasting(
            format!("attachment {} shows as no device of this machine", attachment.id),
            "choose a target whose volumes can be attached to the machine of the daemon",
        )),
        None => Err(Fault::lasting(
            format!("the provider does not say as which device attachment {} shows", attachment.id),
            "give the target a `device`",
        )),
    }
}

impl Step for Wait {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let volumes: Volumes = context.needed("create_block_volume")?;
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
        let target = self.0.target(&volumes.target).map_err(fault::of_place)?;
        volumes.volumes.iter().try_for_each(|volume| detach(context, &target, &volume.id))?;
        Outcome::done(&serde_json::json!({ "detached": volumes.volumes.len() }))
    }
}

/// Asks the provider, right before a device is used, whether it still is that volume: an attachment may have been undone
/// since, and its device have become another volume's.
pub(super) fn confirm(
    context: &Context,
    target: &Target,
    number: usize,
    volume: &VolumeId,
    device: &Path,
) -> Result<(), Fault> {
    let attached: Attached = context.needed("attach_block_volume")?;
    let gone = |what: String| {
        Fault::lasting(
            format!("volume {volume} is not at {} any more: {what}", device.display()),
            "nothing was written there; retry attach_block_volume, which attaches it anew",
        )
    };
    let Some(id) = attached.attachments.get(number) else {
        return Err(gone("it has no attachment".to_owned()));
    };
    let found = match target.cloud.attachments.attachment(id) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(gone(error.to_string())),
        Err(error) => return Err(fault::of_cloud(&error)),
    };
    if found.state.progress(Goal::Use) != Progress::Ready {
        return Err(gone(format!("attachment {id} is {}", found.state.word)));
    }
    if found.volume != *volume || path_of(target, &found)? != device {
        return Err(gone(format!("attachment {id} is of volume {} at another device", found.volume)));
    }
    Ok(())
}

/// Detaches a volume from the machines to which this run has attached it, and waits until that is over.
fn detach(context: &Context, target: &Target, volume: &VolumeId) -> Result<(), Fault> {
    let attachments = &target.cloud.attachments;
    let kept: Kept = context.kept_by("attach_block_volume")?.unwrap_or_default();
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
