//! A file system in memory that loses power, fills up and fails on demand.
//!
//! It promises no more than [`FileSystem`] asks for, and breaks everything else whenever it can:
//! - a new file's content is durable once [`FileSystem::create_synced`] has returned; a crash before leaves any part of
//!   it, in pages that are new, zero or garbage;
//! - a name is durable once its directory was synced; a crash before keeps an arbitrary subset of the creations,
//!   renames and removals since then, so that a renamed file may have both of its names, or none;
//! - locks go with their process.
//!
//! [`SimulatedFileSystem::clone`] is the same process, [`SimulatedFileSystem::spawn`] another one on the same machine.
//! [`SimulatedFileSystem::crash`] cuts the power: every process fails from then on, and the file system that it returns
//! is what is found after the reboot.
//!
//! Changes, writes and reads are counted, so that a test can go over every one of them: count a run without
//! [`Faults`], then repeat it with a fault at each number.

pub mod bucket;
pub mod conformance;
mod random;
mod state;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::{FileEntry, FileLock, FileSystem, OpenedFile};

pub use random::Random;
use state::{NameOperation, State};

/// Bytes that one step of writing a file takes.
const WRITE_BYTES: usize = 128 << 10;

/// What goes wrong, and when. Numbers count from 0, from the moment at which the faults were set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// The power fails before this change: it and all later operations of all processes fail.
    pub power_fails_at_change: Option<u64>,
    /// This change is not made and reports an error.
    pub change_fails_at: Option<u64>,
    /// This change is made and reports an error all the same.
    pub change_lies_at: Option<u64>,
    /// This read (of a file, a directory or a name) reports an error.
    pub read_fails_at: Option<u64>,
    /// From this write on the medium is full; half of the write gets through.
    pub full_at_write: Option<u64>,
    /// The medium is full when its files have so many bytes.
    pub bytes_max: Option<u64>,
}

/// How much was done since the faults were last set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Changes: creations, writes, syncs, renames, removals.
    pub changes: u64,
    /// Those of them that take space.
    pub writes: u64,
    /// Openings, listings and reads.
    pub reads: u64,
}

/// An operation that is about to be done.
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    /// Number of the process.
    pub process: u64,
    /// `create`, `write`, `sync`, `rename`, `remove`, `sync names`, `create directory`, `open`, `read`, `list`, `lock`.
    pub name: &'static str,
    /// Whether it alters anything.
    pub is_change: bool,
    /// The file or directory; of a rename the new name.
    pub path: &'a Path,
}

/// Called before every operation, in the thread that does it, while nothing is locked: it may block to let others go
/// first, or do operations of another process itself.
pub type Hook = Arc<dyn Fn(Operation<'_>) + Send + Sync>;

struct Shared {
    state: Mutex<State>,
    released: Condvar,
    hook: Mutex<Option<Hook>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hook(&self) -> Option<Hook> {
        self.hook.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One process's view of a simulated file system.
#[derive(Clone)]
pub struct SimulatedFileSystem {
    shared: Arc<Shared>,
    process: u64,
}

impl Default for SimulatedFileSystem {
    fn default() -> Self {
        Self::new()
    }
}

fn dead() -> io::Error {
    io::Error::other("the simulated process is dead")
}

impl SimulatedFileSystem {
    /// An empty file system with a durable root directory `/`.
    #[must_use]
    pub fn new() -> Self {
        Self::boot(State::new())
    }

    fn boot(state: State) -> Self {
        let shared = Shared { state: Mutex::new(state), released: Condvar::new(), hook: Mutex::new(None) };
        Self { shared: Arc::new(shared), process: 0 }
    }

    /// The number of this process; 0 after each boot.
    #[must_use]
    pub fn process(&self) -> u64 {
        self.process
    }

    /// Another process on the same machine.
    #[must_use]
    pub fn spawn(&self) -> Self {
        let mut state = self.shared.state();
        state.processes += 1;
        Self { shared: Arc::clone(&self.shared), process: state.processes }
    }

    /// Ends this process at once; what it did stays as it is, its locks are released.
    pub fn kill(&self) {
        let mut state = self.shared.state();
        state.dead.insert(self.process);
        state.locks.retain(|_, (process, _)| *process != self.process);
        drop(state);
        self.shared.released.notify_all();
    }

    /// Whether a process of that number has not been killed, nor the power cut.
    #[must_use]
    pub fn is_alive(&self, process: u64) -> bool {
        let state = self.shared.state();
        state.has_power && !state.dead.contains(&process)
    }

    /// Replaces the faults and begins to count anew.
    pub fn set_faults(&self, faults: Faults) {
        let mut state = self.shared.state();
        state.faults = faults;
        state.counts = Counts::default();
        state.is_full = false;
    }

    /// What was done since the faults were set.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.state().counts
    }

    /// Whether the power has failed.
    #[must_use]
    pub fn has_power(&self) -> bool {
        self.shared.state().has_power
    }

    /// Sets what is called before every operation.
    pub fn set_hook(&self, hook: Option<Hook>) {
        *self.shared.hook.lock().unwrap_or_else(PoisonError::into_inner) = hook;
    }

    /// Cuts the power, and returns what is there after the reboot. The same seed on the same state loses the same.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let mut state = self.shared.state();
        state.has_power = false;
        let survived = state.survivors(&mut Random::new(seed));
        drop(state);
        self.shared.released.notify_all();
        Self::boot(survived)
    }

    /// What would be found after a loss of power at this moment. Nothing happens to this machine.
    #[must_use]
    pub fn after_power_loss(&self, seed: u64) -> Self {
        Self::boot(self.shared.state().survivors(&mut Random::new(seed)))
    }

    /// Whether any process holds a lock.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        !self.shared.state().locks.is_empty()
    }

    /// Makes every file look older.
    pub fn let_time_pass(&self, time: Duration) {
        let mut state = self.shared.state();
        for file in state.files.values_mut() {
            file.modified -= time;
        }
    }

    /// Changes the content of a file behind everybody's back.
    ///
    /// # Errors
    /// There is no such file.
    pub fn corrupt(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut state = self.shared.state();
        let number = state.find(path)?;
        if let Some(file) = state.files.get_mut(&number) {
            change(Arc::make_mut(&mut file.content));
        }
        Ok(())
    }

    /// Makes a part of a file unreadable, as a bad sector does: every read that touches it fails. What is written in the
    /// file's place is written elsewhere, and can be read.
    ///
    /// # Errors
    /// There is no such file.
    pub fn spoil(&self, path: &Path, part: Range<u64>) -> io::Result<()> {
        let mut state = self.shared.state();
        let number = state.find(path)?;
        if let Some(file) = state.files.get_mut(&number) {
            file.spoilt = Some(part);
        }
        Ok(())
    }

    /// Bytes of all files that have a name.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.shared.state().used_bytes()
    }

    /// The paths of all files, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.shared.state().paths()
    }

    /// A copy of the whole file system as it is now, all of it durable, on a machine of its own.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self::boot(self.shared.state().settled())
    }

    fn announce(&self, name: &'static str, is_change: bool, path: &Path) {
        if let Some(hook) = self.shared.hook() {
            hook(Operation { process: self.process, name, is_change, path });
        }
    }

    /// Does a change that the fault plan lets through.
    fn change(
        &self,
        name: &'static str,
        path: &Path,
        act: impl FnOnce(&mut State) -> io::Result<()>,
    ) -> io::Result<()> {
        self.announce(name, true, path);
        let mut state = self.shared.state();
        if state.dead.contains(&self.process) || !state.has_power {
            return Err(dead());
        }
        let number = state.counts.changes;
        if state.faults.power_fails_at_change == Some(number) {
            state.has_power = false;
            drop(state);
            self.shared.released.notify_all();
            return Err(dead());
        }
        state.counts.changes += 1;
        if state.faults.change_fails_at == Some(number) {
            return Err(io::Error::other(format!("simulated failure of {name}")));
        }
        act(&mut state)?;
        if state.faults.change_lies_at == Some(number) {
            return Err(io::Error::other(format!("simulated failure after {name}")));
        }
        Ok(())
    }

    fn read<T>(
        &self,
        name: &'static str,
        path: &Path,
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.announce(name, false, path);
        let mut state = self.shared.state();
        if state.dead.contains(&self.process) || !state.has_power {
            return Err(dead());
        }
        let number = state.counts.reads;
        state.counts.reads += 1;
        if state.faults.read_fails_at == Some(number) {
            return Err(io::Error::other(format!("simulated failure of {name}")));
        }
        act(&mut state)
    }
}

/// A file as it was opened: it stays readable after its name is gone.
struct SimulatedFile {
    file_system: SimulatedFileSystem,
    path: PathBuf,
    content: Arc<Vec<u8>>,
    spoilt: Option<Range<u64>>,
}

impl OpenedFile for SimulatedFile {
    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file_system.read("read", &self.path, |_| {
            let end = offset.saturating_add(buffer.len() as u64);
            if self.spoilt.as_ref().is_some_and(|bad| offset < bad.end && bad.start < end) {
                return Err(rustix::io::Errno::IO.into());
            }
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let found = self.content.get(start..).and_then(|rest| rest.get(..buffer.len()));
            buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }
}

struct SimulatedLock {
    shared: Arc<Shared>,
    path: PathBuf,
    token: u64,
}

impl FileLock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.locks.get(&self.path).is_some_and(|(_, token)| *token == self.token) {
            state.locks.remove(&self.path);
        }
        drop(state);
        self.shared.released.notify_all();
    }
}

impl FileSystem for SimulatedFileSystem {
    fn create_synced(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let mut number = 0;
        self.change("create", path, |state| {
            state.take_space(0).1?;
            number = state.create(path)?;
            Ok(())
        })?;
        for piece in parts.iter().flat_map(|part| part.chunks(WRITE_BYTES)) {
            self.change("write", path, |state| {
                let (fits, result) = state.take_space(piece.len());
                state.append(number, &piece[..fits]);
                result
            })?;
        }
        self.change("sync", path, |state| {
            state.sync(number);
            Ok(())
        })
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change("rename", to, |state| match state.find(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => state.rename(from, to),
        })
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change("rename", to, |state| state.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change("remove", path, |state| {
            state.find(path)?;
            state.name(path, NameOperation::Remove)
        })
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.change("sync names", path, |state| state.sync_names(path))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.change("create directory", path, |state| state.create_directory(path))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        self.sync_directory(parent)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn OpenedFile>> {
        let (content, spoilt) = self.read("open", path, |state| {
            let number = state.find(path)?;
            let file = state.files.get(&number).ok_or(io::ErrorKind::NotFound)?;
            Ok((Arc::clone(&file.content), file.spoilt.clone()))
        })?;
        Ok(Arc::new(SimulatedFile { file_system: self.clone(), path: path.to_owned(), content, spoilt }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<FileEntry>> {
        self.read("list", path, |state| {
            let names = state.names(path)?;
            let entry = |(name, number): (String, u64)| {
                let file = state.files.get(&number)?;
                let modified: Option<SystemTime> = Some(file.modified);
                Some(FileEntry { name, size: file.content.len() as u64, modified })
            };
            Ok(names.into_iter().filter_map(entry).collect())
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        loop {
            self.announce("lock", false, path);
            let hooked = self.shared.hook().is_some();
            let mut state = self.shared.state();
            loop {
                if state.dead.contains(&self.process) || !state.has_power {
                    return Err(dead());
                }
                if !state.locks.contains_key(path) {
                    state.lock_tokens += 1;
                    let token = state.lock_tokens;
                    state.locks.insert(path.to_owned(), (self.process, token));
                    let shared = Arc::clone(&self.shared);
                    return Ok(Box::new(SimulatedLock { shared, path: path.to_owned(), token }));
                }
                // A hook decides who goes next, so it must be asked again rather than waited behind.
                if hooked {
                    break;
                }
                state = self.shared.released.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> PathBuf {
        PathBuf::from(text)
    }

    fn prepared() -> SimulatedFileSystem {
        let files = SimulatedFileSystem::new();
        files.create_directory(&path("/a")).unwrap();
        files.create_directory(&path("/b")).unwrap();
        files
    }

    fn content(files: &SimulatedFileSystem, at: &str) -> Option<Vec<u8>> {
        let file = files.open(&path(at)).ok()?;
        let mut bytes = vec![0; file.size() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        Some(bytes)
    }

    #[test]
    fn what_was_synced_survives_every_crash() {
        for seed in 0..200 {
            let files = prepared();
            files.create_synced(&path("/a/x"), &[b"one", b"two"]).unwrap();
            files.rename_new(&path("/a/x"), &path("/b/x")).unwrap();
            files.sync_directory(&path("/b")).unwrap();
            let after = files.crash(seed);
            assert_eq!(content(&after, "/b/x").unwrap(), b"onetwo");
            assert!(files.open(&path("/b/x")).is_err(), "the old machine is off");
        }
    }

    #[test]
    fn what_was_not_synced_is_lost_kept_or_torn() {
        let (mut kept, mut lost, mut torn, mut twice) = (0, 0, 0, 0);
        for seed in 0..400 {
            let files = prepared();
            let data = vec![7; 20_000];
            // The sync is change number 3 of this file: create, write, sync.
            let before = files.counts().changes;
            let faults = Faults { power_fails_at_change: Some(2), ..Faults::default() };
            if seed % 2 == 0 {
                files.set_faults(faults);
                assert!(files.create_synced(&path("/a/x"), &[&data]).is_err());
                assert!(before > 0 && !files.has_power());
            } else {
                files.create_synced(&path("/a/x"), &[&data]).unwrap();
                files.rename_new(&path("/a/x"), &path("/b/x")).unwrap();
            }
            let after = files.crash(seed);
            match (content(&after, "/a/x"), content(&after, "/b/x")) {
                (None, None) => lost += 1,
                (Some(_), Some(_)) => twice += 1,
                (Some(found), None) | (None, Some(found)) if found == data => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(kept > 10 && lost > 10 && torn > 10 && twice > 2, "{kept} {lost} {torn} {twice}");
    }

    #[test]
    fn the_same_seed_loses_the_same() {
        let files = prepared();
        for number in 0..20 {
            files.create_synced(&path(&format!("/a/{number}")), &[&[number; 9000]]).unwrap();
        }
        let seen = |seed| files.copy_unsettled().crash(seed).paths();
        assert_eq!(seen(1), seen(1));
        assert!((2..20).any(|seed| seen(seed) != seen(1)));
    }

    #[test]
    fn a_full_medium_leaves_a_part() {
        let files = prepared();
        files.set_faults(Faults { bytes_max: Some(1000), ..Faults::default() });
        let error = files.create_synced(&path("/a/x"), &[&[1; 4000]]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(content(&files, "/a/x").unwrap().len(), 1000);
        files.remove(&path("/a/x")).unwrap();
        files.create_synced(&path("/a/x"), &[&[1; 900]]).unwrap();
    }

    #[test]
    fn locks_go_with_their_process() {
        let files = prepared();
        let other = files.spawn();
        let held = other.lock(&path("/lock")).unwrap();
        other.kill();
        let _own = files.lock(&path("/lock")).unwrap();
        drop(held);
        assert!(other.open(&path("/a/x")).is_err());
        assert!(files.is_alive(files.process()) && !files.is_alive(other.process()));
    }

    impl SimulatedFileSystem {
        fn copy_unsettled(&self) -> Self {
            Self::boot(self.shared.state().clone())
        }
    }
}
