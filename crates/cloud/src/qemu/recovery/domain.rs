//! The domain of libvirt: <https://libvirt.org/formatdomain.html>.

use std::fmt::Write;

use super::words::{Bus, Family};
use super::{Blueprint, Link, PlannedDisk, PlannedNic, Start};

impl Blueprint {
    /// The document that `virsh define` takes. It is for KVM where `has_kvm`, else for emulation.
    #[must_use]
    pub fn domain(&self, has_kvm: bool) -> String {
        let machine = self.machine_type.as_deref().unwrap_or(self.family.name());
        let mut text = format!(
            "<domain type='{}'>\n  <name>{}</name>\n  <uuid>{}</uuid>\n  <memory unit='MiB'>{}</memory>\n  <vcpu>{}</vcpu>\n",
            if has_kvm { "kvm" } else { "qemu" },
            self.name,
            self.uuid,
            self.memory_mib,
            self.cpus
        );
        let _ = writeln!(
            text,
            "  <os>\n    <type arch='{}' machine='{machine}'>hvm</type>",
            self.libvirt_architecture()
        );
        self.write_loader(&mut text);
        text.push_str("  </os>\n  <features><acpi/><apic/></features>\n");
        text.push_str(match (&self.cpu_model, has_kvm) {
            (Some(_), true) => "  <cpu mode='host-model'/>\n",
            // What an emulator can do and named models have is not the same; it takes its best.
            _ => "  <cpu mode='maximum'/>\n",
        });
        text.push_str("  <clock offset='utc'/>\n  <devices>\n");
        let mut counts = Letters::default();
        for disk in &self.disks {
            disk.write(&mut text, self.libvirt_bus(disk.bus), &mut counts);
        }
        if self.disks.iter().any(|disk| disk.bus == Bus::Scsi) {
            text.push_str("    <controller type='scsi' index='0' model='virtio-scsi'/>\n");
        }
        for nic in &self.nics {
            nic.write(&mut text);
        }
        let _ = write!(
            text,
            "    <serial type='pty'>
      <log file='{}' append='off'/>
    </serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <graphics type='vnc'><listen type='socket'/></graphics>
    <video><model type='vga'/></video>
  </devices>
</domain>
",
            escape(&self.file("console"))
        );
        text
    }

    fn libvirt_architecture(&self) -> &'static str {
        if self.architecture == "i386" { "i686" } else { self.architecture }
    }

    /// libvirt attaches no disk as NVMe before version 11.5; SATA is what most guests have a driver for.
    fn libvirt_bus(&self, bus: Bus) -> &'static str {
        match (bus, self.family) {
            (Bus::Nvme, _) | (Bus::Ide, Family::Q35) => "sata",
            (bus, _) => bus.name(),
        }
    }

    /// What the document cannot say of the plan, for people.
    #[must_use]
    pub fn domain_notes(&self) -> Vec<String> {
        let has_nvme = self.disks.iter().any(|disk| disk.bus == Bus::Nvme);
        let note =
            "in the domain of libvirt NVMe disks are on SATA, because most versions of libvirt have no NVMe";
        has_nvme.then(|| note.to_owned()).into_iter().collect()
    }

    fn write_loader(&self, text: &mut String) {
        let Start::Uefi { firmware, variables, disk } = &self.start else { return };
        // A document cannot look for itself: the first that is here, or else the one that it was.
        let here = firmware.iter().find(|(code, _)| std::path::Path::new(code).exists());
        let Some((code, template)) = here.or(firmware.first()) else { return };
        let template = match disk {
            None if !template.is_empty() => format!(" template='{}'", escape(template)),
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "    <loader readonly='yes' type='pflash'>{}</loader>\n    <nvram{template}>{}</nvram>",
            escape(code),
            escape(variables)
        );
    }
}

/// How many disks have had a letter, by its prefix.
#[derive(Default)]
struct Letters(Vec<(&'static str, usize)>);

impl Letters {
    /// The next name of a disk in the guest, as libvirt wants to hear it: `vda`, `sdb` … `sdaa`.
    fn next(&mut self, bus: &str) -> String {
        let prefix = match bus {
            "virtio" => "vd",
            "ide" => "hd",
            _ => "sd",
        };
        let found = self.0.iter().position(|(known, _)| *known == prefix);
        let place = found.unwrap_or_else(|| {
            self.0.push((prefix, 0));
            self.0.len() - 1
        });
        let mut number = self.0[place].1;
        self.0[place].1 += 1;
        let mut letters = Vec::new();
        loop {
            letters.push(char::from(b'a' + (number % 26) as u8));
            match number / 26 {
                0 => break,
                rest => number = rest - 1,
            }
        }
        prefix.chars().chain(letters.into_iter().rev()).collect()
    }
}

impl PlannedDisk {
    fn write(&self, text: &mut String, bus: &str, letters: &mut Letters) {
        let format = if self.is_qcow2 { "qcow2" } else { "raw" };
        let _ = write!(
            text,
            "    <disk type='file' device='disk'>
      <driver name='qemu' type='{format}' discard='unmap'/>
      <source file='{}'/>
      <target dev='{}' bus='{bus}'/>
      <boot order='{}'/>
    </disk>
",
            escape(&self.path),
            letters.next(bus),
            self.boot_index
        );
    }
}

impl PlannedNic {
    fn write(&self, text: &mut String) {
        let (kind, source) = match &self.link {
            Link::None => ("user", "      <link state='down'/>\n".to_owned()),
            Link::User => ("user", String::new()),
            Link::Bridge(name) => ("bridge", format!("      <source bridge='{name}'/>\n")),
            Link::Tap(name) => ("ethernet", format!("      <target dev='{name}' managed='no'/>\n")),
        };
        let _ = write!(
            text,
            "    <interface type='{kind}'>
      <mac address='{}'/>
{source}      <model type='{}'/>
    </interface>
",
            self.mac, self.model.1
        );
    }
}

/// Text for XML, between tags or in an attribute. Control characters, which XML has no form for, are refused earlier.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_lettered_as_linux_does() {
        let mut letters = Letters::default();
        let names: Vec<String> = (0..29).map(|_| letters.next("virtio")).collect();
        assert_eq!(
            (names[0].as_str(), names[25].as_str(), names[26].as_str(), names[28].as_str()),
            ("vda", "vdz", "vdaa", "vdac")
        );
        assert_eq!(letters.next("sata"), "sda");
        assert_eq!(letters.next("scsi"), "sdb");
    }
}
