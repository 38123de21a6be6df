//! The local cache of what never changes in remote repositories: where it is, and how large it may become.
//!
//! `LEEWARD_CACHE_DIR` names the directory (else `leeward` in `XDG_CACHE_HOME` or `~/.cache`), `LEEWARD_CACHE_SIZE` its
//! size, and `LEEWARD_NO_CACHE=1` does without.

use std::path::PathBuf;

use leeward_store::{CACHE_BYTES_MAX, CacheOptions, CachedStore, Key, SharedStore};

use crate::failure::{Code, Failure};
use crate::size;

/// Puts the cache before a remote store, unless there is no place for one or none is wanted.
pub fn before(store: SharedStore) -> Result<SharedStore, Failure> {
    let bytes_max = bytes_max()?;
    Ok(match directory() {
        Some(directory) => CachedStore::wrap(store, &CacheOptions { directory, bytes_max, is_sound }),
        None => store,
    })
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
