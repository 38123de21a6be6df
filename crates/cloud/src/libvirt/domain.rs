//! A domain: its monitor while it runs, its disks while it does not.

use std::path::PathBuf;

use super::channel::DomainChannel;
use super::connection::{Connection, DomainId, State};
use super::description::{DescribedDisk, Description, without_secrets_in};
use super::place::Place;
use crate::qemu::{LeftOut, Machine, MachineDefinition, Qmp, QmpOptions};
use crate::{Error, Result};

/// A domain as it was when it was looked for.
#[derive(Debug)]
pub struct Domain {
    connection: Connection,
    id: DomainId,
    state: State,
    description: Description,
    /// As it is kept with snapshots.
    xml: String,
}

/// A disk of a domain that is shut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestingDisk {
    /// Target, as in `vda`.
    pub name: String,
    /// Its file or device.
    pub path: PathBuf,
    /// Format of the image, where the description tells.
    pub format: Option<String>,
}

impl Domain {
    /// Finds a domain.
    ///
    /// # Errors
    /// libvirt cannot be reached or does not know it.
    pub fn find(place: &Place) -> Result<Self> {
        let mut connection = Connection::open(place.connect.as_deref())?;
        let id = connection.find(&place.domain)?;
        connection.rpc.set_peer(format!("domain {}", id.name));
        let state = connection.state(&id)?;
        let current = connection.xml(&id, state)?;
        let description = Description::parse(connection.rpc.peer(), &current)?;
        let lasting = connection.lasting_xml(&id)?;
        let xml = without_secrets_in(connection.rpc.peer(), &lasting)?;
        Ok(Self { connection, id, state, description, xml })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.id.name
    }

    /// A disk of it as people name it.
    #[must_use]
    pub fn location(&self, disk: &str) -> String {
        format!("{}{}?disk={disk}", super::SCHEME, encode(&self.id.name))
    }

    /// What it did when it was looked for.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// What it does now.
    ///
    /// # Errors
    /// libvirt does not answer.
    pub fn state_now(&mut self) -> Result<State> {
        self.connection.state(&self.id)
    }

    /// A way to its monitor.
    ///
    /// # Errors
    /// libvirt does not answer.
    pub fn monitor(&self, options: &QmpOptions) -> Result<Qmp> {
        let channel = DomainChannel::new(self.connection.again()?, self.id.clone())?;
        Qmp::through(Box::new(channel), options)
    }

    /// Gives the disks that QEMU tells of the names that the domain has for them.
    pub fn name_disks(&self, machine: &mut Machine) {
        for disk in &mut machine.disks {
            let model = disk.model.as_deref().unwrap_or_default();
            match disk.device.as_deref().and_then(|alias| self.target(alias)) {
                Some(target) => disk.name = target,
                None if model.starts_with("cfi.pflash") => disk.name = super::NVRAM.to_owned(),
                None => {}
            }
        }
        for left_out in &mut machine.left_out {
            if let Some(target) = self.target(&left_out.name) {
                left_out.name = target;
            }
        }
    }

    fn target(&self, alias: &str) -> Option<String> {
        let disk = self.description.disks.iter().find(|disk| disk.alias.as_deref() == Some(alias))?;
        Some(part_of_name(&disk.target))
    }

    /// Adds to what QEMU told of the machine what libvirt knows.
    #[must_use]
    pub fn complete(&self, definition: MachineDefinition) -> MachineDefinition {
        let own = self.description.definition();
        MachineDefinition {
            provider: own.provider,
            name: own.name,
            uuid: own.uuid.or(definition.uuid),
            libvirt_xml: Some(self.xml.clone()),
            ..definition
        }
    }

    /// What the machine is made of, without asking QEMU.
    #[must_use]
    pub fn definition(&self) -> MachineDefinition {
        MachineDefinition { libvirt_xml: Some(self.xml.clone()), ..self.description.definition() }
    }

    /// The disks of a domain that is shut off, those of them that are wanted, and those that are left out.
    ///
    /// # Errors
    /// One that is wanted is not there or cannot be read; or there is none at all.
    pub fn resting_disks(&self, wanted: &[String]) -> Result<(Vec<RestingDisk>, Vec<LeftOut>)> {
        let (mut disks, mut left_out) = (Vec::new(), Vec::new());
        for disk in &self.description.disks {
            let name = part_of_name(&disk.target);
            match resting(disk) {
                Ok(path) => disks.push(RestingDisk { name, path, format: disk.format.clone() }),
                Err(why) => left_out.push(LeftOut { name, why }),
            }
        }
        // Variables that were never used have no file yet.
        let variables = self.description.flash_variables.as_ref().map(PathBuf::from);
        if let Some(path) = variables.filter(|path| path.exists()) {
            disks.push(RestingDisk { name: super::NVRAM.to_owned(), path, format: Some("raw".to_owned()) });
        }
        let peer = || self.connection.rpc.peer().to_owned();
        for name in wanted {
            if let Some(found) = left_out.iter().find(|found| found.name == *name) {
                let what = format!("disk {name} cannot be backed up: {}", found.why);
                return Err(Error::Refused { peer: peer(), what });
            }
            if !disks.iter().any(|disk| disk.name == *name) {
                let there: Vec<_> = disks.iter().map(|disk| disk.name.as_str()).collect();
                let what = format!("the domain has no disk {name} — it has {}", there.join(", "));
                return Err(Error::NotFound { peer: peer(), what });
            }
        }
        if !wanted.is_empty() {
            disks.retain(|disk| wanted.contains(&disk.name));
        }
        if disks.is_empty() {
            let what = "the domain has no disk that can be backed up".to_owned();
            return Err(Error::NotFound { peer: peer(), what });
        }
        Ok((disks, left_out))
    }
}

/// The file of a disk at rest, or why it is left out.
fn resting(disk: &DescribedDisk) -> std::result::Result<PathBuf, &'static str> {
    match disk.device.as_str() {
        "disk" | "lun" => {}
        "cdrom" => return Err("it is a CD-ROM drive"),
        "floppy" => return Err("it is a floppy drive"),
        _ => return Err("it is no disk"),
    }
    if disk.is_read_only {
        return Err("it is read-only");
    }
    if disk.is_shared {
        return Err("it may be written by other machines at the same time");
    }
    match (disk.kind.as_str(), &disk.path) {
        ("file" | "block", Some(path)) if path.starts_with('/') => Ok(path.into()),
        ("network", _) => Err("it is a disk in a network, which is read while the domain runs"),
        ("volume", _) => Err("it is a volume of a storage pool, which is read while the domain runs"),
        _ => Err("it has no file or device of its own, and is read while the domain runs"),
    }
}

/// A name within a source: what means something there is written as `%XX`.
fn encode(name: &str) -> String {
    name.bytes().fold(String::new(), |text, byte| match byte {
        b'%' | b'?' | b' ' | 0x7f.. => format!("{text}%{byte:02X}"),
        plain => text + char::from(plain).encode_utf8(&mut [0; 4]),
    })
}

/// Targets are short words; what else is in one becomes `_`, as everywhere in names of images.
fn part_of_name(target: &str) -> String {
    crate::qemu::part_of_name(target)
}
