//! The backup of a machine: all its disks become a group of snapshots of one moment.
//!
//! A machine that runs is captured as it runs ([`running`]); a domain of libvirt that is shut off is read from its files
//! ([`resting`]). What has changed is read where the machine's own bitmaps can be trusted to say so, and all of it otherwise,
//! with the reason in the snapshot.

mod resting;
mod running;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use leeward_cloud::libvirt::{self, Domain, State};
use leeward_cloud::qemu::{
    CaptureOptions, GuardianProgram, LeftOut, Machine, MachineDisk, Mode, Moment, Qmp, QmpOptions, Wanted,
};
use leeward_repository::{BackupOutcome, ImageName, Repository, SnapshotId};
use leeward_store::RateLimit;

use crate::{Attendant, Error, ErrorKind, Result};

/// What begins the source that is a machine behind a socket.
const SCHEME: &str = "qmp:";
/// How long a guest's file systems may be frozen where nothing is said.
pub const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// A machine by the name that a person gives it, and the disks of it that are meant; all where none are named.
#[derive(Debug, Clone)]
pub enum MachinePlace {
    /// Behind a socket of QEMU's monitor: `qmp:SOCKET[?disk=NAME&disk=NAME…]`.
    Socket {
        /// The socket.
        socket: PathBuf,
        /// The disks, as QEMU calls them.
        disks: Vec<String>,
    },
    /// A domain of libvirt: `libvirt:DOMAIN[?disk=vda…]`.
    Domain(libvirt::Place),
}

impl MachinePlace {
    /// The machine that is meant; `None` where something else is.
    #[must_use]
    pub fn parse(source: &str) -> Option<Result<Self>> {
        if let Some(place) = libvirt::Place::parse(source) {
            return Some(place.map(Self::Domain).map_err(|what| {
                Error::asked(
                    ErrorKind::Usage,
                    format!("{source}: {what}"),
                    "a domain is given as libvirt:DOMAIN or libvirt:DOMAIN?disk=vda&disk=vdb&connect=URI",
                )
            }));
        }
        let rest = source.strip_prefix(SCHEME)?;
        let (socket, query) =
            rest.split_once("?disk=").map_or((rest, None), |(socket, query)| (socket, Some(query)));
        let disks: Vec<String> =
            query.into_iter().flat_map(|query| query.split("&disk=")).map(str::to_owned).collect();
        if socket.is_empty() || disks.iter().any(String::is_empty) {
            return Some(Err(Error::asked(
                ErrorKind::Usage,
                format!("{source}: no socket, or a disk without a name"),
                "a machine is given as qmp:SOCKET or qmp:SOCKET?disk=NAME&disk=NAME",
            )));
        }
        Some(Ok(Self::Socket { socket: socket.into(), disks }))
    }

    /// Finds the machine.
    ///
    /// # Errors
    /// libvirt knows no such domain, or does not answer.
    pub fn find(&self) -> Result<Found> {
        let (way, disks) = match self {
            Self::Socket { socket, disks } => (Way::Socket(socket.clone()), disks),
            Self::Domain(place) => {
                let domain = Domain::find(place)?;
                if domain.state() == State::ShutOff {
                    return Ok(Found::Resting(Box::new(domain), place.disks.clone()));
                }
                (Way::Domain(Box::new(domain)), &place.disks)
            }
        };
        Ok(Found::Running(Running { way, disks: disks.clone() }))
    }
}

/// A machine as it was found.
pub enum Found {
    /// It runs.
    Running(Running),
    /// A domain that is shut off, and the disks of it that are meant.
    Resting(Box<Domain>, Vec<String>),
}

/// A machine that runs, and the disks of it that are meant.
pub struct Running {
    way: Way,
    disks: Vec<String>,
}

/// The way to a machine's monitor.
enum Way {
    Socket(PathBuf),
    Domain(Box<Domain>),
}

impl Running {
    /// The machine behind a socket, as [`MachinePlace::Socket`] is written; `None` where something else is meant.
    #[must_use]
    pub fn behind_socket(source: &str) -> Option<Result<Self>> {
        match MachinePlace::parse(source)? {
            Ok(MachinePlace::Socket { socket, disks }) => Some(Ok(Self { way: Way::Socket(socket), disks })),
            Ok(MachinePlace::Domain(_)) => None,
            Err(error) => Some(Err(error)),
        }
    }

    fn peer(&self) -> String {
        match &self.way {
            Way::Socket(socket) => socket.display().to_string(),
            Way::Domain(domain) => format!("domain {}", domain.name()),
        }
    }

    fn location(&self, disk: &MachineDisk) -> String {
        match &self.way {
            Way::Socket(socket) => format!("{SCHEME}{}?disk={}", socket.display(), disk.name),
            Way::Domain(domain) => domain.location(&disk.name),
        }
    }

    /// Connects to its monitor.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn monitor(&self) -> Result<Qmp> {
        let options = QmpOptions::default();
        Ok(match &self.way {
            Way::Socket(socket) => Qmp::connect(socket, &options)?,
            Way::Domain(domain) => domain.monitor(&options)?,
        })
    }

    /// The machine with the disks that are meant.
    ///
    /// # Errors
    /// It is in no state to be backed up, or has no such disk.
    pub fn selected(&self, mut machine: Machine) -> Result<Machine> {
        if let Way::Domain(domain) = &self.way {
            domain.name_disks(&mut machine);
        }
        machine.check_state(&self.peer())?;
        machine.select(&self.peer(), &self.disks)?;
        Ok(machine)
    }
}

/// How the moment of a machine that runs is taken.
#[derive(Debug, Clone)]
pub struct CaptureSettings {
    /// How far the content has to agree with itself.
    pub consistency: Wanted,
    /// Socket of the guest's agent; the machine is asked where absent.
    pub agent: Option<PathBuf>,
    /// Who thaws the guest if this process is killed.
    pub guardian: Option<GuardianProgram>,
    /// How long the guest's file systems may be frozen.
    pub freeze_limit: Duration,
    /// Where to keep what the guest overwrites meanwhile; `/var/tmp` where absent.
    pub overlay_directory: Option<PathBuf>,
    /// How much of it to keep for each disk, in bytes.
    pub overlay_bytes_max: Option<u64>,
}

impl CaptureSettings {
    /// The options of a capture; `prefix` begins the names of the chain's bitmaps.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn options(&self, prefix: String, threads: usize) -> Result<CaptureOptions> {
        let usual = || {
            let usual = PathBuf::from("/var/tmp");
            if usual.is_dir() { usual } else { std::env::temp_dir() }
        };
        Ok(CaptureOptions {
            prefix,
            group: group_id()?,
            consistency: self.consistency,
            agent: self.agent.clone(),
            guardian: self.guardian.clone(),
            freeze_limit: self.freeze_limit,
            overlay_directory: self.overlay_directory.clone().unwrap_or_else(usual),
            overlay_bytes_max: self.overlay_bytes_max,
            connections: threads.min(4),
        })
    }
}

/// An identity of a group: another one each time.
///
/// # Errors
/// The system gives no random bytes.
pub fn group_id() -> Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| {
        Error::asked(ErrorKind::Failed, format!("the system gives no random bytes: {error}"), "try again")
    })?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A machine that is to become a group of snapshots.
#[derive(Debug, Clone)]
pub struct MachineBackup {
    /// The machine.
    pub place: MachinePlace,
    /// What the names of its disks' images begin with: `IMAGE/DISK`.
    pub image: ImageName,
    /// Read the disks whole, also where it is known what has changed.
    pub full: bool,
    /// How the moment is taken.
    pub capture: CaptureSettings,
    /// Remove what another backup left in the machine, though it cannot be told whether that one still runs.
    pub take_over: bool,
    /// The directory in which files lie that images of a domain that is shut off may name.
    pub allow_references: Option<PathBuf>,
    /// Tags of the new snapshots.
    pub tags: BTreeMap<String, String>,
    /// Threads that read, hash and compress; one per processor where absent.
    pub threads: Option<usize>,
    /// How fast the disks are read at most, all together.
    pub limit_read: Option<Arc<RateLimit>>,
}

/// What such a backup made.
#[derive(Debug, Clone)]
pub struct MachineDone {
    /// How the moment was taken.
    pub moment: Moment,
    /// The disks.
    pub disks: Vec<DiskDone>,
}

/// A disk of a machine that was backed up.
#[derive(Debug, Clone)]
pub struct DiskDone {
    /// What the machine calls it.
    pub name: String,
    /// Its snapshot.
    pub outcome: BackupOutcome,
    /// Bytes that were read from the disk itself.
    pub disk_bytes: u64,
    /// Bytes that were read from what the guest had overwritten meanwhile.
    pub overlay_bytes: u64,
}

/// What such a backup would do.
pub struct MachinePlan {
    /// Disks that are no part of it.
    pub left_out: Vec<LeftOut>,
    /// The others.
    pub disks: Vec<PlannedDisk>,
}

/// What is to become of one disk.
pub enum PlannedDisk {
    /// Of a machine that runs.
    Running {
        /// The disk.
        disk: Box<MachineDisk>,
        /// Its image.
        image: ImageName,
        /// The snapshot that is the image's newest.
        last: Option<SnapshotId>,
        /// How it is read.
        mode: Mode,
    },
    /// Of a domain that is shut off.
    Resting {
        /// What the domain calls it.
        name: String,
        /// Its file or device.
        path: PathBuf,
        /// Its image.
        image: ImageName,
        /// Its size, as a guest sees it.
        virtual_size: u64,
    },
}

impl MachineBackup {
    /// Backs the machine up. When this returns, the snapshots survive anything.
    ///
    /// # Errors
    /// The machine or the repository fails, another backup is at work on the machine, or the wanted consistency cannot be had.
    /// Then there is no new snapshot, and the machine goes on as if nothing had been.
    pub fn back_up(&self, repository: &Repository, attendant: &dyn Attendant) -> Result<MachineDone> {
        self.back_up_found(self.place.find()?, repository, attendant)
    }

    /// The same, of the machine as it was found.
    ///
    /// # Errors
    /// As [`MachineBackup::back_up`].
    pub fn back_up_found(
        &self,
        found: Found,
        repository: &Repository,
        attendant: &dyn Attendant,
    ) -> Result<MachineDone> {
        match found {
            Found::Running(running) => running::back_up(self, &running, repository, attendant),
            Found::Resting(domain, disks) => resting::back_up(self, *domain, &disks, repository, attendant),
        }
    }

    /// What the backup would do; nothing is stored, and nothing in the machine is changed.
    ///
    /// # Errors
    /// As [`MachineBackup::back_up`].
    pub fn plan(&self, found: &Found, repository: &Repository) -> Result<MachinePlan> {
        match found {
            Found::Running(running) => running::show(self, running, repository),
            Found::Resting(domain, disks) => resting::show(self, domain, disks),
        }
    }

    /// The image of a disk.
    fn image_of(&self, disk: &str) -> Result<ImageName> {
        Ok(format!("{}/{disk}", self.image).parse()?)
    }
}

/// Tells which disks are no part of a backup.
fn tell_left_out(left_out: &[LeftOut], attendant: &dyn Attendant) {
    for left_out in left_out {
        attendant.says(&format!("disk {} is left out: {}", left_out.name, left_out.why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(source: &str) -> (PathBuf, Vec<String>) {
        match MachinePlace::parse(source).unwrap().unwrap() {
            MachinePlace::Socket { socket, disks } => (socket, disks),
            MachinePlace::Domain(_) => panic!("{source} is no domain"),
        }
    }

    #[test]
    fn a_machine_and_its_disks_are_told_from_other_sources() {
        assert!(MachinePlace::parse("disk.raw").is_none() && MachinePlace::parse("nbd://host/x").is_none());
        let (path, disks) = socket("qmp:/run/a?b.sock?disk=vd0&disk=#block1");
        assert_eq!(path, PathBuf::from("/run/a?b.sock"));
        assert_eq!(disks, ["vd0", "#block1"]);
        assert!(socket("qmp:/run/a").1.is_empty());
        for bad in ["qmp:", "qmp:?disk=a", "qmp:/a?disk=", "qmp:/a?disk=b&disk="] {
            assert!(MachinePlace::parse(bad).unwrap().is_err(), "{bad}");
        }
        assert!(matches!(MachinePlace::parse("libvirt:web"), Some(Ok(MachinePlace::Domain(_)))));
    }
}
