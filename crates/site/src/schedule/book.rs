//! What is remembered of schedules: a table of the catalog.
//!
//! A run is begun under a key that names its slot, and only then is the slot written down here as decided. Whoever dies
//! between the two finds the slot undecided, begins the same run again, and is told that it is there.

use std::collections::BTreeMap;

use jiff::Timestamp;
use leeward_runs::RunId;
use rusqlite::{Row, params};

use crate::Result;
use crate::catalog::Catalog;

pub(crate) const TABLES: &str = "
CREATE TABLE schedules (
    name TEXT PRIMARY KEY, definition TEXT NOT NULL, handled INTEGER NOT NULL, full_due INTEGER NOT NULL,
    paused INTEGER NOT NULL, paused_by TEXT, slot INTEGER, run TEXT, note TEXT
) STRICT, WITHOUT ROWID;
";

/// What is remembered of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its times, as text: where they change, nothing was missed.
    pub definition: String,
    /// Up to when all slots are decided.
    pub handled: Timestamp,
    /// Whether a slot of the whole work has passed without a run.
    pub full_due: bool,
    /// Whether a person stopped it, and who.
    pub paused: bool,
    pub paused_by: Option<String>,
    /// The last slot that was decided.
    pub slot: Option<Timestamp>,
    /// The last run.
    pub run: Option<RunId>,
    /// What there is to say of the last slot.
    pub note: Option<String>,
}

impl Entry {
    /// That of a schedule of which nothing is known: its slots count from now on.
    pub fn new(definition: &str, now: Timestamp) -> Self {
        Self {
            definition: definition.to_owned(),
            handled: now,
            full_due: false,
            paused: false,
            paused_by: None,
            slot: None,
            run: None,
            note: None,
        }
    }
}

impl Catalog {
    /// All that is remembered of schedules.
    pub fn schedules(&self) -> Result<BTreeMap<String, Entry>> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT * FROM schedules")
            .map_err(self.failed("read the schedules"))?;
        statement
            .query_map([], |row| Ok((row.get("name")?, entry(row)?)))
            .and_then(Iterator::collect)
            .map_err(self.failed("read the schedules"))
    }

    /// Remembers something of a schedule; it is on disk when this returns.
    pub fn keep_schedule(&self, name: &str, entry: &Entry) -> Result<()> {
        let micros = |time: Timestamp| time.as_microsecond();
        self.lock()
            .execute(
                "INSERT OR REPLACE INTO schedules (name, definition, handled, full_due, paused, paused_by, slot, run, note)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    name,
                    entry.definition,
                    micros(entry.handled),
                    entry.full_due,
                    entry.paused,
                    entry.paused_by,
                    entry.slot.map(micros),
                    entry.run.as_ref().map(RunId::as_str),
                    entry.note
                ],
            )
            .map(|_| ())
            .map_err(self.failed("keep a schedule"))
    }

    /// Forgets a schedule that is configured no more.
    pub fn forget_schedule(&self, name: &str) -> Result<()> {
        self.lock()
            .execute("DELETE FROM schedules WHERE name = ?1", [name])
            .map(|_| ())
            .map_err(self.failed("forget a schedule"))
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let time = |micros: i64| Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
    Ok(Entry {
        definition: row.get("definition")?,
        handled: time(row.get("handled")?),
        full_due: row.get("full_due")?,
        paused: row.get("paused")?,
        paused_by: row.get("paused_by")?,
        slot: row.get::<_, Option<i64>>("slot")?.map(time),
        run: row.get::<_, Option<String>>("run")?.and_then(|id| RunId::try_from(id).ok()),
        note: row.get("note")?,
    })
}
