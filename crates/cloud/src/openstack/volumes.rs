//! Volumes of Cinder.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use leeward_remote::http::{Method, Request};
use leeward_remote::openstack::VOLUMES;
use serde::Deserialize;
use serde_json::{Value, json};

use super::caller::cinder;
use super::create::find_or_make;
use super::{Openstack, TAG_LIMITS};
use crate::provider::{
    Domain, GIB, IMAGE_TAG, Performance, Provider, RUN_TAG, Reported, Tags, Volume, VolumeId, VolumeLimits,
    VolumeSpec, VolumeState, Volumes,
};
use crate::{Error, ErrorKind, Result};

/// Whole GiB. Cinder itself knows no largest volume; its back ends and quotas do.
const LIMITS: VolumeLimits = VolumeLimits { bytes_min: GIB, bytes_max: 65_536 * GIB, bytes_step: GIB };
/// The longest name.
const NAME_CHARS_MAX: usize = 255;
/// How many volumes a page may have.
const PAGE_ITEMS: &str = "500";

#[derive(Deserialize)]
struct Told {
    id: String,
    #[serde(default)]
    name: Option<String>,
    size: u64,
    #[serde(default)]
    availability_zone: Option<String>,
    #[serde(default)]
    volume_type: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, Value>,
    status: String,
    #[serde(default)]
    created_at: Option<String>,
}

#[derive(Deserialize)]
struct One {
    volume: Told,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Zones {
    availability_zone_info: Vec<Zone>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Zone {
    zone_name: String,
    zone_state: ZoneState,
}

#[derive(Deserialize)]
struct ZoneState {
    available: bool,
}

fn state(word: &str) -> VolumeState {
    match word {
        "available" | "in-use" => VolumeState::Available,
        "creating" | "downloading" | "uploading" | "extending" | "retyping" | "reserved" | "attaching"
        | "detaching" | "maintenance" | "backing-up" | "restoring-backup" | "awaiting-transfer" => {
            VolumeState::Changing
        }
        "deleting" => VolumeState::Deleting,
        "deleted" => VolumeState::Deleted,
        // Also error_extending, error_restoring, error_deleting …
        word if word.starts_with("error") => VolumeState::Faulty,
        _ => VolumeState::Unknown,
    }
}

/// Cinder writes times of UTC without saying so.
fn time(text: &str) -> Option<Timestamp> {
    let plain = || text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    text.parse().ok().or_else(plain)
}

impl Told {
    fn volume(self) -> Volume {
        let tags: Tags = self
            .metadata
            .into_iter()
            .filter_map(|(key, value)| match value {
                Value::String(value) => Some((key, value)),
                _ => None,
            })
            .collect();
        Volume {
            id: VolumeId::new(self.id),
            name: self.name.unwrap_or_default(),
            bytes: self.size.saturating_mul(GIB),
            domain: self.availability_zone.unwrap_or_default(),
            performance: self.volume_type.map(Performance::Class),
            encryption_key: None,
            tags,
            state: Reported::new(state(&self.status), self.status),
            created: self.created_at.as_deref().and_then(time),
        }
    }
}

/// An id that comes from outside, as a part of a path.
pub(super) fn checked<'a>(provider: &str, id: &'a str) -> Result<&'a str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if id.is_empty() || id.len() > 255 || !id.bytes().all(plain) {
        let what = "an id of OpenStack has letters, digits and hyphens: copy it from `openstack volume list`";
        return Err(Error::refused(provider, format!("ask for {id:?}"), what));
    }
    Ok(id)
}

impl Openstack {
    fn one(&self, method: Method, id: &VolumeId) -> Result<Request> {
        Ok(cinder(method, &format!("/volumes/{}", checked(self.name(), id.as_str())?)))
    }

    /// All volumes, or those that have a tag where Cinder can look for it.
    fn list(&self, tag: Option<(&str, &str)>) -> Result<Vec<Volume>> {
        let mut request = cinder(Method::GET, "/volumes/detail").query("limit", PAGE_ITEMS);
        let is_plain =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if let Some((key, value)) = tag.filter(|(key, value)| is_plain(key) && is_plain(value)) {
            request = request.query("metadata", format!("{{'{key}':'{value}'}}"));
        }
        let next = |page: &Value| {
            let links = page.get("volumes_links")?.as_array()?;
            let is_next = |link: &&Value| link.get("rel").and_then(Value::as_str) == Some("next");
            links.iter().find(is_next)?.get("href")?.as_str().map(str::to_owned)
        };
        let told: Vec<Told> = self.caller.pages("list the volumes", VOLUMES, &request, ("volumes", &next))?;
        Ok(told.into_iter().map(Told::volume).collect())
    }

    fn find_volume(&self, spec: &VolumeSpec) -> Result<Option<Volume>> {
        let own = self.volumes_tagged(RUN_TAG, Some(&spec.owner.run))?.into_iter();
        let mut live: Vec<Volume> =
            own.filter(|volume| spec.owner.owns(&volume.tags) && volume.state.is_live()).collect();
        // There is one at most, unless an answer was lost or somebody copied tags; then the oldest is it, in every attempt.
        live.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(live.into_iter().next())
    }

    fn make_volume(&self, action: &str, spec: &VolumeSpec, image: Option<&str>) -> Result<Volume> {
        let mut metadata = spec.owner.mark(&spec.tags);
        let mut volume = json!({
            "name": spec.name,
            "size": spec.bytes / GIB,
            "availability_zone": spec.domain,
        });
        if let Some(image) = image {
            metadata.insert(IMAGE_TAG.to_owned(), image.to_owned());
            volume["imageRef"] = image.into();
        }
        volume["metadata"] = json!(metadata);
        if let Some(performance) = &spec.performance {
            volume["volume_type"] = self.class(performance)?.into();
        }
        let request = cinder(Method::POST, "/volumes");
        let response = self.caller.tell(action, VOLUMES, request, &json!({ "volume": volume }))?;
        self.caller.read::<One>(action, &response).map(|one| one.volume.volume())
    }

    /// Makes a volume, of an image or empty, or finds it.
    pub(super) fn create(&self, spec: &VolumeSpec, image: Option<&str>) -> Result<Volume> {
        let action = format!("make the volume {}", spec.name);
        self.check_volume(&action, spec)?;
        let volume = find_or_make(
            self.poll_interval(),
            || self.find_volume(spec),
            || self.make_volume(&action, spec, image),
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

    fn check_volume(&self, action: &str, spec: &VolumeSpec) -> Result<()> {
        let refused = |what: String| Err(Error::refused(self.name(), action, what));
        if !LIMITS.allows(spec.bytes) {
            return refused(format!(
                "{} bytes are no size of a volume: it has whole GiB, at least one",
                spec.bytes
            ));
        }
        if spec.encryption_key.is_some() {
            return refused(
                "Cinder encrypts by the type of a volume: name an encrypted volume_type in place of a key"
                    .to_owned(),
            );
        }
        if let Some(performance) = &spec.performance {
            self.class(performance)?;
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

    fn class<'a>(&self, performance: &'a Performance) -> Result<&'a str> {
        match performance {
            Performance::Class(name) => Ok(name),
            other @ Performance::VpusPerGb(_) => {
                let what = format!(
                    "{other} is nothing to Cinder; it has types of volumes: openstack volume type list"
                );
                Err(Error::refused(self.name(), "set the performance", what))
            }
        }
    }

    /// Has something done to a volume.
    pub(super) fn act(&self, action: &str, id: &VolumeId, body: &Value) -> Result<()> {
        let mut request = self.one(Method::POST, id)?;
        request.path.push_str("/action");
        self.caller.tell(action, VOLUMES, request, body).map(drop)
    }
}

/// Whether what was found is what is asked for; else what differs.
fn difference(found: &Volume, spec: &VolumeSpec) -> Option<String> {
    if found.bytes != spec.bytes {
        Some(format!("it has {} GiB instead of {}", found.bytes / GIB, spec.bytes / GIB))
    } else if found.domain != spec.domain {
        Some(format!("it is in {} instead of {}", found.domain, spec.domain))
    } else {
        None
    }
}

impl Volumes for Openstack {
    fn domains(&self) -> Result<Vec<Domain>> {
        let action = "list the availability zones";
        let request = cinder(Method::GET, "/os-availability-zone");
        let told: Zones = self.caller.ask(action, VOLUMES, &request)?;
        let mut names: Vec<String> = told
            .availability_zone_info
            .into_iter()
            .filter(|zone| zone.zone_state.available)
            .map(|zone| zone.zone_name)
            .collect();
        names.sort();
        if let Some(wanted) = &self.zone {
            if !names.contains(wanted) {
                let what = format!("there is no zone {wanted} that is available, but {}", names.join(", "));
                return Err(Error::refused(self.name(), action, what));
            }
            names.retain(|name| name == wanted);
        }
        Ok(names.into_iter().map(|name| Domain { name }).collect())
    }

    fn volume_limits(&self) -> VolumeLimits {
        LIMITS
    }

    fn create_volume(&self, spec: &VolumeSpec) -> Result<Volume> {
        self.create(spec, None)
    }

    fn volume(&self, id: &VolumeId) -> Result<Volume> {
        let request = self.one(Method::GET, id)?;
        let one: One = self.caller.ask(&format!("look at the volume {id}"), VOLUMES, &request)?;
        Ok(one.volume.volume())
    }

    fn volumes(&self) -> Result<Vec<Volume>> {
        self.list(None)
    }

    fn volumes_tagged(&self, key: &str, value: Option<&str>) -> Result<Vec<Volume>> {
        let has = |tags: &Tags| tags.get(key).is_some_and(|is| value.is_none_or(|value| is == value));
        let found = self.list(value.map(|value| (key, value)))?;
        Ok(found.into_iter().filter(|volume| has(&volume.tags)).collect())
    }

    fn set_performance(&self, id: &VolumeId, performance: &Performance) -> Result<Volume> {
        let action = format!("give the volume {id} the type {performance}");
        let class = self.class(performance)?;
        let now = self.volume(id)?;
        if now.performance.as_ref() == Some(performance) {
            return Ok(now);
        }
        let body = json!({ "os-retype": { "new_type": class, "migration_policy": "on-demand" } });
        self.act(&action, id, &body)?;
        self.volume(id)
    }

    fn grow_volume(&self, id: &VolumeId, bytes: u64) -> Result<Volume> {
        let action = format!("grow the volume {id} to {} GiB", bytes / GIB);
        if !LIMITS.allows(bytes) {
            return Err(Error::refused(self.name(), action, "a volume has whole GiB, at least one"));
        }
        let now = self.volume(id)?;
        if now.bytes > bytes {
            let what = format!("it has {} GiB already, and cannot become smaller", now.bytes / GIB);
            return Err(Error::refused(self.name(), action, what));
        }
        if now.bytes == bytes {
            return Ok(now);
        }
        match self.act(&action, id, &json!({ "os-extend": { "new_size": bytes / GIB } })) {
            // What was asked for before, and whose answer was lost, is under way.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let now = self.volume(id)?;
                if now.bytes == bytes { Ok(now) } else { Err(error) }
            }
            Err(error) => Err(error),
            // It shows the new size when it has it.
            Ok(()) => Ok(Volume { bytes, ..self.volume(id)? }),
        }
    }

    fn delete_volume(&self, id: &VolumeId) -> Result<()> {
        let request = self.one(Method::DELETE, id)?;
        match self.caller.call(&format!("delete the volume {id}"), VOLUMES, &request) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() == ErrorKind::Conflict => match self.volume(id) {
                Ok(volume) if !volume.state.is_live() => Ok(()),
                Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            },
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Told, checked, state, time};
    use crate::provider::{GIB, Performance, VolumeState};

    #[test]
    fn a_volume_is_read() {
        let text = r#"{"id": "6e7a", "name": null, "size": 2, "availability_zone": "nova", "volume_type": "nfs",
            "metadata": {"leeward-run": "r"}, "status": "downloading", "created_at": "2026-11-22T01:02:03.000000",
            "bootable": "true", "attachments": []}"#;
        let volume = serde_json::from_str::<Told>(text).unwrap().volume();
        assert_eq!((volume.bytes, volume.domain.as_str()), (2 * GIB, "nova"));
        assert_eq!(volume.performance, Some(Performance::Class("nfs".to_owned())));
        assert_eq!((volume.state.state, volume.tags["leeward-run"].as_str()), (VolumeState::Changing, "r"));
        assert_eq!(volume.created.unwrap().to_string(), "2026-11-22T01:02:03Z");
        assert_eq!(time("2026-11-22T01:02:03Z").unwrap().to_string(), "2026-11-22T01:02:03Z");
        assert_eq!(state("error_deleting"), VolumeState::Faulty);
        assert_eq!(state("in-use"), VolumeState::Available);
    }

    #[test]
    fn an_id_leads_nowhere_else() {
        assert!(checked("p", "6e7a3b5c-0000-4000-8000-000000000001").is_ok());
        for wrong in ["", ".", "..", "../a", "a/b", "a?b", "a%2f", "a\n", "a.b"] {
            assert!(checked("p", wrong).is_err(), "{wrong:?}");
        }
    }
}
