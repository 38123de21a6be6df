//! Snapshots as disks at once: what is served is the snapshot, what is written is kept, and it comes home.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, MIB, text};
use leeward_disk::nbd::{NbdDisk, NbdOptions, NbdUrl};
use leeward_disk::{Source, Target};
use leeward_store::simulation::Random;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Whether the tool is there; says loudly when it is not, because the test then proves nothing.
fn has(tool: &str) -> bool {
    let asked = if tool == "debugfs" { "-V" } else { "--version" };
    let there = Command::new(tool).arg(asked).output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("\n*** SKIPPED: {tool} is not installed ***\n");
    }
    there
}

fn tool(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(name).args(arguments).output().unwrap();
    let printed =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} {arguments:?}: {printed}");
    printed
}

/// A running export.
struct Exporting {
    child: Child,
    out: BufReader<ChildStdout>,
    listening: Vec<Value>,
}

impl Exporting {
    fn start(bench: &Bench, arguments: &[&str]) -> Self {
        let all: Vec<&str> = std::iter::once("export").chain(arguments.iter().copied()).collect();
        let mut child = bench.command(&all).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let listening = value["listening"].as_array().unwrap_or_else(|| panic!("{value}")).clone();
        Self { child, out, listening }
    }

    fn url(&self) -> String {
        text(&self.listening[0]["url"])
    }

    fn connect(&self) -> NbdDisk {
        NbdDisk::connect(&NbdUrl::parse(&self.url()).unwrap(), &NbdOptions::default()).unwrap()
    }

    /// Waits for the end and returns the report.
    fn ended(mut self) -> Value {
        let mut last = String::new();
        loop {
            let mut line = String::new();
            if self.out.read_line(&mut line).unwrap() == 0 {
                break;
            }
            last = line;
        }
        assert!(self.child.wait().unwrap().success());
        serde_json::from_str::<Value>(&last).unwrap()["served"].clone()
    }

    fn interrupt(self) -> Value {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.ended()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unix(bench: &Bench) -> String {
    format!("unix:{}", bench.path("socket").display())
}

fn string(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Writes pieces of all sizes through the export and to a file that must stay equal to it.
fn scribble(disk: &NbdDisk, model: &mut [u8], random: &mut Random, pieces: usize) {
    for _ in 0..pieces {
        let start = random.below(model.len() as u64);
        let length = (1 + random.below(70_000)).min(model.len() as u64 - start);
        let range = start as usize..(start + length) as usize;
        if random.below(4) == 0 {
            disk.zero_at(start, length).unwrap();
            model[range].fill(0);
        } else {
            random.fill(&mut model[range.clone()]);
            disk.write_at(&model[range], start).unwrap();
        }
    }
}

#[test]
fn what_is_served_is_the_snapshot() {
    if !has("qemu-img") || !has("nbdinfo") {
        return;
    }
    let bench = Bench::with_repository();
    let first = bench.disk("first.raw", 64, 12, 1);
    let second = bench.changed(&first, "second.raw", 2);
    bench.succeeds(&["backup", &string(&first), "web/root"]);
    bench.succeeds(&["backup", &string(&second), "web/root"]);
    let arguments = ["web/root@~1", "now=web/root", "--listen", "127.0.0.1:0", "--until-disconnect"];
    let exporting = Exporting::start(&bench, &arguments);
    let urls: Vec<String> = exporting.listening.iter().map(|export| text(&export["url"])).collect();
    assert!(text(&exporting.listening[1]["qemu"]).contains("export=now"));
    let listed = tool("nbdinfo", &["--list", urls[0].split("/web").next().unwrap()]);
    assert!(listed.contains("export=\"web/root\"") && listed.contains("export=\"now\""), "{listed}");
    assert!(listed.contains("is_read_only: true"), "{listed}");
    for (url, disk) in urls.iter().zip([&first, &second]) {
        let compared = tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", url, &string(disk)]);
        assert!(compared.contains("identical"), "{compared}");
    }
    let report = exporting.ended();
    assert!(report["requests"].as_u64().unwrap() > 10 && report["failed_requests"] == 0, "{report}");
    assert!(report["first_read_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{report}");
}

#[test]
fn an_export_is_not_open_to_the_world_and_writes_go_to_one_disk() {
    let bench = Bench::with_repository();
    let disk = bench.disk("disk.raw", 8, 2, 1);
    bench.succeeds(&["backup", &string(&disk), "web/root"]);
    let refused = bench.fails(&["export", "web/root", "--listen", "0.0.0.0:0"], 5);
    assert!(refused.stderr.contains("--tls-dir"), "{}", refused.stderr);
    bench.fails(&["export", "web/root", "--listen", "nowhere"], 2);
    bench.fails(&["export", "web/none", "--listen", "127.0.0.1:0"], 7);
    let (cow, socket) = (string(&bench.path("cow.raw")), unix(&bench));
    bench.fails(&["export", "web/root", "a=web/root", "--listen", &socket, "--cow", &cow], 2);
    assert!(!Path::new(&cow).exists());
    bench.fails(&["hydrate", &string(&disk)], 7);
    bench.fails(&["backup", &format!("overlay:{}", string(&disk)), "web/root"], 7);
}

#[test]
fn what_is_written_is_kept_continued_backed_up_and_brought_home() {
    let bench = Bench::with_repository();
    let disk = bench.disk("disk.raw", 96, 12, 3);
    let mut model = std::fs::read(&disk).unwrap();
    bench.succeeds(&["backup", &string(&disk), "web/root"]);
    let (cow, socket) = (string(&bench.path("cow.raw")), unix(&bench));
    let arguments = ["web/root@~0", "--listen", &socket, "--cow", &cow];
    let mut random = Random::new(5);

    let exporting = Exporting::start(&bench, &arguments);
    let client = exporting.connect();
    scribble(&client, &mut model, &mut random, 40);
    bench.fails(&["backup", &format!("overlay:{cow}"), "web/root"], 8);
    drop(client);
    let report = exporting.interrupt();
    let changed = report["overlay"]["changed_bytes"].as_u64().unwrap();
    assert!(changed > 0 && changed < 8 * MIB, "{report}");

    // Continued, it is as it was left; and the changes are the next snapshot.
    let exporting = Exporting::start(&bench, &arguments);
    let client = exporting.connect();
    let mut found = vec![0; model.len()];
    client.read_at(&mut found, 0).unwrap();
    assert!(found == model);
    scribble(&client, &mut model, &mut random, 10);
    drop(client);
    exporting.interrupt();
    let backup = bench.succeeds(&["backup", &format!("overlay:{cow}"), "web/root"]);
    let read = backup.value()["statistics"]["read_bytes"].as_u64().unwrap();
    assert!(read < 16 * MIB, "only what changed is read: {read}");
    let restored = string(&bench.path("restored.raw"));
    bench.succeeds(&["restore", "web/root", &restored]);
    assert!(std::fs::read(&restored).unwrap() == model);
    let shown = bench.succeeds(&["show", "web/root"]);
    assert_eq!(shown.value()["manifest"]["capture"]["mode"], "incremental");

    // It lies on the first snapshot, and on no other.
    let refused = bench.fails(&["export", "web/root@~0", "--listen", &socket, "--cow", &cow], 5);
    assert_eq!(refused.stderr.matches("web/root@").count(), 3, "both are named: {}", refused.stderr);

    // Interrupted and run again, it comes home.
    let slow = bench.start(&["hydrate", &cow, "--limit", "2M"]);
    std::thread::sleep(Duration::from_millis(700));
    kill_process(Pid::from_child(&slow), Signal::INT).unwrap();
    assert_eq!(common::outcome(slow, &[]).code, 130);
    let home = bench.succeeds(&["hydrate", &cow]);
    assert_eq!(home.value()["complete"], true);
    let fetched = home.value()["fetched_bytes"].as_u64().unwrap();
    assert!(fetched > 0 && fetched < 96 * MIB, "{fetched}");
    assert!(std::fs::read(&cow).unwrap() == model);
    assert!(!bench.path("cow.raw.map").exists() && !bench.path("cow.raw.serving").exists());
    bench.fails(&["export", "web/root", "--listen", &socket, "--cow", &cow], 5);
    bench.is_sound("at the end");
}

#[test]
fn a_disk_comes_home_while_it_is_served_and_written() {
    let bench = Bench::with_repository();
    let disk = bench.disk("disk.raw", 64, 16, 4);
    let mut model = std::fs::read(&disk).unwrap();
    bench.succeeds(&["backup", &string(&disk), "web/root"]);
    let (cow, socket) = (string(&bench.path("cow.raw")), unix(&bench));
    let exporting = Exporting::start(&bench, &["web/root", "--listen", &socket, "--cow", &cow]);
    let client = exporting.connect();
    let mut random = Random::new(6);
    let hydration = bench.start(&["hydrate", &cow, "-j", "2"]);
    scribble(&client, &mut model, &mut random, 200);
    let hydrated = common::outcome(hydration, &["hydrate"]);
    assert_eq!(hydrated.code, 0, "{}{}", hydrated.stdout, hydrated.stderr);
    assert_eq!(hydrated.value()["overlay"], true);
    scribble(&client, &mut model, &mut random, 20);
    client.finish(true).unwrap();
    drop(client);
    let report = exporting.interrupt();
    assert_eq!(report["overlay"]["complete"], true, "{report}");
    assert!(std::fs::read(&cow).unwrap() == model);
    // The changes are still known, until the map is given up.
    let changed = report["overlay"]["changed_bytes"].as_u64().unwrap();
    let planned = bench.succeeds(&["backup", &format!("overlay:{cow}"), "web/root", "-n"]);
    assert_eq!(planned.value()["changed_bytes"], changed);
    bench.succeeds(&["backup", &format!("overlay:{cow}"), "web/root"]);
    bench.succeeds(&["verify-restore", "web/root", &cow, "-f", "raw"]);
    bench.succeeds(&["hydrate", &cow]);
    assert!(!bench.path("cow.raw.map").exists());
}

#[test]
fn a_killed_export_has_kept_all_that_was_flushed() {
    let bench = Bench::with_repository();
    let disk = bench.disk("disk.raw", 64, 8, 7);
    let base = std::fs::read(&disk).unwrap();
    bench.succeeds(&["backup", &string(&disk), "web/root"]);
    let (cow, socket) = (string(&bench.path("cow.raw")), unix(&bench));
    let mut random = Random::new(8);
    // What a block may hold: what was last flushed, and what was written after that.
    let blocks = 64 * MIB as usize / 4096;
    let mut sure: Vec<Vec<u8>> = base.chunks(4096).map(<[u8]>::to_vec).collect();
    for round in 0..12 {
        let exporting =
            Exporting::start(&bench, &["web/root", "--listen", &socket, "--cow", &cow, "--hydrate"]);
        let client = exporting.connect();
        let deadline = Instant::now() + Duration::from_millis(20 + random.below(300));
        let mut later: Vec<Vec<Vec<u8>>> = vec![Vec::new(); blocks];
        let mut flushed = 0;
        let killer = std::thread::spawn(move || {
            std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
            exporting.kill();
        });
        loop {
            let block = random.below(blocks as u64) as usize;
            let mut data = vec![0; 4096];
            random.fill(&mut data);
            later[block].push(data.clone());
            if client.write_at(&data, block as u64 * 4096).is_err() {
                break;
            }
            if random.below(8) == 0 {
                if client.finish(true).is_err() {
                    break;
                }
                flushed += 1;
                for (sure, later) in sure.iter_mut().zip(&mut later) {
                    if let Some(last) = later.pop() {
                        *sure = last;
                        later.clear();
                    }
                }
            }
        }
        killer.join().unwrap();
        let exporting = Exporting::start(&bench, &["web/root", "--listen", &socket, "--cow", &cow]);
        let mut found = vec![0; base.len()];
        exporting.connect().read_at(&mut found, 0).unwrap();
        for (block, bytes) in found.chunks(4096).enumerate() {
            let allowed = bytes == sure[block] || later[block].iter().any(|later| later == bytes);
            assert!(
                allowed,
                "round {round}, {flushed} flushes: block {block} is neither as flushed nor as written"
            );
            sure[block] = bytes.to_vec();
        }
        exporting.interrupt();
    }
    bench.succeeds(&["backup", &format!("overlay:{cow}"), "web/root"]);
    let restored = string(&bench.path("restored.raw"));
    bench.succeeds(&["restore", "web/root", &restored]);
    assert!(std::fs::read(&restored).unwrap() == sure.concat(), "no change was missed");
}

#[test]
fn a_tebibyte_is_there_at_once() {
    let bench = Bench::with_repository();
    let path = bench.disk("disk.raw", 64, 16, 9);
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    bench.succeeds(&["backup", &string(&path), "huge"]);
    let (cow, socket) = (string(&bench.path("cow.raw")), unix(&bench));
    let started = Instant::now();
    let exporting = Exporting::start(&bench, &["huge", "--listen", &socket, "--cow", &cow]);
    let client = exporting.connect();
    let mut sector = [0; 512];
    client.read_at(&mut sector, 0).unwrap();
    let elapsed = started.elapsed();
    client.write_at(&[7; 4096], (1 << 40) - 4096).unwrap();
    drop(client);
    let report = exporting.interrupt();
    println!("first read after {elapsed:?} by the client, {} s by the report", report["first_read_seconds"]);
    // A second is what is promised on a quiet machine.
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    assert_eq!(report["overlay"]["changed_bytes"], 4096);
    for name in ["cow.raw", "cow.raw.map"] {
        let taken = std::fs::metadata(bench.path(name)).unwrap().blocks() * 512;
        assert!(taken < MIB, "{name} takes {taken} bytes");
    }
}

/// The tiny guest of the test bed.
struct Guest {
    child: Child,
    console: PathBuf,
}

impl Guest {
    /// Starts it with these words for its disk; `None`, loudly, where there is nothing to start it with.
    fn boot(bench: &Bench, qemu: &str, monitor: Option<&Path>, serial: &str) -> Self {
        let console = bench.path("console.log");
        let _ = std::fs::remove_file(&console);
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "256"]);
        command.args(["-machine", "pc", "-accel", "tcg", "-cpu", "max"]);
        command.env("TMPDIR", bench.path(""));
        command.args(qemu.split(' '));
        command.args(["-chardev", &format!("{serial},id=c0,logfile={}", console.display())]);
        command.args(["-serial", "chardev:c0"]);
        if let Some(monitor) = monitor {
            command.args(["-qmp", &format!("unix:{},server=on,wait=off", monitor.display())]);
        }
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        Self { child, console }
    }

    fn wait_for(&mut self, wanted: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(240);
        loop {
            let text = std::fs::read(&self.console).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            if text.contains(wanted) {
                return text;
            }
            assert!(self.child.try_wait().unwrap().is_none(), "the guest ended before {wanted:?}: {text}");
            assert!(Instant::now() < deadline, "no {wanted:?} in time: {text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The disk of the tiny guest; `None`, loudly, where it or QEMU is absent.
fn tiny() -> Option<PathBuf> {
    let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
    let disk = beds.join("vm/images/tiny.raw");
    if !disk.is_file() {
        eprintln!("\n*** SKIPPED: {} is not there; start the test bed ***\n", disk.display());
        return None;
    }
    has("qemu-system-x86_64").then_some(disk)
}

#[test]
fn a_machine_starts_from_a_snapshot_and_leaves_it_as_it_was() {
    let Some(disk) = tiny() else { return };
    let bench = Bench::with_repository();
    bench.succeeds(&["backup", &string(&disk), "tiny"]);
    let exporting = Exporting::start(&bench, &["tiny", "--listen", &unix(&bench)]);
    let qemu = text(&exporting.listening[0]["qemu"]);
    let mut guest = Guest::boot(&bench, &qemu, None, "null");
    let console = guest.wait_for("TINY-DONE");
    assert!(console.contains("TINY-VERIFY ok"), "{console}");
    drop(guest);
    let report = exporting.interrupt();
    assert_eq!((&report["written_bytes"], &report["failed_requests"]), (&0.into(), &0.into()), "{report}");
    println!("the guest's first read was served after {} s", report["first_read_seconds"]);
}

#[test]
fn a_running_machine_moves_from_the_export_to_its_own_disk() {
    let Some(disk) = tiny() else { return };
    let bench = Bench::with_repository();
    bench.succeeds(&["backup", &string(&disk), "tiny"]);
    let (cow, monitor, serial) = (bench.path("cow.raw"), bench.path("qmp"), bench.path("serial"));
    let exporting = Exporting::start(&bench, &["tiny", "--listen", &unix(&bench), "--cow", &string(&cow)]);
    let qemu = text(&exporting.listening[0]["qemu"]);
    let socket = format!("socket,path={},server=on,wait=off", serial.display());
    let mut guest = Guest::boot(&bench, &qemu, Some(&monitor), &socket);
    assert!(guest.wait_for("TINY-DONE").contains("TINY-VERIFY ok"));

    // The guest writes records for as long as all of it takes, across the move.
    let mut typed = std::os::unix::net::UnixStream::connect(&serial).unwrap();
    // Who does not read what the guest says soon keeps it from saying more.
    let mut said = typed.try_clone().unwrap();
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    let mut shell =
        |line: &str| std::io::Write::write_all(&mut typed, format!("{line}\n").as_bytes()).unwrap();
    guest.wait_for("/ #");
    shell("mount -t ext4 /dev/vda1 /mnt && echo MOUNT-$((40 + 2))");
    guest.wait_for("MOUNT-42");
    shell(
        "n=0; while [ ! -e /stop ]; do n=$((n + 1)); echo record $n >>/mnt/records; sync; echo RECORD-$n; done &",
    );
    guest.wait_for("RECORD-3\r");
    bench.fails(&["hydrate", &string(&cow), "--qmp", &string(&monitor), "--node", "none"], 7);
    let moved = bench.succeeds(&["hydrate", &string(&cow), "--qmp", &string(&monitor), "--node", "leeward0"]);
    assert_eq!((&moved.value()["switched"], &moved.value()["complete"]), (&true.into(), &true.into()));
    assert!(!bench.path("cow.raw.map").exists());
    let report = exporting.interrupt();
    assert!(report["failed_requests"] == 0, "{report}");

    // Without the export it goes on.
    let log = guest.console.clone();
    let seen = || {
        let text = std::fs::read(&log).unwrap_or_default();
        String::from_utf8_lossy(&text).matches("RECORD-").count()
    };
    let before = seen();
    let deadline = Instant::now() + Duration::from_secs(60);
    while seen() < before + 5 {
        assert!(Instant::now() < deadline, "the guest stopped writing");
        std::thread::sleep(Duration::from_millis(50));
    }
    shell("touch /stop; wait; umount /mnt && sync && echo UMOUNT-$((40 + 2)); poweroff -f");
    guest.wait_for("UMOUNT-42");
    let records = seen();
    let deadline = Instant::now() + Duration::from_secs(60);
    while guest.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the guest does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    // The file is the disk: it starts a machine of its own, and has every record in order.
    let listed = if has("debugfs") { records_on(&cow) } else { Vec::new() };
    if !listed.is_empty() {
        let expected: Vec<String> = (1..=listed.len()).map(|number| format!("record {number}")).collect();
        assert_eq!(listed, expected);
        assert!(listed.len() >= records - 1, "{} of {records} records", listed.len());
    }
    let line = format!("-drive file={},format=raw,if=virtio", cow.display());
    let mut again = Guest::boot(&bench, &line, None, "null");
    let console = again.wait_for("TINY-DONE");
    assert!(console.contains("TINY-VERIFY ok") && console.contains("boots=2"), "{console}");
    println!("{records} records were written across the move; the file boots by itself");
}

/// The records in the file system of the first partition, which begins at 1 MiB.
fn records_on(disk: &Path) -> Vec<String> {
    let spec = format!("{}?offset=1048576", disk.display());
    let output = Command::new("debugfs").args(["-R", "cat /records", &spec]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}
