//! What the tests of a repository share: disks in memory, repositories on simulated machines, and a model of what must
//! be in them.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use leeward_disk::{Extent, ExtentKind, Format, Info, Source, Target};
use leeward_repository::{
    BackupOptions, BackupOutcome, Changed, CollectOptions, Consistency, Credential, GroupOptions,
    GroupRecord, Identity, ImageName, InitOptions, KeyAccess, Member, NewKey, NoCredential, PREFIXES,
    Process, ReadData, Recipient, Repository, RestoreMode, SnapshotId, SourceRecord, Unattended, Unlock,
};
use leeward_store::DirectoryStore;
use leeward_store::simulation::{Random, SimulatedFileSystem};

/// The smallest chunks, so that small disks have many of them.
pub const CHUNK_BYTES: usize = 16 << 10;
pub const ROOT: &str = "/repository";

/// How many of the cases to try: `LEEWARD_TORTURE=full` tries all.
pub fn is_full() -> bool {
    std::env::var("LEEWARD_TORTURE").is_ok_and(|value| value == "full")
}

/// A disk in memory with extents of its own choosing.
#[derive(Clone)]
pub struct MemoryDisk {
    pub content: Vec<u8>,
    /// Stretches that are called data, in order; all that is not zero lies in them.
    data: Vec<(u64, u64)>,
    /// At most so many extents are told at once.
    at_once: usize,
}

impl MemoryDisk {
    /// A disk that calls everything data.
    pub fn plain(content: Vec<u8>) -> Self {
        let data = if content.is_empty() { vec![] } else { vec![(0, content.len() as u64)] };
        Self { content, data, at_once: usize::MAX }
    }

    /// A disk that calls some of its zeros holes, with edges anywhere.
    pub fn with_holes(content: Vec<u8>, random: &mut Random) -> Self {
        let mut data = Vec::new();
        let mut position = 0;
        let length = content.len();
        while position < length {
            let step = 1 + random.below(3 * CHUNK_BYTES as u64) as usize;
            let end = (position + step).min(length);
            let is_hole = content[position..end].iter().all(|byte| *byte == 0) && random.chance(80);
            if !is_hole {
                data.push((position as u64, end as u64));
            }
            position = end;
        }
        Self { content, data, at_once: 1 + random.below(9) as usize }
    }
}

impl Source for MemoryDisk {
    fn virtual_size(&self) -> u64 {
        self.content.len() as u64
    }

    fn info(&self) -> Info {
        Info {
            format: Format::Raw,
            virtual_size: self.virtual_size(),
            allocated_bytes: None,
            details: Vec::new(),
        }
    }

    fn extents(&self, offset: u64, length: u64) -> leeward_disk::Result<Vec<Extent>> {
        let end = offset + length;
        assert!(end <= self.virtual_size(), "extents beyond the end were asked for");
        let mut found = Vec::new();
        let mut position = offset;
        let first = self.data.partition_point(|(_, stop)| *stop <= offset);
        for (from, to) in &self.data[first..] {
            if position >= end || found.len() >= self.at_once {
                break;
            }
            if *from > position {
                let stop = (*from).min(end);
                let kind = if from % 2 == 0 { ExtentKind::Zero } else { ExtentKind::Unallocated };
                found.push(Extent { offset: position, length: stop - position, kind });
                position = stop;
            }
            if position < end {
                let stop = (*to).min(end);
                found.push(Extent { offset: position, length: stop - position, kind: ExtentKind::Data });
                position = stop;
            }
        }
        if position < end && found.len() < self.at_once {
            found.push(Extent { offset: position, length: end - position, kind: ExtentKind::Unallocated });
        }
        Ok(found)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> leeward_disk::Result<()> {
        let start = offset as usize;
        buffer.copy_from_slice(&self.content[start..start + buffer.len()]);
        Ok(())
    }
}

/// A target in memory.
pub struct MemoryTarget {
    pub content: Mutex<Vec<u8>>,
    is_blank: bool,
}

impl MemoryTarget {
    pub fn blank(size: usize) -> Self {
        Self { content: Mutex::new(vec![0; size]), is_blank: true }
    }

    pub fn with(content: Vec<u8>) -> Self {
        Self { content: Mutex::new(content), is_blank: false }
    }

    pub fn into_content(self) -> Vec<u8> {
        self.content.into_inner().unwrap()
    }
}

impl Target for MemoryTarget {
    fn virtual_size(&self) -> u64 {
        self.content.lock().unwrap().len() as u64
    }

    fn is_blank(&self) -> bool {
        self.is_blank
    }

    fn write_at(&self, data: &[u8], offset: u64) -> leeward_disk::Result<()> {
        let start = offset as usize;
        self.content.lock().unwrap()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn zero_at(&self, offset: u64, length: u64) -> leeward_disk::Result<()> {
        self.content.lock().unwrap()[offset as usize..(offset + length) as usize].fill(0);
        Ok(())
    }

    fn finish(&self, _durable: bool) -> leeward_disk::Result<()> {
        Ok(())
    }
}

/// Content as disks have it: zeros, text that compresses, noise, and stretches that repeat.
pub fn content(random: &mut Random, size: usize) -> Vec<u8> {
    let mut content = vec![0; size];
    let mut position = 0;
    while position < size {
        let step = (1 + random.below(12 * CHUNK_BYTES as u64) as usize).min(size - position);
        fill(random, &mut content[position..position + step]);
        position += step;
    }
    content
}

fn fill(random: &mut Random, part: &mut [u8]) {
    match random.below(8) {
        0..3 => {}
        3..5 => random.fill(part),
        5 => part.fill(random.below(256) as u8),
        6 => part.iter_mut().enumerate().for_each(|(index, byte)| *byte = (index / 97) as u8),
        _ => Random::new(random.below(3)).fill(part),
    }
}

/// The content after a guest has worked on it.
pub fn mutated(random: &mut Random, content: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    for _ in 0..1 + random.below(6) {
        if content.is_empty() {
            break;
        }
        let start = random.below(content.len() as u64) as usize;
        let length = (1 + random.below(5 * CHUNK_BYTES as u64) as usize).min(content.len() - start);
        fill(random, &mut content[start..start + length]);
    }
    content
}

/// A machine with its file system, and the run of it since the last boot.
#[derive(Clone)]
pub struct Machine {
    pub files: SimulatedFileSystem,
    pub boot: String,
}

impl Machine {
    pub fn new() -> Self {
        Self { files: SimulatedFileSystem::new(), boot: "first".to_owned() }
    }

    /// A machine with these files after a reboot.
    pub fn rebooted(files: SimulatedFileSystem) -> Self {
        Self { files, boot: "second".to_owned() }
    }

    /// Another process on this machine.
    pub fn spawn(&self) -> Self {
        Self { files: self.files.spawn(), boot: self.boot.clone() }
    }

    fn as_process(&self, repository: Repository) -> Repository {
        let process = |pid: u64| Process {
            host: "machine".to_owned(),
            boot: self.boot.clone(),
            pid: u32::try_from(pid).unwrap(),
            started: 1,
        };
        let (files, boot) = (self.files.clone(), self.boot.clone());
        repository.with_process(
            process(self.files.process()),
            Arc::new(move |other| other.boot != boot || !files.is_alive(u64::from(other.pid))),
        )
    }

    pub fn init(&self) -> leeward_repository::Result<Repository> {
        let store = DirectoryStore::create_on(Arc::new(self.files.clone()), Path::new(ROOT), &PREFIXES)?;
        let options =
            InitOptions { chunk_bytes: CHUNK_BYTES as u64, pack_bytes: 1 << 20, zstd_level: 1, keys: keys() };
        Ok(self.as_process(Repository::init(Arc::new(store), &options)?))
    }

    pub fn open(&self) -> leeward_repository::Result<Repository> {
        let store = DirectoryStore::open_on(Arc::new(self.files.clone()), Path::new(ROOT))?;
        Ok(self.as_process(Repository::open_with(Arc::new(store), credentials().as_ref())?))
    }
}

/// Whether the tests run on encrypted repositories: those of `tests/encrypted.rs` do.
pub fn is_encrypted() -> bool {
    module_path!().starts_with("encrypted")
}

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::generate().unwrap());

/// The keys of a new repository.
fn keys() -> Vec<NewKey> {
    if !is_encrypted() {
        return Vec::new();
    }
    vec![NewKey {
        name: "test".to_owned(),
        access: KeyAccess::Full,
        recipient: Recipient::PublicKey(IDENTITY.public()),
    }]
}

/// What opens it.
fn credentials() -> Box<dyn Unlock> {
    if is_encrypted() { Box::new(Credential::Identity(IDENTITY.clone())) } else { Box::new(NoCredential) }
}

pub fn image(name: &str) -> ImageName {
    name.parse().unwrap()
}

pub fn backup_options(name: &str) -> BackupOptions {
    BackupOptions {
        image: image(name),
        source: SourceRecord {
            location: "memory".to_owned(),
            format: "raw".to_owned(),
            host: "machine".to_owned(),
        },
        consistency: Consistency::AtRest,
        tags: BTreeMap::new(),
        threads: 2,
    }
}

pub fn backup(repository: &Repository, name: &str, content: &[u8]) -> leeward_repository::Result<SnapshotId> {
    let disk = MemoryDisk::with_holes(content.to_vec(), &mut Random::new(content.len() as u64));
    Ok(repository.backup(&disk, &backup_options(name), &Unattended)?.id)
}

/// A changed-block map as a hypervisor has it: in blocks, and with blocks that did not really change.
pub fn changed_ranges(before: &[u8], after: &[u8], seed: u64) -> Vec<(u64, u64)> {
    let mut random = Random::new(seed);
    let block = 1 << (12 + random.below(5));
    let mut ranges = Vec::new();
    for (number, (old, new)) in before.chunks(block).zip(after.chunks(block)).enumerate() {
        if old != new || random.chance(5) {
            ranges.push(((number * block) as u64, block as u64));
        }
    }
    ranges
}

/// One disk of a group: image, content, and what it is known to differ from.
pub type Disk<'a> = (&'a str, &'a [u8], Option<(SnapshotId, &'a [u8])>);

/// Backs several disks up as one group.
pub fn backup_group(
    repository: &Repository,
    disks: &[Disk<'_>],
) -> leeward_repository::Result<Vec<BackupOutcome>> {
    let sources: Vec<MemoryDisk> = disks
        .iter()
        .map(|(_, content, _)| {
            MemoryDisk::with_holes(content.to_vec(), &mut Random::new(content.len() as u64))
        })
        .collect();
    let members: Vec<Member<'_>> = disks
        .iter()
        .zip(&sources)
        .map(|((name, content, before), source)| Member {
            image: image(name),
            source,
            record: backup_options(name).source,
            changed: before.map(|(base, old)| {
                assert_eq!(old.len(), content.len());
                Changed { base, ranges: changed_ranges(old, content, content.len() as u64) }
            }),
            capture: None,
        })
        .collect();
    let options = GroupOptions {
        group: Some(GroupRecord { id: "0123456789abcdef".repeat(2), images: Vec::new(), machine: None }),
        consistency: Consistency::Crash,
        tags: BTreeMap::new(),
        threads: 2,
    };
    repository.backup_group(&members, &options, &Unattended)
}

/// Options with which forgotten snapshots go at once.
pub fn at_once() -> CollectOptions {
    CollectOptions { window: jiff::SignedDuration::ZERO, ..CollectOptions::default() }
}

pub fn collect(repository: &Repository) -> leeward_repository::Result<leeward_repository::CollectOutcome> {
    repository.collect(&CollectOptions { unused_max: 0.2, ..at_once() }, &Unattended)
}

pub fn restore(repository: &Repository, id: SnapshotId) -> leeward_repository::Result<Vec<u8>> {
    let snapshot = repository.snapshot(id)?;
    let target = MemoryTarget::blank(snapshot.virtual_size as usize);
    repository.restore(&snapshot, RestoreMode::Write(&target), 2, &Unattended)?;
    Ok(target.into_content())
}

/// What must be in a repository.
#[derive(Default, Clone)]
pub struct Model {
    /// Snapshots that were acknowledged and not forgotten, with their content.
    pub kept: Vec<(String, SnapshotId, Arc<Vec<u8>>)>,
    /// Content that was backed up or is being backed up: a snapshot that was not acknowledged may have it.
    pub contents: Vec<Arc<Vec<u8>>>,
    /// Snapshots that were forgotten and must never come back.
    pub gone: Vec<SnapshotId>,
}

impl Model {
    /// Compares a repository with what must be in it.
    pub fn assert_holds(&self, repository: &Repository, context: &str) {
        let fail = |what: String| -> ! { panic!("{context}: {what}") };
        for (name, id, expected) in &self.kept {
            let found =
                repository.image(&image(name)).unwrap_or_else(|error| fail(format!("{name}: {error}")));
            if found.entry(*id).is_none() {
                fail(format!("{name} lacks its acknowledged snapshot {id}"));
            }
            match restore(repository, *id) {
                Ok(content) if content == **expected => {}
                Ok(_) => fail(format!("{name}@{id} restores other bytes")),
                Err(error) => fail(format!("{name}@{id}: {error}")),
            }
        }
        for name in repository.images().unwrap() {
            for entry in repository.image(&name).unwrap_or_else(|error| fail(error.to_string())).snapshots {
                if self.gone.contains(&entry.id) {
                    fail(format!("{name}@{} was forgotten and has come back", entry.id));
                }
                if self.kept.iter().any(|(_, id, _)| *id == entry.id) {
                    continue;
                }
                match restore(repository, entry.id) {
                    Ok(content) if self.contents.iter().any(|known| **known == content) => {}
                    Ok(_) => fail(format!("{name}@{} has bytes that nobody backed up", entry.id)),
                    Err(error) => fail(format!("{name}@{}: {error}", entry.id)),
                }
            }
        }
        self.assert_clean(repository, context);
    }

    pub fn assert_clean(&self, repository: &Repository, context: &str) {
        match repository.check(ReadData::All, &Unattended) {
            Ok(outcome) => assert!(outcome.findings.is_empty(), "{context}: {:#?}", outcome.findings),
            Err(error) => panic!("{context}: check: {error}"),
        }
    }

    pub fn forget(&mut self, id: SnapshotId) {
        self.kept.retain(|(_, other, _)| *other != id);
        self.gone.push(id);
    }
}
