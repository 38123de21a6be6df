//! Runs in PostgreSQL, which several daemons share.
//!
//! Why it holds what [`State`] promises:
//! - a change locks its run's row, compares, and commits with it; commits are on the server's disk before they are answered
//!   ([`pool`] sees to that);
//! - events get their numbers under one advisory lock that is held until the commit, so they become visible in the order of
//!   their numbers. A transaction takes that lock last, after all locks on rows, so that no two wait for each other;
//! - who takes runs holds another advisory lock: places in pools are counted by one daemon at a time. It skips rows that
//!   are locked, so it waits for nobody's row;
//! - leases begin and end by the server's clock, whatever the daemons' clocks say.
//!
//! A commit whose answer is lost (the server restarts) may have been done or not. That is an error to the caller, who reads
//! the run again: changes are by comparison, so nothing is done twice.
//!
//! The client is a blocking one: call it from ordinary threads, not from tasks of an async runtime.

mod claims;
mod connect;
mod documents;
mod pool;
mod schema;
mod steps;
mod work;

pub use connect::{PostgresOptions, Roots};
pub use pool::Pool as PostgresPool;
pub use work::{Failure as PostgresFailure, Work as PostgresWork};

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::State;
use super::convert::{FORGOTTEN_AT_ONCE, span, time};
use super::records::{
    Claim, Filter, Inserted, Lease, LogLine, LoggedLine, Page, Progress, Replaced, StoredEvent,
};
use crate::{Error, Event, Result, Run, RunId, RunState};
use pool::Pool;
use work::NOW;

/// Runs in a database of PostgreSQL.
pub struct PostgresState {
    pool: Pool,
}

impl PostgresState {
    /// Connects, and makes the tables where there are none.
    ///
    /// # Errors
    /// The options are refused, the server cannot be reached, or the tables are of a newer release.
    pub fn open(options: &PostgresOptions) -> Result<Self> {
        let pool = Pool::new(options)?;
        let found = pool.write("make the tables", schema::prepare)?;
        match found {
            Some(found) => Err(Error::Newer { place: pool.place().to_owned(), found, known: schema::SCHEMA }),
            None => Ok(Self { pool }),
        }
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, run: &str, body: &str) -> Result<T> {
        serde_json::from_str(body).map_err(|error| self.damaged(run, error.to_string()))
    }

    fn damaged(&self, run: &str, what: String) -> Error {
        Error::Damaged { place: self.place(), run: run.to_owned(), what }
    }
}

impl State for PostgresState {
    fn place(&self) -> String {
        self.pool.place().to_owned()
    }

    fn now(&self) -> Result<Timestamp> {
        self.pool.read("read the clock", |work| {
            let row = work.one(&format!("SELECT {NOW}"), &[])?;
            Ok(time(row.try_get(0)?))
        })
    }

    fn insert(&self, run: &Run, unique: Option<&str>) -> Result<Inserted> {
        let found = self.pool.write("keep a run", |work| documents::insert(work, run, unique))?;
        match found {
            None => Ok(Inserted::New),
            Some(id) => {
                RunId::try_from(id.clone()).map(Inserted::Exists).map_err(|what| self.damaged(&id, what))
            }
        }
    }

    fn load(&self, run: &RunId) -> Result<Option<(Run, Option<Lease>)>> {
        let Some(found) = self.pool.read("read a run", |work| documents::load(work, run))? else {
            return Ok(None);
        };
        let parsed: Run = self.parse(run.as_str(), &found.body)?;
        Ok(Some((Run { fence: found.fence, sequence: found.sequence, ..parsed }, found.lease)))
    }

    fn replace(
        &self,
        run: &Run,
        sequence_was: u64,
        fence: Option<u64>,
        events: &[Event],
    ) -> Result<Replaced> {
        self.pool.write("change a run", |work| documents::replace(work, run, sequence_was, fence, events))
    }

    fn list(&self, filter: &Filter) -> Result<Page> {
        let most = if filter.most == 0 { 100 } else { filter.most };
        let rows = self.pool.read("list runs", |work| documents::list(work, filter, most))?;
        let runs = rows.iter().map(|(id, body)| self.parse(id, body)).collect::<Result<Vec<_>>>()?;
        Ok(Page::cut(runs, most))
    }

    fn counts(&self) -> Result<Vec<(String, RunState, u64)>> {
        self.pool.read("count runs", documents::counts)
    }

    fn claim(
        &self,
        owner: &str,
        lease: Duration,
        most: usize,
        limits: &BTreeMap<String, u32>,
        except: &[RunId],
    ) -> Result<Vec<Claim>> {
        self.pool.write("take runs", |work| claims::claim(work, owner, span(lease), most, limits, except))
    }

    fn renew(&self, claims: &[Claim], lease: Duration) -> Result<Vec<(Claim, u64)>> {
        self.pool.write("prolong leases", |work| claims::renew(work, claims, span(lease)))
    }

    fn release(&self, claim: &Claim) -> Result<()> {
        self.pool.write("give a run back", |work| claims::release(work, claim))
    }

    fn log(&self, lines: &[LogLine]) -> Result<()> {
        self.pool.write("keep a log", |work| steps::log(work, lines))
    }

    fn logged(&self, run: &RunId, step: Option<&str>, after: u64, most: usize) -> Result<Vec<LoggedLine>> {
        self.pool.read("read a log", |work| steps::logged(work, run, step, after, most))
    }

    fn events(&self, run: Option<&RunId>, after: u64, most: usize) -> Result<Vec<StoredEvent>> {
        let rows = self.pool.read("read events", |work| steps::events(work, run, after, most))?;
        let event = |row: steps::EventRow| {
            let event = self.parse(&row.run, &row.body)?;
            let run = RunId::try_from(row.run.clone()).map_err(|what| self.damaged(&row.run, what))?;
            Ok(StoredEvent { number: row.number, run, at: row.at, event })
        };
        rows.into_iter().map(event).collect()
    }

    fn last_event(&self) -> Result<u64> {
        self.pool.read("read events", steps::last_event)
    }

    fn set_progress(&self, run: &RunId, step: &str, progress: &Progress) -> Result<()> {
        self.pool.write("keep progress", |work| steps::set_progress(work, run, step, progress))
    }

    fn progress(&self, run: &RunId) -> Result<BTreeMap<String, Progress>> {
        let rows = self.pool.read("read progress", |work| steps::progress(work, run))?;
        rows.into_iter().map(|(step, body)| Ok((step, self.parse(run.as_str(), &body)?))).collect()
    }

    fn set_checkpoint(&self, claim: &Claim, step: &str, checkpoint: &Value) -> Result<bool> {
        self.pool.write("keep a checkpoint", |work| steps::set_checkpoint(work, claim, step, checkpoint))
    }

    fn checkpoint(&self, run: &RunId, step: &str) -> Result<Option<Value>> {
        let body = self.pool.read("read a checkpoint", |work| steps::checkpoint(work, run, step))?;
        body.map(|body| self.parse(run.as_str(), &body)).transpose()
    }

    fn forget_ended_before(&self, time: Timestamp) -> Result<u64> {
        let mut all = 0;
        loop {
            let gone = self.pool.write("forget runs", |work| documents::forget(work, time))?;
            all += gone;
            if gone < FORGOTTEN_AT_ONCE.unsigned_abs() {
                return Ok(all);
            }
        }
    }
}
