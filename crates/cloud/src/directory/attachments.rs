//! Attaching: this machine alone sees the file.

use super::record::{Condition, Held};
use super::{Directory, LOCAL};
use crate::provider::{
    Attachment, AttachmentId, AttachmentSpec, AttachmentState, Attachments, Device, Fault, Here, InstanceId,
    Provider, Reported, VolumeId,
};
use crate::{Error, ErrorKind, Result};

impl Directory {
    fn attached(&self, id: &VolumeId, held: &Held) -> Attachment {
        Attachment {
            id: AttachmentId::new(id.as_str()),
            volume: id.clone(),
            instance: InstanceId::new(LOCAL),
            read_only: held.read_only,
            state: Reported::new(AttachmentState::Attached, "attached"),
            device: Some(Device::Path(self.data(id.as_str()))),
        }
    }
}

impl Attachments for Directory {
    fn attach(&self, spec: &AttachmentSpec) -> Result<Attachment> {
        let action = format!("attach the volume {}", spec.volume);
        if spec.instance.as_str() != LOCAL {
            let what = format!("there is no machine {}, only {LOCAL}", spec.instance);
            return Err(Fault::new(ErrorKind::NotFound, self.name(), action, what).into());
        }
        let volume = self.change(&spec.volume, |record| {
            let held = record.attached.get_or_insert(Held { read_only: spec.read_only });
            if record.condition == Condition::Deleting {
                return Err(Error::conflict(self.name(), action.as_str(), "it is being deleted"));
            }
            if held.read_only != spec.read_only {
                let what = "it is attached already in another way; detach it first";
                return Err(Error::conflict(self.name(), action.as_str(), what));
            }
            Ok(())
        })?;
        Ok(self.attached(&volume.id, &Held { read_only: spec.read_only }))
    }

    fn attachment(&self, id: &AttachmentId) -> Result<Attachment> {
        let volume = VolumeId::new(id.as_str());
        let held = self.record(&volume)?.attached;
        held.map(|held| self.attached(&volume, &held))
            .ok_or_else(|| self.not_found(format!("look at the attachment {id}")))
    }

    fn attachments_of(&self, volume: &VolumeId) -> Result<Vec<Attachment>> {
        let held = self.record(volume)?.attached;
        Ok(held.iter().map(|held| self.attached(volume, held)).collect())
    }

    fn detach(&self, id: &AttachmentId) -> Result<()> {
        let detached = self.change(&VolumeId::new(id.as_str()), |record| {
            record.attached = None;
            Ok(())
        });
        match detached {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn here(&self) -> Result<Option<Here>> {
        Ok(Some(Here { instance: InstanceId::new(LOCAL), domain: Some(LOCAL.to_owned()) }))
    }
}
