//! Who may write a disk: one bridge of this machine at a time.
//!
//! A bridge ends when its connections end, hence with the process that it serves. But that takes as long as the storage takes to
//! answer what was sent before, and as long nobody else may write: an old request would land on newer bytes. So each bridge that
//! writes has a name in the kernel, an abstract Unix socket, which it holds open as its standard input. A name is taken as long
//! as any process has it; there is no file to be left over, and nothing to be mistaken for alive after a crash.
//!
//! A bridge that does not end by itself although nobody uses it any more (its storage does not answer, or nobody had connected
//! to it yet) is ended by who wants to write next.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Error, Result};

/// How long an earlier bridge may take to end by itself.
const ORPHAN_LIMIT: Duration = Duration::from_secs(15);
/// How long one waits for its turn.
const TURN_LIMIT: Duration = Duration::from_secs(45);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// What a bridge is called by the kernel.
const BRIDGE: &str = "qemu-nbd";
/// The names in the kernel that are looked through, at most: far more than a machine has.
const TABLE_BYTES_MAX: u64 = 64 << 20;

/// The right to write a disk, for as long as this and the bridge that was given it exist.
#[derive(Debug)]
pub(crate) struct Turn {
    socket: UnixListener,
}

impl Turn {
    /// Waits for the turn. `peer` is what people call the disk, `key` what tells it from all others.
    ///
    /// # Errors
    /// Busy: another process of this machine writes it.
    pub(crate) fn take(peer: &str, key: &str) -> Result<Self> {
        let name = format!("leeward-writer-{}", blake3::hash(key.as_bytes()).to_hex());
        let failed = |source| Error::io(peer, "take the turn to write", source);
        let address = SocketAddr::from_abstract_name(&name).map_err(failed)?;
        let started = Instant::now();
        loop {
            match UnixListener::bind_addr(&address) {
                Ok(socket) => return Ok(Self { socket }),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(failed(error)),
            }
            let waited = started.elapsed();
            if waited > ORPHAN_LIMIT {
                let holders = holders(&name);
                if waited > TURN_LIMIT {
                    return Err(Error::Busy { peer: peer.to_owned(), what: busy(&holders) });
                }
                end_orphans(&holders);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// The same turn for a bridge: its standard input.
    pub(crate) fn shared(&self) -> std::io::Result<Stdio> {
        self.socket.try_clone().map(OwnedFd::from).map(Stdio::from)
    }
}

fn busy(holders: &BTreeSet<i32>) -> String {
    let numbers: Vec<_> = holders.iter().map(i32::to_string).collect();
    let who = if numbers.is_empty() {
        "another user of this machine".to_owned()
    } else {
        format!("process {}", numbers.join(", "))
    };
    format!("{who} writes it already: wait until that is over, or end it")
}

/// Ends bridges that nobody uses: one that is in use is held by the process that uses it as well.
fn end_orphans(holders: &BTreeSet<i32>) {
    let is_bridge = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == BRIDGE)
    };
    if holders.iter().all(is_bridge) {
        for pid in holders.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            // One that has just ended is as good.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The processes that have the name, as far as this user may see them.
fn holders(name: &str) -> BTreeSet<i32> {
    use std::io::Read;
    let mut table = String::new();
    let read = std::fs::File::open("/proc/net/unix")
        .and_then(|file| file.take(TABLE_BYTES_MAX).read_to_string(&mut table));
    if read.is_err() {
        return BTreeSet::new();
    }
    let links: BTreeSet<String> = table
        .lines()
        .filter(|line| line.rsplit_once(" @").is_some_and(|(_, found)| found == name))
        .filter_map(|line| line.split_whitespace().nth(6).map(|inode| format!("socket:[{inode}]")))
        .collect();
    let Ok(processes) = std::fs::read_dir("/proc") else { return BTreeSet::new() };
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter(|pid| has_open(*pid, &links)).collect()
}

fn has_open(pid: i32, links: &BTreeSet<String>) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok()).any(|link: std::path::PathBuf| {
        let link: &Path = &link;
        link.to_str().is_some_and(|link| links.contains(link))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> String {
        format!("{name}-{}", std::process::id())
    }

    #[test]
    fn a_turn_is_had_by_one_and_free_when_it_is_dropped() {
        let key = key("one");
        let turn = Turn::take("disk", &key).unwrap();
        let name = format!("leeward-writer-{}", blake3::hash(key.as_bytes()).to_hex());
        assert_eq!(holders(&name), BTreeSet::from([std::process::id() as i32]));
        let waits = {
            let key = key.clone();
            std::thread::spawn(move || Turn::take("disk", &key).map(|_| Instant::now()))
        };
        std::thread::sleep(Duration::from_millis(200));
        let freed = Instant::now();
        drop(turn);
        assert!(waits.join().unwrap().unwrap() >= freed);
    }

    #[test]
    fn a_child_keeps_the_turn_after_its_parent_has_given_it_up() {
        let key = key("child");
        let turn = Turn::take("disk", &key).unwrap();
        // Not a bridge by its name, so it is waited for and not ended.
        let mut child =
            std::process::Command::new("sleep").arg("2").stdin(turn.shared().unwrap()).spawn().unwrap();
        drop(turn);
        let started = Instant::now();
        Turn::take("disk", &key).unwrap();
        assert!(started.elapsed() > Duration::from_secs(1), "{:?}", started.elapsed());
        assert!(child.wait().unwrap().success());
    }
}
