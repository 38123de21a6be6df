//! Images of Ceph: as disks of machines, which QEMU reaches with its rbd driver, and as sources and targets by themselves.
//! Runs where the test bed `ceph` is up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::machine::{Machine, SIZE, Write, assert_same, has_qemu, qemu_img};
use common::{Bench, Outcome, text};
use leeward_store::simulation::Random;

const DISKS: usize = 2;

/// The configuration of the test bed, when it is up and QEMU reaches it; says loudly why not.
fn bed() -> Option<PathBuf> {
    let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
    let configuration = beds.join("ceph/ceph.conf");
    let skipped = |why: String| {
        println!("SKIPPED: {why}");
        None
    };
    if !configuration.is_file() {
        return skipped(format!(
            "the test bed ceph was never started ({} is not there)",
            configuration.display()
        ));
    }
    let listed = Command::new("timeout")
        .args(["10", "rbd", "--conf"])
        .arg(&configuration)
        .args(["ls", "rbd"])
        .output();
    if !listed.is_ok_and(|output| output.status.success()) {
        return skipped("the test bed ceph is not up, or the rbd tool is not installed".to_owned());
    }
    let has_driver = Command::new("qemu-img")
        .args(["info", &format!("rbd:rbd/none:id=admin:conf={}", configuration.display())])
        .output()
        .is_ok_and(|output| !String::from_utf8_lossy(&output.stderr).contains("Unknown protocol"));
    if !has_driver {
        return skipped("QEMU has no rbd driver (qemu-block-extra)".to_owned());
    }
    has_qemu().then_some(configuration)
}

/// An image in the pool `rbd`, removed at the end.
struct Image {
    name: String,
    configuration: PathBuf,
    format: &'static str,
}

impl Image {
    fn create(configuration: &Path, format: &'static str) -> Self {
        static MADE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("leeward-test-{}-{number}", std::process::id());
        let image = Self { name, configuration: configuration.to_owned(), format };
        qemu_img(&["create", "-q", "-f", format, &image.url(), &SIZE.to_string()]);
        image
    }

    fn url(&self) -> String {
        format!("rbd:rbd/{}:id=admin:conf={}", self.name, self.configuration.display())
    }

    fn rbd(&self, verb: &str, more: &[&str]) -> Output {
        let mut command = Command::new("rbd");
        command.arg("--conf").arg(&self.configuration).args([verb, "--no-progress"]);
        command.arg(format!("rbd/{}", self.name)).args(more).output().unwrap()
    }

    /// What is in it, as QEMU's own tool reads it.
    fn content(&self, bench: &Bench) -> Vec<u8> {
        let path = bench.path("content.rbd");
        qemu_img(&["convert", "-f", self.format, "-O", "raw", &self.url(), path.to_str().unwrap()]);
        let content = std::fs::read(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        content
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = self.rbd("rm", &[]);
    }
}

fn machine(bench: &Bench, images: &[Image]) -> Machine {
    let mut arguments = Vec::new();
    for (number, image) in images.iter().enumerate() {
        let drive =
            format!("if=none,id=dr{number},format={},discard=unmap,file={}", image.format, image.url());
        let device = format!("virtio-blk-pci,drive=dr{number},id=vd{number}");
        arguments.extend(["-drive".to_owned(), drive, "-device".to_owned(), device]);
    }
    Machine::start(bench, &[], &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn reasons(outcome: &Outcome) -> Vec<Option<String>> {
    assert_eq!(outcome.lines.len(), DISKS);
    let reason = |line: &serde_json::Value| line["capture"]["reason"].as_str().map(str::to_owned);
    outcome.lines.iter().map(reason).collect()
}

#[test]
fn disks_in_ceph_are_backed_up_at_the_cost_of_what_changed() {
    let Some(configuration) = bed() else { return };
    let bench = Bench::with_repository();
    let images = [Image::create(&configuration, "raw"), Image::create(&configuration, "qcow2")];
    let mut content = vec![vec![0; SIZE as usize]; DISKS];
    let mut random = Random::new(3);
    let mut scribble = |machine: &Machine, content: &mut [Vec<u8>]| {
        for _ in 0..8 {
            let write = Write::random(&mut random, DISKS, SIZE);
            machine.write(&write);
            write.apply(content);
        }
    };
    let kept = |content: &[Vec<u8>], context: &str| {
        for (number, expected) in content.iter().enumerate() {
            assert_same(
                &bench.content(&format!("m/vd{number}")),
                expected,
                &format!("{context}, disk {number}"),
            );
        }
    };
    let first = machine(&bench, &images);
    scribble(&first, &mut content);
    let full = bench.succeeds(&bench.back_up(&first.source(), &[]));
    assert!(
        reasons(&full).iter().flatten().all(|reason| reason.contains("no snapshot yet")),
        "{}",
        full.stdout
    );
    assert_eq!(reasons(&full).iter().flatten().count(), DISKS);
    kept(&content, "full");
    for round in 0..2 {
        let context = format!("round {round}");
        scribble(&first, &mut content);
        let outcome = bench.succeeds(&bench.back_up(&first.source(), &[]));
        assert_eq!(reasons(&outcome), [None, None], "{context}: {}", outcome.stdout);
        for line in &outcome.lines {
            let changed = line["capture"]["changed_bytes"].as_u64().unwrap();
            assert!(line["disk_bytes"].as_u64().unwrap() <= changed, "{context}: {line}");
            assert!(changed < SIZE / 2, "{context}: {line}");
        }
        kept(&content, &context);
        first.is_clean(DISKS, &context);
    }
    let location = text(&bench.succeeds(&["show", "m/vd0"]).lines[0]["manifest"]["source"]["location"]);
    assert!(location.ends_with("?disk=vd0"), "{location}");
    first.end(true);
    for (image, expected) in images.iter().zip(&content) {
        assert_same(&image.content(&bench), expected, "what is in Ceph");
    }
    let raw = bench.path("exported");
    let exported = images[0].rbd("export", &[raw.to_str().unwrap()]);
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    assert_same(&std::fs::read(&raw).unwrap(), &content[0], "as Ceph's own tool reads it");
    // A qcow2 image keeps its bitmap in Ceph too.
    let second = machine(&bench, &images);
    scribble(&second, &mut content);
    let after = reasons(&bench.succeeds(&bench.back_up(&second.source(), &[])));
    assert!(
        after[0].as_ref().is_some_and(|reason| reason.contains("gone")) && after[1].is_none(),
        "{after:?}"
    );
    kept(&content, "after a restart");
    bench.is_sound("at the end");
}

/// The image as this program names it.
fn place(image: &Image) -> String {
    format!("rbd:rbd/{}?conf={}", image.name, image.configuration.display())
}

fn put(image: &Image, bench: &Bench, content: &[u8]) {
    let path = bench.path("content.put");
    std::fs::write(&path, content).unwrap();
    // With -n the image is written in place; what is equal is written again, which a difference then shows.
    qemu_img(&["convert", "-n", "-f", "raw", "-O", "raw", path.to_str().unwrap(), &image.url()]);
}

fn write_at(image: &Image, offset: usize, byte: u8, length: usize) {
    let written = Command::new("qemu-io")
        .args(["-f", "raw", "-c", &format!("write -P {byte} {offset} {length}"), &image.url()])
        .output()
        .unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
}

fn snapshots(image: &Image) -> Vec<String> {
    let output = Command::new("rbd")
        .arg("--conf")
        .arg(&image.configuration)
        .args(["snap", "ls", "--format", "json", &format!("rbd/{}", image.name)])
        .output()
        .unwrap();
    let found: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    found.iter().map(|snapshot| text(&snapshot["name"]).to_owned()).collect()
}

#[test]
fn an_image_is_backed_up_by_what_its_snapshots_say_and_restored_to_another() {
    let Some(configuration) = bed() else { return };
    let bench = Bench::with_repository();
    let image = Image::create(&configuration, "raw");
    let mut content = vec![0; SIZE as usize];
    Random::new(9).fill(&mut content[..4 << 20]);
    put(&image, &bench, &content);

    let dry = bench.succeeds(&["backup", &place(&image), "ceph/disk", "--dry-run"]);
    assert_eq!(dry.lines[0]["mode"], "full");
    assert!(snapshots(&image).is_empty(), "a dry run makes no snapshot");
    bench.succeeds(&["backup", &place(&image), "ceph/disk"]);
    assert_same(&bench.content("ceph/disk"), &content, "first");
    assert_eq!(snapshots(&image).len(), 1, "the base of the next backup");

    for round in 0..2_u8 {
        let offset = (8 << 20) + usize::from(round) * 100_000;
        write_at(&image, offset, 7 + round, 65536);
        content[offset..offset + 65536].fill(7 + round);
        let outcome = bench.succeeds(&["backup", &place(&image), "ceph/disk"]);
        let read = outcome.lines[0]["statistics"]["read_bytes"].as_u64().unwrap();
        assert!((65536..1 << 20).contains(&read), "read {read}");
        assert_same(&bench.content("ceph/disk"), &content, "incremental");
        assert_eq!(snapshots(&image).len(), 1);
    }

    // Somebody removed the base: all of it is read, and the reason is told.
    let base = snapshots(&image).remove(0);
    let removed = Command::new("rbd")
        .arg("--conf")
        .arg(&configuration)
        .args(["snap", "rm", "--no-progress", &format!("rbd/{}@{base}", image.name)])
        .status();
    assert!(removed.unwrap().success());
    bench.succeeds(&["backup", &place(&image), "ceph/disk"]);
    let manifest = &bench.succeeds(&["show", "ceph/disk"]).lines[0]["manifest"];
    assert!(text(&manifest["capture"]["reason"]).contains("gone"), "{manifest}");

    // To an image that is not there yet, as Ceph's own tool reads it.
    let other = Image {
        name: format!("{}-restored", image.name),
        configuration: configuration.clone(),
        format: "raw",
    };
    bench.succeeds(&["restore", "ceph/disk", &place(&other), "--verify"]);
    let exported = bench.path("exported.other");
    assert!(other.rbd("export", &[exported.to_str().unwrap()]).status.success());
    assert_same(&std::fs::read(&exported).unwrap(), &content, "restored");
    // It is there now: not written over unless told, and patched where it differs.
    let refused = bench.run(&["restore", "ceph/disk", &place(&other)]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    write_at(&other, 0, 99, 4096);
    bench.succeeds(&["restore", "ceph/disk", &place(&other), "--onto", "--verify"]);
    bench.succeeds(&["verify-restore", "ceph/disk", &place(&other)]);
    let missing = bench.run(&["backup", "rbd:rbd/there-is-no-such-image", "ceph/none"]);
    assert_eq!(missing.code, 7, "{}", missing.stderr);
}
