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
    opened_sources: Mutex<BTreeMap<String, SharedObjects>>,
    opened_targets: Mutex<BTreeMap<String, Target>>,
}

impl SitePlaces {
    pub fn new(config: &Config) -> Self {
        Self {
            sources: config.sources.clone(),
            targets: config.targets.clone(),
            opened_sources: Mutex::default(),
            opened_targets: Mutex::default(),
        }
    }
}

impl Places for SitePlaces {
    fn source(&self, name: &str) -> Result<SharedObjects, String> {
        let configured = self.sources.get(name).ok_or_else(|| format!("this site has no source {name}"))?;
        let mut opened = self.opened_sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = opened.get(name) {
            return Ok(Arc::clone(found));
        }
        let source = objects::open(&configured.location, &Environment::of_process())
            .map_err(|error| format!("source {name}: {}", with_causes(&error)))?;
        opened.insert(name.to_owned(), Arc::clone(&source));
        Ok(source)
    }

    fn target(&self, name: &str) -> Result<Target, String> {
        let configured = self.targets.get(name).ok_or_else(|| format!("this site has no target {name}"))?;
        let mut opened = self.opened_targets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = opened.get(name) {
            return Ok(found.clone());
        }
        let target = open(configured).map_err(|what| format!("target {name}: {what}"))?;
        opened.insert(name.to_owned(), target.clone());
        Ok(target)
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
