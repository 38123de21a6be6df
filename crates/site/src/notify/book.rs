//! What is to be told to whom, and what came of it: two tables of the catalog.
//!
//! That something is to be told is written down together with the number of the event that it was read from. Whoever is killed
//! between the two does neither; whoever is killed after a receiver has answered, and before that is written down, tells it
//! once more, under the same name.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use super::notice::Notice;
use crate::Result;
use crate::catalog::{Catalog, Fault, Row, Work, time, values};

/// The most notices that wait for one receiver. Then the oldest ones are given up: what a receiver that was away for long wants
/// to know first is what happened last.
pub(crate) const WAITING_MAX: u32 = 1000;

pub(crate) const TABLES: &str = "
CREATE TABLE told_up_to (one INTEGER PRIMARY KEY CHECK (one = 1), event INTEGER NOT NULL) STRICT;
CREATE TABLE deliveries (
    number INTEGER PRIMARY KEY AUTOINCREMENT, receiver TEXT NOT NULL, id TEXT NOT NULL, kind TEXT NOT NULL, about TEXT,
    title TEXT NOT NULL, notice TEXT NOT NULL, made INTEGER NOT NULL, state TEXT NOT NULL, due INTEGER NOT NULL,
    attempts INTEGER NOT NULL, outcome TEXT, ended INTEGER, UNIQUE (receiver, id)
) STRICT;
CREATE INDEX deliveries_due ON deliveries (receiver, due) WHERE state = 'waiting';
CREATE INDEX deliveries_state ON deliveries (state, number);
";

/// A notice on its way to a receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delivery {
    /// Its number; grows.
    pub number: u64,
    /// Who is told.
    pub receiver: String,
    /// The notice's name: the `webhook-id`, the beginning of the `Message-ID`.
    pub id: String,
    /// What it is, as `leeward.run.failed`.
    pub kind: String,
    /// What it is about: a run's name, or a schedule's.
    pub about: Option<String>,
    /// In one line.
    pub title: String,
    /// Since when it is to be told.
    pub made: Timestamp,
    /// Where it stands.
    pub state: DeliveryState,
    /// When it is tried next, where it waits.
    pub due: Option<Timestamp>,
    /// How often it was tried.
    pub attempts: u32,
    /// What the receiver answered last, or why it could not.
    pub outcome: Option<String>,
    /// When it was delivered or given up.
    pub ended: Option<Timestamp>,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// It is to be tried.
    Waiting,
    /// The receiver took it.
    Delivered,
    /// It was given up.
    Failed,
}

impl DeliveryState {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

impl std::str::FromStr for DeliveryState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "waiting" => Ok(Self::Waiting),
            "delivered" => Ok(Self::Delivered),
            "failed" => Ok(Self::Failed),
            _ => Err(format!("{text:?} is no state of a delivery: use waiting, delivered or failed")),
        }
    }
}

impl Catalog {
    /// Up to which event of runs it is decided who is told.
    pub fn told_up_to(&self) -> Result<Option<u64>> {
        let found =
            self.find("read what is to be told", "SELECT event FROM @told_up_to", values![], |row| {
                row.number("event")
            })?;
        Ok(found.first().copied().map(i64::unsigned_abs))
    }

    /// Has events be looked at from a number on; never, where there is none.
    pub fn tell_after(&self, event: Option<u64>) -> Result<()> {
        self.database.write("keep what is to be told", |work| match event {
            Some(event) => set_told(work, event),
            None => work.execute("DELETE FROM @told_up_to", values![]).map(drop),
        })
    }

    /// Writes down what is to be told to whom, and up to which event that is decided. What is there already stays as it is.
    pub fn tell(&self, notices: &[(&str, &Notice)], up_to: Option<u64>, now: Timestamp) -> Result<()> {
        self.database.write("keep what is to be told", |work| {
            for (receiver, notice) in notices {
                insert(work, receiver, notice, now)?;
            }
            up_to.map_or(Ok(()), |event| set_told(work, event))
        })
    }

    /// What a receiver is to be told now.
    pub fn due_for(&self, receiver: &str, now: Timestamp) -> Result<Option<(Delivery, Option<Notice>)>> {
        let found = self.find(
            "read what is to be told",
            "SELECT * FROM @deliveries WHERE state = 'waiting' AND receiver = ?1 AND due <= ?2
             ORDER BY due, number LIMIT 1",
            values![receiver, now.as_microsecond()],
            |row| Ok((delivery(row)?, serde_json::from_str(&row.text("notice")?).ok())),
        )?;
        Ok(found.into_iter().next())
    }

    /// Writes down how a delivery ended.
    pub fn end_delivery(
        &self,
        number: u64,
        state: DeliveryState,
        outcome: &str,
        now: Timestamp,
    ) -> Result<()> {
        self.change(
            "keep what came of a notice",
            "UPDATE @deliveries SET state = ?2, outcome = ?3, attempts = attempts + 1, ended = ?4 WHERE number = ?1",
            values![number.cast_signed(), state.name(), outcome, now.as_microsecond()],
        )
    }

    /// Has a delivery tried again later.
    pub fn postpone_delivery(&self, number: u64, until: Timestamp, outcome: &str) -> Result<()> {
        self.change(
            "keep what came of a notice",
            "UPDATE @deliveries SET due = ?2, outcome = ?3, attempts = attempts + 1 WHERE number = ?1",
            values![number.cast_signed(), until.as_microsecond(), outcome],
        )
    }

    /// The newest deliveries before a number, newest first; those in some states, or in any where none is named.
    pub fn deliveries(
        &self,
        states: &[DeliveryState],
        before: Option<u64>,
        most: u32,
    ) -> Result<Vec<Delivery>> {
        // Names of states are ours: nothing of a caller's text gets into the statement. Each of them once.
        let states: BTreeSet<_> = states.iter().collect();
        let names: Vec<_> = states.iter().map(|state| format!("'{}'", state.name())).collect();
        let wanted =
            if names.is_empty() { String::new() } else { format!("AND state IN ({})", names.join(", ")) };
        self.find(
            "read what was told",
            &format!("SELECT * FROM @deliveries WHERE number < ?1 {wanted} ORDER BY number DESC LIMIT ?2"),
            values![before.map_or(i64::MAX, |number| i64::try_from(number).unwrap_or(i64::MAX)), most],
            delivery,
        )
    }

    /// How many deliveries of each receiver stand where.
    pub fn delivery_counts(&self) -> Result<Vec<(String, DeliveryState, u64)>> {
        self.find(
            "read what was told",
            "SELECT receiver, state, count(*) AS deliveries FROM @deliveries GROUP BY receiver, state",
            values![],
            |row| {
                Ok((
                    row.text("receiver")?,
                    state(&row.text("state")?),
                    row.number("deliveries")?.unsigned_abs(),
                ))
            },
        )
    }

    /// Forgets what was delivered or given up before a time, and gives up what is for receivers that there are no more.
    pub fn forget_deliveries(&self, receivers: &[&str], before: Timestamp, now: Timestamp) -> Result<()> {
        self.database.write("forget what was told", |work| {
            work.execute("DELETE FROM @deliveries WHERE ended < ?1", values![before.as_microsecond()])?;
            let waiting =
                work.rows("SELECT DISTINCT receiver FROM @deliveries WHERE state = 'waiting'", values![])?;
            for row in waiting {
                let name = row.text("receiver")?;
                if receivers.contains(&name.as_str()) {
                    continue;
                }
                work.execute(
                    "UPDATE @deliveries SET state = 'failed', outcome = 'the receiver is configured no more', ended = ?2
                     WHERE state = 'waiting' AND receiver = ?1",
                    values![&name, now.as_microsecond()],
                )?;
            }
            Ok(())
        })
    }
}

fn set_told(work: &mut dyn Work, event: u64) -> Result<(), Fault> {
    work.execute(
        "INSERT INTO @told_up_to (one, event) VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET event = excluded.event",
        values![event.cast_signed()],
    )
    .map(drop)
}

fn insert(work: &mut dyn Work, receiver: &str, notice: &Notice, now: Timestamp) -> Result<(), Fault> {
    let text = serde_json::to_string(notice).map_err(|error| Fault::Json("a notice", error))?;
    work.execute(
        "INSERT INTO @deliveries (receiver, id, kind, about, title, notice, made, state, due, attempts)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'waiting', ?7, 0) ON CONFLICT DO NOTHING",
        values![
            receiver,
            &notice.id,
            &notice.kind,
            notice.about.as_ref(),
            &notice.title,
            &text,
            now.as_microsecond()
        ],
    )?;
    work.execute(
        "UPDATE @deliveries SET state = 'failed', outcome = 'given up: too many notices waited for this receiver', ended = ?3
         WHERE state = 'waiting' AND receiver = ?1 AND number <=
             (SELECT number FROM @deliveries WHERE state = 'waiting' AND receiver = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
        values![receiver, WAITING_MAX, now.as_microsecond()],
    )?;
    Ok(())
}

fn state(name: &str) -> DeliveryState {
    name.parse().unwrap_or(DeliveryState::Failed)
}

fn delivery(row: &Row) -> Result<Delivery, Fault> {
    let state = state(&row.text("state")?);
    Ok(Delivery {
        number: row.number("number")?.unsigned_abs(),
        receiver: row.text("receiver")?,
        id: row.text("id")?,
        kind: row.text("kind")?,
        about: row.optional_text("about")?,
        title: row.text("title")?,
        made: time(row.number("made")?),
        state,
        due: (state == DeliveryState::Waiting).then_some(time(row.number("due")?)),
        attempts: u32::try_from(row.number("attempts")?).unwrap_or(u32::MAX),
        outcome: row.optional_text("outcome")?,
        ended: row.optional_number("ended")?.map(time),
    })
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::super::notice::Teller;
    use super::*;

    #[test]
    fn a_catalog_of_the_release_before_gets_what_it_has_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("catalog.sqlite");
        drop(Catalog::open(&file).unwrap());
        let connection = rusqlite::Connection::open(&file).unwrap();
        connection
            .execute_batch(
                "DROP TABLE told_up_to; DROP TABLE deliveries; DROP TABLE delivered; DROP TABLE worker_tokens;
                 PRAGMA user_version = 2;",
            )
            .unwrap();
        drop(connection);
        let catalog = Catalog::open(&file).unwrap();
        catalog.tell_after(Some(3)).unwrap();
        assert_eq!(catalog.told_up_to().unwrap(), Some(3));
        assert!(catalog.deliveries(&[], None, 1).unwrap().is_empty());
        catalog.keep_token("run", "digest").unwrap();
    }

    #[test]
    fn what_is_to_be_told_is_told_once_in_order_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("catalog.sqlite");
        let catalog = Catalog::open(&file).unwrap();
        assert_eq!(catalog.told_up_to().unwrap(), None);
        let teller = Teller { site: "home".to_owned(), url: None };
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let notice = |second: i64| teller.missed("nightly", at(second), "missed", None);
        let (first, second) = (notice(1), notice(2));
        catalog.tell(&[("a", &first), ("b", &first)], Some(5), at(10)).unwrap();
        catalog.tell(&[("a", &first), ("a", &second)], Some(6), at(11)).unwrap();
        drop(catalog);
        let catalog = Catalog::open(&file).unwrap();
        assert_eq!(catalog.told_up_to().unwrap(), Some(6));
        assert_eq!(catalog.deliveries(&[], None, 10).unwrap().len(), 3, "decided twice, told once");

        let (found, stored) = catalog.due_for("a", at(20)).unwrap().unwrap();
        assert_eq!((&found.id, stored.as_ref()), (&first.id, Some(&first)));
        catalog.postpone_delivery(found.number, at(30), "503").unwrap();
        let (found, _) = catalog.due_for("a", at(20)).unwrap().unwrap();
        assert_eq!(found.id, second.id, "one that waits holds up no other");
        catalog.end_delivery(found.number, DeliveryState::Delivered, "204", at(21)).unwrap();
        assert_eq!(catalog.due_for("a", at(29)).unwrap(), None);
        assert_eq!(catalog.due_for("a", at(30)).unwrap().unwrap().0.attempts, 1);

        catalog.forget_deliveries(&["a"], at(22), at(40)).unwrap();
        let left = catalog.deliveries(&[DeliveryState::Failed], None, 10).unwrap();
        assert_eq!(left.len(), 1, "b is configured no more");
        assert_eq!(catalog.deliveries(&[], None, 10).unwrap().len(), 2, "what was delivered is forgotten");

        let start = at(100);
        for number in 0..i64::from(WAITING_MAX) + 5 {
            let now = start + SignedDuration::from_secs(number);
            catalog.tell(&[("c", &teller.missed("x", now, "missed", None))], None, now).unwrap();
        }
        let counts = catalog.delivery_counts().unwrap();
        let of = |state| counts.iter().find(|count| count.0 == "c" && count.1 == state).unwrap().2;
        assert_eq!((of(DeliveryState::Waiting), of(DeliveryState::Failed)), (WAITING_MAX.into(), 5));
    }
}
