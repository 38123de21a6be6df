//! Starting a machine again from its definition: a plan, and from it a start script or a domain of libvirt.
//!
//! A definition comes out of a repository and is hostile. What always holds: of its text only checked words get into a
//! plan ([`words`]); models of devices are chosen from those that are known here; files are those that the caller
//! restored; and what else gets into a script or document is quoted for it.

mod domain;
mod network;
mod script;
pub mod words;

use crate::qemu::definition::{DiskDefinition, Firmware, MachineDefinition};
use crate::{Error, Result};

pub use network::{Link, Network};
use words::{Bus, Family, Mac, MachineName, Uuid, is_word};

const MIB: u64 = 1 << 20;
/// Memory where the definition does not tell: 1 GiB.
const MEMORY_BYTES_USUAL: u64 = 1 << 30;
/// More memory than any machine of QEMU can have: 4 TiB.
const MEMORY_BYTES_MAX: u64 = 4 << 40;
/// More processors than types of machines in use can have.
const CPUS_MAX: u64 = 1024;
/// Disks and cards at most: a PC has 32 slots, and some are taken.
const SLOTS_MAX: usize = 24;
/// Disks at most on buses that take more than slots.
const DISKS_MAX: usize = 64;
/// The longest path of a socket, less its zero (`sun_path` of Linux).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Size of the variables of OVMF's older builds of 2 MiB; newer ones have 528 KiB.
const SMALL_VARIABLES_BYTES: u64 = 128 << 10;

/// Network cards that are known, and their names in libvirt.
const NIC_MODELS: [(&str, &str); 8] = [
    ("virtio-net-pci", "virtio"),
    ("e1000e", "e1000e"),
    ("e1000", "e1000"),
    ("rtl8139", "rtl8139"),
    ("vmxnet3", "vmxnet3"),
    ("ne2k_pci", "ne2k_pci"),
    ("pcnet", "pcnet"),
    ("i82551", "i82551"),
];

/// Directories from which firmware is taken without asking.
const FIRMWARE_DIRECTORIES: [&str; 5] =
    ["/usr/share/OVMF/", "/usr/share/ovmf/", "/usr/share/edk2/", "/usr/share/qemu/", "/usr/share/edk2-ovmf/"];

/// Programs and variables of OVMF where distributions have them (Debian, Fedora, Arch, SUSE), by size of the variables.
const FIRMWARE: [(bool, &str, &str); 7] = [
    (false, "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    (false, "/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    (false, "/usr/share/qemu/ovmf-x86_64-4m-code.bin", "/usr/share/qemu/ovmf-x86_64-4m-vars.bin"),
    (true, "/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    (true, "/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    (true, "/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"),
    (true, "/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
];

/// Whether a recovered machine is to be taken for the one that it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// It has what the other had.
    Keep,
    /// It has something new.
    New,
}

/// What a recovered machine is to be like.
#[derive(Debug, Clone)]
pub struct RecoveryOptions {
    /// Its name.
    pub name: MachineName,
    /// Where its files are: an absolute path.
    pub directory: String,
    /// Memory in bytes, instead of what it had.
    pub memory_bytes: Option<u64>,
    /// Processors, instead of what it had.
    pub cpus: Option<u64>,
    /// What its cards are connected to.
    pub network: Network,
    /// Whether its cards have the addresses that they had.
    pub mac: Identity,
    /// Whether the guest sees the identity that it saw.
    pub uuid: Identity,
    /// How its disks are attached, instead of how they were.
    pub bus: Option<Bus>,
}

/// A disk that was restored for a machine.
#[derive(Debug, Clone)]
pub struct RestoredDisk {
    /// Its name: a word as the names of images have it.
    pub name: String,
    /// Its file: an absolute path.
    pub path: String,
    /// Whether the file is a qcow2 image; raw otherwise.
    pub is_qcow2: bool,
    /// What the definition says of it.
    pub definition: Option<DiskDefinition>,
}

/// A machine that can be started: every word in it is checked.
#[derive(Debug, Clone)]
pub struct Blueprint {
    name: MachineName,
    directory: String,
    uuid: Uuid,
    architecture: &'static str,
    family: Family,
    /// The type of machine that it was, where that is a word.
    machine_type: Option<String>,
    /// The processors that it had, where they are no others than any host's.
    cpu_model: Option<String>,
    cpus: u64,
    memory_mib: u64,
    start: Start,
    disks: Vec<PlannedDisk>,
    nics: Vec<PlannedNic>,
    notes: Vec<String>,
}

#[derive(Debug, Clone)]
enum Start {
    Bios,
    Uefi {
        /// The program and the template of its variables, the best first.
        firmware: Vec<(String, String)>,
        /// The file with the variables.
        variables: String,
        /// Name of the disk that it is; without one it is made at the first start.
        disk: Option<String>,
    },
}

#[derive(Debug, Clone)]
struct PlannedDisk {
    name: String,
    path: String,
    is_qcow2: bool,
    bus: Bus,
    boot_index: usize,
}

#[derive(Debug, Clone)]
struct PlannedNic {
    model: (&'static str, &'static str),
    mac: Mac,
    link: Link,
}

impl Blueprint {
    /// Whether machines of this architecture can be started by what is made here.
    #[must_use]
    pub fn knows(architecture: &str) -> bool {
        architecture_of(architecture).is_some()
    }

    /// Plans a machine from what is known of it, the disks that were restored and what the person wants.
    ///
    /// # Errors
    /// It cannot be done so; the message says which option helps.
    pub fn plan(
        definition: &MachineDefinition,
        disks: &[RestoredDisk],
        options: &RecoveryOptions,
    ) -> Result<Self> {
        let refused = |what: String| Error::Refused { peer: options.name.to_string(), what };
        let architecture = architecture_of(&definition.architecture).ok_or_else(|| {
            refused(format!(
                "machines of architecture {:?} cannot be started by a script of Leeward's, those of x86_64 and i386 can",
                definition.architecture
            ))
        })?;
        check_directory(options)?;
        let mut notes = Vec::new();
        let machine_type = definition.machine_type.clone().filter(|name| is_word(name) && name.len() <= 64);
        let family = Family::of(machine_type.as_deref().unwrap_or_default());
        let uuid = match (options.uuid, definition.uuid.as_deref().and_then(Uuid::parse)) {
            (Identity::Keep, Some(uuid)) => uuid,
            _ => Uuid::new()?,
        };
        let start = start(definition, disks, options, &mut notes);
        let mut planned = Self {
            name: options.name.clone(),
            directory: options.directory.clone(),
            uuid,
            architecture,
            family,
            machine_type,
            cpu_model: cpu_model(definition),
            cpus: cpus(definition, options)?,
            memory_mib: memory_mib(definition, options, &mut notes)?,
            disks: plan_disks(disks, &start, options, &mut notes),
            start,
            nics: plan_nics(definition, options, &mut notes)?,
            notes,
        };
        planned.check_room()?;
        planned.note_missing(definition, disks);
        Ok(planned)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &MachineName {
        &self.name
    }

    /// What could not be as it was, for people.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The program that runs it.
    #[must_use]
    pub fn program(&self) -> String {
        format!("qemu-system-{}", self.architecture)
    }

    /// Takes the usual type of machine when QEMU, by what it answers to `-machine help`, does not know the one that it
    /// was. The start script looks for itself.
    pub fn fit(&mut self, known_types: &str) {
        let is_known =
            |name: &String| known_types.lines().any(|line| line.split_whitespace().next() == Some(name));
        if let Some(unknown) = self.machine_type.take_if(|name| !is_known(name)) {
            self.notes.push(format!(
                "QEMU does not know the type of machine {unknown} here, and {} takes its place",
                self.family.name()
            ));
        }
    }

    /// A file of the machine in its directory.
    fn file(&self, ending: &str) -> String {
        file(&self.directory, &self.name, ending)
    }

    /// The sockets and files that a machine of this plan makes when it is started with the script.
    #[must_use]
    pub fn run_files(&self) -> RunFiles {
        RunFiles {
            monitor: self.file("qmp"),
            console: self.file("console"),
            serial: self.file("serial"),
            agent: self.file("agent"),
            pid: self.file("pid"),
            log: self.file("log"),
        }
    }

    fn check_room(&self) -> Result<()> {
        let refused = |what: String| Err(Error::Refused { peer: self.name.to_string(), what });
        let on = |wanted: Bus| self.disks.iter().filter(|disk| disk.bus == wanted).count();
        let (ide, ide_max) = (on(Bus::Ide), if self.family == Family::Q35 { 6 } else { 4 });
        if ide > ide_max {
            return refused(format!(
                "it has {ide} disks on ide, which has room for {ide_max}: say --bus scsi"
            ));
        }
        if on(Bus::Virtio) + on(Bus::Nvme) + self.nics.len() > SLOTS_MAX || self.disks.len() > DISKS_MAX {
            return refused(format!(
                "{} disks and {} network cards are more than there are slots for: say --bus scsi, or choose disks with --disk",
                self.disks.len(),
                self.nics.len()
            ));
        }
        Ok(())
    }

    fn note_missing(&mut self, definition: &MachineDefinition, disks: &[RestoredDisk]) {
        let has = |name: &str| {
            disks.iter().any(|disk| disk.definition.as_ref().is_some_and(|found| found.name == name))
        };
        let missing: Vec<String> = definition
            .disks
            .iter()
            .filter(|disk| !has(&disk.name))
            .map(|disk| format!("{:?}", disk.name))
            .collect();
        if !missing.is_empty() {
            self.notes
                .push(format!("the machine had disks that it does not get now: {}", missing.join(", ")));
        }
    }
}

/// What a machine makes when it is started with the script.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RunFiles {
    /// Socket of its monitor: what `leeward backup qmp:` takes.
    pub monitor: String,
    /// What its serial console has said.
    pub console: String,
    /// Socket of its serial console.
    pub serial: String,
    /// Socket of the guest's agent.
    pub agent: String,
    /// Number of its process.
    pub pid: String,
    /// What QEMU has said.
    pub log: String,
}

fn file(directory: &str, name: &MachineName, ending: &str) -> String {
    format!("{}/{name}.{ending}", directory.trim_end_matches('/'))
}

fn architecture_of(name: &str) -> Option<&'static str> {
    ["x86_64", "i386"].into_iter().find(|known| *known == name)
}

/// The directory's path goes into a script and a document, and sockets are made there.
fn check_directory(options: &RecoveryOptions) -> Result<()> {
    let refused = |what: String| Err(Error::Refused { peer: options.directory.clone(), what });
    if !options.directory.starts_with('/') || options.directory.chars().any(char::is_control) {
        return refused("a directory with control characters in its path cannot be used".to_owned());
    }
    let longest = file(&options.directory, &options.name, "serial");
    if longest.len() > SOCKET_PATH_BYTES_MAX {
        return refused(format!(
            "{longest} would be a socket, whose path may have {SOCKET_PATH_BYTES_MAX} bytes: choose a shorter directory"
        ));
    }
    Ok(())
}

fn cpus(definition: &MachineDefinition, options: &RecoveryOptions) -> Result<u64> {
    let cpus = options.cpus.unwrap_or(definition.cpus.max(1));
    if (1..=CPUS_MAX).contains(&cpus) {
        return Ok(cpus);
    }
    Err(Error::Refused {
        peer: options.name.to_string(),
        what: format!("it cannot have {cpus} processors: say --cpus N, up to {CPUS_MAX}"),
    })
}

fn memory_mib(
    definition: &MachineDefinition,
    options: &RecoveryOptions,
    notes: &mut Vec<String>,
) -> Result<u64> {
    let bytes = match options.memory_bytes.unwrap_or(definition.memory_bytes) {
        0 => {
            notes.push("its memory is not known, and it gets 1 GiB: --memory SIZE says otherwise".to_owned());
            MEMORY_BYTES_USUAL
        }
        bytes => bytes,
    };
    if (MIB..=MEMORY_BYTES_MAX).contains(&bytes) {
        return Ok(bytes.div_ceil(MIB));
    }
    Err(Error::Refused {
        peer: options.name.to_string(),
        what: format!("it cannot have {bytes} bytes of memory: say --memory SIZE, from 1M to 4T"),
    })
}

/// The model of its processors as `-cpu` takes it: `Skylake-Server-x86_64-cpu` without its end. Those of the host are
/// another host's now.
fn cpu_model(definition: &MachineDefinition) -> Option<String> {
    let kind = definition.cpu_type.as_deref()?;
    let model = kind.strip_suffix("-cpu")?.strip_suffix(&format!("-{}", definition.architecture))?;
    (is_word(model) && model.len() <= 64 && !["host", "max", "base"].contains(&model))
        .then(|| model.to_owned())
}

/// Whether a disk holds the variables of a machine's firmware rather than anything that a bus takes. Such a disk is to be
/// restored as a raw file.
#[must_use]
pub fn holds_variables(definition: &MachineDefinition, disk: &DiskDefinition) -> bool {
    let is_named = match &definition.firmware {
        Firmware::Flash { variables: Some(name), .. } => disk.name == *name,
        _ => false,
    };
    is_named || disk.bus == "flash"
}

fn start(
    definition: &MachineDefinition,
    disks: &[RestoredDisk],
    options: &RecoveryOptions,
    notes: &mut Vec<String>,
) -> Start {
    let Firmware::Flash { code, .. } = &definition.firmware else { return Start::Bios };
    let disk = disks
        .iter()
        .find(|disk| disk.definition.as_ref().is_some_and(|found| holds_variables(definition, found)));
    let is_small = disk
        .and_then(|disk| disk.definition.as_ref())
        .is_some_and(|disk| disk.virtual_size == SMALL_VARIABLES_BYTES);
    let mut firmware: Vec<(String, String)> = FIRMWARE
        .iter()
        // With captured variables only a program fits that has as many.
        .filter(|(small, _, _)| disk.is_none() || *small == is_small)
        .map(|(_, code, variables)| ((*code).to_owned(), (*variables).to_owned()))
        .collect();
    match code.as_deref().filter(|code| is_firmware(code)) {
        // Its own program goes before others; a template of variables is only known for those above.
        Some(code) if disk.is_some() => firmware.insert(0, (code.to_owned(), String::new())),
        Some(code) => {
            if let Some(place) = firmware.iter().position(|(known, _)| known == code) {
                firmware[..=place].rotate_right(1);
            }
        }
        None => notes.extend(code.as_ref().map(|code| {
            format!("its firmware {code:?} lies where firmware is not taken from without asking; OVMF_CODE=FILE names one")
        })),
    }
    if disk.is_none() {
        notes.push(
            "the variables of its firmware were not backed up: new ones are made at the first start, and boot entries are lost"
                .to_owned(),
        );
    }
    Start::Uefi {
        firmware,
        variables: disk
            .map_or_else(|| file(&options.directory, &options.name, "vars"), |disk| disk.path.clone()),
        disk: disk.map(|disk| disk.name.clone()),
    }
}

/// A file that is firmware by its place: any other could be a file of this host that a guest is not to read.
fn is_firmware(path: &str) -> bool {
    FIRMWARE_DIRECTORIES.iter().any(|directory| {
        path.strip_prefix(directory).is_some_and(|rest| {
            rest.len() <= 128 && rest.split('/').all(|part| is_word(part) && !part.starts_with('.'))
        })
    })
}

fn plan_disks(
    disks: &[RestoredDisk],
    start: &Start,
    options: &RecoveryOptions,
    notes: &mut Vec<String>,
) -> Vec<PlannedDisk> {
    let variables = match start {
        Start::Bios => None,
        Start::Uefi { disk, .. } => disk.as_deref(),
    };
    let mut planned: Vec<(i64, PlannedDisk)> = Vec::new();
    for disk in disks.iter().filter(|disk| Some(disk.name.as_str()) != variables) {
        let recorded = disk.definition.as_ref().map(|disk| disk.bus.as_str());
        let bus = options.bus.or_else(|| recorded?.parse().ok()).unwrap_or_else(|| {
            notes.push(format!("how disk {} was attached is not known: it is on virtio now", disk.name));
            Bus::Virtio
        });
        let order = disk.definition.as_ref().and_then(|disk| disk.boot_index).unwrap_or(i64::MAX);
        let (name, path, is_qcow2) = (disk.name.clone(), disk.path.clone(), disk.is_qcow2);
        planned.push((order, PlannedDisk { name, path, is_qcow2, bus, boot_index: 0 }));
    }
    // The disk that starts the machine comes first, in its slot too: what order the others had is not known. QEMU takes
    // no index twice.
    planned.sort_by_key(|(order, _)| *order);
    let numbered = planned.into_iter().enumerate();
    numbered.map(|(place, (_, disk))| PlannedDisk { boot_index: place + 1, ..disk }).collect()
}

fn plan_nics(
    definition: &MachineDefinition,
    options: &RecoveryOptions,
    notes: &mut Vec<String>,
) -> Result<Vec<PlannedNic>> {
    let count = definition.nics.len();
    let refused = |what: String| Error::Refused { peer: options.name.to_string(), what };
    if count > SLOTS_MAX {
        return Err(refused(format!("its definition has {count} network cards, more than there are slots")));
    }
    let links = match &options.network {
        Network::All(Link::Tap(_)) if count > 1 => {
            return Err(refused(format!(
                "it has {count} network cards, and a tap interface takes one: say --network bridge=NAME"
            )));
        }
        Network::All(link) => vec![link.clone(); count],
        Network::Keep => network::of_command_line(definition)
            .filter(|links| links.len() == count)
            .ok_or_else(|| refused("its definition does not tell what its network cards were connected to: say --network none, user, bridge=NAME or tap=NAME".to_owned()))?,
    };
    let mut planned = Vec::new();
    for (nic, link) in definition.nics.iter().zip(links) {
        let known = NIC_MODELS.iter().find(|(name, _)| {
            nic.model == *name || (*name == "virtio-net-pci" && nic.model.starts_with("virtio-net"))
        });
        let model = *known.unwrap_or_else(|| {
            notes.push(format!("network card {:?} is not known here: it is a virtio-net-pci now", nic.model));
            &NIC_MODELS[0]
        });
        let mac = match (options.mac, Mac::parse(&nic.mac)) {
            (Identity::Keep, Some(mac)) => mac,
            (Identity::Keep, None) => {
                notes.push(format!("{:?} is no address of a network card: it has a new one", nic.mac));
                Mac::new()?
            }
            (Identity::New, _) => Mac::new()?,
        };
        planned.push(PlannedNic { model, mac, link });
    }
    Ok(planned)
}

#[cfg(test)]
mod tests;
