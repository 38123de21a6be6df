//! `leeward disk`, as a person runs it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leeward"));
        command.current_dir(self.0.path()).args(line.split_whitespace());
        command
    }

    /// Runs a command line, which must end with this code, and returns what it printed.
    fn run(&self, line: &str, code: i32) -> Output {
        let output = self.command(line).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{line}: {}", stderr(&output));
        output
    }

    fn json(&self, line: &str, code: i32) -> Vec<Value> {
        let output = self.run(&format!("--json {line}"), code);
        String::from_utf8_lossy(&output.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A raw disk of 8 MiB with data at its start and end.
fn write_disk(path: &Path) -> Vec<u8> {
    let mut disk = vec![0; 8 << 20];
    disk[..200_000].iter_mut().enumerate().for_each(|(index, byte)| *byte = (index / 7) as u8);
    disk[8_000_000..].fill(9);
    std::fs::write(path, &disk).unwrap();
    disk
}

#[test]
fn converting_there_and_back_keeps_every_byte() {
    let place = Place::new();
    let disk = write_disk(&place.file("a.raw"));
    place.run("disk convert a.raw b.qcow2", 0);
    place.run("disk convert b.qcow2 c.qcow2 --compress zstd --cluster-size 16K", 0);
    let report = place.json("disk convert c.qcow2 d.raw --no-sync", 0);
    assert_eq!(report[0]["virtual_size"], 8 << 20);
    assert_eq!(std::fs::read(place.file("d.raw")).unwrap(), disk);
    assert!(stdout(&place.run("disk compare b.qcow2 a.raw", 0)).contains("equal"));
    assert_eq!(place.names(), ["a.raw", "b.qcow2", "c.qcow2", "d.raw"]);
}

#[test]
fn an_existing_target_is_kept_unless_forced() {
    let place = Place::new();
    write_disk(&place.file("a.raw"));
    std::fs::write(place.file("b.raw"), "precious").unwrap();
    let refused = place.run("disk convert a.raw b.raw", 5);
    assert!(stderr(&refused).contains("--force"), "{}", stderr(&refused));
    assert_eq!(std::fs::read(place.file("b.raw")).unwrap(), b"precious");
    place.run("disk convert a.raw b.raw --force", 0);
    place.run("disk compare a.raw b.raw", 0);
}

#[test]
fn info_and_map_have_text_and_json() {
    let place = Place::new();
    write_disk(&place.file("a.raw"));
    place.run("disk convert a.raw b.qcow2", 0);
    let info = stdout(&place.run("disk info b.qcow2", 0));
    assert!(
        info.contains("format: qcow2") && info.contains("virtual size: 8.0 MiB (8388608 bytes)"),
        "{info}"
    );
    let info = place.json("disk info b.qcow2", 0);
    assert_eq!((&info[0]["format"], &info[0]["virtual_size"]), (&"qcow2".into(), &(8 << 20).into()));
    let map = place.json("disk map b.qcow2", 0);
    let kinds: Vec<_> = map.iter().map(|extent| extent["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["data", "unallocated", "data"]);
    assert_eq!(map.iter().map(|extent| extent["length"].as_u64().unwrap()).sum::<u64>(), 8 << 20);
    assert_eq!(stdout(&place.run("disk map b.qcow2", 0)).lines().count(), 4);
}

#[test]
fn compare_says_where_and_how_much() {
    let place = Place::new();
    let mut disk = write_disk(&place.file("a.raw"));
    disk[5_000_000] = 1;
    disk[5_000_009] = 1;
    std::fs::write(place.file("b.raw"), &disk).unwrap();
    let report = place.json("disk compare a.raw b.raw", 3);
    assert_eq!(report[0]["first_difference"], 5_000_000);
    assert_eq!(report[0]["different_bytes"], 2);
    let text = stdout(&place.run("disk compare b.raw a.raw", 3));
    assert!(text.contains("2 bytes, the first at offset 5000000"), "{text}");

    std::fs::OpenOptions::new()
        .write(true)
        .open(place.file("a.raw"))
        .and_then(|file| file.set_len(9 << 20))
        .unwrap();
    let mut longer = write_disk(&place.file("c.raw"));
    let text = stdout(&place.run("disk compare c.raw a.raw", 0));
    assert!(text.contains("zeros behind the end") && text.contains("9437184"), "{text}");
    longer.push(1);
    longer.resize((8 << 20) + 512, 0);
    std::fs::write(place.file("d.raw"), longer).unwrap();
    assert_eq!(place.json("disk compare c.raw d.raw", 3)[0]["first_difference"], 8 << 20);
}

#[test]
fn errors_name_the_thing_and_have_their_codes() {
    let place = Place::new();
    let missing = place.run("disk info nothing.qcow2", 6);
    assert!(stderr(&missing).contains("nothing.qcow2"), "{}", stderr(&missing));
    std::fs::write(place.file("bad.qcow2"), b"QFI\xfb\0\0\0\x03").unwrap();
    place.run("disk info bad.qcow2", 4);
    std::fs::write(place.file("odd.raw"), b"QFI\xfb\0\0\0\x03").unwrap();
    place.run("disk info odd.raw", 2);
    place.run("disk info odd.raw -f raw", 0);
    place.run("disk convert odd.raw x.vmdk -f raw", 2);
    place.run("disk convert odd.raw x.qcow2 -f raw --cluster-size 1000", 2);
    place.run("disk info nbds://host/x", 2);
    assert_eq!(place.names(), ["bad.qcow2", "odd.raw"]);
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let place = Place::new();
    let size = 1_u64 << 30;
    let file = std::fs::File::create(place.file("a.raw")).unwrap();
    // Allocated but never written: all data to a reader, and quick to make.
    file.set_len(size).unwrap();
    for offset in (0..size).step_by(64 << 10) {
        std::os::unix::fs::FileExt::write_all_at(&file, &offset.to_le_bytes(), offset + 5).unwrap();
    }
    let mut child = place
        .command("disk convert a.raw b.qcow2 --compress zstd --threads 1")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while place.names().len() < 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(place.names(), ["a.raw"]);
}

#[test]
fn references_are_followed_only_into_the_named_directory() {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        eprintln!("\n*** SKIPPED: qemu-img is not installed ***\n");
        return;
    }
    let place = Place::new();
    write_disk(&place.file("a.raw"));
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-b", "a.raw", "-F", "raw", "top.qcow2"])
        .current_dir(place.0.path())
        .status()
        .unwrap();
    assert!(made.success());
    let refused = place.run("disk info top.qcow2", 5);
    assert!(stderr(&refused).contains("a.raw") && stderr(&refused).contains("--allow-references"));
    place.run("disk compare top.qcow2 a.raw --allow-references .", 0);
}
