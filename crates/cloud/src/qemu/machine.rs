//! What a machine is and which disks it has.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};

use super::bitmap::Bitmap;
use super::definition::without_secrets;
use super::qmp::Qmp;
use crate::{Error, Result};

/// A machine as its monitor shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Its name, where it was given one.
    pub name: Option<String>,
    /// State: `running`, `paused`, `prelaunch` …
    pub status: String,
    /// The disks that can be backed up.
    pub disks: Vec<MachineDisk>,
    /// The drives that are not backed up, and why.
    pub left_out: Vec<LeftOut>,
}

/// A writable disk of a machine.
#[derive(Debug, Clone, Serialize)]
pub struct MachineDisk {
    /// Its name: of the device, or else of the drive, in letters that an image's name may have.
    pub name: String,
    /// Identity of the drive, for disks that were given with `-drive`.
    pub drive: Option<String>,
    /// Identity of the device, where it was given one.
    pub device: Option<String>,
    /// The node from which the device reads.
    pub node: String,
    /// Driver of that node: `raw`, `qcow2` …
    pub driver: String,
    /// The file or URL behind it, without secrets.
    pub file: String,
    /// Size of the disk that the guest sees, in bytes.
    pub virtual_size: u64,
    /// Whether the image file can hold bitmaps beyond the end of QEMU.
    pub keeps_bitmaps: bool,
    /// The bitmaps on the node.
    pub bitmaps: Vec<Bitmap>,
    /// Type of the device: `virtio-blk-pci`, `scsi-hd` …
    pub model: Option<String>,
    /// Place in the order of boot, where there is one.
    pub boot_index: Option<i64>,
}

/// A drive that is not backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: &'static str,
}

impl Machine {
    /// Asks a machine's monitor.
    ///
    /// # Errors
    /// QEMU does not answer, or answers what makes no sense.
    pub fn discover(monitor: &mut Qmp) -> Result<Self> {
        let name = monitor.execute("query-name", json!({}))?["name"].as_str().map(str::to_owned);
        let status =
            monitor.execute("query-status", json!({}))?["status"].as_str().unwrap_or_default().to_owned();
        let drives = monitor.execute("query-block", json!({}))?;
        let mut machine = Self { name, status, disks: Vec::new(), left_out: Vec::new() };
        let mut names = BTreeSet::new();
        for (number, drive) in drives.as_array().into_iter().flatten().enumerate() {
            machine.add(monitor, drive, number, &mut names)?;
        }
        machine.find_doubles(monitor)?;
        Ok(machine)
    }

    /// Marks the bitmaps whose names are found on nodes that are no disks.
    fn find_doubles(&mut self, monitor: &mut Qmp) -> Result<()> {
        let nodes = monitor.execute("query-named-block-nodes", json!({ "flat": true }))?;
        let is_disk = |node: &&Value| self.disks.iter().any(|disk| node["node-name"] == disk.node.as_str());
        let others = nodes.as_array().into_iter().flatten().filter(|node| !is_disk(node));
        let names: BTreeSet<String> =
            others.flat_map(|node| Bitmap::list(&node["dirty-bitmaps"])).map(|bitmap| bitmap.name).collect();
        for bitmap in self.disks.iter_mut().flat_map(|disk| &mut disk.bitmaps) {
            bitmap.has_double = names.contains(&bitmap.name);
        }
        Ok(())
    }

    fn add(
        &mut self,
        monitor: &mut Qmp,
        drive: &Value,
        number: usize,
        names: &mut BTreeSet<String>,
    ) -> Result<()> {
        let some = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let object = some(&drive["qdev"]).map(|path| object(&path));
        let device = object.as_deref().and_then(given_name);
        let id = some(&drive["device"]);
        let inserted = &drive["inserted"];
        let node = some(&inserted["node-name"]);
        // A node without a name of its own is numbered anew at each start of QEMU.
        let lasting = node.clone().filter(|node| !node.starts_with('#'));
        let given = device.clone().or_else(|| id.clone()).or(lasting);
        let mut name = sanitise(&given.unwrap_or_else(|| format!("disk{number}")));
        while !names.insert(name.clone()) {
            name.push_str("-2");
        }
        let model = match &object {
            Some(object) => monitor.property(object, "type").ok().and_then(|value| some(&value)),
            None => None,
        };
        if let Some(why) = reason_to_leave_out(monitor, drive, object.as_deref(), model.as_deref())? {
            self.left_out.push(LeftOut { name, why });
            return Ok(());
        }
        let (Some(node), Some(virtual_size)) = (node, inserted["image"]["virtual-size"].as_u64()) else {
            return Err(Error::Protocol {
                peer: monitor.peer().to_owned(),
                what: format!("it tells neither node nor size of disk {name}"),
            });
        };
        let driver = some(&inserted["drv"]).unwrap_or_default();
        let compat = &inserted["image"]["format-specific"]["data"]["compat"];
        let index = object.as_deref().and_then(|object| monitor.property(object, "bootindex").ok());
        self.disks.push(MachineDisk {
            name,
            drive: id,
            device,
            node,
            keeps_bitmaps: driver == "qcow2" && *compat != "0.10",
            driver,
            file: without_secrets(inserted["file"].as_str().unwrap_or_default()),
            virtual_size,
            bitmaps: Bitmap::list(&inserted["dirty-bitmaps"]),
            model,
            boot_index: index.and_then(|index| index.as_i64()).filter(|index| *index >= 0),
        });
        Ok(())
    }

    /// Keeps only the disks that are named, each by its own name, its device, drive or node.
    ///
    /// # Errors
    /// One of them is not there, or cannot be backed up.
    pub fn select(&mut self, peer: &str, wanted: &[String]) -> Result<()> {
        let missing = |what| Err(Error::NotFound { peer: peer.to_owned(), what });
        let goes_by = |disk: &MachineDisk, name: &String| {
            disk.name == *name
                || disk.node == *name
                || disk.drive.as_ref() == Some(name)
                || disk.device.as_ref() == Some(name)
        };
        for name in wanted {
            if self.disks.iter().any(|disk| goes_by(disk, name)) {
                continue;
            }
            if let Some(left_out) = self.left_out.iter().find(|left_out| left_out.name == *name) {
                return Err(Error::Refused {
                    peer: peer.to_owned(),
                    what: format!("disk {name} cannot be backed up: {}", left_out.why),
                });
            }
            let there: Vec<_> = self.disks.iter().map(|disk| disk.name.as_str()).collect();
            return missing(format!("the machine has no disk {name} — it has {}", there.join(", ")));
        }
        if !wanted.is_empty() {
            self.disks.retain(|disk| wanted.iter().any(|name| goes_by(disk, name)));
        }
        if self.disks.is_empty() {
            return missing("the machine has no disk that can be backed up".to_owned());
        }
        Ok(())
    }

    /// Refuses a machine that is on its way to another host or from there.
    ///
    /// # Errors
    /// It is such a machine.
    pub fn check_state(&self, peer: &str) -> Result<()> {
        match self.status.as_str() {
            "inmigrate" | "finish-migrate" | "postmigrate" | "colo" => Err(Error::Busy {
                peer: peer.to_owned(),
                what: format!("the machine is being migrated (state {}): back it up afterwards", self.status),
            }),
            _ => Ok(()),
        }
    }

    /// Whether its guest executes.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.status == "running"
    }

    /// Whether its guest has not begun, or has ended: nothing of its state is in memory.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        matches!(self.status.as_str(), "prelaunch" | "shutdown")
    }
}

fn reason_to_leave_out(
    monitor: &mut Qmp,
    drive: &Value,
    object: Option<&str>,
    model: Option<&str>,
) -> Result<Option<&'static str>> {
    let inserted = &drive["inserted"];
    let is = |name| model == Some(name);
    if is("scsi-cd") || is("ide-cd") {
        return Ok(Some("it is a CD-ROM drive"));
    }
    if is("floppy") {
        return Ok(Some("it is a floppy drive"));
    }
    if !inserted.is_object() {
        return Ok(Some("it is empty"));
    }
    if inserted["ro"] == true {
        return Ok(Some("it is read-only"));
    }
    let Some(object) = object else { return Ok(Some("no device of the machine uses it")) };
    match monitor.property(object, "share-rw") {
        Ok(shared) if shared == true => Ok(Some("it may be written by other machines at the same time")),
        Ok(_) => Ok(None),
        // A device without that property, such as flash memory, does not share.
        Err(error) if error.is_answer() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The object of a device that `query-block` names by its identity or by its path.
fn object(qdev: &str) -> String {
    let path = if qdev.starts_with('/') { qdev.to_owned() } else { format!("/machine/peripheral/{qdev}") };
    // The part of a virtio device that speaks for its disk.
    path.strip_suffix("/virtio-backend").map_or(path.clone(), str::to_owned)
}

/// The identity that a person gave a device.
fn given_name(object: &str) -> Option<String> {
    object.strip_prefix("/machine/peripheral/").filter(|name| !name.contains('/')).map(str::to_owned)
}

/// A part of an image's name: other letters become `_`, and it does not begin with a dot or dash.
pub(crate) fn sanitise(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let mut text: String = name.chars().take(48).map(|c| if fits(c) { c } else { '_' }).collect();
    if text.is_empty() || text.starts_with(['.', '-']) {
        text.insert(0, '_');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_under_either_kind_of_name() {
        assert_eq!(object("sc0"), "/machine/peripheral/sc0");
        assert_eq!(object("/machine/peripheral/vd0/virtio-backend"), "/machine/peripheral/vd0");
        assert_eq!(given_name("/machine/peripheral/vd0").as_deref(), Some("vd0"));
        assert_eq!(given_name("/machine/peripheral-anon/device[3]"), None);
    }

    #[test]
    fn names_become_parts_of_image_names() {
        assert_eq!(sanitise("vd0"), "vd0");
        assert_eq!(sanitise("../x y"), "_.._x_y");
        assert_eq!(sanitise(""), "_");
        assert_eq!(sanitise(&"é".repeat(100)).len(), 48);
    }
}
