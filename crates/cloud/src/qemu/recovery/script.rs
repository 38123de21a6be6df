//! The start script: plain sh, every word of QEMU's command line quoted.

use std::fmt::Write;

use serde_json::json;

use super::words::{Bus, Family};
use super::{Blueprint, Link, PlannedDisk, PlannedNic, Start};

impl Blueprint {
    /// The script that starts the machine in the foreground.
    #[must_use]
    pub fn script(&self) -> String {
        let (name, program, pid) = (&self.name, self.program(), quote(&self.run_files().pid));
        let mut text = format!(
            "#!/bin/sh
# Starts the machine {name}, in the foreground. Arguments are added to those of QEMU, as in: {name}.sh -display gtk
# QEMU=PROGRAM is another QEMU, LEEWARD_ACCEL=kvm or tcg another accelerator, OVMF_CODE=FILE another UEFI firmware.
set -eu
umask 077
fail() {{ echo '{name}:' \"$1\" >&2; exit 1; }}

# A second one would take the sockets of the first before it finds that its disks are in use.
if pid=$(cat {pid} 2>/dev/null) && grep -aqF {pid} \"/proc/$pid/cmdline\" 2>/dev/null; then
  fail \"it runs already, as process $pid\"
fi

qemu=${{QEMU:-{program}}}
command -v \"$qemu\" >/dev/null 2>&1 || fail \"$qemu is not installed (Debian: apt install qemu-system-x86)\"

accel=${{LEEWARD_ACCEL:-}}
if [ -z \"$accel\" ]; then
  if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then accel=kvm; else accel=tcg; fi
fi
case $accel in
  kvm) set -- -accel kvm -accel tcg \"$@\" ;;
  *) set -- -accel \"$accel\" \"$@\" ;;
esac

"
        );
        self.write_choices(&mut text);
        self.write_firmware(&mut text);
        text.push_str("exec \"$qemu\" -machine \"$machine\" -cpu \"$cpu\" \\\n");
        for words in self.arguments() {
            let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
            let _ = writeln!(text, "  {} \\", quoted.join(" "));
        }
        text.push_str("  \"$@\"\n");
        text
    }

    /// What depends on the QEMU that runs the script: types of machines and processors come and go with its versions.
    fn write_choices(&self, text: &mut String) {
        let family = self.family.name();
        let wanted = self.machine_type.as_deref().unwrap_or(family);
        let _ = writeln!(
            text,
            "machine={wanted}
if ! \"$qemu\" -machine help | grep -q \"^$machine \"; then
  echo '{}: this QEMU does not know machines of type {wanted}: it takes {family}' >&2
  machine={family}
fi",
            self.name
        );
        match &self.cpu_model {
            None => text.push_str("cpu=max\n"),
            Some(model) => {
                let _ = writeln!(
                    text,
                    "cpu={model}
\"$qemu\" -cpu help | grep -Eq \"^(x86)? *$cpu( |\\$)\" || cpu=max"
                );
            }
        }
    }

    fn write_firmware(&self, text: &mut String) {
        let Start::Uefi { firmware, variables, disk } = &self.start else { return };
        text.push_str("\ncode=${OVMF_CODE:-}\ntemplate=${OVMF_VARS:-}\n");
        for (code, template) in firmware {
            let _ = writeln!(
                text,
                "if [ -z \"$code\" ] && [ -r {0} ]; then code={0} template={1}; fi",
                quote(code),
                quote(template)
            );
        }
        text.push_str(
            "[ -n \"$code\" ] || fail 'no UEFI firmware is here (Debian: apt install ovmf); OVMF_CODE=FILE names one'
case $code in *,*) fail 'the path of the firmware may have no comma in it' ;; esac
",
        );
        let variables = quote(variables);
        if disk.is_none() {
            let _ = writeln!(
                text,
                "if ! [ -e {variables} ]; then
  [ -r \"$template\" ] || fail 'no variables for the UEFI firmware are here; OVMF_VARS=FILE names a template'
  cp \"$template\" {variables}
fi"
            );
        }
        text.push_str("set -- -drive \"if=pflash,unit=0,format=raw,readonly=on,file=$code\" \"$@\"\n");
    }

    /// QEMU's arguments that do not depend on where the script runs, by line.
    fn arguments(&self) -> Vec<Vec<String>> {
        let files = self.run_files();
        let socket = |id: &str, path: &str| format!("socket,id={id},path={},server=on,wait=off", comma(path));
        let mut lines = vec![
            words(["-name", &format!("guest={}", self.name), "-uuid", &self.uuid.to_string()]),
            words(["-smp", &format!("cpus={}", self.cpus), "-m", &format!("size={}M", self.memory_mib)]),
            words(["-nodefaults", "-no-user-config", "-display", "none", "-vga", "std", "-rtc", "base=utc"]),
            words(["-pidfile", &files.pid]),
            words(["-chardev", &socket("monitor", &files.monitor), "-mon", "chardev=monitor,mode=control"]),
            words([
                "-chardev",
                &format!(
                    "{},logfile={},logappend=off",
                    socket("console", &files.serial),
                    comma(&files.console)
                ),
                "-serial",
                "chardev:console",
            ]),
        ];
        if let Start::Uefi { variables, disk, .. } = &self.start {
            let id = disk.as_deref().and_then(identity).map_or(String::new(), |name| format!(",id={name}"));
            let drive = format!("if=pflash,unit=1,format=raw,file={}{id}", comma(variables));
            lines.push(words(["-drive", &drive]));
        }
        // Cards first: guests name them by their slot, and cards usually are in the first that are free.
        lines.extend(self.nics.iter().enumerate().map(|(number, nic)| nic.arguments(number)));
        lines.extend(self.controllers());
        let mut ide = 0;
        for (number, disk) in self.disks.iter().enumerate() {
            let place = match disk.bus {
                Bus::Ide => {
                    let place = ide;
                    ide += 1;
                    place
                }
                _ => number,
            };
            lines.push(disk.arguments(number, place, self.family));
        }
        lines.push(words([
            "-device",
            "virtio-serial-pci",
            "-chardev",
            &socket("agent", &files.agent),
            "-device",
            "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        ]));
        lines
    }

    fn controllers(&self) -> Vec<Vec<String>> {
        let has = |bus| self.disks.iter().any(|disk| disk.bus == bus);
        let mut lines = Vec::new();
        if has(Bus::Scsi) {
            lines.push(words(["-device", "virtio-scsi-pci,id=host-scsi"]));
        }
        if has(Bus::Usb) {
            lines.push(words(["-device", "qemu-xhci,id=host-usb"]));
        }
        lines
    }
}

impl PlannedDisk {
    fn arguments(&self, number: usize, place: usize, family: Family) -> Vec<String> {
        let node = format!("host-disk{number}");
        let file = json!({ "driver": "file", "filename": self.path });
        let format = if self.is_qcow2 { "qcow2" } else { "raw" };
        let node_options = json!({ "driver": format, "node-name": node, "discard": "unmap", "file": file });
        let device = match (self.bus, family) {
            (Bus::Virtio, _) => "virtio-blk-pci".to_owned(),
            (Bus::Scsi, _) => "scsi-hd,bus=host-scsi.0".to_owned(),
            (Bus::Nvme, _) => format!("nvme,serial=leeward{number}"),
            (Bus::Ide, Family::Q35) => format!("ide-hd,bus=ide.{place}"),
            (Bus::Ide, Family::Pc) => format!("ide-hd,bus=ide.{},unit={}", place / 2, place % 2),
            (Bus::Usb, _) => "usb-storage,bus=host-usb.0".to_owned(),
        };
        // The name that the disk had, so that backups of this machine go on with the same images.
        let id = identity(&self.name).map_or(String::new(), |name| format!(",id={name}"));
        let device = format!("{device},drive={node},bootindex={}{id}", self.boot_index);
        words(["-blockdev", &node_options.to_string(), "-device", &device])
    }
}

impl PlannedNic {
    fn arguments(&self, number: usize) -> Vec<String> {
        let backend = match &self.link {
            Link::None => None,
            Link::User => Some(format!("user,id=host-net{number}")),
            Link::Bridge(name) => Some(format!("bridge,id=host-net{number},br={name}")),
            Link::Tap(name) => Some(format!("tap,id=host-net{number},ifname={name},script=no,downscript=no")),
        };
        let device = format!("{},mac={}", self.model.0, self.mac);
        match backend {
            None => words(["-device", &device]),
            Some(backend) => {
                words(["-netdev", &backend, "-device", &format!("{device},netdev=host-net{number}")])
            }
        }
    }
}

/// The name as the identity of a device, if QEMU takes it as one: a word that begins with a letter (`id_wellformed`).
fn identity(name: &str) -> Option<&str> {
    let fits = name.starts_with(|first: char| first.is_ascii_alphabetic()) && super::is_word(name);
    (fits && !name.starts_with("host-")).then_some(name)
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// A value inside a list of options of QEMU: a comma ends it unless it is doubled.
fn comma(value: &str) -> String {
    value.replace(',', ",,")
}

/// A word for sh.
fn quote(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/=:,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}
