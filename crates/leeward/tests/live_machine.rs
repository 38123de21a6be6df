//! A real guest writes to two disks while it is backed up; every group restores to a machine that boots, with file
//! systems that are clean after their journals are replayed, and with records that are a prefix in order across both.
//! `LEEWARD_LIVE_BACKUPS` says how many groups (5 by default).
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;
mod guest;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Bench, text};
use guest::{Guest, GuestDisk, tools_are_there};

/// Numbered records, each first to one disk and then to the other, and something larger now and then.
const RECORDER: &str = r#"
mount -t ext4 /dev/vda1 /mnt && mkdir -p /data2 && mount -t ext4 /dev/vdb /data2
echo RECORDER is on
i=0
while :; do
  i=$((i + 1)); s=$(printf %s $i | md5sum | cut -c1-32)
  echo "$i $s" >>/mnt/records; sync
  echo "$i $s" >>/data2/records; sync
  [ $((i % 8)) = 0 ] && dd if=/dev/urandom of=/data2/blob bs=64k count=3 seek=$((i * 7 % 100)) conv=notrunc 2>/dev/null
done
"#;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Replays the journal of a file system in a file as a mount would, then demands that nothing is wrong with it.
fn assert_clean(disk: &str, context: &str) {
    // 0: nothing to do; 1: the journal was replayed.
    let replay = Command::new("e2fsck").args(["-E", "journal_only", "-y", disk]).output().unwrap();
    assert!(matches!(replay.status.code(), Some(0 | 1)), "{context}: {replay:?}");
    let check = Command::new("e2fsck").args(["-f", "-n", disk]).output().unwrap();
    assert!(check.status.success(), "{context}: {}", String::from_utf8_lossy(&check.stdout));
}

/// The records of a disk, checked one by one; a last line that is cut off counts as not written.
fn records(disk: &str, context: &str) -> u64 {
    let output = Command::new("debugfs").args(["-R", "cat /records", disk]).output().unwrap();
    let content = String::from_utf8(output.stdout).unwrap();
    let mut last = 0;
    for line in content.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let (number, _) = line.split_once(' ').unwrap_or_else(|| panic!("{context}: {line:?}"));
        let number: u64 = number.parse().unwrap_or_else(|_| panic!("{context}: {line:?}"));
        assert_eq!(number, last + 1, "{context}: a record is missing");
        last = number;
    }
    last
}

fn snapshot_of(group: &serde_json::Value, disk: &str) -> String {
    let members = group["members"].as_array().unwrap();
    let member = members.iter().find(|member| text(&member["image"]).ends_with(disk)).unwrap();
    format!("{}@{}", text(&member["image"]), text(&member["snapshot"]))
}

#[test]
fn every_group_of_a_writing_guest_is_one_moment_and_boots() {
    let Some(images) = tools_are_there() else { return };
    let bench = Bench::with_repository();
    let (root, data) = (bench.path("root.qcow2"), bench.path("data.raw"));
    guest::convert(&images.join("tiny.raw"), &root, "qcow2");
    guest::new_file_system(&data, 64);
    let script = GuestDisk::script(&bench.path("script"), RECORDER);
    let disks = [GuestDisk::qcow2("root", &root), GuestDisk::raw("data", &data), script];
    let mut guest = Guest::start(&bench.path("guest"), &disks, guest::Boot::Kernel);
    guest.wait_for("TINY-DONE", Duration::from_secs(120));
    guest.type_line("sh /dev/vdc");
    guest.wait_for("RECORDER is on", Duration::from_secs(60));

    let source = format!("qmp:{}", guest.monitor().display());
    let count = number("LEEWARD_LIVE_BACKUPS", 5);
    for _ in 0..count {
        std::thread::sleep(Duration::from_millis(1500));
        bench.succeeds(&["backup", &source, "web"]);
    }
    // The machine dies without warning.
    guest.kill();
    let groups = bench.succeeds(&["groups", "web"]).lines;
    assert_eq!(groups.len() as u64, count);
    let mut before = 0;
    for (index, group) in groups.iter().enumerate() {
        let context = format!("group {index}");
        let (root, data) = (bench.path("restored.raw"), bench.path("restored-data.raw"));
        for (spec, target) in [(snapshot_of(group, "root"), &root), (snapshot_of(group, "data"), &data)] {
            bench.succeeds(&["restore", &spec, target.to_str().unwrap(), "--force", "--no-sync"]);
        }
        assert_modes(&bench, group, index);
        // Before anything is repaired: the machine starts from what was captured.
        let disks = [GuestDisk::raw("root", &root).throw_away(), GuestDisk::raw("data", &data).throw_away()];
        let mut restored = Guest::start(&bench.path("restored"), &disks, guest::Boot::Disk);
        restored.wait_for("TINY-VERIFY ok", Duration::from_secs(180));
        restored.kill();
        let partition = bench.path("partition.raw");
        std::fs::write(&partition, &std::fs::read(&root).unwrap()[1 << 20..]).unwrap();
        let (root, data) = (partition.display().to_string(), data.display().to_string());
        assert_clean(&root, &context);
        assert_clean(&data, &context);
        let (first, second) = (records(&root, &context), records(&data, &context));
        assert!(first == second || first == second + 1, "{context}: {first} records here and {second} there");
        assert!(second > before, "{context}: the guest stood still: {second} records after {before}");
        before = second;
    }
    bench.is_sound("after all groups");
}

/// The first is read whole, for want of a bitmap; all others by what has changed.
fn assert_modes(bench: &Bench, group: &serde_json::Value, index: usize) {
    for disk in ["root", "data"] {
        let shown = bench.succeeds(&["show", &snapshot_of(group, disk)]);
        let manifest = &shown.value()["manifest"];
        assert_eq!(manifest["consistency"], "crash", "{manifest}");
        assert_eq!(manifest["group"]["id"], group["group"], "{manifest}");
        let capture = &manifest["capture"];
        if index == 0 {
            assert_eq!(capture["mode"], "full", "{manifest}");
            assert!(capture["reason"].is_string(), "{manifest}");
            continue;
        }
        assert_eq!(capture["mode"], "incremental", "{manifest}");
        let changed = capture["changed_bytes"].as_u64().unwrap();
        let read = manifest["statistics"]["read_bytes"].as_u64().unwrap();
        assert!(read <= changed + changed / 5, "{read} bytes were read, {changed} had changed");
    }
}

#[test]
fn helpers_of_this_test_notice_what_is_wrong() {
    let Some(_) = tools_are_there() else { return };
    let bench = Bench::new();
    let disk = bench.path("data.raw");
    guest::new_file_system(&disk, 16);
    let name = disk.display().to_string();
    assert_clean(&name, "new");
    write_file(&disk, "records", "1 a\n2 b\n3 c");
    assert_eq!(records(&name, "cut off"), 2);
    write_file(&disk, "records", "1 a\n3 c\n");
    assert!(std::panic::catch_unwind(|| records(&name, "a gap")).is_err());
    let output = Command::new("debugfs").args(["-w", "-R", "clri /records", &name]).output().unwrap();
    assert!(output.status.success());
    assert!(std::panic::catch_unwind(|| assert_clean(&name, "damaged")).is_err());
}

fn write_file(disk: &Path, name: &str, content: &str) {
    let source = disk.with_extension("content");
    std::fs::write(&source, content).unwrap();
    for request in [format!("rm {name}"), format!("write {} {name}", source.display())] {
        let output = Command::new("debugfs").args(["-w", "-R", &request]).arg(disk).output().unwrap();
        assert!(output.status.success());
    }
}
