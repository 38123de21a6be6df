//! The local cache of what never changes in remote repositories: where it is, and how large it may become.
//!
//! Whoever examines what is stored gets an empty cache that is removed when the command ends: each run and manifest is read
//! from the repository once, and nothing comes from earlier.
//!
//! `LEEWARD_CACHE_DIR` names the directory (else `leeward` in `XDG_CACHE_HOME` or `~/.cache`), `LEEWARD_CACHE_SIZE` its
//! size, and `LEEWARD_NO_CACHE=1` does without.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use leeward_store::{CACHE_BYTES_MAX, CacheOptions, CachedStore, Key, SharedStore};
use tempfile::TempDir;

use crate::failure::{Code, Failure};
use crate::size;

/// Puts the cache before a remote store, unless there is no place for one or none is wanted.
pub fn before(store: SharedStore) -> Result<SharedStore, Failure> {
    let bytes_max = bytes_max()?;
    let Some(directory) = directory() else { return Ok(store) };
    let options = CacheOptions { directory, bytes_max, keeps_writes: true, is_sound };
    Ok(CachedStore::wrap(store, &options))
}

/// Directories of this process alone, until it ends.
static PASSING: Mutex<Vec<TempDir>> = Mutex::new(Vec::new());
/// How their names begin.
const PASSING_PREFIX: &str = "examined-";
/// How old one must be to have been left by a process that was killed.
const LEFT_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Puts an empty cache before a remote store that is to be examined, unless none is wanted; [`clear`] removes it.
pub fn before_examined(store: SharedStore) -> Result<SharedStore, Failure> {
    let bytes_max = bytes_max()?;
    let Some(passing) = directory().and_then(|directory| make_passing(&directory)) else { return Ok(store) };
    let directory = passing.path().to_owned();
    PASSING.lock().unwrap_or_else(PoisonError::into_inner).push(passing);
    let options = CacheOptions { directory, bytes_max, keeps_writes: false, is_sound };
    Ok(CachedStore::wrap(store, &options))
}

/// Removes what was kept for this process alone.
pub fn clear() {
    PASSING.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

fn make_passing(directory: &Path) -> Option<TempDir> {
    std::fs::create_dir_all(directory).ok()?;
    for left in directory.read_dir().ok()?.flatten() {
        let is_passing = left.file_name().to_string_lossy().starts_with(PASSING_PREFIX);
        let time = left.metadata().and_then(|found| found.modified()).ok();
        if is_passing && time.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > LEFT_AFTER) {
            let _ = std::fs::remove_dir_all(left.path());
        }
    }
    tempfile::Builder::new().prefix(PASSING_PREFIX).tempdir_in(directory).ok()
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn directory() -> Option<PathBuf> {
    if variable("LEEWARD_NO_CACHE").is_some_and(|value| value.as_os_str() != "0") {
        return None;
    }
    if let Some(directory) = variable("LEEWARD_CACHE_DIR") {
        return Some(directory);
    }
    // A relative path would be another directory for each place in which a command is run.
    let caches = variable("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    let caches = caches.or_else(|| Some(variable("HOME")?.join(".cache")));
    caches.filter(|path| path.is_absolute()).map(|path| path.join("leeward"))
}

fn bytes_max() -> Result<u64, Failure> {
    let Some(given) = variable("LEEWARD_CACHE_SIZE") else { return Ok(CACHE_BYTES_MAX) };
    size::parse(&given.to_string_lossy()).map_err(|what| {
        Failure::new(Code::Usage, format!("LEEWARD_CACHE_SIZE: {what}"))
            .hint("give a size such as 1G, or set LEEWARD_NO_CACHE=1 to keep nothing")
    })
}

/// Whether the stored bytes are what their key says, as far as that can be told without a key of the repository. What is
/// not must not be kept: somebody may mend it, and would then still be shown the damage.
fn is_sound(key: &Key, content: &[u8]) -> bool {
    leeward_repository::verify::verify_object(key.as_str(), content).is_ok()
}
