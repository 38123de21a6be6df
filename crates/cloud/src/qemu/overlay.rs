//! The place where a machine keeps what its guest overwrites during a backup.
//!
//! For each disk there is a chain of nodes in QEMU:
//!
//! ```text
//! guest ── copy-before-write ── disk
//!                 │
//!              guard (quorum of 1)
//!              ├── overlay (qcow2) ── file (raw, of a fixed size) ── a file without a name
//!              └── nothing (null-co)
//! ```
//!
//! Before the guest overwrites something, QEMU copies it into the guard. The guard writes to both children and is
//! content when one of them succeeds, which the second always does: a full or broken overlay is never an error for the
//! guest. QEMU tells of it with an event, and the backup fails. See `docs/decisions/0007-capture.md`.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::owner::PREFIX;
use super::qmp::Qmp;
use crate::{Error, Result};

/// The largest overlay of a disk unless a limit is given, in bytes.
const BYTES_MAX: u64 = 10 << 30;
/// The smallest overlay: a qcow2 image without content, and a few clusters.
const BYTES_MIN: u64 = 1 << 20;
/// How long making an empty image may take.
const CREATE_LIMIT: Duration = Duration::from_secs(60);

/// The names of the nodes of a disk.
pub(super) struct Names {
    pub(super) file: String,
    pub(super) overlay: String,
    pub(super) guard: String,
    nothing: String,
    pub(super) job: String,
    /// The job that makes the overlay; it has a name of its own, so that its end is not taken for that of the other.
    making: String,
}

impl Names {
    pub(super) fn new(number: usize) -> Self {
        let name = |what: &str| format!("{PREFIX}{number}-{what}");
        Self {
            file: name("file"),
            // QEMU tells of the failures of one node once a second: a name of this process alone, so that what an
            // earlier backup had to suffer does not hold back what is told of this one.
            overlay: name(&format!("overlay-{:x}", std::process::id())),
            guard: name("guard"),
            nothing: name("nothing"),
            job: format!("{PREFIX}{number}"),
            making: format!("{PREFIX}make-{number}"),
        }
    }
}

/// The limit of each overlay, for so many disks whose overlays are in one directory: what was asked for, or else
/// 10 GiB and half of what is free.
///
/// # Errors
/// The directory cannot be examined, or the limit is too small.
pub(super) fn limit(directory: &Path, asked: Option<u64>, disks: usize) -> Result<u64> {
    let place = || directory.display().to_string();
    let limit = match asked {
        Some(limit) => limit,
        None => {
            let found = rustix::fs::statvfs(directory)
                .map_err(|source| Error::io(place(), "find the free space of", source.into()))?;
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            BYTES_MAX.min(free / 2 / disks.max(1) as u64)
        }
    };
    if limit < BYTES_MIN {
        let what = format!(
            "an overlay of {limit} bytes is too small, at least {BYTES_MIN} are needed — free some space there, or \
             name another directory with --overlay-dir"
        );
        return Err(Error::Refused { peer: place(), what });
    }
    Ok(limit)
}

/// Makes the overlay of a disk of `virtual_size` bytes, empty, in a file that has no name and is gone with the last
/// process that has it open. QEMU keeps descriptors of a paused machine open until it runs again, so whoever is done
/// with the overlay empties the file, which is returned.
pub(super) fn create(
    monitor: &mut Qmp,
    names: &Names,
    directory: &Path,
    limit: u64,
    virtual_size: u64,
) -> Result<File> {
    // No more than all of the disk and the tables that map it can ever be needed.
    let largest = virtual_size.saturating_add(virtual_size / 1024).saturating_add(4 << 20);
    let size = limit.min(largest) & !0xffff;
    let file = file(directory, size)?;
    let set = monitor.add_descriptor(&file, &names.overlay)?;
    let node = json!({
        "driver": "raw", "node-name": names.file, "offset": 0, "size": size,
        "file": { "driver": "file", "filename": format!("/dev/fdset/{set}") },
    });
    monitor.execute("blockdev-add", node)?;
    let image = json!({ "driver": "qcow2", "file": names.file, "size": virtual_size });
    monitor.execute("blockdev-create", json!({ "job-id": names.making, "options": image }))?;
    monitor.wait_for_job(&names.making, CREATE_LIMIT)?;
    let overlay = json!({
        "driver": "qcow2", "node-name": names.overlay, "file": names.file, "cache": { "no-flush": true },
    });
    monitor.execute("blockdev-add", overlay)?;
    let nothing = json!({
        "driver": "null-co", "node-name": names.nothing, "size": virtual_size, "read-zeroes": false,
    });
    let guard = json!({
        "driver": "quorum", "node-name": names.guard, "vote-threshold": 1, "children": [names.overlay, nothing],
    });
    monitor.execute("blockdev-add", guard).map_err(|error| without_quorum(monitor, error))?;
    Ok(file)
}

fn without_quorum(monitor: &Qmp, error: Error) -> Error {
    match &error {
        Error::Command { description, .. } if description.contains("driver") => Error::Refused {
            peer: monitor.peer().to_owned(),
            what: format!(
                "this QEMU lacks the block drivers quorum or null-co ({description}); without them a full overlay \
                 would be an error for the guest"
            ),
        },
        _ => error,
    }
}

fn file(directory: &Path, size: u64) -> Result<File> {
    let cannot = |action| move |source| Error::io(directory.display().to_string(), action, source);
    let file = tempfile::tempfile_in(directory).map_err(cannot("make a file for an overlay in"))?;
    // Sparse: space is taken as the guest writes.
    file.set_len(size).map_err(cannot("set the size of an overlay in"))?;
    Ok(file)
}
