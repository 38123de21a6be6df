//! Programs of others read a real QEMU's disks at one moment, and what has changed since the moment before: with nbdinfo and
//! nbdcopy of libnbd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command};

use common::machine::{Disk, Kind, Machine, SIZE, Write, assert_same, has_qemu};
use common::{Bench, MIB, Outcome, outcome, text};
use leeward_store::simulation::Random;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const DISKS: usize = 2;
/// What bitmaps count in.
const GRANULE: u64 = 64 << 10;

fn has_tools() -> bool {
    let there = ["nbdinfo", "nbdcopy"]
        .into_iter()
        .all(|tool| Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success()));
    if !there {
        println!("SKIPPED: nbdinfo and nbdcopy (libnbd-bin) are not installed");
    }
    there && has_qemu()
}

fn told_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// An export that is being served.
struct Point {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    listening: Value,
}

impl Point {
    fn start(bench: &Bench, machine: &Machine, more: &[&str]) -> Self {
        let (source, listen) = (machine.source(), format!("unix:{}", bench.path("points").display()));
        let mut arguments = vec!["changed-blocks", "export", &source, "other", "--listen", &listen];
        arguments.extend(["--overlay-dir", bench.root()]);
        arguments.extend(more);
        let mut child = bench.start(&arguments);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let listening =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}{}", outcome_of_failed(&mut child)));
        Self { child, output, listening }
    }

    fn disk(&self, number: usize) -> &Value {
        &self.listening["listening"][number]
    }

    /// What nbdinfo finds marked, as offset and length.
    fn marked(&self, number: usize) -> Vec<(u64, u64)> {
        let disk = self.disk(number);
        let map = format!("--map={}", text(&disk["context"]));
        let told: Value =
            serde_json::from_str(&told_by("nbdinfo", &["--json", &map, &text(&disk["url"])])).unwrap();
        let extents = told.as_array().unwrap();
        let covered: u64 = extents.iter().map(|extent| extent["length"].as_u64().unwrap()).sum();
        assert_eq!(covered, disk["virtual_size"], "a map tells of all");
        extents
            .iter()
            .filter(|extent| extent["type"] == 1)
            .map(|extent| (extent["offset"].as_u64().unwrap(), extent["length"].as_u64().unwrap()))
            .collect()
    }

    fn content(&self, number: usize, bench: &Bench) -> Vec<u8> {
        let path = bench.path("copied");
        let _ = std::fs::remove_file(&path);
        told_by("nbdcopy", &[&text(&self.disk(number)["url"]), path.to_str().unwrap()]);
        std::fs::read(path).unwrap()
    }

    /// Ends it as a person would, and returns what it says.
    fn end(mut self) -> Value {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let mut last = String::new();
        std::io::Read::read_to_string(&mut self.output, &mut last).unwrap();
        let failed = outcome_of_failed(&mut self.child);
        assert!(self.child.wait().unwrap().success(), "{last}{failed}");
        serde_json::from_str::<Value>(last.lines().last().unwrap()).unwrap()["ended"].clone()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn outcome_of_failed(child: &mut Child) -> String {
    let mut told = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        std::io::Read::read_to_string(&mut stderr, &mut told).unwrap();
    }
    told
}

fn granules(writes: &[Write], disk: usize) -> Vec<u64> {
    let touched = writes.iter().filter(|write| write.disk == disk);
    let mut found: Vec<u64> = touched
        .flat_map(|write| write.offset / GRANULE..=(write.offset + write.length - 1) / GRANULE)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn granules_of(ranges: &[(u64, u64)]) -> Vec<u64> {
    ranges.iter().flat_map(|(offset, length)| offset / GRANULE..(offset + length).div_ceil(GRANULE)).collect()
}

struct Stage {
    bench: Bench,
    disks: Vec<Disk>,
    content: Vec<Vec<u8>>,
    random: Random,
}

impl Stage {
    fn new() -> (Self, Machine) {
        let bench = Bench::new();
        let disks =
            vec![Disk::create(&bench, "a.raw", "raw", SIZE), Disk::create(&bench, "b.qcow2", "qcow2", SIZE)];
        let content = vec![vec![0; SIZE as usize]; DISKS];
        let machine = Machine::start(&bench, &disks, &[]);
        let mut stage = Self { bench, disks, content, random: Random::new(5) };
        stage.scribble(&machine, 30);
        (stage, machine)
    }

    fn scribble(&mut self, machine: &Machine, count: usize) -> Vec<Write> {
        let writes: Vec<_> = (0..count).map(|_| Write::random(&mut self.random, DISKS, SIZE)).collect();
        for write in &writes {
            machine.write(write);
            write.apply(&mut self.content);
        }
        writes
    }

    fn run(&self, machine: &Machine, verb: &str, name: &[&str]) -> Outcome {
        let source = machine.source();
        self.bench.run(&[&["changed-blocks", verb, &source], name].concat())
    }

    fn states(&self, machine: &Machine) -> Vec<(String, String)> {
        let listed = self.run(machine, "list", &[]);
        assert_eq!(listed.code, 0, "{}{}", listed.stdout, listed.stderr);
        listed.lines.iter().map(|line| (text(&line["name"]), text(&line["state"]))).collect()
    }
}

#[test]
fn others_read_points_in_time_and_what_changed_between_them() {
    if !has_tools() {
        return;
    }
    let (mut stage, machine) = Stage::new();
    let started = stage.run(&machine, "start", &["other"]);
    assert_eq!((started.code, started.lines.len()), (0, DISKS), "{}{}", started.stdout, started.stderr);
    assert_eq!(started.lines[1]["persistent"], true);
    assert_eq!(stage.run(&machine, "start", &["other"]).code, 8, "it is there already");
    assert_eq!(stage.run(&machine, "start", &["another"]).code, 0, "chains are independent");
    let mut since_start = Vec::new();
    for round in 0..3 {
        let context = format!("round {round}");
        let writes = stage.scribble(&machine, 8);
        since_start.extend(writes.iter().copied());
        let moment = stage.content.clone();
        let point = Point::start(&stage.bench, &machine, &[]);
        // The guest goes on.
        let later = stage.scribble(&machine, 8);
        for (number, expected) in moment.iter().enumerate() {
            // Before the point: those of this round and those that followed the last moment.
            let marked = granules_of(&point.marked(number));
            let must = granules(&since_start, number);
            assert_eq!(marked, must, "{context}, disk {number}");
            let bytes = marked.len() as u64 * GRANULE;
            assert_eq!(point.disk(number)["changed_bytes"], bytes, "{context}");
            assert_same(&point.content(number, &stage.bench), expected, &context);
        }
        let ended = point.end();
        assert_eq!(ended["base"], "moved", "{ended}");
        since_start = later;
    }
    // What was not taken over is told again.
    for (more, read, why) in
        [(&["--keep-base"][..], true, "--keep-base"), (&[], false, "nobody"), (&["--full"], false, "nobody")]
    {
        let point = Point::start(&stage.bench, &machine, more);
        if read {
            point.content(0, &stage.bench);
        }
        let ended = point.end();
        assert!(ended["base"] == "kept" && text(&ended["reason"]).contains(why), "{ended}");
        since_start.extend(stage.scribble(&machine, 3));
    }
    let point = Point::start(&stage.bench, &machine, &[]);
    since_start.extend(stage.scribble(&machine, 3));
    point.kill();
    let states = stage.states(&machine);
    assert!(states.contains(&("other".to_owned(), "in use".to_owned())), "{states:?}");
    let point = Point::start(&stage.bench, &machine, &["--until-disconnect"]);
    for number in 0..DISKS {
        assert_eq!(granules_of(&point.marked(number)), granules(&since_start, number), "disk {number}");
    }
    point.kill();
    // An orderly end of QEMU keeps what a qcow2 image can keep, also after a kill.
    machine.ask("quit", json!({}));
    drop(machine);
    let machine = Machine::start(&stage.bench, &stage.disks, &[]);
    since_start.extend(stage.scribble(&machine, 3));
    let point = Point::start(&stage.bench, &machine, &[]);
    assert_eq!(point.marked(0), [(0, SIZE)], "in memory alone");
    assert!(text(&point.disk(0)["plan"]["reason"]).contains("no bitmap"));
    assert_eq!(granules_of(&point.marked(1)), granules(&since_start, 1));
    for number in 0..DISKS {
        assert_same(&point.content(number, &stage.bench), &stage.content[number], "after a restart");
    }
    assert_eq!(point.end()["base"], "moved");
    assert_eq!(stage.run(&machine, "stop", &["another"]).code, 0);
    assert_eq!(stage.run(&machine, "stop", &["another"]).code, 7, "it is gone");
    assert_eq!(stage.states(&machine), vec![("other".to_owned(), "recording".to_owned()); DISKS]);
    machine.is_clean(DISKS, "one chain is left");
    assert_eq!(stage.run(&machine, "stop", &["other"]).code, 0);
    assert!((0..DISKS).all(|disk| machine.bitmaps(disk).is_empty()));
    assert_eq!(stage.run(&machine, "start", &["a.b"]).code, 2);
}

#[test]
fn a_point_that_cannot_be_kept_ends_and_the_guest_goes_on() {
    if !has_tools() {
        return;
    }
    let (mut stage, machine) = Stage::new();
    assert_eq!(stage.run(&machine, "start", &["other"]).code, 0);
    let before = stage.scribble(&machine, 3);
    let point = Point::start(&stage.bench, &machine, &["--overlay-max", "1M"]);
    for disk in 0..DISKS {
        let write = Write { disk, offset: 0, length: 8 * MIB, pattern: 9, kind: Kind::Data };
        machine.write(&write);
        write.apply(&mut stage.content);
    }
    let failed = outcome(point.child, &[]);
    assert_eq!(failed.code, 6, "{}", failed.stderr);
    assert!(failed.stderr.contains("--overlay-max"), "{}", failed.stderr);
    machine.is_clean(DISKS, "a full overlay");
    let point = Point::start(&stage.bench, &machine, &[]);
    for number in 0..DISKS {
        let mut expected = granules(&before, number);
        expected.extend(0..8 * MIB / GRANULE);
        expected.sort_unstable();
        expected.dedup();
        assert_eq!(granules_of(&point.marked(number)), expected, "the old base counts");
        assert_same(&point.content(number, &stage.bench), &stage.content[number], "the guest went on");
    }
    point.end();
    assert!(!Path::new(&stage.bench.path("points")).exists(), "the socket is gone");
}
