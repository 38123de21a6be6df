//! A disk that a bridge serves.

use std::sync::OnceLock;

use leeward_disk::nbd::NbdDisk;
use leeward_disk::{Extent, Format, Info, Source, Target};

use super::process::Bridge;
use super::{Options, Turn};
use crate::iscsi::Lun;
use crate::provider::{Device, LUN};
use crate::rbd::{Cluster, Location};
use crate::{Error, Result};

/// What is done with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is read.
    Read,
    /// It is written; `is_blank` says whether it is known to read as zeros.
    Write {
        /// Whether it is new.
        is_blank: bool,
    },
}

/// An image of RBD (or a snapshot of it), or a LUN of iSCSI, as a disk.
pub struct BridgedDisk {
    // First, so that the connections end before the server does.
    disk: NbdDisk,
    _bridge: Bridge,
    name: String,
    is_blank: bool,
    location: Option<Location>,
    /// Why nothing more can be written, once that was asked.
    lack_of_room: OnceLock<Option<String>>,
}

impl BridgedDisk {
    /// Opens an image, or the snapshot of it that `location` names. An image that is to be written may be open nowhere else: it
    /// is waited for until others have closed it.
    ///
    /// # Errors
    /// QEMU's tools or its rbd driver are missing, there is no such image, somebody else has it open, its pool has no room, or the
    /// cluster does not answer.
    pub fn rbd(location: &Location, purpose: Use) -> Result<Self> {
        let options = location.options();
        let turn = match purpose {
            Use::Read => None,
            Use::Write { .. } => Some(location.turn()?),
        };
        let opened = Self::open(location.to_string(), &options, purpose, turn);
        let disk = opened.map_err(|error| location.explained(error, purpose))?;
        Ok(Self { location: Some(location.clone()), ..disk })
    }

    /// Opens a device of a volume; `None` when it is a path, which needs no bridge.
    #[must_use]
    pub fn of(device: &Device, purpose: Use) -> Option<Result<Self>> {
        match Place::of(device)? {
            Ok(Place::Image(location)) => Some(Self::rbd(&location, purpose)),
            Ok(Place::Lun(lun)) => Some(Self::iscsi(&lun, purpose)),
            Err(error) => Some(Err(error)),
        }
    }

    /// Opens a LUN of iSCSI.
    ///
    /// # Errors
    /// QEMU's tools or its iscsi driver are missing, another process of this machine writes it, or the target does not answer or
    /// lets nobody in.
    pub fn iscsi(lun: &Lun, purpose: Use) -> Result<Self> {
        let peer = lun.to_string();
        let turn = match purpose {
            Use::Read => None,
            Use::Write { .. } => Some(lun.turn()?),
        };
        Self::open(peer, &lun.options(), purpose, turn)
    }

    fn open(name: String, options: &Options, purpose: Use, turn: Option<Turn>) -> Result<Self> {
        let bridge = Bridge::start(&name, options, purpose, turn)?;
        let disk = bridge.connect()?;
        let is_blank = purpose == Use::Write { is_blank: true };
        let lack_of_room = OnceLock::new();
        Ok(Self { disk, _bridge: bridge, name, is_blank, location: None, lack_of_room })
    }

    /// Why the storage takes nothing more, after a write that failed: one without room does not refuse, it waits.
    #[must_use]
    pub fn lack_of_room(&self) -> Option<String> {
        let asked = || Cluster::within_limits(self.location.as_ref()?).lack_of_room();
        self.lack_of_room.get_or_init(asked).clone()
    }

    /// The error with the disk's own name, and as what may pass: the socket of the bridge means nothing to anybody, and whether
    /// its connection broke or the storage refused makes no difference to who waits for it.
    fn told(
        &self,
        action: &'static str,
        offset: u64,
        length: u64,
        error: leeward_disk::Error,
    ) -> leeward_disk::Error {
        let cause = match error {
            leeward_disk::Error::Protocol { what, .. } => what,
            leeward_disk::Error::Io { source, .. } => source.to_string(),
            error => return error,
        };
        leeward_disk::Error::Io {
            path: self.name.clone(),
            action,
            offset,
            length,
            source: std::io::Error::other(cause),
        }
    }

    /// Refuses a disk that cannot be written or is smaller than `virtual_size`.
    ///
    /// # Errors
    /// It is such a disk.
    pub fn check_writable(&self, virtual_size: u64) -> Result<()> {
        Ok(self.disk.check_writable(virtual_size)?)
    }
}

/// What a bridge reaches.
enum Place {
    Image(Box<Location>),
    Lun(Lun),
}

impl Place {
    fn of(device: &Device) -> Option<Result<Self>> {
        match device {
            Device::Path(_) => None,
            Device::Iscsi { portal, iqn } => Some(Lun::new(*portal, iqn, LUN).map(Self::Lun)),
            Device::Rbd(address) => {
                let wrong = |what: String| Error::Refused { peer: address.clone(), what };
                let location = Location::parse(address);
                let location = location.unwrap_or_else(|| Err("it is no image of RBD".to_owned()));
                Some(location.map_err(wrong).map(|location| Self::Image(Box::new(location))))
            }
        }
    }
}

/// Waits until no process of this machine writes a device through a bridge: before it is given back. A bridge of a process that
/// was killed may still be at it.
///
/// # Errors
/// Busy: a process writes it.
pub fn settle(device: &Device) -> Result<()> {
    match Place::of(device).transpose()? {
        None => Ok(()),
        Some(Place::Image(location)) => location.turn_here().map(drop),
        Some(Place::Lun(lun)) => lun.turn().map(drop),
    }
}

impl Source for BridgedDisk {
    fn virtual_size(&self) -> u64 {
        Source::virtual_size(&self.disk)
    }

    fn info(&self) -> Info {
        let details = vec![("image", self.name.clone())];
        Info {
            format: Format::Raw,
            virtual_size: Source::virtual_size(&self.disk),
            allocated_bytes: None,
            details,
        }
    }

    fn extents(&self, offset: u64, length: u64) -> leeward_disk::Result<Vec<Extent>> {
        let found = self.disk.extents(offset, length);
        found.map_err(|error| self.told("look for data in", offset, length, error))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> leeward_disk::Result<()> {
        let length = buffer.len() as u64;
        self.disk.read_at(buffer, offset).map_err(|error| self.told("read", offset, length, error))
    }
}

impl Target for BridgedDisk {
    fn virtual_size(&self) -> u64 {
        Target::virtual_size(&self.disk)
    }

    fn is_blank(&self) -> bool {
        self.is_blank
    }

    fn write_at(&self, data: &[u8], offset: u64) -> leeward_disk::Result<()> {
        let length = data.len() as u64;
        self.disk.write_at(data, offset).map_err(|error| self.told("write", offset, length, error))
    }

    fn zero_at(&self, offset: u64, length: u64) -> leeward_disk::Result<()> {
        self.disk.zero_at(offset, length).map_err(|error| self.told("zero", offset, length, error))
    }

    fn finish(&self, durable: bool) -> leeward_disk::Result<()> {
        self.disk.finish(durable).map_err(|error| self.told("flush", 0, 0, error))
    }
}
