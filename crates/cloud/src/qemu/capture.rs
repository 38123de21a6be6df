//! The capture of a running machine's disks at one moment.
//!
//! What always holds, whatever fails or is killed: the guest goes on, and its disks are not touched. What is made in
//! QEMU is taken away by [`Capture::finish`], by [`Capture::abandon`], when the capture is dropped, or by the next
//! [`Claim`].

mod moment;
mod watch;

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use leeward_disk::nbd::{NbdDisk, NbdOptions, NbdUrl};
use leeward_repository::Consistency;
use serde_json::json;

use super::bitmap::{Bitmap, GRANULARITY, Mode};
use super::definition::MachineDefinition;
use super::guardian::GuardianProgram;
use super::machine::{Machine, MachineDisk};
use super::overlay::{self, Names};
use super::owner::{self, Owner};
use super::qmp::{Qmp, QmpOptions};
use super::source::{CaptureSource, DEPTH};
use crate::{Error, Result};

pub use moment::{Moment, Wanted};
pub use watch::Watched;

/// How a capture is made.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// What the names of the chain's bitmaps begin with; see `bitmap::prefix`.
    pub prefix: String,
    /// Identity of the group, in hexadecimal digits; another one each time.
    pub group: String,
    /// How far the content has to agree with itself.
    pub consistency: Wanted,
    /// Socket of the guest's agent; without it the machine is asked.
    pub agent: Option<PathBuf>,
    /// Who thaws the guest if this process is killed; nobody without.
    pub guardian: Option<GuardianProgram>,
    /// How long the guest's file systems may be frozen.
    pub freeze_limit: Duration,
    /// Where overlays are kept.
    pub overlay_directory: PathBuf,
    /// Size of each disk's overlay at most, in bytes.
    pub overlay_bytes_max: Option<u64>,
    /// Connections to QEMU for each disk.
    pub connections: usize,
}

/// The right to work on a machine, and its monitor.
#[derive(Debug)]
pub struct Claim {
    monitor: Qmp,
    owner: Owner,
    removed: Vec<String>,
    released: bool,
}

impl Claim {
    /// Takes the right to capture a machine. What an earlier process left there is removed, unless it still runs.
    ///
    /// # Errors
    /// QEMU cannot be reached, or another process is at work on the machine ([`Error::Busy`]).
    pub fn new(socket: &Path, options: &QmpOptions, take_over: bool) -> Result<Self> {
        Self::of(Qmp::connect(socket, options)?, take_over)
    }

    /// As [`Claim::new`], over a monitor that is connected.
    ///
    /// # Errors
    /// Those of [`Claim::new`].
    pub fn of(mut monitor: Qmp, take_over: bool) -> Result<Self> {
        let (owner, removed) = Owner::claim(&mut monitor, take_over)?;
        Ok(Self { monitor, owner, removed, released: false })
    }

    /// What an earlier process had left and was removed.
    #[must_use]
    pub fn removed(&self) -> &[String] {
        &self.removed
    }

    /// The machine as it is now.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn machine(&mut self) -> Result<Machine> {
        Machine::discover(&mut self.monitor)
    }

    /// Refuses a machine on whose disks somebody else's job is at work: copying, committing or backing up.
    ///
    /// # Errors
    /// There is such a job ([`Error::Busy`]), or QEMU does not answer.
    pub fn refuse_jobs(&mut self) -> Result<()> {
        let jobs = self.monitor.execute("query-jobs", json!({}))?;
        let at_work = |job: &&serde_json::Value| {
            let is_ours = job["id"].as_str().is_some_and(|id| id.starts_with(owner::PREFIX));
            !is_ours && matches!(job["type"].as_str(), Some("backup" | "commit" | "mirror" | "stream"))
        };
        match jobs.as_array().into_iter().flatten().find(at_work) {
            None => Ok(()),
            Some(job) => {
                let text = |name: &str| job[name].as_str().unwrap_or_default();
                let what = format!(
                    "a job of somebody else is at work on its disks ({}, {}): wait until it has ended, or end it",
                    text("id"),
                    text("type")
                );
                Err(Error::Busy { peer: self.monitor.peer().to_owned(), what })
            }
        }
    }

    /// What the machine is made of.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn definition(&mut self, machine: &Machine) -> Result<MachineDefinition> {
        MachineDefinition::of(&mut self.monitor, machine)
    }
}

impl Claim {
    pub(super) fn monitor(&mut self) -> &mut Qmp {
        &mut self.monitor
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.released {
            // Where this fails the next claim finds the mark of a dead process.
            let _ = self.owner.release(&mut self.monitor);
        }
    }
}

/// A disk of a capture.
pub struct CapturedDisk {
    /// The disk.
    pub disk: MachineDisk,
    /// How it is to be read.
    pub mode: Mode,
    /// The bitmap that records what changes from the moment on.
    pub bitmap: String,
    /// The disk as it was at the moment.
    pub source: Arc<CaptureSource>,
    /// What has changed since the last snapshot, as offset and length, in order and apart; all of it without.
    pub changed: Option<Vec<(u64, u64)>>,
}

/// Disks of a machine, held at one moment while the guest goes on.
pub struct Capture {
    claim: Claim,
    disks: Vec<CapturedDisk>,
    moment: Moment,
    /// Bitmaps that were stopped, and those that were started in their place: node, old, new.
    bitmaps: Vec<(String, Option<String>, String)>,
    prefix: String,
    /// The files of the overlays.
    overlays: Vec<File>,
    /// Whether QEMU's NBD server was started for this.
    serves: bool,
    done: bool,
}

impl Capture {
    /// Captures the disks at one moment.
    ///
    /// # Errors
    /// QEMU lacks something or refuses, or the consistency that was asked for cannot be had. Nothing stays behind.
    pub fn begin(
        claim: Claim,
        machine: &Machine,
        plan: Vec<(MachineDisk, Mode)>,
        options: &CaptureOptions,
    ) -> Result<Self> {
        let mut capture = Self {
            claim,
            disks: Vec::new(),
            moment: Moment::default(),
            bitmaps: Vec::new(),
            prefix: options.prefix.clone(),
            overlays: Vec::new(),
            serves: false,
            done: false,
        };
        match capture.set_up(machine, plan, options) {
            Ok(()) => Ok(capture),
            Err(error) => {
                // The first error is the one to tell.
                capture.abandon();
                Err(error)
            }
        }
    }

    fn set_up(
        &mut self,
        machine: &Machine,
        plan: Vec<(MachineDisk, Mode)>,
        options: &CaptureOptions,
    ) -> Result<()> {
        machine.check_state(self.monitor().peer())?;
        let limit = overlay::limit(&options.overlay_directory, options.overlay_bytes_max, plan.len())?;
        for (number, (disk, _)) in plan.iter().enumerate() {
            let names = Names::new(number);
            let directory = &options.overlay_directory;
            let file = overlay::create(self.monitor(), &names, directory, limit, disk.virtual_size)?;
            self.overlays.push(file);
        }
        // Its path is needed until all connections are made.
        let server = Server::start(self.monitor())?;
        self.serves = true;
        let started = format!("{}{}", options.prefix, options.group);
        let disks: Vec<_> = plan.iter().map(|(disk, mode)| (disk, mode.bitmap())).collect();
        self.bitmaps = disks
            .iter()
            .map(|(disk, old)| (disk.node.clone(), old.map(str::to_owned), started.clone()))
            .collect();
        let actions = transaction(&disks, &started);
        // From here on events concern this capture, and not what an earlier one had left.
        self.monitor().forget_events()?;
        let taken = Moment::take(&mut self.claim.monitor, machine, options, &actions);
        if taken.is_err() && !self.monitor().is_over() {
            // It was all or nothing, and it was nothing.
            self.bitmaps.clear();
        }
        self.moment = taken?;
        if options.consistency == Wanted::Filesystem && self.moment.consistency != Consistency::Filesystem {
            let why = self.moment.reason.clone().unwrap_or_default();
            let what = format!("file systems at rest were asked for, but {why}");
            return Err(Error::Refused { peer: self.monitor().peer().to_owned(), what });
        }
        let nodes = self.monitor().execute("query-named-block-nodes", json!({ "flat": true }))?;
        for (number, (mut disk, mode)) in plan.into_iter().enumerate() {
            // The guest went on until the moment: only what the stopped bitmaps hold now counts.
            disk.bitmaps = bitmaps(&nodes, &disk.node);
            let opened = server.open(&mut self.claim.monitor, number, disk, mode, &started, options)?;
            self.disks.push(opened);
        }
        Ok(())
    }

    fn monitor(&mut self) -> &mut Qmp {
        &mut self.claim.monitor
    }

    /// The disks, in the order in which they were asked for.
    #[must_use]
    pub fn disks(&self) -> &[CapturedDisk] {
        &self.disks
    }

    /// How the moment was taken.
    #[must_use]
    pub fn moment(&self) -> &Moment {
        &self.moment
    }

    /// Keeps an eye on QEMU until the watch is dropped; meanwhile nothing else can be done with the capture.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn watched<T>(&mut self, work: impl FnOnce(&Watched) -> T) -> Result<T> {
        let names = self.disks.iter().map(|captured| captured.disk.name.clone()).collect();
        watch::watched(&mut self.claim.monitor, names, work)
    }

    /// Ends the capture after its content was published: the bitmaps that were started are the ones to go on with.
    /// Returns what could not be done, for people; the next backup does it.
    pub fn finish(mut self) -> Vec<String> {
        self.done = true;
        let mut troubles = Vec::new();
        self.mend();
        let cleared = self.clear().and_then(|()| self.remove_old_bitmaps());
        troubles.extend(cleared.and_then(|()| self.release()).err().map(|error| error.to_string()));
        troubles
    }

    /// Ends the capture without a result: the bitmaps go on as if it had not been. Returns what could not be done, for
    /// people; the next backup then reads everything.
    pub fn abandon(mut self) -> Vec<String> {
        self.undo()
    }

    fn undo(&mut self) -> Vec<String> {
        self.done = true;
        let mut troubles = Vec::new();
        self.mend();
        // A bitmap that is exported cannot be changed.
        let exports = owner::remove_exports(&mut self.claim.monitor, self.serves).map(|_| ());
        let restored = exports.and_then(|()| self.restore_bitmaps());
        troubles.extend(restored.err().map(|error| error.to_string()));
        let cleared = self.clear().and_then(|()| self.release());
        troubles.extend(cleared.err().map(|error| error.to_string()));
        troubles
    }

    /// Connects anew where the connection is over: QEMU may live on, and what was made there must go.
    fn mend(&mut self) {
        if self.claim.monitor.is_over() {
            // Where QEMU is gone, so is everything that was made there.
            let _ = self.claim.monitor.reconnect();
        }
    }

    /// Takes everything away but bitmaps.
    fn clear(&mut self) -> Result<()> {
        let mark = self.claim.owner.mark().to_owned();
        owner::remove_exports(&mut self.claim.monitor, self.serves)?;
        self.serves = false;
        let monitor = self.monitor();
        owner::remove_jobs(monitor)?;
        owner::remove_nodes(monitor, &mark)?;
        owner::remove_descriptors(monitor)?;
        for overlay in self.overlays.drain(..) {
            // It is as good as gone; only a paused QEMU still holds it.
            let _ = overlay.set_len(0);
        }
        Ok(())
    }

    fn release(&mut self) -> Result<()> {
        self.claim.released = true;
        self.claim.owner.release(&mut self.claim.monitor)
    }

    /// What was recorded since the moment goes to the old bitmaps, which record on.
    fn restore_bitmaps(&mut self) -> Result<()> {
        let bitmaps = std::mem::take(&mut self.bitmaps);
        let mut actions = Vec::new();
        for (node, old, new) in &bitmaps {
            if let Some(old) = old {
                actions.push(("block-dirty-bitmap-enable", json!({ "node": node, "name": old })));
                let merge = json!({ "node": node, "target": old, "bitmaps": [new] });
                actions.push(("block-dirty-bitmap-merge", merge));
            }
            actions.push(("block-dirty-bitmap-remove", json!({ "node": node, "name": new })));
        }
        if actions.is_empty() {
            return Ok(());
        }
        let restored = self.monitor().transaction(&actions);
        if restored.as_ref().is_err_and(Error::is_answer) {
            // A bitmap that is left would record for nobody.
            for (node, _, new) in &bitmaps {
                let _ =
                    self.monitor().execute("block-dirty-bitmap-remove", json!({ "node": node, "name": new }));
            }
        }
        restored
    }

    /// Removes the bitmaps of this repository that nothing needs any more.
    fn remove_old_bitmaps(&mut self) -> Result<()> {
        let pairs = std::mem::take(&mut self.bitmaps);
        let nodes = self.monitor().execute("query-named-block-nodes", json!({ "flat": true }))?;
        for (node, _, new) in pairs {
            let list = bitmaps(&nodes, &node);
            for old in list.iter().filter(|old| old.name.starts_with(&self.prefix) && old.name != new) {
                let name = json!({ "node": node, "name": old.name });
                self.claim.monitor.execute("block-dirty-bitmap-remove", name)?;
            }
        }
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if !self.done {
            self.undo();
        }
    }
}

/// The bitmaps of a node, in a list of all nodes.
fn bitmaps(nodes: &serde_json::Value, node: &str) -> Vec<Bitmap> {
    let found = nodes.as_array().into_iter().flatten().find(|found| found["node-name"] == node);
    found.map_or(Vec::new(), |found| Bitmap::list(&found["dirty-bitmaps"]))
}

/// The actions that make the moment. New bitmaps begin to record before copying begins, and old ones stop after it, so
/// that a write that falls between two actions is recorded once too often rather than not at all.
fn transaction(
    disks: &[(&MachineDisk, Option<&str>)],
    bitmap: &str,
) -> Vec<(&'static str, serde_json::Value)> {
    let mut actions = Vec::new();
    for (disk, _) in disks {
        let data = json!({
            "node": disk.node, "name": bitmap, "granularity": GRANULARITY, "persistent": disk.keeps_bitmaps,
        });
        actions.push(("block-dirty-bitmap-add", data));
    }
    for (number, (disk, _)) in disks.iter().enumerate() {
        let names = Names::new(number);
        let data = json!({
            "job-id": names.job, "device": disk.node, "target": names.guard, "sync": "none", "auto-dismiss": false,
        });
        actions.push(("blockdev-backup", data));
    }
    for (disk, old) in disks {
        if let Some(old) = old {
            actions.push(("block-dirty-bitmap-disable", json!({ "node": disk.node, "name": old })));
        }
    }
    actions
}

/// The NBD server in QEMU, and the path of its socket.
struct Server {
    directory: tempfile::TempDir,
}

impl Server {
    /// Starts it on a socket that only we can reach, whoever QEMU runs as.
    fn start(monitor: &mut Qmp) -> Result<Self> {
        const NAME: &str = "leeward-nbd";
        let cannot = |action| move |source| Error::io("a socket for NBD", action, source);
        let directory =
            tempfile::Builder::new().prefix("leeward-").tempdir().map_err(cannot("make a directory for"))?;
        let listener = UnixListener::bind(directory.path().join("nbd")).map_err(cannot("make"))?;
        monitor.get_descriptor(&listener, NAME)?;
        let address = json!({ "type": "fd", "data": { "str": NAME } });
        let started = monitor.execute("nbd-server-start", json!({ "addr": address, "max-connections": 0 }));
        match started {
            Ok(_) => Ok(Self { directory }),
            Err(error) => {
                let _ = monitor.execute("closefd", json!({ "fdname": NAME }));
                Err(taken(monitor, error))
            }
        }
    }

    /// Exports a disk and its overlay, and connects to both.
    fn open(
        &self,
        monitor: &mut Qmp,
        number: usize,
        disk: MachineDisk,
        mode: Mode,
        bitmap: &str,
        options: &CaptureOptions,
    ) -> Result<CapturedDisk> {
        let (of_disk, of_overlay) = (format!("leeward-{number}-d"), format!("leeward-{number}-o"));
        let mut export = json!({ "type": "nbd", "id": of_disk, "name": of_disk, "node-name": disk.node });
        if let Some(old) = mode.bitmap() {
            export["bitmaps"] = json!([old]);
        }
        monitor.execute("block-export-add", export)?;
        let node = Names::new(number).overlay;
        let export = json!({
            "type": "nbd", "id": of_overlay, "name": of_overlay, "node-name": node, "allocation-depth": true,
        });
        monitor.execute("block-export-add", export)?;
        let limits = NbdOptions { connections_max: options.connections.max(1), ..NbdOptions::default() };
        let connect = |export: &str, contexts: &[&str]| {
            let socket = self.directory.path().join("nbd");
            let url = NbdUrl::parse(&format!("nbd+unix:///{export}?socket={}", socket.display()))?;
            NbdDisk::connect_with_contexts(&url, &limits, contexts)
        };
        let context = mode.bitmap().map(|old| format!("qemu:dirty-bitmap:{old}"));
        let contexts: Vec<&str> = context.as_deref().into_iter().collect();
        let source = CaptureSource::new(connect(&of_disk, &contexts)?, connect(&of_overlay, &[DEPTH])?);
        let marks_nothing = disk
            .bitmaps
            .iter()
            .any(|found| Some(found.name.as_str()) == mode.bitmap() && found.dirty_bytes == 0);
        let changed = match &context {
            None => None,
            Some(_) if marks_nothing => Some(Vec::new()),
            Some(context) => Some(source.marked(context)?),
        };
        Ok(CapturedDisk { disk, mode, bitmap: bitmap.to_owned(), source: Arc::new(source), changed })
    }
}

fn taken(monitor: &Qmp, error: Error) -> Error {
    match error {
        Error::Command { description, .. } if description.contains("already running") => Error::Busy {
            peer: monitor.peer().to_owned(),
            what: "QEMU's NBD server is in use by somebody else (another backup tool, or a migration), and there is \
                   only one: wait until it is free"
                .to_owned(),
        },
        other => other,
    }
}
