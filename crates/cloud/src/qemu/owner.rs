//! Who is at work on a machine, and what a dead one left there.
//!
//! Everything that is made in QEMU for a backup has a name that begins with `leeward-`. First of all comes an owner's
//! mark, a node that does nothing and whose name tells the process; it goes last. So whatever is found has an owner,
//! alive or dead, also where a machine has several monitors. Two that start at the same time each place their mark
//! before they look for the other's: at least one of them withdraws.

use std::time::{Duration, Instant};

use leeward_repository::Process;
use serde_json::{Value, json};

use super::qmp::Qmp;
use crate::{Error, Result};

/// What all names begin with.
pub(super) const PREFIX: &str = "leeward-";
/// How long a job or an export may take to go.
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);
/// Names of nodes are 31 bytes at most, and this fills them.
const MARK_DIGITS: usize = 6 + 9 + 8;

/// The mark of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    process: u32,
    /// In ticks since boot; see `Process::started`. QEMU does not live longer than the boot of its host.
    started: u64,
    /// The name space in which the number of the process counts.
    space: u32,
}

impl Mark {
    fn current() -> Self {
        let own = Process::current();
        Self { process: own.pid, started: own.started & 0xf_ffff_ffff, space: process_space() }
    }

    fn name(self) -> String {
        format!("{PREFIX}{:06x}{:09x}{:08x}", self.process & 0xff_ffff, self.started, self.space)
    }

    fn parse(name: &str) -> Option<Self> {
        let digits = name.strip_prefix(PREFIX)?;
        if digits.len() != MARK_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        Some(Self {
            process: u32::from_str_radix(&digits[..6], 16).ok()?,
            started: u64::from_str_radix(&digits[6..15], 16).ok()?,
            space: u32::from_str_radix(&digits[15..], 16).ok()?,
        })
    }

    fn has_ended(self) -> bool {
        let own = Process::current();
        self.space == process_space()
            && Process { pid: self.process, started: self.started, ..own }.has_ended()
    }
}

/// The name space of process numbers; see namespaces(7). 0 where it cannot be told.
fn process_space() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |found| found.ino() as u32)
}

/// The right to work on a machine.
#[derive(Debug)]
pub(super) struct Owner {
    mark: String,
}

impl Owner {
    /// Takes the right, and removes what a dead process left. Returns what was removed, for people.
    ///
    /// # Errors
    /// [`Error::Busy`] while another process is at work, or while that cannot be told and `take_over` is not set.
    pub(super) fn claim(monitor: &mut Qmp, take_over: bool) -> Result<(Self, Vec<String>)> {
        let own = Mark::current();
        let owner = Self { mark: own.name() };
        let node = json!({ "driver": "null-co", "node-name": owner.mark, "size": 512, "read-zeroes": true });
        match monitor.execute("blockdev-add", node) {
            Err(error) if error.is_answer() && node_names(monitor)?.contains(&owner.mark) => {
                return Err(busy(monitor, own));
            }
            other => other?,
        };
        match owner.displace(monitor, own, take_over) {
            Ok(removed) => Ok((owner, removed)),
            Err(error) => {
                // The first error is the one to tell; a mark that stays is known to be a dead one's later.
                let _ = owner.release(monitor);
                Err(error)
            }
        }
    }

    fn displace(&self, monitor: &mut Qmp, own: Mark, take_over: bool) -> Result<Vec<String>> {
        let names = node_names(monitor)?;
        let others: Vec<_> =
            names.iter().filter_map(|name| Mark::parse(name)).filter(|mark| *mark != own).collect();
        if let Some(alive) = others.iter().find(|mark| !mark.has_ended() && !take_over) {
            return Err(busy(monitor, *alive));
        }
        remove_leftovers(monitor, &self.mark)
    }

    /// The name of the node that marks the machine.
    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    /// Gives the right back; nothing else of ours may be left in the machine.
    pub(super) fn release(&self, monitor: &mut Qmp) -> Result<()> {
        monitor.execute("blockdev-del", json!({ "node-name": self.mark })).map(|_| ())
    }
}

fn busy(monitor: &Qmp, mark: Mark) -> Error {
    let what = if mark.space == process_space() {
        format!(
            "another backup of this machine is at work (process {}): wait for it, or end it",
            mark.process
        )
    } else {
        "another backup of this machine was begun from another container or host, and whether it is still at work \
         cannot be told from here — if you know that it has ended, say --take-over"
            .to_owned()
    };
    Error::Busy { peer: monitor.peer().to_owned(), what }
}

pub(super) fn node_names(monitor: &mut Qmp) -> Result<Vec<String>> {
    let nodes = monitor.execute("query-named-block-nodes", json!({ "flat": true }))?;
    Ok(names(&nodes, "node-name"))
}

/// What the entries of a list have under `key`.
fn names(list: &Value, key: &str) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|entry| entry[key].as_str()).map(str::to_owned).collect()
}

/// Removes everything of ours but one node. Returns what was removed.
fn remove_leftovers(monitor: &mut Qmp, spare: &str) -> Result<Vec<String>> {
    // Our nodes are made before the server is started and removed after it was stopped, so where there are nodes of
    // ours and no exports of others, a server is ours.
    let has_nodes =
        node_names(monitor)?.iter().any(|name| name.starts_with(PREFIX) && Mark::parse(name).is_none());
    let mut removed = remove_exports(monitor, has_nodes)?;
    removed.extend(remove_jobs(monitor)?);
    removed.extend(remove_nodes(monitor, spare)?);
    empty_descriptors(monitor)?;
    remove_descriptors(monitor)?;
    Ok(removed)
}

/// Empties the files behind our descriptors: QEMU keeps them open while the machine is paused.
fn empty_descriptors(monitor: &mut Qmp) -> Result<()> {
    let node = format!("{PREFIX}empty");
    for set in our_descriptors(monitor)? {
        let file = json!({ "driver": "file", "node-name": node, "filename": format!("/dev/fdset/{set}") });
        match monitor.execute("blockdev-add", file) {
            // A set that was removed before cannot be used any more.
            Err(error) => unless_refused(error)?,
            Ok(_) => {
                let resized = monitor.execute("block_resize", json!({ "node-name": node, "size": 0 }));
                resized.map(|_| ()).or_else(unless_refused)?;
                monitor.execute("blockdev-del", json!({ "node-name": node }))?;
            }
        }
    }
    Ok(())
}

/// The sets that hold descriptors of ours alone.
fn our_descriptors(monitor: &mut Qmp) -> Result<Vec<u64>> {
    let sets = monitor.execute("query-fdsets", json!({}))?;
    let is_ours = |fd: &Value| fd["opaque"].as_str().is_some_and(|text| text.starts_with(PREFIX));
    let ours =
        sets.as_array().into_iter().flatten().filter(|set| {
            set["fds"].as_array().is_some_and(|fds| !fds.is_empty() && fds.iter().all(is_ours))
        });
    Ok(ours.filter_map(|set| set["fdset-id"].as_u64()).collect())
}

/// Removes our exports, and the server if it is ours and serves nobody else.
pub(super) fn remove_exports(monitor: &mut Qmp, and_server: bool) -> Result<Vec<String>> {
    let all = |monitor: &mut Qmp| -> Result<Vec<String>> {
        Ok(names(&monitor.execute("query-block-exports", json!({}))?, "id"))
    };
    let exports = all(monitor)?;
    let ours: Vec<_> = exports.iter().filter(|id| id.starts_with(PREFIX)).cloned().collect();
    for id in &ours {
        let asked = monitor.execute("block-export-del", json!({ "id": id, "mode": "hard" }));
        asked.map(|_| ()).or_else(unless_refused)?;
    }
    let deadline = Instant::now() + REMOVAL_LIMIT;
    while all(monitor)?.iter().any(|id| id.starts_with(PREFIX)) {
        wait(monitor, deadline, "the end of an export")?;
    }
    if ours.len() == exports.len() && and_server {
        monitor.execute("nbd-server-stop", json!({})).map(|_| ()).or_else(unless_refused)?;
    }
    Ok(ours.into_iter().map(|id| format!("export {id}")).collect())
}

/// Cancels our jobs and takes them off QEMU's list.
pub(super) fn remove_jobs(monitor: &mut Qmp) -> Result<Vec<String>> {
    let deadline = Instant::now() + REMOVAL_LIMIT;
    let mut removed = Vec::new();
    loop {
        let jobs = monitor.execute("query-jobs", json!({}))?;
        let ours: Vec<_> = jobs
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|job| Some((job["id"].as_str()?, job["status"].as_str()?)))
            .filter(|(id, _)| id.starts_with(PREFIX))
            .collect();
        if ours.is_empty() {
            return Ok(removed);
        }
        for (id, status) in ours {
            let command = match status {
                "concluded" => "job-dismiss",
                "aborting" | "null" => continue,
                _ => "job-cancel",
            };
            monitor.execute(command, json!({ "id": id })).map(|_| ()).or_else(unless_refused)?;
            if command == "job-dismiss" {
                removed.push(format!("job {id}"));
            }
        }
        wait(monitor, deadline, "the end of a job")?;
    }
}

/// Removes our nodes but one; those that others stand on go later.
pub(super) fn remove_nodes(monitor: &mut Qmp, spare: &str) -> Result<Vec<String>> {
    let deadline = Instant::now() + REMOVAL_LIMIT;
    let mut removed = Vec::new();
    loop {
        let names = node_names(monitor)?;
        let ours: Vec<_> =
            names.into_iter().filter(|name| name.starts_with(PREFIX) && name != spare).collect();
        // The mark of a dead owner goes last, so that all of it still has an owner when this is interrupted.
        let (marks, work): (Vec<_>, Vec<_>) = ours.into_iter().partition(|name| Mark::parse(name).is_some());
        let next = if work.is_empty() { marks } else { work };
        if next.is_empty() {
            return Ok(removed);
        }
        let mut progress = false;
        for name in next {
            match monitor.execute("blockdev-del", json!({ "node-name": name })) {
                Ok(_) => {
                    progress = true;
                    removed.push(format!("node {name}"));
                }
                Err(error) => unless_refused(error)?,
            }
        }
        if !progress {
            wait(monitor, deadline, "nodes to become free")?;
        }
    }
}

/// Removes the sets of descriptors that nothing of ours uses any more.
pub(super) fn remove_descriptors(monitor: &mut Qmp) -> Result<()> {
    for set in our_descriptors(monitor)? {
        monitor.execute("remove-fd", json!({ "fdset-id": set })).map(|_| ()).or_else(unless_refused)?;
    }
    Ok(())
}

/// What QEMU refuses because it is gone already, or not free yet, is looked at again.
fn unless_refused(error: Error) -> Result<()> {
    if error.is_answer() { Ok(()) } else { Err(error) }
}

fn wait(monitor: &Qmp, deadline: Instant, what: &str) -> Result<()> {
    if Instant::now() >= deadline {
        return Err(Error::TimedOut {
            peer: monitor.peer().to_owned(),
            waited_for: what.to_owned(),
            limit: REMOVAL_LIMIT,
        });
    }
    std::thread::sleep(Duration::from_millis(5));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_the_process_in_the_name_of_a_node() {
        let own = Mark::current();
        assert_eq!(own.name().len(), 31);
        assert_eq!(Mark::parse(&own.name()), Some(own));
        assert!(!own.has_ended());
        assert!(Mark { started: own.started + 1, ..own }.has_ended());
        assert!(
            !Mark { started: own.started + 1, space: own.space + 1, ..own }.has_ended(),
            "cannot be told"
        );
        for other in ["leeward-0-overlay", "leeward-", "#block123", "leeward-zz00000000000000000000000"] {
            assert_eq!(Mark::parse(other), None, "{other}");
        }
    }
}
