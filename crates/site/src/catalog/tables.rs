//! The tables of the catalog, in both databases.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use leeward_runs::state::{PostgresFailure, PostgresOptions, PostgresPool};
use rusqlite::Connection;

use super::Database;
use crate::{Error, Result, notify, schedule, sweep, work};

/// The newest schema that this release knows. Each has the tables of those before it.
pub(crate) const SCHEMA: i64 = 3;

const HINTS: &str = "
CREATE TABLE hints (
    number INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT NOT NULL, object TEXT NOT NULL, version TEXT, cause TEXT NOT NULL,
    received INTEGER NOT NULL, state TEXT NOT NULL, due INTEGER NOT NULL, attempts INTEGER NOT NULL, outcome TEXT
) STRICT;
CREATE INDEX hints_due ON hints (due) WHERE state = 'waiting';
CREATE INDEX hints_same ON hints (source, object) WHERE state = 'waiting';
CREATE TABLE seen (source TEXT NOT NULL, object TEXT NOT NULL, version TEXT NOT NULL, PRIMARY KEY (source, object)) STRICT, WITHOUT ROWID;
";

/// The schema of the shared database. It begins with the newest one of files: there were no older ones.
const SHARED_SCHEMA: i64 = 1;

// The columns are those of the tables in files. Names sort by their bytes there, whatever language the database was made for.
const SHARED: &str = r#"
CREATE TABLE leeward_catalog_schema (version BIGINT NOT NULL);
CREATE TABLE leeward_hints (
    number BIGSERIAL PRIMARY KEY, source TEXT NOT NULL, object TEXT NOT NULL, version TEXT, cause TEXT NOT NULL,
    received BIGINT NOT NULL, state TEXT NOT NULL, due BIGINT NOT NULL, attempts BIGINT NOT NULL, outcome TEXT
);
CREATE INDEX leeward_hints_due ON leeward_hints (due) WHERE state = 'waiting';
CREATE INDEX leeward_hints_same ON leeward_hints (source) WHERE state = 'waiting';
CREATE TABLE leeward_seen (
    source TEXT COLLATE "C" NOT NULL, object TEXT COLLATE "C" NOT NULL, version TEXT NOT NULL, PRIMARY KEY (source, object)
);
CREATE TABLE leeward_schedules (
    name TEXT COLLATE "C" PRIMARY KEY, definition TEXT NOT NULL, handled BIGINT NOT NULL, full_due BIGINT NOT NULL,
    paused BIGINT NOT NULL, paused_by TEXT, slot BIGINT, run TEXT, note TEXT
);
CREATE TABLE leeward_told_up_to (one BIGINT PRIMARY KEY CHECK (one = 1), event BIGINT NOT NULL);
CREATE TABLE leeward_deliveries (
    number BIGSERIAL PRIMARY KEY, receiver TEXT COLLATE "C" NOT NULL, id TEXT COLLATE "C" NOT NULL, kind TEXT NOT NULL, about TEXT,
    title TEXT NOT NULL, notice TEXT NOT NULL, made BIGINT NOT NULL, state TEXT NOT NULL, due BIGINT NOT NULL,
    attempts BIGINT NOT NULL, outcome TEXT, ended BIGINT, UNIQUE (receiver, id)
);
CREATE INDEX leeward_deliveries_due ON leeward_deliveries (receiver, due) WHERE state = 'waiting';
CREATE INDEX leeward_deliveries_state ON leeward_deliveries (state, number);
CREATE TABLE leeward_delivered (
    target TEXT COLLATE "C" NOT NULL, id TEXT COLLATE "C" NOT NULL, run TEXT NOT NULL, seen BIGINT NOT NULL, PRIMARY KEY (target, id)
);
CREATE TABLE leeward_worker_tokens (digest TEXT COLLATE "C" PRIMARY KEY, run TEXT NOT NULL);
CREATE INDEX leeward_worker_tokens_run ON leeward_worker_tokens (run);
CREATE TABLE leeward_leader (one BIGINT PRIMARY KEY CHECK (one = 1), daemon TEXT NOT NULL, until BIGINT NOT NULL);
"#;

/// The advisory lock under which the tables are made; its first number is that of the locks of runs.
const LOCK: (i32, i32) = (0x4c57_5200, 8);

/// Opens a catalog that is a file, and makes the tables that it has not.
pub(super) fn in_file(path: &Path) -> Result<Database> {
    let place = path.display().to_string();
    let failed = |action| {
        let place = place.clone();
        move |source: rusqlite::Error| Error::Catalog { place, action, source: source.into() }
    };
    let connection = Connection::open(path).map_err(failed("open the catalog"))?;
    prepare(&connection).map_err(failed("prepare the catalog"))?;
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed("read the catalog"))?;
    match found {
        SCHEMA => Ok(Database::File { place, connection: Mutex::new(connection) }),
        found => Err(newer(place, found, SCHEMA)),
    }
}

fn newer(place: String, found: i64, known: i64) -> Error {
    let what = format!("the catalog is of a newer release (schema {found}, this one knows {known})");
    Error::Config { place, what }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let missing = match found {
        0 => [HINTS, schedule::TABLES, notify::TABLES, sweep::TABLES, work::TABLES].concat(),
        1 => [schedule::TABLES, notify::TABLES, sweep::TABLES, work::TABLES].concat(),
        2 => [notify::TABLES, sweep::TABLES, work::TABLES].concat(),
        _ => return Ok(()),
    };
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {missing} PRAGMA user_version = {SCHEMA}; COMMIT;"))
}

/// Opens the catalog in the database that daemons share.
pub(super) fn in_shared(options: &PostgresOptions) -> Result<Database> {
    let pool = PostgresPool::new(options)?;
    let found = pool.write("make the tables of the catalog", |work| {
        // Two daemons that start for the first time: the second one finds what the first has made.
        work.execute("SELECT pg_advisory_xact_lock($1, $2)", &[&LOCK.0, &LOCK.1])?;
        let there: bool =
            work.one("SELECT to_regclass('leeward_catalog_schema') IS NOT NULL", &[])?.try_get(0)?;
        if !there {
            work.batch(SHARED)?;
            work.execute("INSERT INTO leeward_catalog_schema (version) VALUES ($1)", &[&SHARED_SCHEMA])?;
        }
        let found: Option<i64> =
            work.one("SELECT max(version) FROM leeward_catalog_schema", &[])?.try_get(0)?;
        Ok::<_, PostgresFailure>(found.unwrap_or_default())
    })?;
    match found {
        SHARED_SCHEMA => Ok(Database::Shared(Box::new(pool))),
        found => Err(newer(pool.place().to_owned(), found, SHARED_SCHEMA)),
    }
}
