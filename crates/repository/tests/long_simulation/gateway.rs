//! The gateway of Ceph as a store on which lives are played, where its test bed is up.

use std::collections::HashMap;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leeward_remote::{Connection, Environment, Location, connect};
use leeward_repository::PREFIXES;
use leeward_store::bucket::{BucketStore, Comparison};
use leeward_store::{Entry, Key, Object, Result, SharedStore, Store, Version};

use crate::worlds::World;

/// A bucket of its own, so that nobody else's objects are in the way or at risk.
const BUCKET: &str = "leeward-long-simulation";
/// The runs here are small.
const RUN_BYTES_MAX: u64 = 1 << 20;

/// What the test bed says of itself.
fn exported() -> Option<HashMap<String, String>> {
    let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
    let text = std::fs::read_to_string(beds.join("ceph").join("env")).ok()?;
    let words = text.lines().filter(|line| line.starts_with("export ")).flat_map(str::split_whitespace);
    let pairs = words.filter_map(|word| word.split_once('='));
    Some(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn answers(endpoint: &str) -> bool {
    let address = endpoint.split_once("://").and_then(|(_, address)| address.parse().ok());
    address.is_some_and(|address| TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok())
}

/// One prefix of the bucket; it is emptied in the end, also when the test fails.
pub struct GatewayWorld {
    connection: Connection,
}

impl GatewayWorld {
    /// An empty place at the gateway, or why there is none.
    pub fn new() -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let exported = exported().ok_or("the test bed ceph was never started")?;
        let endpoint = exported.get("TB_RGW").ok_or("the test bed ceph does not tell its endpoint")?;
        if !answers(endpoint) {
            return Err(format!("the test bed ceph is not up: nobody answers at {endpoint}"));
        }
        let variables: Vec<(&str, &str)> =
            exported.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let place = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let location = Location::parse(&format!("s3://{BUCKET}/{place}?endpoint={endpoint}"));
        let location = location.unwrap().unwrap();
        let connection = connect(&location, &Environment::of(&variables)).unwrap();
        connection.bare.use_bare_tags(true);
        connection.bare.make().unwrap();
        Ok(Self { connection })
    }

    fn empty(&self) -> Result<()> {
        let bucket = &self.connection.bucket;
        for prefix in PREFIXES {
            for entry in bucket.list(prefix)? {
                bucket.delete(&entry.key)?;
            }
        }
        Key::new("config").map_or(Ok(()), |config| bucket.delete(&config))
    }
}

impl Drop for GatewayWorld {
    fn drop(&mut self) {
        if let Err(error) = self.empty() {
            eprintln!("bucket {BUCKET} was not emptied: {error}");
        }
    }
}

impl World for GatewayWorld {
    fn plain(&self) -> SharedStore {
        let bucket = Arc::clone(&self.connection.bucket);
        Arc::new(WholeRuns(BucketStore::new(bucket, Comparison::Native).unwrap()))
    }
}

/// A store that reads the runs of the index whole when they are opened, as the local cache of the command line does: a lookup
/// in one reads 48 bytes, and each of them would be a request.
struct WholeRuns(BucketStore);

struct InMemory(Vec<u8>);

impl Object for InMemory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let start = offset as usize;
        buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
        Ok(())
    }
}

impl Store for WholeRuns {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn requests_at_once(&self) -> usize {
        self.0.requests_at_once()
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn Object>> {
        if !key.as_str().starts_with("index/") {
            return self.0.open(key);
        }
        Ok(Arc::new(InMemory(self.0.get(key, RUN_BYTES_MAX)?.0)))
    }

    fn get(&self, key: &Key, size_max: u64) -> Result<(Vec<u8>, Version)> {
        self.0.get(key, size_max)
    }

    fn put_if_absent(&self, key: &Key, parts: &[&[u8]]) -> Result<()> {
        self.0.put_if_absent(key, parts)
    }

    fn put_if_match(&self, key: &Key, content: &[u8], expected: &Version) -> Result<()> {
        self.0.put_if_match(key, content, expected)
    }

    fn delete(&self, key: &Key) -> Result<bool> {
        self.0.delete(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        self.0.list(prefix)
    }

    fn settle(&self, prefix: &str) -> Result<()> {
        self.0.settle(prefix)
    }

    fn sweep_leftovers(&self) -> Result<u64> {
        self.0.sweep_leftovers()
    }
}
