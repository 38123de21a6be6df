//! The life of a repository that many machines share: ten writers, two collections, a checker, somebody who forgets and
//! somebody who brings back, all at once and in an order that a seed decides; a quarter of them are killed at some
//! operation, clocks are wrong by hours, and machines get new names.
//!
//! After every round each snapshot that was acknowledged and not forgotten restores byte for byte, and none that was
//! forgotten is in sight. In the end a collection that runs alone leaves nothing that nothing needs.
//!
//! It is played on a directory; on a service without comparison whose reads, listings and answers cannot be relied on; and on
//! the gateway of Ceph where its test bed is up. `LEEWARD_ROUNDS=1000` plays so many rounds on each, `LEEWARD_SEED=7` those of
//! one seed, `LEEWARD_SEED_FIRST=50` those from 50 on; `LEEWARD_LIVES=4` plays four lives at once, each in a place of its own;
//! `LEEWARD_MINUTES=20` ends with the lives that are being played after so long. [`life::run`] takes any store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod cast;
#[path = "../common/mod.rs"]
mod common;
mod gateway;
mod life;
mod stage;
mod worlds;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gateway::GatewayWorld;
use life::{Tally, run};
use worlds::{BucketWorld, DirectoryWorld, World};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Rounds of one life.
const ROUNDS_PER_LIFE: u64 = 10;

/// What is to be played.
struct Programme {
    seeds: Range<u64>,
    lives_at_once: u64,
    until: Option<Instant>,
}

impl Programme {
    /// What was asked for, or so many rounds when nobody asks.
    fn of_environment(rounds: u64) -> Self {
        let lives = number("LEEWARD_ROUNDS").unwrap_or(rounds).div_ceil(ROUNDS_PER_LIFE);
        let first = number("LEEWARD_SEED_FIRST").unwrap_or(0);
        let seeds = number("LEEWARD_SEED").map_or(first..first + lives, |seed| seed..seed + 1);
        let minutes = number("LEEWARD_MINUTES").map(|minutes| Duration::from_secs(60 * minutes));
        Self {
            seeds,
            lives_at_once: number("LEEWARD_LIVES").unwrap_or(1).max(1),
            until: minutes.map(|time| Instant::now() + time),
        }
    }
}

/// A life that fails panics: the others then end with the one that they are playing.
struct OnPanic<'a>(&'a AtomicBool);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        self.0.fetch_or(std::thread::panicking(), Ordering::SeqCst);
    }
}

/// Plays the lives of some seeds, each in a world of its own.
fn play<W: World>(name: &str, rounds: u64, world: impl Fn(u64) -> W + Sync) {
    let began = Instant::now();
    let programme = Programme::of_environment(rounds);
    let (next, has_failed) = (AtomicU64::new(programme.seeds.start), AtomicBool::new(false));
    let sum = Mutex::new((0, Tally::default()));
    let lives = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            let is_late = programme.until.is_some_and(|until| Instant::now() > until);
            if seed >= programme.seeds.end || is_late || has_failed.load(Ordering::SeqCst) {
                return;
            }
            let _failure = OnPanic(&has_failed);
            let world = world(seed);
            let tally = run(&world, seed, ROUNDS_PER_LIFE);
            println!("{name}: seed {seed}, {:.0} s so far: {tally:?}", began.elapsed().as_secs_f64());
            if let Some(requests) = world.requests() {
                println!("{name}: seed {seed}, requests: {requests}");
            }
            let mut sum = sum.lock().unwrap();
            sum.0 += ROUNDS_PER_LIFE;
            sum.1.add(tally);
        }
    };
    std::thread::scope(|scope| (0..programme.lives_at_once).for_each(|_| drop(scope.spawn(lives))));
    let (played, total) = sum.into_inner().unwrap();
    println!("{name}: {played} rounds in {:.1} s: {total:?}", began.elapsed().as_secs_f64());
}

#[test]
fn ten_writers_and_two_collections_that_die_and_disagree_about_time_lose_nothing() {
    play("directory", 30, |_| DirectoryWorld::new());
}

#[test]
fn they_lose_nothing_where_nothing_is_compared_and_listings_lag() {
    play("without comparison", 30, BucketWorld::new);
}

#[test]
fn they_lose_nothing_at_the_gateway_of_ceph() {
    match GatewayWorld::new() {
        Ok(_) => play("gateway", 10, |_| GatewayWorld::new().unwrap()),
        Err(why) => println!("SKIPPED: {why}"),
    }
}
