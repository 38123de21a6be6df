//! Planning a collection and checking the structure of a synthetic repository: time, and the most memory that the process
//! had. 10^6 chunks; 10^8 with `LEEWARD_BENCH_CHUNKS=100000000`, which takes 9 GB in `TMPDIR`.
//!
//! Each step runs in a process of its own, so that no step's memory is counted for another.

#![allow(clippy::expect_used, reason = "a benchmark that cannot run has nothing to say")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use leeward_repository::measure::Synthetic;
use leeward_repository::{CollectOptions, PREFIXES, ReadData, Unattended};
use leeward_store::{DirectoryStore, SharedStore};

const CHUNKS: u64 = 1_000_000;
/// What a disk of 64 GiB has.
const DISK_CHUNKS: u64 = 1 << 20;
/// Set for the processes that take one step each: the step and the directory.
const STEP: &str = "LEEWARD_BENCH_STEP";
const PLACE: &str = "LEEWARD_BENCH_PLACE";

fn main() {
    let chunks = std::env::var("LEEWARD_BENCH_CHUNKS").ok().and_then(|text| text.parse().ok());
    let chunks = chunks.unwrap_or(CHUNKS);
    let shape = Synthetic { chunks, disk_chunks: DISK_CHUNKS.min(chunks.div_ceil(100).max(1)) };
    match (std::env::var(STEP), std::env::var_os(PLACE)) {
        (Ok(step), Some(place)) => take(shape, &step, Path::new(&place)),
        _ => lead(chunks),
    }
}

/// Runs the steps one after the other, in processes of their own.
fn lead(chunks: u64) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let program = std::env::current_exe().expect("the name of this program");
    println!("{chunks} chunks");
    for step in ["make", "collect", "check"] {
        let status = Command::new(&program).env(STEP, step).env(PLACE, directory.path()).status();
        assert!(status.expect("this program runs").success(), "{step} failed");
    }
}

fn take(shape: Synthetic, step: &str, place: &Path) {
    let root = place.join("repository");
    let store: SharedStore = match step {
        "make" => Arc::new(DirectoryStore::create(&root, &PREFIXES).expect("a store")),
        _ => Arc::new(DirectoryStore::open(&root).expect("a store")),
    };
    let began = Instant::now();
    let told = match step {
        "make" => {
            shape.make(store).expect("a repository");
            format!("{} packs, {} MB stored", shape.pack_count(), stored_bytes(&root) / 1_000_000)
        }
        "collect" => plan(shape, store),
        _ => check(shape, store),
    };
    let seconds = began.elapsed().as_secs_f64();
    println!("{step}: {seconds:.1} s, {:.0} MiB of memory at most; {told}", memory_kib() / 1024.0);
}

fn plan(shape: Synthetic, store: SharedStore) -> String {
    let repository = shape.open(store).expect("a repository");
    let outcome = repository.plan_collect(&CollectOptions::default()).expect("a plan");
    // Disks are no multiples of packs, so that some packs are used in part.
    assert!(outcome.unused_packs > 0, "disks in no ref leave packs that nothing needs: {outcome:?}");
    let unused = outcome.unused_packs as u64 + outcome.rewritten_packs as u64;
    let expected = (shape.chunks - shape.used_chunks()).div_ceil(512);
    assert!(unused.abs_diff(expected) <= 4 + expected / 10, "{expected} packs were expected: {outcome:?}");
    format!("{} unused packs, {} to be rewritten", outcome.unused_packs, outcome.rewritten_packs)
}

fn check(shape: Synthetic, store: SharedStore) -> String {
    let repository = shape.open(store).expect("a repository");
    let outcome = repository.check(ReadData::No, &Unattended).expect("a check");
    assert!(outcome.findings.is_empty(), "{:?}", &outcome.findings[..outcome.findings.len().min(10)]);
    assert_eq!(outcome.chunks, shape.used_chunks(), "every chunk of a snapshot is looked up");
    format!("{} nodes, {} chunks, {} packs looked at", outcome.nodes, outcome.chunks, outcome.packs)
}

/// The most memory that this process has had.
fn memory_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN)
}

fn stored_bytes(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => stored_bytes(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}
