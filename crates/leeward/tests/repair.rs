//! `check --repair` and `check --budget` from the command line.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Bench;
use serde_json::Value;

/// Noise, so that packs are many.
fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(b"repair").finalize_xof().fill(&mut noise);
    noise
}

fn bench() -> Bench {
    let bench = Bench::with_repository();
    fs::write(bench.path("disk.raw"), noise(6 << 20)).unwrap();
    let disk = bench.path("disk.raw");
    bench.succeeds(&["backup", disk.to_str().unwrap(), "disk"]);
    bench
}

fn packs(repository: &Path) -> Vec<PathBuf> {
    let mut packs: Vec<PathBuf> =
        repository.join("packs").read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    packs.sort();
    packs
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_repository_is_repaired_from_a_copy() {
    let bench = bench();
    let peer = bench.path("peer");
    copy(&bench.repository(), &peer);
    let peer = peer.to_str().unwrap();
    let damaged = packs(&bench.repository());
    flip(&damaged[0]);
    fs::remove_file(&damaged[1]).unwrap();
    fs::remove_file(bench.repository().join("refs/disk")).unwrap();

    let alone = bench.run(&["check", "--repair"]);
    assert_eq!(alone.code, 4, "{}{}", alone.stdout, alone.stderr);
    let planned = bench.run(&["check", "--repair", "--from", peer, "--dry-run"]);
    assert_eq!(planned.code, 4, "{}{}", planned.stdout, planned.stderr);
    assert_eq!(planned.value()["plan"]["cannot"], Value::Array(vec![]), "{}", planned.stdout);
    let repaired = bench.succeeds(&["check", "--repair", "--from", peer]);
    assert_eq!(repaired.value()["left"]["findings"], Value::Array(vec![]), "{}", repaired.stdout);
    bench.is_sound("repaired");
    let restored = bench.path("restored.raw");
    bench.succeeds(&["restore", "disk", restored.to_str().unwrap()]);
    assert!(fs::read(restored).unwrap() == noise(6 << 20));
    let again = bench.succeeds(&["check", "--repair", "--from", peer]);
    assert_eq!(again.value()["stored_blobs"], 0);
}

/// Runs a check with a budget, with its record under the bench.
fn in_turn(bench: &Bench, budget: &str) -> (i32, Value, String) {
    let mut command = bench.command(&["check", "--budget", budget]);
    let output = command.env("XDG_STATE_HOME", bench.path("state")).output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    let value = serde_json::from_str(line.lines().next().unwrap_or("null")).unwrap();
    (output.status.code().unwrap(), value, told)
}

#[test]
fn a_check_with_a_budget_comes_round_to_every_pack() {
    let bench = bench();
    let count = packs(&bench.repository()).len() as u64;
    let mut unverified = count;
    let mut rounds = 0;
    while unverified > 0 {
        let (code, value, told) = in_turn(&bench, "2500K");
        assert_eq!(code, 0, "{value} {told}");
        let turn = &value["turn"];
        assert!(turn["read_bytes"].as_u64().unwrap() <= 2500 << 10, "{turn}");
        let left = turn["unverified_packs"].as_u64().unwrap();
        assert!(left < unverified, "{turn}");
        unverified = left;
        rounds += 1;
    }
    assert!(rounds > 1 && rounds < count, "{rounds} rounds for {count} packs");
    // What is damaged is found when its turn comes, and is not called verified.
    flip(&packs(&bench.repository())[0]);
    let (code, value, _) = in_turn(&bench, "1G,10min");
    assert_eq!((code, value["turn"]["unverified_packs"].as_u64()), (4, Some(1)), "{value}");
    // A damaged record starts anew, and it is said.
    let record = bench.path("state/leeward/verified").read_dir().unwrap().next().unwrap().unwrap().path();
    flip(&record);
    let (_, value, told) = in_turn(&bench, "1");
    assert!(value["started_anew"].is_string() && told.contains("starts anew"), "{value} {told}");
    assert!(value["turn"]["unverified_packs"].as_u64().unwrap() >= count - 1, "{value}");
}
