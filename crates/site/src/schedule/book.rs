//! What is remembered of schedules: a table of the catalog.
//!
//! A run is begun under a key that names its slot, and only then is the slot written down here as decided. Whoever dies
//! between the two finds the slot undecided, begins the same run again, and is told that it is there.

use std::collections::BTreeMap;

use jiff::Timestamp;
use leeward_runs::RunId;

use crate::Result;
use crate::catalog::{Catalog, Fault, Row, time, values};

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
        let of = |row: &Row| Ok((row.text("name")?, entry(row)?));
        let found = self.find("read the schedules", "SELECT * FROM @schedules", values![], of)?;
        Ok(found.into_iter().collect())
    }

    /// Remembers something of a schedule, if what is remembered of it is still what it `was`; returns whether it was. Then it is
    /// on disk. Another daemon may have decided something at the same time.
    pub fn keep_schedule(&self, name: &str, was: Option<&Entry>, entry: &Entry) -> Result<bool> {
        let micros = |time: Timestamp| time.as_microsecond();
        let run = entry.run.as_ref().map(RunId::as_str);
        self.database.write("keep a schedule", |work| {
            let Some(was) = was else {
                let made = work.execute(
                    "INSERT INTO @schedules (name, definition, handled, full_due, paused, paused_by, slot, run, note)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
                    values![
                        name,
                        &entry.definition,
                        micros(entry.handled),
                        entry.full_due,
                        entry.paused,
                        entry.paused_by.as_ref(),
                        entry.slot.map(micros),
                        run,
                        entry.note.as_ref()
                    ],
                )?;
                return Ok(made == 1);
            };
            let changed = work.execute(
                "UPDATE @schedules SET definition = ?2, handled = ?3, full_due = ?4, paused = ?5, paused_by = ?6, slot = ?7,
                     run = ?8, note = ?9
                 WHERE name = ?1 AND definition = ?10 AND handled = ?11 AND full_due = ?12 AND paused = ?13
                     AND slot IS NOT DISTINCT FROM ?14 AND note IS NOT DISTINCT FROM ?15
                     AND run IS NOT DISTINCT FROM ?16",
                values![
                    name,
                    &entry.definition,
                    micros(entry.handled),
                    entry.full_due,
                    entry.paused,
                    entry.paused_by.as_ref(),
                    entry.slot.map(micros),
                    run,
                    entry.note.as_ref(),
                    &was.definition,
                    micros(was.handled),
                    was.full_due,
                    was.paused,
                    was.slot.map(micros),
                    was.note.as_ref(),
                    was.run.as_ref().map(RunId::as_str)
                ],
            )?;
            Ok(changed == 1)
        })
    }

    /// Forgets a schedule that is configured no more.
    pub fn forget_schedule(&self, name: &str) -> Result<()> {
        self.change("forget a schedule", "DELETE FROM @schedules WHERE name = ?1", values![name])
    }
}

fn entry(row: &Row) -> Result<Entry, Fault> {
    Ok(Entry {
        definition: row.text("definition")?,
        handled: time(row.number("handled")?),
        full_due: row.number("full_due")? != 0,
        paused: row.number("paused")? != 0,
        paused_by: row.optional_text("paused_by")?,
        slot: row.optional_number("slot")?.map(time),
        run: row.optional_text("run")?.and_then(|id| RunId::try_from(id).ok()),
        note: row.optional_text("note")?,
    })
}
