//! A repository in a container of Azure Blob Storage, by the real binary, on Microsoft's emulator.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

#[path = "../../remote/tests/beds/azurite.rs"]
mod azurite;

use std::path::Path;
use std::process::{Command, Output};

use azurite::{Azurite, CONTAINER};
use leeward_store::simulation::Random;

fn leeward(location: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leeward"));
    command.args(["-r", location]).args(arguments).envs(Azurite::variables()).output().unwrap()
}

fn succeeds(location: &str, arguments: &[&str]) -> String {
    let output = leeward(location, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn write_disk(path: &Path, seed: u64) {
    let mut bytes = vec![0; 24 << 20];
    Random::new(7).fill(&mut bytes[..16 << 20]);
    Random::new(seed).fill(&mut bytes[5 << 20..6 << 20]);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_disk_comes_back_from_a_container_byte_for_byte() {
    let Some(azurite) = Azurite::start() else { return };
    let location = azurite.url(CONTAINER, "end-to-end");
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (disk, restored) = (path("disk.raw"), path("restored.raw"));
    let (disk_text, restored_text) = (disk.to_str().unwrap(), restored.to_str().unwrap());

    assert_eq!(leeward(&location, &["images"]).status.code(), Some(7), "nothing is there yet");
    print!("{}", succeeds(&location, &["repo", "init"]));
    assert!(!leeward(&location, &["repo", "init"]).status.success(), "one is there already");
    for seed in [1, 2] {
        write_disk(&disk, seed);
        print!("{}", succeeds(&location, &["backup", disk_text, "web-01"]));
    }
    succeeds(&location, &["check", "--read-data"]);
    succeeds(&location, &["restore", "web-01", restored_text]);
    assert!(std::fs::read(&disk).unwrap() == std::fs::read(&restored).unwrap(), "the restored disk differs");
    succeeds(&location, &["collect"]);
    succeeds(&location, &["check", "--read-data"]);
}
