//! What a simulated file system holds, and what of it a loss of power leaves.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Counts, Faults, Random};

const PAGE_BYTES: usize = 4096;

#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) content: Arc<Vec<u8>>,
    is_synced: bool,
    pub(super) modified: SystemTime,
    /// What of it cannot be read.
    pub(super) spoilt: Option<Range<u64>>,
}

/// A change of a directory.
#[derive(Debug, Clone, Copy)]
pub(super) enum NameOperation {
    Put(u64),
    Remove,
}

#[derive(Debug, Clone, Default)]
struct Directory {
    /// Whether a crash keeps the directory itself for certain.
    is_durable: bool,
    names: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    /// What happened since the names were last synced.
    pending: Vec<(String, NameOperation)>,
}

fn apply(names: &mut BTreeMap<String, u64>, name: &str, operation: NameOperation) {
    match operation {
        NameOperation::Put(number) => names.insert(name.to_owned(), number),
        NameOperation::Remove => names.remove(name),
    };
}

#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) files: HashMap<u64, File>,
    directories: BTreeMap<PathBuf, Directory>,
    pub(super) locks: HashMap<PathBuf, (u64, u64)>,
    pub(super) lock_tokens: u64,
    pub(super) processes: u64,
    pub(super) dead: HashSet<u64>,
    pub(super) has_power: bool,
    pub(super) faults: Faults,
    pub(super) counts: Counts,
    /// Once full, full until the faults are set anew.
    pub(super) is_full: bool,
    next_file: u64,
}

fn split(path: &Path) -> io::Result<(&Path, String)> {
    match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
        (Some(parent), Some(name)) => Ok((parent, name.to_owned())),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

impl State {
    pub(super) fn new() -> Self {
        let root = Directory { is_durable: true, ..Directory::default() };
        Self {
            files: HashMap::new(),
            directories: BTreeMap::from([(PathBuf::from("/"), root)]),
            locks: HashMap::new(),
            lock_tokens: 0,
            processes: 0,
            dead: HashSet::new(),
            has_power: true,
            faults: Faults::default(),
            counts: Counts::default(),
            is_full: false,
            next_file: 0,
        }
    }

    fn directory(&mut self, path: &Path) -> io::Result<&mut Directory> {
        self.directories.get_mut(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The number of the file at a path.
    pub(super) fn find(&mut self, path: &Path) -> io::Result<u64> {
        let (parent, name) = split(path)?;
        self.directory(parent)?.names.get(&name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn names(&mut self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        Ok(self.directory(path)?.names.iter().map(|(name, number)| (name.clone(), *number)).collect())
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let all = self.directories.iter();
        all.flat_map(|(path, directory)| directory.names.keys().map(|name| path.join(name))).collect()
    }

    pub(super) fn name(&mut self, path: &Path, operation: NameOperation) -> io::Result<()> {
        let (parent, name) = split(path)?;
        let directory = self.directory(parent)?;
        apply(&mut directory.names, &name, operation);
        directory.pending.push((name, operation));
        Ok(())
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<u64> {
        if self.find(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = self.next_file;
        self.next_file += 1;
        self.name(path, NameOperation::Put(number))?;
        let file =
            File { content: Arc::default(), is_synced: false, modified: SystemTime::now(), spoilt: None };
        self.files.insert(number, file);
        Ok(number)
    }

    pub(super) fn append(&mut self, number: u64, bytes: &[u8]) {
        if let Some(file) = self.files.get_mut(&number) {
            Arc::make_mut(&mut file.content).extend_from_slice(bytes);
        }
    }

    pub(super) fn sync(&mut self, number: u64) {
        if let Some(file) = self.files.get_mut(&number) {
            file.is_synced = true;
        }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let number = self.find(from)?;
        self.name(to, NameOperation::Put(number))?;
        self.name(from, NameOperation::Remove)
    }

    pub(super) fn sync_names(&mut self, path: &Path) -> io::Result<()> {
        let directory = self.directory(path)?;
        directory.pending.clear();
        directory.durable = directory.names.clone();
        for (child, directory) in &mut self.directories {
            directory.is_durable |= child.parent() == Some(path);
        }
        Ok(())
    }

    pub(super) fn create_directory(&mut self, path: &Path) -> io::Result<()> {
        self.directory(split(path)?.0)?;
        self.directories.entry(path.to_owned()).or_default();
        Ok(())
    }

    /// How many of so many bytes fit, and the error where not all do.
    pub(super) fn take_space(&mut self, bytes: usize) -> (usize, io::Result<()>) {
        let number = self.counts.writes;
        self.counts.writes += 1;
        let full = || Err(io::ErrorKind::StorageFull.into());
        if self.faults.full_at_write.is_some_and(|limit| number >= limit) {
            let first = !std::mem::replace(&mut self.is_full, true);
            return (if first { bytes / 2 } else { 0 }, full());
        }
        let Some(bytes_max) = self.faults.bytes_max else { return (bytes, Ok(())) };
        let left = usize::try_from(bytes_max.saturating_sub(self.used_bytes())).unwrap_or(usize::MAX);
        if bytes <= left && left > 0 { (bytes, Ok(())) } else { (left.min(bytes), full()) }
    }

    /// Bytes of all files that have a name.
    pub(super) fn used_bytes(&self) -> u64 {
        let named: HashSet<u64> =
            self.directories.values().flat_map(|directory| directory.names.values().copied()).collect();
        named.iter().filter_map(|number| self.files.get(number)).map(|file| file.content.len() as u64).sum()
    }

    /// The state on a machine of its own, all of it durable.
    pub(super) fn settled(&self) -> Self {
        let mut settled = self.clone();
        settled.locks.clear();
        settled.dead.clear();
        (settled.processes, settled.lock_tokens) = (0, 0);
        (settled.faults, settled.counts) = (Faults::default(), Counts::default());
        (settled.has_power, settled.is_full) = (true, false);
        for directory in settled.directories.values_mut() {
            directory.is_durable = true;
            directory.durable = directory.names.clone();
            directory.pending.clear();
        }
        for file in settled.files.values_mut() {
            file.is_synced = true;
        }
        settled
    }

    /// What a loss of power leaves.
    pub(super) fn survivors(&self, random: &mut Random) -> Self {
        let mut after = Self::new();
        after.next_file = self.next_file;
        let mut lost: HashSet<&Path> = HashSet::new();
        let mut used = HashSet::new();
        for (path, directory) in &self.directories {
            let orphaned = path.parent().is_some_and(|parent| lost.contains(parent));
            if orphaned || !(directory.is_durable || random.chance(50)) {
                lost.insert(path);
                continue;
            }
            // Each directory has a temper of its own: keeps nothing, all, or each with some likelihood.
            let likelihood = [0, 20, 50, 80, 100][random.below(5) as usize];
            let mut names = directory.durable.clone();
            for (name, operation) in &directory.pending {
                if random.chance(likelihood) {
                    apply(&mut names, name, *operation);
                }
            }
            used.extend(names.values().copied());
            let kept =
                Directory { is_durable: true, names: names.clone(), durable: names, pending: Vec::new() };
            after.directories.insert(path.clone(), kept);
        }
        let mut used: Vec<u64> = used.into_iter().collect();
        used.sort_unstable();
        for number in used {
            if let Some(file) = self.files.get(&number) {
                let content =
                    if file.is_synced { Arc::clone(&file.content) } else { torn(&file.content, random) };
                let modified = file.modified - Duration::from_secs(random.below(3));
                let spoilt = file.spoilt.clone();
                after.files.insert(number, File { content, is_synced: true, modified, spoilt });
            }
        }
        after
    }
}

/// Content that was not synced: of any length, each page new, zero or garbage.
fn torn(content: &[u8], random: &mut Random) -> Arc<Vec<u8>> {
    let length = match random.below(3) {
        0 => 0,
        1 => content.len(),
        _ => random.below(content.len() as u64 + 1) as usize,
    };
    let mut torn = content[..length].to_vec();
    for page in torn.chunks_mut(PAGE_BYTES) {
        match random.below(4) {
            0 => page.fill(0),
            1 => random.fill(page),
            _ => {}
        }
    }
    Arc::new(torn)
}
