//! Backups of domains of a real libvirt, in a session of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::domain::{Daemon, Domain, has};
use common::machine::{assert_same, qemu_img};
use common::{Bench, MIB, Outcome, outcome, text};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const SIZE: u64 = 16 * MIB;

/// A repository beside a domain with a qcow2 and a raw disk, and what is on them.
struct Stage<'a> {
    bench: Bench,
    domain: Domain<'a>,
    disks: Vec<(PathBuf, &'static str)>,
    content: Vec<Vec<u8>>,
}

impl<'a> Stage<'a> {
    fn new(daemon: &'a Daemon, name: &'static str) -> Self {
        let disks = vec![
            (daemon.path(&format!("disks/{name}-a.qcow2")), "qcow2"),
            (daemon.path(&format!("disks/{name}-b.raw")), "raw"),
        ];
        for (path, format) in &disks {
            qemu_img(&["create", "-q", "-f", format, path.to_str().unwrap(), &SIZE.to_string()]);
        }
        let domain = Domain::start(daemon, name, &disks);
        let content = vec![vec![0; SIZE as usize]; 2];
        let mut stage = Self { bench: Bench::with_repository(), domain, disks, content };
        stage.write(0, MIB, 5 * MIB, 1);
        stage.write(1, 0, 4 * MIB, 2);
        stage
    }

    fn write(&mut self, disk: usize, offset: u64, length: u64, pattern: u8) {
        self.domain.write(disk, &format!("write -P {pattern} {offset} {length}"));
        self.content[disk][offset as usize..][..length as usize].fill(pattern);
    }

    fn arguments<'b>(&'b self, source: &'b str, more: &[&'b str]) -> Vec<&'b str> {
        self.bench.back_up(source, more)
    }

    fn back_up(&self, more: &[&str]) -> Outcome {
        self.bench.succeeds(&self.arguments(&self.domain.source(), more))
    }

    fn refuses(&self, more: &[&str], code: i32) -> String {
        self.refuses_source(&self.domain.source(), more, code)
    }

    fn refuses_source(&self, source: &str, more: &[&str], code: i32) -> String {
        let outcome = self.bench.run(&self.arguments(source, more));
        assert_eq!(outcome.code, code, "{}{}", outcome.stdout, outcome.stderr);
        let told = outcome.lines.last().unwrap();
        assert!(told["hint"].as_str().is_some_and(|hint| hint.len() > 10), "{told}");
        text(&told["error"])
    }

    /// Starts a slow backup, and waits until its moment has passed.
    fn begin(&self, more: &[&str]) -> Child {
        let mut arguments = vec!["--limit-read", "500K"];
        arguments.extend(more);
        let child = self.bench.start(&self.arguments(&self.domain.source(), &arguments));
        wait_until(|| self.domain.is_exported());
        child
    }

    fn is_kept(&self, context: &str) {
        for (target, content) in ["vda", "vdb"].iter().zip(&self.content) {
            let found = self.bench.content(&format!("m/{target}"));
            assert_same(&found, content, &format!("{context}, {target}"));
        }
    }

    fn restart(&self) {
        self.domain.daemon.virsh(&["destroy", self.domain.name, "--graceful"]);
        self.domain.daemon.virsh(&["start", self.domain.name]);
    }
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn modes(outcome: &Outcome) -> Vec<(String, String)> {
    let entry = |line: &Value| {
        (text(&line["capture"]["mode"]), line["capture"]["reason"].as_str().unwrap_or_default().to_owned())
    };
    outcome.lines.iter().map(entry).collect()
}

fn all_incremental(outcome: &Outcome, context: &str) {
    assert_eq!(outcome.lines.len(), 2, "{context}: {}", outcome.stdout);
    assert!(modes(outcome).iter().all(|(mode, _)| mode == "incremental"), "{context}: {}", outcome.stdout);
}

fn all_full(outcome: &Outcome, why: &str) {
    assert_eq!(outcome.lines.len(), 2, "{why}: {}", outcome.stdout);
    let fits = |(mode, reason): &(String, String)| mode == "full" && reason.contains(why);
    assert!(modes(outcome).iter().all(fits), "{why}: {}", outcome.stdout);
}

fn read_bytes(outcome: &Outcome) -> u64 {
    outcome.lines.iter().map(|line| line["statistics"]["read_bytes"].as_u64().unwrap()).sum()
}

#[test]
fn a_domain_is_backed_up_as_any_machine_is() {
    let Some(daemon) = Daemon::start() else { return };
    let mut stage = Stage::new(&daemon, "testee");
    let first = stage.back_up(&[]);
    all_full(&first, "no snapshot yet");
    assert_eq!(first.lines[0]["group"], first.lines[1]["group"]);
    assert!(first.stderr.contains("sda is left out"), "{}", first.stderr);
    stage.is_kept("first");
    let names: Vec<_> = first.lines.iter().map(|line| text(&line["disk"])).collect();
    assert_eq!(names, ["vda", "vdb"]);

    stage.write(0, 3 * MIB, MIB, 3);
    stage.write(1, 7 * MIB, MIB, 4);
    let second = stage.back_up(&[]);
    all_incremental(&second, "second");
    assert_eq!(read_bytes(&second), 2 * MIB);
    stage.is_kept("second");
    stage.domain.is_clean(2, "second");

    let unchanged = stage.back_up(&[]);
    assert_eq!(read_bytes(&unchanged), 0, "{}", unchanged.stdout);
    println!("nothing changed: {} s", unchanged.lines[0]["seconds"]);
    // The guest runs no agent.
    assert_eq!(unchanged.lines[0]["consistency"], "crash");
    assert!(text(&unchanged.lines[0]["consistency_reason"]).contains("agent"));
    assert!(stage.refuses(&["--consistency", "filesystem"], 5).contains("agent"));
    stage.domain.is_clean(2, "refused");

    let manifest = stage.bench.succeeds(&["show", "m/vdb"]).lines[0]["manifest"].clone();
    let machine = &manifest["group"]["machine"];
    assert_eq!((&machine["provider"], &machine["name"]), (&"libvirt".into(), &"testee".into()));
    assert!(text(&machine["libvirt_xml"]).contains("<target dev='vdb'"), "{machine}");
    assert_eq!((&machine["disks"][1]["image"], &machine["cpus"]), (&"m/vdb".into(), &1.into()));
    assert_eq!(text(&manifest["source"]["location"]), "libvirt:testee?disk=vdb");

    // One disk alone, by its target.
    let source = stage.domain.source().replace("?connect", "?disk=vdb&connect");
    assert_eq!(stage.bench.succeeds(&stage.arguments(&source, &[])).lines.len(), 1);
    let missing = stage.domain.source().replace("?connect", "?disk=vdz&connect");
    assert!(stage.refuses_source(&missing, &[], 7).contains("it has vda, vdb"));
    let nobody = stage.domain.source().replace("testee", "nobody");
    assert!(stage.refuses_source(&nobody, &[], 7).contains("nobody"));

    // A restart keeps what is in the image file, and no more.
    stage.restart();
    stage.write(0, 9 * MIB, MIB, 5);
    let modes = modes(&stage.back_up(&[]));
    assert!(modes[0].0 == "incremental" && modes[1].1.contains("gone"), "{modes:?}");
    stage.is_kept("after a restart");
    stage.bench.is_sound("at the end");
}

#[test]
fn a_domain_that_is_shut_off_is_read_at_rest() {
    let Some(daemon) = Daemon::start() else { return };
    let mut stage = Stage::new(&daemon, "rested");
    stage.back_up(&[]);
    stage.write(0, 2 * MIB, MIB, 3);
    daemon.virsh(&["destroy", "rested", "--graceful"]);
    let rested = stage.back_up(&[]);
    all_full(&rested, "shut off");
    assert!(rested.lines.iter().all(|line| line["consistency"] == "at-rest"), "{}", rested.stdout);
    assert_eq!(rested.lines[0]["group"], rested.lines[1]["group"]);
    stage.is_kept("at rest");
    let machine = &stage.bench.succeeds(&["show", "m/vda"]).lines[0]["manifest"]["group"]["machine"];
    assert_eq!((&machine["provider"], &machine["memory_bytes"]), (&"libvirt".into(), &(160 * MIB).into()));
    assert_eq!(machine["disks"][0]["virtual_size"], SIZE);

    // Somebody else writes a disk.
    let disk = stage.disks[1].0.to_str().unwrap();
    let mut other = daemon
        .tool("qemu-nbd")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .args(["-f", "raw", "-t", "-k", daemon.path("other").to_str().unwrap(), disk])
        .spawn()
        .unwrap();
    wait_until(|| daemon.path("other").exists());
    let refused = stage.bench.run(&stage.arguments(&stage.domain.source(), &[]));
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stdout.contains("open for writing"), "{}", refused.stdout);

    // A domain that is started meanwhile starts, and what was read is not published.
    let before = stage.bench.published();
    let child = stage.bench.start(&stage.arguments(&stage.domain.source(), &["--limit-read", "500K"]));
    std::thread::sleep(Duration::from_millis(700));
    daemon.virsh(&["start", "rested"]);
    let failed = outcome(child, &[]);
    assert_eq!(failed.code, 5, "{}{}", failed.stdout, failed.stderr);
    assert_eq!(stage.bench.published(), before);
    all_full(&stage.back_up(&[]), "running machine");
    all_incremental(&stage.back_up(&[]), "the chain goes on");
    stage.is_kept("at the end");
}

#[test]
fn whatever_ends_a_backup_leaves_the_domain_as_it_was() {
    let Some(mut daemon) = Daemon::start() else { return };
    {
        let mut stage = Stage::new(&daemon, "hardy");
        stage.back_up(&[]);
        let before = (stage.bench.published(), stage.domain.bitmaps());

        // The overlay is full: the guest goes on.
        let child = stage.begin(&["--full", "--overlay-max", "1M"]);
        stage.write(0, MIB, 5 * MIB, 7);
        stage.write(1, 0, 4 * MIB, 8);
        let failed = outcome(child, &[]);
        assert_eq!(failed.code, 6, "{}{}", failed.stdout, failed.stderr);
        assert!(text(&failed.lines.last().unwrap()["error"]).contains("--overlay-max"), "{}", failed.stdout);
        assert_eq!((stage.bench.published(), stage.domain.bitmaps()), before);
        stage.domain.is_clean(2, "after a full overlay");

        // A person ends it.
        let child = stage.begin(&["--full"]);
        stage.write(1, 2 * MIB, MIB, 9);
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        assert_eq!(outcome(child, &[]).code, 130);
        assert_eq!((stage.bench.published(), stage.domain.bitmaps()), before);
        stage.domain.is_clean(2, "after an interruption");
        all_incremental(&stage.back_up(&[]), "the chain goes on");
        stage.is_kept("after an interruption");

        // Killed: the next one cleans up and trusts nothing.
        let mut child = stage.begin(&["--full"]);
        stage.write(0, 6 * MIB, MIB, 10);
        child.kill().unwrap();
        outcome(child, &[]);
        assert!(stage.domain.has_job(), "a killed process cleans nothing up");
        let next = stage.back_up(&[]);
        assert!(next.stderr.contains("removed what an unfinished backup had left"), "{}", next.stderr);
        stage.is_kept("after a kill");
        stage.domain.is_clean(2, "after a kill");
    }
    // The daemon goes away in the middle, and the domain does not.
    let bench = Bench::with_repository();
    let (source, child) = {
        let domain = Domain { daemon: &daemon, name: "hardy" };
        let source = domain.source();
        let arguments = ["backup", &source, "m", "--overlay-dir", bench.root(), "--limit-read", "500K"];
        let child = bench.start(&arguments);
        wait_until(|| domain.is_exported());
        (source, child)
    };
    daemon.stop();
    let failed = outcome(child, &[]);
    assert_eq!(failed.code, 6, "{}{}", failed.stdout, failed.stderr);
    daemon.start_again();
    let domain = Domain { daemon: &daemon, name: "hardy" };
    domain.write(0, "write -P 11 0 1M");
    bench.succeeds(&["backup", &source, "m", "--overlay-dir", bench.root()]);
    domain.is_clean(4, "after libvirt was restarted");
}

#[test]
fn what_libvirt_itself_does_and_a_backup_do_not_harm_each_other() {
    let Some(daemon) = Daemon::start() else { return };
    let mut stage = Stage::new(&daemon, "shared");
    let disk = |name: &str| daemon.path(&format!("disks/{name}")).display().to_string();
    let raw_pull = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks><disk name='vda' backup='no'/>\
         <disk name='vdb' type='file'><scratch file='{}'/></disk></disks></domainbackup>",
        daemon.path("pull").display(),
        disk("scratch")
    );
    let pull = daemon.file("pull.xml", raw_pull.as_bytes()).display().to_string();
    stage.back_up(&[]);

    // Its checkpoints have bitmaps of their own.
    daemon.virsh(&[
        "checkpoint-create-as",
        "shared",
        "c1",
        "--diskspec",
        "vda",
        "--diskspec",
        "vdb,checkpoint=no",
    ]);
    stage.write(0, 4 * MIB, MIB, 3);
    all_incremental(&stage.back_up(&[]), "beside a checkpoint");
    daemon.virsh(&["checkpoint-delete", "shared", "c1"]);
    stage.write(0, 5 * MIB, MIB, 4);
    all_incremental(&stage.back_up(&[]), "after a checkpoint");
    stage.is_kept("after a checkpoint");

    // Its jobs and ours exclude each other.
    daemon.virsh(&["backup-begin", "shared", &pull]);
    assert!(stage.refuses(&[], 8).contains("job of somebody else"));
    daemon.virsh(&["domjobabort", "shared"]);
    wait_until(|| !stage.domain.has_job());
    daemon.virsh(&["blockcopy", "shared", "vdb", &disk("copy"), "--transient-job"]);
    assert!(stage.refuses(&[], 8).contains("job of somebody else"));
    daemon.virsh(&["blockjob", "shared", "vdb", "--abort"]);
    wait_until(|| !stage.domain.has_job());
    let child = stage.begin(&["--full"]);
    let told = daemon.virsh_fails(&["backup-begin", "shared", &pull]);
    assert!(told.contains("NBD server"), "{told}");
    let saved = daemon.path("disks/saved");
    daemon.virsh_fails(&["save", "shared", saved.to_str().unwrap()]);
    stage.write(0, 5 * MIB, MIB, 5);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(outcome(child, &[]).code, 130);
    all_incremental(&stage.back_up(&[]), "after they met");
    stage.is_kept("after they met");

    // A snapshot of libvirt puts another file in front, with bitmaps of the same names that tell of what follows only;
    // committing it takes that away again.
    let spec = format!("vda,file={}", disk("shared-a.s1"));
    let snapshot = || {
        let _ = std::fs::remove_file(disk("shared-a.s1"));
        let arguments = ["snapshot-create-as", "shared", "s1", "--disk-only", "--no-metadata", "--diskspec"];
        daemon.virsh(&[&arguments[..], &[&spec, "--diskspec", "vdb,snapshot=no"]].concat());
    };
    let commit = || daemon.virsh(&["blockcommit", "shared", "vda", "--active", "--pivot", "--wait"]);
    stage.write(0, 6 * MIB, MIB, 21);
    snapshot();
    stage.write(0, 7 * MIB, MIB, 22);
    commit();
    stage.back_up(&[]);
    stage.is_kept("after a snapshot was committed");
    stage.write(0, 8 * MIB, MIB, 23);
    snapshot();
    stage.write(0, 9 * MIB, MIB, 24);
    // The bitmaps of a group have one name, so the other disk is doubted too.
    let modes = modes(&stage.back_up(&[]));
    assert!(modes[0].1.contains("another file"), "{modes:?}");
    stage.is_kept("on top of a snapshot");
    stage.write(0, 10 * MIB, MIB, 25);
    all_incremental(&stage.back_up(&[]), "still on top of it");
    stage.is_kept("still on top of it");
    // Committed and made again under the same name.
    stage.write(0, 11 * MIB, MIB, 26);
    commit();
    stage.write(0, 12 * MIB, MIB, 27);
    snapshot();
    stage.write(0, 13 * MIB, MIB, 28);
    let reason = self::modes(&stage.back_up(&[]))[0].1.clone();
    assert!(["a part", "gone"].iter().any(|part| reason.contains(part)), "{reason}");
    stage.is_kept("on top of another snapshot of the same name");
    stage.write(0, 14 * MIB, MIB, 29);
    daemon.virsh(&["blockpull", "shared", "vda", "--wait"]);
    stage.back_up(&[]);
    stage.is_kept("after a snapshot was pulled");
    all_incremental(&stage.back_up(&[]), "the chain goes on");
    stage.domain.is_clean(2, "at the end");

    if !has("virtnbdbackup") {
        println!("SKIPPED: virtnbdbackup is not installed");
        return;
    }
    let kept = daemon.path("data/vnb");
    for level in ["full", "inc"] {
        stage.write(0, 2 * MIB, MIB, if level == "full" { 9 } else { 10 });
        let output = daemon
            .tool("virtnbdbackup")
            .args(["-U", "qemu:///session", "-d", "shared", "-l", level, "-i", "vda"])
            .args(["-o", kept.to_str().unwrap(), "--scratchdir", daemon.path("data").to_str().unwrap()])
            .args(["-f", daemon.path("data/nbd").to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "virtnbdbackup {level}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        all_incremental(&stage.back_up(&[]), level);
        stage.is_kept(level);
    }
}

#[test]
fn a_guest_boots_from_what_was_kept_of_its_domain() {
    let bed = std::env::var("TESTBED_DIR").unwrap_or_else(|_| "/var/tmp/testbeds".to_owned());
    let tiny = PathBuf::from(bed).join("vm/images/tiny.qcow2");
    if !tiny.exists() {
        println!("SKIPPED: no test bed with a guest that boots ({})", tiny.display());
        return;
    }
    let Some(daemon) = Daemon::start() else { return };
    let bench = Bench::with_repository();
    let root = daemon.path("disks/root.qcow2");
    std::fs::copy(&tiny, &root).unwrap();
    let data = daemon.path("disks/data.raw");
    qemu_img(&["create", "-q", "-f", "raw", data.to_str().unwrap(), "16M"]);
    let limit = Duration::from_secs(180);
    let domain = Domain::start(&daemon, "tiny", &[(root.clone(), "qcow2"), (data, "raw")]);
    let source = domain.source();
    let back_up = || bench.succeeds(&["backup", &source, "m", "--overlay-dir", bench.root()]);
    back_up();
    // The guest counts its boots on its disk.
    domain.says("TINY-DONE", limit);
    let after_boot = back_up();
    assert_eq!(modes(&after_boot)[0].0, "incremental", "{}", after_boot.stdout);
    let read = read_bytes(&after_boot);
    assert!(read > 0 && read < 8 * MIB, "{read} bytes read after a boot that wrote little");
    daemon.virsh(&["destroy", "tiny", "--graceful"]);

    let restored = daemon.path("disks/restored.raw");
    bench.succeeds(&["restore", "m/vda", restored.to_str().unwrap(), "--no-sync"]);
    let flat = daemon.path("disks/flat.raw");
    qemu_img(&["convert", "-O", "raw", root.to_str().unwrap(), flat.to_str().unwrap()]);
    assert_same(&std::fs::read(&restored).unwrap(), &std::fs::read(&flat).unwrap(), "the root disk");
    std::fs::remove_file(daemon.path("console")).unwrap();
    let second = Domain::start(&daemon, "again", &[(restored, "raw")]);
    second.says("TINY-VERIFY ok generation=1 boots=2", limit);
}
