//! The one file that a site is configured with.
//!
//! Every key has a place in [`TEMPLATE`], which `leeward server init` writes; a test keeps the two together. A key that is not
//! known is an error: a misspelt one would otherwise be a default that nobody wanted.

mod check;
mod disk;
mod network;
mod schedule;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use network::Network;
pub use source::Place;

use crate::{Error, Result};

pub use disk::Disk;
pub use schedule::{BackupJob, Schedule};

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
    /// Where volumes are made.
    #[serde(default, rename = "target")]
    pub targets: BTreeMap<String, Target>,
    /// Disks that are backed up.
    #[serde(default, rename = "disk")]
    pub disks: BTreeMap<String, Disk>,
    /// What is begun at what times.
    #[serde(default, rename = "schedule")]
    pub schedules: BTreeMap<String, Schedule>,
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

/// How runs are done.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSettings {
    /// Steps at once.
    pub steps: usize,
    /// Runs at once in a pool: `imports`, and `target:NAME` for each target.
    pub pools: BTreeMap<String, u32>,
    /// Days for which ended runs are kept.
    pub keep_days: u32,
    /// Seconds for which a run stays this daemon's without a word.
    pub lease_seconds: u64,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            steps: 32,
            pools: BTreeMap::from([("imports".to_owned(), 3)]),
            keep_days: 90,
            lease_seconds: 30,
        }
    }
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
    /// The machine that writes volumes: this daemon runs on it.
    #[serde(default)]
    pub instance: Option<String>,
    /// The directory under which that machine's devices are seen; `/` where absent.
    #[serde(default)]
    pub device_root: Option<PathBuf>,
    /// The device as which a volume shows.
    #[serde(default)]
    pub device: Option<PathBuf>,
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
}

impl TargetKind {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Device => "device",
            Self::Oci => "oci",
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
        self.disks.values_mut().for_each(|disk| disk.resolve(base));
        for target in self.targets.values_mut() {
            target.path.iter_mut().for_each(resolve);
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
    /// only, because all its volumes are one device, or show as one.
    #[must_use]
    pub fn pools(&self) -> BTreeMap<String, u32> {
        let mut pools = self.runs.pools.clone();
        let is_single = |target: &Target| target.kind == TargetKind::Device || target.device.is_some();
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
        for other in [&["#tls_dir", "#tls_names"], &["#tls_cert", "#tls_key"]] {
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
            assert!(config.repository.is_some());
        }
    }

    #[test]
    fn a_target_of_one_device_is_written_by_one_run_unless_it_is_said_otherwise() {
        let targets = "[target.disk]\nkind='device'\npath='/dev/x'\n[target.fixed]\nkind='oci'\ndevice='/dev/y'\n\
                       [target.free]\nkind='oci'\n[target.files]\nkind='directory'\npath='v'\n";
        let pools = |runs: &str| {
            let text = format!("name='a'\nstate='s'\n{runs}\n{targets}");
            Config::parse(&text, Path::new("/")).unwrap().pools()
        };
        let of = |pairs: &[(&str, u32)]| -> BTreeMap<String, u32> {
            pairs.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect()
        };
        assert_eq!(pools(""), of(&[("imports", 3), ("target:disk", 1), ("target:fixed", 1)]));
        let configured = "[runs.pools]\n'target:fixed' = 2\n'target:free' = 5";
        assert_eq!(pools(configured), of(&[("target:disk", 1), ("target:fixed", 2), ("target:free", 5)]));
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
    }
}
