//! A running `qemu-nbd`.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use leeward_disk::nbd::{NbdDisk, NbdOptions, NbdUrl};

use super::{Turn, Use};
use crate::{Error, Result};

/// How long the bridge may take until it serves: the storage has to answer first.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// What is kept of what a failed bridge said, in bytes.
const SAID_BYTES_MAX: usize = 4096;
/// How long is waited for the last of it, once the bridge has ended.
const SAID_LIMIT: Duration = Duration::from_secs(1);

/// A disk in QEMU's words.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// QEMU's driver: `rbd`, `iscsi`.
    pub driver: &'static str,
    /// The driver's options.
    pub values: Vec<(&'static str, String)>,
}

impl Options {
    /// As `--image-opts` takes it: commas are doubled, so that no value can become an option.
    fn text(&self) -> String {
        let mut text = format!("driver=raw,file.driver={}", self.driver);
        for (name, value) in &self.values {
            text.push_str(&format!(",file.{name}={}", value.replace(',', ",,")));
        }
        text
    }
}

/// What a bridge says, read as it comes: a bridge that talks much would otherwise stand still when nobody listens.
struct Said {
    last: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Said {
    fn of(mut stderr: ChildStderr) -> Self {
        let last: Arc<Mutex<Vec<u8>>> = Arc::default();
        let kept = Arc::clone(&last);
        let read = move || {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = stderr.read(&mut buffer) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..count]);
                let surplus = kept.len().saturating_sub(SAID_BYTES_MAX);
                kept.drain(..surplus);
            }
        };
        // Without a thread nothing is read, and the bridge's words are missing.
        Self { last, reader: std::thread::Builder::new().name("bridge".to_owned()).spawn(read).ok() }
    }

    fn last(&self) -> String {
        let end = Instant::now() + SAID_LIMIT;
        while self.reader.as_ref().is_some_and(|reader| !reader.is_finished()) && Instant::now() < end {
            std::thread::sleep(LOOK_INTERVAL);
        }
        String::from_utf8_lossy(&self.last.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// A running `qemu-nbd`. It ends with its last connection, hence with this process, however that ends.
pub(super) struct Bridge {
    child: Child,
    said: Option<Said>,
    directory: tempfile::TempDir,
    peer: String,
    driver: &'static str,
    // Last: the turn is given up when the child has ended.
    _turn: Option<Turn>,
}

impl Bridge {
    /// Starts it. Who writes has the `turn`, which the bridge holds as long as it lives.
    pub(super) fn start(peer: &str, options: &Options, purpose: Use, turn: Option<Turn>) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("leeward-bridge-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|source| Error::io(peer, "make a directory for the socket of", source))?;
        let mut command = Command::new("qemu-nbd");
        command.arg("--socket").arg(directory.path().join("s")).args([
            "--shared=8",
            "--cache=none",
            "--discard=unmap",
        ]);
        if purpose == Use::Read {
            command.arg("--read-only");
        }
        command.arg("--image-opts").arg(options.text());
        let input = turn.as_ref().map_or_else(|| Ok(Stdio::null()), Turn::shared);
        let input = input.map_err(|source| Error::io(peer, "hand on the turn to write", source))?;
        command.stdin(input).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::Refused {
                peer: peer.to_owned(),
                what: "qemu-nbd is not installed: on Debian it is in qemu-utils".to_owned(),
            },
            _ => Error::io(peer, "start qemu-nbd for", source),
        })?;
        let said = child.stderr.take().map(Said::of);
        Ok(Self { child, said, directory, peer: peer.to_owned(), driver: options.driver, _turn: turn })
    }

    /// Connects as soon as it serves.
    pub(super) fn connect(&self) -> Result<NbdDisk> {
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
                    waited_for: "the start of qemu-nbd (does the storage answer?)".to_owned(),
                    limit: START_LIMIT,
                });
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Why it ended, by its own words.
    fn failure(&self) -> Error {
        let said = self.said.as_ref().map(Said::last).unwrap_or_default();
        let reason =
            said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned();
        let peer = self.peer.clone();
        if is_about_driver(&reason) {
            return Error::Refused { peer, what: no_driver(self.driver) };
        }
        Error::Command { peer, command: "qemu-nbd".to_owned(), class: "exit".to_owned(), description: reason }
    }
}

fn is_about_driver(reason: &str) -> bool {
    ["Unknown driver", "Unknown protocol"].iter().any(|words| reason.contains(words))
}

fn no_driver(driver: &str) -> String {
    format!("QEMU has no {driver} driver: on Debian it is in qemu-block-extra")
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // It ends when its last connection has ended, and then gives back its watch on the image; who is killed before that
        // makes a cluster wait half a minute for it at the next change of the image. A failure changes nothing: what was
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_can_become_an_option() {
        let values = vec![("pool", "vms".to_owned()), ("conf", "/a,file.pool=b".to_owned())];
        let options = Options { driver: "rbd", values };
        assert_eq!(options.text(), "driver=raw,file.driver=rbd,file.pool=vms,file.conf=/a,,file.pool=b");
    }

    #[test]
    fn a_driver_that_is_missing_is_told_with_its_package() {
        let options = Options { driver: "no-such-driver", values: Vec::new() };
        let bridge = match Bridge::start("disk", &options, Use::Read, None) {
            Ok(bridge) => bridge,
            Err(error) => {
                println!("SKIPPED: {error}");
                return;
            }
        };
        let Err(error) = bridge.connect() else { panic!("it serves a disk of no driver") };
        assert_eq!(error.kind(), crate::ErrorKind::Refused);
        assert!(error.to_string().contains("no no-such-driver driver: on Debian it is in qemu-block-extra"));
    }
}
