//! Leases and places in pools.

use std::collections::{BTreeMap, BTreeSet};

use postgres::Row;

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
    except: &[RunId],
) -> Result<Vec<Claim>, Failure> {
    work.lock(Lock::Claims)?;
    let now = work.one(&format!("SELECT {NOW}"), &[])?.try_get(0)?;
    let taker = Taker { owner, now, lease, limits };
    let (mut claims, mut full) = (Vec::new(), BTreeSet::new());
    for row in waiting(work, now, most, except)? {
        if claims.len() == most {
            break;
        }
        let (id, pools): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        match taker.take(work, id, pools, &full)? {
            Taken::Ours(claim) => claims.push(claim),
            // Whoever comes after it with the same pools finds no place, either.
            Taken::NoPlace => drop(full.insert(pools.to_owned())),
            Taken::Passed => {}
        }
    }
    let claimed = Event::Claimed { owner: owner.to_owned() };
    let events: Vec<_> = claims.iter().map(|claim| (&claim.run, &claimed)).collect();
    work.put_events(&events)?;
    Ok(claims)
}

/// What became of a run that was to be taken.
enum Taken {
    Ours(Claim),
    NoPlace,
    /// Somebody was quicker, or it is of no use to look for places.
    Passed,
}

/// Runs to take, with their pools, in the order in which they are taken: who cleans up frees what the others wait for, and who
/// has its places from an engine that died would keep the others waiting for ever. No more of each set of pools than may be
/// taken in all.
fn waiting(work: &mut Writing<'_, '_>, now: i64, most: usize, except: &[RunId]) -> Result<Vec<Row>, Failure> {
    let except: Vec<&str> = except.iter().map(RunId::as_str).collect();
    let text = format!(
        "SELECT id, pools FROM (
            SELECT id, pools, rank, row_number() OVER (PARTITION BY pools ORDER BY rank, id) AS place FROM (
                SELECT id, pools, CASE
                    WHEN cleaning THEN 0 WHEN id IN (SELECT run FROM leeward_pools) THEN 1 ELSE 2 END AS rank
                FROM leeward_runs WHERE {FREE} AND id <> ALL ($3::text[])) AS free) AS ranked
         WHERE place <= $2 ORDER BY rank, id"
    );
    work.rows(&text, &[&now, &number(most as u64), &except])
}

impl Taker<'_> {
    /// Takes a run, with its places.
    fn take(
        &self,
        work: &mut Writing<'_, '_>,
        id: &str,
        pools: &str,
        full: &BTreeSet<String>,
    ) -> Result<Taken, Failure> {
        // What the run has and is does not change once its row is locked; before, it may.
        let lock =
            format!("SELECT cleaning FROM leeward_runs WHERE id = $2 AND {FREE} FOR UPDATE SKIP LOCKED");
        let Some(row) = work.optional(&lock, &[&self.now, &id])? else { return Ok(Taken::Passed) };
        let names: Vec<String> = serde_json::from_str(pools)?;
        if !row.try_get::<_, bool>(0)? && !has_places(work, id, &names)? {
            if full.contains(pools) {
                return Ok(Taken::Passed);
            }
            if !self.has_room(work, &names)? {
                return Ok(Taken::NoPlace);
            }
        }
        if !names.is_empty() {
            work.execute(
                "INSERT INTO leeward_pools (pool, run) SELECT pool, $2 FROM unnest($1::text[]) AS given (pool)
                 ON CONFLICT DO NOTHING",
                &[&names, &id],
            )?;
        }
        let fence: i64 = work
            .one(
                "UPDATE leeward_runs SET owner = $2, lease_until = $3, lease_length = $4, fence = fence + 1
                 WHERE id = $1 RETURNING fence",
                &[&id, &self.owner, &self.now.saturating_add(self.lease), &self.lease],
            )?
            .try_get(0)?;
        let run = RunId::try_from(id.to_owned()).map(|run| Taken::Ours(Claim { run, fence: count(fence) }));
        Ok(run.unwrap_or(Taken::Passed))
    }

    /// Whether each pool has a place for one more.
    fn has_room(&self, work: &mut Writing<'_, '_>, pools: &[String]) -> Result<bool, Failure> {
        for (pool, limit) in pools.iter().filter_map(|pool| Some((pool, *self.limits.get(pool)?))) {
            let row = work.one("SELECT count(*) FROM leeward_pools WHERE pool = $1", &[pool])?;
            if count(row.try_get(0)?) >= u64::from(limit) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a run has its places: a run has a place in each of its pools, or in none.
fn has_places(work: &mut Writing<'_, '_>, run: &str, pools: &[String]) -> Result<bool, Failure> {
    let Some(pool) = pools.first() else { return Ok(false) };
    let text = "SELECT 1 FROM leeward_pools WHERE pool = $1 AND run = $2";
    Ok(work.optional(text, &[pool, &run])?.is_some())
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
