//! Backups of machines of a real QEMU whose guest's writes the test makes, so that it knows every byte of every moment.
//! `LEEWARD_SEED` says where to begin, `LEEWARD_KILLS` how often to kill (8 by default).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::process::Child;
use std::time::{Duration, Instant};

use common::machine::{Disk, Kind, Machine, SIZE, Write, assert_same, has_qemu, qemu_img};
use common::{Bench, MIB, Outcome, outcome, text};
use leeward_store::simulation::Random;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A machine with a raw and a qcow2 disk, and what is on them.
struct Stage {
    bench: Bench,
    disks: Vec<Disk>,
    content: Vec<Vec<u8>>,
    random: Random,
}

impl Stage {
    fn new(seed: u64) -> (Self, Machine) {
        let bench = Bench::with_repository();
        let disks =
            vec![Disk::create(&bench, "a.raw", "raw", SIZE), Disk::create(&bench, "b.qcow2", "qcow2", SIZE)];
        let content = vec![vec![0; SIZE as usize]; 2];
        let mut stage = Self { bench, disks, content, random: Random::new(seed) };
        let machine = stage.machine();
        stage.scribble(&machine, 40);
        (stage, machine)
    }

    fn machine(&self) -> Machine {
        Machine::start(&self.bench, &self.disks, &[])
    }

    /// Ends QEMU without notice. What it had not written yet is lost to the guest too.
    fn kill(&mut self, machine: Machine) -> Machine {
        machine.end(false);
        for (disk, content) in self.disks.iter().zip(&mut self.content) {
            let raw = self.bench.path("killed.raw");
            let paths = [&disk.path, &raw].map(|path| path.to_str().unwrap());
            qemu_img(&["convert", "-f", disk.format, "-O", "raw", paths[0], paths[1]]);
            *content = std::fs::read(&raw).unwrap();
            std::fs::remove_file(raw).unwrap();
        }
        self.machine()
    }

    fn scribble(&mut self, machine: &Machine, writes: usize) {
        for _ in 0..writes {
            let write = Write::random(&mut self.random, 2, SIZE);
            machine.write(&write);
            write.apply(&mut self.content);
        }
    }

    fn back_up(&self, machine: &Machine, more: &[&str]) -> Outcome {
        self.bench.succeeds(&self.bench.back_up(&machine.source(), more))
    }

    fn start(&self, machine: &Machine, more: &[&str]) -> Child {
        self.bench.start(&self.bench.back_up(&machine.source(), more))
    }

    /// Asserts that the last snapshots are what is on the disks now.
    fn is_kept(&self, context: &str) {
        for (number, content) in self.content.iter().enumerate() {
            let context = format!("{context}, disk {number}");
            assert_same(&self.bench.content(&format!("m/vd{number}")), content, &context);
        }
    }

    /// Writes until `until`, and finds the moment of the last group: both disks after the same number of writes.
    fn write_during(&mut self, machine: &Machine, mut until: impl FnMut() -> bool) -> Vec<Write> {
        let mut log = Vec::new();
        while !until() {
            let write = Write::random(&mut self.random, 2, SIZE);
            machine.write(&write);
            log.push(write);
            // Enough to get in the way, and few enough to try every moment afterwards.
            std::thread::sleep(Duration::from_millis(1));
        }
        log
    }

    /// Asserts that both disks of the last group are the content after the same number of writes of the log, and
    /// applies the whole log. Returns that number.
    fn is_a_prefix(&mut self, log: &[Write], context: &str) -> usize {
        let found: Vec<_> = (0..2).map(|number| self.bench.content(&format!("m/vd{number}"))).collect();
        let mut state = self.content.clone();
        let mut moment = (state == found).then_some(0);
        for (number, write) in log.iter().enumerate() {
            write.apply(&mut state);
            if moment.is_none() && state == found {
                moment = Some(number + 1);
            }
        }
        self.content = state;
        moment.unwrap_or_else(|| panic!("{context}: the group is at no point of {} writes", log.len()))
    }
}

fn modes(outcome: &Outcome) -> Vec<(String, String)> {
    let entry = |line: &Value| {
        (text(&line["capture"]["mode"]), line["capture"]["reason"].as_str().unwrap_or_default().to_owned())
    };
    outcome.lines.iter().map(entry).collect()
}

fn all_incremental(outcome: &Outcome, context: &str) {
    assert!(modes(outcome).iter().all(|(mode, _)| mode == "incremental"), "{context}: {}", outcome.stdout);
}

fn all_full(outcome: &Outcome, why: &str) {
    assert!(!outcome.lines.is_empty());
    for (mode, reason) in modes(outcome) {
        assert!(mode == "full" && reason.contains(why), "{why}: {}", outcome.stdout);
    }
}

#[test]
fn only_what_changed_is_read_and_the_group_is_the_machine() {
    if !has_qemu() {
        return;
    }
    let (mut stage, machine) = Stage::new(number("LEEWARD_SEED", 1));
    let first = stage.back_up(&machine, &["--tag", "first"]);
    all_full(&first, "no snapshot yet");
    assert_eq!(first.lines.len(), 2);
    assert_eq!(first.lines[0]["group"], first.lines[1]["group"]);
    stage.is_kept("first");
    for round in 0..3 {
        stage.scribble(&machine, 5);
        let context = format!("round {round}");
        let plan = stage.bench.succeeds(&stage.bench.back_up(&machine.source(), &["--dry-run"]));
        let outcome = stage.back_up(&machine, &[]);
        all_incremental(&outcome, &context);
        for (line, planned) in outcome.lines.iter().zip(&plan.lines) {
            let changed = line["capture"]["changed_bytes"].as_u64().unwrap();
            let read = line["statistics"]["read_bytes"].as_u64().unwrap();
            assert_eq!(planned["bytes"], changed, "{context}: the plan is what is done");
            assert!(read <= changed + changed / 5, "{context}: {read} bytes read of {changed} changed");
        }
        stage.is_kept(&context);
        machine.is_clean(2, &context);
    }
    let nothing = stage.back_up(&machine, &[]);
    assert!(nothing.lines.iter().all(|line| line["statistics"]["read_bytes"] == 0), "{}", nothing.stdout);
    all_full(&stage.back_up(&machine, &["--full"]), "asked for");
    stage.is_kept("asked for a full one");
    all_incremental(&stage.back_up(&machine, &[]), "after a full one");
    let manifest = &stage.bench.succeeds(&["show", "m/vd1"]).lines[0]["manifest"];
    assert_eq!(manifest["consistency"], "at-rest", "its guest has not begun");
    assert_eq!(manifest["group"]["machine"]["disks"][1]["image"], "m/vd1");
    stage.bench.is_sound("at the end");
}

#[test]
fn a_group_is_one_moment_whatever_the_guest_writes_meanwhile() {
    if !has_qemu() {
        return;
    }
    let seed = number("LEEWARD_SEED", 1);
    let (mut stage, machine) = Stage::new(seed);
    let mut writes = 0;
    for round in 0..5 {
        let context = format!("seed {seed}, round {round}");
        let before = stage.write_during(&machine, {
            let mut count = 0;
            move || {
                count += 1;
                count > 30
            }
        });
        for write in &before {
            write.apply(&mut stage.content);
        }
        let slow = if round == 0 { "16M" } else { "8M" };
        let arguments = ["--limit-read", slow, "--threads", "2"];
        let mut child = stage.start(&machine, &arguments);
        let log = stage.write_during(&machine, || child.try_wait().unwrap().is_some());
        let outcome = outcome(child, &[]);
        assert_eq!(outcome.code, 0, "{context}: {}", outcome.stderr);
        if round > 0 {
            all_incremental(&outcome, &context);
        }
        let moment = stage.is_a_prefix(&log, &context);
        assert!(moment < log.len(), "{context}: nothing was written after the moment");
        writes += log.len() - moment;
        machine.is_clean(2, &context);
    }
    let _ = stage.back_up(&machine, &[]);
    stage.is_kept("at the end");
    println!("{writes} writes fell between moment and end");
    stage.bench.is_sound("at the end");
}

#[test]
fn a_full_overlay_fails_the_backup_and_never_the_guest() {
    if !has_qemu() {
        return;
    }
    let (mut stage, machine) = Stage::new(number("LEEWARD_SEED", 1));
    stage.back_up(&machine, &[]);
    stage.scribble(&machine, 10);
    let before = stage.bench.published();
    let arguments = ["--overlay-max", "1M", "--limit-read", "500K"];
    let child = stage.start(&machine, &arguments);
    wait_until(|| has_job(&machine));
    // More than fits, and all of it succeeds.
    for disk in 0..2 {
        let write = Write { disk, offset: 0, length: 8 * MIB, pattern: 77, kind: Kind::Data };
        machine.write(&write);
        write.apply(&mut stage.content);
    }
    let failed = outcome(child, &[]);
    assert_eq!(failed.code, 6, "{}{}", failed.stdout, failed.stderr);
    let told = text(&failed.lines.last().unwrap()["error"]);
    assert!(told.contains("overlay") && told.contains("--overlay-max"), "{told}");
    assert_eq!(stage.bench.published(), before);
    machine.is_clean(2, "after a full overlay");
    stage.scribble(&machine, 5);
    all_incremental(&stage.back_up(&machine, &[]), "the chain goes on");
    stage.is_kept("after a full overlay");
}

#[test]
fn a_cancelled_backup_leaves_the_machine_as_it_was() {
    if !has_qemu() {
        return;
    }
    let (mut stage, machine) = Stage::new(number("LEEWARD_SEED", 1));
    stage.back_up(&machine, &[]);
    stage.scribble(&machine, 10);
    let names = |machine: &Machine| -> Vec<Value> {
        (0..2).flat_map(|disk| machine.bitmaps(disk)).map(|bitmap| bitmap["name"].clone()).collect()
    };
    let before = (stage.bench.published(), names(&machine));
    let child = stage.start(&machine, &["--limit-read", "200K"]);
    wait_until(|| has_job(&machine));
    stage.scribble(&machine, 10);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let cancelled = outcome(child, &[]);
    assert_eq!(cancelled.code, 130, "{}{}", cancelled.stdout, cancelled.stderr);
    machine.is_clean(2, "cancelled");
    assert_eq!((stage.bench.published(), names(&machine)), before);
    stage.scribble(&machine, 3);
    all_incremental(&stage.back_up(&machine, &[]), "the chain goes on");
    stage.is_kept("after a cancelled backup");
}

#[test]
fn kills_leave_nothing_that_the_next_backup_does_not_find() {
    if !has_qemu() {
        return;
    }
    let seed = number("LEEWARD_SEED", 1);
    let (mut stage, machine) = Stage::new(seed);
    stage.back_up(&machine, &[]);
    let mut killed = 0;
    let mut fallen_back = 0;
    for round in 0..number("LEEWARD_KILLS", 8) {
        let context = format!("seed {seed}, round {round}");
        stage.scribble(&machine, 4);
        let mut child = stage.start(&machine, &["--limit-read", "4M"]);
        let wait = stage.random.below(450);
        let deadline = Instant::now() + Duration::from_millis(wait);
        let log = stage.write_during(&machine, || Instant::now() >= deadline);
        let _ = child.kill();
        let killed_now = outcome(child, &[]).code == -1;
        killed += u64::from(killed_now);
        for write in log {
            write.apply(&mut stage.content);
        }
        let outcome = stage.back_up(&machine, &[]);
        for (mode, reason) in modes(&outcome) {
            // Before its moment and after its publication a kill costs nothing.
            assert!(
                mode == "incremental" || reason.contains("not finished"),
                "{context}: {}",
                outcome.stdout
            );
            fallen_back += u64::from(mode == "full");
        }
        stage.is_kept(&context);
        machine.is_clean(2, &context);
    }
    println!("{killed} killed, {fallen_back} disks read whole afterwards");
    stage.bench.is_sound("at the end");
}

#[test]
fn a_machine_that_dies_costs_a_full_read_and_says_why() {
    if !has_qemu() {
        return;
    }
    let (mut stage, machine) = Stage::new(number("LEEWARD_SEED", 1));
    stage.back_up(&machine, &[]);
    // Killed in the middle of a backup.
    let child = stage.start(&machine, &["--limit-read", "200K", "--full"]);
    wait_until(|| has_job(&machine));
    let machine = stage.kill(machine);
    let failed = outcome(child, &[]);
    assert_eq!(failed.code, 6, "{}{}", failed.stdout, failed.stderr);
    all_full(&stage.back_up(&machine, &[]), "gone");
    stage.is_kept("after a kill");
    machine.is_clean(2, "after a kill");
    // Ended in order: what is in the image file stays, what is in memory does not.
    stage.scribble(&machine, 3);
    machine.end(true);
    let machine = stage.machine();
    stage.scribble(&machine, 3);
    let modes = modes(&stage.back_up(&machine, &[]));
    assert!(modes[0].1.contains("gone") && modes[1].0 == "incremental", "{modes:?}");
    stage.is_kept("after a restart");
    // What was stored and then not kept up is not believed.
    machine.end(true);
    let machine = stage.machine();
    stage.scribble(&machine, 3);
    let machine = stage.kill(machine);
    let reasons = self::modes(&stage.back_up(&machine, &[]));
    assert!(reasons[0].1.contains("gone") && reasons[1].1.contains("inconsistent"), "{reasons:?}");
    stage.is_kept("after a second kill");
    machine.is_clean(2, "after a second kill");
}

#[test]
fn disks_come_go_and_grow() {
    if !has_qemu() {
        return;
    }
    let (mut stage, machine) = Stage::new(number("LEEWARD_SEED", 1));
    let only = format!("{}?disk=vd1", machine.source());
    let first = stage.bench.succeeds(&stage.bench.back_up(&only, &[]));
    assert_eq!(first.lines.len(), 1);
    stage.bench.fails(&stage.bench.back_up(&format!("{}?disk=none", machine.source()), &[]), 7);
    // One is new, the other goes on.
    let mixed = modes(&stage.back_up(&machine, &[]));
    assert!(mixed[0].1.contains("no snapshot yet") && mixed[1].0 == "incremental", "{mixed:?}");
    machine.ask("block_resize", json!({ "device": "dr0", "size": SIZE + MIB }));
    stage.content[0].resize((SIZE + MIB) as usize, 0);
    stage.scribble(&machine, 5);
    let resized = modes(&stage.back_up(&machine, &[]));
    assert!(resized[0].1.contains("resized") && resized[1].0 == "incremental", "{resized:?}");
    stage.is_kept("resized");
    all_incremental(&stage.back_up(&machine, &[]), "resized before");
    machine.is_clean(2, "resized");
}

#[test]
fn two_backups_of_one_machine_keep_out_of_each_others_way() {
    if !has_qemu() {
        return;
    }
    let (stage, machine) = Stage::new(number("LEEWARD_SEED", 1));
    let child = stage.start(&machine, &["--limit-read", "4M"]);
    wait_until(|| has_job(&machine));
    let other = format!("qmp:{}", machine.socket("third").display());
    let refused = stage.bench.fails(&stage.bench.back_up(&other, &["--full"]), 8);
    assert!(refused.stdout.contains("another backup"), "{}", refused.stdout);
    let first = outcome(child, &[]);
    assert_eq!(first.code, 0, "{}{}", first.stdout, first.stderr);
    stage.is_kept("undisturbed");
    machine.is_clean(2, "both ended");
    // A server of somebody else is not taken away.
    let address = json!({ "type": "unix", "data": { "path": machine.socket("foreign") } });
    machine.ask("nbd-server-start", json!({ "addr": address }));
    stage.bench.fails(&stage.bench.back_up(&machine.source(), &[]), 8);
    std::os::unix::net::UnixStream::connect(machine.socket("foreign")).unwrap();
    machine.ask("nbd-server-stop", json!({}));
    machine.is_clean(2, "a server of somebody else");
    all_incremental(&stage.back_up(&machine, &[]), "afterwards");
}

#[test]
fn nothing_changed_on_a_tebibyte_takes_less_than_a_second() {
    if !has_qemu() {
        return;
    }
    let bench = Bench::with_repository();
    let disks =
        [Disk::create(&bench, "a.raw", "raw", 1 << 40), Disk::create(&bench, "b.qcow2", "qcow2", 1 << 40)];
    let machine = Machine::start(&bench, &disks, &[]);
    for disk in 0..2 {
        machine.write(&Write { disk, offset: 1 << 39, length: MIB, pattern: 1, kind: Kind::Data });
    }
    bench.succeeds(&bench.back_up(&machine.source(), &[]));
    let best = (0..3)
        .map(|_| {
            let started = Instant::now();
            let outcome = bench.succeeds(&bench.back_up(&machine.source(), &[]));
            all_incremental(&outcome, "nothing changed");
            assert!(outcome.lines.iter().all(|line| line["disk_bytes"] == 0), "{}", outcome.stdout);
            started.elapsed()
        })
        .min()
        .unwrap();
    println!("two disks of 1 TiB without changes: {} ms", best.as_millis());
    assert!(best < Duration::from_secs(1), "{best:?}");
}

#[test]
fn what_is_no_disk_of_the_machine_alone_is_left_out() {
    if !has_qemu() {
        return;
    }
    let bench = Bench::with_repository();
    let disks = [Disk::create(&bench, "a.raw", "raw", MIB)];
    for name in ["shared.raw", "locked.raw"] {
        qemu_img(&["create", "-q", "-f", "raw", bench.path(name).to_str().unwrap(), "1M"]);
    }
    let shared = format!("if=none,id=shared,format=raw,file={}", bench.path("shared.raw").display());
    let locked =
        format!("if=none,id=locked,format=raw,readonly=on,file={}", bench.path("locked.raw").display());
    let more = [
        "-drive",
        &shared,
        "-device",
        "virtio-blk-pci,drive=shared,id=sh,share-rw=on",
        "-drive",
        &locked,
        "-device",
        "virtio-blk-pci,drive=locked,id=ro",
        "-drive",
        "if=none,id=cd,media=cdrom",
        "-device",
        "ide-cd,drive=cd,id=cd0",
    ];
    let machine = Machine::start(&bench, &disks, &more);
    let outcome = bench.succeeds(&bench.back_up(&machine.source(), &[]));
    assert_eq!(outcome.lines.len(), 1, "{}", outcome.stdout);
    for told in ["sh is left out: it may be written by other machines", "ro is left out", "cd0 is left out"] {
        assert!(outcome.stderr.contains(told), "{told}: {}", outcome.stderr);
    }
    bench.fails(&bench.back_up(&format!("{}?disk=sh", machine.source()), &[]), 5);
}

#[test]
fn a_disk_that_qemu_reaches_over_a_network_works_alike() {
    if !has_qemu() {
        return;
    }
    let bench = Bench::with_repository();
    let disk = Disk::create(&bench, "far.qcow2", "qcow2", SIZE);
    let socket = bench.path("far");
    let mut server = std::process::Command::new("qemu-nbd")
        .args(["--persistent", "--format", "qcow2", "--socket", socket.to_str().unwrap()])
        .arg(&disk.path)
        .spawn()
        .unwrap();
    wait_until(|| std::os::unix::net::UnixStream::connect(&socket).is_ok());
    let node = format!(
        "driver=raw,node-name=far,file.driver=nbd,file.server.type=unix,file.server.path={}",
        socket.display()
    );
    // Its writes are slowed down by a filter, as a provider would.
    let more = [
        "-object",
        "throttle-group,id=slow,x-iops-total=1000",
        "-blockdev",
        &node,
        "-blockdev",
        "driver=throttle,node-name=filter,throttle-group=slow,file=far",
        "-device",
        "virtio-scsi-pci",
        "-device",
        "scsi-hd,drive=filter,id=sda",
    ];
    let machine = Machine::start(&bench, &[], &more);
    let write = |pattern: u8, offset: u64| {
        let line = format!("qemu-io -d sda \"write -P {pattern} {offset} 64k\"");
        machine.ask("human-monitor-command", json!({ "command-line": line }));
    };
    write(3, MIB);
    all_full(&bench.succeeds(&bench.back_up(&machine.source(), &[])), "no snapshot yet");
    write(4, 2 * MIB);
    let outcome = bench.succeeds(&bench.back_up(&machine.source(), &[]));
    all_incremental(&outcome, "over a network");
    assert_eq!(outcome.lines[0]["disk_bytes"], 64 << 10);
    let mut expected = vec![0; SIZE as usize];
    expected[MIB as usize..][..64 << 10].fill(3);
    expected[2 * MIB as usize..][..64 << 10].fill(4);
    assert_same(&bench.content("m/sda"), &expected, "over a network");
    machine.end(true);
    server.kill().unwrap();
    server.wait().unwrap();
}

fn has_job(machine: &Machine) -> bool {
    let jobs = machine.ask("query-jobs", json!({}));
    jobs.as_array().unwrap().iter().any(|job| job["type"] == "backup")
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}
