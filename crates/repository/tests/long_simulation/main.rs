//! The life of a repository that many machines share: ten writers, two collections, a checker, somebody who forgets and
//! somebody who brings back, all at once and in an order that a seed decides; a quarter of them are killed at some
//! operation, clocks are wrong by hours, and machines get new names.
//!
//! After every round each snapshot that was acknowledged and not forgotten restores byte for byte, and none that was
//! forgotten is in sight. In the end a collection that runs alone leaves nothing that nothing needs.
//!
//! It is played on a directory; on a service without comparison whose reads, listings and answers cannot be relied on; and on
//! the gateway of Ceph where its test bed is up. `LEEWARD_ROUNDS=1000` plays so many rounds on each, `LEEWARD_SEED=7` those of
//! one seed; `LEEWARD_MINUTES=20` ends with the life that is being played after so long. [`life::run`] takes any store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod cast;
#[path = "../common/mod.rs"]
mod common;
mod gateway;
mod life;
mod stage;
mod worlds;

use std::time::{Duration, Instant};

use gateway::GatewayWorld;
use life::{Tally, run};
use worlds::{BucketWorld, DirectoryWorld, World};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays the lives of some seeds, each in a world of its own and of so many rounds: all that are asked for, or `rounds` when
/// nobody asks.
fn play<W: World>(name: &str, rounds: u64, rounds_per_seed: u64, world: impl Fn(u64) -> W) {
    let began = Instant::now();
    let time = number("LEEWARD_MINUTES").map(|minutes| Duration::from_secs(60 * minutes));
    let rounds = number("LEEWARD_ROUNDS").unwrap_or(rounds);
    let seeds = match number("LEEWARD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..rounds.div_ceil(rounds_per_seed),
    };
    let (mut total, mut played) = (Tally::default(), 0);
    for seed in seeds {
        if time.is_some_and(|time| began.elapsed() > time) {
            break;
        }
        let tally = run(&world(seed), seed, rounds_per_seed);
        println!("{name}: seed {seed}, {:.0} s so far: {tally:?}", began.elapsed().as_secs_f64());
        total.add(tally);
        played += rounds_per_seed;
    }
    println!("{name}: {played} rounds in {:.1} s: {total:?}", began.elapsed().as_secs_f64());
}

#[test]
fn ten_writers_and_two_collections_that_die_and_disagree_about_time_lose_nothing() {
    play("directory", 30, 10, |_| DirectoryWorld::new());
}

#[test]
fn they_lose_nothing_where_nothing_is_compared_and_listings_lag() {
    play("without comparison", 30, 10, BucketWorld::new);
}

#[test]
fn they_lose_nothing_at_the_gateway_of_ceph() {
    if number("LEEWARD_ROUNDS").is_none() {
        println!("SKIPPED: a round takes a minute at the gateway; LEEWARD_ROUNDS=9 plays nine");
        return;
    }
    match GatewayWorld::new() {
        Ok(_) => play("gateway", 0, 3, |_| GatewayWorld::new().unwrap()),
        Err(why) => println!("SKIPPED: {why}"),
    }
}
