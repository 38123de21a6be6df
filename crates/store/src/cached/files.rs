//! The files of the cache.
//!
//! `DIRECTORY/STORE/OBJECT`, where both names are digests of what they stand for. A file is written under a name of its own
//! and renamed, so every process sees it whole; nothing is synced, because a file that a power loss has torn is found when
//! it is opened. When a file was last used is its time of change.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use super::envelope;
use crate::Key;

/// What a file takes beside its bytes, roughly; so that many small ones count for what they are.
const FILE_BYTES: u64 = 4096;
/// Files that are being written begin so.
const NEW: &str = "new-";

/// The files of one store, in a directory that many share.
pub(super) struct Files {
    directory: PathBuf,
    place: PathBuf,
    bytes_max: u64,
    /// Bytes written since the directory was measured.
    unmeasured: AtomicU64,
    is_usable: AtomicBool,
}

impl Files {
    /// The files of the store of this name. Where the directory cannot be made or belongs to others, nothing is kept.
    pub(super) fn new(directory: &Path, store: &str, bytes_max: u64) -> Self {
        let place = directory.join(digest("leeward 2026-11 cached store", store));
        let is_usable = bytes_max > 0 && make_private(&place).unwrap_or(false);
        Self {
            directory: directory.to_owned(),
            place,
            bytes_max,
            // The first file that is written has the directory measured.
            unmeasured: AtomicU64::new(bytes_max),
            is_usable: AtomicBool::new(is_usable),
        }
    }

    /// Whether anything can be kept.
    pub(super) fn is_usable(&self) -> bool {
        self.is_usable.load(Ordering::Relaxed)
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.place.join(digest("leeward 2026-11 cached object name", key.as_str()))
    }

    /// Whether there is a file for an object, sound or not.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.path(key).is_file()
    }

    /// The file of an object of so many bytes, checked. One that is not what it should be is removed.
    pub(super) fn find(&self, key: &Key, size: u64) -> Option<File> {
        let file = File::open(self.path(key)).ok()?;
        if envelope::holds(&file, key, size).unwrap_or(false) {
            // It counts as used; where that cannot be written down, it goes earlier.
            let _ = file.set_modified(SystemTime::now());
            return Some(file);
        }
        self.forget(key);
        None
    }

    /// Keeps an object. When that fails, this process tries no more.
    pub(super) fn keep(&self, key: &Key, parts: &[&[u8]]) {
        if !self.is_usable() {
            return;
        }
        match self.write(key, parts) {
            Ok(bytes) => self.measure_after(bytes),
            Err(_) => self.is_usable.store(false, Ordering::Relaxed),
        }
    }

    fn write(&self, key: &Key, parts: &[&[u8]]) -> io::Result<u64> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let path = self.place.join(format!("{NEW}{:032x}", u128::from_le_bytes(random)));
        let written = write_file(&path, key, parts).and_then(|()| fs::rename(&path, self.path(key)));
        if written.is_err() {
            let _ = fs::remove_file(&path);
        }
        written.map(|()| parts.iter().map(|part| part.len() as u64).sum::<u64>() + FILE_BYTES)
    }

    /// Removes the file of an object.
    pub(super) fn forget(&self, key: &Key) {
        let _ = fs::remove_file(self.path(key));
    }

    /// Makes room now and then: measuring takes a look at every file.
    fn measure_after(&self, bytes: u64) {
        let unmeasured = self.unmeasured.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if unmeasured > self.bytes_max / 16 {
            self.unmeasured.store(0, Ordering::Relaxed);
            make_room(&self.directory, self.bytes_max);
        }
    }
}

fn digest(context: &str, text: &str) -> String {
    blake3::Hash::from_bytes(blake3::derive_key(context, text.as_bytes())).to_hex().to_string()
}

/// Makes a directory for this user alone; `false` when it is there and is not that.
fn make_private(place: &Path) -> io::Result<bool> {
    DirBuilder::new().recursive(true).mode(0o700).create(place)?;
    let found = fs::symlink_metadata(place)?;
    Ok(found.is_dir() && found.mode() & 0o077 == 0 && found.uid() == rustix::process::geteuid().as_raw())
}

fn write_file(path: &Path, key: &Key, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&envelope::header(key, parts))?;
    for part in parts {
        file.write_all(part)?;
    }
    file.set_modified(SystemTime::now())
}

/// Removes what was not used for longest until an eighth of the limit is free, if the limit is passed. Only files with
/// names of a cache are looked at: the directory may be one that holds other things as well.
fn make_room(directory: &Path, bytes_max: u64) {
    let mut files: Vec<(SystemTime, u64, PathBuf)> =
        entries(directory).filter(|path| is_digest(path)).flat_map(|place| kept_files(&place)).collect();
    let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    if total <= bytes_max {
        return;
    }
    files.sort_unstable();
    for (_, bytes, path) in files {
        if total <= bytes_max - bytes_max / 8 {
            return;
        }
        if fs::remove_file(path).is_ok() {
            total -= bytes;
        }
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn kept_files(place: &Path) -> Vec<(SystemTime, u64, PathBuf)> {
    let is_ours = |path: &PathBuf| is_digest(path) || name(path).starts_with(NEW);
    let measured = |path: PathBuf| {
        let found = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?;
        Some((found.modified().ok()?, found.len() + FILE_BYTES, path))
    };
    entries(place).filter(is_ours).filter_map(measured).collect()
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn is_digest(path: &Path) -> bool {
    let name = name(path);
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
