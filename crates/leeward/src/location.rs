//! From what a person calls a repository to the store that holds it.

use std::path::Path;
use std::sync::Arc;

use leeward_remote::probe::{self, Abilities};
use leeward_remote::{Connection, Environment, Location};
use leeward_repository::{InitOptions, PREFIXES};
use leeward_store::{DirectoryStore, ErrorKind, SharedStore};

use crate::cache;
use crate::failure::{Code, Failure};
use crate::servers::{self, Side};

/// The bucket that a location names; `None` when it names a directory.
pub fn bucket(location: &str) -> Result<Option<Connection>, Failure> {
    let Some(parsed) = Location::parse(location)? else {
        return Ok(None);
    };
    Ok(Some(leeward_remote::connect(&parsed, &Environment::of_process())?))
}

/// The path that a location names: `file:PATH`, or the path itself.
fn path(location: &str) -> &Path {
    Path::new(location.strip_prefix("file:").unwrap_or(location))
}

/// Opens the store of a repository that is there; where it is remote, behind the local cache of its metadata. Not for
/// those who examine what is stored: see [`open_examined_store`].
pub fn open_cached_store(location: &str, side: Side) -> Result<SharedStore, Failure> {
    let store = open_store(location, side)?;
    if is_remote(location)? { cache::before(store) } else { Ok(store) }
}

/// Opens the store of a repository whose objects are to be examined: nothing that is read through it was kept earlier.
pub fn open_examined_store(location: &str, side: Side) -> Result<SharedStore, Failure> {
    let store = open_store(location, side)?;
    if is_remote(location)? { cache::before_examined(store) } else { Ok(store) }
}

/// Whether a location names anything but a directory of this machine.
fn is_remote(location: &str) -> Result<bool, Failure> {
    Ok(leeward_api::client::Location::is_one(location) || Location::parse(location)?.is_some())
}

/// Opens the store of a repository that is there, and nothing before it.
pub fn open_store(location: &str, side: Side) -> Result<SharedStore, Failure> {
    if leeward_api::client::Location::is_one(location) {
        return servers::connect(location, side);
    }
    if let Some(connection) = bucket(location)? {
        return leeward_remote::attach(&connection)
            .map_err(leeward_remote::Error::from)?
            .ok_or_else(|| missing(location));
    }
    let store = DirectoryStore::open(path(location)).map_err(|error| match error.kind() {
        ErrorKind::NotFound => missing(location),
        _ => Failure::from(leeward_repository::Error::from(error)),
    })?;
    Ok(Arc::new(store))
}

/// Packs of a new repository in an object store, in bytes: 16,384 of them hold a TiB, and each is a request that is paid for.
const BUCKET_PACK_BYTES: u64 = 64 << 20;

/// The size of packs that suits a new repository at a location, in bytes.
pub fn pack_bytes(location: &str) -> Result<u64, Failure> {
    let is_bucket = !leeward_api::client::Location::is_one(location) && Location::parse(location)?.is_some();
    Ok(if is_bucket { BUCKET_PACK_BYTES } else { InitOptions::default().pack_bytes.into() })
}

/// Opens a store in which a repository is to be made, and makes what it needs. `holds_repository` says whether one is
/// there already; `accepts_lifecycle`, whether a bucket may have rules that take objects away.
pub fn create_store(
    location: &str,
    side: Side,
    holds_repository: bool,
    accepts_lifecycle: bool,
) -> Result<SharedStore, Failure> {
    if leeward_api::client::Location::is_one(location) {
        return servers::connect(location, side);
    }
    if let Some(connection) = bucket(location)? {
        return create_in_bucket(location, &connection, accepts_lifecycle);
    }
    let path = path(location);
    let listed = path.read_dir().map(|mut entries| entries.next().is_some());
    if listed.unwrap_or(false) && !holds_repository {
        // What a crashed init left is completed; anything else is not ours.
        let foreign = path.read_dir().into_iter().flatten().flatten().any(|entry| {
            let name = entry.file_name();
            !PREFIXES.iter().any(|prefix| name == *prefix) && name != "tmp" && name != "lock"
        });
        if foreign {
            return Err(Failure::new(
                Code::Refused,
                format!("{location}: the directory is not empty and holds no repository"),
            )
            .hint("choose an empty or a new directory"));
        }
    }
    Ok(Arc::new(DirectoryStore::create(path, &PREFIXES).map_err(leeward_repository::Error::from)?))
}

/// Finds out what a bucket can do, refuses one that would lose the repository, and writes down what was found.
fn create_in_bucket(
    location: &str,
    connection: &Connection,
    accepts_lifecycle: bool,
) -> Result<SharedStore, Failure> {
    let attached = leeward_remote::attach(connection).map_err(leeward_remote::Error::from)?;
    if let Some(store) = attached {
        // There is one; whoever makes repositories says so.
        return Ok(store);
    }
    let abilities = probe::probe(connection.bare.as_ref()).map_err(leeward_remote::Error::from)?;
    refuse_unfit(location, &abilities, accepts_lifecycle)?;
    probe::record(connection.bucket.as_ref(), &abilities).map_err(leeward_remote::Error::from)?;
    Ok(leeward_remote::store(connection, abilities.comparison()).map_err(leeward_remote::Error::from)?)
}

fn refuse_unfit(location: &str, abilities: &Abilities, accepts_lifecycle: bool) -> Result<(), Failure> {
    if let Some(why) = abilities.unfit() {
        return Err(Failure::new(Code::Refused, format!("{location}: {why}"))
            .hint("choose another store; see what this one can do with: leeward repo probe"));
    }
    let rules = abilities.settings.lifecycle.value().map_or(&[][..], Vec::as_slice);
    match rules.first() {
        Some(rule) if !accepts_lifecycle => Err(Failure::new(
            Code::Refused,
            format!(
                "{location}: the bucket's lifecycle rule {:?} would eat the repository: for names that begin with {:?} it {}",
                rule.id, rule.prefix, rule.action
            ),
        )
        .hint("delete the rule or confine it to another prefix, or say --accept-lifecycle")),
        _ => Ok(()),
    }
}

/// That there is no repository at a location.
pub fn missing(location: &str) -> Failure {
    Failure::new(Code::NotFound, format!("{location}: there is no repository here"))
        .hint(format!("make one with: leeward repo init -r '{location}'"))
}
