//! The repository that a verb works on, and `leeward repo`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use leeward_repository::{Control, InitOptions, KeyAccess, KeylessRepository, NewKey, Repository, Unlock};

use leeward_store::SharedStore;

use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::limit::{LimitedStore, RateLimit};
use crate::location;
use crate::output::Output;
use crate::progress::Progress;
use crate::servers::Side;
use crate::size;
use crate::unlock::{OtherArguments, UnlockArguments};
use crate::verb::key::{self, RecoveryTarget};
use crate::verb::probe;

/// Which repository.
#[derive(Args, Debug, Clone)]
pub struct RepositoryArgument {
    /// The repository: a directory; https://HOST:PORT of a Leeward server; or a place in an object store: s3://, swift://,
    /// oss://, oci://, azure://, gs:// or sftp:// (docs/stores.md says how each is spelt)
    #[arg(short, long, env = "LEEWARD_REPO", value_name = "REPO", global = true)]
    repo: Option<String>,
    #[command(flatten)]
    unlock: UnlockArguments,
}

impl RepositoryArgument {
    /// Where it is, or an error that says how to give it.
    pub fn location(&self) -> Result<&str, Failure> {
        self.repo.as_deref().ok_or_else(|| {
            Failure::new(Code::Usage, "no repository is given").hint("use -r REPO or set LEEWARD_REPO")
        })
    }

    /// Opens it.
    pub fn open(&self) -> Result<Repository, Failure> {
        open_with(self.location()?, Side::Own, None, &self.unlock)
    }

    /// Opens it to write so many bytes per second at most.
    pub fn open_limited(&self, bytes_per_second: Option<u64>) -> Result<Repository, Failure> {
        open_with(self.location()?, Side::Own, bytes_per_second, &self.unlock)
    }

    /// Opens another repository beside it, with the keys that are given for that one, else with the same.
    pub fn open_other(&self, location: &str, keys: &OtherArguments) -> Result<Repository, Failure> {
        self.open_at(location, self.other_side(), keys)
    }

    /// As [`RepositoryArgument::open_other`], of the two sides of a transfer the one that is said.
    pub fn open_at(&self, location: &str, side: Side, keys: &OtherArguments) -> Result<Repository, Failure> {
        open_with(location, side, None, self.unlock.for_other(keys).as_ref())
    }

    /// What another repository is, beside the one of -r.
    pub fn other_side(&self) -> Side {
        Side::beside(self.repo.as_deref().unwrap_or_default())
    }

    /// Makes a repository with the settings of another and, where that one is encrypted, with its secret; whoever has what
    /// opened that one opens this one.
    pub fn make_alike(&self, like: &Repository, location: &str, side: Side) -> Result<Repository, Failure> {
        let keys = if like.access().is_some() { first_keys(self, None)? } else { Vec::new() };
        let holds_repository = location::open_store(location, side)
            .is_ok_and(|store| Repository::is_present(store.as_ref()).unwrap_or(false));
        let store = location::create_store(location, side, holds_repository, false)?;
        Ok(Repository::init_alike(store, like, &keys)?)
    }

    /// Opens it to examine its objects: none comes from what the local cache kept earlier.
    pub fn open_examined(&self) -> Result<Repository, Failure> {
        let location = self.location()?;
        told(
            location,
            Repository::open_with(location::open_examined_store(location, Side::Own)?, &self.unlock),
        )
    }

    /// The store of it, to examine its objects.
    pub fn open_examined_store(&self) -> Result<SharedStore, Failure> {
        location::open_examined_store(self.location()?, Side::Own)
    }

    /// As [`RepositoryArgument::open_other`], to examine its objects.
    pub fn open_other_examined(&self, location: &str, keys: &OtherArguments) -> Result<Repository, Failure> {
        let unlock = self.unlock.for_other(keys);
        let store = location::open_examined_store(location, self.other_side())?;
        told(location, Repository::open_with(store, unlock.as_ref()))
    }

    /// Opens it without keys, to check what can be checked so.
    pub fn open_keyless(&self) -> Result<KeylessRepository, Failure> {
        let location = self.location()?;
        told(location, KeylessRepository::open(location::open_examined_store(location, Side::Own)?))
    }
}

/// Opens the repository at a location with what `unlock` gives, to write so many bytes per second at most.
pub fn open_with(
    location: &str,
    side: Side,
    bytes_per_second: Option<u64>,
    unlock: &dyn Unlock,
) -> Result<Repository, Failure> {
    let store = location::open_cached_store(location, side)?;
    let limit = bytes_per_second.map(RateLimit::new);
    told(location, Repository::open_with(LimitedStore::wrap(store, limit.as_ref(), None), unlock))
}

fn told<T>(location: &str, opened: leeward_repository::Result<T>) -> Result<T, Failure> {
    match opened {
        Err(leeward_repository::Error::NoRepository { .. }) => Err(location::missing(location)),
        other => Ok(other?),
    }
}

/// Makes a repository at a location where there is none.
pub fn init(location: &str, options: &InitOptions) -> Result<Repository, Failure> {
    init_with(location, options, false)
}

/// As [`init`]; perhaps also where rules of the bucket take objects away.
fn init_with(location: &str, options: &InitOptions, accepts_lifecycle: bool) -> Result<Repository, Failure> {
    let holds_repository = location::open_store(location, Side::Own)
        .is_ok_and(|store| Repository::is_present(store.as_ref()).unwrap_or(false));
    let store = location::create_store(location, Side::Own, holds_repository, accepts_lifecycle)?;
    Ok(Repository::init(store, options)?)
}

/// Shows progress and listens to Ctrl-C.
pub struct Watch {
    progress: Progress,
}

impl Watch {
    /// Watches work of `total` bytes.
    pub fn new(output: &Output, total: u64, label: &str) -> Self {
        Self { progress: Progress::new(output, total, label) }
    }

    /// Takes the progress off the terminal.
    pub fn finish(&self) {
        self.progress.finish();
    }
}

impl Control for Watch {
    fn advance(&self, bytes: u64) {
        self.progress.add(bytes);
    }

    fn is_cancelled(&self) -> bool {
        interrupt::is_requested()
    }
}

/// Make a repository, or show what one is
#[derive(Subcommand)]
pub enum RepoVerb {
    /// Make a repository in an empty or new directory
    Init {
        /// Slice of disk that is named and shared: a power of two from 16K to 4M
        #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = size::parse)]
        chunk_size: u64,
        /// Size of the objects that hold chunks: 1M to 256M [default: 32M; 64M in an object store, which charges for
        /// each]
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        pack_size: Option<u64>,
        /// Level of zstd compression, -7 (fast) to 19 (small)
        #[arg(long, value_name = "LEVEL", default_value_t = InitOptions::default().zstd_level, allow_negative_numbers = true)]
        compression: i32,
        /// Encrypt it: for the passphrase or key that is given (see Keys), else for a passphrase that is asked for
        #[arg(long)]
        encrypt: bool,
        /// Make a recovery key as well: shown on the terminal, or written to FILE
        #[arg(long, value_name = "FILE", requires = "encrypt", num_args = 0..=1, require_equals = true)]
        recovery_key: Option<Option<std::path::PathBuf>>,
        /// Store parity beside each pack, which mends so many percent of it where a part was damaged [default: none]
        #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
        parity: Option<u8>,
        /// Make it even where lifecycle rules of the bucket would delete or move its objects
        #[arg(long)]
        accept_lifecycle: bool,
    },
    /// Try out what an object store can do: races, versions, rules that would eat the repository
    Probe {
        /// The place to try, if it is not the repository of -r
        #[arg(value_name = "URL")]
        url: Option<String>,
    },
    /// Set how much of each new pack its parity mends, or stop making parity with 0; packs that are there stay as they are
    Parity {
        /// Percent of a pack, 0 to 100
        #[arg(value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
        percent: u8,
    },
    /// Show format, identity and settings
    Info,
}

/// Runs a `repo` verb.
pub fn run(verb: &RepoVerb, repository: &RepositoryArgument, output: &Output) -> Result<ExitCode, Failure> {
    let opened = match verb {
        RepoVerb::Init {
            chunk_size,
            pack_size,
            compression,
            encrypt,
            recovery_key,
            parity,
            accept_lifecycle,
        } => {
            let location = repository.location()?;
            let pack_size = match pack_size {
                Some(given) => *given,
                None => location::pack_bytes(location)?,
            };
            let pack_bytes = u32::try_from(pack_size)
                .map_err(|_| Failure::new(Code::Usage, "packs may have 256 MiB at most"))?;
            let recovery =
                recovery_key.as_ref().map(|file| RecoveryTarget::new(file.as_deref())).transpose()?;
            let mut options = InitOptions {
                chunk_bytes: *chunk_size,
                pack_bytes,
                zstd_level: *compression,
                keys: Vec::new(),
            };
            if *encrypt {
                options.keys = first_keys(repository, recovery.as_ref())?;
            } else if repository.unlock.expects_encryption() {
                return Err(Failure::new(
                    Code::Usage,
                    "a key is given, but the repository is not to be encrypted",
                )
                .hint("add --encrypt, or leave out the key"));
            }
            let mut opened = init_with(location, &options, *accept_lifecycle)?;
            if let Some(percent) = parity.filter(|percent| *percent > 0) {
                opened.set_parity(percent)?;
            }
            if let Some(recovery) = &recovery {
                recovery.hand_out(&opened, output)?;
            }
            output.line(format!("Made a repository in {}", opened.location()));
            opened
        }
        RepoVerb::Probe { url } => {
            let location = url.as_deref().map_or_else(|| repository.location(), Ok)?;
            return probe::run(location, output);
        }
        RepoVerb::Parity { percent } => {
            let mut opened = repository.open()?;
            opened.set_parity(*percent)?;
            opened
        }
        RepoVerb::Info => repository.open()?,
    };
    let config = opened.config();
    if output.is_json() {
        output.json_line(&info_of(&opened));
    } else {
        output.line(format!("repository   {}", config.repository_id));
        output.line(format!("location     {}", opened.location()));
        output.line(format!("format       {}", config.format_version));
        output.line(format!("chunk size   {}", size::show(config.chunk_bytes() as u64)));
        output.line(format!("fan-out      {}", config.fanout()));
        output.line(format!("pack size    {}", size::show(config.pack_bytes.into())));
        output.line(format!("compression  zstd level {}", config.zstd_level));
        output.line(match config.parity_percent {
            0 => "parity       none".to_owned(),
            percent => format!("parity       {percent} % of each new pack"),
        });
        output.line(format!("encryption   {}", encryption(&opened)));
        if let Some(fingerprint) = opened.fingerprint() {
            output.line(format!("fingerprint  {fingerprint}"));
        }
        output.line(format!("made         {} by {}", config.created, config.tool));
    }
    Ok(ExitCode::SUCCESS)
}

/// The configuration, and what it does not say of itself, for programs.
fn info_of(repository: &Repository) -> serde_json::Value {
    let mut value = serde_json::to_value(repository.config()).unwrap_or_default();
    value["location"] = repository.location().into();
    value["encrypted"] = repository.access().is_some().into();
    value["access"] = repository.access().map(KeyAccess::name).into();
    value["fingerprint"] = repository.fingerprint().map(|fingerprint| fingerprint.to_string()).into();
    value
}

fn encryption(repository: &Repository) -> &'static str {
    match repository.access() {
        None => "none",
        Some(KeyAccess::Full) => "AES-256-GCM, opened with a full key",
        Some(KeyAccess::WriteOnly) => "AES-256-GCM, opened with a write-only key",
    }
}

/// Who may open a new repository: whoever has what is given now, and the recovery key.
fn first_keys(
    repository: &RepositoryArgument,
    recovery: Option<&RecoveryTarget>,
) -> Result<Vec<NewKey>, Failure> {
    let credential = repository.unlock.for_new().map_err(key::usage)?;
    let first = key::new_key("first", KeyAccess::Full, key::recipient_of(&credential));
    Ok(std::iter::once(first).chain(recovery.map(RecoveryTarget::new_key)).collect())
}
