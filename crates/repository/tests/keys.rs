//! Encrypted repositories: who can do what, what is noticed, and what cannot be seen.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{CHUNK_BYTES, MemoryDisk, MemoryTarget, backup, content, image, mutated};
use leeward_repository::{
    CollectOptions, Credential, Error, ErrorKind, Fingerprint, Identity, InitOptions, KeyAccess,
    KeylessRepository, NewKey, PREFIXES, Passphrase, PassphraseCost, ReadData, Recipient, Repository,
    RestoreMode, SnapshotId, Unattended, Unlock,
};
use leeward_store::simulation::Random;
use leeward_store::{DirectoryStore, SharedStore};

/// So little that tests are short; real ones take what the default takes.
const CHEAP: PassphraseCost = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };

/// An encrypted repository in a directory, with the key that opens it.
struct Place {
    directory: tempfile::TempDir,
    owner: Identity,
}

impl Place {
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap(), owner: Identity::generate().unwrap() };
        let first = for_key("owner", KeyAccess::Full, &place.owner);
        place.init(vec![first]).unwrap();
        place
    }

    fn init(&self, keys: Vec<NewKey>) -> leeward_repository::Result<Repository> {
        DirectoryStore::create(self.path(), &PREFIXES).unwrap();
        let chunk_bytes = CHUNK_BYTES as u64;
        let options = InitOptions { chunk_bytes, pack_bytes: 1 << 20, zstd_level: 1, keys };
        Repository::init(self.store(), &options)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn store(&self) -> SharedStore {
        Arc::new(DirectoryStore::open(self.path()).unwrap())
    }

    fn open_as(&self, identity: &Identity) -> leeward_repository::Result<Repository> {
        Repository::open_with(self.store(), &Credential::Identity(identity.clone()))
    }

    fn open(&self) -> Repository {
        self.open_as(&self.owner).unwrap()
    }

    /// A holder who may only write.
    fn writer(&self) -> Repository {
        let identity = Identity::generate().unwrap();
        self.open().add_key(&for_key("writer", KeyAccess::WriteOnly, &identity)).unwrap();
        self.open_as(&identity).unwrap()
    }

    /// All objects, by their paths.
    fn objects(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        for prefix in PREFIXES.iter().copied().chain(["."]) {
            for entry in self.path().join(prefix).read_dir().unwrap().flatten() {
                if entry.file_type().unwrap().is_file() && entry.file_name() != "lock" {
                    found.insert(entry.path(), std::fs::read(entry.path()).unwrap());
                }
            }
        }
        found
    }
}

fn for_key(name: &str, access: KeyAccess, identity: &Identity) -> NewKey {
    NewKey { name: name.to_owned(), access, recipient: Recipient::PublicKey(identity.public()) }
}

fn for_passphrase(name: &str, access: KeyAccess, text: &str) -> NewKey {
    let recipient = Recipient::Passphrase(Passphrase::new(text).unwrap(), CHEAP);
    NewKey { name: name.to_owned(), access, recipient }
}

fn disk(seed: u64) -> Vec<u8> {
    content(&mut Random::new(seed), 40 * CHUNK_BYTES)
}

fn restored(repository: &Repository, id: SnapshotId) -> leeward_repository::Result<Vec<u8>> {
    let snapshot = repository.snapshot(id)?;
    let target = MemoryTarget::blank(snapshot.virtual_size as usize);
    repository.restore(&snapshot, RestoreMode::Write(&target), 2, &Unattended)?;
    Ok(target.into_content())
}

fn kind<T>(result: leeward_repository::Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.kind(),
    }
}

#[test]
fn what_goes_in_comes_out_and_cannot_be_seen_in_between() {
    let place = Place::new();
    let mut content = disk(1);
    // Text on every chunk, between noise, so that it is stored both compressed and as it is.
    for (number, chunk) in content.chunks_mut(CHUNK_BYTES).enumerate() {
        chunk[100..124].copy_from_slice(format!("the secret of chunk {number:04}").as_bytes());
    }
    let id = backup(&place.open(), "web", &content).unwrap();
    let again = place.open();
    assert!(restored(&again, id).unwrap() == content);
    let check = again.check(ReadData::All, &Unattended).unwrap();
    assert!(check.findings.is_empty() && check.not_checked.is_empty(), "{check:#?}");
    for (path, bytes) in place.objects() {
        for text in [&b"the secret of chunk"[..], b"virtual_size\":6", b"\"root\""] {
            let is_ref = path.parent().unwrap().ends_with("refs");
            let seen = bytes.windows(text.len()).any(|window| window == text);
            assert!(!seen || (is_ref && text.starts_with(b"virtual")), "{} shows {text:?}", path.display());
        }
    }
    // A block of noise is not there either.
    let noise =
        content.windows(32).step_by(999).find(|block| block.iter().filter(|byte| **byte == 0).count() < 4);
    let noise = noise.unwrap();
    assert!(place.objects().values().all(|bytes| !bytes.windows(32).any(|window| window == noise)));
}

#[test]
fn a_write_only_key_backs_up_and_compares_but_reads_nothing() {
    let place = Place::new();
    let (first, writer) = (disk(2), place.writer());
    assert_eq!(writer.access(), Some(KeyAccess::WriteOnly));
    let one = backup(&writer, "web", &first).unwrap();
    let second = mutated(&mut Random::new(3), &first);
    let two = backup(&writer, "web", &second).unwrap();
    let statistics = writer.snapshot(two).unwrap().statistics;
    assert!(statistics.new_bytes < statistics.data_bytes, "what was there already is found: {statistics:?}");

    // It sees which chunks differ, and whether a disk is the one that was backed up.
    let (a, b) = (writer.snapshot(one).unwrap(), writer.snapshot(two).unwrap());
    let mut differences = 0;
    writer.diff(&a, &b, |_| differences += 1).unwrap();
    assert!(differences > 0);
    let same = MemoryDisk::plain(second.clone());
    let compared = writer.restore(&b, RestoreMode::Compare(&same), 2, &Unattended);
    assert!(compared.is_ok());

    // It reads no chunk, and hands out no keys.
    let target = MemoryTarget::with(vec![7; first.len()]);
    let refused = writer.restore(&a, RestoreMode::Write(&target), 2, &Unattended).unwrap_err();
    assert!(refused.to_string().contains("this key cannot read chunks"), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert!(target.into_content().iter().all(|byte| *byte == 7), "nothing was written");
    let other = MemoryDisk::plain(first.clone());
    let target = MemoryTarget::with(first.clone());
    assert_eq!(
        kind(writer.restore(&b, RestoreMode::Patch(&target, &other), 2, &Unattended)),
        ErrorKind::Denied
    );
    assert_eq!(kind(writer.source(one)), ErrorKind::Denied);
    let guest = Identity::generate().unwrap();
    for access in [KeyAccess::Full, KeyAccess::WriteOnly] {
        assert_eq!(kind(writer.add_key(&for_key("guest", access, &guest))), ErrorKind::Denied);
    }
    assert_eq!(kind(writer.remove_key("owner")), ErrorKind::Denied);

    // It checks all but the content of chunks.
    let check = writer.check(ReadData::All, &Unattended).unwrap();
    assert!(check.findings.is_empty() && check.nodes > 0, "{check:#?}");
    assert_eq!(check.not_checked.len(), 1);

    // Who has the full key reads both.
    assert!(restored(&place.open(), one).unwrap() == first);
    assert!(restored(&place.open(), two).unwrap() == second);
}

#[test]
fn a_write_only_key_collects_whole_packs_and_rewrites_none() {
    let place = Place::new();
    let writer = place.writer();
    let mut random = Random::new(4);
    let mut noise = vec![0; 200 * CHUNK_BYTES];
    random.fill(&mut noise);
    let old = backup(&writer, "web", &noise).unwrap();
    random.fill(&mut noise[..150 * CHUNK_BYTES]);
    let new = backup(&writer, "web", &noise).unwrap();
    writer.forget(&image("web"), &[old]).unwrap();
    let options =
        CollectOptions { unused_max: 0.0, window: jiff::SignedDuration::ZERO, ..CollectOptions::default() };
    let outcome = writer.collect(&options, &Unattended).unwrap();
    assert_eq!((outcome.rewritten_packs, outcome.written_bytes), (0, 0));
    assert!(outcome.unused_packs > 0 && outcome.deleted_bytes > 0, "{outcome:?}");
    let outcome = place.open().collect(&options, &Unattended).unwrap();
    assert!(outcome.rewritten_packs > 0 && outcome.written_bytes > 0, "{outcome:?}");
    assert!(restored(&place.open(), new).unwrap() == noise);
    assert!(place.open().check(ReadData::All, &Unattended).unwrap().findings.is_empty());
}

#[test]
fn two_writers_at_once_leave_what_both_wrote() {
    let place = Place::new();
    let (full, writer) = (place.open(), place.writer());
    let (a, b) = (disk(5), mutated(&mut Random::new(6), &disk(5)));
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| backup(&full, "web", &a).unwrap());
        let two = scope.spawn(|| backup(&writer, "web", &b).unwrap());
        (one.join().unwrap(), two.join().unwrap())
    });
    let again = place.open();
    assert_eq!(again.image(&image("web")).unwrap().snapshots.len(), 2);
    assert!(restored(&again, one).unwrap() == a && restored(&again, two).unwrap() == b);
    assert!(again.check(ReadData::All, &Unattended).unwrap().findings.is_empty());
}

#[test]
fn without_keys_every_damaged_byte_is_found() {
    let place = Place::new();
    let mut small = vec![0; 3 * CHUNK_BYTES];
    Random::new(7).fill(&mut small[..100]);
    small[CHUNK_BYTES..].fill(9);
    backup(&place.open(), "web", &small).unwrap();
    let check =
        || KeylessRepository::open(place.store()).and_then(|found| found.check(ReadData::All, &Unattended));
    let sound = check().unwrap();
    assert!(sound.findings.is_empty(), "{sound:#?}");
    assert_eq!(sound.not_checked.len(), 1);
    let mut tried = 0;
    for (path, bytes) in place.objects() {
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bad).unwrap();
            let found = check();
            let noticed = found.as_ref().map_or(true, |outcome| !outcome.findings.is_empty());
            assert!(noticed, "byte {at} of {}", path.display());
            tried += 1;
        }
        std::fs::write(&path, &bytes).unwrap();
    }
    assert!(tried > 3000, "{tried} bytes");
    assert!(check().unwrap().findings.is_empty());
    for (path, bytes) in place.objects().into_iter().filter(|(path, _)| !path.ends_with("config")) {
        let is_needed = !["keys", "index"].iter().any(|prefix| path.parent().unwrap().ends_with(prefix));
        let is_ref = path.parent().unwrap().ends_with("refs");
        std::fs::remove_file(&path).unwrap();
        let noticed = !check().unwrap().findings.is_empty();
        // That a ref is gone is seen in the manifests, which tell nothing without keys.
        assert!(noticed || !is_needed || is_ref, "{} is missing", path.display());
        std::fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn without_keys_nothing_is_read_or_opened() {
    let place = Place::new();
    backup(&place.open(), "web", &disk(8)).unwrap();
    assert!(matches!(Repository::open(place.store()), Err(Error::Locked { .. })));
    let keyless = KeylessRepository::open(place.store()).unwrap();
    assert_eq!(keyless.images().unwrap(), [image("web")]);
    assert_eq!(keyless.image(&image("web")).unwrap().snapshots.len(), 1);
    assert_eq!(keyless.wrapped_keys().unwrap()[0].name, "owner");
}

#[test]
fn keys_come_and_go_and_the_last_full_one_stays() {
    let place = Place::new();
    let id = backup(&place.open(), "web", &disk(9)).unwrap();
    let owner = place.open();
    owner.add_key(&for_passphrase("admin", KeyAccess::Full, "correct horse")).unwrap();
    let unlock = |text: &str| {
        let credential = Credential::Passphrase(Passphrase::new(text).unwrap());
        Repository::open_with(place.store(), &credential)
    };
    let admin = unlock("correct horse").unwrap();
    assert!(restored(&admin, id).unwrap() == disk(9));
    assert_eq!(admin.fingerprint(), owner.fingerprint());
    assert!(matches!(unlock("correct house"), Err(Error::NoKeyFits { .. })));
    assert_eq!(kind(place.open_as(&Identity::generate().unwrap())), ErrorKind::Denied);
    assert_eq!(kind(owner.add_key(&for_passphrase("admin", KeyAccess::Full, "x"))), ErrorKind::Usage);
    assert_eq!(kind(owner.add_key(&for_passphrase("a\nb", KeyAccess::Full, "x"))), ErrorKind::Usage);

    let names = |repository: &Repository| -> Vec<String> {
        repository.wrapped_keys().unwrap().into_iter().map(|key| key.name).collect()
    };
    assert_eq!(names(&owner), ["owner", "admin"]);
    place.writer();
    assert_eq!(admin.remove_key("owner").unwrap().name, "owner");
    assert_eq!(kind(place.open_as(&place.owner)), ErrorKind::Denied, "it opens no more");
    assert_eq!(kind(admin.remove_key("admin")), ErrorKind::Usage, "the writer's key is no full one");
    assert_eq!(kind(admin.remove_key("nobody")), ErrorKind::Usage);
    assert_eq!(names(&admin), ["admin", "writer"]);
    assert!(restored(&unlock("correct horse").unwrap(), id).unwrap() == disk(9));
}

#[test]
fn two_who_remove_a_key_each_do_not_lock_everybody_out() {
    for _ in 0..20 {
        let place = Place::new();
        let second = Identity::generate().unwrap();
        place.open().add_key(&for_key("second", KeyAccess::Full, &second)).unwrap();
        let (a, b) = (place.open(), place.open_as(&second).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| a.remove_key("owner"));
            scope.spawn(|| b.remove_key("second"));
        });
        let left =
            a.wrapped_keys().unwrap().into_iter().filter(|key| key.access == Some(KeyAccess::Full)).count();
        assert!(left >= 1);
    }
}

#[test]
fn a_repository_that_says_it_is_not_encrypted_is_refused_when_a_key_is_given() {
    let place = Place::new();
    let other = tempfile::tempdir().unwrap();
    DirectoryStore::create(other.path(), &PREFIXES).unwrap();
    let store: SharedStore = Arc::new(DirectoryStore::open(other.path()).unwrap());
    Repository::init(store, &InitOptions::default()).unwrap();
    std::fs::copy(other.path().join("config"), place.path().join("config")).unwrap();
    let refused = place.open_as(&place.owner).err().unwrap();
    assert!(matches!(refused, Error::NotEncrypted { .. }), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::Refused);
}

#[test]
fn a_configuration_that_no_holder_of_the_keys_wrote_is_refused() {
    let place = Place::new();
    let path = place.path().join("config");
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(12).position(|window| window == b"\"zstd_level\"").unwrap();
    let mut bad = bytes.clone();
    bad[at + 13] = b'9';
    let end = bad.len() - 32;
    let digest = blake3::derive_key("leeward v1 stored record", &bad[..end]);
    bad[end..].copy_from_slice(&digest);
    std::fs::write(&path, &bad).unwrap();
    assert_eq!(KeylessRepository::open(place.store()).unwrap().config().zstd_level, 9, "its digest fits");
    let refused = place.open_as(&place.owner).err().unwrap();
    assert!(refused.to_string().contains("not authentic"), "{refused}");
}

#[test]
fn records_in_the_wrong_place_are_refused() {
    let place = Place::new();
    let owner = place.open();
    backup(&owner, "web", &disk(10)).unwrap();
    backup(&owner, "db", &disk(11)).unwrap();
    let key = |name: &str| place.path().join("refs").join(name);
    std::fs::copy(key("web"), key("db")).unwrap();
    let refused = owner.image(&image("db")).unwrap_err();
    assert!(refused.to_string().contains("not authentic"), "{refused}");
    let slot = place.path().join("keys").read_dir().unwrap().next().unwrap().unwrap().path();
    std::fs::copy(&slot, slot.with_file_name("0d".repeat(16))).unwrap();
    let flawed: Vec<_> = owner.wrapped_keys().unwrap().into_iter().filter(|key| key.flaw.is_some()).collect();
    assert_eq!(flawed.len(), 1);
    let findings = owner.check(ReadData::No, &Unattended).unwrap().findings;
    assert!(findings.iter().any(|finding| finding.object == "refs/db"), "{findings:#?}");
    assert!(findings.iter().any(|finding| finding.object.starts_with("keys/0d0d")), "{findings:#?}");
}

/// A credential that expects a fingerprint.
struct Pinned(Identity, Fingerprint);

impl Unlock for Pinned {
    fn expects_encryption(&self) -> bool {
        true
    }

    fn credential(
        &self,
        _location: &str,
    ) -> Result<Option<Credential>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Some(Credential::Identity(self.0.clone())))
    }

    fn fingerprint(&self) -> leeward_repository::Result<Option<Fingerprint>> {
        Ok(Some(self.1))
    }
}

#[test]
fn a_repository_that_somebody_else_made_for_a_public_key_is_told_by_its_fingerprint() {
    let (place, forged) = (Place::new(), Place::new());
    let fingerprint = place.open().fingerprint().unwrap();
    assert_ne!(forged.open().fingerprint(), Some(fingerprint));
    // Its maker needs to know the public key only.
    forged.open().add_key(&for_key("victim", KeyAccess::Full, &place.owner)).unwrap();
    assert!(forged.open_as(&place.owner).is_ok());
    let pinned = Pinned(place.owner.clone(), fingerprint);
    Repository::open_with(place.store(), &pinned).unwrap();
    let refused = Repository::open_with(forged.store(), &pinned).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(fingerprint.to_string().parse::<Fingerprint>().unwrap() == fingerprint);
}

#[test]
fn repositories_know_whether_they_share_names_and_ciphers() {
    let (one, two) = (Place::new(), Place::new());
    let (a, b) = (one.open(), two.open());
    let writer = one.writer();
    assert!(a.shares_names_with(&writer) && a.shares_cipher_with(&writer));
    assert!(!a.shares_names_with(&b) && !a.shares_cipher_with(&b));
    let plain = |directory: &tempfile::TempDir| {
        DirectoryStore::create(directory.path(), &PREFIXES).unwrap();
        let store: SharedStore = Arc::new(DirectoryStore::open(directory.path()).unwrap());
        Repository::init(store, &InitOptions::default()).unwrap()
    };
    let (c, d) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (c, d) = (plain(&c), plain(&d));
    assert!(c.shares_names_with(&d) && c.shares_cipher_with(&d));
    assert!(!a.shares_names_with(&c) && !a.shares_cipher_with(&c) && !c.shares_cipher_with(&a));
}

#[test]
fn a_directory_of_before_there_were_keys_still_opens() {
    let directory = tempfile::tempdir().unwrap();
    DirectoryStore::create(directory.path(), &PREFIXES).unwrap();
    let store: SharedStore = Arc::new(DirectoryStore::open(directory.path()).unwrap());
    Repository::init(Arc::clone(&store), &InitOptions::default()).unwrap();
    std::fs::remove_dir(directory.path().join("keys")).unwrap();
    let repository = Repository::open(store).unwrap();
    let id = backup(&repository, "web", &disk(12)).unwrap();
    assert!(restored(&repository, id).unwrap() == disk(12));
    assert!(repository.check(ReadData::All, &Unattended).unwrap().findings.is_empty());
    assert!(repository.wrapped_keys().unwrap().is_empty() && repository.fingerprint().is_none());
    assert!(repository.add_key(&for_passphrase("x", KeyAccess::Full, "y")).is_err());
}

#[test]
fn a_repository_that_nobody_could_read_is_not_made() {
    let place = Place { directory: tempfile::tempdir().unwrap(), owner: Identity::generate().unwrap() };
    let writer = for_key("writer", KeyAccess::WriteOnly, &place.owner);
    assert_eq!(kind(place.init(vec![writer])), ErrorKind::Usage);
    assert!(!place.path().join("config").exists());
    place.init(vec![for_key("owner", KeyAccess::Full, &place.owner)]).unwrap();
    place.open();
}
