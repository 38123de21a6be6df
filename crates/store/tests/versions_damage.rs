//! Chains whose parts somebody else deleted or overwrote: what that is told as, and what it is mended to.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use leeward_store::bucket::{Bucket, Comparison, Condition, VersionedStore};
use leeward_store::simulation::bucket::{Habits, MemoryBucket, Request};
use leeward_store::{Chains, ErrorKind, Key, Store, Version};

const CONTENT: &[u8] = b"the content that was decided last";

/// A bucket with one object of so many versions.
struct Stage {
    bucket: Arc<MemoryBucket>,
    key: Key,
}

impl Stage {
    fn new(versions: u32) -> Self {
        let bucket = Arc::new(MemoryBucket::new(Comparison::None, Habits::default(), u64::from(versions)));
        let stage = Self { bucket, key: Key::new("refs/web-01%2Froot").unwrap() };
        let store = stage.store();
        for version in 1..=versions {
            let content = |version: u32| match version == versions {
                true => CONTENT.to_vec(),
                false => version.to_le_bytes().to_vec(),
            };
            match version {
                1 => store.put_if_absent(&stage.key, &[&content(1)]).unwrap(),
                _ => {
                    let before = Version::of(&content(version - 1));
                    store.put_if_match(&stage.key, &content(version), &before).unwrap();
                }
            }
        }
        stage
    }

    fn store(&self) -> VersionedStore {
        VersionedStore::new(Arc::clone(&self.bucket) as _, Comparison::None)
            .unwrap()
            .with_surroundings(Arc::clone(&self.bucket) as _)
    }

    /// The key of a part of a version.
    fn part(&self, version: u32, letter: char) -> Key {
        let start = format!("{}%3A/r{version:08x}.", self.key);
        let is_it = |key: &Key| {
            key.as_str().starts_with(&start) && key.as_str().rsplit('.').next().unwrap().starts_with(letter)
        };
        self.bucket.keys().into_iter().find(is_it).unwrap()
    }

    fn lose(&self, version: u32, letter: char) {
        self.bucket.delete(&self.part(version, letter)).unwrap();
    }

    fn overwrite(&self, version: u32, letter: char, with: &[u8]) {
        self.bucket.write(&self.part(version, letter), &[with], Condition::Always).unwrap();
    }

    fn read(&self) -> Result<Vec<u8>, ErrorKind> {
        self.store().get(&self.key, 1000).map(|(content, _)| content).map_err(|error| error.kind())
    }

    fn is_listed(&self) -> bool {
        self.store().list("refs").unwrap().iter().any(|entry| entry.key == self.key)
    }

    /// The object can be replaced and deleted as any other, and nothing is left over.
    fn assert_usable(&self, content: &[u8], context: &str) {
        let store = self.store();
        assert_eq!(self.read().as_deref(), Ok(content), "{context}");
        store.put_if_match(&self.key, b"after", &Version::of(content)).unwrap();
        store.put_if_match(&self.key, b"and after that", &Version::of(b"after")).unwrap();
        assert_eq!(self.read().as_deref(), Ok(&b"and after that"[..]), "{context}");
        assert!(store.delete(&self.key).unwrap(), "{context}");
        store.sweep_leftovers().unwrap();
        assert!(self.bucket.keys().is_empty(), "{context}: {:?}", self.bucket.keys());
    }
}

#[test]
fn a_value_that_the_other_parts_tell_comes_back() {
    for versions in 1..=3 {
        for letter in ['p', 'd'] {
            let context = format!("part {letter} of version {versions}");
            let stage = Stage::new(versions);
            stage.lose(versions, letter);
            if (versions, letter) == (1, 'd') {
                // It looks like a creation that has not ended; who creates the object ends that.
                assert_eq!(stage.read(), Err(ErrorKind::NotFound), "{context}");
                assert!(stage.store().damaged().unwrap().is_empty(), "{context}");
                let created = stage.store().put_if_absent(&stage.key, &[b"another"]).unwrap_err();
                assert_eq!(created.kind(), ErrorKind::AlreadyExists, "{context}");
                stage.assert_usable(CONTENT, &context);
                continue;
            }
            assert_eq!(stage.read(), Err(ErrorKind::Damaged), "{context}");
            assert!(stage.is_listed(), "{context}");
            stage.store().sweep_leftovers().unwrap();
            let damaged = stage.store().damaged().unwrap();
            assert_eq!(damaged.len(), 1, "{context}");
            assert!(damaged[0].is_determined && damaged[0].key == stage.key, "{context}: {damaged:?}");
            assert!(
                damaged[0].what.contains(&format!("version {versions} is missing")),
                "{context}: {damaged:?}"
            );
            assert!(stage.store().mend(&stage.key).unwrap(), "{context}");
            assert!(stage.store().damaged().unwrap().is_empty(), "{context}");
            assert!(!stage.store().mend(&stage.key).unwrap(), "{context}: there is nothing to mend");
            stage.assert_usable(CONTENT, &context);
        }
    }
}

#[test]
fn a_value_that_nothing_tells_gets_another_only_when_asked() {
    type Harm = (&'static str, fn(&Stage, u32));
    let harms: [Harm; 5] = [
        ("lost", |stage, version| stage.lose(version, 'a')),
        ("overwritten", |stage, version| stage.overwrite(version, 'a', b"encrypted by bad people")),
        ("emptied", |stage, version| stage.overwrite(version, 'a', b"")),
        ("overwritten and its first part lost", |stage, version| {
            stage.overwrite(version, 'a', &[7; 2000]);
            stage.lose(version, 'p');
        }),
        ("all lost but its mark", |stage, version| {
            stage.lose(version, 'a');
            stage.lose(version, 'p');
        }),
    ];
    for versions in 2..=3 {
        for (name, harm) in harms {
            let context = format!("{name}, version {versions}");
            for is_deleted in [false, true] {
                let stage = Stage::new(versions);
                harm(&stage, versions);
                assert_eq!(stage.read(), Err(ErrorKind::Damaged), "{context}");
                assert!(stage.is_listed(), "{context}");
                assert_eq!(stage.store().damaged().unwrap().len(), 1, "{context}");
                assert!(!stage.store().mend(&stage.key).unwrap(), "{context}");
                assert_eq!(stage.read(), Err(ErrorKind::Damaged), "{context}");
                let created = stage.store().put_if_absent(&stage.key, &[b"another"]).unwrap_err();
                assert!(matches!(created.kind(), ErrorKind::Damaged | ErrorKind::AlreadyExists), "{context}");
                if is_deleted {
                    assert!(stage.store().delete(&stage.key).unwrap(), "{context}");
                    assert!(!stage.is_listed(), "{context}");
                    stage.store().put_if_absent(&stage.key, &[CONTENT]).unwrap();
                } else {
                    stage.store().replace_lost(&stage.key, b"from a peer").unwrap();
                    let again = stage.store().replace_lost(&stage.key, b"other").unwrap_err();
                    assert_eq!(again.kind(), ErrorKind::Conflict, "{context}");
                }
                stage.assert_usable(if is_deleted { CONTENT } else { b"from a peer" }, &context);
            }
        }
    }
}

#[test]
fn nothing_of_a_chain_but_its_beginning_is_told_as_damage() {
    let stage = Stage::new(3);
    for letter in ['p', 'a', 'd'] {
        stage.lose(3, letter);
    }
    assert_eq!(stage.read(), Err(ErrorKind::Damaged));
    assert!(!stage.store().mend(&stage.key).unwrap());
    stage.store().replace_lost(&stage.key, b"from a peer").unwrap();
    stage.assert_usable(b"from a peer", "all of the last version");
}

#[test]
fn a_configuration_without_its_mark_is_mended_and_a_session_is_not_made_from_nothing() {
    let stage = Stage::new(1);
    let mut config = Stage::new(1);
    config.bucket = Arc::clone(&stage.bucket);
    for (key, comes_back) in [("config", true), ("sessions/0a", false)] {
        config.key = Key::new(key).unwrap();
        config.store().put_if_absent(&config.key, &[CONTENT]).unwrap();
        config.lose(1, 'd');
        assert_eq!(config.read(), Err(ErrorKind::NotFound));
        assert_eq!(config.store().damaged().unwrap().len(), usize::from(comes_back));
        assert_eq!(config.store().mend(&config.key).unwrap(), comes_back);
        assert_eq!(config.read().is_ok(), comes_back);
    }
}

/// Lets a second process act before the request of this number of a repair.
fn meanwhile(stage: &Stage, number: u32, act: impl Fn(&VersionedStore) + Send + Sync + 'static) {
    let (count, bucket) = (std::sync::atomic::AtomicU32::new(0), Arc::new(stage.bucket.client()));
    let is_busy = std::sync::atomic::AtomicBool::new(false);
    stage.bucket.set_hook(Some(Arc::new(move |request: Request<'_>| {
        use std::sync::atomic::Ordering::SeqCst;
        if request.client != bucket.number_of_client()
            && count.fetch_add(1, SeqCst) == number
            && !is_busy.swap(true, SeqCst)
        {
            let store = VersionedStore::new(Arc::clone(&bucket) as _, Comparison::None).unwrap();
            act(&store.with_surroundings(Arc::clone(&bucket) as _));
        }
    })));
}

#[test]
fn whoever_changes_the_object_during_a_repair_is_not_undone() {
    let harms: [fn(&Stage); 4] = [
        |stage| stage.lose(2, 'p'),
        |stage| stage.lose(2, 'd'),
        |stage| stage.lose(2, 'a'),
        |stage| stage.overwrite(2, 'a', b"garbage"),
    ];
    let mut changed = 0;
    for (harm, number) in harms.into_iter().flat_map(|harm| (0..60).map(move |number| (harm, number))) {
        let stage = Stage::new(2);
        harm(&stage);
        let key = stage.key.clone();
        meanwhile(&stage, number, move |store| {
            // Another repair, then the next change.
            if !store.mend(&key).unwrap() && store.get(&key, 1000).is_err() {
                store.replace_lost(&key, CONTENT).unwrap();
            }
            store.put_if_match(&key, b"changed meanwhile", &Version::of(CONTENT)).unwrap();
        });
        let mine = stage.store().mend(&stage.key).and_then(|mended| match mended {
            true => Ok(()),
            false => stage.store().replace_lost(&stage.key, CONTENT),
        });
        stage.bucket.set_hook(None);
        let context = format!("request {number}: {mine:?}");
        match stage.read() {
            // It was asked before the repair had sent so many requests.
            Ok(content) if content == b"changed meanwhile" => changed += 1,
            Ok(content) => assert!(content == CONTENT && mine.is_ok(), "{context}"),
            Err(error) => panic!("{context}: {error:?}"),
        }
        let content = stage.read().unwrap();
        stage.assert_usable(&content, &context);
    }
    assert!(changed > 60, "{changed}");
}

/// Takes a part of the version that counts, if one does and no other beside it.
fn lose_latest(bucket: &MemoryBucket, key: &Key, letter: char) -> bool {
    let mut ballots: BTreeMap<String, BTreeMap<char, Key>> = BTreeMap::new();
    for part in bucket.keys().into_iter().filter(|part| part.as_str().starts_with(&format!("{key}%3A/"))) {
        let (ballot, end) = part.as_str().rsplit_once('.').unwrap();
        ballots.entry(ballot.to_owned()).or_default().insert(end.chars().next().unwrap(), part.clone());
    }
    let counting: Vec<_> = ballots.iter().filter(|(_, parts)| parts.len() == 3).collect();
    let [(ballot, parts)] = counting[..] else { return false };
    // Without its mark the only version there was is one that nobody has decided.
    let letter = if ballot.contains("/r00000001.") { 'p' } else { letter };
    bucket.delete(&parts[&letter]).unwrap();
    true
}

/// A part is lost before the request of this number of a change, and mended at once or when the change has ended.
fn change_beside_a_loss(versions: u32, number: u32, letter: char, is_mended_at_once: bool) -> [bool; 4] {
    let context =
        format!("{versions} versions, part {letter}, request {number}, at once: {is_mended_at_once}");
    let mut told = [false; 4];
    for is_deletion in [false, true].into_iter().filter(|is_deletion| !is_deletion || versions > 0) {
        let stage = Stage::new(versions);
        let (bucket, key) = (Arc::new(stage.bucket.client()), stage.key.clone());
        let is_other_made = Arc::new(AtomicBool::new(versions > 0));
        let is_made = Arc::clone(&is_other_made);
        meanwhile(&stage, number, move |store| {
            if versions == 0 {
                is_made.store(store.put_if_absent(&key, &[CONTENT]).is_ok(), Ordering::SeqCst);
            }
            if lose_latest(&bucket, &key, letter) && is_mended_at_once {
                store.mend(&key).unwrap();
            }
        });
        let store = stage.store();
        let answer = match (versions, is_deletion) {
            (0, _) => store.put_if_absent(&stage.key, &[b"new"]),
            (_, true) => store.delete(&stage.key).map(|is_done| assert!(is_done, "{context}")),
            (_, false) => store.put_if_match(&stage.key, b"new", &Version::of(CONTENT)),
        };
        stage.bucket.set_hook(None);
        stage.store().mend(&stage.key).unwrap();
        let new = if is_deletion { Err(ErrorKind::NotFound) } else { Ok(b"new".to_vec()) };
        let old = is_other_made.load(Ordering::SeqCst).then(|| Ok(CONTENT.to_vec()));
        let found = stage.read();
        let context = format!("{context}: {answer:?}, {found:?}");
        told[match answer.map_err(|error| error.kind()) {
            Ok(()) => {
                assert!(found == new && (versions > 0 || old.is_none()), "{context}");
                0
            }
            Err(ErrorKind::Io) => {
                assert!(found == new || Some(&found) == old.as_ref(), "{context}");
                1
            }
            Err(ErrorKind::Damaged) => {
                assert_eq!(Some(&found), old.as_ref(), "{context}");
                2
            }
            Err(_) => {
                assert_eq!(Some(&found), old.as_ref(), "{context}");
                3
            }
        }] = true;
        if let Ok(content) = found {
            stage.assert_usable(&content, &context);
        }
    }
    told
}

#[test]
fn whoever_changes_an_object_while_it_loses_parts_is_told_what_came_of_it() {
    let mut told = [0; 4];
    for (versions, number) in (0..=3).flat_map(|versions| (0..40).map(move |number| (versions, number))) {
        for (letter, is_mended_at_once) in [('p', false), ('p', true), ('d', false), ('d', true)] {
            let more = change_beside_a_loss(versions, number, letter, is_mended_at_once);
            told.iter_mut().zip(more).for_each(|(all, more)| *all += u32::from(more));
        }
    }
    assert!(told.iter().all(|times| *times > 10), "done, open, damaged, refused: {told:?}");
}

#[test]
fn what_is_left_of_a_deletion_says_nothing_of_the_next_life() {
    let mut lives = 0;
    for number in 0..40 {
        let stage = Stage::new(2);
        let (bucket, key) = (Arc::new(stage.bucket.client()), stage.key.clone());
        let has_begun = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&has_begun);
        meanwhile(&stage, number, move |store| {
            begins.store(store.put_if_absent(&key, &[b"the next life"]).is_ok(), Ordering::SeqCst);
            if begins.load(Ordering::SeqCst) && lose_latest(&bucket, &key, 'p') {
                assert!(store.mend(&key).unwrap(), "request {number}");
            }
        });
        assert!(stage.store().delete(&stage.key).unwrap());
        stage.bucket.set_hook(None);
        if has_begun.load(Ordering::SeqCst) {
            lives += 1;
            stage.assert_usable(b"the next life", &format!("request {number}"));
        }
    }
    assert!(lives > 2, "{lives}");
}

#[test]
fn a_first_version_that_is_marked_late_does_not_come_back_when_the_second_is_lost() {
    let mut lost = 0;
    for (letter, number) in
        ['p', 'd'].into_iter().flat_map(|letter| (0..12).map(move |number| (letter, number)))
    {
        let stage = Stage::new(0);
        let (bucket, key) = (Arc::new(stage.bucket.client()), stage.key.clone());
        let is_lost = Arc::new(AtomicBool::new(false));
        let is_taken = Arc::clone(&is_lost);
        meanwhile(&stage, number, move |store| {
            // It ends the creation of the other one, or makes its own.
            let _ = store.put_if_absent(&key, &[b"another"]);
            let (_, version) = store.get(&key, 1000).unwrap();
            store.put_if_match(&key, b"the second", &version).unwrap();
            is_taken.store(lose_latest(&bucket, &key, letter), Ordering::SeqCst);
        });
        let _ = stage.store().put_if_absent(&stage.key, &[CONTENT]);
        stage.bucket.set_hook(None);
        stage.store().mend(&stage.key).unwrap();
        if is_lost.load(Ordering::SeqCst) {
            lost += 1;
            stage.assert_usable(b"the second", &format!("part {letter}, request {number}"));
        }
    }
    assert!(lost > 10, "{lost}");
}
