//! A repository in a directory of a server, reached by SFTP, by the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

#[path = "../../remote/tests/beds/sshd.rs"]
mod sshd;

use std::path::Path;
use std::process::{Command, Output};

use leeward_store::simulation::Random;
use sshd::Sshd;

fn leeward(server: &Sshd, location: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leeward"));
    command.args(["-r", location]).args(arguments).envs(server.variables()).output().unwrap()
}

fn succeeds(server: &Sshd, location: &str, arguments: &[&str]) -> String {
    let output = leeward(server, location, arguments);
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
fn a_disk_comes_back_from_a_directory_of_a_server_byte_for_byte() {
    let Some(server) = Sshd::start() else { return };
    let location = server.url("end-to-end");
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (disk, restored) = (path("disk.raw"), path("restored.raw"));
    let (disk_text, restored_text) = (disk.to_str().unwrap(), restored.to_str().unwrap());

    assert_eq!(leeward(&server, &location, &["images"]).status.code(), Some(7), "nothing is there yet");
    print!("{}", succeeds(&server, &location, &["repo", "init"]));
    assert!(!leeward(&server, &location, &["repo", "init"]).status.success(), "one is there already");
    for seed in [1, 2] {
        write_disk(&disk, seed);
        print!("{}", succeeds(&server, &location, &["backup", disk_text, "web-01"]));
    }
    succeeds(&server, &location, &["check", "--read-data"]);
    succeeds(&server, &location, &["restore", "web-01", restored_text]);
    assert!(std::fs::read(&disk).unwrap() == std::fs::read(&restored).unwrap(), "the restored disk differs");
    succeeds(&server, &location, &["collect"]);
    succeeds(&server, &location, &["check", "--read-data"]);
}

#[test]
fn a_repository_that_was_made_in_a_local_directory_is_not_opened_from_afar() {
    let Some(server) = Sshd::start() else { return };
    let local = server.data().join("local");
    succeeds(&server, local.to_str().unwrap(), &["repo", "init"]);
    let output = leeward(&server, &server.url("local"), &["images"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("open it where it lies"), "{text}");
}
