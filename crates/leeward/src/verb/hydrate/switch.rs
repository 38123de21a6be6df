//! Moving a running machine from an export to the local file that the export writes.
//!
//! The guest's disk is an NBD node, served from an overlay that is complete: every write that the guest makes there is
//! written by the export to the local file, at the same offset. QEMU opens that same file as a second node and mirrors
//! the first to it with `sync=none` and `copy-mode=write-blocking`: nothing is copied, and from then on each guest write
//! goes to the export *and* to the file before the guest is told that it is done. Then QEMU takes the file for the disk.
//! That both sides write one file is sound:
//!
//! - Both write the same bytes to the same offsets, one after the other, before the write counts as done. A later write of
//!   the guest begins after both; QEMU keeps writes that overlap apart while it mirrors. Of writes that are under way at
//!   once, a disk may leave either.
//! - Nothing else writes the file: a complete overlay fetches nothing, and it is not complete before every reply has come.
//! - Neither side has a cache of its own: both write through the kernel's cache of the one file (QEMU's node is opened without
//!   `O_DIRECT`), and a flush by either syncs the file with what both wrote.
//! - If anything fails before the end, the machine goes on at the export, and the file is its disk as before.
//!
//! The map is deleted just before the machine moves: afterwards the guest's writes would not be noted in it, and it
//! would be wrong. Should QEMU refuse that last step, the export goes on with the map that it has open, and the file is
//! whole in any case.

use std::path::Path;
use std::time::{Duration, Instant};

use leeward_cloud::qemu::{Qmp, QmpOptions};
use leeward_disk::nbd::NbdUrl;
use serde_json::{Value, json};

use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::output::Output;

/// How long mirroring nothing may take to be ready, and to end.
const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

/// The export and the file that a machine moves between.
pub struct Move<'a> {
    /// The machine's monitor.
    pub socket: &'a Path,
    /// Its node for the export.
    pub node: &'a str,
    /// The URL of the export.
    pub url: &'a NbdUrl,
    /// The file, whole.
    pub path: &'a Path,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
}

/// Moves the machine. `release` is called when nothing but the last step is left.
pub fn switch_over(
    wanted: &Move<'_>,
    release: impl FnOnce() -> Result<(), Failure>,
    output: &Output,
) -> Result<(), Failure> {
    let file = wanted
        .path
        .canonicalize()
        .map_err(|source| leeward_disk::Error::open(wanted.path, "find", source))?;
    let mut monitor = Qmp::connect(wanted.socket, &QmpOptions::default())?;
    check_node(&mut monitor, wanted)?;
    let name = format!("leeward-home-{}", std::process::id());
    monitor.execute(
        "blockdev-add",
        json!({
            "driver": "raw", "node-name": name,
            "file": {
                "driver": "file", "filename": file, "discard": "unmap", "cache": { "direct": false },
            },
        }),
    )?;
    let mirrored = mirror(&mut monitor, wanted, &name, release);
    if let Err(failure) = mirrored {
        // The machine is where it was. What cannot be taken back goes with it.
        let _ = monitor.execute("block-job-cancel", json!({ "device": name, "force": true }));
        let _ = monitor.wait_for_job(&name, LIMIT);
        let _ = monitor.execute("blockdev-del", json!({ "node-name": name }));
        return Err(failure);
    }
    if let Err(error) = monitor.execute("blockdev-del", json!({ "node-name": wanted.node })) {
        output.line(format!("The node {} stays, unused: {error}", wanted.node));
    }
    Ok(())
}

fn mirror(
    monitor: &mut Qmp,
    wanted: &Move<'_>,
    name: &str,
    release: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    monitor.execute(
        "blockdev-mirror",
        json!({
            "job-id": name, "device": wanted.node, "target": name, "sync": "none",
            "copy-mode": "write-blocking", "auto-dismiss": false,
        }),
    )?;
    wait_until_ready(monitor, name)?;
    release()?;
    monitor.execute("block-job-complete", json!({ "device": name }))?;
    Ok(monitor.wait_for_job(name, LIMIT)?)
}

/// Refuses a node that is not the disk which the export serves from the file.
fn check_node(monitor: &mut Qmp, wanted: &Move<'_>) -> Result<(), Failure> {
    let nodes = monitor.execute("query-named-block-nodes", json!({ "flat": true }))?;
    let names = || nodes.as_array().into_iter().flatten();
    let Some(node) = names().find(|node| node["node-name"] == wanted.node) else {
        let all: Vec<_> = names().filter_map(|node| node["node-name"].as_str()).collect();
        return Err(Failure::new(
            Code::NotFound,
            format!("{}: the machine has no block node {}", monitor.peer(), wanted.node),
        )
        .hint(format!("its nodes are: {}", all.join(", "))));
    };
    let refused = |what: String| {
        Failure::new(Code::Refused, format!("{}: node {}: {what}", monitor.peer(), wanted.node))
            .hint("name the node of the disk that is served from the overlay; nothing was changed")
    };
    let size = node["image"]["virtual-size"].as_u64();
    if size != Some(wanted.virtual_size) {
        return Err(refused(format!(
            "it has {} bytes, and the overlay {}",
            size.map_or_else(|| "an unknown number of".to_owned(), |size| size.to_string()),
            wanted.virtual_size
        )));
    }
    let file = node["image"]["filename"].as_str().unwrap_or_default();
    match NbdUrl::parse(file) {
        Ok(found) if found.is_same_export(wanted.url) => Ok(()),
        _ => Err(refused(format!("it is {file:?}, not the export {}", wanted.url))),
    }
}

fn wait_until_ready(monitor: &mut Qmp, job: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let jobs = monitor.execute("query-jobs", json!({}))?;
        let found = jobs.as_array().into_iter().flatten().find(|found| found["id"] == job);
        let failed = |what: &str| Failure::new(Code::Failed, format!("the machine's mirror job {what}"));
        match found.and_then(|found| found["status"].as_str()) {
            Some("ready") => return Ok(()),
            Some("concluded" | "aborting") | None => {
                let why = found.map_or(&Value::Null, |found| &found["error"]);
                return Err(failed(&format!("failed: {}", why.as_str().unwrap_or("it is gone"))));
            }
            _ if Instant::now() >= deadline => return Err(failed("was not ready in time")),
            _ if interrupt::is_requested() => return Err(leeward_disk::Error::Cancelled.into()),
            _ => std::thread::sleep(POLL),
        }
    }
}
