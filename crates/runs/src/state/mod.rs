//! Where runs are kept: a trait, with SQLite and PostgreSQL behind it.
//!
//! A state knows no rules of runs. It keeps documents and changes them by comparison, gives leases, and keeps what steps
//! write down on the way (log, progress, checkpoints). All times that decide anything are the state's own, so that several
//! daemons agree on them.

mod convert;
#[cfg(feature = "postgres")]
mod postgres;
mod records;
mod sqlite;

#[cfg(feature = "postgres")]
pub use postgres::{PostgresFailure, PostgresOptions, PostgresPool, PostgresState, PostgresWork, Roots};
pub use records::{
    Claim, Filter, Inserted, Lease, Level, LogLine, LoggedLine, Order, Page, Progress, Replaced, StoredEvent,
    Summary,
};
pub use sqlite::SqliteState;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::{Event, Result, Run, RunId};

/// Where runs are kept. Every method is whole: done and on disk, or not done.
pub trait State: Send + Sync {
    /// Where it is, for messages; without secrets.
    fn place(&self) -> String;

    /// The state's clock.
    ///
    /// # Errors
    /// The database fails.
    fn now(&self) -> Result<Timestamp>;

    /// Keeps a new run. Where a run was made with the same key before, that one's name is returned and nothing is kept.
    ///
    /// # Errors
    /// The database fails.
    fn insert(&self, run: &Run, unique: Option<&str>) -> Result<Inserted>;

    /// A run, and who has it.
    ///
    /// # Errors
    /// The database fails, or what it has is damaged.
    fn load(&self, run: &RunId) -> Result<Option<(Run, Option<Lease>)>>;

    /// Replaces a run that has `sequence_was`, and keeps what happened. With `fence`, only while that claim is the newest.
    /// The run's own `sequence` and `fence` do not matter; the state counts.
    ///
    /// # Errors
    /// The database fails.
    fn replace(&self, run: &Run, sequence_was: u64, fence: Option<u64>, events: &[Event])
    -> Result<Replaced>;

    /// Runs as a listing shows them.
    ///
    /// # Errors
    /// The database fails.
    fn list(&self, filter: &Filter) -> Result<Page>;

    /// How many runs stand where, by kind and state.
    ///
    /// # Errors
    /// The database fails.
    fn counts(&self) -> Result<Vec<(String, crate::RunState, u64)>>;

    /// Takes up to `most` live runs that nobody has: first those that are being cancelled or undone, which wait for no place;
    /// then those that have their places from an engine that died, whatever the limits are now; then the others, oldest
    /// first, each with a place in each of its pools. A pool that `limits` does not name has no limit. A run that finds no
    /// place lets pass only those with other pools. None of `except`.
    ///
    /// # Errors
    /// The database fails.
    fn claim(
        &self,
        owner: &str,
        lease: Duration,
        most: usize,
        limits: &BTreeMap<String, u32>,
        except: &[RunId],
    ) -> Result<Vec<Claim>>;

    /// Prolongs leases; returns the claims that are still the newest ones of their runs, with the runs' present sequence.
    ///
    /// # Errors
    /// The database fails.
    fn renew(&self, claims: &[Claim], lease: Duration) -> Result<Vec<(Claim, u64)>>;

    /// Gives a run back, with its places in pools; nothing where the claim is not the newest one.
    ///
    /// # Errors
    /// The database fails.
    fn release(&self, claim: &Claim) -> Result<()>;

    /// Keeps lines of a step's log.
    ///
    /// # Errors
    /// The database fails.
    fn log(&self, lines: &[LogLine]) -> Result<()>;

    /// Lines of a run's log after a number, oldest first.
    ///
    /// # Errors
    /// The database fails.
    fn logged(&self, run: &RunId, step: Option<&str>, after: u64, most: usize) -> Result<Vec<LoggedLine>>;

    /// What happened after a number, oldest first: to one run, or to all. Once an event was seen, none with a smaller
    /// number will appear.
    ///
    /// # Errors
    /// The database fails.
    fn events(&self, run: Option<&RunId>, after: u64, most: usize) -> Result<Vec<StoredEvent>>;

    /// The number of the latest event; 0 where there is none.
    ///
    /// # Errors
    /// The database fails.
    fn last_event(&self) -> Result<u64>;

    /// Keeps how far a step is.
    ///
    /// # Errors
    /// The database fails.
    fn set_progress(&self, run: &RunId, step: &str, progress: &Progress) -> Result<()>;

    /// How far the steps of a run are, by name.
    ///
    /// # Errors
    /// The database fails.
    fn progress(&self, run: &RunId) -> Result<BTreeMap<String, Progress>>;

    /// Keeps what a step needs for its next attempt; false where the claim is not the newest one, and nothing is kept.
    ///
    /// # Errors
    /// The database fails.
    fn set_checkpoint(&self, claim: &Claim, step: &str, checkpoint: &Value) -> Result<bool>;

    /// What a step kept.
    ///
    /// # Errors
    /// The database fails.
    fn checkpoint(&self, run: &RunId, step: &str) -> Result<Option<Value>>;

    /// Forgets runs that ended before a time, with all that belongs to them; returns how many. Runs whose undoing failed stay:
    /// something of theirs is left in the world.
    ///
    /// # Errors
    /// The database fails.
    fn forget_ended_before(&self, time: Timestamp) -> Result<u64>;
}
