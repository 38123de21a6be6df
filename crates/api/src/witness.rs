//! What a client remembers of refs.
//!
//! A store that shows an old state of a ref hides the snapshots that came after, and nothing in the store can tell. So the
//! client keeps a witness of its own: for each image of each repository the highest generation that it has seen, and what
//! the ref was then. A ref that goes back, is gone, or is another at the same generation is an error, which says how to
//! accept it after a repository was brought back on purpose.
//!
//! A layer over any store. A repository that cannot be identified (there is no `config` yet) has no witness.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use leeward_repository::verify::{Inspected, inspect};
use leeward_store::bucket::RequestCounts;
use leeward_store::{Chains, Entry, Error, Key, Locks, Object, Result, SharedStore, Store, Version};
use serde::{Deserialize, Serialize};

use crate::limits::RECORD_BYTES_MAX;
use crate::token::replace_file;

/// What was seen of a ref.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    generation: u64,
    version: String,
}

/// A store whose refs are compared with what was seen before.
pub struct WitnessStore {
    store: SharedStore,
    directory: PathBuf,
    repository: OnceLock<String>,
}

impl WitnessStore {
    /// Puts a witness before a store. `directory` is where witnesses are kept; it is made when there is something to keep.
    #[must_use]
    pub fn wrap(store: SharedStore, directory: &Path) -> SharedStore {
        Arc::new(Self { store, directory: directory.to_owned(), repository: OnceLock::new() })
    }

    /// The place of witnesses of this user: `leeward/witness` in the directory of states.
    #[must_use]
    pub fn usual_directory() -> Option<PathBuf> {
        let is_absolute = |path: &PathBuf| path.is_absolute();
        let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(is_absolute);
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
        state.or_else(home).map(|state| state.join("leeward/witness"))
    }

    fn error(&self, action: &'static str, path: &Path, source: std::io::Error) -> Error {
        Error::Io {
            store: self.store.name().to_owned(),
            action,
            key: format!("the witness {}", path.display()),
            source,
        }
    }

    /// The place of a repository's witnesses; none where it cannot be told which repository it is.
    fn place(&self) -> Result<Option<PathBuf>> {
        if let Some(id) = self.repository.get() {
            return Ok(Some(self.directory.join(id)));
        }
        let Some(key) = Key::new("config") else { return Ok(None) };
        let bytes = match self.store.get(&key, RECORD_BYTES_MAX) {
            Ok((bytes, _)) => bytes,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(repository_id(&bytes).map(|id| self.directory.join(self.repository.get_or_init(|| id))))
    }

    fn file(&self, key: &Key) -> Result<Option<PathBuf>> {
        Ok(self.place()?.map(|place| place.join(key.name())))
    }

    fn seen(&self, file: &Path) -> Result<Option<Seen>> {
        match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| self.error("read", file, std::io::Error::other(error))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error("read", file, error)),
        }
    }

    /// What was seen of a ref before now. It is read before the store is asked: what another process sees meanwhile may be
    /// newer than what the store is about to show, without any fraud.
    fn before(&self, key: &Key) -> Result<Option<(PathBuf, Seen)>> {
        let Some(file) = self.file(key)? else { return Ok(None) };
        Ok(self.seen(&file)?.map(|seen| (file, seen)))
    }

    /// Remembers what is shown now, unless newer was seen.
    fn remember(&self, key: &Key, now: &Seen) -> Result<()> {
        let Some(file) = self.file(key)? else { return Ok(()) };
        let is_newer = |seen: Option<Seen>| seen.is_none_or(|seen| seen.generation < now.generation);
        if !is_newer(self.seen(&file)?) {
            return Ok(());
        }
        let failed = |error| self.error("write", &file, error);
        let place = file.parent().unwrap_or(&self.directory);
        std::fs::create_dir_all(place).map_err(failed)?;
        // Another process may have seen more in the meantime, and what it wrote stays.
        let lock = File::create(place.join(".lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        if is_newer(self.seen(&file)?) {
            replace_file(&file, &serde_json::to_vec(now).unwrap_or_default()).map_err(failed)?;
        }
        Ok(())
    }

    /// As `get` of the store, for a ref.
    fn get_ref(&self, key: &Key, size_max: u64) -> Result<(Vec<u8>, Version)> {
        let before = self.before(key)?;
        let (bytes, version) = match (self.store.get(key, size_max), before.as_ref()) {
            (Err(Error::NotFound { .. }), Some((file, before))) => {
                let what = format!(
                    "it is not there, and generation {} was seen before; no ref is ever deleted",
                    before.generation
                );
                return Err(self.contradiction(key, file, &what));
            }
            (other, _) => other?,
        };
        if let Some(now) = seen_in(key, &bytes) {
            if let Some((file, before)) = &before {
                self.compare(key, file, before, &now)?;
            }
            self.remember(key, &now)?;
        }
        Ok((bytes, version))
    }

    fn compare(&self, key: &Key, file: &Path, before: &Seen, now: &Seen) -> Result<()> {
        if now.generation < before.generation {
            return Err(self.contradiction(
                key,
                file,
                &format!(
                    "it goes back: generation {} is shown, and {} was seen before",
                    now.generation, before.generation
                ),
            ));
        }
        if now.generation == before.generation && now.version != before.version {
            return Err(self.contradiction(
                key,
                file,
                &format!("generation {} is shown with other content than before", now.generation),
            ));
        }
        Ok(())
    }

    fn contradiction(&self, key: &Key, file: &Path, what: &str) -> Error {
        Error::Contradiction {
            store: self.store.name().to_owned(),
            key: key.to_string(),
            what: format!(
                "{what}. Somebody shows an old state of the repository. If it was brought back on purpose, accept that by removing {}",
                file.display()
            ),
        }
    }

    /// The refs that were seen of this repository.
    fn witnessed(&self) -> Result<Vec<Key>> {
        let Some(place) = self.place()? else { return Ok(Vec::new()) };
        let entries = match place.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.error("read", &place, error)),
        };
        Ok(entries.flatten().filter_map(|entry| Key::under("refs", entry.file_name().to_str()?)).collect())
    }
}

fn is_ref(key: &Key) -> bool {
    key.as_str().starts_with("refs/")
}

fn repository_id(config: &[u8]) -> Option<String> {
    let text = config.get(40..)?;
    let value = serde_json::Deserializer::from_slice(text).into_iter::<serde_json::Value>().next()?.ok()?;
    let id = value.get("repository_id")?.as_str()?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

/// What a ref says; none for what is no sound ref, which its reader will tell.
fn seen_in(key: &Key, bytes: &[u8]) -> Option<Seen> {
    match inspect(key.as_str(), bytes) {
        Ok(Inspected::Ref(record)) => {
            Some(Seen { generation: record.image_ref.generation, version: Version::of(bytes).to_string() })
        }
        _ => None,
    }
}

impl Store for WitnessStore {
    fn name(&self) -> &str {
        self.store.name()
    }

    fn requests_at_once(&self) -> usize {
        self.store.requests_at_once()
    }

    fn locks(&self) -> Option<&dyn Locks> {
        self.store.locks()
    }

    fn chains(&self) -> Option<&dyn Chains> {
        self.store.chains()
    }

    fn requests(&self) -> Option<RequestCounts> {
        self.store.requests()
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn Object>> {
        self.store.open(key)
    }

    fn get(&self, key: &Key, size_max: u64) -> Result<(Vec<u8>, Version)> {
        match is_ref(key) {
            true => self.get_ref(key, size_max),
            false => self.store.get(key, size_max),
        }
    }

    fn put_if_absent(&self, key: &Key, parts: &[&[u8]]) -> Result<()> {
        self.store.put_if_absent(key, parts)?;
        match is_ref(key).then(|| seen_in(key, &parts.concat())).flatten() {
            Some(now) => self.remember(key, &now),
            None => Ok(()),
        }
    }

    fn put_if_match(&self, key: &Key, content: &[u8], expected: &Version) -> Result<()> {
        self.store.put_if_match(key, content, expected)?;
        match is_ref(key).then(|| seen_in(key, content)).flatten() {
            Some(now) => self.remember(key, &now),
            None => Ok(()),
        }
    }

    fn delete(&self, key: &Key) -> Result<bool> {
        self.store.delete(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let witnessed = if prefix == "refs" { self.witnessed()? } else { Vec::new() };
        let entries = self.store.list(prefix)?;
        for key in witnessed {
            if entries.binary_search_by(|entry| entry.key.cmp(&key)).is_ok() {
                continue;
            }
            // Not listed: it lies outside what may be seen, or it is hidden, or gone.
            match self.get(&key, RECORD_BYTES_MAX) {
                Err(Error::Denied { .. }) => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    let what = "it is there, and the listing leaves it out".to_owned();
                    let (store, key) = (self.store.name().to_owned(), key.to_string());
                    return Err(Error::Contradiction { store, key, what });
                }
            }
        }
        Ok(entries)
    }

    fn settle(&self, prefix: &str) -> Result<()> {
        self.store.settle(prefix)
    }

    fn sweep_leftovers(&self) -> Result<u64> {
        self.store.sweep_leftovers()
    }
}
