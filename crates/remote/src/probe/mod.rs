//! What a bucket can do, found out by trying.
//!
//! Services differ in what they keep of S3's promises, and some answer "done" to what they do not know. So nothing is
//! believed that was not seen: threads race for the same object, and what is in it afterwards decides. A probe writes a few
//! small objects under `probe/`, and deletes them.

mod abilities;
mod races;

pub use abilities::{Abilities, Row, State};

use leeward_store::bucket::{Bucket, Condition};
use leeward_store::{Error, ErrorKind, Key, Result};

use crate::adapter::Adapter;
use races::Place;

/// The key under which a repository's bucket keeps its [`Abilities`].
const RECORD: &str = "abilities";
/// The largest record that is read, in bytes.
const RECORD_BYTES_MAX: u64 = 1 << 20;

fn record_key() -> Result<Key> {
    Key::new(RECORD).ok_or_else(|| Error::Unsupported { store: String::new(), what: "no key".to_owned() })
}

/// Finds out what a bucket can do. Leaves it set to the form of versions that it takes.
///
/// # Errors
/// Plain writes, reads, listings or deletions fail: nothing can be kept there.
pub fn probe(bucket: &dyn Adapter) -> Result<Abilities> {
    bucket.prepare()?;
    let settings = bucket.settings();
    let found = probe_operations(bucket, &|bare| bucket.use_bare_tags(bare))?;
    let clock_ahead_seconds = bucket.clock_ahead().map(|ahead| ahead.as_secs());
    Ok(Abilities { settings, clock_ahead_seconds, ..found })
}

/// The part of the probe that any bucket goes through. `use_bare` sets the form in which versions are given back.
///
/// # Errors
/// As [`probe`].
pub fn probe_operations(bucket: &dyn Bucket, use_bare: &dyn Fn(bool)) -> Result<Abilities> {
    let place = Place::new(bucket)?;
    let outcome = (|| {
        let reading = place.reads()?;
        let form = place.find_tag_form(use_bare)?;
        let bare_tags = form == Ok(true);
        Ok(Abilities {
            create: place.creation()?,
            replace: match form {
                Ok(_) => place.replacement()?,
                Err(what) => State::Lacks(what),
            },
            bare_tags,
            ..reading
        })
    })();
    // What is left over is told by the outcome's error, if any, and does no harm.
    place.clear();
    outcome
}

/// Writes down what was found.
///
/// # Errors
/// The service fails.
pub fn record(bucket: &dyn Bucket, abilities: &Abilities) -> Result<()> {
    let text = serde_json::to_vec_pretty(abilities).map_err(|error| Error::Unsupported {
        store: bucket.name().to_owned(),
        what: format!("its abilities cannot be written down: {error}"),
    })?;
    bucket.write(&record_key()?, &[&text], Condition::Always)
}

/// Reads what was written down; `None` when there is nothing, or nothing that this version understands.
///
/// # Errors
/// The service fails.
pub fn recorded(bucket: &dyn Bucket) -> Result<Option<Abilities>> {
    match bucket.read(&record_key()?, None, RECORD_BYTES_MAX) {
        Ok(read) => Ok(serde_json::from_slice(&read.content).ok()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Damaged) => Ok(None),
        Err(error) => Err(error),
    }
}
