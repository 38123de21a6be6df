//! The tables, and the locks that belong to them.

use super::work::{Failure, Writing};

/// The newest schema that this release knows.
pub(super) const SCHEMA: i64 = 1;

// Names sort by their bytes, as in SQLite, whatever language the database was made for.
const TABLES: &str = r#"
CREATE TABLE leeward_schema (version BIGINT NOT NULL);
CREATE TABLE leeward_runs (
    id TEXT COLLATE "C" PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, state TEXT NOT NULL,
    live BOOLEAN NOT NULL, cleaning BOOLEAN NOT NULL, pools TEXT NOT NULL, unique_key TEXT COLLATE "C" UNIQUE,
    ended BIGINT, owner TEXT, lease_until BIGINT, lease_length BIGINT,
    fence BIGINT NOT NULL, sequence BIGINT NOT NULL, summary TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX leeward_runs_live ON leeward_runs (pools, id) WHERE live;
CREATE INDEX leeward_runs_state ON leeward_runs (state, id);
CREATE INDEX leeward_runs_ended ON leeward_runs (ended) WHERE ended IS NOT NULL;
CREATE TABLE leeward_pools (pool TEXT NOT NULL, run TEXT COLLATE "C" NOT NULL, PRIMARY KEY (pool, run));
CREATE TABLE leeward_events (
    number BIGSERIAL PRIMARY KEY, run TEXT COLLATE "C" NOT NULL, at BIGINT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX leeward_events_run ON leeward_events (run, number);
CREATE TABLE leeward_logs (
    number BIGSERIAL PRIMARY KEY, run TEXT COLLATE "C" NOT NULL, step TEXT NOT NULL, at BIGINT NOT NULL,
    level TEXT NOT NULL, text TEXT NOT NULL
);
CREATE INDEX leeward_logs_run ON leeward_logs (run, number);
CREATE TABLE leeward_progress (
    run TEXT COLLATE "C" NOT NULL, step TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (run, step)
);
CREATE TABLE leeward_checkpoints (
    run TEXT COLLATE "C" NOT NULL, step TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (run, step)
);
"#;

/// What only one transaction of all daemons does at a time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lock {
    Tables,
    Claims,
    Events,
    /// Lines of one run's log, by a digest of its name.
    Log(i32),
}

impl Lock {
    /// The two numbers of an advisory lock: "LWR" and a digit, so that other programs' locks are not met by chance.
    pub fn numbers(self) -> (i32, i32) {
        const CLASS: i32 = 0x4c57_5200;
        match self {
            Self::Tables => (CLASS, 1),
            Self::Claims => (CLASS, 2),
            Self::Events => (CLASS, 3),
            Self::Log(run) => (CLASS + 1, run),
        }
    }
}

/// Makes the tables where there are none; returns the schema that was found where this release does not know it.
pub(super) fn prepare(work: &mut Writing<'_, '_>) -> Result<Option<i64>, Failure> {
    // Two daemons that start for the first time: the second one finds what the first has made.
    work.lock(Lock::Tables)?;
    let there: bool = work.one("SELECT to_regclass('leeward_schema') IS NOT NULL", &[])?.try_get(0)?;
    if there {
        let found: Option<i64> = work.one("SELECT max(version) FROM leeward_schema", &[])?.try_get(0)?;
        return Ok(found.filter(|found| *found != SCHEMA));
    }
    work.client.batch_execute(TABLES)?;
    work.execute("INSERT INTO leeward_schema (version) VALUES ($1)", &[&SCHEMA])?;
    Ok(None)
}
