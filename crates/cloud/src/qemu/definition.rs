//! What a machine is made of, kept with its snapshots: enough to start another one from them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::machine::Machine;
use super::qmp::Qmp;
use crate::Result;

/// A longer command line is not kept.
const COMMAND_LINE_BYTES_MAX: u64 = 256 << 10;

/// A machine as its provider describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDefinition {
    /// `qemu` or `libvirt`.
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
    /// The description of the domain without secrets, where libvirt is the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt_xml: Option<String>,
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
    /// The same as QEMU names it, without secrets: tells whether a bitmap is still on the same file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// A network card of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicDefinition {
    /// Type of the device: `virtio-net-pci`, `e1000` …
    pub model: String,
    /// Its address.
    pub mac: String,
}

impl MachineDefinition {
    /// Asks a machine's monitor. What this QEMU does not tell is left out.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn of(monitor: &mut Qmp, machine: &Machine) -> Result<Self> {
        let version = monitor.version();
        let uuid =
            text(&ask(monitor, "query-uuid")?["UUID"]).filter(|uuid| uuid.chars().any(|c| !"0-".contains(c)));
        let memory = ask(monitor, "query-memory-size-summary")?;
        let bytes = |name: &str| memory[name].as_u64().unwrap_or(0);
        let cpus = ask(monitor, "query-cpus-fast")?;
        let cpus = cpus.as_array().map_or(&[][..], Vec::as_slice);
        let cpu = cpus.first().and_then(|cpu| text(&cpu["qom-path"]));
        Ok(Self {
            provider: "qemu".to_owned(),
            version: format!("{}.{}.{}", version.major, version.minor, version.micro),
            name: machine.name.clone(),
            uuid,
            architecture: text(&ask(monitor, "query-target")?["arch"]).unwrap_or_default(),
            machine_type: property(monitor, "/machine", "type")?
                .map(|name| name.strip_suffix("-machine").map_or(name.clone(), str::to_owned)),
            cpu_type: match cpu {
                Some(path) => property(monitor, &path, "type")?,
                None => None,
            },
            cpus: cpus.len() as u64,
            memory_bytes: bytes("base-memory").saturating_add(bytes("plugged-memory")),
            firmware: firmware(monitor, machine)?,
            disks: machine.disks.iter().map(DiskDefinition::of).collect(),
            nics: nics(monitor)?,
            command_line: command_line(monitor).unwrap_or_default(),
            libvirt_xml: None,
        })
    }
}

impl DiskDefinition {
    fn of(disk: &super::machine::MachineDisk) -> Self {
        Self {
            name: disk.name.clone(),
            image: None,
            model: disk.model.clone(),
            bus: bus(disk.model.as_deref().unwrap_or_default()).to_owned(),
            boot_index: disk.boot_index,
            virtual_size: disk.virtual_size,
            location: location(&disk.file),
            format: Some(disk.driver.clone()).filter(|driver| !driver.is_empty()),
            file: Some(disk.file.clone()),
        }
    }
}

/// How a type of device is attached.
fn bus(model: &str) -> &'static str {
    match model {
        "nvme" | "nvme-ns" => "nvme",
        "usb-storage" | "usb-uas" | "usb-bot" => "usb",
        _ if model.starts_with("scsi-") => "scsi",
        _ if model.starts_with("ide-") => "ide",
        _ if model.starts_with("cfi.pflash") => "flash",
        _ => "virtio",
    }
}

/// Asks for something that older and newer versions may not know.
fn ask(monitor: &mut Qmp, command: &str) -> Result<Value> {
    match monitor.execute(command, json!({})) {
        Err(error) if error.is_answer() => Ok(Value::Null),
        other => other,
    }
}

fn property(monitor: &mut Qmp, path: &str, name: &str) -> Result<Option<String>> {
    match monitor.property(path, name) {
        Ok(value) => Ok(text(&value)),
        Err(error) if error.is_answer() => Ok(None),
        Err(error) => Err(error),
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn firmware(monitor: &mut Qmp, machine: &Machine) -> Result<Firmware> {
    let drives = ask(monitor, "query-block")?;
    let flash: Vec<_> = drives
        .as_array()
        .into_iter()
        .flatten()
        .filter(|drive| drive["qdev"].as_str().is_some_and(|path| path.contains("flash")))
        .collect();
    if flash.is_empty() {
        return Ok(Firmware::Bios);
    }
    let code = flash.iter().find(|drive| drive["inserted"]["ro"] == true);
    let variables =
        machine.disks.iter().find(|disk| disk.model.as_deref().is_some_and(|model| bus(model) == "flash"));
    Ok(Firmware::Flash {
        code: code.and_then(|drive| text(&drive["inserted"]["file"])),
        variables: variables.map(|disk| disk.name.clone()),
    })
}

/// The network cards: QEMU has no query for them, but their objects tell.
fn nics(monitor: &mut Qmp) -> Result<Vec<NicDefinition>> {
    const LIKELY: [&str; 9] = ["net", "e1000", "rtl8139", "ne2k", "pcnet", "tulip", "i8255", "igb", "ether"];
    let mut found = Vec::new();
    for container in ["/machine/peripheral", "/machine/peripheral-anon", "/machine/unattached"] {
        for (name, kind) in monitor.properties(container).unwrap_or_default() {
            let Some(model) = kind.strip_prefix("child<").and_then(|kind| kind.strip_suffix('>')) else {
                continue;
            };
            if !LIKELY.iter().any(|part| model.contains(part)) {
                continue;
            }
            if let Some(mac) = property(monitor, &format!("{container}/{name}"), "mac")? {
                found.push(NicDefinition { model: model.to_owned(), mac });
            }
        }
    }
    Ok(found)
}

/// The command line of the process at the other end, if it is a QEMU that can be seen from here.
fn command_line(monitor: &Qmp) -> Option<Vec<String>> {
    use std::io::Read;
    let process = monitor.peer_process()?;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(format!("/proc/{process}/cmdline")).ok()?;
    file.take(COMMAND_LINE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let arguments: Vec<String> = bytes
        .split(|&byte| byte == 0)
        .filter(|argument| !argument.is_empty())
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    // The socket may have been made by whoever started QEMU.
    arguments.first().filter(|program| program.contains("qemu") || program.contains("kvm"))?;
    Some(arguments.iter().map(|argument| without_secrets(argument)).collect())
}

/// An argument without what looks like a secret. Objects that hold secrets lose all but their kind.
pub(crate) fn without_secrets(argument: &str) -> String {
    const REMOVED: &str = "(removed)";
    let is_secret = |key: &str| ["password", "passwd", "passphrase", "data", "key"].contains(&key.trim());
    if let Ok(Value::Object(mut fields)) = serde_json::from_str::<Value>(argument) {
        clean(&mut fields);
        return Value::Object(fields).to_string();
    }
    if argument.starts_with("secret") {
        return format!("secret,{REMOVED}");
    }
    let part = |part: &str| match part.split_once('=') {
        Some((key, _)) if is_secret(key.rsplit('.').next().unwrap_or(key)) => format!("{key}={REMOVED}"),
        _ => without_user(part),
    };
    argument.split(',').map(part).collect::<Vec<_>>().join(",")
}

fn clean(fields: &mut serde_json::Map<String, Value>) {
    let holds_secret =
        fields.get("qom-type").and_then(Value::as_str).is_some_and(|kind| kind.starts_with("secret"));
    if holds_secret {
        fields.retain(|key, _| key == "qom-type" || key == "id");
    }
    fields.retain(|key, _| !["password", "passwd", "passphrase", "key"].contains(&key.as_str()));
    for value in fields.values_mut() {
        match value {
            Value::Object(inner) => clean(inner),
            Value::String(text) => *text = without_user(text),
            _ => {}
        }
    }
}

/// A URL without user and password.
fn without_user(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let host_end = rest.find('/').unwrap_or(rest.len());
    match rest[..host_end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => text.to_owned(),
    }
}

/// A place that says on its own where a disk is. What QEMU tells as `json:…` may hold secrets and is left out; so is a
/// path that depends on where QEMU was started.
pub(crate) fn location(file: &str) -> Option<String> {
    if file.starts_with('/') {
        let path = std::path::Path::new(file);
        let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        return resolved.into_os_string().into_string().ok();
    }
    let is_url = file.split_once("://").is_some_and(|(scheme, _)| !scheme.contains(':'));
    let place = file.split_once('?').map_or(file, |(place, _)| place);
    is_url.then(|| without_user(place))
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

    #[test]
    fn secrets_are_not_kept() {
        for (argument, kept) in [
            ("secret,id=s0,data=hunter2", "secret,(removed)"),
            (
                "driver=rbd,image=a,key=abc,server.0.host=h",
                "driver=rbd,image=a,key=(removed),server.0.host=h",
            ),
            ("file=iscsi://user%secret@host/target/0,if=virtio", "file=iscsi://host/target/0,if=virtio"),
            ("http://me:hunter2@host/a@b", "http://host/a@b"),
            (
                "{\"qom-type\":\"secret\",\"id\":\"s\",\"data\":\"hunter2\"}",
                "{\"id\":\"s\",\"qom-type\":\"secret\"}",
            ),
            ("{\"a\":{\"password\":\"hunter2\",\"b\":1}}", "{\"a\":{\"b\":1}}"),
            ("-m", "-m"),
            ("vnc=:1,password-secret=s0", "vnc=:1,password-secret=s0"),
        ] {
            assert_eq!(without_secrets(argument), kept);
        }
    }
}
