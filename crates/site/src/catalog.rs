//! What was heard, and what came of it: events about objects, kept in SQLite before anybody is told that they were taken. And
//! what is remembered of schedules (`crate::schedule`).

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

use crate::{Error, Result, schedule};

/// The newest schema that this release knows. Each has the tables of those before it.
pub(crate) const SCHEMA: i64 = 2;
const TABLES: &str = "
CREATE TABLE hints (
    number INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT NOT NULL, object TEXT NOT NULL, version TEXT, cause TEXT NOT NULL,
    received INTEGER NOT NULL, state TEXT NOT NULL, due INTEGER NOT NULL, attempts INTEGER NOT NULL, outcome TEXT
) STRICT;
CREATE INDEX hints_due ON hints (due) WHERE state = 'waiting';
CREATE INDEX hints_same ON hints (source, object) WHERE state = 'waiting';
CREATE TABLE seen (source TEXT NOT NULL, object TEXT NOT NULL, version TEXT NOT NULL, PRIMARY KEY (source, object)) STRICT, WITHOUT ROWID;
";

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
    place: String,
    connection: Mutex<Connection>,
}

impl Catalog {
    pub fn open(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let failed = |action| {
            let place = place.clone();
            move |source| Error::Catalog { place, action, source }
        };
        let connection = Connection::open(path).map_err(failed("open the catalog"))?;
        prepare(&connection).map_err(failed("prepare the catalog"))?;
        let found: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(failed("read the catalog"))?;
        match found {
            SCHEMA => Ok(Self { place, connection: Mutex::new(connection) }),
            found => Err(Error::Config {
                place,
                what: format!("the catalog is of a newer release (schema {found}, this one knows {SCHEMA})"),
            }),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn failed(&self, action: &'static str) -> impl FnOnce(rusqlite::Error) -> Error + use<> {
        let place = self.place.clone();
        move |source| Error::Catalog { place, action, source }
    }

    /// Keeps a hint; it is on disk when this returns. One that says the same as one that waits is not kept again.
    pub fn hear(&self, hint: &NewHint, now: Timestamp) -> Result<u64> {
        let connection = self.lock();
        let same: Option<i64> = connection
            .query_row(
                "SELECT number FROM hints WHERE state = 'waiting' AND source = ?1 AND object = ?2 AND version IS ?3",
                params![hint.source, hint.object, hint.version],
                |row| row.get(0),
            )
            .optional()
            .map_err(self.failed("keep an event"))?;
        if let Some(number) = same {
            return Ok(number.unsigned_abs());
        }
        connection
            .execute(
                "INSERT INTO hints (source, object, version, cause, received, state, due, attempts)
                 VALUES (?1, ?2, ?3, ?4, ?5, 'waiting', ?5, 0)",
                params![hint.source, hint.object, hint.version, hint.cause, now.as_microsecond()],
            )
            .map_err(self.failed("keep an event"))?;
        Ok(connection.last_insert_rowid().unsigned_abs())
    }

    /// Keeps a hint that leads to nothing, and why.
    pub fn ignore(&self, hint: &NewHint, why: &str, now: Timestamp) -> Result<()> {
        self.lock()
            .execute(
                "INSERT INTO hints (source, object, version, cause, received, state, due, attempts, outcome)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?5, 0, ?7)",
                params![
                    hint.source,
                    hint.object,
                    hint.version,
                    hint.cause,
                    now.as_microsecond(),
                    HintState::Ignored.name(),
                    why
                ],
            )
            .map(|_| ())
            .map_err(self.failed("keep an event"))
    }

    /// Hints that are to be looked into now.
    pub fn due(&self, now: Timestamp, most: u32) -> Result<Vec<Hint>> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(
                "SELECT * FROM hints WHERE state = 'waiting' AND due <= ?1 ORDER BY number LIMIT ?2",
            )
            .map_err(self.failed("read events"))?;
        statement
            .query_map(params![now.as_microsecond(), most], hint)
            .and_then(Iterator::collect)
            .map_err(self.failed("read events"))
    }

    /// Writes down what came of a hint.
    pub fn settle(&self, number: u64, state: HintState, outcome: &str) -> Result<()> {
        self.lock()
            .execute(
                "UPDATE hints SET state = ?2, outcome = ?3, attempts = attempts + 1 WHERE number = ?1",
                params![number.cast_signed(), state.name(), outcome],
            )
            .map(|_| ())
            .map_err(self.failed("keep what came of an event"))
    }

    /// Has a hint looked into again later.
    pub fn postpone(&self, number: u64, until: Timestamp, why: &str) -> Result<()> {
        self.lock()
            .execute(
                "UPDATE hints SET due = ?2, outcome = ?3, attempts = attempts + 1 WHERE number = ?1",
                params![number.cast_signed(), until.as_microsecond(), why],
            )
            .map(|_| ())
            .map_err(self.failed("keep what came of an event"))
    }

    /// The newest hints before a number, newest first.
    pub fn hints(&self, before: Option<u64>, most: u32) -> Result<Vec<Hint>> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT * FROM hints WHERE number < ?1 ORDER BY number DESC LIMIT ?2")
            .map_err(self.failed("read events"))?;
        let before = before.map_or(i64::MAX, u64::cast_signed);
        statement
            .query_map(params![before, most], hint)
            .and_then(Iterator::collect)
            .map_err(self.failed("read events"))
    }

    /// Forgets hints that were settled and heard before a time.
    pub fn forget_before(&self, time: Timestamp) -> Result<()> {
        self.lock()
            .execute("DELETE FROM hints WHERE state <> 'waiting' AND received < ?1", [time.as_microsecond()])
            .map(|_| ())
            .map_err(self.failed("forget events"))
    }

    /// Whether a look at the source has seen this version of an object before.
    pub fn has_seen(&self, source: &str, object: &str, version: &str) -> Result<bool> {
        let found: Option<String> = self
            .lock()
            .query_row(
                "SELECT version FROM seen WHERE source = ?1 AND object = ?2",
                params![source, object],
                |row| row.get(0),
            )
            .optional()
            .map_err(self.failed("read what was seen"))?;
        Ok(found.as_deref() == Some(version))
    }

    /// Remembers the version of an object that a look has seen.
    pub fn saw(&self, source: &str, object: &str, version: &str) -> Result<()> {
        self.lock()
            .execute(
                "INSERT INTO seen (source, object, version) VALUES (?1, ?2, ?3)
                 ON CONFLICT (source, object) DO UPDATE SET version = excluded.version",
                params![source, object, version],
            )
            .map(|_| ())
            .map_err(self.failed("keep what was seen"))
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let missing = match found {
        0 => [TABLES, schedule::TABLES].concat(),
        1 => schedule::TABLES.to_owned(),
        _ => return Ok(()),
    };
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {missing} PRAGMA user_version = {SCHEMA}; COMMIT;"))
}

fn hint(row: &Row<'_>) -> rusqlite::Result<Hint> {
    let received: i64 = row.get("received")?;
    Ok(Hint {
        number: row.get::<_, i64>("number")?.unsigned_abs(),
        source: row.get("source")?,
        object: row.get("object")?,
        version: row.get("version")?,
        cause: row.get("cause")?,
        received: Timestamp::from_microsecond(received).unwrap_or(Timestamp::UNIX_EPOCH),
        state: HintState::of(&row.get::<_, String>("state")?),
        attempts: row.get("attempts")?,
        outcome: row.get("outcome")?,
    })
}
