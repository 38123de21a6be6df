//! The description of a domain: XML as libvirt's page "Domain XML format" has it.
//!
//! It comes from a daemon that people trust with their machines, but it can hold whatever they wrote into it: secrets are
//! cut out before it is kept, beyond those that libvirt leaves out by itself.

use std::ops::Range;

use roxmltree::{Document, Node, ParsingOptions};

use crate::qemu::definition::{
    DiskDefinition, Firmware, MachineDefinition, NicDefinition, location, without_secrets,
};
use crate::{Error, Result};

/// More elements and attributes than any description has.
const NODES_MAX: u32 = 200_000;
/// The elements that go straight to QEMU are in this name space.
const QEMU_SPACE: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// A domain as its description has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Description {
    name: String,
    uuid: Option<String>,
    architecture: String,
    machine_type: Option<String>,
    cpus: u64,
    memory_bytes: u64,
    flash_code: Option<String>,
    pub(super) flash_variables: Option<String>,
    pub(super) disks: Vec<DescribedDisk>,
    nics: Vec<NicDefinition>,
}

/// A disk of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DescribedDisk {
    /// `vda`, `sdb` …
    pub(super) target: String,
    /// Identity of its device in QEMU, while the domain runs.
    pub(super) alias: Option<String>,
    /// `disk`, `cdrom`, `floppy` or `lun`.
    pub(super) device: String,
    /// `file`, `block`, `network`, `volume` …
    pub(super) kind: String,
    /// Format of the image.
    pub(super) format: Option<String>,
    /// The file or device.
    pub(super) path: Option<String>,
    pub(super) is_read_only: bool,
    pub(super) is_shared: bool,
    bus: String,
    boot_order: Option<i64>,
}

impl Description {
    /// Takes a description apart.
    pub(super) fn parse(peer: &str, xml: &str) -> Result<Self> {
        let document = document(peer, xml)?;
        let domain = document.root_element();
        let memory = child(domain, "currentMemory").or_else(|| child(domain, "memory"));
        let os = child(domain, "os");
        let kind = os.and_then(|os| child(os, "type"));
        let in_os = |name| os.and_then(|os| child(os, name)).and_then(|node| words(node.text()));
        let devices = child(domain, "devices");
        let all = |name| devices.into_iter().flat_map(move |devices| children(devices, name));
        let attribute = |node: Option<Node>, name| node.and_then(|node| words(node.attribute(name)));
        let cpus = child(domain, "vcpu");
        let current = cpus.and_then(|node| node.attribute("current").or_else(|| node.text()));
        Ok(Self {
            name: child(domain, "name").and_then(|node| words(node.text())).unwrap_or_default(),
            uuid: child(domain, "uuid").and_then(|node| words(node.text())),
            architecture: attribute(kind, "arch").unwrap_or_default(),
            machine_type: attribute(kind, "machine"),
            cpus: current.and_then(|text| text.trim().parse().ok()).unwrap_or(1),
            memory_bytes: memory.and_then(bytes).unwrap_or(0),
            flash_code: in_os("loader"),
            flash_variables: in_os("nvram"),
            disks: all("disk").filter_map(disk).collect(),
            nics: all("interface").filter_map(nic).collect(),
        })
    }

    /// What the machine is made of, as far as its description tells. Sizes of disks are not in it.
    pub(super) fn definition(&self) -> MachineDefinition {
        let disks = self.disks.iter().filter(|disk| disk.device == "disk" || disk.device == "lun");
        MachineDefinition {
            provider: super::PROVIDER.to_owned(),
            version: String::new(),
            name: Some(self.name.clone()),
            uuid: self.uuid.clone(),
            architecture: self.architecture.clone(),
            machine_type: self.machine_type.clone(),
            cpu_type: None,
            cpus: self.cpus,
            memory_bytes: self.memory_bytes,
            firmware: match (&self.flash_code, &self.flash_variables) {
                (None, None) => Firmware::Bios,
                (code, variables) => Firmware::Flash {
                    code: code.clone(),
                    variables: variables.as_ref().map(|_| super::NVRAM.to_owned()),
                },
            },
            disks: disks.map(DescribedDisk::definition).collect(),
            nics: self.nics.clone(),
            command_line: Vec::new(),
            libvirt_xml: None,
        }
    }
}

impl DescribedDisk {
    fn definition(&self) -> DiskDefinition {
        let bus = match self.bus.as_str() {
            "scsi" => "scsi",
            "ide" | "sata" => "ide",
            "usb" => "usb",
            _ => "virtio",
        };
        DiskDefinition {
            name: self.target.clone(),
            image: None,
            model: None,
            bus: bus.to_owned(),
            boot_index: self.boot_order,
            virtual_size: 0,
            location: self.path.as_deref().and_then(location),
            format: self.format.clone(),
            file: self.path.clone(),
        }
    }
}

/// A description without what is or may be secret: the environment of QEMU, arguments that hold keys, and credentials
/// that are passed to the guest through its firmware.
pub(super) fn without_secrets_in(peer: &str, xml: &str) -> Result<String> {
    let document = document(peer, xml)?;
    let mut cut: Vec<Range<usize>> =
        document.descendants().filter(|node| is_secret(*node)).map(|node| node.range()).collect();
    // Those inside of others go with them.
    cut.sort_by_key(|range| (range.start, usize::MAX - range.end));
    let mut kept = String::with_capacity(xml.len());
    let mut position = 0;
    for range in cut {
        if range.start >= position {
            kept.push_str(&xml[position..range.start]);
            position = range.end;
        }
    }
    kept.push_str(&xml[position..]);
    Ok(kept)
}

fn is_secret(node: Node<'_, '_>) -> bool {
    let name = node.tag_name();
    let value = || node.attribute("value").unwrap_or_default();
    match (name.namespace(), name.name()) {
        (Some(QEMU_SPACE), "env") => true,
        (Some(QEMU_SPACE), "arg") => without_secrets(value()) != value(),
        (None, "entry") => {
            let text = node.text().unwrap_or_default();
            let in_firmware = node.ancestors().any(|above| above.attribute("type") == Some("fwcfg"));
            in_firmware || text.trim_start().starts_with("io.systemd.credential")
        }
        _ => node.has_attribute("passwd"),
    }
}

fn document<'a>(peer: &str, xml: &'a str) -> Result<Document<'a>> {
    let options = ParsingOptions { allow_dtd: false, nodes_limit: NODES_MAX, ..ParsingOptions::default() };
    let document = Document::parse_with_options(xml, options).map_err(|error| {
        crate::qemu::channel::broken(peer, format!("its description is not XML: {error}"))
    })?;
    if document.root_element().tag_name().name() != "domain" {
        return Err(Error::Protocol {
            peer: peer.to_owned(),
            what: "its description is not that of a domain".to_owned(),
        });
    }
    Ok(document)
}

fn children<'a, 'i>(node: Node<'a, 'i>, name: &str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(move |found| found.has_tag_name(name))
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|found| found.has_tag_name(name))
}

fn words(text: Option<&str>) -> Option<String> {
    text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn disk(node: Node<'_, '_>) -> Option<DescribedDisk> {
    let attribute = |name, key| child(node, name).and_then(|found| words(found.attribute(key)));
    let source = child(node, "source");
    let path = source.and_then(|source| source.attribute("file").or_else(|| source.attribute("dev")));
    Some(DescribedDisk {
        target: attribute("target", "dev")?,
        alias: attribute("alias", "name"),
        device: node.attribute("device").unwrap_or("disk").to_owned(),
        kind: node.attribute("type").unwrap_or_default().to_owned(),
        format: attribute("driver", "type"),
        path: words(path),
        is_read_only: child(node, "readonly").is_some(),
        is_shared: child(node, "shareable").is_some(),
        bus: attribute("target", "bus").unwrap_or_default(),
        boot_order: attribute("boot", "order").and_then(|order| order.parse().ok()),
    })
}

fn nic(node: Node<'_, '_>) -> Option<NicDefinition> {
    let mac = child(node, "mac").and_then(|mac| words(mac.attribute("address")))?;
    let model = child(node, "model").and_then(|model| words(model.attribute("type"))).unwrap_or_default();
    let model = if model == "virtio" { "virtio-net-pci".to_owned() } else { model };
    Some(NicDefinition { model, mac })
}

/// A size with its unit, KiB without one.
fn bytes(node: Node<'_, '_>) -> Option<u64> {
    let number: u64 = node.text()?.trim().parse().ok()?;
    let unit: u64 = match node.attribute("unit").unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web</name><uuid>00112233-4455-6677-8899-aabbccddeeff</uuid>
  <memory unit='GiB'>2</memory><currentMemory unit='KiB'>1048576</currentMemory>
  <vcpu current='2'>4</vcpu>
  <sysinfo type='fwcfg'><entry name='opt/a'>hunter2</entry></sysinfo>
  <sysinfo type='smbios'><oemStrings><entry>io.systemd.credential:a=hunter2</entry><entry>fine</entry></oemStrings></sysinfo>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <loader type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader><nvram>/n.fd</nvram></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/a.qcow2'/>
      <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/><boot order='1'/></disk>
    <disk type='block' device='disk'><driver type='raw'/><source dev='/dev/x'/><target dev='sda' bus='scsi'/><shareable/></disk>
    <disk type='file' device='cdrom'><target dev='sdb' bus='sata'/><readonly/></disk>
    <interface type='network'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>
    <graphics type='vnc' port='-1' passwd='hunter2'/>
  </devices>
  <qemu:commandline><qemu:arg value='-object'/><qemu:arg value='secret,id=s,data=hunter2'/><qemu:env name='A' value='hunter2'/></qemu:commandline>
</domain>";

    #[test]
    fn a_description_tells_what_the_machine_is() {
        let found = Description::parse("web", XML).unwrap();
        let definition = found.definition();
        assert_eq!((definition.cpus, definition.memory_bytes), (2, 1 << 30));
        assert_eq!(definition.machine_type.as_deref(), Some("pc-q35-7.2"));
        assert_eq!(definition.nics[0].model, "virtio-net-pci");
        let buses: Vec<_> =
            definition.disks.iter().map(|disk| (disk.name.as_str(), disk.bus.as_str())).collect();
        assert_eq!(buses, [("vda", "virtio"), ("sda", "scsi")]);
        assert!(matches!(definition.firmware, Firmware::Flash { code: Some(_), variables: Some(_) }));
        assert_eq!(found.disks[0].alias.as_deref(), Some("virtio-disk0"));
        assert!(found.disks[1].is_shared && found.disks[2].is_read_only);
    }

    #[test]
    fn secrets_are_cut_out_and_the_rest_is_kept_as_it_is() {
        let kept = without_secrets_in("web", XML).unwrap();
        assert!(!kept.contains("hunter2"), "{kept}");
        assert!(kept.contains("<entry>fine</entry>") && kept.contains("value='-object'"));
        assert_eq!(Description::parse("web", &kept).unwrap(), Description::parse("web", XML).unwrap());
    }

    #[test]
    fn what_is_no_description_is_refused() {
        let entities = "<!DOCTYPE d [<!ENTITY a 'b'>]><domain>&a;</domain>";
        for bad in ["", "<domain", "<network/>", entities] {
            assert!(Description::parse("x", bad).is_err(), "{bad}");
        }
    }
}
