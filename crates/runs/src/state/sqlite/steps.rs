//! What steps write down on the way, and what happened.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde_json::Value;

use super::super::convert::{count, micros, number, time};
use super::claims::is_newest;
use crate::state::{Claim, Level, LogLine, LoggedLine, Progress};
use crate::{Event, RunId};

/// An event as it is stored.
pub(super) struct EventRow {
    pub number: u64,
    pub run: String,
    pub at: Timestamp,
    pub body: String,
}

pub(super) fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

pub(super) fn put_events(
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

pub(super) fn log(transaction: &Transaction<'_>, lines: &[LogLine]) -> rusqlite::Result<()> {
    let mut insert = transaction
        .prepare_cached("INSERT INTO logs (run, step, at, level, text) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for line in lines {
        let (at, level) = (micros(line.at), line.level.name());
        insert.execute(params![line.run.as_str(), line.step, at, level, line.text])?;
    }
    Ok(())
}

pub(super) fn logged(
    reader: &Connection,
    run: &RunId,
    step: Option<&str>,
    after: u64,
    most: usize,
) -> rusqlite::Result<Vec<LoggedLine>> {
    let line = |row: &Row<'_>| {
        Ok(LoggedLine {
            number: count(row.get(0)?),
            step: row.get(1)?,
            at: time(row.get(2)?),
            level: Level::of(&row.get::<_, String>(3)?),
            text: row.get(4)?,
        })
    };
    reader
        .prepare_cached(
            "SELECT number, step, at, level, text FROM logs
             WHERE run = ?1 AND number > ?2 AND (?3 IS NULL OR step = ?3) ORDER BY number LIMIT ?4",
        )?
        .query_map(params![run.as_str(), number(after), step, number(most as u64)], line)?
        .collect()
}

pub(super) fn events(
    reader: &Connection,
    run: Option<&RunId>,
    after: u64,
    most: usize,
) -> rusqlite::Result<Vec<EventRow>> {
    let text = match run {
        Some(_) => {
            "SELECT number, run, at, body FROM events WHERE run = ?3 AND number > ?1 ORDER BY number LIMIT ?2"
        }
        None => {
            "SELECT number, run, at, body FROM events WHERE number > ?1 AND ?3 IS NULL ORDER BY number LIMIT ?2"
        }
    };
    let event = |row: &Row<'_>| {
        Ok(EventRow {
            number: count(row.get(0)?),
            run: row.get(1)?,
            at: time(row.get(2)?),
            body: row.get(3)?,
        })
    };
    reader
        .prepare_cached(text)?
        .query_map(params![number(after), number(most as u64), run.map(RunId::as_str)], event)?
        .collect()
}

pub(super) fn last_event(reader: &Connection) -> rusqlite::Result<u64> {
    reader.query_row("SELECT coalesce(max(number), 0) FROM events", [], |row| row.get(0)).map(count)
}

pub(super) fn set_progress(
    transaction: &Transaction<'_>,
    run: &RunId,
    step: &str,
    progress: &Progress,
) -> rusqlite::Result<()> {
    transaction
        .execute(
            "INSERT INTO progress (run, step, body) VALUES (?1, ?2, ?3)
             ON CONFLICT (run, step) DO UPDATE SET body = excluded.body",
            params![run.as_str(), step, json(progress)?],
        )
        .map(drop)
}

pub(super) fn progress(reader: &Connection, run: &RunId) -> rusqlite::Result<Vec<(String, String)>> {
    reader
        .prepare_cached("SELECT step, body FROM progress WHERE run = ?1")?
        .query_map([run.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

pub(super) fn set_checkpoint(
    transaction: &Transaction<'_>,
    claim: &Claim,
    step: &str,
    checkpoint: &Value,
) -> rusqlite::Result<bool> {
    let newest = is_newest(transaction, claim)?;
    if newest {
        transaction.execute(
            "INSERT INTO checkpoints (run, step, body) VALUES (?1, ?2, ?3)
             ON CONFLICT (run, step) DO UPDATE SET body = excluded.body",
            params![claim.run.as_str(), step, json(checkpoint)?],
        )?;
    }
    Ok(newest)
}

pub(super) fn checkpoint(reader: &Connection, run: &RunId, step: &str) -> rusqlite::Result<Option<String>> {
    reader
        .query_row(
            "SELECT body FROM checkpoints WHERE run = ?1 AND step = ?2",
            params![run.as_str(), step],
            |row| row.get(0),
        )
        .optional()
}
