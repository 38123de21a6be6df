//! Leases and places in pools.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Transaction, params};

use super::super::convert::{count, micros, number, span};
use super::steps::put_events;
use crate::state::Claim;
use crate::{Event, RunId};

/// Live runs that nobody has at ?1. A lease that ends more than twice its length from now was given before the clock was set
/// back.
const FREE: &str =
    "live AND (lease_until IS NULL OR lease_until < ?1 OR lease_until > ?1 + 2 * lease_length)";

/// Takes runs that nobody has.
pub(super) fn claim(
    transaction: &Transaction<'_>,
    owner: &str,
    lease: Duration,
    most: usize,
    limits: &BTreeMap<String, u32>,
) -> rusqlite::Result<Vec<Claim>> {
    // The clock is read when the file is ours: waiting for it may have taken longer than a lease.
    let taker = Taker { owner, now: Timestamp::now(), lease: span(lease), limits };
    let mut claims = Vec::new();
    for pools in waiting_pools(transaction, taker.now)? {
        taker.claim_of(transaction, &pools, most, &mut claims)?;
    }
    Ok(claims)
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

/// The different sets of pools that runs wait with.
fn waiting_pools(transaction: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<Vec<String>> {
    let text = format!("SELECT pools FROM runs WHERE {FREE} GROUP BY pools ORDER BY min(id)");
    transaction.prepare_cached(&text)?.query_map([micros(now)], |row| row.get(0))?.collect()
}

/// Who takes runs, when, for how long.
struct Taker<'a> {
    owner: &'a str,
    now: Timestamp,
    lease: i64,
    limits: &'a BTreeMap<String, u32>,
}

impl Taker<'_> {
    /// Takes runs with one set of pools, while there are places.
    fn claim_of(
        &self,
        transaction: &Transaction<'_>,
        pools: &str,
        most: usize,
        claims: &mut Vec<Claim>,
    ) -> rusqlite::Result<()> {
        let names: Vec<String> = serde_json::from_str(pools).unwrap_or_default();
        let left = most.saturating_sub(claims.len());
        let text = format!(
            "SELECT id, cleaning FROM runs WHERE {FREE} AND pools = ?2 ORDER BY cleaning DESC, id LIMIT ?3"
        );
        let waiting: Vec<(String, bool)> = transaction
            .prepare_cached(&text)?
            .query_map(params![micros(self.now), pools, number(left as u64)], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (id, is_cleaning) in waiting {
            // Who cleans up frees what the others wait for.
            if !self.take_places(transaction, &id, &names, is_cleaning)? {
                return Ok(());
            }
            claims.extend(self.take(transaction, id)?);
        }
        Ok(())
    }

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

    /// Takes a place in each pool, or none. A run whose engine died still has its places.
    fn take_places(
        &self,
        transaction: &Transaction<'_>,
        run: &str,
        pools: &[String],
        is_cleaning: bool,
    ) -> rusqlite::Result<bool> {
        let limited = pools.iter().filter_map(|pool| Some((pool, *self.limits.get(pool)?)));
        for (pool, limit) in limited.filter(|_| !is_cleaning) {
            let others: i64 = transaction.query_row(
                "SELECT count(*) FROM pools WHERE pool = ?1 AND run <> ?2",
                params![pool, run],
                |row| row.get(0),
            )?;
            if count(others) >= u64::from(limit) {
                return Ok(false);
            }
        }
        for pool in pools {
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
