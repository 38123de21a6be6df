//! The command is killed at random moments: after each kill everything that was published is there and sound.
//! `LEEWARD_KILLS` says how often (40 by default), `LEEWARD_SEED` where to begin.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{Bench, MIB, outcome, text};
use leeward_store::simulation::Random;
use rustix::process::{Pid, Signal, kill_process};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[derive(Default)]
struct Count {
    killed: u64,
    ended: u64,
}

struct Torture {
    bench: Bench,
    random: Random,
    disks: Vec<PathBuf>,
    /// Acknowledged and not forgotten.
    kept: Vec<(String, String)>,
    /// How long each kind of run takes, from runs that were not killed.
    times: HashMap<&'static str, Duration>,
    counts: HashMap<&'static str, Count>,
}

const IMAGES: [&str; 2] = ["a/root", "b"];

impl Torture {
    fn new(seed: u64) -> Self {
        let bench = Bench::with_repository();
        let first = bench.disk("first.raw", 48, 9, seed);
        let second = bench.changed(&first, "second.raw", seed + 1);
        let third = bench.changed(&second, "third.raw", seed + 2);
        let other = bench.disk("other.raw", 48, 6, seed + 3);
        let (random, disks) = (Random::new(seed), vec![first, second, third, other]);
        let mut torture =
            Self { bench, random, disks, kept: Vec::new(), times: HashMap::new(), counts: HashMap::new() };
        // One of each without a kill tells how long they take.
        torture.back_up(false);
        torture.back_up(false);
        torture.forget(false);
        torture.work("collect", &["collect", "--window", "0"], false);
        torture.work("rebuild-index", &["rebuild-index"], false);
        torture
    }

    /// Runs the command and kills it somewhere in the middle; returns what it printed when it was faster.
    fn work(&mut self, kind: &'static str, arguments: &[&str], kill: bool) -> Option<common::Outcome> {
        let started = Instant::now();
        let mut child = self.bench.start(arguments);
        if kill {
            let usual = self.times.get(kind).copied().unwrap_or(Duration::from_millis(100));
            let at = usual.mul_f64(self.random.below(1100) as f64 / 1000.0);
            std::thread::sleep(at.saturating_sub(started.elapsed()));
            // It may have ended by itself.
            let _ = child.kill();
        }
        let outcome = outcome(child, if kill { &[] } else { arguments });
        let count = self.counts.entry(kind).or_default();
        if outcome.code == -1 {
            count.killed += 1;
            return None;
        }
        assert_eq!(outcome.code, 0, "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
        count.ended += 1;
        if !kill {
            self.times.insert(kind, started.elapsed());
        }
        Some(outcome)
    }

    fn back_up(&mut self, kill: bool) {
        let disk = self.disks[self.random.below(self.disks.len() as u64) as usize].clone();
        let image = IMAGES[self.random.below(2) as usize];
        if let Some(outcome) = self.work("backup", &["backup", disk.to_str().unwrap(), image], kill) {
            self.kept.push((image.to_owned(), text(&outcome.value()["snapshot"])));
        }
    }

    fn forget(&mut self, kill: bool) {
        let Some((image, id)) = self.bench.published().into_iter().next_back() else { return };
        self.kept.retain(|(_, other)| *other != id);
        let spec = format!("{image}@{id}");
        self.work("forget", &["forget", &spec], kill);
    }

    fn strike(&mut self) {
        match self.random.below(10) {
            0..4 => self.back_up(true),
            4 => self.forget(true),
            5..8 => {
                // So that there is something to collect.
                if self.bench.published().len() > 2 {
                    self.forget(false);
                }
                self.work("collect", &["collect", "--window", "0", "--max-unused", "10"], true);
            }
            _ => {
                self.work("rebuild-index", &["rebuild-index"], true);
            }
        }
    }

    fn holds(&mut self, context: &str) {
        self.bench.is_sound(context);
        let published = self.bench.published();
        for (image, id) in &self.kept {
            assert!(published.contains(&(image.clone(), id.clone())), "{context}: {image}@{id} is lost");
        }
        for (image, id) in &published {
            self.bench.equals_its_source(image, id, context);
        }
        if !published.is_empty() {
            let (image, id) = &published[self.random.below(published.len() as u64) as usize];
            self.bench.restores(image, id, context);
        }
    }
}

#[test]
fn nothing_that_was_published_is_lost_by_kills() {
    let (kills, seed) = (number("LEEWARD_KILLS", 40), number("LEEWARD_SEED", 1));
    let mut torture = Torture::new(seed);
    torture.holds("before the first kill");
    let total = |torture: &Torture| torture.counts.values().map(|count| count.killed).sum::<u64>();
    let mut strikes = 0;
    while total(&torture) < kills {
        torture.strike();
        strikes += 1;
        torture.holds(&format!("seed {seed}, strike {strikes}"));
    }
    // And work goes on.
    torture.back_up(false);
    torture.work("collect", &["collect", "--window", "0"], false);
    torture.holds("after the last kill");
    for (kind, count) in &torture.counts {
        println!("{kind}: {} killed, {} ended by themselves", count.killed, count.ended);
    }
}

#[test]
fn an_interrupted_backup_ends_with_130_and_a_rerun_stores_only_the_rest() {
    let bench = Bench::with_repository();
    let mut size = 48;
    loop {
        let disk = bench.disk("disk.raw", size, size, size);
        let arguments = ["backup", disk.to_str().unwrap(), "a"];
        let child = bench.start(&arguments);
        let packs = || std::fs::read_dir(bench.repository().join("packs")).unwrap().count() as u64;
        let before = packs();
        let deadline = Instant::now() + Duration::from_secs(30);
        while packs() < before + 3 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let outcome = outcome(child, &arguments);
        if outcome.code == 0 {
            // It was faster than the signal.
            assert!(size < 1000, "a backup cannot be interrupted");
            size *= 2;
            continue;
        }
        assert_eq!(outcome.code, 130, "{}{}", outcome.stdout, outcome.stderr);
        assert_eq!(outcome.value()["code"], 130);
        assert!(outcome.value()["hint"].is_string(), "{}", outcome.stdout);
        assert_eq!(bench.succeeds(&["images"]).lines.len(), usize::from(size > 48));
        assert_eq!(std::fs::read_dir(bench.repository().join("sessions")).unwrap().count(), 0);
        bench.is_sound("interrupted");
        let rerun = bench.succeeds(&arguments);
        let statistics = &rerun.value()["statistics"];
        let (data, new) =
            (statistics["data_bytes"].as_u64().unwrap(), statistics["new_bytes"].as_u64().unwrap());
        assert!(new + 2 * MIB < data, "the rerun stored {new} of {data} bytes again");
        bench.restores("a", "latest", "the rerun");
        bench.is_sound("run again");
        return;
    }
}
