//! Objects of a repository as a hostile writer could put them there: changed somewhere, with all digests and names made to
//! fit. Whatever they say, every operation ends with a result or an error, in bounded memory.
//!
//! `LEEWARD_FUZZ_INPUTS=100000` makes so many of each kind, `LEEWARD_SEED=7` only that one. A failing input tells its seed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
mod exercise;
mod forge;
mod mutate;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use exercise::{exercise, exercise_locked};
use forge::{Sound, record, text_of};
use leeward_store::simulation::Random;
use mutate::{mutate, mutate_json};

/// No input may take longer, on a slow and busy machine.
const INPUT_TIME_MAX: Duration = Duration::from_secs(60);
/// Memory that the whole process may have taken, with all tests in it.
const MEMORY_KIB_MAX: u64 = 1 << 20;

/// Hands out inputs of one kind; `play` makes one with a random generator of its own, and looks what comes of it.
fn fuzz(kind: &str, inputs: u64, play: impl Fn(&mut Random)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("LEEWARD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LEEWARD_FUZZ_INPUTS").unwrap_or(inputs),
    };
    for seed in seeds {
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| play(&mut Random::new(seed))));
        if let Err(panic) = result {
            eprintln!("{kind}: LEEWARD_SEED={seed} plays it again");
            resume_unwind(panic);
        }
        let took = began.elapsed();
        assert!(took < INPUT_TIME_MAX, "{kind}: LEEWARD_SEED={seed} took {took:?}");
    }
    assert!(memory_kib() < MEMORY_KIB_MAX, "{kind}: {} KiB of memory", memory_kib());
}

/// The most memory that this process has had.
fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// A record of the sound repository under `prefix`, its text changed and the record made to fit.
fn fuzz_records(prefix: &str, kind: u8, inputs: u64) {
    let sound = Sound::new();
    let (key, bytes) = sound.objects.iter().find(|(key, _)| key.as_str().starts_with(prefix)).unwrap();
    let text = text_of(bytes);
    fuzz(prefix, inputs, |random| {
        let text = mutate_json(random, &text);
        let stored = record(kind, &text);
        // Now and then the record itself is changed, its digest not.
        let stored = if random.chance(10) { mutate(random, &stored) } else { stored };
        exercise(&sound.store_with(key, &stored), random);
    });
}

/// Whether a store holds a sound repository whose last snapshot of `a` can be read.
fn is_believed(store: &leeward_store::SharedStore) -> bool {
    let repository = leeward_repository::Repository::open(std::sync::Arc::clone(store)).unwrap();
    let id = repository.image(&common::image("a")).unwrap().snapshots.last().unwrap().id;
    common::restore(&repository, id).is_ok()
}

#[test]
fn what_is_forged_is_believed_so_that_changes_of_it_are_looked_into() {
    let sound = Sound::new();
    assert!(is_believed(&sound.with_manifest(&sound.manifest())));
    assert!(is_believed(&sound.with_pack(<[u8]>::to_vec)));
    assert!(is_believed(&sound.with_run(<[u8]>::to_vec)));
    let with_node = sound.with_node(&sound.node);
    let repository = leeward_repository::Repository::open(with_node).unwrap();
    let found = repository.check(leeward_repository::ReadData::All, &leeward_repository::Unattended).unwrap();
    assert!(found.findings.is_empty() && found.nodes > 0, "{found:?}");
    for (prefix, kind) in [("config", 1), ("refs/", 3), ("sessions/", 4), ("condemned/", 5)] {
        let (key, bytes) = sound.objects.iter().find(|(key, _)| key.as_str().starts_with(prefix)).unwrap();
        assert_eq!(record(kind, &text_of(bytes)), *bytes, "{key}");
    }
    let sound = Sound::encrypted();
    let (key, bytes) = sound.objects.iter().find(|(key, _)| key.as_str().starts_with("keys/")).unwrap();
    let store = sound.store_with(key, &forge::authenticated(7, &text_of(bytes)));
    let credential = leeward_repository::Credential::Identity(sound.identity.clone().unwrap());
    // It opens before anybody can tell that nobody with the keys wrote it there.
    assert!(leeward_repository::Repository::open_with(store, &credential).is_ok());
}

#[test]
fn configurations_withstand_a_hostile_writer() {
    fuzz_records("config", 1, 200);
}

#[test]
fn refs_withstand_a_hostile_writer() {
    fuzz_records("refs/", 3, 200);
}

#[test]
fn sessions_withstand_a_hostile_writer() {
    fuzz_records("sessions/", 4, 200);
}

#[test]
fn condemned_lists_withstand_a_hostile_writer() {
    fuzz_records("condemned/", 5, 200);
}

#[test]
fn wrapped_keys_withstand_a_hostile_writer() {
    let sound = Sound::encrypted();
    let (key, bytes) = sound.objects.iter().find(|(key, _)| key.as_str().starts_with("keys/")).unwrap();
    let text = text_of(bytes);
    fuzz("keys", 400, |random| {
        let stored = forge::authenticated(7, &mutate_json(random, &text));
        let stored = if random.chance(10) { mutate(random, &stored) } else { stored };
        exercise_locked(&sound.store_with(key, &stored), sound.identity.as_ref().unwrap());
    });
}

#[test]
fn manifests_withstand_a_hostile_writer() {
    let sound = Sound::new();
    fuzz("manifests", 300, |random| {
        let text = mutate_json(random, &sound.manifest());
        exercise(&sound.with_manifest(&text), random);
    });
}

#[test]
fn tree_nodes_withstand_a_hostile_writer() {
    let sound = Sound::new();
    fuzz("nodes", 300, |random| {
        let node = mutate(random, &sound.node);
        exercise(&sound.with_node(&node), random);
    });
}

#[test]
fn packs_withstand_a_hostile_writer() {
    let sound = Sound::new();
    fuzz("packs", 300, |random| {
        exercise(&sound.with_pack(|pack| mutate(random, pack)), &mut Random::new(1));
    });
}

#[test]
fn index_runs_withstand_a_hostile_writer() {
    let sound = Sound::new();
    fuzz("runs", 300, |random| {
        exercise(&sound.with_run(|run| mutate(random, run)), &mut Random::new(1));
    });
}
