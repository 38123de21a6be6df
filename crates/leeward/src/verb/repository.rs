//! The repository that a verb works on, and `leeward repo`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use leeward_repository::{Control, InitOptions, Repository};

use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::limit::{LimitedStore, RateLimit};
use crate::location;
use crate::output::Output;
use crate::progress::Progress;
use crate::size;

/// Which repository.
#[derive(Args, Debug, Clone)]
pub struct RepositoryArgument {
    /// The repository: a directory
    #[arg(short, long, env = "LEEWARD_REPO", value_name = "REPO", global = true)]
    repo: Option<String>,
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
        open(self.location()?)
    }

    /// Opens it to write so many bytes per second at most.
    pub fn open_limited(&self, bytes_per_second: Option<u64>) -> Result<Repository, Failure> {
        open_limited(self.location()?, bytes_per_second)
    }
}

/// Opens the repository at a location.
pub fn open(location: &str) -> Result<Repository, Failure> {
    open_limited(location, None)
}

fn open_limited(location: &str, bytes_per_second: Option<u64>) -> Result<Repository, Failure> {
    let store = location::open_store(location)?;
    let limit = bytes_per_second.map(RateLimit::new);
    match Repository::open(LimitedStore::wrap(store, limit.as_ref())) {
        Err(leeward_repository::Error::NoRepository { .. }) => Err(location::missing(location)),
        other => Ok(other?),
    }
}

/// Makes a repository at a location where there is none.
pub fn init(location: &str, options: &InitOptions) -> Result<Repository, Failure> {
    let store = location::create_store(location, open(location).is_ok())?;
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
        /// Size of the objects that hold chunks: 1M to 256M
        #[arg(long, value_name = "SIZE", default_value = "32M", value_parser = size::parse)]
        pack_size: u64,
        /// Level of zstd compression, -7 (fast) to 19 (small)
        #[arg(long, value_name = "LEVEL", default_value_t = InitOptions::default().zstd_level, allow_negative_numbers = true)]
        compression: i32,
    },
    /// Show format, identity and settings
    Info,
}

/// Runs a `repo` verb.
pub fn run(verb: &RepoVerb, repository: &RepositoryArgument, output: &Output) -> Result<ExitCode, Failure> {
    let opened = match verb {
        RepoVerb::Init { chunk_size, pack_size, compression } => {
            let pack_bytes = u32::try_from(*pack_size)
                .map_err(|_| Failure::new(Code::Usage, "packs may have 256 MiB at most"))?;
            let options = InitOptions { chunk_bytes: *chunk_size, pack_bytes, zstd_level: *compression };
            let opened = init(repository.location()?, &options)?;
            output.line(format!("Made a repository in {}", opened.location()));
            opened
        }
        RepoVerb::Info => repository.open()?,
    };
    let config = opened.config();
    if output.is_json() {
        output.json_line(config);
    } else {
        output.line(format!("repository   {}", config.repository_id));
        output.line(format!("location     {}", opened.location()));
        output.line(format!("format       {}", config.format_version));
        output.line(format!("chunk size   {}", size::show(config.chunk_bytes() as u64)));
        output.line(format!("fan-out      {}", config.fanout()));
        output.line(format!("pack size    {}", size::show(config.pack_bytes.into())));
        output.line(format!("compression  zstd level {}", config.zstd_level));
        output.line("encryption   none");
        output.line(format!("made         {} by {}", config.created, config.tool));
    }
    Ok(ExitCode::SUCCESS)
}
