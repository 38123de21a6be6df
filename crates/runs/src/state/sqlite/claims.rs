//! Leases and places in pools.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Transaction, params};

use super::super::convert::{count, micros, number, span};
use super::steps::{json, put_events};
use crate::state::Claim;
use crate::{Event, RunId};

/// Live runs that nobody has at ?1. A lease that ends more than twice its length from now was given before the clock was set
/// back. `live` stands by itself, as in the index of live runs: there are far more that have ended.
const FREE: &str =
    "live AND (lease_until IS NULL OR lease_until < ?1 OR lease_until > ?1 + 2 * lease_length)";

/// Takes runs that nobody has.
pub(super) fn claim(
    transaction: &Transaction<'_>,
    owner: &str,
    lease: Duration,
    most: usize,
    limits: &BTreeMap<String, u32>,
    except: &[RunId],
) -> rusqlite::Result<Vec<Claim>> {
    // The clock is read when the file is ours: waiting for it may have taken longer than a lease.
    let taker = Taker { owner, now: Timestamp::now(), lease: span(lease), limits };
    let (mut claims, mut full) = (Vec::new(), BTreeSet::new());
    for (id, pools, is_admitted) in waiting(transaction, taker.now, most, except)? {
        if claims.len() == most {
            break;
        }
        if full.contains(&pools) && !is_admitted {
            continue;
        }
        match taker.take_places(transaction, &id, &pools, is_admitted)? {
            true => claims.extend(taker.take(transaction, id)?),
            // Whoever comes after it with the same pools finds no place, either.
            false => drop(full.insert(pools)),
        }
    }
    Ok(claims)
}

/// Runs to take, with their pools and whether they wait for no place, in the order in which they are taken: who cleans up frees
/// what the others wait for, and who has its places from an engine that died would keep the others waiting for ever. No more
/// of each set of pools than may be taken in all.
fn waiting(
    transaction: &Transaction<'_>,
    now: Timestamp,
    most: usize,
    except: &[RunId],
) -> rusqlite::Result<Vec<(String, String, bool)>> {
    let except: Vec<&str> = except.iter().map(RunId::as_str).collect();
    transaction
        .prepare_cached(&waiting_text())?
        .query_map(params![micros(now), number(most as u64), json(&except)?], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect()
}

fn waiting_text() -> String {
    format!(
        "SELECT id, pools, rank < 2 FROM (
            SELECT id, pools, rank, row_number() OVER (PARTITION BY pools ORDER BY rank, id) AS place FROM (
                SELECT id, pools,
                    CASE WHEN cleaning THEN 0 WHEN id IN (SELECT run FROM pools) THEN 1 ELSE 2 END AS rank
                FROM runs WHERE {FREE} AND id NOT IN (SELECT value FROM json_each(?3))))
         WHERE place <= ?2 ORDER BY rank, id"
    )
}

pub(super) fn renew(
    transaction: &Transaction<'_>,
    claims: &[Claim],
    lease: Duration,
) -> rusqlite::Result<Vec<(Claim, u64)>> {
    let lease = span(lease);
    let until = micros(Timestamp::now()).saturating_add(lease);
    let mut still = Vec::new();
    let mut renew = transaction.prepare_cached(
        "UPDATE runs SET lease_until = ?3, lease_length = ?4 WHERE id = ?1 AND fence = ?2 AND owner IS NOT NULL
         RETURNING sequence",
    )?;
    for claim in claims {
        let values = params![claim.run.as_str(), number(claim.fence), until, lease];
        let sequence: Option<i64> = renew.query_row(values, |row| row.get(0)).optional()?;
        still.extend(sequence.map(|sequence| (claim.clone(), count(sequence))));
    }
    Ok(still)
}

pub(super) fn release(transaction: &Transaction<'_>, claim: &Claim) -> rusqlite::Result<()> {
    if is_newest(transaction, claim)? {
        transaction.execute(
            "UPDATE runs SET owner = NULL, lease_until = NULL, lease_length = NULL WHERE id = ?1",
            [claim.run.as_str()],
        )?;
        free_places(transaction, &claim.run)?;
    }
    Ok(())
}

/// Who takes runs, when, for how long.
struct Taker<'a> {
    owner: &'a str,
    now: Timestamp,
    lease: i64,
    limits: &'a BTreeMap<String, u32>,
}

impl Taker<'_> {
    fn take(&self, transaction: &Transaction<'_>, id: String) -> rusqlite::Result<Option<Claim>> {
        let until = micros(self.now).saturating_add(self.lease);
        let fence: i64 = transaction.query_row(
            "UPDATE runs SET owner = ?2, lease_until = ?3, lease_length = ?4, fence = fence + 1 WHERE id = ?1
             RETURNING fence",
            params![id, self.owner, until, self.lease],
            |row| row.get(0),
        )?;
        let Ok(run) = RunId::try_from(id) else { return Ok(None) };
        let claimed = Event::Claimed { owner: self.owner.to_owned() };
        put_events(transaction, &run, self.now, std::slice::from_ref(&claimed))?;
        Ok(Some(Claim { run, fence: count(fence) }))
    }

    /// Takes a place in each pool, or none; without counting for who is admitted in any case.
    fn take_places(
        &self,
        transaction: &Transaction<'_>,
        run: &str,
        pools: &str,
        is_admitted: bool,
    ) -> rusqlite::Result<bool> {
        let pools: Vec<String> = serde_json::from_str(pools).unwrap_or_default();
        let limited = pools.iter().filter_map(|pool| Some((pool, *self.limits.get(pool)?)));
        for (pool, limit) in limited.filter(|_| !is_admitted) {
            let taken: i64 = transaction
                .prepare_cached("SELECT count(*) FROM pools WHERE pool = ?1")?
                .query_row([pool], |row| row.get(0))?;
            if count(taken) >= u64::from(limit) {
                return Ok(false);
            }
        }
        for pool in &pools {
            transaction
                .execute("INSERT OR IGNORE INTO pools (pool, run) VALUES (?1, ?2)", params![pool, run])?;
        }
        Ok(true)
    }
}

pub(super) fn is_newest(transaction: &Transaction<'_>, claim: &Claim) -> rusqlite::Result<bool> {
    let fence: Option<i64> = transaction
        .query_row(
            "SELECT fence FROM runs WHERE id = ?1 AND owner IS NOT NULL",
            [claim.run.as_str()],
            |row| row.get(0),
        )
        .optional()?;
    Ok(fence == Some(number(claim.fence)))
}

pub(super) fn free_places(transaction: &Transaction<'_>, run: &RunId) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM pools WHERE run = ?1", [run.as_str()]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::super::SqliteState;
    use super::*;

    #[test]
    fn who_looks_for_runs_does_not_read_those_that_have_ended() {
        let folder = tempfile::tempdir().unwrap();
        let state = SqliteState::open(&folder.path().join("runs")).unwrap();
        let reader = state.reader.lock().unwrap();
        let text = format!("EXPLAIN QUERY PLAN {}", waiting_text());
        let plan: Vec<String> = reader
            .prepare(&text)
            .unwrap()
            .query_map(params![0, 5, "[]"], |row| row.get(3))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let reads: Vec<_> = plan.iter().filter(|line| line.starts_with("SCAN runs")).collect();
        assert_eq!(reads, ["SCAN runs USING INDEX runs_live"], "{plan:#?}");
    }
}
