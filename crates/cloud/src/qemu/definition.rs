//! What a machine is made of, kept with its snapshots: enough to start another one from them.

use serde::{Deserialize, Serialize};

/// A machine as its provider describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDefinition {
    /// `qemu`.
    pub provider: String,
    /// Version of QEMU, as in `7.2.22`.
    pub version: String,
    /// Its name, where it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its identity as the guest sees it, where it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Architecture: `x86_64`, `aarch64` …
    pub architecture: String,
    /// Type of the machine with its version: `pc-i440fx-7.2`, `pc-q35-7.2` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_type: Option<String>,
    /// Type of its processors, as in `host-x86_64-cpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_type: Option<String>,
    /// Number of its processors.
    pub cpus: u64,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// What it starts from.
    pub firmware: Firmware,
    /// Its disks.
    pub disks: Vec<DiskDefinition>,
    /// Its network cards.
    pub nics: Vec<NicDefinition>,
    /// The command line of its process without secrets, for people; empty where it cannot be seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command_line: Vec<String>,
}

/// What a machine starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Firmware {
    /// The BIOS that comes with QEMU.
    Bios,
    /// Flash memory, as UEFI uses it.
    Flash {
        /// The file with the program.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        /// The disk with the variables, one of the machine's disks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        variables: Option<String>,
    },
}

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskDefinition {
    /// Its name in the machine.
    pub name: String,
    /// The image that holds its content; filled in by whoever makes the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Type of the device: `virtio-blk-pci`, `scsi-hd` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How it is attached: `virtio`, `scsi`, `nvme`, `ide`, `usb` or `flash`.
    pub bus: String,
    /// Place in the order of boot, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_index: Option<i64>,
    /// Size in bytes.
    pub virtual_size: u64,
    /// Where it was: the path of a file or device with its links resolved, or a URL without user and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Its format there, by QEMU's name: `raw`, `qcow2` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}

/// A network card of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicDefinition {
    /// Type of the device: `virtio-net-pci`, `e1000` …
    pub model: String,
    /// Its address.
    pub mac: String,
}

impl DiskDefinition {
    /// Adds where the disk was: `file` and `driver` as QEMU tells them of the node, `file` seen from this process.
    #[must_use]
    pub fn at(mut self, file: &str, driver: &str) -> Self {
        self.location = location(file);
        self.format = Some(driver.to_owned()).filter(|driver| !driver.is_empty());
        self
    }
}

/// A place that says on its own where a disk is. What QEMU tells as `json:…` may hold secrets and is left out; so is a
/// path that depends on where QEMU was started.
fn location(file: &str) -> Option<String> {
    if file.starts_with('/') {
        let path = std::path::Path::new(file);
        let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        return resolved.into_os_string().into_string().ok();
    }
    let (scheme, rest) = file.split_once("://")?;
    let host_end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..host_end].rfind('@').map_or(0, |at| at + 1);
    let parameters = rest.find('?').unwrap_or(rest.len()).max(host);
    Some(format!("{scheme}://{}", &rest[host..parameters]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_without_secrets() {
        for (file, kept) in [
            ("/no/such/disk.qcow2", Some("/no/such/disk.qcow2")),
            ("/proc/self/../1/../../etc/hostname", Some("/etc/hostname")),
            ("nbd://host:10809/disk", Some("nbd://host:10809/disk")),
            ("iscsi://user%secret@host/target/0", Some("iscsi://host/target/0")),
            ("https://me:hunter2@host/a@b?key=secret", Some("https://host/a@b")),
            ("json:{\"driver\":\"rbd\",\"key\":\"secret\"}", None),
            ("rbd:pool/image:id=admin:key=secret", None),
            ("disk.raw", None),
            ("", None),
        ] {
            assert_eq!(location(file).as_deref(), kept, "{file}");
        }
    }
}
