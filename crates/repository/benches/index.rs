//! The index at 10^6 and 10^7 names (10^8 with `LEEWARD_BENCH_NAMES=100000000`), beside a fuse filter.

#![allow(clippy::expect_used, reason = "a benchmark that cannot run has nothing to say")]

use std::time::Instant;

use leeward_repository::measure::measure_index;
use leeward_store::DirectoryStore;
use xorf::{BinaryFuse8, Filter};

const LOOKUPS: usize = 500_000;

fn main() {
    let sizes: Vec<u64> = match std::env::var("LEEWARD_BENCH_NAMES") {
        Ok(text) => text.split(',').filter_map(|number| number.trim().parse().ok()).collect(),
        Err(_) => vec![1_000_000, 10_000_000],
    };
    println!(
        "{:>12} {:>9} {:>9} {:>12} {:>14} {:>11} {:>11}",
        "names", "build s", "open s", "hits/s", "misses/s", "disk B/name", "mem B/name"
    );
    for count in sizes {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = DirectoryStore::create(&directory.path().join("store"), &["index"]).expect("a store");
        let m = measure_index(&store, count, LOOKUPS).expect("a measurement");
        println!(
            "{:>12} {:>9.2} {:>9.3} {:>12.0} {:>14.0} {:>11.2} {:>11.3}",
            m.count,
            m.build.as_secs_f64(),
            m.open.as_secs_f64(),
            m.hits_per_second,
            m.misses_per_second,
            m.stored_bytes as f64 / count as f64,
            m.memory_bytes as f64 / count as f64
        );
    }
    fuse_filter(1_000_000);
}

/// What a binary fuse filter of as many names costs, for comparison: it answers yes or no, not where.
fn fuse_filter(count: u64) {
    let mix = |number: u64| {
        u64::from_le_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes().first_chunk().expect("32 bytes"))
    };
    let keys: Vec<u64> = (0..count).map(mix).collect();
    let started = Instant::now();
    let filter = BinaryFuse8::try_from(&keys).expect("a filter");
    let build = started.elapsed().as_secs_f64();
    let absent: Vec<u64> = (count..count + LOOKUPS as u64).map(mix).collect();
    let started = Instant::now();
    let wrong = absent.iter().filter(|key| filter.contains(key)).count();
    let rate = LOOKUPS as f64 / started.elapsed().as_secs_f64();
    println!(
        "fuse filter, {count} names: build {build:.2} s, {rate:.0} misses/s, {:.2} B/name in memory, wrong {:.3} %",
        filter.fingerprints.len() as f64 / count as f64,
        wrong as f64 * 100.0 / LOOKUPS as f64
    );
}
