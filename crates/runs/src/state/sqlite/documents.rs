//! Runs as documents: kept, read, compared and replaced, listed, forgotten.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::super::convert::{FORGOTTEN_AT_ONCE, count, micros, number, time};
use super::claims::free_places;
use super::steps::{json, put_events};
use crate::state::{Filter, Inserted, Lease, Order, Replaced, Summary};
use crate::{Event, Run, RunId, RunState};

/// A run as it is stored.
pub(super) struct Found {
    pub body: String,
    pub fence: u64,
    pub sequence: u64,
    pub lease: Option<Lease>,
}

pub(super) fn insert(
    transaction: &Transaction<'_>,
    run: &Run,
    unique: Option<&str>,
) -> rusqlite::Result<Inserted> {
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
}

pub(super) fn load(reader: &Connection, run: &RunId) -> rusqlite::Result<Option<Found>> {
    let found = |row: &Row<'_>| {
        let lease = match (row.get(3)?, row.get(4)?) {
            (Some(owner), Some(until)) => Some(Lease { owner, until: time(until) }),
            _ => None,
        };
        Ok(Found { body: row.get(0)?, fence: count(row.get(1)?), sequence: count(row.get(2)?), lease })
    };
    reader
        .prepare_cached("SELECT body, fence, sequence, owner, lease_until FROM runs WHERE id = ?1")?
        .query_row([run.as_str()], found)
        .optional()
}

pub(super) fn replace(
    transaction: &Transaction<'_>,
    run: &Run,
    sequence_was: u64,
    fence: Option<u64>,
    events: &[Event],
) -> rusqlite::Result<Replaced> {
    let id = run.id.as_str();
    let found: Option<(i64, i64)> = transaction
        .prepare_cached("SELECT sequence, fence FROM runs WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        None => return Ok(Replaced::Gone),
        Some((_, newest)) if fence.is_some_and(|fence| number(fence) != newest) => {
            return Ok(Replaced::Fenced);
        }
        Some((sequence, _)) if sequence != number(sequence_was) => return Ok(Replaced::Changed),
        Some(_) => {}
    }
    transaction
        .prepare_cached(
            "UPDATE runs SET state = ?2, live = ?3, cleaning = ?4, ended = ?5, sequence = sequence + 1, summary = ?6,
                body = ?7 WHERE id = ?1",
        )?
        .execute(params![
            id,
            run.state.name(),
            run.state.is_live(),
            run.state.is_cleaning(),
            run.finished.map(micros),
            json(&Summary::of(run))?,
            json(run)?
        ])?;
    if !run.state.is_live() {
        transaction.execute(
            "UPDATE runs SET owner = NULL, lease_until = NULL, lease_length = NULL WHERE id = ?1",
            [id],
        )?;
        free_places(transaction, &run.id)?;
    }
    put_events(transaction, &run.id, Timestamp::now(), events)?;
    Ok(Replaced::Done)
}

/// Names and summaries, one more than asked for where there is another page.
pub(super) fn list(
    reader: &Connection,
    filter: &Filter,
    most: usize,
) -> rusqlite::Result<Vec<(String, String)>> {
    let newest_first = filter.order == Order::NewestFirst;
    let mut wanted = vec!["1".to_owned()];
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
    let order = if newest_first { "DESC" } else { "ASC" };
    let (wanted, most) = (wanted.join(" AND "), number(most as u64).saturating_add(1));
    let text = format!("SELECT id, summary FROM runs WHERE {wanted} ORDER BY id {order} LIMIT {most}");
    reader
        .prepare_cached(&text)?
        .query_map(rusqlite::params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

pub(super) fn counts(reader: &Connection) -> rusqlite::Result<Vec<(String, RunState, u64)>> {
    let rows: Vec<(String, String, i64)> = reader
        .prepare_cached("SELECT kind, state, count(*) FROM runs GROUP BY kind, state")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let known = |(kind, state, runs): (String, String, i64)| Some((kind, state.parse().ok()?, count(runs)));
    Ok(rows.into_iter().filter_map(known).collect())
}

/// Forgets some of the runs that ended before a time.
pub(super) fn forget(transaction: &Transaction<'_>, before: Timestamp) -> rusqlite::Result<u64> {
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
