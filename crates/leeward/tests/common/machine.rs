//! A machine of QEMU whose guest's writes are made by the test.

use std::cell::RefCell;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use leeward_cloud::qemu::{Qmp, QmpOptions};
use leeward_store::simulation::Random;
use serde_json::{Value, json};

use super::{Bench, MIB, text};

/// Whether QEMU is there; says loudly when it is not, because the test then proves nothing.
pub fn has_qemu() -> bool {
    let found =
        |tool| Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    let there = ["qemu-system-x86_64", "qemu-img", "stdbuf"].into_iter().all(found);
    if !there {
        println!("SKIPPED: qemu-system-x86_64 and qemu-img are not installed");
    }
    there
}

/// A machine that ends with the test. Its disks are `vd0`, `vd1` …
pub struct Machine {
    child: Child,
    directory: PathBuf,
    monitor: RefCell<Qmp>,
    told: RefCell<std::fs::File>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A disk in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub path: PathBuf,
    pub format: &'static str,
}

impl Disk {
    /// An empty disk.
    pub fn create(bench: &Bench, name: &str, format: &'static str, bytes: u64) -> Self {
        let path = bench.path(name);
        qemu_img(&["create", "-q", "-f", format, path.to_str().unwrap(), &bytes.to_string()]);
        Self { path, format }
    }
}

pub fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Machine {
    /// A machine with these disks that waits to be told to run.
    pub fn start(bench: &Bench, disks: &[Disk], arguments: &[&str]) -> Self {
        let directory = bench.path("machine");
        std::fs::create_dir_all(&directory).unwrap();
        // What qemu-io says goes to QEMU's standard output, which is buffered unless told otherwise.
        let mut command = Command::new("stdbuf");
        command.args([
            "-oL",
            "qemu-system-x86_64",
            "-S",
            "-display",
            "none",
            "-nodefaults",
            "-name",
            "testee",
            "-m",
            "64",
        ]);
        command.args(["-object", "iothread,id=io0"]);
        for socket in ["qmp", "test", "third"] {
            let path = directory.join(socket);
            let _ = std::fs::remove_file(&path);
            command.args(["-qmp", &format!("unix:{},server=on,wait=off", path.display())]);
        }
        for (number, disk) in disks.iter().enumerate() {
            // Every other disk is served by a thread of its own.
            let thread = if number % 2 == 0 { "" } else { ",iothread=io0" };
            let drive = format!(
                "if=none,id=dr{number},format={},discard=unmap,file={}",
                disk.format,
                disk.path.display()
            );
            command.args(["-drive", &drive]);
            command.args(["-device", &format!("virtio-blk-pci,drive=dr{number},id=vd{number}{thread}")]);
        }
        let told = directory.join("told");
        let stdout = std::fs::File::create(&told).unwrap();
        command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let monitor = loop {
            match Qmp::connect(&directory.join("test"), &QmpOptions::default()) {
                Ok(monitor) => break monitor,
                Err(error) => assert!(Instant::now() < deadline, "QEMU does not start: {error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let told = RefCell::new(std::fs::File::open(told).unwrap());
        Self { child, directory, monitor: RefCell::new(monitor), told }
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// As the command line names it.
    pub fn source(&self) -> String {
        format!("qmp:{}", self.socket("qmp").display())
    }

    pub fn ask(&self, command: &str, arguments: Value) -> Value {
        self.monitor.borrow_mut().execute(command, arguments).unwrap()
    }

    /// Has QEMU write as the guest would, and asserts that the guest would not have seen an error.
    pub fn write(&self, write: &Write) {
        let told = self.qemu_io(write.disk, &write.command());
        assert!(told.starts_with("wrote ") && !told.contains("failed"), "{write:?}: {told}");
    }

    /// As [`Machine::write`], and out of QEMU's memory; whether both succeeded before QEMU went away.
    pub fn try_write(&self, write: &Write, flush: bool) -> bool {
        let Some(told) = self.try_qemu_io(write.disk, &write.command()) else { return false };
        if told.is_empty() {
            // QEMU answered, and went before it said how it went.
            return false;
        }
        assert!(told.starts_with("wrote ") && !told.contains("failed"), "{write:?}: {told}");
        !flush || self.try_qemu_io(write.disk, "flush").is_some_and(|told| told.is_empty())
    }

    fn try_qemu_io(&self, disk: usize, command: &str) -> Option<String> {
        let line = format!("qemu-io -d vd{disk}/virtio-backend \"{command}\"");
        let mut monitor = self.monitor.borrow_mut();
        let answer = monitor.execute("human-monitor-command", json!({ "command-line": line })).ok()?;
        let mut told = text(&answer);
        self.told.borrow_mut().read_to_string(&mut told).unwrap();
        Some(told)
    }

    pub fn qemu_io(&self, disk: usize, command: &str) -> String {
        let line = format!("qemu-io -d vd{disk}/virtio-backend \"{command}\"");
        let mut told = text(&self.ask("human-monitor-command", json!({ "command-line": line })));
        self.told.borrow_mut().read_to_string(&mut told).unwrap();
        told
    }

    /// Ends QEMU at once, or in order.
    pub fn end(mut self, in_order: bool) {
        if in_order {
            self.ask("quit", json!({}));
            self.child.wait().unwrap();
        }
    }

    /// The bitmaps on a disk, as QEMU shows them.
    pub fn bitmaps(&self, disk: usize) -> Vec<Value> {
        let drives = self.ask("query-block", json!({}));
        let drive =
            drives.as_array().unwrap().iter().find(|drive| drive["device"] == format!("dr{disk}")).unwrap();
        drive["inserted"]["dirty-bitmaps"].as_array().cloned().unwrap_or_default()
    }

    /// Asserts that nothing of a backup is left in QEMU but one bitmap that records on each disk.
    pub fn is_clean(&self, disks: usize, context: &str) {
        for node in self.ask("query-named-block-nodes", json!({ "flat": true })).as_array().unwrap() {
            let ours = text(&node["node-name"]).starts_with("leeward-") || node["drv"] == "copy-before-write";
            assert!(!ours, "{context}: {node}");
        }
        for (query, empty) in [("query-jobs", "[]"), ("query-block-exports", "[]")] {
            assert_eq!(self.ask(query, json!({})).to_string(), empty, "{context}: {query}");
        }
        for disk in 0..disks {
            let bitmaps = self.bitmaps(disk);
            assert!(bitmaps.len() <= 1, "{context}: {bitmaps:?}");
            assert!(bitmaps.iter().all(|bitmap| bitmap["recording"] == true), "{context}: {bitmaps:?}");
        }
        // The server is stopped: it can be started.
        let address = json!({ "type": "unix", "data": { "path": self.socket("other") } });
        self.ask("nbd-server-start", json!({ "addr": address }));
        self.ask("nbd-server-stop", json!({}));
        let held = self.overlay_bytes();
        assert_eq!(held, 0, "{context}: QEMU holds {held} bytes in files without a name");
    }

    /// Space that QEMU holds in files without a name.
    fn overlay_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let mut held = 0;
        for entry in std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().flatten() {
            let is_gone = std::fs::read_link(entry.path()).is_ok_and(|link| {
                link.to_string_lossy().ends_with("(deleted)")
                    && link.starts_with(self.directory.parent().unwrap())
            });
            if is_gone {
                held += std::fs::metadata(entry.path()).map_or(0, |found| found.blocks() * 512);
            }
        }
        held
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }
}

/// A write of the guest.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    pub disk: usize,
    pub offset: u64,
    pub length: u64,
    /// Zero means that zeros are written as zeros.
    pub pattern: u8,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Data,
    Zeros,
    /// Zeros for which the disk may give space back.
    Holes,
}

impl Write {
    /// Some write within `size` bytes.
    pub fn random(random: &mut Random, disks: usize, size: u64) -> Self {
        let (kind, unit) = match random.below(10) {
            0 => (Kind::Zeros, 512),
            1 => (Kind::Holes, 64 << 10),
            _ => (Kind::Data, 512),
        };
        let length = unit * (1 + random.below((200 << 10) / unit));
        Self {
            disk: random.below(disks as u64) as usize,
            offset: random.below((size - length) / unit) * unit,
            length,
            pattern: if kind == Kind::Data { 1 + random.below(255) as u8 } else { 0 },
            kind,
        }
    }

    fn command(&self) -> String {
        match self.kind {
            Kind::Data => format!("write -P {} {} {}", self.pattern, self.offset, self.length),
            Kind::Zeros => format!("write -z {} {}", self.offset, self.length),
            Kind::Holes => format!("write -z -u {} {}", self.offset, self.length),
        }
    }

    pub fn apply(&self, disks: &mut [Vec<u8>]) {
        disks[self.disk][self.offset as usize..][..self.length as usize].fill(self.pattern);
    }
}

impl Bench {
    /// The content of a snapshot.
    pub fn content(&self, spec: &str) -> Vec<u8> {
        let target = self.path("content.raw");
        self.succeeds(&["restore", spec, target.to_str().unwrap(), "--force", "--no-sync"]);
        let mut bytes = Vec::new();
        std::fs::File::open(&target).unwrap().read_to_end(&mut bytes).unwrap();
        std::fs::remove_file(target).unwrap();
        bytes
    }

    /// Options of a backup of a machine, with the overlays beside everything else.
    pub fn back_up<'a>(&'a self, source: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut arguments = vec!["backup", source, "m", "--overlay-dir", self.root()];
        arguments.extend(more);
        arguments
    }
}

pub const SIZE: u64 = 16 * MIB;

/// Fails with both contexts when the bytes differ.
pub fn assert_same(found: &[u8], expected: &[u8], context: &str) {
    assert_eq!(found.len(), expected.len(), "{context}");
    if let Some(at) = found.iter().zip(expected).position(|(a, b)| a != b) {
        panic!("{context}: they differ at {at}: found {}, expected {}", found[at], expected[at]);
    }
}
