//! The one file that a site is configured with.
//!
//! Every key has a place in [`TEMPLATE`], which `leeward server init` writes; a test keeps the two together. A key that is not
//! known is an error: a misspelt one would otherwise be a default that nobody wanted.

mod bucket;
mod check;
mod database;
mod disk;
mod machine;
mod network;
mod notify;
mod oidc;
mod rpo;
mod runs;
mod schedule;
mod sign_in;
mod source;
mod worker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use leeward_cloud::provider::AttachmentKind;
use serde::Deserialize;

pub use network::Network;
pub(crate) use notify::Safety;
pub use notify::{Mail, Notify, Webhook};
pub use oidc::{ClaimPath, Provider, ProviderRole, SignatureAlgorithm, TokenKind, endpoint};
pub use runs::{RunSettings, SweepPolicy};
pub use sign_in::{SignIn, return_address};
pub use source::Place;

use crate::{Error, Result};

pub use bucket::Bucket;
pub use database::SharedDatabase;
pub use disk::Disk;
pub use machine::{Machine, MachineConsistency};
pub use rpo::RpoTargets;
pub use schedule::{BackupJob, Schedule};
pub use worker::{StandingWorker, TemporaryWorker};

/// What `leeward server init` writes: every key, with what it is for.
pub const TEMPLATE: &str = include_str!("config/template.toml");

/// The largest file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A site's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the site is called.
    pub name: String,
    /// Where the daemon keeps its own state: runs, events, tokens. Relative paths in the file are relative to it.
    pub state: PathBuf,
    /// The file that was read.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// How it is reached.
    #[serde(default)]
    pub server: Server,
    /// Its repository.
    #[serde(default)]
    pub repository: Option<RepositoryPlace>,
    /// How runs are done.
    #[serde(default)]
    pub runs: RunSettings,
    /// Where images come from.
    #[serde(default, rename = "source")]
    pub sources: BTreeMap<String, Source>,
    /// Where snapshots are exported to.
    #[serde(default, rename = "bucket")]
    pub buckets: BTreeMap<String, Bucket>,
    /// Where volumes are made.
    #[serde(default, rename = "target")]
    pub targets: BTreeMap<String, Target>,
    /// Machines other than the daemon's that write volumes.
    #[serde(default, rename = "worker")]
    pub workers: BTreeMap<String, StandingWorker>,
    /// Disks that are backed up.
    #[serde(default, rename = "disk")]
    pub disks: BTreeMap<String, Disk>,
    /// The database that several daemons share; files in `state` where absent.
    #[serde(default)]
    pub database: Option<SharedDatabase>,
    /// How old the newest snapshots of images may be.
    #[serde(default)]
    pub rpo: RpoTargets,
    /// Machines that are backed up, each with all its disks at one moment.
    #[serde(default, rename = "machine")]
    pub machines: BTreeMap<String, Machine>,
    /// What is begun at what times.
    #[serde(default, rename = "schedule")]
    pub schedules: BTreeMap<String, Schedule>,
    /// Who is told of what happens.
    #[serde(default, rename = "notify")]
    pub receivers: BTreeMap<String, Notify>,
}

/// How the daemon is reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// `HOST:PORT`.
    pub listen: String,
    /// Certificate, with those between it and its authority.
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// A directory in which both are made where they are missing.
    pub tls_dir: Option<PathBuf>,
    /// Names for a certificate that is made.
    pub tls_names: Vec<String>,
    /// The authority of clients' certificates, which are then demanded beside the token.
    pub client_ca: Option<PathBuf>,
    /// Networks from which requests are taken, as `10.0.0.0/8`; all where empty.
    pub allow_from: Vec<Network>,
    /// Where changes are logged; the error output where absent.
    pub audit_log: Option<PathBuf>,
    /// Where people's browsers find it: what links in notices begin with.
    pub url: Option<String>,
    /// Providers of OpenID Connect whose tokens are taken beside the site's own.
    pub oidc: BTreeMap<String, Provider>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7443".to_owned(),
            tls_cert: None,
            tls_key: None,
            tls_dir: None,
            tls_names: Vec::new(),
            client_ca: None,
            allow_from: Vec::new(),
            audit_log: None,
            url: None,
            oidc: BTreeMap::new(),
        }
    }
}

/// A repository, and how it is opened.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryPlace {
    /// Where it is, as after `-r`.
    pub location: String,
    /// A file with the passphrase of an encrypted one.
    #[serde(default)]
    pub passphrase_file: Option<PathBuf>,
    /// A file with a key of an encrypted one.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

/// A bucket or directory with images.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `s3://…`, `oci://…`, `swift://…` or a directory.
    pub location: String,
    /// How new objects are noticed.
    #[serde(default)]
    pub watch: Watch,
    /// Seconds between looks, where it is looked at.
    #[serde(default = "default_poll")]
    pub poll_seconds: u64,
    /// Only objects whose names begin so.
    #[serde(default)]
    pub prefix: String,
    /// Where imports of noticed objects go.
    #[serde(default)]
    pub target: Option<String>,
    /// A file with the secret that senders of events must know.
    #[serde(default)]
    pub event_token_file: Option<PathBuf>,
}

fn default_poll() -> u64 {
    60
}

/// How new objects are noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Watch {
    /// Not at all: imports are begun by hand.
    #[default]
    Off,
    /// Events are sent to the daemon.
    Events,
    /// It is looked at again and again.
    Poll,
    /// Both: events for speed, looks for what they missed.
    Both,
}

impl Watch {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Events => "events",
            Self::Poll => "poll",
            Self::Both => "both",
        }
    }

    /// Whether events are taken.
    #[must_use]
    pub fn takes_events(self) -> bool {
        matches!(self, Self::Events | Self::Both)
    }

    /// Whether it is looked at.
    #[must_use]
    pub fn polls(self) -> bool {
        matches!(self, Self::Poll | Self::Both)
    }
}

/// Where volumes are made.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Which provider.
    pub kind: TargetKind,
    /// The directory of kind `directory`, the block device of kind `device`.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// How OCI is reached, of kind `oci`.
    #[serde(default)]
    pub oci: Option<leeward_cloud::oci::Settings>,
    /// How OpenStack is reached, and what is made there, of kind `openstack`.
    #[serde(default)]
    pub openstack: Option<leeward_cloud::openstack::Settings>,
    /// The machine that writes volumes: this daemon runs on it.
    #[serde(default)]
    pub instance: Option<String>,
    /// The directory under which that machine's devices are seen; `/` where absent.
    #[serde(default)]
    pub device_root: Option<PathBuf>,
    /// The device as which a volume shows.
    #[serde(default)]
    pub device: Option<PathBuf>,
    /// How a volume comes to that machine, of kind `oci`; paravirtualized where absent.
    #[serde(default)]
    pub attachment: Option<AttachmentKind>,
    /// The pool of kind `rbd`: `POOL` or `POOL/NAMESPACE`.
    #[serde(default)]
    pub pool: Option<String>,
    /// The configuration file of the pool's cluster; the usual one where absent.
    #[serde(default)]
    pub ceph_conf: Option<PathBuf>,
    /// The cluster's user, as in `client.USER`; the usual one where absent.
    #[serde(default)]
    pub ceph_user: Option<String>,
    /// Performance while writing, in VPU per GB.
    #[serde(default)]
    pub import_vpus: Option<u32>,
    /// Performance afterwards.
    #[serde(default)]
    pub final_vpus: Option<u32>,
    /// The provider's backup policy for new volumes: its name or id.
    #[serde(default)]
    pub backup_policy: Option<String>,
    /// The provider's key for new volumes.
    #[serde(default)]
    pub kms_key: Option<String>,
    /// What errors in a file system lead to.
    #[serde(default)]
    pub filesystem_errors: leeward_import::job::Verdict,
    /// Whether the backup of a GPT is moved to the end of a larger volume.
    #[serde(default)]
    pub move_gpt: bool,
    /// Bytes per second that an import reads at most.
    #[serde(default)]
    pub limit_bytes_per_second: Option<u64>,
    /// Who writes: the name of a worker, or `temporary`; this daemon where absent.
    #[serde(default)]
    pub worker: Option<String>,
    /// Seconds for which a worker may go without a word.
    #[serde(default = "worker::default_lost")]
    pub worker_lost_seconds: u64,
    /// Seconds that a worker may take to come.
    #[serde(default = "worker::default_start")]
    pub worker_start_seconds: u64,
    /// How a temporary worker is launched.
    #[serde(default)]
    pub temporary: Option<TemporaryWorker>,
    /// What the images of kind `repository` are called: a template, as `imports/{name}`.
    #[serde(default)]
    pub image: Option<String>,
}

/// A kind of target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// Volumes are files in a directory.
    Directory,
    /// The volume is a block device that is there, of which all is overwritten.
    Device,
    /// Volumes of OCI.
    Oci,
    /// Volumes are images in a pool of RBD.
    Rbd,
    /// Volumes of OpenStack, made of images.
    Openstack,
    /// No volumes, but snapshots in the site's own repository.
    Repository,
}

impl Target {
    /// What the images of kind `repository` are called.
    ///
    /// # Errors
    /// The template makes no names: in words.
    pub fn image_template(&self) -> Result<leeward_import::job::ImageTemplate, String> {
        self.image.as_deref().map_or_else(|| Ok(Default::default()), str::parse)
    }

    /// Whether a worker is launched for each run.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.worker.as_deref() == Some(worker::TEMPORARY)
    }
}

impl TargetKind {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Device => "device",
            Self::Oci => "oci",
            Self::Rbd => "rbd",
            Self::Openstack => "openstack",
            Self::Repository => "repository",
        }
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is no such file, or asks for something impossible.
    pub fn load(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let length = std::fs::metadata(path).map_err(Error::io(&place, "read the configuration"))?.len();
        if length > FILE_BYTES_MAX {
            return Err(Error::Config { place, what: format!("{length} bytes are no configuration") });
        }
        let text = std::fs::read_to_string(path).map_err(Error::io(&place, "read the configuration"))?;
        let base = path.parent().unwrap_or(Path::new("."));
        let config = Self::parse(&text, base).map_err(|what| Error::Config { place, what })?;
        Ok(Self { file: Some(path.to_owned()), ..config })
    }

    /// Reads a configuration's text; relative paths in it are relative to `base`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, base: &Path) -> Result<Self, String> {
        let mut config: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        config.resolve(base);
        config.keep_own_state();
        config.check()?;
        Ok(config)
    }

    fn resolve(&mut self, base: &Path) {
        // Joining leaves an absolute path as it is.
        let resolve = |path: &mut PathBuf| *path = base.join(&*path);
        resolve(&mut self.state);
        let server = &mut self.server;
        for path in [
            &mut server.tls_cert,
            &mut server.tls_key,
            &mut server.tls_dir,
            &mut server.client_ca,
            &mut server.audit_log,
        ] {
            path.iter_mut().for_each(resolve);
        }
        self.database.iter_mut().for_each(|database| database.resolve(base));
        server.oidc.values_mut().for_each(|provider| provider.resolve(base));
        self.disks.values_mut().for_each(|disk| disk.resolve(base));
        self.machines.values_mut().for_each(|machine| machine.resolve(base));
        self.receivers.values_mut().for_each(|receiver| receiver.resolve(base));
        for target in self.targets.values_mut() {
            target.path.iter_mut().for_each(resolve);
            target.ceph_conf.iter_mut().for_each(resolve);
            let openstack = target.openstack.iter_mut();
            openstack.filter_map(|settings| settings.authority.as_mut()).for_each(resolve);
            target.temporary.iter_mut().for_each(|temporary| temporary.resolve(base));
        }
        for bucket in self.buckets.values_mut().filter(|bucket| bucket.is_directory()) {
            bucket.location = base.join(&bucket.location).display().to_string();
        }
        for source in self.sources.values_mut() {
            source.event_token_file.iter_mut().for_each(resolve);
            if source.is_directory() {
                source.location = base.join(&source.location).display().to_string();
            }
        }
        if let Some(repository) = &mut self.repository {
            repository.passphrase_file.iter_mut().for_each(resolve);
            repository.key_file.iter_mut().for_each(resolve);
            if !repository.location.contains(':') {
                repository.location = base.join(&repository.location).display().to_string();
            }
        }
    }

    /// How many runs may be under way at once in each pool: as configured, and one for a target that can be written by one
    /// only, because all its volumes are one device, or show as one; and for the repository, as each that writes to it uses all
    /// processors, and memory.
    #[must_use]
    pub fn pools(&self) -> BTreeMap<String, u32> {
        let mut pools = self.runs.pools.clone();
        // Each of them takes memory and the repository's time.
        for (pool, places) in [("restores", 3), ("exports", 2)] {
            pools.entry(pool.to_owned()).or_insert(places);
        }
        // A worker for each run has a device of its own.
        let is_single = |target: &Target| {
            matches!(target.kind, TargetKind::Device | TargetKind::Repository)
                || (target.device.is_some() && !target.is_temporary())
        };
        for (name, _) in self.targets.iter().filter(|(_, target)| is_single(target)) {
            pools.entry(format!("target:{name}")).or_insert(1);
        }
        pools
    }

    /// Has the daemon's own state stored each hour, where nothing else is said and there is a repository.
    fn keep_own_state(&mut self) {
        let is_said =
            self.schedules.iter().any(|(name, schedule)| name == "state" || schedule.state.is_some());
        if self.repository.is_some() && !is_said {
            self.schedules.insert("state".to_owned(), Schedule::of_state());
        }
    }

    /// The file of runs.
    #[must_use]
    pub fn runs_file(&self) -> PathBuf {
        self.state.join("runs.sqlite")
    }

    /// The file of events and what became of them.
    #[must_use]
    pub fn catalog_file(&self) -> PathBuf {
        self.state.join("catalog.sqlite")
    }

    /// The file of tokens.
    #[must_use]
    pub fn tokens_file(&self) -> PathBuf {
        self.state.join("tokens")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_a_configuration_and_so_is_all_that_it_has_in_comments() {
        let config = Config::parse(TEMPLATE, Path::new("/srv")).unwrap();
        assert_eq!(config.targets["volumes"].path.as_deref(), Some(Path::new("/srv/volumes")));
        // A certificate is named or made, not both.
        for other in [&["#tls_dir", "#tls_names", "#url_variable"], &["#tls_cert", "#tls_key", "#url_file"]] {
            let lines = TEMPLATE.lines().filter(|line| !other.iter().any(|key| line.starts_with(key)));
            let whole: String = lines
                .map(|line| match line.strip_prefix('#') {
                    Some(key) if !key.starts_with(' ') => key,
                    _ => line,
                })
                .map(|line| format!("{line}\n"))
                .collect();
            let config = Config::parse(&whole, Path::new("/srv")).unwrap();
            assert_eq!(config.targets["oracle"].import_vpus, Some(20));
            assert_eq!(config.pools()["target:oracle"], 1);
            assert_eq!(config.targets["pool"].ceph_user.as_deref(), Some("leeward"));
            assert!(config.repository.is_some());
        }
    }

    #[test]
    fn a_target_of_one_device_is_written_by_one_run_unless_it_is_said_otherwise() {
        let targets = "[target.disk]\nkind='device'\npath='/dev/x'\n[target.fixed]\nkind='oci'\ndevice='/dev/y'\n\
                       [target.many]\nkind='oci'\ndevice='/dev/y'\nworker='temporary'\n\
                       temporary={ shape='s', image='i', subnet='n', server='https://d' }\n\
                       [target.free]\nkind='oci'\n[target.files]\nkind='directory'\npath='v'\n";
        let pools = |runs: &str| {
            let text = format!("name='a'\nstate='s'\n{runs}\n{targets}");
            Config::parse(&text, Path::new("/")).unwrap().pools()
        };
        let of = |pairs: &[(&str, u32)]| -> BTreeMap<String, u32> {
            pairs.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect()
        };
        let usual =
            [("exports", 2), ("imports", 3), ("restores", 3), ("target:disk", 1), ("target:fixed", 1)];
        assert_eq!(pools(""), of(&usual));
        let configured = "[runs.pools]\n'target:fixed' = 2\n'target:free' = 5";
        let more =
            [("exports", 2), ("restores", 3), ("target:disk", 1), ("target:fixed", 2), ("target:free", 5)];
        assert_eq!(pools(configured), of(&more));
    }

    #[test]
    fn a_target_has_the_keys_of_its_kind() {
        let target = |keys: &str| {
            let text = format!("name='a'\nstate='s'\n[target.t]\n{keys}");
            Config::parse(&text, Path::new("/srv")).map(|config| config.targets["t"].clone())
        };
        let pool = target("kind='rbd'\npool='vms/team'\nceph_conf='b.conf'\nceph_user='leeward'").unwrap();
        assert_eq!(pool.ceph_conf.as_deref(), Some(Path::new("/srv/b.conf")));
        let iscsi = target("kind='oci'\nattachment='iscsi'").unwrap();
        assert_eq!(iscsi.attachment, Some(AttachmentKind::Iscsi));
        let repository = "[repository]\nlocation='r'\n";
        let vault = |keys: &str| {
            let text = format!("name='a'\nstate='s'\n{repository}[target.t]\nkind='repository'\n{keys}");
            Config::parse(&text, Path::new("/srv")).map(|config| config.pools()["target:t"])
        };
        assert_eq!(vault("image='{source}/{folder}/{stem}'").unwrap(), 1);
        vault("").unwrap();
        for (wrong, why) in [
            ("image='imports/all'", "all disks would be one"),
            ("image='leeward/{name}'", "the site's own"),
            ("path='v'", "no path"),
            ("move_gpt=true", "no move_gpt"),
            ("worker='w'\n[worker.w]", "no worker"),
        ] {
            let told = vault(wrong).unwrap_err();
            assert!(told.contains(why), "{wrong}: {told}");
        }
        for (wrong, why) in [
            ("kind='repository'", "[repository]"),
            ("kind='directory'\npath='v'\nimage='{name}'", "for kind \"repository\""),
            ("kind='rbd'", "needs its name"),
            ("kind='rbd'\npool='a/b/c'", "find the pool"),
            ("kind='rbd'\npool='vms'\nimport_vpus=20", "no import_vpus"),
            ("kind='rbd'\npool='vms'\nattachment='iscsi'", "no attachment"),
            ("kind='oci'\npool='vms'", "for kind \"rbd\""),
            ("kind='oci'\nattachment='iscsi'\ndevice='/dev/x'", "leave `device` out"),
            ("kind='oci'\nattachment='nvme'", "nvme"),
            ("kind='directory'\npath='v'\nattachment='iscsi'", "for kind \"oci\""),
        ] {
            let told = target(wrong).unwrap_err();
            assert!(told.contains(why), "{wrong}: {told}");
        }
    }

    #[test]
    fn half_of_what_tls_needs_is_refused() {
        let server = |keys: &str| {
            Config::parse(&format!("name='a'\nstate='s'\n[server]\n{keys}"), Path::new("/")).map(|_| ())
        };
        for fine in [
            "",
            "tls_dir='t'\ntls_names=['n']\nclient_ca='c'",
            "tls_cert='c'\ntls_key='k'\nclient_ca='c'",
            "allow_from=['10.0.0.0/8', '::1']",
        ] {
            server(fine).unwrap();
        }
        for (wrong, why) in [
            ("client_ca='c'", "client_ca"),
            ("tls_cert='c'", "tls_key"),
            ("tls_key='k'", "tls_cert"),
            ("tls_cert='c'\ntls_key='k'\ntls_dir='t'", "tls_dir"),
            ("tls_cert='c'\ntls_key='k'\ntls_names=['n']", "tls_names"),
            ("allow_from=['10.0.0.0/33']", "10.0.0.0/33"),
        ] {
            let told = server(wrong).unwrap_err();
            assert!(told.contains(why), "{wrong}: {told}");
        }
    }

    #[test]
    fn what_is_not_known_or_not_possible_is_told_with_its_place() {
        let wrong = |text: &str| Config::parse(text, Path::new("/")).unwrap_err();
        assert!(wrong("name = \"a\"\nstate = \"s\"\nlisten = 1").contains("listen"));
        let source = "name='a'\nstate='s'\n[source.x]\nlocation='/x'\n";
        assert!(wrong(&format!("{source}target='y'")).contains("[source.x]: there is no [target.y]"));
        assert!(wrong(&format!("{source}watch='poll'")).contains("needs a target"));
        assert!(wrong("name='a'\nstate='s'\n[source.x]\nlocation='ftp://x'").contains("[source.x]"));
        assert!(wrong("name='a/b'\nstate='s'").contains("a/b"));
        assert!(wrong("name='a'\nstate='s'\n[target.t]\nkind='directory'").contains("needs its path"));
        let cloud = "name='a'\nstate='s'\n[target.t]\nkind='openstack'\n";
        Config::parse(&format!("{cloud}openstack={{cloud='private'}}"), Path::new("/")).unwrap();
        for (key, why) in [
            ("import_vpus=20", "volume_type"),
            ("kms_key='k'", "volume_type"),
            ("device='/dev/vdb'", "attached"),
            ("instance='i'", "attached"),
            ("move_gpt=true", "attached"),
            ("backup_policy='gold'", "backup"),
            ("openstack={clouds='x'}", "clouds"),
        ] {
            let told = wrong(&format!("{cloud}{key}"));
            assert!(told.contains(why), "{key}: {told}");
        }
        assert!(wrong("name='a'\nstate='s'\n[target.t]\nkind='oci'\nopenstack={}").contains("openstack"));
    }
}
