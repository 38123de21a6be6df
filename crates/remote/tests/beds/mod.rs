//! Servers to test against: those of the test beds that are up. A test that finds none says so and returns.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

pub mod azurite;
pub mod sshd;
pub mod stand_in;

use std::collections::HashMap;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use leeward_remote::{Connection, Environment, Location, connect};
use leeward_store::simulation::conformance::Extent;

/// Where the test beds keep their state.
pub fn beds() -> PathBuf {
    std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from)
}

/// The variables that a bed's `env` file exports.
fn exported(bed: &str) -> Option<HashMap<String, String>> {
    let text = std::fs::read_to_string(beds().join(bed).join("env")).ok()?;
    let words = text.lines().filter(|line| line.starts_with("export ")).flat_map(str::split_whitespace);
    Some(
        words
            .filter_map(|word| word.split_once('='))
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    )
}

/// Whether somebody answers at an endpoint.
pub fn answers(endpoint: &str) -> bool {
    let address = endpoint.split_once("://").unwrap().1.parse().unwrap();
    TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok()
}

pub fn skipped<T>(why: &str) -> Option<T> {
    println!("SKIPPED: {why}");
    None
}

/// How much of the suite is played where each change of an object takes many requests.
pub fn extent() -> Extent {
    if std::env::var_os("LEEWARD_ROUNDS").is_some() { Extent::WHOLE } else { Extent::SMALL }
}

/// A server of S3, with an empty place in it.
pub struct Server {
    pub endpoint: String,
    pub variables: Vec<(String, String)>,
    pub bucket: String,
}

impl Server {
    /// Ceph's, when the test bed is up.
    pub fn ceph() -> Option<Self> {
        let Some(exported) = exported("ceph") else {
            return skipped("the test bed ceph was never started");
        };
        Self::up("ceph", exported["TB_RGW"].clone(), &exported)
    }

    /// That of the test bed `s3`, when it is up and of this kind.
    pub fn s3(kind: &str) -> Option<Self> {
        let Some(exported) = exported("s3") else {
            return skipped(&format!("the test bed s3 was never started (TB_S3_SERVER={kind})"));
        };
        let runs = std::fs::read_to_string(beds().join("s3/server")).unwrap_or_default();
        if runs.trim() != kind {
            return skipped(&format!("the test bed s3 runs {}, not {kind}", runs.trim()));
        }
        Self::up("s3", exported["AWS_ENDPOINT_URL"].clone(), &exported)
    }

    fn up(bed: &str, endpoint: String, exported: &HashMap<String, String>) -> Option<Self> {
        if !answers(&endpoint) {
            return skipped(&format!("the test bed {bed} is not up: nobody answers at {endpoint}"));
        }
        let names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"];
        let variables = names
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), exported.get(*name)?.clone())))
            .collect();
        let server = Self { endpoint, variables, bucket: "leeward-tests".to_owned() };
        server.make_bucket();
        Some(server)
    }

    pub fn environment(&self) -> Environment {
        let variables: Vec<(&str, &str)> =
            self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Environment::of(&variables)
    }

    pub fn location(&self, bucket: &str, prefix: &str) -> Location {
        let text = format!("s3://{bucket}/{prefix}?endpoint={}", self.endpoint);
        Location::parse(&text).unwrap().unwrap()
    }

    /// A connection to a prefix that nobody else has.
    pub fn connect(&self) -> Connection {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        connect(&self.location(&self.bucket, &prefix), &self.environment()).unwrap()
    }

    fn make_bucket(&self) {
        let connection = connect(&self.location(&self.bucket, "x"), &self.environment()).unwrap();
        connection.bare.make().unwrap();
    }
}
