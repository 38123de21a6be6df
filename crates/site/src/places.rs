//! From names in the configuration to sources and targets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use leeward_cloud::device::BlockDevice;
use leeward_cloud::directory::Directory;
use leeward_cloud::oci::Oci;
use leeward_cloud::openstack::{Openstack, Settings};
use leeward_cloud::provider::{Cloud, Performance};
use leeward_cloud::rbd::RbdVolumes;
use leeward_import::job::{Bucket, Opening, Places, Target, Vault};
use leeward_import::work::Board;
use leeward_remote::Environment;
use leeward_remote::objects::{self, SharedObjects};
use leeward_repository::Repository;
use leeward_store::{RateLimit, with_causes};

use crate::OpenRepository;
use crate::catalog::Catalog;
use crate::config::{self, Config, TargetKind};

/// The sources and targets of a site, opened when they are first needed and kept.
pub(crate) struct SitePlaces {
    sources: BTreeMap<String, config::Source>,
    targets: BTreeMap<String, config::Target>,
    workers: BTreeMap<String, config::StandingWorker>,
    buckets: BTreeMap<String, config::Bucket>,
    opened_sources: Opened<SharedObjects>,
    opened_buckets: Opened<Bucket>,
    opened_targets: Opened<Target>,
    board: Arc<Board>,
    catalog: Arc<Catalog>,
    repository: Option<(String, Arc<OpenRepository>)>,
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
    pub fn new(
        config: &Config,
        board: &Arc<Board>,
        catalog: &Arc<Catalog>,
        repository: Option<Arc<OpenRepository>>,
    ) -> Self {
        let location = config.repository.as_ref().map(|place| place.location.clone());
        Self {
            sources: config.sources.clone(),
            targets: config.targets.clone(),
            workers: config.workers.clone(),
            buckets: config.buckets.clone(),
            opened_sources: Opened::default(),
            opened_buckets: Opened::default(),
            opened_targets: Opened::default(),
            board: Arc::clone(board),
            catalog: Arc::clone(catalog),
            repository: location.zip(repository),
        }
    }
}

impl SitePlaces {
    /// The repository as a target.
    fn vault(&self, configured: &config::Target) -> Result<Target, String> {
        let (location, open) = self.repository.clone().ok_or("this site has no repository")?;
        let opener = move |opening: Opening| {
            open(&leeward_protect::job::Opening {
                examined: opening == Opening::Examined,
                ..Default::default()
            })
        };
        let vault = Arc::new(Vault::new(&location, Arc::new(opener), configured.image_template()?));
        Ok(Target { vault: Some(Arc::clone(&vault)), ..of_cloud(configured, vault.cloud(), &self.workers)? })
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
        self.opened_targets.get(name, || {
            let opened = match configured.kind {
                TargetKind::Repository => self.vault(configured),
                _ => open(configured, &self.workers),
            };
            opened.map_err(|what| format!("target {name}: {what}"))
        })
    }

    fn bucket(&self, name: &str) -> Result<Bucket, String> {
        let configured = self.buckets.get(name).ok_or_else(|| format!("this site has no bucket {name}"))?;
        self.opened_buckets.get(name, || {
            let objects = objects::open(&configured.location, &Environment::of_process())
                .map_err(|error| format!("bucket {name}: {}", with_causes(&error)))?;
            Ok(Bucket { objects, limit: configured.limit_bytes_per_second.map(RateLimit::new) })
        })
    }

    fn repository(&self) -> Result<Repository, String> {
        let (_, open) = self.repository.as_ref().ok_or("this site has no repository")?;
        open(&leeward_protect::job::Opening::default())
    }

    fn board(&self) -> &Board {
        &self.board
    }

    fn keep_token(&self, run: &str, digest: &str) -> Result<(), String> {
        self.catalog.keep_token(run, digest).map_err(|error| with_causes(&error))
    }

    fn end_tokens(&self, run: &str) -> Result<(), String> {
        self.catalog.end_tokens(run).map_err(|error| with_causes(&error))
    }
}

fn open(
    configured: &config::Target,
    workers: &BTreeMap<String, config::StandingWorker>,
) -> Result<Target, String> {
    let path = configured.path.as_deref().unwrap_or(Path::new("."));
    let cloud = match configured.kind {
        TargetKind::Directory => Directory::open(path).map(Directory::cloud),
        TargetKind::Device => BlockDevice::at(path).map(BlockDevice::cloud),
        TargetKind::Oci => {
            let settings = configured.oci.clone().unwrap_or_default();
            Oci::connect(&settings, &Environment::of_process()).map(Oci::cloud)
        }
        TargetKind::Rbd => {
            let pool = configured.pool.as_deref().unwrap_or_default();
            let (conf, user) = (configured.ceph_conf.as_deref(), configured.ceph_user.as_deref());
            RbdVolumes::in_pool(pool, conf, user).map(RbdVolumes::cloud)
        }
        TargetKind::Openstack => {
            let settings = configured.openstack.clone().unwrap_or_default();
            Openstack::connect(&settings, &Environment::of_process()).map(Openstack::cloud)
        }
        TargetKind::Repository => return Err("the repository is opened by the site".to_owned()),
    }
    .map_err(|error| with_causes(&error))?;
    of_cloud(configured, cloud, workers)
}

/// A target with this provider.
fn of_cloud(
    configured: &config::Target,
    cloud: Cloud,
    workers: &BTreeMap<String, config::StandingWorker>,
) -> Result<Target, String> {
    let of_type = |key: fn(&Settings) -> &Option<String>| {
        configured.openstack.as_ref().and_then(|settings| key(settings).clone())
    };
    Ok(Target {
        cloud,
        writer: configured.instance.clone().map(leeward_cloud::provider::InstanceId::new),
        device_root: configured.device_root.clone().unwrap_or_else(|| PathBuf::from("/")),
        device: configured.device.clone(),
        attachment: configured.attachment.unwrap_or_default(),
        import_performance: performance(configured.import_vpus, of_type(|settings| &settings.volume_type)),
        final_performance: performance(
            configured.final_vpus,
            of_type(|settings| &settings.final_volume_type),
        ),
        backup_policy: configured.backup_policy.clone(),
        kms_key: configured.kms_key.clone(),
        filesystem_errors: configured.filesystem_errors,
        move_gpt: configured.move_gpt,
        limit: configured.limit_bytes_per_second.map(RateLimit::new),
        bytes_per_second: configured.limit_bytes_per_second,
        worker: configured.job_worker(workers)?,
        vault: None,
    })
}

/// How fast a volume is to be, in the terms of its provider.
fn performance(vpus: Option<u32>, class: Option<String>) -> Option<Performance> {
    vpus.map(Performance::VpusPerGb).or(class.map(Performance::Class))
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
