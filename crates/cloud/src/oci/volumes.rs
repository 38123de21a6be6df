//! Block volumes.

use jiff::Timestamp;
use leeward_remote::http::{Method, Request};
use serde::Deserialize;
use serde_json::json;

use super::create::{Found, find_or_make};
use super::{Oci, TAG_LIMITS};
use crate::provider::{
    Domain, GIB, Performance, Provider, Reported, Tags, Token, Volume, VolumeId, VolumeLimits, VolumeSpec,
    VolumeState, Volumes,
};
use crate::{Error, ErrorKind, Result};

/// 50 GiB to 32 TiB; what OCI calls a GB has 2^30 bytes.
const LIMITS: VolumeLimits = VolumeLimits { bytes_min: 50 * GIB, bytes_max: 32_768 * GIB, bytes_step: GIB };
/// The longest display name.
const NAME_CHARS_MAX: usize = 255;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    id: String,
    #[serde(default)]
    display_name: String,
    #[serde(rename = "sizeInGBs")]
    size_gib: u64,
    availability_domain: String,
    #[serde(rename = "vpusPerGB")]
    vpus: Option<u32>,
    kms_key_id: Option<String>,
    #[serde(default)]
    freeform_tags: Tags,
    lifecycle_state: String,
    time_created: Option<Timestamp>,
}

#[derive(Deserialize)]
struct ToldDomain {
    name: String,
}

fn state(word: &str) -> VolumeState {
    match word {
        "PROVISIONING" | "RESTORING" => VolumeState::Changing,
        "AVAILABLE" => VolumeState::Available,
        "TERMINATING" => VolumeState::Deleting,
        "TERMINATED" => VolumeState::Deleted,
        "FAULTY" => VolumeState::Faulty,
        _ => VolumeState::Unknown,
    }
}

impl Told {
    fn volume(self) -> Volume {
        Volume {
            id: VolumeId::new(self.id),
            name: self.display_name,
            bytes: self.size_gib.saturating_mul(GIB),
            domain: self.availability_domain,
            performance: self.vpus.map(Performance::VpusPerGb),
            encryption_key: self.kms_key_id.filter(|key| !key.is_empty()),
            tags: self.freeform_tags,
            state: Reported::new(state(&self.lifecycle_state), self.lifecycle_state),
            created: self.time_created,
        }
    }
}

impl Oci {
    fn find_volume(&self, spec: &VolumeSpec) -> Result<Found<Volume>> {
        let own = self.volumes()?.into_iter().filter(|volume| spec.owner.owns(&volume.tags));
        let (mut live, gone): (Vec<_>, Vec<_>) = own.partition(|volume| volume.state.is_live());
        // There is one at most, unless somebody copied tags; then the oldest is it, in every attempt.
        live.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(match live.into_iter().next() {
            Some(volume) => Found::Live(volume),
            None if gone.is_empty() => Found::Nothing,
            None => Found::Gone,
        })
    }

    fn make_volume(&self, action: &str, spec: &VolumeSpec, token: &Token) -> Result<Volume> {
        let mut body = json!({
            "compartmentId": self.compartment,
            "availabilityDomain": spec.domain,
            "displayName": spec.name,
            "sizeInGBs": spec.bytes / GIB,
            "freeformTags": spec.owner.mark(&spec.tags),
        });
        if let Some(performance) = &spec.performance {
            body["vpusPerGB"] = self.vpus(performance)?.into();
        }
        if let Some(key) = &spec.encryption_key {
            body["kmsKeyId"] = key.as_str().into();
        }
        let request = self.core(Method::POST, "volumes").header("opc-retry-token", token.as_str());
        self.caller.tell::<Told>(action, request, &body).map(Told::volume)
    }

    fn check_volume(&self, action: &str, spec: &VolumeSpec) -> Result<()> {
        let refused = |what: String| Err(Error::refused(self.name(), action, what));
        if !LIMITS.allows(spec.bytes) {
            return refused(format!(
                "{} bytes are no size of a volume: it has whole GiB, at least 50 and at most 32768",
                spec.bytes
            ));
        }
        if let Some(performance) = &spec.performance {
            self.vpus(performance)?;
        }
        self.check_name(action, &spec.name)?;
        TAG_LIMITS.check(self.name(), &spec.tags, &spec.owner)
    }

    pub(super) fn check_name(&self, action: &str, name: &str) -> Result<()> {
        let count = name.chars().count();
        if count == 0 || count > NAME_CHARS_MAX || name.chars().any(char::is_control) {
            let what = format!(
                "the name has {count} characters; it needs 1 to {NAME_CHARS_MAX}, none of them a control character"
            );
            return Err(Error::refused(self.name(), action, what));
        }
        Ok(())
    }

    fn vpus(&self, performance: &Performance) -> Result<u32> {
        match performance {
            Performance::VpusPerGb(units) if *units <= 120 && units % 10 == 0 => Ok(*units),
            other => {
                let what = format!("{other} is no performance of OCI; it has 0, 10, 20 … 120 VPU/GB");
                Err(Error::refused(self.name(), "set the performance", what))
            }
        }
    }

    /// Changes a volume unless it is so already; also a change that was made though its answer was lost is seen.
    fn change_volume(
        &self,
        action: &str,
        id: &VolumeId,
        body: &serde_json::Value,
        is_so: impl Fn(&Volume) -> bool,
    ) -> Result<Volume> {
        let now = self.volume(id)?;
        if is_so(&now) {
            return Ok(now);
        }
        let request = self.one(Method::PUT, "volumes", id.as_str())?;
        match self.caller.tell::<Told>(action, request, body) {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let now = self.volume(id)?;
                if is_so(&now) { Ok(now) } else { Err(error) }
            }
            other => other.map(Told::volume),
        }
    }
}

/// Whether what was found is what is asked for; else what differs.
fn difference(found: &Volume, spec: &VolumeSpec) -> Option<String> {
    if found.bytes != spec.bytes {
        Some(format!("it has {} GiB instead of {}", found.bytes / GIB, spec.bytes / GIB))
    } else if found.domain != spec.domain {
        Some(format!("it is in {} instead of {}", found.domain, spec.domain))
    } else if found.encryption_key != spec.encryption_key {
        Some("it is encrypted with another key".to_owned())
    } else {
        None
    }
}

impl Volumes for Oci {
    fn domains(&self) -> Result<Vec<Domain>> {
        let request =
            Request::new(Method::GET, self.endpoints.identity.as_str(), "/20160918/availabilityDomains")
                .query("compartmentId", &self.compartment);
        let told: Vec<ToldDomain> = self.caller.pages("list the availability domains", &request)?;
        Ok(told.into_iter().map(|domain| Domain { name: domain.name }).collect())
    }

    fn volume_limits(&self) -> VolumeLimits {
        LIMITS
    }

    fn create_volume(&self, spec: &VolumeSpec) -> Result<Volume> {
        let action = format!("make the volume {}", spec.name);
        self.check_volume(&action, spec)?;
        let volume = find_or_make(
            (&spec.owner, "volume"),
            self.poll_interval,
            || self.find_volume(spec),
            |token| self.make_volume(&action, spec, token),
        )?;
        match difference(&volume, spec) {
            None => Ok(volume),
            Some(what) => Err(Error::conflict(
                self.name(),
                action,
                format!(
                    "{} made the volume {} before, and {what}; remove that volume, then try again",
                    spec.owner, volume.id
                ),
            )),
        }
    }

    fn volume(&self, id: &VolumeId) -> Result<Volume> {
        let request = self.one(Method::GET, "volumes", id.as_str())?;
        self.caller.ask::<Told>(&format!("look at the volume {id}"), &request).map(Told::volume)
    }

    fn volumes(&self) -> Result<Vec<Volume>> {
        let told: Vec<Told> = self.caller.pages("list the volumes", &self.list("volumes"))?;
        Ok(told.into_iter().map(Told::volume).collect())
    }

    fn set_performance(&self, id: &VolumeId, performance: &Performance) -> Result<Volume> {
        let action = format!("set the performance of the volume {id} to {performance}");
        let body = json!({ "vpusPerGB": self.vpus(performance)? });
        self.change_volume(&action, id, &body, |volume| volume.performance.as_ref() == Some(performance))
    }

    fn grow_volume(&self, id: &VolumeId, bytes: u64) -> Result<Volume> {
        let action = format!("grow the volume {id} to {} GiB", bytes / GIB);
        if !LIMITS.allows(bytes) {
            return Err(Error::refused(self.name(), action, "a volume has whole GiB, at most 32768"));
        }
        let now = self.volume(id)?;
        if now.bytes > bytes {
            let what = format!("it has {} GiB already, and cannot become smaller", now.bytes / GIB);
            return Err(Error::refused(self.name(), action, what));
        }
        self.change_volume(&action, id, &json!({ "sizeInGBs": bytes / GIB }), |volume| volume.bytes == bytes)
    }

    fn delete_volume(&self, id: &VolumeId) -> Result<()> {
        let request = self.one(Method::DELETE, "volumes", id.as_str())?;
        let is_live = || self.volume(id).map(|volume| volume.state.is_live());
        self.remove(&format!("delete the volume {id}"), &request, is_live)
    }
}
