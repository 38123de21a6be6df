//! The tables, and how a connection is made.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use crate::{Error, Result};

/// The newest schema that this release knows.
pub(super) const SCHEMA: i64 = 1;

// What is written most often are the leases: every second, for each run under way. They are in no index, so that prolonging them
// writes one page of the table and not one of an index besides. `WITHOUT ROWID` keeps only the beginnings of the documents among
// the runs; with rowids whole documents stand between the leases: a change of a run writes up to a third fewer pages where
// documents are small, none where they have 8 KB, but prolonging 64 leases up to 64 instead of 9.
const TABLES: &str = "
CREATE TABLE runs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, state TEXT NOT NULL, live INTEGER NOT NULL,
    cleaning INTEGER NOT NULL, pools TEXT NOT NULL, unique_key TEXT UNIQUE, ended INTEGER,
    owner TEXT, lease_until INTEGER, lease_length INTEGER,
    fence INTEGER NOT NULL, sequence INTEGER NOT NULL, summary TEXT NOT NULL, body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_live ON runs (pools, id) WHERE live;
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

/// How long a connection waits for another's change.
const WAIT: Duration = Duration::from_secs(30);

/// Has the file keep a write-ahead log. The change of the journal of a new file does not wait for other connections that are
/// just doing the same, whatever the busy timeout (SQLite, "Result and Error Codes", `SQLITE_BUSY`): it is tried again here.
fn write_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let end = Instant::now() + WAIT;
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < end =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(WAIT)?;
    write_ahead(&connection)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    Ok(connection)
}

pub(super) fn prepare(writer: &mut Connection, place: &str) -> Result<()> {
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
