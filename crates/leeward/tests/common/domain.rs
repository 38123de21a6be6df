//! A daemon of libvirt of the test's own, and a domain whose guest's writes are made by the test.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::text;

/// Whom the daemon and its machines run as where the tests run as root: nobody.
const NOBODY: u32 = 65534;
const CONFIGURATION: &str = "security_driver = \"none\"\nstdio_handler = \"file\"\ncgroup_controllers = []\n";

/// A daemon that ends with the test, and its domains with it. It serves a session, under names of the test's own.
pub struct Daemon {
    child: Child,
    directory: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for domain in self.try_virsh(&["list", "--name"]).map(told).unwrap_or_default().split_whitespace() {
            let _ = self.try_virsh(&["destroy", domain]);
        }
        self.stop();
    }
}

fn told(output: Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether a tool can be run.
pub fn has(tool: &str) -> bool {
    Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success())
}

impl Daemon {
    /// A daemon; `None`, and a line that says so, where there is no libvirt or it does not run.
    pub fn start() -> Option<Self> {
        for tool in ["libvirtd", "virsh", "qemu-system-x86_64", "qemu-img"] {
            if !has(tool) {
                println!("SKIPPED: {tool} is not installed");
                return None;
            }
        }
        // Paths of sockets are short.
        let directory = tempfile::Builder::new().prefix("lw-").tempdir_in("/var/tmp").unwrap();
        for name in ["run", "config/libvirt", "cache", "data", "disks"] {
            std::fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        std::fs::write(directory.path().join("config/libvirt/qemu.conf"), CONFIGURATION).unwrap();
        if is_root() {
            for name in ["", "run", "config", "config/libvirt", "cache", "data", "disks"] {
                std::os::unix::fs::chown(directory.path().join(name), Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        let child = Self::spawn(directory.path());
        let mut daemon = Self { child, directory };
        if let Err(why) = daemon.wait() {
            println!("SKIPPED: libvirtd does not run here: {why}");
            return None;
        }
        Some(daemon)
    }

    fn spawn(directory: &Path) -> Child {
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let mut command = Command::new("libvirtd");
        Self::surroundings(&mut command, directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// As whom and where the daemon works, for its own tools.
    fn surroundings(command: &mut Command, directory: &Path) {
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.current_dir(directory).env("HOME", directory);
        for (variable, name) in [
            ("XDG_RUNTIME_DIR", "run"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_DATA_HOME", "data"),
        ] {
            command.env(variable, directory.join(name));
        }
    }

    fn wait(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
                return Err(format!("it ended with {status}: {log}"));
            }
            match self.try_virsh(&["list"]) {
                Ok(output) if output.status.success() => return Ok(()),
                answer if Instant::now() >= deadline => return Err(format!("{answer:?}")),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Ends the daemon; its domains go on.
    pub fn stop(&mut self) {
        // It has work to do at its end, but not for long.
        if let Some(process) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts it again.
    pub fn start_again(&mut self) {
        self.child = Self::spawn(self.directory.path());
        self.wait().unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn uri(&self) -> String {
        format!("qemu+unix:///session?socket={}", self.path("run/libvirt/libvirt-sock").display())
    }

    fn try_virsh(&self, arguments: &[&str]) -> std::io::Result<Output> {
        // What takes longer has failed; a test ends then and leaves nothing behind.
        let mut command = Command::new("timeout");
        command.args(["60", "virsh", "-q", "-c", &self.uri()]);
        command.args(arguments).stdin(Stdio::null()).output()
    }

    pub fn virsh(&self, arguments: &[&str]) -> String {
        let output = self.try_virsh(arguments).unwrap();
        assert!(output.status.success(), "virsh {arguments:?}: {output:?}");
        told(output)
    }

    /// What virsh says when it fails.
    pub fn virsh_fails(&self, arguments: &[&str]) -> String {
        let output = self.try_virsh(arguments).unwrap();
        assert!(!output.status.success(), "virsh {arguments:?} succeeds: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A command of libvirt's own, as whoever the daemon runs as.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        Self::surroundings(&mut command, self.directory.path());
        command.stdin(Stdio::null());
        command
    }

    /// A file in a directory that the daemon and its machines may use.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        self.give(&path);
        path
    }

    /// Lets the daemon have a file.
    pub fn give(&self, path: &Path) {
        if is_root() {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A domain with disks in files, `vda`, `vdb` …
pub struct Domain<'a> {
    pub daemon: &'a Daemon,
    pub name: &'static str,
}

impl<'a> Domain<'a> {
    /// Defines and starts a domain with disks (path and format).
    pub fn start(daemon: &'a Daemon, name: &'static str, disks: &[(PathBuf, &str)]) -> Self {
        let mut devices = String::new();
        for ((path, format), letter) in disks.iter().zip('a'..) {
            daemon.give(path);
            devices += &format!(
                "<disk type='file' device='disk'><driver name='qemu' type='{format}' discard='unmap'/>\
                 <source file='{}'/><target dev='vd{letter}' bus='virtio'/></disk>",
                path.display()
            );
        }
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>160</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{devices}\
             <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>\
             <serial type='file'><source path='{}'/></serial>\
             <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
             </devices></domain>",
            daemon.path("console").display()
        );
        let path = daemon.file("domain.xml", xml.as_bytes());
        daemon.virsh(&["define", path.to_str().unwrap()]);
        daemon.virsh(&["start", name]);
        Self { daemon, name }
    }

    /// As the command line names it.
    pub fn source(&self) -> String {
        format!("libvirt:{}?connect={}", self.name, self.daemon.uri())
    }

    pub fn ask(&self, command: &str, arguments: &Value) -> Value {
        let command = json!({ "execute": command, "arguments": arguments }).to_string();
        let answer: Value =
            serde_json::from_str(&self.daemon.virsh(&["qemu-monitor-command", self.name, &command])).unwrap();
        assert!(answer["error"].is_null(), "{command}: {answer}");
        answer["return"].clone()
    }

    /// Has QEMU write as the guest would, and asserts that the guest would not have seen an error.
    pub fn write(&self, disk: usize, command: &str) {
        let log = self.daemon.path(&format!("cache/libvirt/qemu/log/{}.log", self.name));
        let before = std::fs::metadata(&log).unwrap().len();
        let line = format!("qemu-io -d /machine/peripheral/virtio-disk{disk}/virtio-backend \"{command}\"");
        self.daemon.virsh(&["qemu-monitor-command", self.name, "--hmp", &line]);
        let mut file = std::fs::File::open(&log).unwrap();
        file.seek(SeekFrom::Start(before)).unwrap();
        let mut told = String::new();
        file.read_to_string(&mut told).unwrap();
        assert!(told.contains("wrote") && !told.contains("failed"), "{command}: {told}");
    }

    /// Whether a backup has begun to read: its moment has passed.
    pub fn is_exported(&self) -> bool {
        self.ask("query-block-exports", &json!({})).as_array().unwrap().len() == 4
    }

    /// Whether a job is at work.
    pub fn has_job(&self) -> bool {
        !self.ask("query-jobs", &json!({})).as_array().unwrap().is_empty()
    }

    /// Bitmaps of ours on all disks.
    pub fn bitmaps(&self) -> Vec<String> {
        let drives = self.ask("query-block", &json!({}));
        let bitmaps = drives
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|drive| drive["inserted"]["dirty-bitmaps"].as_array().cloned().unwrap_or_default());
        bitmaps.map(|bitmap| text(&bitmap["name"])).filter(|name| name.starts_with("leeward-")).collect()
    }

    /// Asserts that nothing of a backup is left in QEMU but one bitmap on each disk.
    pub fn is_clean(&self, disks: usize, context: &str) {
        for node in self.ask("query-named-block-nodes", &json!({ "flat": true })).as_array().unwrap() {
            let ours = text(&node["node-name"]).starts_with("leeward-") || node["drv"] == "copy-before-write";
            assert!(!ours, "{context}: {node}");
        }
        for query in ["query-jobs", "query-block-exports"] {
            assert_eq!(self.ask(query, &json!({})).to_string(), "[]", "{context}: {query}");
        }
        // libvirt has descriptors of its own there.
        let sets = self.ask("query-fdsets", &json!({})).to_string();
        assert!(!sets.contains("leeward"), "{context}: {sets}");
        assert!(self.bitmaps().len() <= disks, "{context}: {:?}", self.bitmaps());
    }

    /// Waits for a line on the serial console.
    pub fn says(&self, line: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let said = std::fs::read(self.daemon.path("console")).unwrap_or_default();
            let said = String::from_utf8_lossy(&said).into_owned();
            if said.contains(line) {
                return;
            }
            assert!(Instant::now() < deadline, "no {line} on the console: {said}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
