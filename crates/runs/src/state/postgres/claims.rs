//! Leases and places in pools.

use std::collections::BTreeMap;

use super::super::convert::{count, number};
use super::schema::Lock;
use super::work::{Failure, NOW, Writing};
use crate::state::Claim;
use crate::{Event, RunId};

/// Live runs that nobody has at $1. A lease that ends more than twice its length from now was given before the clock was set
/// back.
const FREE: &str =
    "live AND (lease_until IS NULL OR lease_until < $1 OR lease_until > $1 + 2 * lease_length)";

/// Who takes runs, when, for how long.
struct Taker<'a> {
    owner: &'a str,
    now: i64,
    lease: i64,
    limits: &'a BTreeMap<String, u32>,
}

pub(super) fn claim(
    work: &mut Writing<'_, '_>,
    owner: &str,
    lease: i64,
    most: usize,
    limits: &BTreeMap<String, u32>,
) -> Result<Vec<Claim>, Failure> {
    work.lock(Lock::Claims)?;
    let now = work.one(&format!("SELECT {NOW}"), &[])?.try_get(0)?;
    let taker = Taker { owner, now, lease, limits };
    let sets = format!("SELECT pools FROM leeward_runs WHERE {FREE} GROUP BY pools ORDER BY min(id)");
    let sets = work.rows(&sets, &[&now])?;
    let mut claims = Vec::new();
    for set in sets {
        let left = most.saturating_sub(claims.len());
        taker.claim_of(work, set.try_get(0)?, left, &mut claims)?;
    }
    let claimed = Event::Claimed { owner: owner.to_owned() };
    let events: Vec<_> = claims.iter().map(|claim| (&claim.run, &claimed)).collect();
    work.put_events(&events)?;
    Ok(claims)
}

impl Taker<'_> {
    /// Takes runs with one set of pools, while there are places.
    fn claim_of(
        &self,
        work: &mut Writing<'_, '_>,
        pools: &str,
        most: usize,
        claims: &mut Vec<Claim>,
    ) -> Result<(), Failure> {
        let names: Vec<String> = serde_json::from_str(pools)?;
        let waiting = format!(
            "SELECT id, cleaning FROM leeward_runs WHERE {FREE} AND pools = $2
             ORDER BY cleaning DESC, id LIMIT $3 FOR UPDATE SKIP LOCKED"
        );
        for row in work.rows(&waiting, &[&self.now, &pools, &number(most as u64)])? {
            let (id, is_cleaning): (&str, bool) = (row.try_get(0)?, row.try_get(1)?);
            // Who cleans up frees what the others wait for.
            if !self.take_places(work, id, &names, is_cleaning)? {
                return Ok(());
            }
            let fence: i64 = work
                .one(
                    "UPDATE leeward_runs SET owner = $2, lease_until = $3, lease_length = $4, fence = fence + 1
                     WHERE id = $1 RETURNING fence",
                    &[&id, &self.owner, &self.now.saturating_add(self.lease), &self.lease],
                )?
                .try_get(0)?;
            let Ok(run) = RunId::try_from(id.to_owned()) else { continue };
            claims.push(Claim { run, fence: count(fence) });
        }
        Ok(())
    }

    /// Takes a place in each pool, or none. A run whose engine died still has its places.
    fn take_places(
        &self,
        work: &mut Writing<'_, '_>,
        run: &str,
        pools: &[String],
        is_cleaning: bool,
    ) -> Result<bool, Failure> {
        let limited = pools.iter().filter_map(|pool| Some((pool, *self.limits.get(pool)?)));
        for (pool, limit) in limited.filter(|_| !is_cleaning) {
            let others: i64 = work
                .one("SELECT count(*) FROM leeward_pools WHERE pool = $1 AND run <> $2", &[pool, &run])?
                .try_get(0)?;
            if count(others) >= u64::from(limit) {
                return Ok(false);
            }
        }
        if !pools.is_empty() {
            work.execute(
                "INSERT INTO leeward_pools (pool, run) SELECT pool, $2 FROM unnest($1::text[]) AS given (pool)
                 ON CONFLICT DO NOTHING",
                &[&pools, &run],
            )?;
        }
        Ok(true)
    }
}

pub(super) fn renew(
    work: &mut Writing<'_, '_>,
    claims: &[Claim],
    lease: i64,
) -> Result<Vec<(Claim, u64)>, Failure> {
    let runs: Vec<&str> = claims.iter().map(|claim| claim.run.as_str()).collect();
    let fences: Vec<i64> = claims.iter().map(|claim| number(claim.fence)).collect();
    let text = format!(
        "UPDATE leeward_runs AS kept SET lease_until = {NOW} + $3, lease_length = $3
         FROM unnest($1::text[], $2::bigint[]) AS given (id, fence)
         WHERE kept.id = given.id AND kept.fence = given.fence AND kept.owner IS NOT NULL
         RETURNING kept.id, kept.fence, kept.sequence"
    );
    let rows = work.rows(&text, &[&runs, &fences, &lease])?;
    let mut sequences = BTreeMap::new();
    for row in &rows {
        let claim: (&str, i64) = (row.try_get(0)?, row.try_get(1)?);
        sequences.insert(claim, count(row.try_get(2)?));
    }
    let still = claims.iter().filter_map(|claim| {
        let sequence = sequences.get(&(claim.run.as_str(), number(claim.fence)))?;
        Some((claim.clone(), *sequence))
    });
    Ok(still.collect())
}

pub(super) fn release(work: &mut Writing<'_, '_>, claim: &Claim) -> Result<(), Failure> {
    let given_back = work.execute(
        "UPDATE leeward_runs SET owner = NULL, lease_until = NULL, lease_length = NULL
         WHERE id = $1 AND fence = $2 AND owner IS NOT NULL",
        &[&claim.run.as_str(), &number(claim.fence)],
    )?;
    if given_back > 0 {
        free_places(work, &claim.run)?;
    }
    Ok(())
}

pub(super) fn free_places(work: &mut Writing<'_, '_>, run: &RunId) -> Result<(), Failure> {
    work.execute("DELETE FROM leeward_pools WHERE run = $1", &[&run.as_str()]).map(drop)
}
