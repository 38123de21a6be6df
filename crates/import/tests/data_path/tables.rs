//! File systems that are checked, and partition tables that are moved, on disks made by the usual tools.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use leeward_import::filesystem::{CheckOptions, FileSystemReport, Verdict, check};
use leeward_import::gpt::{Moved, move_backup};
use leeward_import::{Quiet, VolumeTarget};

use crate::support::{MIB, has, text, tool};

/// Where partitions of the test disk begin, in MiB, with the tool that makes a file system in each.
const PARTITIONS: [(u64, u64, &str, &[&str]); 5] = [
    (1, 30, "mkfs.ext4", &["-q", "-F"]),
    (40, 320, "mkfs.xfs", &["-q", "-f"]),
    (370, 20, "mkntfs", &["-q", "-F", "-f"]),
    (400, 20, "mkfs.vfat", &["-F", "16"]),
    (430, 120, "mkfs.btrfs", &["-q", "-f"]),
];

/// A disk with a partition of each kind; MBR has room for four.
fn partitioned(folder: &Path, table: &str) -> std::path::PathBuf {
    let disk = folder.join(format!("{table}.raw"));
    let file = std::fs::File::create(&disk).unwrap();
    file.set_len(560 * MIB).unwrap();
    let count = if table == "gpt" { 5 } else { 4 };
    let mut script = format!("label: {}\n", if table == "gpt" { "gpt" } else { "dos" });
    for (start, length, ..) in &PARTITIONS[..count] {
        script.push_str(&format!("start={}, size={}\n", start * 2048, length * 2048));
    }
    std::fs::write(folder.join("script"), script).unwrap();
    tool("sh", &["-c", &format!("sfdisk -q --no-reread {} < {}", text(&disk), text(&folder.join("script")))]);
    for (start, length, program, options) in &PARTITIONS[..count] {
        let part = folder.join("part");
        std::fs::File::create(&part).unwrap().set_len(length * MIB).unwrap();
        tool(program, &[options, &[text(&part)][..]].concat());
        let content = std::fs::read(&part).unwrap();
        file.write_all_at(&content, start * MIB).unwrap();
        std::fs::remove_file(&part).unwrap();
    }
    disk
}

fn has_all() -> bool {
    [
        "sfdisk",
        "mkfs.ext4",
        "mkfs.xfs",
        "mkntfs",
        "mkfs.vfat",
        "mkfs.btrfs",
        "e2fsck",
        "xfs_repair",
        "ntfsfix",
        "fsck.fat",
    ]
    .iter()
    .all(|program| has(program))
}

fn checked(disk: &Path) -> FileSystemReport {
    let report = check(disk, &CheckOptions::default(), &Quiet).unwrap();
    println!("{:?} {:?}", report.confinement, report.problems);
    for volume in &report.volumes {
        println!(
            "{} {:?}: {:?}, {} ms, {:?}",
            volume.id, volume.command, volume.verdict, volume.milliseconds, volume.output
        );
    }
    report
}

#[test]
fn sound_file_systems_are_clean_and_damaged_ones_are_named() {
    if !has_all() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for table in ["gpt", "mbr"] {
        let disk = partitioned(folder.path(), table);
        let before = blake3::hash(&std::fs::read(&disk).unwrap());
        let report = checked(&disk);
        let kinds: Vec<_> =
            report.volumes.iter().filter_map(|volume| volume.file_system.as_deref()).collect();
        let expected = ["ext", "xfs", "ntfs", "fat", "btrfs"];
        assert_eq!(kinds, expected[..kinds.len()]);
        assert!(kinds.len() >= 4);
        for volume in &report.volumes {
            assert_eq!(volume.verdict, Verdict::Clean, "{}: {}", volume.id, volume.output);
        }
        assert!(report.is_complete() && !report.has_errors());
        assert_eq!(blake3::hash(&std::fs::read(&disk).unwrap()), before, "nothing was written");

        // The bitmaps of ext, the second allocation group of xfs, the second FAT.
        let file = std::fs::OpenOptions::new().write(true).open(&disk).unwrap();
        file.write_all_at(&[0xff; 8192], MIB + 242 * 1024).unwrap();
        file.write_all_at(&[0xff; 65536], 40 * MIB + 80 * MIB).unwrap();
        file.write_all_at(&[0x55; 2048], 400 * MIB + 512 * 8).unwrap();
        let report = checked(&disk);
        let verdict = |number: usize| &report.volumes[number].verdict;
        assert_eq!([verdict(0), verdict(1)], [&Verdict::Errors, &Verdict::Errors]);
        assert_eq!(verdict(2), &Verdict::Clean);
        assert_eq!(verdict(3), &Verdict::Errors);
        assert!(report.has_errors() && !report.volumes[0].output.is_empty());
    }
}

#[test]
fn what_holds_no_file_system_is_said_to_be_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("empty");
    std::fs::File::create(&disk).unwrap().set_len(4 * MIB).unwrap();
    let report = checked(&disk);
    assert!(matches!(report.volumes[0].verdict, Verdict::Unknown { .. }));
}

#[test]
fn a_tool_that_takes_too_long_is_ended() {
    if !has_all() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = partitioned(folder.path(), "mbr");
    let options = CheckOptions { time_max: Duration::ZERO, ..CheckOptions::default() };
    let report = check(&disk, &options, &Quiet).unwrap();
    for volume in &report.volumes {
        assert!(
            matches!(&volume.verdict, Verdict::NotChecked { why } if why.contains("longer"))
                || volume.verdict == Verdict::Clean,
            "{:?}",
            volume.verdict
        );
    }
    assert!(report.volumes.iter().any(|volume| volume.verdict != Verdict::Clean));
    let left = std::fs::read_dir(std::env::temp_dir()).unwrap().filter_map(Result::ok);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let own = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("leeward-check-"));
    println!("directories left by anybody: {}", own.count());
    assert!(!mounts.contains("deleted"));
}

/// What sgdisk says of a disk.
fn sgdisk(disk: &Path) -> String {
    let output = Command::new("sgdisk").arg("--verify").arg(disk).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn gpt_on_a_larger_disk(path: &Path) {
    std::fs::File::create(path).unwrap().set_len(64 * MIB).unwrap();
    tool("sgdisk", &["-n", "1:2048:+20M", "-n", "2:0:0", text(path)]);
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(100 * MIB).unwrap();
}

#[test]
fn the_backup_of_a_gpt_is_moved_to_the_end() {
    if !has("sgdisk") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    gpt_on_a_larger_disk(&path);
    assert!(!sgdisk(&path).contains("No problems found"));
    let target = VolumeTarget::open(&path, 0).unwrap();
    let moved = move_backup(&target).unwrap();
    let expected = Moved::Moved { from_sector: 64 * 2048 - 1, to_sector: 100 * 2048 - 1, sector_bytes: 512 };
    assert_eq!(moved, expected);
    assert_eq!(move_backup(&target).unwrap(), Moved::InPlace);
    let said = sgdisk(&path);
    assert!(said.contains("No problems found"), "{said}");
    // The old one is gone, so that no tool finds it.
    let old = &std::fs::read(&path).unwrap()[64 * MIB as usize - 512..64 * MIB as usize];
    assert!(old.iter().all(|&byte| byte == 0));

    // A damaged table is left as it is.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"x", 1024).unwrap();
    assert!(move_backup(&target).unwrap_err().to_string().contains("damaged"));
    file.write_all_at(&[0; 1024], 0).unwrap();
    assert_eq!(move_backup(&target).unwrap(), Moved::NoTable);
}

/// The states of a disk after each write of a move, as a crash would leave them.
#[test]
fn a_move_that_stops_anywhere_leaves_a_sound_table() {
    if !has("sgdisk") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = (folder.path().join("before"), folder.path().join("after"));
    gpt_on_a_larger_disk(&before);
    std::fs::copy(&before, &after).unwrap();
    move_backup(&VolumeTarget::open(&after, 0).unwrap()).unwrap();
    let (old, new) = (std::fs::read(&before).unwrap(), std::fs::read(&after).unwrap());
    let whole = 100 * MIB as usize;
    // In the order of the writes: table and header at the end, header at the start, MBR, the old backup.
    let writes = [
        whole - 33 * 512..whole - 512,
        whole - 512..whole,
        512..1024,
        0..512,
        60 * MIB as usize..64 * MIB as usize,
    ];
    let state = folder.path().join("state");
    for stop in 0..=writes.len() {
        let mut bytes = old.clone();
        for range in &writes[..stop] {
            bytes[range.clone()].copy_from_slice(&new[range.clone()]);
        }
        std::fs::write(&state, &bytes).unwrap();
        let listed = Command::new("sgdisk").arg("-p").arg(&state).output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.contains("   2  ") && !listed.contains("damaged"), "after {stop} writes: {listed}");
        move_backup(&VolumeTarget::open(&state, 0).unwrap()).unwrap();
        assert!(
            sgdisk(&state).contains("No problems found"),
            "after {stop} writes, gone on: {}",
            sgdisk(&state)
        );
    }
}
