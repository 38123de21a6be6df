//! `leeward mount`: what is mounted is what a restore gives, whatever happens to the mount, its reader or its server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, MIB, text};

/// Whether file systems can be mounted here; says loudly when not, because the test then proves nothing.
fn can_mount() -> bool {
    let device = File::options().read(true).write(true).open("/dev/fuse").is_ok();
    let there = device && has("fusermount3", "--version");
    if !there {
        eprintln!("\n*** SKIPPED: no usable /dev/fuse or no fusermount3, nothing was mounted ***\n");
    }
    there
}

fn has(tool: &str, argument: &str) -> bool {
    Command::new(tool).arg(argument).output().is_ok_and(|output| output.status.success())
}

/// A mount that is served by the real command.
struct Mount {
    child: Child,
    place: PathBuf,
}

impl Mount {
    fn new(bench: &Bench, place: &Path) -> Self {
        let mut child = bench
            .command(&["mount", place.to_str().unwrap(), "--cache", "16M"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It says so when it is mounted.
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mount = Self { child, place: place.to_owned() };
        assert!(line.starts_with("{\"mounted\":"), "{line:?}");
        mount
    }

    fn path(&self, path: &str) -> PathBuf {
        self.place.join(path)
    }

    fn is_mounted(&self) -> bool {
        is_mounted(&self.place)
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "leeward mount does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.is_mounted() {
            let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(&self.place).status();
        }
    }
}

fn is_mounted(place: &Path) -> bool {
    let wanted = place.parent().unwrap().canonicalize().unwrap().join(place.file_name().unwrap());
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == wanted.to_str())
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Waits until something holds, as listings are remembered for a moment.
fn soon(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn bench() -> (Bench, PathBuf, PathBuf) {
    let bench = Bench::with_repository();
    let place = bench.path("mnt");
    fs::create_dir(&place).unwrap();
    let disk = bench.disk("disk.raw", 48, 12, 1);
    bench.succeeds(&["backup", disk.to_str().unwrap(), "web"]);
    (bench, place, disk)
}

#[test]
fn files_are_the_disks_with_their_sizes_times_and_holes() {
    if !can_mount() {
        return;
    }
    let (bench, place, disk) = bench();
    bench.succeeds(&["backup", disk.to_str().unwrap(), "web/root"]);
    bench.succeeds(&["backup", disk.to_str().unwrap(), "web/latest"]);
    let mut mount = Mount::new(&bench, &place);
    assert_eq!(names(&place), ["web"]);
    let entry = bench.succeeds(&["log", "web"]).lines[0].clone();
    let id = text(&entry["id"]);
    let listed = names(&mount.path("web"));
    // One snapshot, the link, and both nested images, one of which has the name of the link.
    assert_eq!(listed.len(), 4, "{listed:?}");
    assert!(listed[0].ends_with(&format!("Z-{}", &id[..12])), "{listed:?}");
    assert_eq!(listed[1..], ["latest", "latest+", "root"]);
    assert_eq!(fs::read_link(mount.path("web/latest")).unwrap().to_str().unwrap(), listed[0]);
    assert_eq!(names(&mount.path("web/latest")), ["disk.raw", "manifest.json"]);
    for name in ["web/latest/disk.raw", "web/latest+/latest/disk.raw", "web/root/latest/disk.raw"] {
        assert!(fs::read(mount.path(name)).unwrap() == fs::read(&disk).unwrap(), "{name}");
    }
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(mount.path("web/latest/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["image"], "web");

    let metadata = fs::metadata(mount.path("web/latest/disk.raw")).unwrap();
    assert_eq!(metadata.len(), 48 * MIB);
    assert!(metadata.permissions().readonly() && metadata.mode() & 0o222 == 0);
    assert!(metadata.blocks() * 512 < 48 * MIB, "programs are told that there are holes");
    let created: jiff::Timestamp = text(&entry["created"]).parse().unwrap();
    assert_eq!(metadata.mtime(), created.as_second());
    for path in ["web/latest/disk.raw", "web/new", "new"] {
        let error =
            File::options().write(true).create(true).truncate(false).open(mount.path(path)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{path}");
    }
    for missing in
        ["web/latest/partition-1.raw", "web/nothing", "web/latest+/latest+", "we", "web/latest/disk"]
    {
        assert!(!mount.path(missing).exists(), "{missing}");
    }
    // A copy by holes has the same bytes and takes no more room than the data.
    let copy = bench.path("copy.raw");
    let from = mount.path("web/latest/disk.raw");
    assert!(Command::new("cp").arg("--sparse=auto").arg(&from).arg(&copy).status().unwrap().success());
    assert!(fs::read(&copy).unwrap() == fs::read(&disk).unwrap());
    assert!(fs::metadata(&copy).unwrap().blocks() * 512 <= 24 * MIB);
    mount.signal("-INT");
    assert_eq!(mount.ended().code(), Some(0));
    assert!(!mount.is_mounted());
}

#[test]
fn partitions_are_files_of_their_own() {
    if !can_mount() {
        return;
    }
    if !has("sfdisk", "--version") {
        eprintln!("\n*** SKIPPED: sfdisk is not installed, no partition was mounted ***\n");
        return;
    }
    let (bench, place, _) = bench();
    let disk = bench.disk("parts.raw", 32, 8, 3);
    let script = "label: gpt\nstart=2048, size=8192\nstart=20480, size=16384\n";
    let mut child =
        Command::new("sfdisk").arg(&disk).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    bench.succeeds(&["backup", disk.to_str().unwrap(), "parts"]);
    let mut mount = Mount::new(&bench, &place);
    assert_eq!(
        names(&mount.path("parts/latest")),
        ["disk.raw", "manifest.json", "partition-1.raw", "partition-2.raw"]
    );
    let bytes = fs::read(&disk).unwrap();
    for (name, start, sectors) in [("partition-1.raw", 2048, 8192), ("partition-2.raw", 20480, 16384)] {
        let part = fs::read(mount.path("parts/latest").join(name)).unwrap();
        assert!(part == bytes[start * 512..(start + sectors) * 512], "{name}");
    }
    assert!(Command::new("fusermount3").arg("-u").arg(&place).status().unwrap().success());
    assert_eq!(mount.ended().code(), Some(0));
}

#[test]
fn many_readers_and_the_usual_tools_see_the_same_bytes() {
    if !can_mount() {
        return;
    }
    let (bench, place, disk) = bench();
    let mut mount = Mount::new(&bench, &place);
    let mounted = mount.path("web/latest/disk.raw");
    let bytes = fs::read(&disk).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..6_usize {
            let (bytes, mounted) = (&bytes, &mounted);
            scope.spawn(move || {
                let file = File::open(mounted).unwrap();
                for step in 0..200_usize {
                    let from = (step * 7919 * 4096 + thread * 1_234_567) % (bytes.len() - 300_000);
                    let mut part = vec![0; 4096 * (1 + step % 60)];
                    file.read_exact_at(&mut part, from as u64).unwrap();
                    assert!(part == bytes[from..from + part.len()]);
                }
            });
        }
    });
    let copy = bench.path("dd.raw");
    let (input, output) = (format!("if={}", mounted.display()), format!("of={}", copy.display()));
    let dd =
        Command::new("dd").args([&input, &output, "bs=1M", "iflag=direct", "status=none"]).status().unwrap();
    assert!(dd.success() && fs::read(&copy).unwrap() == bytes);
    if has("qemu-img", "--version") {
        let copy = bench.path("copy.qcow2");
        let convert = ["convert", "-f", "raw", "-O", "qcow2"];
        assert!(Command::new("qemu-img").args(convert).arg(&mounted).arg(&copy).status().unwrap().success());
        let compare = Command::new("qemu-img").arg("compare").arg(&copy).arg(&disk).output().unwrap();
        assert!(compare.status.success(), "{}", String::from_utf8_lossy(&compare.stdout));
        let info = Command::new("qemu-img").args(["info", "--output=json"]).arg(&mounted).output().unwrap();
        let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
        assert_eq!(info["virtual-size"], 48 * MIB);
    } else {
        eprintln!("\n*** SKIPPED: qemu-img is not installed, it has not read the mount ***\n");
    }
    assert!(Command::new("fusermount3").arg("-u").arg(&place).status().unwrap().success());
    assert_eq!(mount.ended().code(), Some(0));
    assert!(names(&place).is_empty());
}

#[test]
fn new_snapshots_appear_forgotten_ones_vanish_and_open_files_go_on() {
    if !can_mount() {
        return;
    }
    let (bench, place, disk) = bench();
    let mut mount = Mount::new(&bench, &place);
    let first = fs::read_link(mount.path("web/latest")).unwrap();
    let first = first.to_str().unwrap().to_owned();
    let mut open = File::open(mount.path("web").join(&first).join("disk.raw")).unwrap();
    let changed = bench.changed(&disk, "changed.raw", 2);
    bench.succeeds(&["backup", changed.to_str().unwrap(), "web"]);
    bench.succeeds(&["backup", changed.to_str().unwrap(), "mail/data"]);
    soon("the new snapshot", || fs::read_link(mount.path("web/latest")).unwrap().to_str() != Some(&first));
    soon("the new image", || mount.path("mail/data/latest/disk.raw").exists());
    assert!(fs::read(mount.path("web/latest/disk.raw")).unwrap() == fs::read(&changed).unwrap());
    let id = &first[first.len() - 12..];
    bench.succeeds(&["forget", &format!("web@{id}")]);
    soon("the forgotten one vanishes", || !names(&mount.path("web")).contains(&first));
    soon("also by its name", || !mount.path("web").join(&first).exists());
    assert_eq!(open.metadata().unwrap().len(), 48 * MIB);
    let mut read = Vec::new();
    open.read_to_end(&mut read).unwrap();
    assert!(read == fs::read(&disk).unwrap(), "an open file stays what it was");
    drop(open);
    assert!(Command::new("fusermount3").arg("-u").arg(&place).status().unwrap().success());
    assert_eq!(mount.ended().code(), Some(0));
}

#[test]
fn a_killed_mount_is_replaced_and_an_open_file_holds_nothing_up() {
    if !can_mount() {
        return;
    }
    let (bench, place, disk) = bench();
    let mut killed = Mount::new(&bench, &place);
    assert!(killed.path("web/latest/disk.raw").exists());
    // A mount that lives is not touched.
    let refused = bench.fails(&["mount", place.to_str().unwrap()], 5);
    assert!(refused.stderr.contains("mounted here already"), "{}", refused.stderr);
    killed.signal("-KILL");
    killed.ended();
    assert!(is_mounted(&place), "the kernel keeps the mount of a process that was killed");
    let mut mount = Mount::new(&bench, &place);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = place.canonicalize().unwrap();
    let count = mounts.lines().filter(|line| line.split(' ').nth(4) == point.to_str()).count();
    assert_eq!(count, 1, "the dead one is gone");
    let file = File::open(mount.path("web/latest/disk.raw")).unwrap();
    file.read_exact_at(&mut [0; 4096], 0).unwrap();
    mount.signal("-TERM");
    assert_eq!(mount.ended().code(), Some(0));
    assert!(!is_mounted(&place) && names(&place).is_empty());
    drop(file);

    // Somebody else takes it away while a file is open: that file is served until it is closed.
    let mut mount = Mount::new(&bench, &place);
    let mut file = File::open(mount.path("web/latest/disk.raw")).unwrap();
    assert!(Command::new("fusermount3").args(["-u", "-z"]).arg(&place).status().unwrap().success());
    assert!(!is_mounted(&place));
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert!(read == fs::read(&disk).unwrap());
    assert!(mount.child.try_wait().unwrap().is_none());
    drop(file);
    assert_eq!(mount.ended().code(), Some(0));
}

#[test]
fn a_damaged_chunk_is_an_error_of_the_read_and_the_rest_stays_readable() {
    if !can_mount() {
        return;
    }
    let (bench, place, disk) = bench();
    let packs = bench.repository().join("packs");
    let largest = fs::read_dir(packs).unwrap().map(|pack| pack.unwrap().path());
    let path = largest.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut content = fs::read(&path).unwrap();
    let middle = content.len() / 2;
    content[middle..middle + 64].iter_mut().for_each(|byte| *byte ^= 0x55);
    fs::remove_file(&path).unwrap();
    fs::write(&path, content).unwrap();
    let mut mount = Mount::new(&bench, &place);
    let file = File::open(mount.path("web/latest/disk.raw")).unwrap();
    let bytes = fs::read(&disk).unwrap();
    let (mut failed, mut served) = (0, 0);
    for (index, expected) in bytes.chunks(65536).enumerate() {
        let mut part = vec![0; expected.len()];
        match file.read_exact_at(&mut part, index as u64 * 65536) {
            Ok(()) => {
                assert!(part == expected);
                served += 1;
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(5));
                failed += 1;
            }
        }
    }
    assert!(failed > 0 && served > failed, "{failed} failed, {served} served");
    drop(file);
    mount.signal("-INT");
    assert_eq!(mount.ended().code(), Some(0));
}

#[test]
fn directories_that_cannot_be_used_are_refused() {
    if !can_mount() {
        return;
    }
    let (bench, place, _) = bench();
    bench.fails(&["mount", bench.path("missing").to_str().unwrap()], 7);
    fs::write(place.join("file"), "x").unwrap();
    bench.fails(&["mount", place.to_str().unwrap()], 5);
    bench.fails(&["mount", place.join("file").to_str().unwrap()], 6);
    assert!(!is_mounted(&place));
}
