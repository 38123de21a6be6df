//! `leeward clone`: a repository like another, with all that is in it.

use std::process::ExitCode;

use clap::Args;
use leeward_repository::Repository;
use leeward_repository::transfer::{Near, Selection};

use super::push::TransferArguments;
use super::push::carry::{Carry, Sides};
use super::repository::RepositoryArgument;
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::servers::Side;
use crate::unlock::OtherArguments;

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
pub fn run(
    arguments: &CloneArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let other = &arguments.transfer.other;
    let side = Side::beside(&arguments.from);
    let from = repository.open_at(&arguments.from, Side::Own, other)?;
    let carry = Carry {
        verb: "clone",
        options: arguments.transfer.options(Near::From),
        dry_run: arguments.transfer.dry_run,
    };
    let place;
    let to = match open_alike(&from, &arguments.to, side, repository, other)? {
        Some(to) => to,
        None if carry.dry_run => {
            // What would travel into an empty repository is told by one, which then goes again.
            place = tempfile::tempdir()
                .map_err(|error| Failure::new(Code::Io, format!("cannot make a folder: {error}")))?;
            repository.make_alike(&from, &place.path().join("empty").display().to_string(), side)?
        }
        None => repository.make_alike(&from, &arguments.to, side)?,
    };
    let sides = Sides::new((from, Side::Own), (to, side), &arguments.transfer, output)?;
    Ok(carry.run(&sides, &Selection::All, output)?.code())
}

/// Opens a repository that names content as another does; none where there is no repository.
pub fn open_alike(
    from: &Repository,
    location: &str,
    side: Side,
    repository: &RepositoryArgument,
    keys: &OtherArguments,
) -> Result<Option<Repository>, Failure> {
    let to = match repository.open_at(location, side, keys) {
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
