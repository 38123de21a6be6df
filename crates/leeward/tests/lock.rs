//! Locks against whoever has the keys of the bucket: everything is deleted, and comes back. Runs where the test bed `ceph` is
//! up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use leeward_store::simulation::Random;

const KEYS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "testbed"),
    ("AWS_SECRET_ACCESS_KEY", "testbed-secret-0123456789abcdef"),
    ("AWS_REGION", "default"),
];

/// Whoever owns the bucket, by Amazon's own library. Arguments: what to do, endpoint, bucket.
const OWNER: &str = r#"
import sys, boto3
from botocore.exceptions import ClientError
what, endpoint, bucket = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, region_name="default")
def versions():
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for entry in page.get("Versions", []): yield entry, True
        for entry in page.get("DeleteMarkers", []): yield entry, False
if what == "make":
    s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
elif what == "wreck":
    keys = sorted({entry["Key"] for entry, _ in versions()})
    for number, key in enumerate(keys):
        if number % 3 == 0: s3.put_object(Bucket=bucket, Key=key, Body=b"encrypted by bad people")
        s3.delete_object(Bucket=bucket, Key=key)
    kept = 0
    for entry, is_version in list(versions()):
        if not is_version: continue
        try: s3.delete_object(Bucket=bucket, Key=entry["Key"], VersionId=entry["VersionId"])
        except ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDenied", error
            kept += 1
    print(kept)
elif what == "remove":
    for entry, _ in list(versions()):
        s3.delete_object(Bucket=bucket, Key=entry["Key"], VersionId=entry["VersionId"], BypassGovernanceRetention=True)
    s3.delete_bucket(Bucket=bucket)
"#;

struct Bucket {
    endpoint: String,
    name: String,
}

impl Bucket {
    /// A bucket with object lock, when the test bed is up and the library is there.
    fn new() -> Option<Self> {
        let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
        let text = std::fs::read_to_string(beds.join("ceph/env")).unwrap_or_default();
        let endpoint = text.lines().find_map(|line| line.strip_prefix("export TB_RGW="));
        let answers = |endpoint: &&str| {
            let address = endpoint.trim_start_matches("http://").parse().unwrap();
            std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(2)).is_ok()
        };
        let Some(endpoint) = endpoint.filter(answers) else {
            println!("SKIPPED: the test bed ceph is not up");
            return None;
        };
        if !Command::new("/usr/bin/python3").args(["-c", "import boto3"]).status().unwrap().success() {
            println!("SKIPPED: python3-boto3 is not installed");
            return None;
        }
        let bucket =
            Self { endpoint: endpoint.to_owned(), name: format!("leeward-lock-{}", std::process::id()) };
        bucket.owner("make");
        Some(bucket)
    }

    fn owner(&self, what: &str) -> String {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", OWNER, what, &self.endpoint, &self.name]).envs(KEYS);
        let output = python.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn location(&self) -> String {
        format!("s3://{}/east?endpoint={}", self.name, self.endpoint)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.owner("remove");
        }
    }
}

fn leeward(location: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_leeward"))
        .args(["-r", location])
        .args(arguments)
        .env("LEEWARD_CACHE_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"))
        .envs(KEYS)
        .output()
        .unwrap()
}

fn succeeds(location: &str, arguments: &[&str]) -> String {
    let output = leeward(location, arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn write_disk(path: &Path, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; 8 << 20];
    Random::new(7).fill(&mut bytes[..6 << 20]);
    Random::new(seed).fill(&mut bytes[2 << 20..3 << 20]);
    std::fs::write(path, &bytes).unwrap();
    bytes
}

#[test]
fn what_is_locked_survives_whoever_has_the_keys_of_the_bucket() {
    let Some(bucket) = Bucket::new() else { return };
    let location = bucket.location();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (disk, restored, clone) = (path("disk.raw"), path("restored.raw"), path("clone"));

    succeeds(&location, &["repo", "init"]);
    write_disk(Path::new(&disk), 1);
    succeeds(&location, &["backup", &disk, "web-01"]);
    let bytes = write_disk(Path::new(&disk), 2);
    succeeds(&location, &["backup", &disk, "web-01"]);

    let unlocked = leeward(&location, &["check", "--locks", "1h"]);
    let told = String::from_utf8_lossy(&unlocked.stdout).into_owned();
    assert_eq!(unlocked.status.code(), Some(4), "{told}");
    assert!(told.contains("UNLOCKED refs/") && told.contains("UNLOCKED packs/"), "{told}");
    let planned = succeeds(&location, &["lock", "--for", "1h", "--dry-run"]);
    assert!(planned.contains(" 0 are locked long enough"), "{planned}");
    print!("{}", succeeds(&location, &["lock", "--for", "1h"]));
    let again = succeeds(&location, &["lock", "--for", "1h"]);
    assert!(again.contains(", 0 were locked"), "{again}");
    succeeds(&location, &["check", "--locks", "1h"]);
    // Longer than what they have.
    assert_eq!(leeward(&location, &["check", "--locks", "3h"]).status.code(), Some(4));

    // Times of versions are told to the millisecond, and the wrecking begins after this moment.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let then = jiff::Timestamp::now();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let kept: usize = bucket.owner("wreck").parse().unwrap();
    assert!(kept > 4, "{kept}");
    assert_eq!(leeward(&location, &["images"]).status.code(), Some(7), "all is gone");

    let past = format!("{location}&at={then}");
    succeeds(&past, &["restore", "web-01", &restored]);
    assert!(std::fs::read(&restored).unwrap() == bytes, "the restored disk differs");
    succeeds(&past, &["check", "--read-data"]);
    let changed = leeward(&past, &["forget", "web-01@~0"]);
    assert!(String::from_utf8_lossy(&changed.stderr).contains("cannot be changed"), "{changed:?}");
    let cloned = Command::new(env!("CARGO_BIN_EXE_leeward"))
        .args(["clone", &past, &clone])
        .envs(KEYS)
        .output()
        .unwrap();
    assert!(cloned.status.success(), "{}", String::from_utf8_lossy(&cloned.stderr));
    succeeds(&clone, &["check", "--read-data"]);
    let nothing = format!("{location}&at=2020-01-01T00:00:00Z");
    assert_eq!(leeward(&nothing, &["images"]).status.code(), Some(7));
}
