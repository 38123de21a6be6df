//! Runs in SQLite: one file, one writer at a time, write-ahead log, every commit synced.

mod claims;
mod documents;
mod schema;
mod steps;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use serde_json::Value;

use super::State;
use super::convert::FORGOTTEN_AT_ONCE;
use super::records::{
    Claim, Filter, Inserted, Lease, LogLine, LoggedLine, Page, Progress, Replaced, StoredEvent,
};
use crate::{Error, Event, Result, Run, RunId, RunState};

/// Runs in a file of SQLite.
pub struct SqliteState {
    place: String,
    writer: Mutex<Connection>,
    // Readers do not wait for writers under a write-ahead log, so a page that many watch does not slow the engine.
    reader: Mutex<Connection>,
}

impl SqliteState {
    /// The newest schema of files that this release knows.
    pub const SCHEMA: i64 = schema::SCHEMA;

    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// The file cannot be opened or is of a newer release.
    pub fn open(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let failed = |source: rusqlite::Error| Error::Database {
            place: place.clone(),
            action: "open the file",
            source: source.into(),
        };
        let mut writer = schema::connect(path).map_err(failed)?;
        schema::prepare(&mut writer, &place)?;
        let reader = schema::connect(path).map_err(failed)?;
        Ok(Self { place, writer: Mutex::new(writer), reader: Mutex::new(reader) })
    }

    /// Ends all leases, for a daemon that knows that it is the only one: what a killed one had is taken at once, and what it
    /// may still say is refused by the fence.
    ///
    /// # Errors
    /// The database fails.
    pub fn end_leases(&self) -> Result<()> {
        self.write("end leases", |transaction| {
            transaction
                .execute("UPDATE runs SET lease_until = NULL WHERE lease_until IS NOT NULL", [])
                .map(|_| ())
        })
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(rusqlite::Error) -> Error + use<> {
        let place = self.place.clone();
        move |source| Error::Database { place, action, source: source.into() }
    }

    fn read<T>(
        &self,
        action: &'static str,
        act: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        // A thread that panicked left no half of a transaction behind: SQLite rolled it back.
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        act(&reader).map_err(self.failed(action))
    }

    fn write<T>(
        &self,
        action: &'static str,
        act: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let run = || {
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = act(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(self.failed(action))
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, run: &str, body: &str) -> Result<T> {
        serde_json::from_str(body).map_err(|error| self.damaged(run, error.to_string()))
    }

    fn damaged(&self, run: &str, what: String) -> Error {
        Error::Damaged { place: self.place.clone(), run: run.to_owned(), what }
    }
}

impl State for SqliteState {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn now(&self) -> Result<Timestamp> {
        Ok(Timestamp::now())
    }

    fn insert(&self, run: &Run, unique: Option<&str>) -> Result<Inserted> {
        self.write("keep a run", |transaction| documents::insert(transaction, run, unique))
    }

    fn load(&self, run: &RunId) -> Result<Option<(Run, Option<Lease>)>> {
        let Some(found) = self.read("read a run", |reader| documents::load(reader, run))? else {
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
        self.write("change a run", |transaction| {
            documents::replace(transaction, run, sequence_was, fence, events)
        })
    }

    fn list(&self, filter: &Filter) -> Result<Page> {
        let most = if filter.most == 0 { 100 } else { filter.most };
        let rows = self.read("list runs", |reader| documents::list(reader, filter, most))?;
        let runs = rows.iter().map(|(id, body)| self.parse(id, body)).collect::<Result<Vec<_>>>()?;
        Ok(Page::cut(runs, most))
    }

    fn counts(&self) -> Result<Vec<(String, RunState, u64)>> {
        self.read("count runs", documents::counts)
    }

    fn claim(
        &self,
        owner: &str,
        lease: Duration,
        most: usize,
        limits: &BTreeMap<String, u32>,
        except: &[RunId],
    ) -> Result<Vec<Claim>> {
        self.write("take runs", |transaction| claims::claim(transaction, owner, lease, most, limits, except))
    }

    fn renew(&self, claims: &[Claim], lease: Duration) -> Result<Vec<(Claim, u64)>> {
        self.write("prolong leases", |transaction| claims::renew(transaction, claims, lease))
    }

    fn release(&self, claim: &Claim) -> Result<()> {
        self.write("give a run back", |transaction| claims::release(transaction, claim))
    }

    fn log(&self, lines: &[LogLine]) -> Result<()> {
        self.write("keep a log", |transaction| steps::log(transaction, lines))
    }

    fn logged(&self, run: &RunId, step: Option<&str>, after: u64, most: usize) -> Result<Vec<LoggedLine>> {
        self.read("read a log", |reader| steps::logged(reader, run, step, after, most))
    }

    fn events(&self, run: Option<&RunId>, after: u64, most: usize) -> Result<Vec<StoredEvent>> {
        let rows = self.read("read events", |reader| steps::events(reader, run, after, most))?;
        let event = |row: steps::EventRow| {
            let event = self.parse(&row.run, &row.body)?;
            let run = RunId::try_from(row.run.clone()).map_err(|what| self.damaged(&row.run, what))?;
            Ok(StoredEvent { number: row.number, run, at: row.at, event })
        };
        rows.into_iter().map(event).collect()
    }

    fn last_event(&self) -> Result<u64> {
        self.read("read events", steps::last_event)
    }

    fn set_progress(&self, run: &RunId, step: &str, progress: &Progress) -> Result<()> {
        self.write("keep progress", |transaction| steps::set_progress(transaction, run, step, progress))
    }

    fn progress(&self, run: &RunId) -> Result<BTreeMap<String, Progress>> {
        let rows = self.read("read progress", |reader| steps::progress(reader, run))?;
        rows.into_iter().map(|(step, body)| Ok((step, self.parse(run.as_str(), &body)?))).collect()
    }

    fn set_checkpoint(&self, claim: &Claim, step: &str, checkpoint: &Value) -> Result<bool> {
        self.write("keep a checkpoint", |transaction| {
            steps::set_checkpoint(transaction, claim, step, checkpoint)
        })
    }

    fn checkpoint(&self, run: &RunId, step: &str) -> Result<Option<Value>> {
        let body = self.read("read a checkpoint", |reader| steps::checkpoint(reader, run, step))?;
        body.map(|body| self.parse(run.as_str(), &body)).transpose()
    }

    fn forget_ended_before(&self, time: Timestamp) -> Result<u64> {
        let mut all = 0;
        loop {
            let gone = self.write("forget runs", |transaction| documents::forget(transaction, time))?;
            all += gone;
            if gone < FORGOTTEN_AT_ONCE.unsigned_abs() {
                return Ok(all);
            }
        }
    }
}
