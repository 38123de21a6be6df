//! Machines whose disks are in Ceph, which QEMU reaches with its rbd driver. Runs where the test bed `ceph` is up.
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
        let name = format!("leeward-test-{}-{format}", std::process::id());
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
