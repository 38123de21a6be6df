//! `leeward seed`: a first copy travels on a disk.
//!
//! A seed is a repository in a directory, beside it `seed.json`, which says what it carries. That file is written last:
//! where it is missing the export was not finished. An export that is run again goes on, and so does an import.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use leeward_repository::transfer::{Near, Selection};
use leeward_repository::{ImageName, Repository, SnapshotId};
use serde::{Deserialize, Serialize};

use super::clone::open_alike;
use super::push::carry::{Carry, Sides};
use super::push::{TransferArguments, pick};
use super::repository::RepositoryArgument;
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::servers::Side;

/// The file that says what a seed carries.
const MANIFEST: &str = "seed.json";
/// The largest manifest, in bytes: a hundred thousand snapshots.
const MANIFEST_BYTES_MAX: u64 = 32 << 20;
const SEED_VERSION: u32 = 1;

/// Carry a first copy on a disk: export it at one site, import it at another
#[derive(Subcommand)]
pub enum SeedVerb {
    /// Copy snapshots into a directory that travels
    Export {
        /// The directory: empty, new, or of an export that was begun
        directory: PathBuf,
        /// What to copy: images with all their snapshots, single snapshots, machines or groups
        #[arg(value_name = "IMAGE[@SPEC]", required_unless_present = "all")]
        what: Vec<String>,
        /// Copy all snapshots of all images
        #[arg(long, conflicts_with = "what")]
        all: bool,
        #[command(flatten)]
        transfer: TransferArguments,
    },
    /// Take over what such a directory carries, checking every byte
    Import(ImportArguments),
}

/// Arguments of `seed import`.
#[derive(Args)]
pub struct ImportArguments {
    /// The directory
    directory: PathBuf,
    #[command(flatten)]
    transfer: TransferArguments,
}

/// What a seed carries.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    seed_version: u32,
    /// The repository that it was made from.
    repository: String,
    /// When the export ended, RFC 3339.
    made: String,
    snapshots: Vec<Carried>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Carried {
    image: ImageName,
    snapshot: SnapshotId,
}

/// Runs a `seed` verb.
pub fn run(verb: &SeedVerb, repository: &RepositoryArgument, output: &Output) -> Result<ExitCode, Failure> {
    match verb {
        SeedVerb::Export { directory, what, all, transfer } => {
            let from = repository.open()?;
            let selection = if *all { Selection::All } else { pick::selection(&from, what)? };
            export(repository, from, &selection, directory, transfer, output)
        }
        SeedVerb::Import(arguments) => import(arguments, repository, output),
    }
}

fn export(
    repository: &RepositoryArgument,
    from: Repository,
    selection: &Selection,
    directory: &Path,
    arguments: &TransferArguments,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let location = directory.display().to_string();
    let manifest = directory.join(MANIFEST);
    let place;
    let to = match open_alike(&from, &location, repository.other_side(), repository, &arguments.other)? {
        Some(to) => to,
        None if arguments.dry_run => {
            // What would travel into an empty seed is told by one, which then goes again.
            place = tempfile::tempdir()
                .map_err(|error| Failure::new(Code::Io, format!("cannot make a folder: {error}")))?;
            let empty = place.path().join("empty").display().to_string();
            repository.make_alike(&from, &empty, repository.other_side())?
        }
        None => repository.make_alike(&from, &location, repository.other_side())?,
    };
    if !arguments.dry_run {
        // Until all is there it must not look finished.
        match fs::remove_file(&manifest) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("remove", &manifest, &error));
            }
            _ => {}
        }
    }
    let identity = from.config().repository_id.clone();
    let sides = Sides::new((from, Side::Own), (to, repository.other_side()), arguments, output)?;
    let carry =
        Carry { verb: "seed export", options: arguments.options(Near::From), dry_run: arguments.dry_run };
    let carried = carry.run(&sides, selection, output)?;
    if !arguments.dry_run {
        let made = jiff::Timestamp::now().to_string();
        let content = Manifest {
            seed_version: SEED_VERSION,
            repository: identity,
            made,
            snapshots: contents(&sides.to)?,
        };
        write(&manifest, &content)?;
        output.line(format!("{location} carries {} snapshots and may travel", content.snapshots.len()));
    }
    Ok(carried.code())
}

fn import(
    arguments: &ImportArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let to = repository.open()?;
    let location = arguments.directory.display().to_string();
    let manifest = read(&arguments.directory.join(MANIFEST))?;
    let from = repository.open_other(&location, &arguments.transfer.other)?;
    let found = contents(&from)?;
    if let Some(missing) = manifest.snapshots.iter().find(|carried| !found.contains(carried)) {
        let name = format!("{}@{}", missing.image, missing.snapshot.short());
        let what = format!(
            "{location}: the seed says that it carries {name}, but its repository has no such snapshot"
        );
        return Err(
            Failure::new(Code::Damaged, what).hint("copy the directory once more from where it was made")
        );
    }
    let transfer = &arguments.transfer;
    let mut options = transfer.options(Near::From);
    (options.verify, options.is_carried) = (true, true);
    let carry = Carry { verb: "seed import", options, dry_run: transfer.dry_run };
    let sides = Sides::new((from, repository.other_side()), (to, Side::Own), transfer, output)?;
    Ok(carry.run(&sides, &Selection::All, output)?.code())
}

/// Whether a location is a seed, which only carries what comes from elsewhere: its copies then say where that is, by whatever
/// verb they are taken over.
pub fn is_one(location: &str) -> bool {
    let path = Path::new(location.strip_prefix("file:").unwrap_or(location));
    read(&path.join(MANIFEST)).is_ok()
}

/// All snapshots of a repository.
fn contents(repository: &Repository) -> Result<Vec<Carried>, Failure> {
    let mut found = Vec::new();
    for image in repository.images()? {
        for entry in repository.image(&image)?.snapshots {
            found.push(Carried { image: image.clone(), snapshot: entry.id });
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Manifest, Failure> {
    let unusable = |what: String| {
        Failure::new(Code::Damaged, format!("{}: {what}", path.display()))
            .hint("run the export again where it was made")
    };
    let size = fs::metadata(path).map(|metadata| metadata.len());
    match size {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let what = format!(
                "{}: it is missing, so the export was not finished, or this is no seed",
                path.display()
            );
            return Err(
                Failure::new(Code::NotFound, what).hint("run the export again: it goes on where it stopped")
            );
        }
        Err(error) => return Err(failed("look at", path, &error)),
        Ok(size) if size > MANIFEST_BYTES_MAX => {
            return Err(unusable(format!("it has {size} bytes, more than any that is written here")));
        }
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(|error| failed("read", path, &error))?;
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|error| unusable(format!("it cannot be read: {error}")))?;
    if manifest.seed_version != SEED_VERSION {
        return Err(unusable(format!("it has version {}, which is not known here", manifest.seed_version)));
    }
    Ok(manifest)
}

/// Writes the manifest so that it is there whole or not at all.
fn write(path: &Path, manifest: &Manifest) -> Result<(), Failure> {
    let beside = path.with_extension("new");
    let text = serde_json::to_vec_pretty(manifest).map_err(|error| {
        Failure::new(Code::Failed, format!("the seed's manifest cannot be written: {error}"))
    })?;
    let stored = fs::File::create(&beside)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path));
    stored.map_err(|error| failed("write", path, &error))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| failed("sync", folder, &error))
}

fn failed(action: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Code::Io, format!("cannot {action} {}: {error}", path.display()))
}
