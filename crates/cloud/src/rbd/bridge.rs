//! The bytes of an image, through `qemu-nbd` and QEMU's rbd driver.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use leeward_disk::nbd::{NbdDisk, NbdOptions, NbdUrl};
use leeward_disk::{Extent, Format, Info, Source, Target};

use super::Location;
use crate::{Error, Result};

/// How long the bridge may take until it serves: the cluster has to answer first.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// What is kept of what a failed bridge said, in bytes.
const SAID_BYTES_MAX: u64 = 4096;

/// What is done with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is read.
    Read,
    /// It is written; `is_blank` says whether it is known to read as zeros.
    Write {
        /// Whether it is new.
        is_blank: bool,
    },
}

/// An image of RBD, or a snapshot of it, as a disk.
pub struct RbdDisk {
    // First, so that the connections end before the server does.
    disk: NbdDisk,
    _bridge: Bridge,
    name: String,
    is_blank: bool,
}

impl RbdDisk {
    /// Opens an image, or the snapshot of it that `location` names.
    ///
    /// # Errors
    /// QEMU's tools or its rbd driver are missing, there is no such image, or the cluster does not answer.
    pub fn open(location: &Location, purpose: Use) -> Result<Self> {
        let bridge = Bridge::start(location, purpose)?;
        let disk = bridge.connect()?;
        let is_blank = purpose == Use::Write { is_blank: true };
        Ok(Self { disk, _bridge: bridge, name: location.to_string(), is_blank })
    }
}

/// A running `qemu-nbd`. It ends with its last connection, hence with this process, however that ends.
struct Bridge {
    child: Child,
    directory: tempfile::TempDir,
    peer: String,
}

impl Bridge {
    fn start(location: &Location, purpose: Use) -> Result<Self> {
        let peer = location.to_string();
        let directory = tempfile::Builder::new()
            .prefix("leeward-rbd-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|source| Error::io(peer.clone(), "make a directory for the socket of", source))?;
        let mut command = Command::new("qemu-nbd");
        command.arg("--socket").arg(directory.path().join("s")).args([
            "--shared=8",
            "--cache=none",
            "--discard=unmap",
        ]);
        if purpose == Use::Read {
            command.arg("--read-only");
        }
        command.arg("--image-opts").arg(options(location));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::Refused {
                peer: peer.clone(),
                what: "qemu-nbd is not installed: on Debian it is in qemu-utils".to_owned(),
            },
            _ => Error::io(peer.clone(), "start qemu-nbd for", source),
        })?;
        Ok(Self { child, directory, peer })
    }

    /// Connects as soon as it serves.
    fn connect(&self) -> Result<NbdDisk> {
        let socket = self.directory.path().join("s");
        let url = NbdUrl::parse(&format!("nbd+unix:///?socket={}", encoded(&socket)))?;
        let started = Instant::now();
        loop {
            if socket.exists()
                && let Ok(disk) = NbdDisk::connect(&url, &NbdOptions::default())
            {
                return Ok(disk);
            }
            if has_ended(self.child.id()) {
                return Err(self.failure());
            }
            if started.elapsed() > START_LIMIT {
                return Err(Error::TimedOut {
                    peer: self.peer.clone(),
                    waited_for: "the start of qemu-nbd (does the cluster answer?)".to_owned(),
                    limit: START_LIMIT,
                });
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Why it ended, by its own words.
    fn failure(&self) -> Error {
        let mut said = String::new();
        if let Some(stderr) = &self.child.stderr {
            // Borrowed for the read alone; a failure leaves the reason out.
            let _ = rustix::io::dup(stderr)
                .map(std::fs::File::from)
                .map(|file| file.take(SAID_BYTES_MAX).read_to_string(&mut said));
        }
        let reason =
            said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned();
        let (peer, driver) =
            (self.peer.clone(), "QEMU has no rbd driver: on Debian it is in qemu-block-extra");
        if reason.contains("Unknown driver") || reason.contains("Unknown protocol") {
            return Error::Refused { peer, what: driver.to_owned() };
        }
        Error::Command { peer, command: "qemu-nbd".to_owned(), class: "exit".to_owned(), description: reason }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // It ends when its last connection has ended, and then gives back its watch on the image; who is killed before that
        // makes the cluster wait half a minute for it at the next change of the image. A failure changes nothing: what was
        // written is durable when `Target::finish` has returned.
        let asked = Instant::now();
        let mut is_told = false;
        while matches!(self.child.try_wait(), Ok(None)) && asked.elapsed() < END_LIMIT {
            if !is_told && asked.elapsed() > END_LIMIT / 4 {
                is_told = true;
                if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                }
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The image in QEMU's words, with commas doubled as it wants them.
fn options(location: &Location) -> String {
    let mut text = "driver=raw,file.driver=rbd".to_owned();
    let mut add = |name: &str, value: &str| {
        text.push_str(&format!(",file.{name}={}", value.replace(',', ",,")));
    };
    add("pool", &location.pool);
    add("image", &location.image);
    let configuration = location.configuration.as_ref().map(|path| path.to_string_lossy().into_owned());
    let more = [
        ("namespace", &location.namespace),
        ("snapshot", &location.snapshot),
        ("conf", &configuration),
        ("user", &location.user),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            add(name, value);
        }
    }
    text
}

/// Whether a child has ended, without taking note of it.
fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_none_or(|rest| rest.trim_start().starts_with(['Z', 'X']) || rest.trim().is_empty())
}

/// A path as the query of a URL takes it.
fn encoded(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let encode = |byte: &u8| match byte {
        b'/' | b'.' | b'-' | b'_' => char::from(*byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(*byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    path.as_os_str().as_bytes().iter().map(encode).collect()
}

impl Source for RbdDisk {
    fn virtual_size(&self) -> u64 {
        Source::virtual_size(&self.disk)
    }

    fn info(&self) -> Info {
        let details = vec![("image", self.name.clone())];
        Info {
            format: Format::Raw,
            virtual_size: Source::virtual_size(&self.disk),
            allocated_bytes: None,
            details,
        }
    }

    fn extents(&self, offset: u64, length: u64) -> leeward_disk::Result<Vec<Extent>> {
        self.disk.extents(offset, length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> leeward_disk::Result<()> {
        self.disk.read_at(buffer, offset)
    }
}

impl Target for RbdDisk {
    fn virtual_size(&self) -> u64 {
        Target::virtual_size(&self.disk)
    }

    fn is_blank(&self) -> bool {
        self.is_blank
    }

    fn write_at(&self, data: &[u8], offset: u64) -> leeward_disk::Result<()> {
        self.disk.write_at(data, offset)
    }

    fn zero_at(&self, offset: u64, length: u64) -> leeward_disk::Result<()> {
        self.disk.zero_at(offset, length)
    }

    fn finish(&self, durable: bool) -> leeward_disk::Result<()> {
        self.disk.finish(durable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_can_become_an_option() {
        let mut location = Location::parse("rbd:vms/web@s?id=u").unwrap().unwrap();
        location.configuration = Some("/a,file.pool=b".into());
        assert_eq!(
            options(&location),
            "driver=raw,file.driver=rbd,file.pool=vms,file.image=web,file.snapshot=s,file.conf=/a,,file.pool=b,file.user=u"
        );
    }
}
