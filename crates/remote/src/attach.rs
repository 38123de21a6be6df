//! From a connection to the store of a repository.

use std::sync::Arc;

use leeward_store::bucket::{Bucket, BucketStore, Comparison, SharedBucket, VersionedStore};
use leeward_store::{Error, ErrorKind, Key, Result, SharedStore};

use crate::connect::Connection;
use crate::probe::{self, Abilities};

/// The object that every repository has, by which its scheme of changes is known.
const CONFIG: &str = "config";

/// The store in a bucket whose abilities are known.
///
/// # Errors
/// The bucket cannot hold one.
pub fn store(connection: &Connection, comparison: Comparison) -> Result<SharedStore> {
    let service = &connection.bare;
    let comparison = match (service.promises(), comparison) {
        (Comparison::Native, found) => found,
        (promised, _) => promised,
    };
    Ok(match comparison {
        Comparison::Native => Arc::new(BucketStore::new(Arc::clone(&connection.bucket), comparison)?),
        other => {
            // That layout needs each write sent once at most, where objects change.
            let store = VersionedStore::new(Arc::clone(&connection.paced), other)?;
            Arc::new(store.with_lag(service.lag()).with_plain(Arc::clone(&connection.bucket)))
        }
    })
}

/// The store of the repository in a bucket: its scheme is known by where the repository's configuration is. `None` when
/// there is no repository.
///
/// # Errors
/// The service, or the way to it, fails.
pub fn attach(connection: &Connection) -> Result<Option<SharedStore>> {
    let Some(config) = Key::new(CONFIG) else {
        return Ok(None);
    };
    // The first request is made once only: whoever mistypes a location wants to know at once.
    let recorded = probe::recorded(connection.bare.as_ref() as &dyn Bucket)?;
    let is_native = match connection.bucket.head(&config) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if is_native && connection.bare.promises() != Comparison::Native {
        return Err(Error::Unsupported {
            store: connection.bare.name().to_owned(),
            what: "it holds a repository that was made where changes are compared, as in a local directory, and \
                   changing it from here would not be safe; open it where it lies, or let leeward serve offer it there"
                .to_owned(),
        });
    }
    let paced: &SharedBucket = &connection.paced;
    if !is_native && !VersionedStore::is_layout_of(paced, &config)? {
        return Ok(None);
    }
    prepare(connection, recorded.as_ref());
    store(connection, if is_native { Comparison::Native } else { Comparison::None }).map(Some)
}

/// Sets the connection to what is recorded; where nothing is, tries the one thing that has to be known. Who may not write
/// needs not know it.
fn prepare(connection: &Connection, recorded: Option<&Abilities>) {
    match recorded {
        Some(abilities) => connection.bare.use_bare_tags(abilities.bare_tags),
        None => {
            let bucket = &connection.bare;
            let _ =
                probe::probe_operations(bucket.as_ref() as &dyn Bucket, &|bare| bucket.use_bare_tags(bare));
        }
    }
}
