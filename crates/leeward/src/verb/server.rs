//! `leeward server`: the daemon of a site.

mod init;
mod move_state;
mod restore_state;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use leeward_site::Config;
use leeward_store::with_causes;

use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::verb::repository::RepositoryArgument;

/// Run the daemon of a site: imports, runs, REST API and web pages
///
/// Begin with `leeward server init`, which writes a commented configuration and a token, then start it with `leeward server`
/// and open the address that it tells. SIGTERM ends it; its runs go on where they were when it is started again.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ServerArguments {
    #[command(flatten)]
    place: PlaceArgument,
    #[command(subcommand)]
    verb: Option<ServerVerb>,
}

/// Where the site's configuration is.
#[derive(Args)]
pub struct PlaceArgument {
    /// The site's configuration [default: site.toml in LEEWARD_SITE_DIR, or in /etc/leeward for root and in
    /// ~/.config/leeward for others]
    #[arg(long, value_name = "FILE", env = "LEEWARD_SITE_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum ServerVerb {
    /// Write a commented configuration and an admin's token
    Init {
        #[command(flatten)]
        place: PlaceArgument,
    },
    RestoreState(restore_state::RestoreStateArguments),
    MoveState(move_state::MoveStateArguments),
    /// Say whether the configuration makes sense, and whether the providers of tokens that it names answer
    Check {
        #[command(flatten)]
        place: PlaceArgument,
    },
}

impl PlaceArgument {
    /// The file.
    fn file(&self) -> Result<PathBuf, Failure> {
        if let Some(file) = &self.config {
            return Ok(file.clone());
        }
        let directory = std::env::var_os("LEEWARD_SITE_DIR").map(PathBuf::from).or_else(usual_directory);
        directory.map(|directory| directory.join("site.toml")).ok_or_else(|| {
            Failure::new(Code::Usage, "there is no home directory to keep the site's configuration in")
                .hint("name the file with --config")
        })
    }

    fn load(&self) -> Result<Config, Failure> {
        let file = self.file()?;
        if !file.exists() {
            return Err(Failure::new(
                Code::NotFound,
                format!("{}: there is no configuration", file.display()),
            )
            .hint("write one with: leeward server init"));
        }
        Config::load(&file).map_err(failure)
    }
}

fn usual_directory() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/etc/leeward"));
    }
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    config.map(|config| config.join("leeward"))
}

/// Runs the verb.
pub fn run(
    arguments: &ServerArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    match &arguments.verb {
        None => run::run(arguments.place.load()?, output),
        Some(ServerVerb::RestoreState(arguments)) => restore_state::run(arguments, repository, output),
        Some(ServerVerb::MoveState(arguments)) => move_state::run(arguments, output),
        Some(ServerVerb::Init { place }) => init::run(&place.file()?, output),
        Some(ServerVerb::Check { place }) => {
            let config = place.load()?;
            run::check(&config.server)?;
            run::check_providers(&config.server, output);
            if let Some(database) = &config.database {
                output.line(format!("[database]: {} answers", database.reach().map_err(failure)?));
            }
            leeward_site::check_state(&config).map_err(failure)?;
            output.line(format!("{}: the configuration makes sense", config.name));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A site's error as the command line tells it.
pub fn failure(error: leeward_site::Error) -> Failure {
    use leeward_site::ErrorKind;
    let code = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotOffered => Code::NotFound,
        ErrorKind::Invalid => Code::Usage,
        ErrorKind::Conflict => Code::Conflict,
        ErrorKind::Passing => Code::Io,
        ErrorKind::Unfit | ErrorKind::Unreadable => Code::Refused,
        ErrorKind::Lasting => Code::Failed,
    };
    Failure::new(code, with_causes(&error))
        .hint("see docs/site.md, and the comments in the configuration that leeward server init writes")
}
