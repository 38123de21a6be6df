//! A state whose answers are lost at random: before anything was done, or after all was done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use leeward_runs::state::{
    Claim, Filter, Inserted, Lease, LogLine, LoggedLine, Page, Progress, Replaced, State, StoredEvent,
};
use leeward_runs::{Error, Event, Result, Run, RunId, RunState};
use serde_json::Value;

pub struct Faulty {
    inner: Arc<dyn State>,
    random: AtomicU64,
    pub is_on: AtomicBool,
}

impl Faulty {
    pub fn new(inner: Arc<dyn State>, seed: u64) -> Self {
        Self { inner, random: AtomicU64::new(seed | 1), is_on: AtomicBool::new(true) }
    }

    /// One time in eight.
    fn strikes(&self) -> bool {
        let step = |seed: u64| Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        let seed = self.random.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap();
        self.is_on.load(Ordering::Relaxed) && (seed >> 40).is_multiple_of(8)
    }

    fn lossy<T>(&self, act: impl FnOnce(&dyn State) -> Result<T>) -> Result<T> {
        let lost = || {
            let source = "the connection was cut".into();
            Err(Error::Database { place: self.place(), action: "do anything", source })
        };
        if self.strikes() {
            return lost();
        }
        let result = act(&*self.inner);
        if self.strikes() { lost() } else { result }
    }
}

macro_rules! lossy {
    ($($name:ident($($given:ident: $of:ty),*) -> $result:ty;)*) => {
        impl State for Faulty {
            fn place(&self) -> String {
                self.inner.place()
            }
            $(fn $name(&self, $($given: $of),*) -> Result<$result> {
                self.lossy(|inner| inner.$name($($given),*))
            })*
        }
    };
}

lossy! {
    now() -> Timestamp;
    insert(run: &Run, unique: Option<&str>) -> Inserted;
    load(run: &RunId) -> Option<(Run, Option<Lease>)>;
    replace(run: &Run, sequence_was: u64, fence: Option<u64>, events: &[Event]) -> Replaced;
    list(filter: &Filter) -> Page;
    counts() -> Vec<(String, RunState, u64)>;
    claim(owner: &str, lease: Duration, most: usize, limits: &BTreeMap<String, u32>, except: &[RunId]) -> Vec<Claim>;
    renew(claims: &[Claim], lease: Duration) -> Vec<(Claim, u64)>;
    release(claim: &Claim) -> ();
    log(lines: &[LogLine]) -> ();
    logged(run: &RunId, step: Option<&str>, after: u64, most: usize) -> Vec<LoggedLine>;
    events(run: Option<&RunId>, after: u64, most: usize) -> Vec<StoredEvent>;
    last_event() -> u64;
    set_progress(run: &RunId, step: &str, progress: &Progress) -> ();
    progress(run: &RunId) -> BTreeMap<String, Progress>;
    set_checkpoint(claim: &Claim, step: &str, checkpoint: &Value) -> bool;
    checkpoint(run: &RunId, step: &str) -> Option<Value>;
    forget_ended_before(time: Timestamp) -> u64;
}
