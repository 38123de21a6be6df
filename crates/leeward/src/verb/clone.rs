//! `leeward clone`: a repository like another, with all that is in it.

use std::process::ExitCode;

use clap::Args;
use leeward_repository::transfer::{Near, Selection};
use leeward_repository::{InitOptions, Repository};

use super::push::TransferArguments;
use super::push::carry::{Carry, Sides};
use super::repository::{init, open};
use crate::failure::{Code, Failure};
use crate::output::Output;

/// Make a repository with the settings of another, and copy all snapshots into it
///
/// Run again, it goes on where it stopped, and fetches what has come since.
#[derive(Args)]
pub struct CloneArguments {
    /// The repository to copy
    from: String,
    /// Where to make the copy: an empty or new place, or a clone that was begun
    to: String,
    #[command(flatten)]
    transfer: TransferArguments,
}

/// Runs the verb.
pub fn run(arguments: &CloneArguments, output: &Output) -> Result<ExitCode, Failure> {
    let from = open(&arguments.from)?;
    let carry = Carry {
        verb: "clone",
        options: arguments.transfer.options(Near::From),
        dry_run: arguments.transfer.dry_run,
    };
    let place;
    let to = match open_alike(&from, &arguments.to)? {
        Some(to) => to,
        None if carry.dry_run => {
            // What would travel into an empty repository is told by one, which then goes again.
            place = tempfile::tempdir()
                .map_err(|error| Failure::new(Code::Io, format!("cannot make a folder: {error}")))?;
            make_alike(&from, &place.path().join("empty").display().to_string())?
        }
        None => make_alike(&from, &arguments.to)?,
    };
    let sides = Sides::new(from, to, arguments.transfer.limit)?;
    Ok(carry.run(&sides, &Selection::All, output)?.code())
}

/// Opens a repository that names content as another does; none where there is no repository.
pub fn open_alike(from: &Repository, location: &str) -> Result<Option<Repository>, Failure> {
    let to = match open(location) {
        Ok(to) => to,
        Err(failure) if failure.code() == Code::NotFound => return Ok(None),
        Err(failure) => return Err(failure),
    };
    if from.shares_names_with(&to) {
        return Ok(Some(to));
    }
    let what = format!("{location}: there is a repository with other settings than {}", from.location());
    Err(Failure::new(Code::Refused, what)
        .hint("choose another place, or send snapshots between the two with: leeward push -r FROM --all TO"))
}

/// Makes a repository with the settings of another. Where that one is encrypted, this is the place at which the new one
/// gets the same secret: only then does content have the same names, and frames travel as they are stored.
pub fn make_alike(from: &Repository, location: &str) -> Result<Repository, Failure> {
    let config = from.config();
    let options = InitOptions {
        chunk_bytes: config.chunk_bytes() as u64,
        pack_bytes: config.pack_bytes,
        zstd_level: config.zstd_level,
    };
    init(location, &options)
}
