//! A repository in a bucket of Ceph, by the real binary. Runs where the test bed `ceph` is up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use leeward_remote::{Environment, Location, connect};
use leeward_store::simulation::Random;

const KEYS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "testbed"),
    ("AWS_SECRET_ACCESS_KEY", "testbed-secret-0123456789abcdef"),
    ("AWS_REGION", "default"),
];

/// Not that of whoever runs the tests.
const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/cache");

/// The endpoint of the test bed, when somebody answers there.
fn endpoint() -> Option<String> {
    let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
    let text = std::fs::read_to_string(beds.join("ceph/env")).unwrap_or_default();
    let found = text.lines().find_map(|line| line.strip_prefix("export TB_RGW="));
    let answers = |endpoint: &&str| {
        let address = endpoint.trim_start_matches("http://").parse().unwrap();
        std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(2)).is_ok()
    };
    let up = found.filter(answers).map(str::to_owned);
    if up.is_none() {
        println!("SKIPPED: the test bed ceph is not up");
    }
    up
}

fn leeward(location: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leeward"));
    command
        .args(["-r", location])
        .args(arguments)
        .envs(KEYS)
        .env("LEEWARD_CACHE_DIR", CACHE)
        .output()
        .unwrap()
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
fn a_disk_comes_back_from_a_bucket_byte_for_byte() {
    let Some(endpoint) = endpoint() else {
        return;
    };
    let location = format!("s3://leeward-tests/end-to-end-{}?endpoint={endpoint}", std::process::id());
    let parsed = Location::parse(&location).unwrap().unwrap();
    connect(&parsed, &Environment::of(&KEYS)).unwrap().bare.make().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (disk, restored) = (path("disk.raw"), path("restored.raw"));
    let (disk_text, restored_text) = (disk.to_str().unwrap(), restored.to_str().unwrap());

    assert_eq!(leeward(&location, &["images"]).status.code(), Some(7), "nothing is there yet");
    let missing = format!("s3://leeward-tests-missing/end-to-end?endpoint={endpoint}");
    for arguments in [["images"].as_slice(), &["repo", "init"]] {
        let refused = leeward(&missing, arguments);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(7), "{told}");
        assert!(told.contains("NoSuchBucket") && told.contains("make the bucket"), "{told}");
    }
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
