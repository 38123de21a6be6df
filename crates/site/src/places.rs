//! From names in the configuration to sources and targets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use leeward_cloud::device::BlockDevice;
use leeward_cloud::directory::Directory;
use leeward_cloud::oci::Oci;
use leeward_import::job::{Places, Target};
use leeward_remote::Environment;
use leeward_remote::objects::{self, SharedObjects};
use leeward_store::{RateLimit, with_causes};

use crate::config::{self, Config, TargetKind};

/// The sources and targets of a site, opened when they are first needed and kept.
pub(crate) struct SitePlaces {
    sources: BTreeMap<String, config::Source>,
    targets: BTreeMap<String, config::Target>,
    opened_sources: Opened<SharedObjects>,
    opened_targets: Opened<Target>,
}

/// What was opened, by name. One that takes its time to be opened, as one that does not answer, holds up those who want the
/// same and nobody else.
struct Opened<T>(Mutex<BTreeMap<String, Arc<Mutex<Option<T>>>>>);

impl<T: Clone> Opened<T> {
    fn get(&self, name: &str, open: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let place = {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry(name.to_owned()).or_default())
        };
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = place.as_ref() {
            return Ok(found.clone());
        }
        let found = open()?;
        *place = Some(found.clone());
        Ok(found)
    }
}

impl<T> Default for Opened<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl SitePlaces {
    pub fn new(config: &Config) -> Self {
        Self {
            sources: config.sources.clone(),
            targets: config.targets.clone(),
            opened_sources: Opened::default(),
            opened_targets: Opened::default(),
        }
    }
}

impl Places for SitePlaces {
    fn source(&self, name: &str) -> Result<SharedObjects, String> {
        let configured = self.sources.get(name).ok_or_else(|| format!("this site has no source {name}"))?;
        self.opened_sources.get(name, || {
            objects::open(&configured.location, &Environment::of_process())
                .map_err(|error| format!("source {name}: {}", with_causes(&error)))
        })
    }

    fn target(&self, name: &str) -> Result<Target, String> {
        let configured = self.targets.get(name).ok_or_else(|| format!("this site has no target {name}"))?;
        self.opened_targets.get(name, || open(configured).map_err(|what| format!("target {name}: {what}")))
    }
}

fn open(configured: &config::Target) -> Result<Target, String> {
    let path = configured.path.as_deref().unwrap_or(Path::new("."));
    let cloud = match configured.kind {
        TargetKind::Directory => Directory::open(path).map(Directory::cloud),
        TargetKind::Device => BlockDevice::at(path).map(BlockDevice::cloud),
        TargetKind::Oci => {
            let settings = configured.oci.clone().unwrap_or_default();
            Oci::connect(&settings, &Environment::of_process()).map(Oci::cloud)
        }
    }
    .map_err(|error| with_causes(&error))?;
    Ok(Target {
        cloud,
        writer: configured.instance.clone().map(leeward_cloud::provider::InstanceId::new),
        device_root: configured.device_root.clone().unwrap_or_else(|| PathBuf::from("/")),
        device: configured.device.clone(),
        import_vpus: configured.import_vpus,
        final_vpus: configured.final_vpus,
        backup_policy: configured.backup_policy.clone(),
        kms_key: configured.kms_key.clone(),
        filesystem_errors: configured.filesystem_errors,
        move_gpt: configured.move_gpt,
        limit: configured.limit_bytes_per_second.map(RateLimit::new),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_is_slow_to_open_holds_up_nothing_else_and_is_opened_once() {
        let opened: Opened<u32> = Opened::default();
        let (begun, has_begun) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        std::thread::scope(|scope| {
            let opened = &opened;
            let slow = scope.spawn(move || {
                opened.get("slow", || {
                    begun.send(()).unwrap();
                    answers.recv().map_err(|error| error.to_string())
                })
            });
            has_begun.recv().unwrap();
            // Would wait for ever, were one lock for all.
            assert_eq!(opened.get("other", || Ok(7)), Ok(7));
            answer.send(1).unwrap();
            assert_eq!(slow.join().unwrap(), Ok(1));
        });
        assert_eq!(opened.get("slow", || Ok(2)), Ok(1));
        assert_eq!(opened.get("broken", || Err("no".to_owned())), Err("no".to_owned()));
        assert_eq!(opened.get("broken", || Ok(3)), Ok(3), "a failure is not kept");
    }
}
