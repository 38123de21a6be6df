//! Runs in SQLite: one file, one writer at a time, write-ahead log, every commit synced.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde_json::Value;

use super::State;
use super::convert::{FORGOTTEN_AT_ONCE, count, micros, number, span, time};
use super::records::{
    Claim, Filter, Inserted, Lease, Level, LogLine, LoggedLine, Order, Page, Progress, Replaced, StoredEvent,
    Summary,
};
use crate::{Error, Event, Result, Run, RunId, RunState};

/// The newest schema that this release knows.
const SCHEMA: i64 = 1;

const TABLES: &str = "
CREATE TABLE runs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, state TEXT NOT NULL, live INTEGER NOT NULL,
    cleaning INTEGER NOT NULL, pools TEXT NOT NULL, unique_key TEXT UNIQUE, ended INTEGER,
    owner TEXT, lease_until INTEGER, lease_length INTEGER,
    fence INTEGER NOT NULL, sequence INTEGER NOT NULL, summary TEXT NOT NULL, body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_live ON runs (live, lease_until);
CREATE INDEX runs_state ON runs (state, id);
CREATE INDEX runs_ended ON runs (ended) WHERE ended IS NOT NULL;
CREATE TABLE pools (pool TEXT NOT NULL, run TEXT NOT NULL, PRIMARY KEY (pool, run)) STRICT, WITHOUT ROWID;
CREATE TABLE events (number INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, at INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE INDEX events_run ON events (run, number);
CREATE TABLE logs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, step TEXT NOT NULL, at INTEGER NOT NULL,
    level TEXT NOT NULL, text TEXT NOT NULL
) STRICT;
CREATE INDEX logs_run ON logs (run, number);
CREATE TABLE progress (run TEXT NOT NULL, step TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (run, step)) STRICT, WITHOUT ROWID;
CREATE TABLE checkpoints (run TEXT NOT NULL, step TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (run, step)) STRICT, WITHOUT ROWID;
";

/// Runs in a file of SQLite.
pub struct SqliteState {
    place: String,
    writer: Mutex<Connection>,
    // Readers do not wait for writers under a write-ahead log, so a page that many watch does not slow the engine.
    reader: Mutex<Connection>,
}

impl SqliteState {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// The file cannot be opened or is of a newer release.
    pub fn open(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let failed = |action| {
            let place = place.clone();
            move |source: rusqlite::Error| Error::Database { place, action, source: source.into() }
        };
        let mut writer = connect(path).map_err(failed("open the file"))?;
        prepare(&mut writer, &place)?;
        let reader = connect(path).map_err(failed("open the file"))?;
        Ok(Self { place, writer: Mutex::new(writer), reader: Mutex::new(reader) })
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(rusqlite::Error) -> Error + use<> {
        let place = self.place.clone();
        move |source| Error::Database { place, action, source: source.into() }
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        // A thread that panicked left no half of a transaction behind: SQLite rolled it back.
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
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
        serde_json::from_str(body).map_err(|error| Error::Damaged {
            place: self.place.clone(),
            run: run.to_owned(),
            what: error.to_string(),
        })
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    Ok(connection)
}

fn prepare(writer: &mut Connection, place: &str) -> Result<()> {
    let failed = |source: rusqlite::Error| Error::Database {
        place: place.to_owned(),
        action: "make the tables",
        source: source.into(),
    };
    let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let found: i64 =
        transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    match found {
        SCHEMA => {}
        0 => {
            transaction.execute_batch(TABLES).map_err(failed)?;
            transaction.pragma_update(None, "user_version", SCHEMA).map_err(failed)?;
        }
        found => return Err(Error::Newer { place: place.to_owned(), found, known: SCHEMA }),
    }
    transaction.commit().map_err(failed)
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn put_events(
    transaction: &Transaction<'_>,
    run: &RunId,
    at: Timestamp,
    events: &[Event],
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached("INSERT INTO events (run, at, body) VALUES (?1, ?2, ?3)")?;
    for event in events {
        insert.execute(params![run.as_str(), micros(at), json(event)?])?;
    }
    Ok(())
}

fn is_newest(transaction: &Transaction<'_>, claim: &Claim) -> rusqlite::Result<bool> {
    let fence: Option<i64> = transaction
        .query_row(
            "SELECT fence FROM runs WHERE id = ?1 AND owner IS NOT NULL",
            [claim.run.as_str()],
            |row| row.get(0),
        )
        .optional()?;
    Ok(fence == Some(number(claim.fence)))
}

fn free_places(transaction: &Transaction<'_>, run: &RunId) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM pools WHERE run = ?1", [run.as_str()]).map(|_| ())
}

impl State for SqliteState {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn now(&self) -> Result<Timestamp> {
        Ok(Timestamp::now())
    }

    fn insert(&self, run: &Run, unique: Option<&str>) -> Result<Inserted> {
        self.write("keep a run", |transaction| {
            if let Some(key) = unique {
                let found: Option<String> = transaction
                    .query_row("SELECT id FROM runs WHERE unique_key = ?1", [key], |row| row.get(0))
                    .optional()?;
                if let Some(Ok(id)) = found.map(RunId::try_from) {
                    return Ok(Inserted::Exists(id));
                }
            }
            transaction.execute(
                "INSERT INTO runs (id, kind, subject, state, live, cleaning, pools, unique_key, fence, sequence, summary, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, 0, ?9, ?10)",
                params![
                    run.id.as_str(),
                    run.plan.kind,
                    run.subject,
                    run.state.name(),
                    run.state.is_live(),
                    run.state.is_cleaning(),
                    json(&run.plan.pools)?,
                    unique,
                    json(&Summary::of(run))?,
                    json(run)?
                ],
            )?;
            put_events(transaction, &run.id, run.created, &[Event::Created])?;
            Ok(Inserted::New)
        })
    }

    fn load(&self, run: &RunId) -> Result<Option<(Run, Option<Lease>)>> {
        let found = self
            .reader()
            .query_row(
                "SELECT body, fence, sequence, owner, lease_until FROM runs WHERE id = ?1",
                [run.as_str()],
                |row| {
                    let lease = match (row.get(3)?, row.get(4)?) {
                        (Some(owner), Some(until)) => Some(Lease { owner, until: time(until) }),
                        _ => None,
                    };
                    Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, lease))
                },
            )
            .optional()
            .map_err(self.failed("read a run"))?;
        let Some((body, fence, sequence, lease)) = found else { return Ok(None) };
        let run: Run = self.parse(run.as_str(), &body)?;
        Ok(Some((Run { fence: count(fence), sequence: count(sequence), ..run }, lease)))
    }

    fn replace(
        &self,
        run: &Run,
        sequence_was: u64,
        fence: Option<u64>,
        events: &[Event],
    ) -> Result<Replaced> {
        self.write("change a run", |transaction| {
            let found: Option<(i64, i64)> = transaction
                .query_row("SELECT sequence, fence FROM runs WHERE id = ?1", [run.id.as_str()], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?;
            match found {
                None => return Ok(Replaced::Gone),
                Some((_, newest)) if fence.is_some_and(|fence| number(fence) != newest) => return Ok(Replaced::Fenced),
                Some((sequence, _)) if sequence != number(sequence_was) => return Ok(Replaced::Changed),
                Some(_) => {}
            }
            transaction.execute(
                "UPDATE runs SET state = ?2, live = ?3, cleaning = ?4, ended = ?5, sequence = sequence + 1, summary = ?6, body = ?7
                 WHERE id = ?1",
                params![
                    run.id.as_str(),
                    run.state.name(),
                    run.state.is_live(),
                    run.state.is_cleaning(),
                    run.finished.map(micros),
                    json(&Summary::of(run))?,
                    json(run)?
                ],
            )?;
            if !run.state.is_live() {
                transaction.execute(
                    "UPDATE runs SET owner = NULL, lease_until = NULL, lease_length = NULL WHERE id = ?1",
                    [run.id.as_str()],
                )?;
                free_places(transaction, &run.id)?;
            }
            put_events(transaction, &run.id, Timestamp::now(), events)?;
            Ok(Replaced::Done)
        })
    }

    fn list(&self, filter: &Filter) -> Result<Page> {
        let most = if filter.most == 0 { 100 } else { filter.most };
        let newest_first = filter.order == Order::NewestFirst;
        let mut wanted = Vec::new();
        let mut values: Vec<String> = Vec::new();
        let mut add = |text: &str, value: &str| {
            values.push(value.to_owned());
            wanted.push(text.replace('?', &format!("?{}", values.len())));
        };
        if let Some(kind) = &filter.kind {
            add("kind = ?", kind);
        }
        if let Some(text) = &filter.text {
            add("instr(lower(subject), lower(?)) > 0", text);
        }
        if let Some(past) = &filter.past {
            add(if newest_first { "id < ?" } else { "id > ?" }, past.as_str());
        }
        if !filter.states.is_empty() {
            // Names of states are ours: nothing of a caller's text gets into the statement.
            let names: Vec<_> = filter.states.iter().map(|state| format!("'{}'", state.name())).collect();
            wanted.push(format!("state IN ({})", names.join(", ")));
        }
        let wanted = if wanted.is_empty() { "1".to_owned() } else { wanted.join(" AND ") };
        let order = if newest_first { "DESC" } else { "ASC" };
        let text =
            format!("SELECT id, summary FROM runs WHERE {wanted} ORDER BY id {order} LIMIT {}", most + 1);
        let reader = self.reader();
        let mut statement = reader.prepare(&text).map_err(self.failed("list runs"))?;
        let rows = statement
            .query_map(rusqlite::params_from_iter(values), |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })
            .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
            .map_err(self.failed("list runs"))?;
        let runs = rows.iter().map(|(id, body)| self.parse(id, body)).collect::<Result<Vec<Summary>>>()?;
        Ok(Page::cut(runs, most))
    }

    fn counts(&self) -> Result<Vec<(String, RunState, u64)>> {
        let reader = self.reader();
        let mut statement = reader
            .prepare_cached("SELECT kind, state, count(*) FROM runs GROUP BY kind, state")
            .map_err(self.failed("count runs"))?;
        let rows = statement
            .query_map([], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
            })
            .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
            .map_err(self.failed("count runs"))?;
        Ok(rows
            .into_iter()
            .filter_map(|(kind, state, runs)| Some((kind, state.parse().ok()?, count(runs))))
            .collect())
    }

    fn claim(
        &self,
        owner: &str,
        lease: Duration,
        most: usize,
        limits: &BTreeMap<String, u32>,
    ) -> Result<Vec<Claim>> {
        self.write("take runs", |transaction| {
            // The clock is read when the file is ours: waiting for it may have taken longer than a lease.
            let taker = Taker { owner, now: Timestamp::now(), lease: span(lease), limits };
            let mut claims = Vec::new();
            for pools in waiting_pools(transaction, taker.now)? {
                taker.claim_of(transaction, &pools, most, &mut claims)?;
            }
            Ok(claims)
        })
    }

    fn renew(&self, claims: &[Claim], lease: Duration) -> Result<Vec<(Claim, u64)>> {
        let lease = span(lease);
        self.write("prolong leases", |transaction| {
            let until = micros(Timestamp::now()).saturating_add(lease);
            let mut still = Vec::new();
            let mut renew = transaction.prepare_cached(
                "UPDATE runs SET lease_until = ?3, lease_length = ?4 WHERE id = ?1 AND fence = ?2 AND owner IS NOT NULL RETURNING sequence",
            )?;
            for claim in claims {
                let sequence: Option<i64> = renew
                    .query_row(params![claim.run.as_str(), number(claim.fence), until, lease], |row| row.get(0))
                    .optional()?;
                still.extend(sequence.map(|sequence| (claim.clone(), count(sequence))));
            }
            Ok(still)
        })
    }

    fn release(&self, claim: &Claim) -> Result<()> {
        self.write("give a run back", |transaction| {
            if is_newest(transaction, claim)? {
                transaction.execute(
                    "UPDATE runs SET owner = NULL, lease_until = NULL, lease_length = NULL WHERE id = ?1",
                    [claim.run.as_str()],
                )?;
                free_places(transaction, &claim.run)?;
            }
            Ok(())
        })
    }

    fn log(&self, lines: &[LogLine]) -> Result<()> {
        self.write("keep a log", |transaction| {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO logs (run, step, at, level, text) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for line in lines {
                insert.execute(params![
                    line.run.as_str(),
                    line.step,
                    micros(line.at),
                    line.level.name(),
                    line.text
                ])?;
            }
            Ok(())
        })
    }

    fn logged(&self, run: &RunId, step: Option<&str>, after: u64, most: usize) -> Result<Vec<LoggedLine>> {
        let reader = self.reader();
        let mut statement = reader
            .prepare_cached(
                "SELECT number, step, at, level, text FROM logs
                 WHERE run = ?1 AND number > ?2 AND (?3 IS NULL OR step = ?3) ORDER BY number LIMIT ?4",
            )
            .map_err(self.failed("read a log"))?;
        let line = |row: &Row<'_>| {
            Ok(LoggedLine {
                number: count(row.get(0)?),
                step: row.get(1)?,
                at: time(row.get(2)?),
                level: Level::of(&row.get::<_, String>(3)?),
                text: row.get(4)?,
            })
        };
        statement
            .query_map(params![run.as_str(), number(after), step, number(most as u64)], line)
            .and_then(Iterator::collect)
            .map_err(self.failed("read a log"))
    }

    fn events(&self, run: Option<&RunId>, after: u64, most: usize) -> Result<Vec<StoredEvent>> {
        let text = match run {
            Some(_) => {
                "SELECT number, run, at, body FROM events WHERE run = ?3 AND number > ?1 ORDER BY number LIMIT ?2"
            }
            None => {
                "SELECT number, run, at, body FROM events WHERE number > ?1 AND ?3 IS NULL ORDER BY number LIMIT ?2"
            }
        };
        let rows = {
            let reader = self.reader();
            let mut statement = reader.prepare_cached(text).map_err(self.failed("read events"))?;
            let row = |row: &Row<'_>| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, i64>(2)?,
                    row.get::<_, String>(3)?,
                ))
            };
            statement
                .query_map(params![number(after), number(most as u64), run.map(RunId::as_str)], row)
                .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
                .map_err(self.failed("read events"))?
        };
        let event = |(number, run, at, body): (i64, String, i64, String)| {
            let event = self.parse(&run, &body)?;
            let damaged = |what| Error::Damaged { place: self.place.clone(), run: run.clone(), what };
            let id = RunId::try_from(run.clone()).map_err(damaged)?;
            Ok(StoredEvent { number: count(number), run: id, at: time(at), event })
        };
        rows.into_iter().map(event).collect()
    }

    fn last_event(&self) -> Result<u64> {
        self.reader()
            .query_row("SELECT coalesce(max(number), 0) FROM events", [], |row| row.get(0))
            .map(count)
            .map_err(self.failed("read events"))
    }

    fn set_progress(&self, run: &RunId, step: &str, progress: &Progress) -> Result<()> {
        self.write("keep progress", |transaction| {
            transaction.execute(
                "INSERT INTO progress (run, step, body) VALUES (?1, ?2, ?3)
                 ON CONFLICT (run, step) DO UPDATE SET body = excluded.body",
                params![run.as_str(), step, json(progress)?],
            )?;
            Ok(())
        })
    }

    fn progress(&self, run: &RunId) -> Result<BTreeMap<String, Progress>> {
        let rows = {
            let reader = self.reader();
            let mut statement = reader
                .prepare_cached("SELECT step, body FROM progress WHERE run = ?1")
                .map_err(self.failed("read progress"))?;
            statement
                .query_map([run.as_str()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
                .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
                .map_err(self.failed("read progress"))?
        };
        rows.into_iter().map(|(step, body)| Ok((step, self.parse(run.as_str(), &body)?))).collect()
    }

    fn set_checkpoint(&self, claim: &Claim, step: &str, checkpoint: &Value) -> Result<bool> {
        self.write("keep a checkpoint", |transaction| {
            let newest = is_newest(transaction, claim)?;
            if newest {
                transaction.execute(
                    "INSERT INTO checkpoints (run, step, body) VALUES (?1, ?2, ?3)
                     ON CONFLICT (run, step) DO UPDATE SET body = excluded.body",
                    params![claim.run.as_str(), step, json(checkpoint)?],
                )?;
            }
            Ok(newest)
        })
    }

    fn checkpoint(&self, run: &RunId, step: &str) -> Result<Option<Value>> {
        let body: Option<String> = self
            .reader()
            .query_row(
                "SELECT body FROM checkpoints WHERE run = ?1 AND step = ?2",
                params![run.as_str(), step],
                |row| row.get(0),
            )
            .optional()
            .map_err(self.failed("read a checkpoint"))?;
        body.map(|body| self.parse(run.as_str(), &body)).transpose()
    }

    fn forget_ended_before(&self, time: Timestamp) -> Result<u64> {
        let mut all = 0;
        loop {
            let gone = self.write("forget runs", |transaction| forget(transaction, time))?;
            all += gone;
            if gone < FORGOTTEN_AT_ONCE.unsigned_abs() {
                return Ok(all);
            }
        }
    }
}

/// Forgets some of the runs that ended before a time.
fn forget(transaction: &Transaction<'_>, before: Timestamp) -> rusqlite::Result<u64> {
    let gone: Vec<String> = transaction
        .prepare_cached(
            "DELETE FROM runs WHERE id IN (SELECT id FROM runs WHERE ended < ?1 AND state <> 'undo-failed' LIMIT ?2)
             RETURNING id",
        )?
        .query_map(params![micros(before), FORGOTTEN_AT_ONCE], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for table in ["events", "logs", "progress", "checkpoints"] {
        let mut delete = transaction.prepare_cached(&format!("DELETE FROM {table} WHERE run = ?1"))?;
        for run in &gone {
            delete.execute([run])?;
        }
    }
    Ok(gone.len() as u64)
}

/// Live runs that nobody has at ?1. A lease that ends more than twice its length from now was given before the clock was set
/// back.
const FREE: &str =
    "live AND (lease_until IS NULL OR lease_until < ?1 OR lease_until > ?1 + 2 * lease_length)";

/// The different sets of pools that runs wait with.
fn waiting_pools(transaction: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<Vec<String>> {
    let text = format!("SELECT pools FROM runs WHERE {FREE} GROUP BY pools ORDER BY min(id)");
    transaction.prepare_cached(&text)?.query_map([micros(now)], |row| row.get(0))?.collect()
}

/// Who takes runs, when, for how long.
struct Taker<'a> {
    owner: &'a str,
    now: Timestamp,
    lease: i64,
    limits: &'a BTreeMap<String, u32>,
}

impl Taker<'_> {
    /// Takes runs with one set of pools, while there are places.
    fn claim_of(
        &self,
        transaction: &Transaction<'_>,
        pools: &str,
        most: usize,
        claims: &mut Vec<Claim>,
    ) -> rusqlite::Result<()> {
        let names: Vec<String> = serde_json::from_str(pools).unwrap_or_default();
        let left = most.saturating_sub(claims.len());
        let text = format!(
            "SELECT id, cleaning FROM runs WHERE {FREE} AND pools = ?2 ORDER BY cleaning DESC, id LIMIT ?3"
        );
        let waiting: Vec<(String, bool)> = transaction
            .prepare_cached(&text)?
            .query_map(params![micros(self.now), pools, number(left as u64)], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (id, is_cleaning) in waiting {
            // Who cleans up frees what the others wait for.
            if !self.take_places(transaction, &id, &names, is_cleaning)? {
                return Ok(());
            }
            claims.extend(self.take(transaction, id)?);
        }
        Ok(())
    }

    fn take(&self, transaction: &Transaction<'_>, id: String) -> rusqlite::Result<Option<Claim>> {
        let until = micros(self.now).saturating_add(self.lease);
        let fence: i64 = transaction.query_row(
            "UPDATE runs SET owner = ?2, lease_until = ?3, lease_length = ?4, fence = fence + 1 WHERE id = ?1
             RETURNING fence",
            params![id, self.owner, until, self.lease],
            |row| row.get(0),
        )?;
        let Ok(run) = RunId::try_from(id) else { return Ok(None) };
        let claimed = Event::Claimed { owner: self.owner.to_owned() };
        put_events(transaction, &run, self.now, std::slice::from_ref(&claimed))?;
        Ok(Some(Claim { run, fence: count(fence) }))
    }

    /// Takes a place in each pool, or none. A run whose engine died still has its places.
    fn take_places(
        &self,
        transaction: &Transaction<'_>,
        run: &str,
        pools: &[String],
        is_cleaning: bool,
    ) -> rusqlite::Result<bool> {
        let limited = pools.iter().filter_map(|pool| Some((pool, *self.limits.get(pool)?)));
        for (pool, limit) in limited.filter(|_| !is_cleaning) {
            let others: i64 = transaction.query_row(
                "SELECT count(*) FROM pools WHERE pool = ?1 AND run <> ?2",
                params![pool, run],
                |row| row.get(0),
            )?;
            if count(others) >= u64::from(limit) {
                return Ok(false);
            }
        }
        for pool in pools {
            transaction
                .execute("INSERT OR IGNORE INTO pools (pool, run) VALUES (?1, ?2)", params![pool, run])?;
        }
        Ok(true)
    }
}
