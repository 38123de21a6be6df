//! `leeward files` and `leeward cp`: out of snapshots and disks, and never out of the target.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Bench, MIB, text};

/// Whether the tools are there; says loudly when one is not.
fn has(tools: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let missing =
        tools.iter().find(|tool| !path.split(':').any(|folder| Path::new(folder).join(tool).is_file()));
    if let Some(tool) = missing {
        eprintln!("\n*** SKIPPED: {tool} is not installed, nothing was copied ***\n");
    }
    missing.is_none()
}

fn tool(name: &str, arguments: &[&str], input: &str) {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut child = Command::new(name)
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A directory for mke2fs, with what a copy has to keep.
fn tree(root: &Path) {
    std::fs::create_dir_all(root.join("etc/deep/er")).unwrap();
    std::fs::write(root.join("etc/fstab"), "a line\n").unwrap();
    std::fs::write(root.join("etc/deep/er/file"), vec![7; 100_000]).unwrap();
    std::fs::write(root.join("etc/run"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(root.join("etc/run"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    std::fs::set_permissions(root.join("etc/deep"), std::fs::Permissions::from_mode(0o550)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("etc/link")).unwrap();
    std::fs::write(root.join("etc/\u{1b}[31mred\n"), "colour").unwrap();
    let file = std::fs::File::create(root.join("sparse")).unwrap();
    file.set_len(20 * MIB).unwrap();
    file.write_all_at(b"end", 20 * MIB - 3).unwrap();
    let moment = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    std::fs::File::open(root.join("etc/fstab")).unwrap().set_modified(moment).unwrap();
}

/// A disk with an MBR, ext4 in partition 1 and ext2 in partition 2.
fn disk(bench: &Bench) -> String {
    let (root, first, second) = (bench.path("root"), bench.path("first"), bench.path("second"));
    let (disk, other) = (bench.path("disk.raw"), bench.path("other"));
    tree(&root);
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("data"), "on the second").unwrap();
    for (path, kind, from) in [(&first, "ext4", &root), (&second, "ext2", &other)] {
        std::fs::File::create(path).unwrap().set_len(16 * MIB).unwrap();
        tool(
            "mke2fs",
            &["-q", "-F", "-t", kind, "-L", kind, "-d", from.to_str().unwrap(), path.to_str().unwrap()],
            "",
        );
    }
    let file = std::fs::File::create(&disk).unwrap();
    file.set_len(34 * MIB).unwrap();
    let mut sector = vec![0_u8; 512];
    for (index, start) in [(0, MIB), (1, 17 * MIB)] {
        let slot = &mut sector[446 + 16 * index..];
        slot[4] = 0x83;
        slot[8..12].copy_from_slice(&((start / 512) as u32).to_le_bytes());
        slot[12..16].copy_from_slice(&((16 * MIB / 512) as u32).to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&sector, 0).unwrap();
    file.write_all_at(&std::fs::read(first).unwrap(), MIB).unwrap();
    file.write_all_at(&std::fs::read(second).unwrap(), 17 * MIB).unwrap();
    disk.to_str().unwrap().to_owned()
}

#[test]
fn files_come_out_of_a_snapshot_as_they_were() {
    if !has(&["mke2fs"]) {
        return;
    }
    let bench = Bench::with_repository();
    let disk = disk(&bench);
    bench.succeeds(&["backup", &disk, "web/root"]);
    let volumes = bench.succeeds(&["files", "web/root"]).lines;
    let found: Vec<_> = volumes
        .iter()
        .map(|line| (text(&line["volume"]), text(&line["content"]), text(&line["label"])))
        .collect();
    let named = |id: &str, kind: &str| (id.to_owned(), kind.to_owned(), kind.to_owned());
    assert_eq!(found, [named("1", "ext4"), named("2", "ext2")]);
    // The first has /etc/fstab, so a path without volume means it.
    let lines = bench.succeeds(&["files", "web/root", "/etc"]).lines;
    let names: Vec<String> = lines.iter().map(|line| text(&line["path"])).collect();
    assert_eq!(names, ["/etc/\u{1b}[31mred\n", "/etc/deep", "/etc/fstab", "/etc/link", "/etc/run"]);
    assert_eq!((text(&lines[4]["mode"]), text(&lines[3]["target"])), ("4755".into(), "/etc/passwd".into()));
    assert_eq!(bench.succeeds(&["files", "web/root", "2:/data"]).value()["size"], 13);
    bench.fails(&["files", "web/root", "3:/"], 7);
    bench.fails(&["files", "web/root", "/no/such"], 7);

    let out = bench.path("out");
    bench.succeeds(&["cp", "web/root@latest:/", out.to_str().unwrap(), "--dry-run"]);
    assert!(!out.exists());
    bench.succeeds(&["cp", "web/root@latest:1:/", out.to_str().unwrap()]);
    let root = bench.path("root");
    for name in ["etc/fstab", "etc/deep/er/file", "etc/run", "etc/\u{1b}[31mred\n", "sparse"] {
        assert!(std::fs::read(out.join(name)).unwrap() == std::fs::read(root.join(name)).unwrap(), "{name}");
    }
    let of = |name: &str| std::fs::symlink_metadata(out.join(name)).unwrap();
    assert_eq!(std::fs::read_link(out.join("etc/link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(of("etc/fstab").mtime(), 1_000_000_000);
    assert_eq!(of("etc/deep").mode() & 0o7777, 0o550);
    assert_eq!(of("etc/run").mode() & 0o7777, 0o755, "setuid is not kept");
    assert!(of("sparse").blocks() * 512 < MIB, "holes stay holes");

    // What is there stays, unless told otherwise.
    std::fs::write(out.join("etc/fstab"), "mine").unwrap();
    let target = out.join("etc");
    let again = ["cp", "web/root:/etc/fstab", target.to_str().unwrap()];
    bench.fails(&again, 1);
    assert_eq!(std::fs::read(out.join("etc/fstab")).unwrap(), b"mine");
    bench.succeeds(&[&again[..], &["--force"]].concat());
    assert_eq!(std::fs::read(out.join("etc/fstab")).unwrap(), b"a line\n");

    let printed = bench.command(&["cp", "web/root:2:/data", "-"]).output().unwrap();
    assert_eq!((printed.status.code(), printed.stdout.as_slice()), (Some(0), &b"on the second"[..]));
    bench.fails(&["cp", "web/root:/etc", "-"], 2);
    bench.fails(&["cp", "web/root", "-"], 2);
}

#[test]
fn a_terminal_sees_no_control_characters() {
    if !has(&["mke2fs"]) {
        return;
    }
    let bench = Bench::new();
    let disk = disk(&bench);
    let mut command = Command::new(env!("CARGO_BIN_EXE_leeward"));
    let output = command.args(["files", "-R", "--disk", &disk, "-V", "1"]).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("\\u{1b}[31mred\\n"), "{shown}");
    assert!(shown.chars().all(|character| character == '\n' || !character.is_control()), "{shown}");
}

/// A disk whose directories hold names that no kernel would have written.
#[test]
fn no_name_leads_out_of_the_target() {
    if !has(&["mke2fs", "debugfs"]) {
        return;
    }
    let bench = Bench::new();
    let (root, image, out, outside) =
        (bench.path("root"), bench.path("image"), bench.path("out"), bench.path("outside"));
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(root.join("good"), "good").unwrap();
    for name in ["AA", "XhomeXevil", "nul"] {
        std::fs::write(root.join(name), "evil").unwrap();
    }
    std::fs::File::create(&image).unwrap().set_len(8 * MIB).unwrap();
    let image_name = image.to_str().unwrap();
    let options = [
        "-q",
        "-F",
        "-t",
        "ext2",
        "-b",
        "1024",
        "-O",
        "^dir_index",
        "-d",
        root.to_str().unwrap(),
        image_name,
    ];
    tool("mke2fs", &options, "");
    let script = format!(
        "symlink c {}\nmkdir b\ncd b\nwrite {} passwd\n",
        outside.display(),
        root.join("good").display()
    );
    tool("debugfs", &["-w", "-f", "/dev/stdin", image_name], &script);
    // `b` becomes a second `c`: first a link that leads out, then a directory of the same name. The others become
    // `..`, a path and a name with a zero byte.
    let mut bytes = std::fs::read(&image).unwrap();
    for (from, to) in [
        (&b"\x01\x02b\0"[..], &b"\x01\x02c\0"[..]),
        (b"\x02\x01AA", b"\x02\x01.."),
        (b"XhomeXevil", b"/home/evil"),
        (b"\x03\x01nul", b"\x03\x01n\0l"),
    ] {
        let places: Vec<usize> = bytes
            .windows(from.len())
            .enumerate()
            .filter(|(_, window)| *window == from)
            .map(|(place, _)| place)
            .collect();
        assert!(!places.is_empty(), "{from:?}");
        for place in places {
            bytes[place..place + to.len()].copy_from_slice(to);
        }
    }
    std::fs::write(&image, bytes).unwrap();
    for force in [&[][..], &["--force"]] {
        let arguments =
            [&["cp", "--disk", image_name, "-f", "raw", "/", out.to_str().unwrap()][..], force].concat();
        let outcome = bench.fails(&arguments, 1);
        let failed = |name: &str| {
            outcome
                .lines
                .iter()
                .any(|line| text_of(line, "path").ends_with(name) && line["failed"].is_string())
        };
        assert!(failed("c"), "the second c is refused: {}", outcome.stdout);
        assert!(failed("/home/evil") && failed("n\\u{0}l"), "{}", outcome.stdout);
        assert_eq!(std::fs::read(out.join("good")).unwrap(), b"good");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "something was written outside");
        assert!(std::fs::symlink_metadata(out.join("c")).unwrap().is_symlink());
        assert!(!bench.path("passwd").exists() && !Path::new("/home/evil").exists());
    }
}

fn text_of(line: &serde_json::Value, name: &str) -> String {
    line[name].as_str().unwrap_or_default().to_owned()
}

/// The manifest in the guest's disk is the oracle.
#[test]
fn the_test_bed_s_files_match_its_manifest() {
    let beds =
        std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), std::path::PathBuf::from);
    let image = beds.join("vm/images/day1.qcow2");
    if !image.is_file() {
        eprintln!("\n*** SKIPPED: no {}; start the test bed ***\n", image.display());
        return;
    }
    let bench = Bench::new();
    let out = bench.path("data");
    bench.succeeds(&["cp", "--disk", image.to_str().unwrap(), "/srv/data", out.to_str().unwrap()]);
    let check = Command::new("sha256sum")
        .args(["-c", "--quiet", "MANIFEST.sha256"])
        .current_dir(&out)
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
    assert!(std::fs::read_to_string(out.join("MANIFEST.sha256")).unwrap().lines().count() > 3000);
}
