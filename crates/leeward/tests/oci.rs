//! A repository in a bucket of OCI Object Storage, by the real binary. Runs where the test bed `oci` is up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use leeward_remote::{Environment, Location, connect};
use leeward_store::simulation::Random;

const ADDRESS: &str = "127.0.0.1:12780";

/// A bucket of the test bed.
struct Bucket {
    location: String,
    configuration: String,
}

impl Bucket {
    fn find() -> Option<Self> {
        let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
        let state = beds.join("oci/state");
        let site = std::fs::read_to_string(state.join("site.json"));
        let limit = std::time::Duration::from_secs(2);
        let is_up = std::net::TcpStream::connect_timeout(&ADDRESS.parse().unwrap(), limit).is_ok();
        let (Ok(site), true) = (site, is_up) else {
            println!("SKIPPED: the test bed oci is not up: nobody answers at {ADDRESS}");
            return None;
        };
        let site: serde_json::Value = serde_json::from_str(&site).unwrap();
        let namespace = site["namespace"].as_str().unwrap();
        let place = format!("leeward-tests@{namespace}/end-to-end-{}", std::process::id());
        let location = format!("oci://{place}?endpoint=http://{ADDRESS}");
        let bucket = Self { location, configuration: state.join("config").to_str().unwrap().to_owned() };
        let location = Location::parse(&bucket.location).unwrap().unwrap();
        let environment = Environment::of(&[("OCI_CONFIG_FILE", bucket.configuration.as_str())]);
        connect(&location, &environment).unwrap().bare.make().unwrap();
        Some(bucket)
    }

    fn leeward(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leeward"));
        command.env("LEEWARD_CACHE_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));
        command.args(["-r", &self.location]).args(arguments).env("OCI_CONFIG_FILE", &self.configuration);
        command.output().unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) {
        let output = self.leeward(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn write_disk(path: &Path, seed: u64) {
    let mut bytes = vec![0; 24 << 20];
    Random::new(7).fill(&mut bytes[..12 << 20]);
    Random::new(seed).fill(&mut bytes[5 << 20..6 << 20]);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_disk_comes_back_from_oracles_object_storage_byte_for_byte() {
    let Some(bucket) = Bucket::find() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (disk, restored) = (path("disk.raw"), path("restored.raw"));
    assert_eq!(bucket.leeward(&["images"]).status.code(), Some(7), "nothing is there yet");
    bucket.succeeds(&["repo", "init"]);
    assert!(!bucket.leeward(&["repo", "init"]).status.success(), "one is there already");
    for seed in [1, 2] {
        write_disk(&disk, seed);
        bucket.succeeds(&["backup", disk.to_str().unwrap(), "web-01"]);
    }
    bucket.succeeds(&["check", "--read-data"]);
    bucket.succeeds(&["restore", "web-01", restored.to_str().unwrap()]);
    assert!(std::fs::read(&disk).unwrap() == std::fs::read(&restored).unwrap(), "the restored disk differs");
    bucket.succeeds(&["collect"]);
    bucket.succeeds(&["check", "--read-data"]);
}
