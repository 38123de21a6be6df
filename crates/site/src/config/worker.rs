//! Workers: who writes volumes where the daemon does not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use leeward_cloud::provider::{AttachmentKind, InstanceId};
use leeward_import::job::{Standing, Temporary, Worker, WorkerKind};
use serde::Deserialize;

use super::{Target, TargetKind};

/// What stands in place of a name where a worker is launched for each run.
pub(super) const TEMPORARY: &str = "temporary";

pub(super) fn default_lost() -> u64 {
    60
}

pub(super) fn default_start() -> u64 {
    900
}

fn default_held() -> u64 {
    900
}

/// A worker that is there. It shows a token of its name with the role `worker`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StandingWorker {
    /// The machine that it runs on, where the provider knows machines.
    pub instance: Option<String>,
    /// The domain of that machine; the provider is asked where absent.
    pub domain: Option<String>,
}

/// How a temporary worker is launched.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemporaryWorker {
    /// The provider's name of its kind.
    pub shape: String,
    /// Processors.
    #[serde(default)]
    pub cpus: Option<u32>,
    /// Memory in GiB.
    #[serde(default)]
    pub memory_gib: Option<u32>,
    /// The image that it boots.
    pub image: String,
    /// The network that it is put into.
    pub subnet: String,
    /// Size of its boot volume in GiB.
    #[serde(default)]
    pub boot_volume_gib: Option<u32>,
    /// Public keys that may log in.
    #[serde(default)]
    pub ssh_keys: Vec<String>,
    /// Tags in namespaces of the provider's, as `NAMESPACE.KEY`.
    #[serde(default)]
    pub defined_tags: BTreeMap<String, String>,
    /// URL at which it reaches this daemon.
    pub server: String,
    /// The authority of this daemon's certificate.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Where the program is in the image; it is fetched from the daemon where absent.
    #[serde(default)]
    pub program: Option<PathBuf>,
    /// Lines of shell that are run before the worker is started.
    #[serde(default)]
    pub prepare_file: Option<PathBuf>,
    /// Seconds for which the worker of a held run is kept.
    #[serde(default = "default_held")]
    pub held_seconds: u64,
}

impl TemporaryWorker {
    pub(super) fn resolve(&mut self, base: &Path) {
        for path in [&mut self.ca_file, &mut self.prepare_file] {
            path.iter_mut().for_each(|path| *path = base.join(&*path));
        }
    }

    fn job(&self) -> Result<Temporary, String> {
        let tag = |(name, value): (&String, &String)| match name.split_once('.') {
            Some((space, key)) if !space.is_empty() && !key.is_empty() => {
                Ok((space.to_owned(), key.to_owned(), value.clone()))
            }
            _ => Err(format!("defined_tags: {name:?} is no NAMESPACE.KEY")),
        };
        Ok(Temporary {
            shape: self.shape.clone(),
            cpus: self.cpus,
            memory_gib: self.memory_gib,
            image: self.image.clone(),
            subnet: self.subnet.clone(),
            boot_volume_gib: self.boot_volume_gib,
            ssh_keys: self.ssh_keys.clone(),
            defined_tags: self.defined_tags.iter().map(tag).collect::<Result<_, _>>()?,
            server: self.server.clone(),
            ca_file: self.ca_file.clone(),
            program: self.program.clone(),
            prepare_file: self.prepare_file.clone(),
        })
    }
}

impl Target {
    /// Who writes its volumes, where it is not the daemon.
    pub(crate) fn job_worker(
        &self,
        workers: &BTreeMap<String, StandingWorker>,
    ) -> Result<Option<Arc<Worker>>, String> {
        let kind = match (self.worker.as_deref(), &self.temporary) {
            (None, None) => return Ok(None),
            (None | Some(_), Some(_)) if !self.is_temporary() => {
                return Err(format!("`temporary` goes with worker = {TEMPORARY:?}"));
            }
            (Some(TEMPORARY), None) => {
                return Err(format!(
                    "worker = {TEMPORARY:?} needs a table `temporary`, which says how it is launched"
                ));
            }
            (_, Some(temporary)) => WorkerKind::Temporary(Box::new(temporary.job()?)),
            (Some(name), None) => {
                let found = workers.get(name).ok_or_else(|| format!("there is no [worker.{name}]"))?;
                WorkerKind::Standing(Standing {
                    name: name.to_owned(),
                    instance: found.instance.clone().map(InstanceId::new),
                    domain: found.domain.clone(),
                })
            }
        };
        Ok(Some(Arc::new(Worker {
            kind,
            lease: Duration::from_secs(self.worker_lost_seconds),
            start: Duration::from_secs(self.worker_start_seconds),
        })))
    }
}

pub(super) fn check(target: &Target, workers: &BTreeMap<String, StandingWorker>) -> Result<(), String> {
    target.job_worker(workers)?;
    if let Some(temporary) = &target.temporary {
        if target.kind != TargetKind::Oci {
            return Err("only a target of kind \"oci\" launches workers".to_owned());
        }
        if !temporary.server.starts_with("https://") && !temporary.server.starts_with("http://") {
            return Err(format!("temporary.server: {:?} is no URL of this daemon", temporary.server));
        }
    }
    let is_device = !matches!(target.kind, TargetKind::Rbd | TargetKind::Openstack);
    if target.worker.is_some() && (!is_device || target.attachment == Some(AttachmentKind::Iscsi)) {
        return Err("a worker writes to devices of its machine: leave `worker` out, or attach volumes paravirtualized".to_owned());
    }
    match (target.worker.is_some() && target.instance.is_some(), target.worker_lost_seconds) {
        (true, _) => {
            Err("`instance` is the machine of the daemon that writes; a worker has its own".to_owned())
        }
        (_, ..5) => Err("worker_lost_seconds must be at least 5".to_owned()),
        _ => check_machine(target, workers),
    }
}

/// A volume is attached to the machine of who writes it, so that machine has to be known.
fn check_machine(target: &Target, workers: &BTreeMap<String, StandingWorker>) -> Result<(), String> {
    let standing = target.worker.as_ref().and_then(|name| Some((name, workers.get(name)?)));
    match standing {
        Some((name, worker)) if target.kind == TargetKind::Oci && worker.instance.is_none() => Err(format!(
            "say in [worker.{name}] on which `instance` it runs: the volume is attached to that one"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::Config;

    #[test]
    fn what_a_worker_needs_is_asked_for_when_the_configuration_is_read() {
        let parse = |text: &str| {
            Config::parse(&format!("name='a'\nstate='s'\n{text}"), std::path::Path::new("/")).map(|_| ())
        };
        let how = "{ shape='s', image='i', subnet='n', server='https://d:7443' }";
        let oci = "[target.t]\nkind='oci'\n";
        parse("[worker.w]\ninstance='i'\n[target.t]\nkind='oci'\nworker='w'").unwrap();
        parse(&format!("{oci}worker='temporary'\ntemporary={how}")).unwrap();
        for (wrong, why) in [
            (format!("{oci}worker='w'"), "[worker.w]"),
            (format!("{oci}worker='temporary'"), "table `temporary`"),
            (format!("{oci}temporary={how}"), "worker ="),
            (format!("[worker.w]\n{oci}worker='w'\ntemporary={how}"), "worker ="),
            ("[worker.temporary]\n".to_owned(), "temporary"),
            (format!("[worker.w]\n{oci}worker='w'\ninstance='x'"), "`instance`"),
            (format!("[worker.w]\n{oci}worker='w'"), "`instance` it runs"),
            (format!("[worker.w]\n{oci}worker='w'\nworker_lost_seconds=1"), "at least 5"),
            (format!("[worker.w]\n{oci}worker='w'\nattachment='iscsi'"), "devices of its machine"),
            ("[worker.w]\n[target.t]\nkind='rbd'\npool='p'\nworker='w'".to_owned(), "devices of its machine"),
            (format!("[target.t]\nkind='directory'\npath='p'\nworker='temporary'\ntemporary={how}"), "oci"),
            (format!("{oci}worker='temporary'\ntemporary={}", how.replace("https://", "")), "URL"),
            (
                format!(
                    "{oci}worker='temporary'\ntemporary={}",
                    how.replace('}', ", defined_tags={a='b'} }")
                ),
                "NAMESPACE.KEY",
            ),
        ] {
            let told = parse(&wrong).unwrap_err();
            assert!(told.contains(why), "{wrong}: {told}");
        }
    }
}
