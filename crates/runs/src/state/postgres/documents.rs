//! Runs as documents: kept, read, compared and replaced, listed, forgotten.

use postgres::Client;
use postgres::types::ToSql;

use super::super::convert::{FORGOTTEN_AT_ONCE, count, micros, number, time};
use super::claims::free_places;
use super::work::{Failure, Work, Writing};
use crate::state::{Filter, Lease, Order, Replaced, Summary};
use crate::{Event, Run, RunId, RunState};

/// A run as it is stored.
pub(super) struct Found {
    pub body: String,
    pub fence: u64,
    pub sequence: u64,
    pub lease: Option<Lease>,
}

/// Columns have no NUL; documents have it escaped.
pub(super) fn plain(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Keeps a new run, or returns the name of the one that was made with the same key before.
pub(super) fn insert(
    work: &mut Writing<'_, '_>,
    run: &Run,
    unique: Option<&str>,
) -> Result<Option<String>, Failure> {
    let id = run.id.as_str();
    // Two that insert under one key: the second one waits for the first one's commit, and then does nothing.
    let new = work.execute(
        "INSERT INTO leeward_runs
            (id, kind, subject, state, live, cleaning, pools, unique_key, fence, sequence, summary, body)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, $9, $10) ON CONFLICT (unique_key) DO NOTHING",
        &[
            &id,
            &plain(&run.plan.kind),
            &plain(&run.subject),
            &run.state.name(),
            &run.state.is_live(),
            &run.state.is_cleaning(),
            &serde_json::to_string(&run.plan.pools)?,
            &unique.map(plain),
            &serde_json::to_string(&Summary::of(run))?,
            &serde_json::to_string(run)?,
        ],
    )?;
    if new == 0 {
        let found = work.one("SELECT id FROM leeward_runs WHERE unique_key = $1", &[&unique.map(plain)])?;
        return Ok(Some(found.try_get(0)?));
    }
    work.put_events(&[(&run.id, &Event::Created)])?;
    Ok(None)
}

pub(super) fn load(work: &mut Work<'_, Client>, run: &RunId) -> Result<Option<Found>, Failure> {
    let row = work.optional(
        "SELECT body, fence, sequence, owner, lease_until FROM leeward_runs WHERE id = $1",
        &[&run.as_str()],
    )?;
    let Some(row) = row else { return Ok(None) };
    let lease = match (row.try_get(3)?, row.try_get(4)?) {
        (Some(owner), Some(until)) => Some(Lease { owner, until: time(until) }),
        _ => None,
    };
    Ok(Some(Found {
        body: row.try_get(0)?,
        fence: count(row.try_get(1)?),
        sequence: count(row.try_get(2)?),
        lease,
    }))
}

pub(super) fn replace(
    work: &mut Writing<'_, '_>,
    run: &Run,
    sequence_was: u64,
    fence: Option<u64>,
    events: &[Event],
) -> Result<Replaced, Failure> {
    let id = run.id.as_str();
    let found = work.optional("SELECT sequence, fence FROM leeward_runs WHERE id = $1 FOR UPDATE", &[&id])?;
    let Some(found) = found else { return Ok(Replaced::Gone) };
    let (sequence, newest): (i64, i64) = (found.try_get(0)?, found.try_get(1)?);
    if fence.is_some_and(|fence| number(fence) != newest) {
        return Ok(Replaced::Fenced);
    }
    if sequence != number(sequence_was) {
        return Ok(Replaced::Changed);
    }
    work.execute(
        "UPDATE leeward_runs SET state = $2, live = $3, cleaning = $4, ended = $5, sequence = sequence + 1,
            summary = $6, body = $7 WHERE id = $1",
        &[
            &id,
            &run.state.name(),
            &run.state.is_live(),
            &run.state.is_cleaning(),
            &run.finished.map(micros),
            &serde_json::to_string(&Summary::of(run))?,
            &serde_json::to_string(run)?,
        ],
    )?;
    if !run.state.is_live() {
        work.execute(
            "UPDATE leeward_runs SET owner = NULL, lease_until = NULL, lease_length = NULL WHERE id = $1",
            &[&id],
        )?;
        free_places(work, &run.id)?;
    }
    let events: Vec<_> = events.iter().map(|event| (&run.id, event)).collect();
    work.put_events(&events)?;
    Ok(Replaced::Done)
}

/// Names and summaries, one more than asked for where there is another page.
pub(super) fn list(
    work: &mut Work<'_, Client>,
    filter: &Filter,
    most: usize,
) -> Result<Vec<(String, String)>, Failure> {
    let newest_first = filter.order == Order::NewestFirst;
    let (compare, order) = if newest_first { ("<", "DESC") } else { (">", "ASC") };
    // What is not asked for is NULL: one statement serves all filters, and nothing of a caller's text gets into it.
    let text = format!(
        "SELECT id, summary FROM leeward_runs
         WHERE ($1::text IS NULL OR kind = $1) AND ($2::text IS NULL OR strpos(lower(subject), lower($2)) > 0)
           AND ($3::text IS NULL OR id {compare} $3) AND ($4::text[] IS NULL OR state = ANY($4))
         ORDER BY id {order} LIMIT $5"
    );
    let names: Vec<_> = filter.states.iter().map(|state| state.name()).collect();
    let names = (!names.is_empty()).then_some(names);
    let values: [&(dyn ToSql + Sync); 5] = [
        &filter.kind.as_deref().map(plain),
        &filter.text.as_deref().map(plain),
        &filter.past.as_ref().map(RunId::as_str),
        &names,
        &number(most as u64).saturating_add(1),
    ];
    let rows = work.rows(&text, &values)?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

pub(super) fn counts(work: &mut Work<'_, Client>) -> Result<Vec<(String, RunState, u64)>, Failure> {
    let rows =
        work.rows("SELECT kind, state, count(*) FROM leeward_runs GROUP BY kind, state ORDER BY 1, 2", &[])?;
    let mut counts = Vec::new();
    for row in &rows {
        if let Ok(state) = row.try_get::<_, &str>(1)?.parse() {
            counts.push((row.try_get(0)?, state, count(row.try_get(2)?)));
        }
    }
    Ok(counts)
}

/// Forgets some of the runs that ended before a time.
pub(super) fn forget(work: &mut Writing<'_, '_>, before: jiff::Timestamp) -> Result<u64, Failure> {
    let rows = work.rows(
        "DELETE FROM leeward_runs WHERE id IN (
            SELECT id FROM leeward_runs WHERE ended < $1 AND state <> 'undo-failed'
            ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)
         RETURNING id",
        &[&micros(before), &FORGOTTEN_AT_ONCE],
    )?;
    let gone: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    for table in ["events", "logs", "progress", "checkpoints"] {
        work.client.execute(&format!("DELETE FROM leeward_{table} WHERE run = ANY($1)"), &[&gone])?;
    }
    Ok(gone.len() as u64)
}
