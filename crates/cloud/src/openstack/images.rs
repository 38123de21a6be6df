//! Images of Glance, and volumes that are made of them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use leeward_remote::http::Method;
use leeward_remote::openstack::{IMAGES, VOLUMES};
use serde::Deserialize;
use serde_json::{Value, json};

use super::caller::{cinder, glance};
use super::create::find_or_make;
use super::filling::Upload;
use super::volumes::checked;
use super::{Openstack, TAG_LIMITS};
use crate::provider::{
    Filling, IMAGE_TAG, Image, ImageDigest, ImageId, ImageSpec, ImageState, Images, Provider, RUN_TAG,
    Reported, Tags, Volume, VolumeId, VolumeSpec,
};
use crate::{Error, ErrorKind, Result};

/// How many images a page may have.
const PAGE_ITEMS: &str = "100";

#[derive(Deserialize)]
struct Told {
    id: String,
    #[serde(default)]
    name: Option<String>,
    status: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    os_hash_algo: Option<String>,
    #[serde(default)]
    os_hash_value: Option<String>,
    #[serde(default)]
    created_at: Option<Timestamp>,
    /// Everything else, among it what others hung on it, of any kind.
    #[serde(flatten)]
    properties: BTreeMap<String, Value>,
}

fn state(word: &str) -> ImageState {
    match word {
        "queued" => ImageState::Empty,
        "saving" | "uploading" | "importing" => ImageState::Filling,
        "active" => ImageState::Full,
        "pending_delete" => ImageState::Deleting,
        "deleted" => ImageState::Deleted,
        "killed" | "deactivated" => ImageState::Faulty,
        _ => ImageState::Unknown,
    }
}

impl Told {
    fn image(self) -> Image {
        let digest = match (self.os_hash_algo, self.os_hash_value) {
            (Some(algorithm), Some(value)) if !value.is_empty() => Some(ImageDigest { algorithm, value }),
            _ => None,
        };
        let tags: Tags = self
            .properties
            .into_iter()
            .filter_map(|(key, value)| match value {
                Value::String(value) => Some((key, value)),
                _ => None,
            })
            .collect();
        Image {
            id: ImageId::new(self.id),
            name: self.name.unwrap_or_default(),
            bytes: self.size,
            digest,
            tags,
            state: Reported::new(state(&self.status), self.status),
            created: self.created_at,
        }
    }
}

impl Openstack {
    fn find_image(&self, spec: &ImageSpec) -> Result<Option<Image>> {
        let own = self.images_tagged(RUN_TAG, &spec.owner.run)?.into_iter();
        // One with bytes may be anybody's: who saves a volume as an image gives that image the tags of the first.
        let is_mine = |image: &Image| spec.owner.owns(&image.tags) && image.state.state == ImageState::Empty;
        let mut live: Vec<Image> = own.filter(is_mine).collect();
        live.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(live.into_iter().next())
    }

    fn make_image(&self, action: &str, spec: &ImageSpec) -> Result<Image> {
        let mut body = json!({
            "name": spec.name,
            "visibility": "private",
            "disk_format": "raw",
            "container_format": "bare",
        });
        for (key, value) in spec.owner.mark(&spec.tags) {
            body[key] = value.into();
        }
        let response = self.caller.tell(action, IMAGES, glance(Method::POST, "/images"), &body)?;
        self.caller.read::<Told>(action, &response).map(Told::image)
    }
}

impl Images for Openstack {
    fn create_image(&self, spec: &ImageSpec) -> Result<Image> {
        let action = format!("make the image {}", spec.name);
        self.check_name(&action, &spec.name)?;
        TAG_LIMITS.check(self.name(), &spec.tags, &spec.owner)?;
        find_or_make(self.poll_interval(), || self.find_image(spec), || self.make_image(&action, spec))
    }

    fn image(&self, id: &ImageId) -> Result<Image> {
        let action = format!("look at the image {id}");
        let request = glance(Method::GET, &format!("/images/{}", checked(self.name(), id.as_str())?));
        self.caller.ask::<Told>(&action, IMAGES, &request).map(Told::image)
    }

    fn images_tagged(&self, key: &str, value: &str) -> Result<Vec<Image>> {
        // A cloud that does not filter by such a property gives all; so it is done here as well.
        let request = glance(Method::GET, "/images").query("limit", PAGE_ITEMS).query(key, value);
        let next = |page: &Value| page.get("next").and_then(Value::as_str).map(str::to_owned);
        let told: Vec<Told> = self.caller.pages("list the images", IMAGES, &request, ("images", &next))?;
        let has = |image: &Image| image.tags.get(key).is_some_and(|is| is == value);
        Ok(told.into_iter().map(Told::image).filter(has).collect())
    }

    fn fill(&self, id: &ImageId, bytes: u64) -> Result<Box<dyn Filling>> {
        let action = format!("send the bytes of the image {id}");
        let path = format!("/images/{}/file", checked(self.name(), id.as_str())?);
        let feed = self.caller.upload(&action, glance(Method::PUT, &path), bytes)?;
        Ok(Box::new(Upload { caller: self.caller.clone(), action, feed: Some(feed) }))
    }

    fn delete_image(&self, id: &ImageId) -> Result<()> {
        let request = glance(Method::DELETE, &format!("/images/{}", checked(self.name(), id.as_str())?));
        match self.caller.call(&format!("delete the image {id}"), IMAGES, &request) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn volume_of_image(&self, spec: &VolumeSpec, image: &ImageId) -> Result<Volume> {
        let image = checked(self.name(), image.as_str())?;
        let volume = self.create(spec, Some(image))?;
        match volume.tags.get(IMAGE_TAG) {
            Some(of) if of == image => Ok(volume),
            of => Err(Error::conflict(
                self.name(),
                format!("make the volume {} of the image {image}", spec.name),
                format!(
                    "{} made the volume {} before, of {}; remove that volume, then try again",
                    spec.owner,
                    volume.id,
                    of.map_or("no image", String::as_str)
                ),
            )),
        }
    }

    fn set_bootable(&self, volume: &VolumeId, is_bootable: bool) -> Result<()> {
        let action = format!("say whether machines may boot from the volume {volume}");
        self.act(&action, volume, &json!({ "os-set_bootable": { "bootable": is_bootable } }))
    }

    fn why_faulty(&self, volume: &VolumeId) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct Messages {
            #[serde(default)]
            messages: Vec<Message>,
        }
        #[derive(Deserialize)]
        struct Message {
            #[serde(default)]
            user_message: String,
            #[serde(default)]
            resource_uuid: Option<String>,
        }
        let request = cinder(Method::GET, "/messages")
            .header("openstack-api-version", "volume 3.5")
            .query("resource_uuid", checked(self.name(), volume.as_str())?)
            .query("sort", "created_at:desc");
        let told: Messages = self.caller.ask("ask why a volume is faulty", VOLUMES, &request)?;
        let own = |message: &&Message| message.resource_uuid.as_deref() == Some(volume.as_str());
        Ok(told.messages.iter().find(own).map(|message| message.user_message.clone()))
    }

    fn check_room(&self, volumes: &[u64]) -> Result<()> {
        self.room(volumes)
    }
}

#[cfg(test)]
mod tests {
    use super::Told;
    use crate::provider::ImageState;

    #[test]
    fn an_image_is_read_whatever_others_hung_on_it() {
        let text = r#"{"id": "a", "name": null, "status": "active", "size": 7, "os_hash_algo": "sha512",
            "os_hash_value": "ab", "created_at": "2026-11-22T01:02:03Z", "tags": ["x"], "min_disk": 0,
            "leeward-run": "r", "hw_rng": "yes", "os_hidden": false, "owner": null}"#;
        let image = serde_json::from_str::<Told>(text).unwrap().image();
        assert_eq!((image.state.state, image.bytes), (ImageState::Full, Some(7)));
        assert_eq!(image.tags["leeward-run"], "r");
        assert_eq!(image.digest.unwrap().value, "ab");
        assert!(image.created.is_some());
        let queued =
            r#"{"id": "a", "status": "queued", "os_hash_algo": null, "os_hash_value": null, "size": null}"#;
        let image = serde_json::from_str::<Told>(queued).unwrap().image();
        assert_eq!((image.state.state, image.digest), (ImageState::Empty, None));
    }
}
