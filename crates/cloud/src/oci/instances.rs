//! Instances, and the addresses of their network cards.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use leeward_remote::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::create::{Found, find_or_make};
use super::{Oci, TAG_LIMITS};
use crate::provider::{
    Instance, InstanceId, InstanceSpec, InstanceState, Instances, Provider, Reported, Tags, Token,
};
use crate::{Error, ErrorKind, Result};

/// The most that metadata may have, keys and cloud-init together, in bytes.
const METADATA_BYTES_MAX: usize = 32_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    id: String,
    #[serde(default)]
    display_name: String,
    availability_domain: String,
    #[serde(default)]
    shape: String,
    #[serde(default)]
    freeform_tags: Tags,
    lifecycle_state: String,
    time_created: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CardAttachment {
    vnic_id: Option<String>,
    lifecycle_state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Card {
    is_primary: Option<bool>,
    private_ip: Option<IpAddr>,
}

fn state(word: &str) -> InstanceState {
    match word {
        "PROVISIONING" | "STARTING" | "MOVING" => InstanceState::Starting,
        "RUNNING" | "CREATING_IMAGE" => InstanceState::Running,
        "STOPPING" => InstanceState::Stopping,
        "STOPPED" => InstanceState::Stopped,
        "TERMINATING" => InstanceState::Terminating,
        "TERMINATED" => InstanceState::Terminated,
        _ => InstanceState::Unknown,
    }
}

impl Told {
    fn instance(self) -> Instance {
        Instance {
            id: InstanceId::new(self.id),
            name: self.display_name,
            domain: self.availability_domain,
            shape: self.shape,
            tags: self.freeform_tags,
            state: Reported::new(state(&self.lifecycle_state), self.lifecycle_state),
            created: self.time_created,
        }
    }
}

impl Oci {
    fn find_instance(&self, spec: &InstanceSpec) -> Result<Found<Instance>> {
        let own = self.instances()?.into_iter().filter(|instance| spec.owner.owns(&instance.tags));
        let (mut live, gone): (Vec<_>, Vec<_>) = own.partition(|instance| instance.state.is_live());
        live.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(match live.into_iter().next() {
            Some(instance) => Found::Live(instance),
            None if gone.is_empty() => Found::Nothing,
            None => Found::Gone,
        })
    }

    fn launch_body(&self, spec: &InstanceSpec) -> Value {
        let mut source = json!({ "sourceType": "image", "imageId": spec.image });
        if let Some(size) = spec.boot_volume_gib {
            source["bootVolumeSizeInGBs"] = size.into();
        }
        let mut body = json!({
            "compartmentId": self.compartment,
            "availabilityDomain": spec.domain,
            "displayName": spec.name,
            "shape": spec.shape,
            "sourceDetails": source,
            "createVnicDetails": { "subnetId": spec.subnet, "assignPublicIp": false },
            // Only requests with the header of version 2 get at the metadata: no forged request of a guest's service.
            "instanceOptions": { "areLegacyImdsEndpointsDisabled": true },
            "metadata": metadata(spec),
            "freeformTags": spec.owner.mark(&spec.tags),
        });
        if spec.cpus.is_some() || spec.memory_gib.is_some() {
            body["shapeConfig"] = json!({ "ocpus": spec.cpus, "memoryInGBs": spec.memory_gib });
        }
        for (namespace, key, value) in &spec.defined_tags {
            body["definedTags"][namespace.as_str()][key.as_str()] = value.as_str().into();
        }
        body
    }

    fn check_instance(&self, action: &str, spec: &InstanceSpec) -> Result<()> {
        self.check_name(action, &spec.name)?;
        TAG_LIMITS.check(self.name(), &spec.tags, &spec.owner)?;
        let bytes = metadata(spec).to_string().len();
        if bytes > METADATA_BYTES_MAX {
            let what = format!(
                "keys and cloud-init together have {bytes} bytes; at most {METADATA_BYTES_MAX} are possible"
            );
            return Err(Error::refused(self.name(), action, what));
        }
        Ok(())
    }

    fn make_instance(&self, action: &str, body: &Value, token: &Token) -> Result<Instance> {
        let request = self.core(Method::POST, "instances").header("opc-retry-token", token.as_str());
        self.caller.tell::<Told>(action, request, body).map(Told::instance)
    }

    /// A network card that may have gone since it was listed.
    fn card(&self, id: &str) -> Result<Option<Card>> {
        let request = self.one(Method::GET, "vnics", id)?;
        match self.caller.ask(&format!("look at the network card {id}"), &request) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }
}

fn metadata(spec: &InstanceSpec) -> Value {
    let mut metadata = json!({});
    if !spec.ssh_keys.is_empty() {
        metadata["ssh_authorized_keys"] = spec.ssh_keys.join("\n").into();
    }
    if let Some(data) = &spec.user_data {
        metadata["user_data"] = STANDARD.encode(data.reveal()).into();
    }
    metadata
}

impl Instances for Oci {
    fn launch(&self, spec: &InstanceSpec) -> Result<Instance> {
        let action = format!("launch the instance {}", spec.name);
        self.check_instance(&action, spec)?;
        let body = self.launch_body(spec);
        let instance = find_or_make(
            (&spec.owner, "instance"),
            self.poll_interval,
            || self.find_instance(spec),
            |token| self.make_instance(&action, &body, token),
        )?;
        if instance.domain == spec.domain && instance.shape == spec.shape {
            return Ok(instance);
        }
        let what = format!(
            "{} launched {} before, a {} in {}; terminate that, then try again",
            spec.owner, instance.id, instance.shape, instance.domain
        );
        Err(Error::conflict(self.name(), action, what))
    }

    fn instance(&self, id: &InstanceId) -> Result<Instance> {
        let request = self.one(Method::GET, "instances", id.as_str())?;
        self.caller.ask::<Told>(&format!("look at the instance {id}"), &request).map(Told::instance)
    }

    fn instances(&self) -> Result<Vec<Instance>> {
        let told: Vec<Told> = self.caller.pages("list the instances", &self.list("instances"))?;
        Ok(told.into_iter().map(Told::instance).collect())
    }

    fn private_address(&self, id: &InstanceId) -> Result<Option<IpAddr>> {
        let request = self.list("vnicAttachments").query("instanceId", id.as_str());
        let attachments: Vec<CardAttachment> =
            self.caller.pages(&format!("list the network cards of the instance {id}"), &request)?;
        let attached = attachments.into_iter().filter(|one| one.lifecycle_state == "ATTACHED");
        for id in attached.filter_map(|one| one.vnic_id) {
            let card = self.card(&id)?.filter(|card| card.is_primary.unwrap_or(true));
            if let Some(address) = card.and_then(|card| card.private_ip) {
                return Ok(Some(address));
            }
        }
        // It has none yet, unless there is no such instance.
        self.instance(id).map(|_| None)
    }

    fn terminate(&self, id: &InstanceId) -> Result<()> {
        let request =
            self.one(Method::DELETE, "instances", id.as_str())?.query("preserveBootVolume", "false");
        let is_live = || self.instance(id).map(|instance| instance.state.is_live());
        self.remove(&format!("terminate the instance {id}"), &request, is_live)
    }
}
