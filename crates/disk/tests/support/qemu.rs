//! QEMU's tools as the oracle, and disks with known content.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use leeward_disk::{
    Comparison, OpenOptions, References, SharedSource, Source, WorkOptions, compare, open_path,
};

/// Whether the tool is there; says loudly when it is not, because the test then proves nothing.
pub fn has(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("\n*** SKIPPED: {tool} is not installed, nothing was compared with QEMU ***\n");
    }
    there
}

/// The images of the test bed; `None`, loudly, when they are absent.
pub fn testbed_images() -> Option<PathBuf> {
    let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
    let images = beds.join("vm/images");
    if images.is_dir() {
        return Some(images);
    }
    eprintln!("\n*** SKIPPED: no images in {}; start the test bed ***\n", images.display());
    None
}

/// Runs a tool, which must succeed, and returns what it printed.
pub fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Random numbers that are the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// A raw disk with zeros, noise and text in stretches of all sizes.
pub fn content(size: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed | 1);
    let mut disk = vec![0; size];
    let mut position = 0;
    while position < size {
        let limit = [600, 5_000, 70_000, 400_000][random.below(4) as usize];
        let end = (position + 1 + random.below(limit) as usize).min(size);
        match random.below(3) {
            0 => {}
            1 => disk[position..end].fill_with(|| random.next() as u8),
            _ => disk[position..end].iter_mut().enumerate().for_each(|(i, b)| *b = b"leeward "[i % 8]),
        }
        position = end;
    }
    disk
}

pub fn write_content(path: &Path, size: usize, seed: u64) -> Vec<u8> {
    let disk = content(size, seed);
    std::fs::write(path, &disk).unwrap();
    disk
}

pub fn within(directory: &Path) -> OpenOptions {
    OpenOptions { references: References::Within(directory.to_owned()), ..OpenOptions::default() }
}

pub fn open(path: &Path) -> SharedSource {
    open_path(path, &OpenOptions::default()).unwrap()
}

pub fn compared(first: &dyn Source, second: &dyn Source) -> Comparison {
    let cancel = AtomicBool::new(false);
    let options = WorkOptions { threads: 2, progress: &|_| {}, cancel: &cancel };
    compare(first, second, &options).unwrap()
}

/// Reads the whole disk in pieces of odd lengths and from the map, and compares with what it must hold.
pub fn assert_reads(source: &dyn Source, expected: &[u8], what: &str) {
    assert_eq!(source.virtual_size(), expected.len() as u64, "{what}: size");
    let mut random = Random(expected.len() as u64 | 1);
    let mut position = 0;
    while position < expected.len() {
        let end = (position + 1 + random.below(300_000) as usize).min(expected.len());
        let mut buffer = vec![0xa5; end - position];
        source.read_at(&mut buffer, position as u64).unwrap();
        assert!(buffer == expected[position..end], "{what}: content of {position}..{end}");
        position = end;
    }
    let mut next = 0;
    leeward_disk::walk_extents(source, 0, expected.len() as u64, |extent| {
        assert_eq!(extent.offset, next, "{what}: extents leave a gap");
        assert!(extent.length > 0, "{what}: empty extent");
        next = extent.end();
        let bytes = &expected[extent.offset as usize..extent.end() as usize];
        assert!(
            extent.kind.is_data() || leeward_disk::zero::is_zero(bytes),
            "{what}: data called {extent:?}"
        );
        Ok::<(), leeward_disk::Error>(())
    })
    .unwrap();
    assert_eq!(next, expected.len() as u64, "{what}: extents end early");
}

/// The extents with merged neighbours, as (offset, length, holds data).
pub fn data_map(source: &dyn Source) -> Vec<(u64, u64, bool)> {
    let mut map = Vec::new();
    leeward_disk::walk_extents(source, 0, source.virtual_size(), |extent| {
        push(&mut map, extent.offset, extent.length, extent.kind.is_data());
        Ok::<(), leeward_disk::Error>(())
    })
    .unwrap();
    map
}

/// The same from `qemu-img map`.
pub fn qemu_data_map(path: &Path) -> Vec<(u64, u64, bool)> {
    let json = run("qemu-img", &["map", "--output=json", text(path)]);
    let entries: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let mut map = Vec::new();
    for entry in entries {
        let number = |name: &str| entry[name].as_u64().unwrap();
        push(&mut map, number("start"), number("length"), entry["data"].as_bool().unwrap());
    }
    map
}

fn push(map: &mut Vec<(u64, u64, bool)>, offset: u64, length: u64, data: bool) {
    match map.last_mut() {
        _ if length == 0 => {}
        Some(last) if last.2 == data && last.0 + last.1 == offset => last.1 += length,
        _ => map.push((offset, length, data)),
    }
}

/// A process that ends with the test.
pub struct Server(pub Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts qemu-nbd and waits until it takes connections: the socket is there a moment earlier.
pub fn serve(socket: &Path, arguments: &[&str]) -> Server {
    let child = Command::new("qemu-nbd")
        .args(["--persistent", "--shared=8", "--socket", text(socket)])
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server(child);
    wait_for(|| std::os::unix::net::UnixStream::connect(socket).is_ok());
    server
}

pub fn wait_for(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long");
        std::thread::sleep(Duration::from_millis(10));
    }
}
