//! Removing what is left: each thing is judged again right before.

use std::time::{Duration, Instant};

use leeward_cloud::ErrorKind as CloudKind;
use leeward_cloud::provider::VolumeId;
use leeward_import::job::Target;
use leeward_store::with_causes;

use super::REMOVED_MAX;
use super::find::{Found, attached, cloud, tagged};
use super::holds::REPOSITORY;
use super::view::{Removal, Removed};
use crate::site::Inner;
use crate::{Error, Result};

/// How long is waited for a volume to be detached.
const DETACH_TIME: Duration = Duration::from_secs(30);

impl Inner {
    /// Has one thing removed, after it was looked at again. `unasked` is for what nobody has named.
    pub(super) fn remove(
        &self,
        name: &str,
        id: &str,
        unasked: bool,
    ) -> Result<std::result::Result<String, String>> {
        if name == REPOSITORY {
            return self.remove_hold(id, unasked);
        }
        let target = self.places.target(name).map_err(Error::Other)?;
        let Some(found) = tagged(&target)?.into_iter().find(|found| found.id() == id) else {
            return Ok(Err("there is no such thing with the tag of a run".to_owned()));
        };
        let leftover = match self.judged(name, &target, &found, &self.catalog.delivered(name)?, &mut 0)? {
            None => return Ok(Err("it has no tag of a run".to_owned())),
            Some(Err(why)) => return Ok(Err(why.to_owned())),
            Some(Ok(leftover)) => leftover,
        };
        if unasked && !leftover.removable {
            return Ok(Err(leftover.why));
        }
        match &found {
            Found::Volume(volume) => {
                if let Err(why) = self.detach(&target, &volume.id)? {
                    return Ok(Err(why));
                }
                // Detaching took its time.
                let delivered = self.catalog.delivered(name)?;
                if let Some(Err(why)) = self.judged(name, &target, &found, &delivered, &mut 0)? {
                    return Ok(Err(why.to_owned()));
                }
                if !attached(&target, &volume.id)?.is_empty() {
                    return Ok(Err("somebody attached it meanwhile".to_owned()));
                }
                target.cloud.volumes.delete_volume(&volume.id).map_err(cloud)?;
            }
            Found::Instance(instance) => match &target.cloud.instances {
                Some(instances) => instances.terminate(&instance.id).map_err(cloud)?,
                None => return Ok(Err("this provider launches no instances".to_owned())),
            },
        }
        Ok(Ok(leftover.why))
    }

    /// Detaches a volume from the machine that writes volumes. What it is attached to otherwise was nobody's doing here.
    fn detach(&self, target: &Target, volume: &VolumeId) -> Result<std::result::Result<(), String>> {
        let Some(attachments) = &target.cloud.attachments else { return Ok(Ok(())) };
        let own = match &target.writer {
            Some(writer) => Some(writer.clone()),
            None => attachments.here().map_err(cloud)?.map(|here| here.instance),
        };
        let end = Instant::now() + DETACH_TIME;
        loop {
            let attached = attached(target, volume)?;
            if attached.is_empty() {
                return Ok(Ok(()));
            }
            if let Some((_, other)) = attached.iter().find(|(_, instance)| Some(instance) != own.as_ref()) {
                return Ok(Err(format!(
                    "it is attached to {other}, which is not this site's: detach it there first"
                )));
            }
            if Instant::now() >= end {
                return Ok(Err(format!("it was not detached within {} s", DETACH_TIME.as_secs())));
            }
            for (attachment, _) in &attached {
                match attachments.detach(attachment) {
                    // One that is still being attached can be detached later.
                    Err(error) if error.kind() == CloudKind::Conflict => {}
                    done => done.map_err(cloud)?,
                }
            }
            std::thread::sleep(attachments.poll_interval());
        }
    }

    pub(super) fn remove_all(&self, removal: &Removal) -> Result<Vec<Removed>> {
        if removal.ids.is_empty() != removal.all_ended {
            return Err(Error::Invalid("say what is to be removed: ids, or all_ended".to_owned()));
        }
        if removal.ids.len() > REMOVED_MAX {
            return Err(Error::Invalid(format!("at most {REMOVED_MAX} things are removed at once")));
        }
        let found = self.leftovers(removal.target.as_deref())?;
        let mut wanted: Vec<(String, Option<String>)> = Vec::new();
        if removal.all_ended {
            let ended = found.leftovers.iter().filter(|leftover| leftover.removable).take(REMOVED_MAX);
            wanted.extend(ended.map(|leftover| (leftover.id.clone(), Some(leftover.target.clone()))));
        }
        for id in &removal.ids {
            let leftover = found.leftovers.iter().find(|leftover| leftover.id == *id);
            wanted.push((id.clone(), leftover.map(|leftover| leftover.target.clone())));
        }
        let remove = |(id, target): (String, Option<String>)| {
            let done = match &target {
                None => {
                    Ok(Err("it is no leftover: it is not there, or in use, or what a run has delivered"
                        .to_owned()))
                }
                Some(target) => self.remove(target, &id, removal.all_ended),
            };
            let done = done.unwrap_or_else(|error| Err(with_causes(&error)));
            let removed = done.is_ok();
            Removed { id, target, removed, what: done.unwrap_or_else(|why| why) }
        };
        Ok(wanted.into_iter().map(remove).collect())
    }
}
