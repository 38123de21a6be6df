//! The store in a local directory.
//!
//! A new object is written under a temporary name, synced, renamed to its key without replacing anything, and its
//! directory is synced: it is whole or absent at every moment, and durable when the call returns. An object is
//! replaced under a lock that covers the comparison and the rename, and that the system drops with the process.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::file_system::join;
use crate::{
    Entry, Error, ErrorKind, FileSystem, HostFileSystem, Key, Object, OpenedFile, Result, Store, Version,
};

/// Directory of files that are being written.
const TEMPORARY: &str = "tmp";
/// The file whose lock covers replacements.
const LOCK: &str = "lock";
/// A temporary file that nobody has touched for so long is a leftover. Should its writer live after all, its rename
/// fails with an error; nothing is lost.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Objects as files in a directory.
pub struct DirectoryStore {
    root: PathBuf,
    name: String,
    file_system: Arc<dyn FileSystem>,
}

impl DirectoryStore {
    /// The store in an existing directory of this machine.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_on(Arc::new(HostFileSystem), root)
    }

    /// The store in an existing directory of `file_system`.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn open_on(file_system: Arc<dyn FileSystem>, root: &Path) -> Result<Self> {
        let store = Self { root: root.to_owned(), name: root.display().to_string(), file_system };
        store.file_system.list(root).map_err(|source| store.error("open", "the directory", source))?;
        Ok(store)
    }

    /// Makes a store with these prefixes in a directory, which is created where it is missing (its parent is not).
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn create(root: &Path, prefixes: &[&str]) -> Result<Self> {
        Self::create_on(Arc::new(HostFileSystem), root, prefixes)
    }

    /// As [`DirectoryStore::create`], on `file_system`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn create_on(file_system: Arc<dyn FileSystem>, root: &Path, prefixes: &[&str]) -> Result<Self> {
        let store = Self { root: root.to_owned(), name: root.display().to_string(), file_system };
        let make = |path: &Path| {
            store.file_system.create_directory(path).map_err(|source| match source.kind() {
                // There is nothing yet that could be looked for in vain.
                io::ErrorKind::NotFound => Error::Io {
                    store: store.name.clone(),
                    action: "create",
                    key: "the directory".to_owned(),
                    source: io::Error::other("the directory above it is missing: create that one first"),
                },
                _ => store.error("create", "the directory", source),
            })
        };
        make(root)?;
        make(&root.join(TEMPORARY))?;
        for prefix in prefixes {
            make(&root.join(prefix))?;
        }
        Ok(store)
    }

    fn path(&self, key: &Key) -> PathBuf {
        join(&self.root, key.as_str())
    }

    fn error(&self, action: &'static str, key: &str, source: io::Error) -> Error {
        let (store, key) = (self.name.clone(), key.to_owned());
        match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound { store, key },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::NoSpace { store, action, key, source }
            }
            _ => Error::Io { store, action, key, source },
        }
    }

    /// Writes a temporary file and returns its path.
    fn write_temporary(&self, key: &Key, parts: &[&[u8]]) -> Result<PathBuf> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|error| self.error("name", key.as_str(), io::Error::other(error)))?;
        let path = self.root.join(TEMPORARY).join(format!("{:032x}", u128::from_le_bytes(random)));
        match self.file_system.create_synced(&path, parts) {
            Ok(()) => Ok(path),
            Err(source) => {
                self.discard(&path);
                let error = self.error("write", key.as_str(), source);
                Err(match error {
                    // A missing directory for temporary files must not read as a missing object.
                    Error::NotFound { store, key } => Error::Io {
                        store,
                        action: "write",
                        key,
                        source: io::Error::other("the directory tmp is missing: is this a repository?"),
                    },
                    other => other,
                })
            }
        }
    }

    /// Removes a temporary file. A failure is no harm: the file is a leftover then.
    fn discard(&self, path: &Path) {
        let _ = self.file_system.remove(path);
    }

    fn sync_parent(&self, key: &Key) -> Result<()> {
        let path = self.path(key);
        let parent = path.parent().unwrap_or(&self.root);
        self.file_system.sync_directory(parent).map_err(|source| self.error("sync", key.as_str(), source))
    }

    fn read_all(&self, key: &Key, size_max: u64) -> Result<Vec<u8>> {
        let failed = |source| self.error("read", key.as_str(), source);
        let file = self.file_system.open(&self.path(key)).map_err(failed)?;
        let size = file.size();
        if size > size_max {
            return Err(Error::TooLarge { store: self.name.clone(), key: key.to_string(), size, size_max });
        }
        let mut content = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        file.read_at(&mut content, 0).map_err(failed)?;
        Ok(content)
    }
}

struct DirectoryObject {
    file: Arc<dyn OpenedFile>,
    store: String,
    key: String,
}

impl Object for DirectoryObject {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_at(buffer, offset).map_err(|source| Error::Io {
            store: self.store.clone(),
            action: "read",
            key: self.key.clone(),
            source,
        })
    }
}

impl Store for DirectoryStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn requests_at_once(&self) -> usize {
        1
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn Object>> {
        let file = self
            .file_system
            .open(&self.path(key))
            .map_err(|source| self.error("open", key.as_str(), source))?;
        Ok(Arc::new(DirectoryObject { file, store: self.name.clone(), key: key.to_string() }))
    }

    fn get(&self, key: &Key, size_max: u64) -> Result<(Vec<u8>, Version)> {
        let content = self.read_all(key, size_max)?;
        let version = Version::of(&content);
        Ok((content, version))
    }

    fn put_if_absent(&self, key: &Key, parts: &[&[u8]]) -> Result<()> {
        let temporary = self.write_temporary(key, parts)?;
        let rename = || self.file_system.rename_new(&temporary, &self.path(key));
        let renamed = rename().or_else(|error| match (error.kind(), self.path(key).parent()) {
            // A prefix that the store was not made with.
            (io::ErrorKind::NotFound, Some(parent)) => {
                self.file_system.create_directory(parent)?;
                rename()
            }
            _ => Err(error),
        });
        if let Err(source) = renamed {
            self.discard(&temporary);
            return Err(match source.kind() {
                io::ErrorKind::AlreadyExists => {
                    Error::AlreadyExists { store: self.name.clone(), key: key.to_string() }
                }
                _ => self.error("write", key.as_str(), source),
            });
        }
        self.sync_parent(key)
    }

    fn put_if_match(&self, key: &Key, content: &[u8], expected: &Version) -> Result<()> {
        let conflict = || Error::Conflict { store: self.name.clone(), key: key.to_string() };
        let _lock = self
            .file_system
            .lock(&self.root.join(LOCK))
            .map_err(|source| self.error("lock", key.as_str(), source))?;
        let present = match self.read_all(key, u64::MAX) {
            Ok(present) => present,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(conflict()),
            Err(error) => return Err(error),
        };
        if Version::of(&present) != *expected {
            return Err(conflict());
        }
        let temporary = self.write_temporary(key, &[content])?;
        if let Err(source) = self.file_system.rename_over(&temporary, &self.path(key)) {
            self.discard(&temporary);
            return Err(self.error("replace", key.as_str(), source));
        }
        self.sync_parent(key)
    }

    fn delete(&self, key: &Key) -> Result<bool> {
        // Under the lock, so that a replacement that has compared cannot bring the object back.
        let _lock = self
            .file_system
            .lock(&self.root.join(LOCK))
            .map_err(|source| self.error("lock", key.as_str(), source))?;
        match self.file_system.remove(&self.path(key)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.error("delete", key.as_str(), source)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        // Some file systems leave out a name that is renamed over while a directory is read; so no replacement happens
        // meanwhile. Whoever may only read the store cannot hold one up, and does not decide anything either.
        let _lock = match self.file_system.lock(&self.root.join(LOCK)) {
            Ok(lock) => Some(lock),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied
                        | io::ErrorKind::ReadOnlyFilesystem
                        | io::ErrorKind::NotFound
                ) =>
            {
                None
            }
            Err(source) => return Err(self.error("lock", prefix, source)),
        };
        let files = match self.file_system.list(&join(&self.root, prefix)) {
            Ok(files) => files,
            Err(source) => return Err(self.error("list", prefix, source)),
        };
        let mut entries: Vec<Entry> = files
            .into_iter()
            .filter_map(|file| Some(Entry { key: Key::under(prefix, &file.name)?, size: file.size }))
            .collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    fn settle(&self, prefix: &str) -> Result<()> {
        self.file_system
            .sync_directory(&join(&self.root, prefix))
            .map_err(|source| self.error("sync", prefix, source))
    }

    fn sweep_leftovers(&self) -> Result<u64> {
        let directory = self.root.join(TEMPORARY);
        let files =
            self.file_system.list(&directory).map_err(|source| self.error("list", TEMPORARY, source))?;
        let now = SystemTime::now();
        let mut freed = 0;
        for file in files {
            let age = file.modified.and_then(|modified| now.duration_since(modified).ok());
            if age.is_some_and(|age| age > LEFTOVER_AGE) {
                self.discard(&directory.join(&file.name));
                freed += file.size;
            }
        }
        Ok(freed)
    }
}
