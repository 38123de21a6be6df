//! `leeward quickstart`, with the real binary: the JSON says that everything is equal, and nothing is left behind.

// The settings that allow this in tests do not see the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const MIB: u64 = 1 << 20;

fn quickstart(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leeward"));
    command.args(["quickstart", "--json", "--dir"]).arg(folder).args(arguments);
    command.output().unwrap()
}

/// Runs it, checks what holds for every run, and returns the JSON.
fn report(folder: &Path, arguments: &[&str]) -> Value {
    let output = quickstart(folder, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let recovery = &report["recovery"];
    assert_eq!(recovery["every_byte_equal"], true);
    assert_eq!(recovery["differing_bytes"], 0);
    assert_eq!(recovery["blake3_before"], recovery["blake3_recovered"]);
    assert_ne!(recovery["blake3_before"], report["disk"]["blake3"], "the disk has changed in between");
    assert_eq!(report["copy"]["roots_equal"], true);
    assert_eq!(report["copy"]["snapshots"], 2);
    let number = |value: &Value| value.as_u64().unwrap();
    let [first, second] = &report["backups"].as_array().unwrap()[..] else { panic!("two backups") };
    assert!(number(&first["statistics"]["new_bytes"]) > 0);
    assert!(number(&second["statistics"]["new_bytes"]) >= number(&report["change"]["bytes"]));
    assert!(number(&report["repository"]["unique_bytes"]) < number(&report["repository"]["data_bytes"]));
    report
}

fn assert_empty(folder: &Path) {
    let left: Vec<_> = folder.read_dir().unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// The one folder that `--keep` left.
fn kept(report: &Value) -> PathBuf {
    PathBuf::from(report["kept"].as_str().unwrap())
}

/// The first partition of a disk, as a file of its own.
fn partition(disk: &Path, into: &Path) -> PathBuf {
    let content = std::fs::read(disk).unwrap();
    let path = into.join("partition");
    std::fs::write(&path, &content[MIB as usize..]).unwrap();
    path
}

/// Runs a checker of file systems where it is installed.
fn check(program: &str, arguments: &[&str], partition: &Path) {
    let found = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(program));
    match found.iter().find(|path| path.exists()) {
        None => eprintln!("SKIPPED: {program} is not installed, so the file system is not checked"),
        Some(path) => {
            let output = Command::new(path).args(arguments).arg(partition).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}

#[test]
fn without_a_disk_one_is_made_and_recovered() {
    let folder = tempfile::tempdir().unwrap();
    let report = report(folder.path(), &["--size", "24M"]);
    assert_eq!(report["disk"]["is_given"], false);
    assert!(report["disk"]["files"].as_u64().unwrap() > 10);
    let has_qemu = Command::new("qemu-system-x86_64").arg("--version").output().is_ok();
    if !has_qemu {
        eprintln!("SKIPPED: qemu-system-x86_64 is not installed, nothing was booted");
    }
    for boot in [&report["boot"], &report["at_once"]["boot"]] {
        assert_eq!(boot["result"], if has_qemu { "booted" } else { "skipped" }, "{boot}");
        assert_eq!(boot["line"].as_str().is_some_and(|line| line.starts_with("LEEWARD-STARTED")), has_qemu);
    }
    assert_eq!(report["at_once"]["first_read_seconds"].is_f64(), has_qemu);
    assert_empty(folder.path());
}

#[test]
fn the_ext4_disk_is_sound_after_its_changes() {
    if !["/usr/sbin/mke2fs", "/sbin/mke2fs"].iter().any(|path| Path::new(path).exists()) {
        return eprintln!("SKIPPED: mke2fs is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let report = report(folder.path(), &["--size", "24M", "--file-system", "ext4", "--keep"]);
    assert!(report["disk"]["made"].as_str().unwrap().contains("mke2fs"));
    let partition = partition(&kept(&report).join("recovered.raw"), folder.path());
    check("e2fsck", &["-f", "-n"], &partition);
}

#[test]
fn the_fat_disk_of_our_own_making_is_sound_after_its_changes() {
    let folder = tempfile::tempdir().unwrap();
    let report = report(folder.path(), &["--size", "24M", "--file-system", "fat32", "--keep"]);
    let kept = kept(&report);
    assert!(kept.join("west").is_dir() && !kept.join("east").exists());
    let partition = partition(&kept.join("recovered.raw"), folder.path());
    check("fsck.fat", &["-n", "-v"], &partition);
}

#[test]
fn a_given_disk_is_recovered_and_only_read() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("given disk.raw");
    let file = std::fs::File::create_new(&disk).unwrap();
    file.set_len(24 * MIB).unwrap();
    let noise: Vec<u8> =
        (0..3 * MIB).map(|index| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 37) as u8).collect();
    file.write_all_at(&noise, 5 * MIB + 4096).unwrap();
    let before = std::fs::read(&disk).unwrap();
    let space = folder.path().join("space");
    std::fs::create_dir(&space).unwrap();
    let report = report(&space, &["-f", "raw", disk.to_str().unwrap()]);
    assert_eq!(report["disk"]["is_given"], true);
    assert_eq!(report["disk"]["is_unchanged"], true);
    assert_eq!(report["disk"]["virtual_size"], 24 * MIB);
    assert!(report["change"]["what"].as_str().unwrap().contains("grew"));
    assert_eq!(report["boot"]["result"], "skipped");
    assert!(std::fs::read(&disk).unwrap() == before);
    assert_empty(&space);
}

#[test]
fn errors_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = quickstart(folder.path(), &["/nonexistent/disk.raw"]);
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
    assert_empty(folder.path());
    let output = quickstart(&folder.path().join("missing"), &[]);
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_leeward"));
    command.args(["quickstart", "--size", "300M", "--dir"]).arg(folder.path());
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    // In the midst of the work: the folder is there and has something in it.
    let is_busy = || {
        let mut inside = folder.path().read_dir().unwrap().flatten();
        inside.next().is_some_and(|entry| {
            entry.path().join("files/usr/bin").exists() || entry.path().join("disk.raw").exists()
        })
    };
    let started = std::time::Instant::now();
    while !is_busy() && started.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_empty(folder.path());
}

#[test]
fn a_recovered_machine_boots() {
    let beds =
        std::env::var_os("TESTBED_DIR").map_or_else(|| PathBuf::from("/var/tmp/testbeds"), PathBuf::from);
    let disk = beds.join("vm/images/tiny.raw");
    let qemu = Path::new("/usr/bin/qemu-system-x86_64");
    if !disk.exists() || !qemu.exists() {
        return eprintln!("SKIPPED: needs {} and {}", disk.display(), qemu.display());
    }
    let folder = tempfile::tempdir().unwrap();
    let report = report(folder.path(), &["-f", "raw", disk.to_str().unwrap()]);
    assert_eq!(report["boot"]["result"], "booted", "{}", report["boot"]);
    assert!(report["boot"]["line"].as_str().unwrap().contains("TINY-VERIFY ok"));
    assert_eq!(report["disk"]["is_unchanged"], true);
    // The line is noticed when it comes, not when the time is up.
    assert!(report["recovery"]["recovery_time_booted_seconds"].as_f64().unwrap() < 200.0);
    assert_empty(folder.path());
}
