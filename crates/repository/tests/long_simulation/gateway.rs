//! The gateway of Ceph as a store on which lives are played, where its test bed is up.

use std::collections::HashMap;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leeward_remote::{Connection, Environment, Location, connect};
use leeward_repository::PREFIXES;
use leeward_store::bucket::{BucketStore, Comparison, RequestCounts};
use leeward_store::{CACHE_BYTES_MAX, CacheOptions, CachedStore, Key, Result, SharedStore};
use tempfile::TempDir;

use crate::life::MACHINES;
use crate::stage::{Stage, Staged};
use crate::worlds::World;

/// A bucket of its own, so that nobody else's objects are in the way or at risk.
const BUCKET: &str = "leeward-long-simulation";

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
    /// The caches of the machines, and of each who examines.
    caches: TempDir,
    opened: AtomicU64,
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
        let caches = tempfile::tempdir().map_err(|error| format!("no directory for caches: {error}"))?;
        Ok(Self { connection, caches, opened: AtomicU64::new(0) })
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

/// Whether an object is what its key says, as the command line judges it before it keeps one.
fn is_sound(key: &Key, content: &[u8]) -> bool {
    leeward_repository::verify::verify_object(key.as_str(), content).is_ok()
}

impl GatewayWorld {
    fn store(&self) -> SharedStore {
        let bucket = Arc::clone(&self.connection.bucket);
        Arc::new(BucketStore::new(bucket, Comparison::Native).unwrap())
    }

    fn cached(&self, store: SharedStore, directory: &str, keeps_writes: bool) -> SharedStore {
        let directory = self.caches.path().join(directory);
        CachedStore::wrap(
            store,
            &CacheOptions { directory, bytes_max: CACHE_BYTES_MAX, keeps_writes, is_sound },
        )
    }
}

impl World for GatewayWorld {
    /// With an empty cache, as the command line has it for those who examine a repository: nothing comes from earlier.
    fn plain(&self) -> SharedStore {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        self.cached(self.store(), &format!("examined-{number}"), false)
    }

    /// With the cache of its machine, above the stage: what the cache answers takes no turn.
    fn staged(&self, stage: &Arc<Stage>, process: u64) -> SharedStore {
        let staged = Staged { store: self.store(), stage: Arc::clone(stage), process };
        self.cached(Arc::new(staged), &format!("machine-{}", process % MACHINES), true)
    }

    fn requests(&self) -> Option<RequestCounts> {
        Some(self.connection.requests.counts())
    }
}
