//! Real guests under QEMU: the small one of the test bed, with any disks, a monitor and a console to type on.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The images of the test bed, when all that a guest needs is there; says loudly what is missing.
pub fn tools_are_there() -> Option<PathBuf> {
    for tool in ["qemu-system-x86_64", "qemu-img", "mkfs.ext4", "e2fsck", "debugfs"] {
        let found = std::env::var_os("PATH").unwrap_or_default();
        let places = std::env::split_paths(&found).chain(["/usr/sbin".into(), "/sbin".into()]);
        if !places.into_iter().any(|place| place.join(tool).is_file()) {
            eprintln!("\n*** SKIPPED: {tool} is not installed, no guest was started ***\n");
            return None;
        }
    }
    let images = test_bed().join("images");
    if images.join("tiny.raw").is_file() {
        return Some(images);
    }
    eprintln!("\n*** SKIPPED: no guests in {}; build the test bed ***\n", images.display());
    None
}

fn test_bed() -> PathBuf {
    let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
    beds.join("vm")
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes an image of another format.
pub fn convert(from: &Path, to: &Path, format: &str) {
    run("qemu-img", &["convert", "-f", "raw", "-O", format, from.to_str().unwrap(), to.to_str().unwrap()]);
}

/// Makes a raw disk of so many MiB that is an empty ext4 file system.
pub fn new_file_system(path: &Path, mib: u64) {
    std::fs::File::create(path).unwrap().set_len(mib << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F", path.to_str().unwrap()]);
}

/// A disk of a guest.
pub struct GuestDisk {
    name: String,
    path: PathBuf,
    format: &'static str,
    is_kept: bool,
    is_read_only: bool,
}

impl GuestDisk {
    /// A read-only disk that is nothing but a shell script: `sh /dev/vdX` runs it. A console is too slow for long lines.
    pub fn script(path: &Path, script: &str) -> Self {
        let mut content = script.as_bytes().to_vec();
        content.resize(content.len().next_multiple_of(4096), b'\n');
        std::fs::write(path, content).unwrap();
        Self { is_read_only: true, ..Self::raw("script", path) }
    }

    pub fn raw(name: &str, path: &Path) -> Self {
        Self {
            name: name.to_owned(),
            path: path.to_owned(),
            format: "raw",
            is_kept: true,
            is_read_only: false,
        }
    }

    pub fn qcow2(name: &str, path: &Path) -> Self {
        Self { format: "qcow2", ..Self::raw(name, path) }
    }

    /// What the guest writes is lost.
    pub fn throw_away(self) -> Self {
        Self { is_kept: false, ..self }
    }
}

/// What a guest starts from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// The test bed's kernel: fast.
    Kernel,
    /// The boot loader of its first disk.
    Disk,
    /// It does not run at all.
    Stopped,
}

/// A running guest; it is killed when this is dropped.
pub struct Guest {
    child: Child,
    directory: PathBuf,
    console: Option<UnixStream>,
}

impl Guest {
    /// Starts a guest with its sockets and console in `directory`.
    pub fn start(directory: &Path, disks: &[GuestDisk], boot: Boot) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let path = |name: &str| directory.join(name).display().to_string();
        for name in ["qmp", "serial", "console"] {
            let _ = std::fs::remove_file(path(name));
        }
        let mut command = Command::new("qemu-system-x86_64");
        command.env("TMPDIR", directory).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(std::fs::File::create(path("errors")).unwrap());
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "pc"]);
        command.args(["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max", "-m", "192", "-name", "tiny"]);
        for (index, disk) in disks.iter().enumerate() {
            let (name, file) = (&disk.name, disk.path.display().to_string().replace(',', ",,"));
            let snapshot = if disk.is_kept { "off" } else { "on" };
            let read_only = if disk.is_read_only { "on" } else { "off" };
            let drive = format!(
                "file={file},format={},if=none,id=drive-{name},snapshot={snapshot},readonly={read_only}",
                disk.format
            );
            let device = format!("virtio-blk-pci,drive=drive-{name},id={name},bootindex={}", index + 1);
            command.args(["-drive", &drive, "-device", &device]);
        }
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", path("qmp"))]);
        let console =
            format!("socket,path={},server=on,wait=off,id=c0,logfile={}", path("serial"), path("console"));
        command.args(["-chardev", &console, "-serial", "chardev:c0"]);
        match boot {
            Boot::Kernel => {
                let bed = test_bed().join("boot");
                let (kernel, initrd) = (bed.join("vmlinuz"), bed.join("tiny.cpio.gz"));
                command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
                command.args(["-append", "console=ttyS0 quiet mitigations=off panic=-1"]);
            }
            Boot::Disk => {}
            Boot::Stopped => {
                command.arg("-S");
            }
        }
        let child = command.spawn().unwrap();
        let mut guest = Self { child, directory: directory.to_owned(), console: None };
        let monitor = guest.monitor();
        guest.wait(Duration::from_secs(30), "its monitor", || UnixStream::connect(&monitor).is_ok());
        guest
    }

    /// The socket of its monitor.
    pub fn monitor(&self) -> PathBuf {
        self.directory.join("qmp")
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn wait(&mut self, limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + limit;
        while !condition() {
            let ended = self.child.try_wait().unwrap();
            let errors = std::fs::read_to_string(self.directory.join("errors")).unwrap_or_default();
            assert!(
                ended.is_none(),
                "the guest has ended, {what} did not come: {errors}\n{}",
                self.console()
            );
            assert!(Instant::now() < deadline, "{what} did not come:\n{}", self.console());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// All that came on its console.
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.directory.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for a text on the console, at the beginning of a line.
    pub fn wait_for(&mut self, wanted: &str, limit: Duration) {
        let log = self.directory.join("console");
        self.wait(limit, wanted, || {
            let bytes = std::fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert!(!text.contains("VERIFY FAILED") && !text.contains("Kernel panic"), "{text}");
            text.lines().any(|line| line.trim().starts_with(wanted))
        });
    }

    /// Types a line on its console.
    pub fn type_line(&mut self, line: &str) {
        let path = self.directory.join("serial");
        let console = self.console.get_or_insert_with(|| UnixStream::connect(path).unwrap());
        // In pieces: the guest's terminal has a small buffer.
        for piece in format!("{line}\n").as_bytes().chunks(16) {
            console.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it at once, as a loss of power would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}
