//! What was heard, and what came of it: events about objects, kept before anybody is told that they were taken, in SQLite
//! or, where several daemons share them, in PostgreSQL. And
//! what is remembered of schedules (`crate::schedule`), and what is to be told to whom (`crate::notify`), what runs have
//! delivered (`crate::sweep`), and of workers (`crate::work`).

mod database;
pub(crate) mod lead;
mod tables;

use std::path::Path;

use jiff::Timestamp;
use leeward_runs::state::PostgresOptions;
use serde::Serialize;

use crate::Result;

pub(crate) use database::{Fault, Row, Value, Work, values};
pub(crate) use lead::Lead;

pub(crate) use tables::SCHEMA;

use database::Database;

/// Something that was heard about an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hint {
    /// Its number; grows.
    pub number: u64,
    /// The source.
    pub source: String,
    /// The object.
    pub object: String,
    /// The version, where that was told.
    pub version: Option<String>,
    /// How it was heard: `event`, `poll`.
    pub cause: String,
    /// When.
    pub received: Timestamp,
    /// What came of it.
    pub state: HintState,
    /// How often it was looked into.
    pub attempts: u32,
    /// The run, or why there is none.
    pub outcome: Option<String>,
}

/// What came of a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HintState {
    /// It is to be looked into.
    Waiting,
    /// It led to a run, its own or one that was there.
    Acted,
    /// It leads to nothing.
    Ignored,
}

impl HintState {
    fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Acted => "acted",
            Self::Ignored => "ignored",
        }
    }

    fn of(name: &str) -> Self {
        match name {
            "acted" => Self::Acted,
            "ignored" => Self::Ignored,
            _ => Self::Waiting,
        }
    }
}

/// A hint that is to be kept.
#[derive(Debug, Clone)]
pub struct NewHint {
    /// The source.
    pub source: String,
    /// The object.
    pub object: String,
    /// The version, where it is told.
    pub version: Option<String>,
    /// How it was heard.
    pub cause: String,
}

/// The catalog of a site.
pub(crate) struct Catalog {
    pub(crate) database: Database,
}

impl Catalog {
    /// Opens one that is a file.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { database: tables::in_file(path)? })
    }

    /// Opens the one in a database that daemons share.
    pub fn open_shared(options: &PostgresOptions) -> Result<Self> {
        Ok(Self { database: tables::in_shared(options)? })
    }

    /// Keeps a hint; it is on disk when this returns. One that says the same as one that waits is not kept again.
    pub fn hear(&self, hint: &NewHint, now: Timestamp) -> Result<u64> {
        self.database.write("keep an event", |work| {
            let same = work.row(
                "SELECT number FROM @hints
                 WHERE state = 'waiting' AND source = ?1 AND object = ?2 AND version IS NOT DISTINCT FROM ?3",
                values![&hint.source, &hint.object, hint.version.as_ref()],
            )?;
            let found = match same {
                Some(row) => Some(row),
                None => work.row(
                    "INSERT INTO @hints (source, object, version, cause, received, state, due, attempts)
                     VALUES (?1, ?2, ?3, ?4, ?5, 'waiting', 0, 0) RETURNING number",
                    values![
                        &hint.source,
                        &hint.object,
                        hint.version.as_ref(),
                        &hint.cause,
                        now.as_microsecond()
                    ],
                )?,
            };
            found.map_or(Ok(0), |row| row.number("number")).map(i64::unsigned_abs)
        })
    }

    /// Keeps a hint that leads to nothing, and why.
    pub fn ignore(&self, hint: &NewHint, why: &str, now: Timestamp) -> Result<()> {
        self.change(
            "keep an event",
            "INSERT INTO @hints (source, object, version, cause, received, state, due, attempts, outcome)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?5, 0, ?7)",
            values![
                &hint.source,
                &hint.object,
                hint.version.as_ref(),
                &hint.cause,
                now.as_microsecond(),
                HintState::Ignored.name(),
                why
            ],
        )
    }

    /// Hints that are to be looked into now.
    pub fn due(&self, now: Timestamp, most: u32) -> Result<Vec<Hint>> {
        self.find(
            "read events",
            "SELECT * FROM @hints WHERE state = 'waiting' AND due <= ?1 ORDER BY number LIMIT ?2",
            values![now.as_microsecond(), most],
            hint,
        )
    }

    /// Writes down what came of a hint.
    pub fn settle(&self, number: u64, state: HintState, outcome: &str) -> Result<()> {
        self.change(
            "keep what came of an event",
            "UPDATE @hints SET state = ?2, outcome = ?3, attempts = attempts + 1 WHERE number = ?1",
            values![number.cast_signed(), state.name(), outcome],
        )
    }

    /// Has a hint looked into again later.
    pub fn postpone(&self, number: u64, until: Timestamp, why: &str) -> Result<()> {
        self.change(
            "keep what came of an event",
            "UPDATE @hints SET due = ?2, outcome = ?3, attempts = attempts + 1 WHERE number = ?1",
            values![number.cast_signed(), until.as_microsecond(), why],
        )
    }

    /// The newest hints before a number, newest first.
    pub fn hints(&self, before: Option<u64>, most: u32) -> Result<Vec<Hint>> {
        self.find(
            "read events",
            "SELECT * FROM @hints WHERE number < ?1 ORDER BY number DESC LIMIT ?2",
            values![before.map_or(i64::MAX, |number| i64::try_from(number).unwrap_or(i64::MAX)), most],
            hint,
        )
    }

    /// Forgets hints that were settled and heard before a time.
    pub fn forget_before(&self, time: Timestamp) -> Result<()> {
        self.change(
            "forget events",
            "DELETE FROM @hints WHERE state <> 'waiting' AND received < ?1",
            values![time.as_microsecond()],
        )
    }

    /// Whether a look at the source has seen this version of an object before.
    pub fn has_seen(&self, source: &str, object: &str, version: &str) -> Result<bool> {
        let found = self.find(
            "read what was seen",
            "SELECT version FROM @seen WHERE source = ?1 AND object = ?2",
            values![source, object],
            |row| row.text("version"),
        )?;
        Ok(found.first().is_some_and(|found| found == version))
    }

    /// Remembers the version of an object that a look has seen.
    pub fn saw(&self, source: &str, object: &str, version: &str) -> Result<()> {
        self.change(
            "keep what was seen",
            "INSERT INTO @seen (source, object, version) VALUES (?1, ?2, ?3)
             ON CONFLICT (source, object) DO UPDATE SET version = excluded.version",
            values![source, object, version],
        )
    }

    /// Does one thing.
    pub(crate) fn change(&self, action: &'static str, text: &str, values: &[Value]) -> Result<()> {
        self.database.write(action, |work| work.execute(text, values).map(drop))
    }

    /// Finds things by one statement.
    pub(crate) fn find<T>(
        &self,
        action: &'static str,
        text: &str,
        values: &[Value],
        of: impl Fn(&Row) -> Result<T, Fault>,
    ) -> Result<Vec<T>> {
        self.database.read(action, |work| work.rows(text, values)?.iter().map(&of).collect())
    }
}

/// A time, as the tables have it: in microseconds since 1970.
pub(crate) fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn hint(row: &Row) -> Result<Hint, Fault> {
    Ok(Hint {
        number: row.number("number")?.unsigned_abs(),
        source: row.text("source")?,
        object: row.text("object")?,
        version: row.optional_text("version")?,
        cause: row.text("cause")?,
        received: time(row.number("received")?),
        state: HintState::of(&row.text("state")?),
        attempts: u32::try_from(row.number("attempts")?).unwrap_or(u32::MAX),
        outcome: row.optional_text("outcome")?,
    })
}

#[cfg(test)]
pub(crate) mod tests;
