//! Attaching: a note that this machine uses the image.

use super::{LOCAL, RbdVolumes};
use crate::provider::{
    Attachment, AttachmentId, AttachmentSpec, AttachmentState, Attachments, Device, Fault, Here, InstanceId,
    Provider, Reported, VolumeId,
};
use crate::{Error, ErrorKind, Result};

impl RbdVolumes {
    fn attached(&self, id: &str, read_only: bool) -> Attachment {
        Attachment {
            id: AttachmentId::new(id),
            volume: VolumeId::new(id),
            instance: InstanceId::new(LOCAL),
            read_only,
            state: Reported::new(AttachmentState::Attached, "attached"),
            device: Some(Device::Rbd(self.image(id).to_address())),
        }
    }
}

impl Attachments for RbdVolumes {
    fn attach(&self, spec: &AttachmentSpec) -> Result<Attachment> {
        let (id, action) = (spec.volume.as_str(), format!("attach the volume {}", spec.volume));
        if spec.instance.as_str() != LOCAL {
            let what = format!("there is no machine {}, only {LOCAL}", spec.instance);
            return Err(Fault::new(ErrorKind::NotFound, self.name(), action, what).into());
        }
        let mut record = self.record(id)?.ok_or_else(|| self.not_found(id))?;
        match record.read_only {
            Some(read_only) if read_only != spec.read_only => {
                let what = "it is attached already in another way; detach it first";
                return Err(Error::conflict(self.name(), action, what));
            }
            Some(_) => {}
            None => {
                record.read_only = Some(spec.read_only);
                self.write(id, &record)?;
            }
        }
        Ok(self.attached(id, spec.read_only))
    }

    fn attachment(&self, id: &AttachmentId) -> Result<Attachment> {
        let held = self.record(id.as_str())?.and_then(|record| record.read_only);
        held.map(|read_only| self.attached(id.as_str(), read_only)).ok_or_else(|| self.not_found(id.as_str()))
    }

    fn attachments_of(&self, volume: &VolumeId) -> Result<Vec<Attachment>> {
        let held = self.record(volume.as_str())?.and_then(|record| record.read_only);
        Ok(held.into_iter().map(|read_only| self.attached(volume.as_str(), read_only)).collect())
    }

    fn detach(&self, id: &AttachmentId) -> Result<()> {
        let mut record = match self.record(id.as_str()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => match other? {
                Some(record) if record.read_only.is_some() => record,
                _ => return Ok(()),
            },
        };
        record.read_only = None;
        match self.write(id.as_str(), &record) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn here(&self) -> Result<Option<Here>> {
        Ok(Some(Here { instance: InstanceId::new(LOCAL), domain: Some(LOCAL.to_owned()) }))
    }
}
