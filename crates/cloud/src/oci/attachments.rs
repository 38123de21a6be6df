//! Attachments of volumes to instances.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use leeward_remote::http::Method;
use serde::Deserialize;
use serde_json::json;

use super::Oci;
use super::create::{Found, find_or_make};
use crate::provider::{
    Attachment, AttachmentId, AttachmentKind, AttachmentSpec, AttachmentState, Attachments, Device, Here,
    InstanceId, Provider, Reported, Token, VolumeId,
};
use crate::{Error, Result};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    id: String,
    volume_id: String,
    instance_id: String,
    #[serde(default)]
    is_read_only: Option<bool>,
    lifecycle_state: String,
    device: Option<PathBuf>,
    ipv4: Option<IpAddr>,
    port: Option<u16>,
    iqn: Option<String>,
    chap_username: Option<String>,
}

#[derive(Deserialize)]
struct ToldDevice {
    name: String,
}

fn state(word: &str) -> AttachmentState {
    match word {
        "ATTACHING" => AttachmentState::Attaching,
        "ATTACHED" => AttachmentState::Attached,
        "DETACHING" => AttachmentState::Detaching,
        "DETACHED" => AttachmentState::Detached,
        _ => AttachmentState::Unknown,
    }
}

impl Told {
    fn place(&self) -> Option<Device> {
        match (self.ipv4, self.port, &self.iqn, &self.chap_username) {
            (Some(address), Some(port), Some(iqn), None) => {
                Some(Device::Iscsi { portal: SocketAddr::new(address, port), iqn: iqn.clone() })
            }
            (None, _, _, _) => self.device.clone().map(Device::Path),
            // With a password, which nobody here knows.
            _ => None,
        }
    }

    fn attachment(self) -> Attachment {
        Attachment {
            device: self.place(),
            id: AttachmentId::new(self.id),
            volume: VolumeId::new(self.volume_id),
            instance: InstanceId::new(self.instance_id),
            read_only: self.is_read_only.unwrap_or(false),
            state: Reported::new(state(&self.lifecycle_state), self.lifecycle_state),
        }
    }
}

impl Oci {
    fn find_attachment(&self, spec: &AttachmentSpec) -> Result<Found<Attachment>> {
        let all: Vec<Attachment> = self.all_attachments_of(&spec.volume)?;
        let (live, gone): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.state.is_live());
        let (own, others): (Vec<_>, Vec<_>) = live.into_iter().partition(|one| one.instance == spec.instance);
        if let Some(other) = others.first() {
            let what =
                format!("it is attached to the instance {}; detach it there ({})", other.instance, other.id);
            return Err(Error::conflict(self.name(), action(spec), what));
        }
        let was_here = gone.iter().any(|one| one.instance == spec.instance);
        Ok(match own.into_iter().next() {
            Some(one) => Found::Live(one),
            None if was_here => Found::Gone,
            None => Found::Nothing,
        })
    }

    fn all_attachments_of(&self, volume: &VolumeId) -> Result<Vec<Attachment>> {
        let request = self.list("volumeAttachments").query("volumeId", volume.as_str());
        let told: Vec<Told> =
            self.caller.pages(&format!("list the attachments of the volume {volume}"), &request)?;
        Ok(told.into_iter().map(Told::attachment).collect())
    }

    fn make_attachment(
        &self,
        spec: &AttachmentSpec,
        device: Option<&str>,
        token: &Token,
    ) -> Result<Attachment> {
        let mut body = json!({
            "type": match spec.kind {
                AttachmentKind::Paravirtualized => "paravirtualized",
                AttachmentKind::Iscsi => "iscsi",
            },
            "instanceId": spec.instance.as_str(),
            "volumeId": spec.volume.as_str(),
            "isReadOnly": spec.read_only,
            "isShareable": false,
            "displayName": format!("leeward {}", spec.owner.run).chars().take(255).collect::<String>(),
        });
        if let Some(device) = device {
            body["device"] = device.into();
        }
        let request = self.core(Method::POST, "volumeAttachments").header("opc-retry-token", token.as_str());
        self.caller.tell::<Told>(&action(spec), request, &body).map(Told::attachment)
    }

    /// The device that is asked for, or a free one: only of such a path is it known where the volume shows.
    fn device(&self, spec: &AttachmentSpec) -> Result<Option<String>> {
        match (&spec.device, spec.kind) {
            (Some(device), _) => Ok(device.to_str().map(str::to_owned)),
            (None, AttachmentKind::Iscsi) => Ok(None),
            (None, AttachmentKind::Paravirtualized) => {
                let mut request = self.one(Method::GET, "instances", spec.instance.as_str())?;
                request.path.push_str("/devices");
                let request = request.query("isAvailable", "true").query("limit", "1000");
                let told: Vec<ToldDevice> = self.caller.pages(&action(spec), &request)?;
                Ok(told.into_iter().next().map(|device| device.name))
            }
        }
    }
}

fn action(spec: &AttachmentSpec) -> String {
    format!("attach the volume {} to the instance {}", spec.volume, spec.instance)
}

impl Attachments for Oci {
    fn attach(&self, spec: &AttachmentSpec) -> Result<Attachment> {
        // A volume may move from machine to machine within a run; each way has its own token.
        let kind = format!("attachment {} {}", spec.volume, spec.instance);
        let attachment = find_or_make(
            (&spec.owner, &kind),
            self.poll_interval,
            || self.find_attachment(spec),
            |token| self.make_attachment(spec, self.device(spec)?.as_deref(), token),
        )?;
        let is_iscsi = matches!(attachment.device, Some(Device::Iscsi { .. }));
        let wanted = spec.kind == AttachmentKind::Iscsi;
        if attachment.read_only != spec.read_only || attachment.device.is_some() && is_iscsi != wanted {
            let what = format!("it is attached already in another way ({}); detach it first", attachment.id);
            return Err(Error::conflict(self.name(), action(spec), what));
        }
        Ok(attachment)
    }

    fn attachment(&self, id: &AttachmentId) -> Result<Attachment> {
        let request = self.one(Method::GET, "volumeAttachments", id.as_str())?;
        self.caller.ask::<Told>(&format!("look at the attachment {id}"), &request).map(Told::attachment)
    }

    fn attachments_of(&self, volume: &VolumeId) -> Result<Vec<Attachment>> {
        let all = self.all_attachments_of(volume)?;
        Ok(all.into_iter().filter(|one| one.state.state != AttachmentState::Detached).collect())
    }

    fn detach(&self, id: &AttachmentId) -> Result<()> {
        let request = self.one(Method::DELETE, "volumeAttachments", id.as_str())?;
        let is_live = || self.attachment(id).map(|attachment| attachment.state.is_live());
        self.remove(&format!("undo the attachment {id}"), &request, is_live)
    }

    fn here(&self) -> Result<Option<Here>> {
        self.metadata.here()
    }
}
