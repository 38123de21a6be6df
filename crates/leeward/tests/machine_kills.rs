//! Kills at random moments of a backup: of Leeward, of QEMU, and of both. Whatever was killed, the guest's disks hold all
//! that it had flushed, and the next backup knows what it can believe. `LEEWARD_MACHINE_KILLS` says how often (12 by
//! default), `LEEWARD_SEED` where to begin.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use common::machine::{Disk, Machine, Write, assert_same, has_qemu, qemu_img};
use common::{Bench, MIB, Outcome, outcome};
use leeward_store::simulation::Random;
use rustix::process::{Pid, Signal, kill_process};

const SIZE: u64 = 64 * MIB;
const DISKS: usize = 2;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Leeward,
    Qemu,
    LeewardThenQemu,
    QemuThenLeeward,
}

impl Victim {
    fn processes(self, leeward: Pid, qemu: Pid) -> Vec<Pid> {
        match self {
            Self::Leeward => vec![leeward],
            Self::Qemu => vec![qemu],
            Self::LeewardThenQemu => vec![leeward, qemu],
            Self::QemuThenLeeward => vec![qemu, leeward],
        }
    }

    fn has_qemu(self) -> bool {
        self != Self::Leeward
    }
}

/// A machine with a raw and a qcow2 disk full of noise, and what is known of them.
struct Stage {
    bench: Bench,
    disks: Vec<Disk>,
    /// What the guest has flushed.
    flushed: Vec<Vec<u8>>,
    /// What it wrote afterwards, in order.
    pending: Vec<Write>,
    random: Random,
}

impl Stage {
    fn new(seed: u64) -> (Self, Machine) {
        let (bench, mut random) = (Bench::with_repository(), Random::new(seed));
        let mut flushed = Vec::new();
        let mut disks = Vec::new();
        for (name, format) in [("a", "raw"), ("b", "qcow2")] {
            let mut noise = vec![0; SIZE as usize];
            random.fill(&mut noise);
            let (raw, path) = (bench.path("noise"), bench.path(name));
            std::fs::write(&raw, &noise).unwrap();
            qemu_img(&["convert", "-f", "raw", "-O", format, raw.to_str().unwrap(), path.to_str().unwrap()]);
            flushed.push(noise);
            disks.push(Disk { path, format });
        }
        std::fs::remove_file(bench.path("noise")).unwrap();
        let stage = Self { bench, disks, flushed, pending: Vec::new(), random };
        let machine = stage.machine();
        (stage, machine)
    }

    fn machine(&self) -> Machine {
        Machine::start(&self.bench, &self.disks, &[])
    }

    /// Writes until `until`, or until QEMU is gone, and flushes now and then.
    fn write_until(&mut self, machine: &Machine, mut until: impl FnMut() -> bool) {
        while !until() {
            let write = Write::random(&mut self.random, DISKS, SIZE);
            let flush = self.random.below(3) > 0;
            self.pending.push(write);
            if !machine.try_write(&write, flush) {
                return;
            }
            if flush {
                self.settle(write.disk);
            }
        }
    }

    /// All that was written to a disk is on it now.
    fn settle(&mut self, disk: usize) {
        for write in self.pending.extract_if(.., |write| write.disk == disk) {
            write.apply(&mut self.flushed);
        }
    }

    /// Asserts that the image files are sound and hold all that was flushed, and takes them for what is so.
    fn look_at_files(&mut self, context: &str) {
        for number in 0..DISKS {
            let (disk, raw) = (self.disks[number].clone(), self.bench.path("now.raw"));
            let path = disk.path.to_str().unwrap();
            if disk.format == "qcow2" {
                // Clusters that nobody uses are lost space, and usual after a loss of power; errors are not.
                let checked = std::process::Command::new("qemu-img").args(["check", path]).output().unwrap();
                let code = checked.status.code();
                assert!(
                    matches!(code, Some(0 | 3)),
                    "{context}: {code:?} {}",
                    String::from_utf8_lossy(&checked.stdout)
                );
            }
            qemu_img(&["convert", "-f", disk.format, "-O", "raw", path, raw.to_str().unwrap()]);
            let now = std::fs::read(&raw).unwrap();
            std::fs::remove_file(raw).unwrap();
            let pending: Vec<_> = self.pending.iter().filter(|write| write.disk == number).collect();
            assert_eq!(now.len(), self.flushed[number].len(), "{context}");
            for (at, (now, flushed)) in now.iter().zip(&self.flushed[number]).enumerate() {
                let explained = || {
                    pending.iter().any(|write| {
                        (write.offset..write.offset + write.length).contains(&(at as u64))
                            && write.pattern == *now
                    })
                };
                assert!(
                    now == flushed || explained(),
                    "{context}: disk {number} lost what was flushed at {at}"
                );
            }
            self.flushed[number] = now;
        }
        self.pending.clear();
    }

    fn start(&self, machine: &Machine, more: &[&str]) -> Child {
        self.bench.start(&self.bench.back_up(&machine.source(), more))
    }

    /// Asserts that the last snapshots are what is on the disks.
    fn is_kept(&self, context: &str) {
        for (number, content) in self.flushed.iter().enumerate() {
            let context = format!("{context}, disk {number}");
            assert_same(&self.bench.content(&format!("m/vd{number}")), content, &context);
        }
    }
}

/// Mode and reason of each disk; asserts that there is a reason exactly where all was read.
fn told(outcome: &Outcome, context: &str) -> Vec<Option<String>> {
    assert_eq!(outcome.lines.len(), DISKS, "{context}: {}", outcome.stdout);
    let one = |line: &serde_json::Value| {
        let (mode, reason) = (&line["capture"]["mode"], line["capture"]["reason"].as_str());
        assert!(mode == "full" || mode == "incremental", "{context}: {line}");
        assert_eq!(mode == "full", reason.is_some_and(|reason| reason.len() > 10), "{context}: {line}");
        reason.map(str::to_owned)
    };
    outcome.lines.iter().map(one).collect()
}

/// Whether a reason is one that the victim can have caused. What was already decided before a kill stays possible: a
/// kill before the moment, or after publication, costs nothing.
fn is_explained(reason: Option<&str>, disk: usize, victim: Victim, restarted: bool) -> bool {
    let Some(reason) = reason else { return !victim.has_qemu() && (!restarted || disk == 1) };
    let causes: &[&str] = match (victim.has_qemu() || restarted, disk) {
        (false, _) => &["not finished"],
        // On a raw disk bitmaps are in memory alone.
        (true, 0) => &["is gone"],
        (true, _) if victim.has_qemu() => &["is gone", "inconsistent"],
        (true, _) => &["not finished", "is gone"],
    };
    causes.iter().any(|cause| reason.contains(cause))
}

#[test]
fn whatever_is_killed_the_disks_are_whole_and_the_next_backup_knows_what_to_believe() {
    if !has_qemu() {
        return;
    }
    let seed = number("LEEWARD_SEED", 1);
    let (mut stage, mut machine) = Stage::new(seed);
    let (mut kills, mut reasons) = (BTreeMap::new(), BTreeMap::new());
    let first = outcome(stage.start(&machine, &[]), &[]);
    assert_eq!(first.code, 0, "{}{}", first.stdout, first.stderr);
    for round in 0..number("LEEWARD_MACHINE_KILLS", 12) {
        let victim = [Victim::Leeward, Victim::Qemu, Victim::LeewardThenQemu, Victim::QemuThenLeeward]
            [stage.random.below(4) as usize];
        let full = stage.random.below(3) == 0;
        let context = format!("seed {seed}, round {round}, {victim:?}, full {full}");
        let mut writes = 10;
        stage.write_until(&machine, || {
            writes -= 1;
            writes < 0
        });
        let more: &[&str] = if full { &["--full", "--limit-read", "96M"] } else { &["--limit-read", "12M"] };
        let child = stage.start(&machine, more);
        let processes = victim
            .processes(Pid::from_child(&child), Pid::from_raw(machine.process().cast_signed()).unwrap());
        let delay = Duration::from_millis(stage.random.below(if full { 1800 } else { 600 }));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(delay);
            for process in processes {
                kill_process(process, Signal::KILL).unwrap();
            }
        });
        let deadline = Instant::now() + delay;
        stage.write_until(&machine, || Instant::now() >= deadline);
        killer.join().unwrap();
        let ended = outcome(child, &[]);
        let ending = match ended.code {
            -1 => "killed at work",
            0 => "done before",
            _ => "failed by itself",
        };
        // Without QEMU a backup must not succeed, unless it had published before.
        assert!(matches!(ended.code, -1 | 0 | 6), "{context}: {}{}", ended.stdout, ended.stderr);
        *kills.entry((victim, ending)).or_insert(0) += 1;
        let mut restarted = false;
        if victim.has_qemu() {
            machine.end(false);
            stage.look_at_files(&context);
            machine = stage.machine();
        } else if stage.random.below(3) == 0 {
            // With all that the killed backup left in it.
            machine.end(true);
            (0..DISKS).for_each(|disk| stage.settle(disk));
            stage.look_at_files(&context);
            machine = stage.machine();
            restarted = true;
        } else {
            (0..DISKS).for_each(|disk| stage.settle(disk));
        }
        let next = outcome(stage.start(&machine, &[]), &[]);
        assert_eq!(next.code, 0, "{context}: {}{}", next.stdout, next.stderr);
        for (disk, reason) in told(&next, &context).into_iter().enumerate() {
            assert!(
                is_explained(reason.as_deref(), disk, victim, restarted),
                "{context}, disk {disk}: {reason:?}"
            );
            *reasons.entry(reason.unwrap_or_else(|| "(incremental)".to_owned())).or_insert(0) += 1;
        }
        stage.is_kept(&context);
        machine.is_clean(DISKS, &context);
    }
    for ((victim, ending), count) in kills {
        println!("{count:3} × {victim:?}: {ending}");
    }
    for (reason, count) in reasons {
        println!("{count:3} × next: {reason}");
    }
    machine.end(true);
    stage.bench.is_sound("at the end");
}
