//! A repository in a container of Swift, by the real binary. Runs where the test beds `ceph` and `openstack` are up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use leeward_store::simulation::Random;

/// One container that can be reached, and how.
struct Container {
    location: String,
    variables: Vec<(&'static str, String)>,
}

fn beds() -> PathBuf {
    std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from)
}

fn answers(address: &str) -> bool {
    let answers =
        std::net::TcpStream::connect_timeout(&address.parse().unwrap(), std::time::Duration::from_secs(2))
            .is_ok();
    if !answers {
        println!("SKIPPED: the test bed is not up: nobody answers at {address}");
    }
    answers
}

impl Container {
    fn of(variables: Vec<(&'static str, String)>, options: &str) -> Self {
        let location = format!("swift://leeward-tests/end-to-end-{}{options}", std::process::id());
        let container = Self { location, variables };
        container.make();
        container
    }

    /// Makes it with Swift's own client, or leaves it.
    fn make(&self) {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", "from swiftclient.shell import main; main(['swift', 'post', 'leeward-tests'])"]);
        let output = command.envs(self.variables.clone()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn leeward(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leeward"));
        command.env("LEEWARD_CACHE_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));
        command.args(["-r", &self.location]).args(arguments).envs(self.variables.clone()).output().unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) {
        let output = self.leeward(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn has_client() -> bool {
    let found = Command::new("/usr/bin/python3").args(["-c", "import swiftclient"]).output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        println!("SKIPPED: python3-swiftclient is not installed");
    }
    found
}

fn write_disk(path: &Path, seed: u64) {
    let mut bytes = vec![0; 24 << 20];
    Random::new(7).fill(&mut bytes[..12 << 20]);
    Random::new(seed).fill(&mut bytes[5 << 20..6 << 20]);
    std::fs::write(path, bytes).unwrap();
}

fn comes_back(container: &Container) {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (disk, restored) = (path("disk.raw"), path("restored.raw"));
    assert_eq!(container.leeward(&["images"]).status.code(), Some(7), "nothing is there yet");
    container.succeeds(&["repo", "init"]);
    assert!(!container.leeward(&["repo", "init"]).status.success(), "one is there already");
    for seed in [1, 2] {
        write_disk(&disk, seed);
        container.succeeds(&["backup", disk.to_str().unwrap(), "web-01"]);
    }
    container.succeeds(&["check", "--read-data"]);
    container.succeeds(&["restore", "web-01", restored.to_str().unwrap()]);
    assert!(std::fs::read(&disk).unwrap() == std::fs::read(&restored).unwrap(), "the restored disk differs");
    container.succeeds(&["collect"]);
    container.succeeds(&["check", "--read-data"]);
}

#[test]
fn a_disk_comes_back_from_cephs_gateway_byte_for_byte() {
    if !has_client() || !answers("127.0.0.1:7480") {
        return;
    }
    let variables = vec![
        ("ST_AUTH", "http://127.0.0.1:7480/auth/1.0".to_owned()),
        ("ST_USER", "testbed:swift".to_owned()),
        ("ST_KEY", "swift-secret".to_owned()),
    ];
    comes_back(&Container::of(variables, ""));
}

#[test]
fn a_disk_comes_back_from_openstacks_swift_byte_for_byte() {
    if !has_client() || !answers("127.0.0.11:5000") {
        return;
    }
    let clouds = beds().join("openstack/clouds.yaml").to_str().unwrap().to_owned();
    let variables = vec![
        ("OS_CLIENT_CONFIG_FILE", clouds),
        ("OS_CLOUD", "primary".to_owned()),
        // For Swift's own client, which knows no clouds.yaml.
        ("OS_AUTH_URL", "http://127.0.0.11:5000/v3".to_owned()),
        ("OS_IDENTITY_API_VERSION", "3".to_owned()),
        ("OS_USERNAME", "demo".to_owned()),
        ("OS_PASSWORD", "testbed-demo".to_owned()),
        ("OS_PROJECT_NAME", "demo".to_owned()),
        ("OS_USER_DOMAIN_NAME", "Default".to_owned()),
        ("OS_PROJECT_DOMAIN_NAME", "Default".to_owned()),
    ];
    // This Swift has one replica, whose container server answers before the object server does.
    comes_back(&Container::of(variables, "?lag=0"));
}
