//! What steps write down on the way, and what happened.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use postgres::Client;
use serde_json::Value;

use super::super::convert::{count, micros, number, time};
use super::documents::plain;
use super::schema::Lock;
use super::work::{Failure, Work, Writing};
use crate::RunId;
use crate::state::{Claim, Level, LogLine, LoggedLine, Progress};

/// An event as it is stored.
pub(super) struct EventRow {
    pub number: u64,
    pub run: String,
    pub at: Timestamp,
    pub body: String,
}

pub(super) fn log(work: &mut Writing<'_, '_>, lines: &[LogLine]) -> Result<(), Failure> {
    // Who follows a run's log by its numbers must not miss a line that another step wrote at the same time.
    let locks: BTreeSet<i32> = lines.iter().map(|line| digest(&line.run)).collect();
    for lock in locks {
        work.lock(Lock::Log(lock))?;
    }
    let runs: Vec<_> = lines.iter().map(|line| line.run.as_str()).collect();
    let steps: Vec<_> = lines.iter().map(|line| plain(&line.step)).collect();
    let times: Vec<_> = lines.iter().map(|line| micros(line.at)).collect();
    let levels: Vec<_> = lines.iter().map(|line| line.level.name()).collect();
    let texts: Vec<_> = lines.iter().map(|line| plain(&line.text)).collect();
    work.execute(
        "INSERT INTO leeward_logs (run, step, at, level, text)
         SELECT run, step, at, level, text
         FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[])
            WITH ORDINALITY AS given (run, step, at, level, text, place)
         ORDER BY place",
        &[&runs, &steps, &times, &levels, &texts],
    )
    .map(drop)
}

/// A number for a run's name: where two runs have the same one, their logs wait for each other.
fn digest(run: &RunId) -> i32 {
    run.as_str().bytes().fold(0_i32, |sum, byte| sum.wrapping_mul(31).wrapping_add(i32::from(byte)))
}

pub(super) fn logged(
    work: &mut Work<'_, Client>,
    run: &RunId,
    step: Option<&str>,
    after: u64,
    most: usize,
) -> Result<Vec<LoggedLine>, Failure> {
    let rows = work.rows(
        "SELECT number, step, at, level, text FROM leeward_logs
         WHERE run = $1 AND number > $2 AND ($3::text IS NULL OR step = $3) ORDER BY number LIMIT $4",
        &[&run.as_str(), &number(after), &step.map(plain), &number(most as u64)],
    )?;
    let line = |row: &postgres::Row| {
        Ok(LoggedLine {
            number: count(row.try_get(0)?),
            step: row.try_get(1)?,
            at: time(row.try_get(2)?),
            level: Level::of(row.try_get(3)?),
            text: row.try_get(4)?,
        })
    };
    rows.iter().map(line).collect()
}

pub(super) fn events(
    work: &mut Work<'_, Client>,
    run: Option<&RunId>,
    after: u64,
    most: usize,
) -> Result<Vec<EventRow>, Failure> {
    let (after, most) = (number(after), number(most as u64));
    let rows = match run {
        Some(run) => work.rows(
            "SELECT number, run, at, body FROM leeward_events WHERE number > $1 AND run = $3 ORDER BY number LIMIT $2",
            &[&after, &most, &run.as_str()],
        )?,
        None => work.rows(
            "SELECT number, run, at, body FROM leeward_events WHERE number > $1 ORDER BY number LIMIT $2",
            &[&after, &most],
        )?,
    };
    let row = |row: &postgres::Row| {
        Ok(EventRow {
            number: count(row.try_get(0)?),
            run: row.try_get(1)?,
            at: time(row.try_get(2)?),
            body: row.try_get(3)?,
        })
    };
    rows.iter().map(row).collect()
}

pub(super) fn last_event(work: &mut Work<'_, Client>) -> Result<u64, Failure> {
    let row = work.one("SELECT coalesce(max(number), 0) FROM leeward_events", &[])?;
    Ok(count(row.try_get(0)?))
}

pub(super) fn set_progress(
    work: &mut Writing<'_, '_>,
    run: &RunId,
    step: &str,
    progress: &Progress,
) -> Result<(), Failure> {
    work.execute(
        "INSERT INTO leeward_progress (run, step, body) VALUES ($1, $2, $3)
         ON CONFLICT (run, step) DO UPDATE SET body = excluded.body",
        &[&run.as_str(), &plain(step), &serde_json::to_string(progress)?],
    )
    .map(drop)
}

pub(super) fn progress(
    work: &mut Work<'_, Client>,
    run: &RunId,
) -> Result<BTreeMap<String, String>, Failure> {
    let rows = work.rows("SELECT step, body FROM leeward_progress WHERE run = $1", &[&run.as_str()])?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

pub(super) fn set_checkpoint(
    work: &mut Writing<'_, '_>,
    claim: &Claim,
    step: &str,
    checkpoint: &Value,
) -> Result<bool, Failure> {
    // The lock on the run keeps another engine from taking it between this look and the commit.
    let newest = work.optional(
        "SELECT 1 FROM leeward_runs WHERE id = $1 AND fence = $2 AND owner IS NOT NULL FOR SHARE",
        &[&claim.run.as_str(), &number(claim.fence)],
    )?;
    if newest.is_none() {
        return Ok(false);
    }
    work.execute(
        "INSERT INTO leeward_checkpoints (run, step, body) VALUES ($1, $2, $3)
         ON CONFLICT (run, step) DO UPDATE SET body = excluded.body",
        &[&claim.run.as_str(), &plain(step), &serde_json::to_string(checkpoint)?],
    )?;
    Ok(true)
}

pub(super) fn checkpoint(
    work: &mut Work<'_, Client>,
    run: &RunId,
    step: &str,
) -> Result<Option<String>, Failure> {
    let row = work.optional(
        "SELECT body FROM leeward_checkpoints WHERE run = $1 AND step = $2",
        &[&run.as_str(), &plain(step)],
    )?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}
