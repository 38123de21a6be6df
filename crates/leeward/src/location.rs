//! From what a person calls a repository to the store that holds it.

use std::path::Path;
use std::sync::Arc;

use leeward_repository::PREFIXES;
use leeward_store::{DirectoryStore, ErrorKind, SharedStore};

use crate::failure::{Code, Failure};

/// Opens the store of a repository that is there.
pub fn open_store(location: &str) -> Result<SharedStore, Failure> {
    if leeward_api::client::Location::is_one(location) {
        return crate::verb::serve::connect(location);
    }
    let store = DirectoryStore::open(Path::new(location)).map_err(|error| match error.kind() {
        ErrorKind::NotFound => missing(location),
        _ => Failure::from(leeward_repository::Error::from(error)),
    })?;
    Ok(Arc::new(store))
}

/// Opens a store in which a repository is to be made, and makes what it needs. `holds_repository` says whether one is
/// there already.
pub fn create_store(location: &str, holds_repository: bool) -> Result<SharedStore, Failure> {
    if leeward_api::client::Location::is_one(location) {
        return crate::verb::serve::connect(location);
    }
    let path = Path::new(location);
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

/// That there is no repository at a location.
pub fn missing(location: &str) -> Failure {
    Failure::new(Code::NotFound, format!("{location}: there is no repository here"))
        .hint(format!("make one with: leeward repo init -r {location}"))
}
