//! The local cache shows what the store has, costs what it should, and is never in the way.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use leeward_store::bucket::{BucketStore, Comparison};
use leeward_store::simulation::bucket::{Habits, MemoryBucket, Request};
use leeward_store::simulation::conformance::{self, Deletion, run, run_with};
use leeward_store::{
    CACHE_BYTES_MAX, CacheOptions, CachedStore, DirectoryStore, Entry, ErrorKind, Key, Object, Result,
    SharedStore, Store, Version,
};

fn options(directory: &Path) -> CacheOptions {
    CacheOptions {
        directory: directory.to_owned(),
        bytes_max: CACHE_BYTES_MAX,
        keeps_writes: true,
        is_sound: |_, _| true,
    }
}

/// The suite's prefixes as those that the cache covers: a store under the names of the suite.
struct Renamed(SharedStore);

const NAMES: [(&str, &str); 2] = [("things", "index"), ("names", "snapshots")];

fn to(key: &Key) -> Key {
    let (prefix, name) = key.as_str().split_once('/').unwrap();
    let (_, prefix) = NAMES.iter().find(|(outer, _)| *outer == prefix).unwrap();
    Key::under(prefix, name).unwrap()
}

impl Store for Renamed {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn requests_at_once(&self) -> usize {
        1
    }
    fn open(&self, key: &Key) -> Result<Arc<dyn Object>> {
        self.0.open(&to(key))
    }
    fn get(&self, key: &Key, size_max: u64) -> Result<(Vec<u8>, Version)> {
        self.0.get(&to(key), size_max)
    }
    fn put_if_absent(&self, key: &Key, parts: &[&[u8]]) -> Result<()> {
        self.0.put_if_absent(&to(key), parts)
    }
    fn put_if_match(&self, key: &Key, content: &[u8], expected: &Version) -> Result<()> {
        self.0.put_if_match(&to(key), content, expected)
    }
    fn delete(&self, key: &Key) -> Result<bool> {
        self.0.delete(&to(key))
    }
    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let (outer, inner) = NAMES.iter().find(|(outer, _)| *outer == prefix).unwrap();
        let entries = self.0.list(inner)?;
        let out = |entry: Entry| Entry { key: Key::under(outer, entry.key.name()).unwrap(), ..entry };
        Ok(entries.into_iter().map(out).collect())
    }
    fn settle(&self, prefix: &str) -> Result<()> {
        self.0.settle(NAMES.iter().find(|(outer, _)| *outer == prefix).unwrap().1)
    }
    fn sweep_leftovers(&self) -> Result<u64> {
        self.0.sweep_leftovers()
    }
}

/// A bucket that writes down what is asked of it, and caches before it.
struct Bed {
    bucket: MemoryBucket,
    asked: Arc<Mutex<Vec<String>>>,
    directory: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let bucket = MemoryBucket::new(Comparison::Native, Habits::default(), 1);
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let written = Arc::clone(&asked);
        bucket.set_hook(Some(Arc::new(move |request: Request<'_>| {
            written.lock().unwrap().push(request.name.to_owned());
        })));
        Self { bucket, asked, directory: tempfile::tempdir().unwrap() }
    }

    /// The bucket without a cache, as another machine has it.
    fn bare(&self) -> SharedStore {
        Arc::new(BucketStore::new(Arc::new(self.bucket.client()), Comparison::Native).unwrap())
    }

    /// The store as one process has it.
    fn process(&self) -> SharedStore {
        CachedStore::wrap(self.bare(), &options(self.directory.path()))
    }

    fn process_with(&self, bytes_max: u64, is_sound: fn(&Key, &[u8]) -> bool) -> SharedStore {
        let directory = self.directory.path().to_owned();
        CachedStore::wrap(self.bare(), &CacheOptions { directory, bytes_max, keeps_writes: true, is_sound })
    }

    /// What was asked of the bucket since the last look.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    /// The files of the cache, with their sizes.
    fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        for place in fs::read_dir(self.directory.path()).unwrap() {
            let place = place.unwrap().path();
            if place.is_dir() {
                let entries = fs::read_dir(place).unwrap().map(|entry| entry.unwrap());
                found.extend(entries.map(|entry| (entry.path(), entry.metadata().unwrap().len())));
            }
        }
        found.sort();
        found
    }
}

fn run_key(number: usize) -> Key {
    Key::under("index", &format!("{number:064x}")).unwrap()
}

fn content(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + number * 7 + at / 251) as u8).collect()
}

fn read(store: &dyn Store, key: &Key) -> Result<Vec<u8>> {
    let object = store.open(key)?;
    let mut bytes = vec![0; object.size() as usize];
    object.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[test]
fn a_cached_directory_is_a_store() {
    let place = tempfile::tempdir().unwrap();
    let prefixes = ["things", "names", "index", "snapshots"];
    let store: SharedStore =
        Arc::new(DirectoryStore::create(&place.path().join("store"), &prefixes).unwrap());
    let cached = CachedStore::wrap(store, &options(&place.path().join("cache")));
    run(&cached);
    run(&(Arc::new(Renamed(cached)) as SharedStore));
}

#[test]
fn a_cached_bucket_is_a_store() {
    let bed = Bed::new();
    bed.bucket.set_hook(None);
    let cached = bed.process();
    run_with(&cached, Deletion::IsToldToSome);
    run_with(&(Arc::new(Renamed(cached)) as SharedStore), Deletion::IsToldToSome);
    assert_eq!(conformance::PREFIXES, NAMES.map(|(outer, _)| outer), "every prefix of the suite is covered");
}

#[test]
fn ten_thousand_lookups_in_a_run_cost_one_get_and_later_none() {
    let bed = Bed::new();
    let whole = content(1, 480_000);
    bed.bare().put_if_absent(&run_key(1), &[&whole]).unwrap();
    let look_up = |store: &SharedStore| {
        let object = store.open(&run_key(1)).unwrap();
        let mut entry = [0; 48];
        for number in 0..10_000 {
            let at = number * 7919 % 10_000 * 48;
            object.read_at(&mut entry, at as u64).unwrap();
            assert_eq!(entry, whole[at..at + 48]);
        }
    };
    bed.asked();
    let first = bed.process();
    assert_eq!(first.list("index").unwrap().len(), 1);
    look_up(&first);
    assert_eq!(bed.asked(), ["list", "read"]);
    let second = bed.process();
    assert_eq!(second.list("index").unwrap().len(), 1);
    look_up(&second);
    assert_eq!(bed.asked(), ["list"], "the listing vouches for what is kept");
    look_up(&second);
    assert_eq!(bed.asked(), ["head"], "it did so once");
    assert_eq!(second.get(&run_key(1), u64::MAX).unwrap(), (whole.clone(), Version::of(&whole)));
    assert_eq!(bed.asked(), ["head"]);
}

#[test]
fn without_a_listing_an_unknown_object_costs_one_get() {
    let bed = Bed::new();
    bed.bare().put_if_absent(&run_key(1), &[b"run"]).unwrap();
    bed.asked();
    assert_eq!(read(bed.process().as_ref(), &run_key(1)).unwrap(), b"run");
    assert_eq!(bed.asked(), ["read"]);
}

#[test]
fn what_was_written_here_is_not_read_again() {
    let bed = Bed::new();
    let store = bed.process();
    store.put_if_absent(&run_key(1), &[b"two ", b"parts"]).unwrap();
    bed.asked();
    assert_eq!(read(store.as_ref(), &run_key(1)).unwrap(), b"two parts");
    assert_eq!(bed.asked(), [""; 0]);
    assert_eq!(read(bed.process().as_ref(), &run_key(1)).unwrap(), b"two parts");
    assert_eq!(bed.asked(), ["head"], "another process asks whether it is still there");
    let refused = store.put_if_absent(&run_key(1), &[b"other"]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    assert_eq!(read(store.as_ref(), &run_key(1)).unwrap(), b"two parts", "a refused write is not kept");
}

#[test]
fn whoever_examines_reads_also_what_they_wrote_from_the_store() {
    let bed = Bed::new();
    let examining = CacheOptions { keeps_writes: false, ..options(bed.directory.path()) };
    let store = CachedStore::wrap(bed.bare(), &examining);
    store.put_if_absent(&run_key(1), &[b"run"]).unwrap();
    assert_eq!(bed.files(), []);
    bed.asked();
    assert_eq!(read(store.as_ref(), &run_key(1)).unwrap(), b"run");
    assert_eq!(bed.asked(), ["read"]);
}

#[test]
fn damaged_files_are_dropped_and_fetched_again() {
    let bed = Bed::new();
    let wholes = [content(1, 100_000), content(2, 100_000)];
    for (number, whole) in wholes.iter().enumerate() {
        bed.bare().put_if_absent(&run_key(number), &[whole]).unwrap();
        assert!(read(bed.process().as_ref(), &run_key(number)).unwrap() == *whole);
    }
    let paths: Vec<PathBuf> = bed.files().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths.len(), 2);
    let sound: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let flipped = |at: usize| {
        let mut bytes = sound[0].clone();
        bytes[at] ^= 1;
        bytes
    };
    let mut damages: Vec<Vec<u8>> = (0..48).map(flipped).collect();
    damages.extend([48, 50_000, sound[0].len() - 1].map(flipped));
    damages.extend([0, 1, 47, 48, 50_000, sound[0].len() - 1].map(|length| sound[0][..length].to_vec()));
    damages.push([&sound[0][..], b"more"].concat());
    damages.push(sound[1].clone());
    for (number, damage) in damages.iter().enumerate() {
        fs::write(&paths[0], damage).unwrap();
        bed.asked();
        let store = bed.process();
        for (key, whole) in wholes.iter().enumerate() {
            assert!(read(store.as_ref(), &run_key(key)).unwrap() == *whole, "damage {number}");
        }
        let reads = bed.asked().iter().filter(|name| *name == "read").count();
        assert_eq!(reads, 1, "damage {number}: only what is damaged is fetched");
        assert!(fs::read(&paths[0]).unwrap() == sound[0], "damage {number} is mended");
    }
}

#[test]
fn a_file_that_is_cut_while_it_is_open_is_read_from_the_store() {
    let bed = Bed::new();
    let whole = content(3, 100_000);
    let store = bed.process();
    store.put_if_absent(&run_key(1), &[&whole]).unwrap();
    let object = store.open(&run_key(1)).unwrap();
    fs::File::options().write(true).open(&bed.files()[0].0).unwrap().set_len(100).unwrap();
    let mut bytes = vec![0; 1000];
    object.read_at(&mut bytes, 50_000).unwrap();
    assert_eq!(bytes, whole[50_000..51_000]);
    assert!(object.read_at(&mut bytes, 99_500).is_err(), "past the end");
}

#[test]
fn what_somebody_else_has_deleted_is_gone() {
    let bed = Bed::new();
    let (store, other) = (bed.process(), bed.bare());
    store.put_if_absent(&run_key(1), &[b"run"]).unwrap();
    assert_eq!(read(store.as_ref(), &run_key(1)).unwrap(), b"run");
    assert!(other.delete(&run_key(1)).unwrap());
    for store in [&store, &bed.process()] {
        assert_eq!(store.open(&run_key(1)).err().unwrap().kind(), ErrorKind::NotFound);
        assert_eq!(store.get(&run_key(1), 10).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(store.list("index").unwrap().is_empty());
        assert_eq!(store.open(&run_key(1)).err().unwrap().kind(), ErrorKind::NotFound);
    }
    // The name comes back with the same content, as that of a copied manifest may.
    other.put_if_absent(&run_key(1), &[b"run"]).unwrap();
    assert_eq!(read(store.as_ref(), &run_key(1)).unwrap(), b"run");
}

#[test]
fn a_listing_vouches_once_and_until_something_else_is_asked() {
    let bed = Bed::new();
    let (store, other) = (bed.process(), bed.bare());
    let session = Key::under("sessions", "s").unwrap();
    let begin = || {
        other.put_if_absent(&run_key(1), &[b"run"]).unwrap();
        assert_eq!(store.list("index").unwrap().len(), 1);
        assert!(other.delete(&run_key(1)).unwrap());
    };
    begin();
    // Nobody can tell this from an open at the moment of the listing.
    let first = read(store.as_ref(), &run_key(1));
    assert!(first.is_err() || first.unwrap() == b"run");
    assert_eq!(store.open(&run_key(1)).err().unwrap().kind(), ErrorKind::NotFound);
    let questions: [&dyn Fn(); 5] = [
        &|| assert!(store.get(&session, 10).is_err()),
        &|| assert!(store.list("refs").unwrap().is_empty()),
        &|| assert!(!store.delete(&session).unwrap()),
        &|| store.settle("index").unwrap(),
        &|| assert!(store.put_if_match(&session, b"x", &Version::of(b"y")).is_err()),
    ];
    for (number, ask) in questions.iter().enumerate() {
        begin();
        ask();
        let opened = store.open(&run_key(1)).err().map(|error| error.kind());
        assert_eq!(opened, Some(ErrorKind::NotFound), "question {number}");
    }
}

#[test]
fn an_own_deletion_takes_the_copy_along() {
    let bed = Bed::new();
    let store = bed.process();
    store.put_if_absent(&run_key(1), &[b"run"]).unwrap();
    assert_eq!(bed.files().len(), 1);
    assert!(store.delete(&run_key(1)).unwrap());
    assert_eq!(bed.files(), []);
    assert_eq!(store.open(&run_key(1)).err().unwrap().kind(), ErrorKind::NotFound);
}

#[test]
fn only_runs_and_manifests_are_kept() {
    let bed = Bed::new();
    let store = bed.process();
    for key in ["config", "packs/a", "refs/a", "sessions/a", "condemned/a", "keys/a", "indexes/a"] {
        let key = Key::new(key).unwrap();
        store.put_if_absent(&key, &[b"content"]).unwrap();
        read(store.as_ref(), &key).unwrap();
        store.get(&key, 100).unwrap();
    }
    assert_eq!(bed.files(), []);
    store.put_if_absent(&Key::under("snapshots", "a").unwrap(), &[b"manifest"]).unwrap();
    assert_eq!(bed.files().len(), 1);
}

#[test]
fn what_is_not_sound_is_shown_and_not_kept() {
    let bed = Bed::new();
    bed.bare().put_if_absent(&run_key(1), &[b"bad run"]).unwrap();
    bed.bare().put_if_absent(&run_key(2), &[b"run"]).unwrap();
    let store = bed.process_with(CACHE_BYTES_MAX, |_, content| content == b"run");
    for _ in 0..2 {
        assert_eq!(read(store.as_ref(), &run_key(1)).unwrap(), b"bad run");
        assert_eq!(read(store.as_ref(), &run_key(2)).unwrap(), b"run");
    }
    assert_eq!(bed.files().len(), 1);
    // It is mended, by somebody who knows how.
    bed.bare().delete(&run_key(1)).unwrap();
    bed.bare().put_if_absent(&run_key(1), &[b"run"]).unwrap();
    assert_eq!(read(store.as_ref(), &run_key(1)).unwrap(), b"run");
}

#[test]
fn two_processes_share_the_files() {
    const OBJECTS: usize = 40;
    let bed = Bed::new();
    bed.bucket.set_hook(None);
    let wholes: Vec<Vec<u8>> = (0..OBJECTS).map(|number| content(number, 20_000 + number)).collect();
    for (number, whole) in wholes.iter().enumerate() {
        bed.bare().put_if_absent(&run_key(number), &[whole]).unwrap();
    }
    // There is room for half of them, so each takes away what the other has just kept.
    let stores = [(); 2].map(|()| bed.process_with(500_000, |_, _| true));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (store, wholes) = (&stores[thread % 2], &wholes);
            scope.spawn(move || {
                for round in 0..300 {
                    if round % 50 == thread {
                        assert_eq!(store.list("index").unwrap().len(), OBJECTS);
                    }
                    let number = (round * 13 + thread * 7) % OBJECTS;
                    assert!(read(store.as_ref(), &run_key(number)).unwrap() == wholes[number]);
                }
            });
        }
    });
    let leftovers =
        bed.files().into_iter().filter(|(path, _)| path.to_string_lossy().contains("new-")).count();
    assert_eq!(leftovers, 0);
}

#[test]
fn two_stores_in_one_directory_do_not_see_each_other() {
    let place = tempfile::tempdir().unwrap();
    let stores = ["a", "b"].map(|name| {
        let store = DirectoryStore::create(&place.path().join(name), &["index", "snapshots"]).unwrap();
        CachedStore::wrap(Arc::new(store), &options(&place.path().join("cache")))
    });
    stores[0].put_if_absent(&run_key(1), &[b"a"]).unwrap();
    assert_eq!(stores[1].open(&run_key(1)).err().unwrap().kind(), ErrorKind::NotFound);
    stores[1].put_if_absent(&run_key(1), &[b"b"]).unwrap();
    assert_eq!(read(stores[0].as_ref(), &run_key(1)).unwrap(), b"a");
}

fn make_old(path: &Path) {
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().write(true).open(path).unwrap().set_modified(hour_ago).unwrap();
}

#[test]
fn what_was_not_used_for_longest_goes_when_there_is_no_room() {
    const BYTES_MAX: u64 = 1 << 20;
    let bed = Bed::new();
    let foreign = bed.directory.path().join("notes");
    fs::write(&foreign, vec![0; 2 << 20]).unwrap();
    let store = bed.process_with(BYTES_MAX, |_, _| true);
    for number in 0..40 {
        store.put_if_absent(&run_key(number), &[&content(number, 100_000)]).unwrap();
        bed.files().iter().for_each(|(path, _)| make_old(path));
        // The first is used all the time.
        assert!(read(store.as_ref(), &run_key(0)).unwrap() == content(0, 100_000));
        let total: u64 = bed.files().iter().map(|(_, bytes)| bytes).sum();
        assert!(total <= BYTES_MAX + BYTES_MAX / 16, "{total} bytes after {number}");
    }
    assert!(bed.files().len() >= 7, "room is used: {}", bed.files().len());
    assert!(foreign.exists(), "what is not of the cache is not touched");
    bed.asked();
    read(store.as_ref(), &run_key(0)).unwrap();
    assert_eq!(bed.asked(), ["head"], "it is still kept");
    read(store.as_ref(), &run_key(1)).unwrap();
    assert_eq!(bed.asked(), ["read"], "it has gone, and comes again");
}

#[test]
fn what_is_too_large_passes_through() {
    let bed = Bed::new();
    let whole = content(1, 300_000);
    bed.bare().put_if_absent(&run_key(1), &[&whole]).unwrap();
    let store = bed.process_with(1 << 20, |_, _| true);
    for lists in [false, true] {
        if lists {
            store.list("index").unwrap();
        }
        assert!(read(store.as_ref(), &run_key(1)).unwrap() == whole);
        assert!(store.get(&run_key(1), u64::MAX).unwrap().0 == whole);
        assert_eq!(store.get(&run_key(1), 299_999).unwrap_err().kind(), ErrorKind::Damaged);
    }
    assert_eq!(bed.files(), []);
}

#[test]
fn an_unusable_directory_only_means_that_nothing_is_kept() {
    let works = |bed: &Bed, store: &SharedStore| {
        let number = bed.bucket.keys().len();
        store.put_if_absent(&run_key(number), &[b"run"]).unwrap();
        assert_eq!(store.list("index").unwrap().len(), number + 1);
        assert_eq!(read(store.as_ref(), &run_key(number)).unwrap(), b"run");
        assert_eq!(store.get(&run_key(number), 10).unwrap().0, b"run");
    };
    let bed = Bed::new();
    let file = bed.directory.path().join("file");
    fs::write(&file, b"a file").unwrap();
    for directory in [file.clone(), file.join("below")] {
        works(&bed, &CachedStore::wrap(bed.bare(), &options(&directory)));
    }
    assert_eq!(fs::read(&file).unwrap(), b"a file");
    works(&bed, &bed.process_with(0, |_, _| true));
    assert_eq!(bed.files(), []);

    // One that others may write to is not believed.
    works(&bed, &bed.process());
    let (kept, _) = bed.files()[0].clone();
    let place = kept.parent().unwrap();
    assert_eq!(fs::metadata(place).unwrap().permissions().mode() & 0o777, 0o700);
    fs::set_permissions(place, fs::Permissions::from_mode(0o777)).unwrap();
    let before = bed.files();
    works(&bed, &bed.process());
    assert_eq!(bed.files(), before);

    // And one that goes away is not missed.
    fs::set_permissions(place, fs::Permissions::from_mode(0o700)).unwrap();
    let store = bed.process();
    fs::remove_dir_all(place).unwrap();
    works(&bed, &store);
    assert_eq!(bed.files(), []);
}
