//! The stores on which lives are played.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use leeward_repository::PREFIXES;
use leeward_store::bucket::{Comparison, RequestCounts, SharedBucket, VersionedStore};
use leeward_store::simulation::SimulatedFileSystem;
use leeward_store::simulation::bucket::{Habits, MemoryBucket};
use leeward_store::{DirectoryStore, SharedStore};

use crate::common::ROOT;
use crate::stage::{Stage, Staged, StagedBucket};

/// A store that many processes share.
pub trait World {
    /// The store as one more process sees it, outside the turns of a stage.
    fn plain(&self) -> SharedStore;

    /// The store as a process sees it that takes turns with others.
    fn staged(&self, stage: &Arc<Stage>, process: u64) -> SharedStore {
        Arc::new(Staged { store: self.plain(), stage: Arc::clone(stage), process })
    }

    /// Who is to be killed is killed within so many turns.
    fn turns_max(&self) -> u64 {
        90
    }

    /// Whether an operation may fail in passing, though its process lives.
    fn may_fail(&self) -> bool {
        false
    }

    /// Lets the service fail as it does now and then, or not at all.
    fn set_failing(&self, _fails: bool) {}

    /// What requests the service was sent, where there is one.
    fn requests(&self) -> Option<RequestCounts> {
        None
    }
}

/// A directory on a file system in memory; each process has its own view.
pub struct DirectoryWorld(SimulatedFileSystem);

impl DirectoryWorld {
    pub fn new() -> Self {
        let files = SimulatedFileSystem::new();
        DirectoryStore::create_on(Arc::new(files.clone()), Path::new(ROOT), &PREFIXES).unwrap();
        Self(files)
    }
}

impl World for DirectoryWorld {
    fn plain(&self) -> SharedStore {
        Arc::new(DirectoryStore::open_on(Arc::new(self.0.spawn()), Path::new(ROOT)).unwrap())
    }
}

/// How long reads and listings of the simulated service may lag behind writes.
const LAG: Duration = Duration::from_secs(3);

/// A service that compares nothing, whose reads and listings lag and whose listings are no picture of one moment. Requests
/// take turns one by one.
pub struct BucketWorld {
    bucket: MemoryBucket,
    /// What it does to those who use it, at its worst.
    habits: Habits,
}

impl BucketWorld {
    /// Two of three seeds have requests that fail: before they took effect, after, or long before it.
    pub fn new(seed: u64) -> Self {
        let percent = [0, 2, 5][(seed % 3) as usize];
        let habits = Habits {
            lag: LAG,
            has_torn_listings: true,
            refused_percent: percent,
            lost_percent: percent,
            late_percent: percent,
        };
        let bucket = MemoryBucket::new(Comparison::None, Self::calm(habits), seed);
        // The stage orders the requests: nobody has to step aside in real time.
        bucket.set_hook(Some(Arc::new(|_| {})));
        Self { bucket, habits }
    }

    fn calm(habits: Habits) -> Habits {
        Habits { refused_percent: 0, lost_percent: 0, late_percent: 0, ..habits }
    }

    fn store(bucket: SharedBucket, client: Arc<MemoryBucket>) -> SharedStore {
        let store = VersionedStore::new(bucket, Comparison::None).unwrap();
        Arc::new(store.with_lag(LAG).with_surroundings(client))
    }
}

impl World for BucketWorld {
    fn plain(&self) -> SharedStore {
        let client = Arc::new(self.bucket.client());
        Self::store(Arc::clone(&client) as SharedBucket, client)
    }

    fn staged(&self, stage: &Arc<Stage>, process: u64) -> SharedStore {
        let client = Arc::new(self.bucket.client());
        let bucket = Arc::clone(&client) as SharedBucket;
        Self::store(Arc::new(StagedBucket { bucket, stage: Arc::clone(stage), process }), client)
    }

    fn turns_max(&self) -> u64 {
        150
    }

    fn may_fail(&self) -> bool {
        true
    }

    fn set_failing(&self, fails: bool) {
        self.bucket.set_habits(if fails { self.habits } else { Self::calm(self.habits) });
    }
}
