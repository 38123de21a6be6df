//! Attachments: where a volume shows as a device.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{AttachmentId, AttachmentState, InstanceId, Owner, Provider, Reported, VolumeId};
use crate::Result;

/// How a volume comes to the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentKind {
    /// The hypervisor shows it as a device.
    #[default]
    Paravirtualized,
    /// The machine logs in to an iSCSI target.
    Iscsi,
}

/// An attachment that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentSpec {
    /// The volume.
    pub volume: VolumeId,
    /// The machine.
    pub instance: InstanceId,
    /// How.
    pub kind: AttachmentKind,
    /// The device path that the machine shall see, where the provider lets one choose.
    pub device: Option<PathBuf>,
    /// Whether writing is refused.
    pub read_only: bool,
    /// The step that makes it.
    pub owner: Owner,
}

/// The number under which targets of iSCSI show a volume.
pub(crate) const LUN: u16 = 1;

/// Where the bytes of an attached volume are, as the machine sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Device {
    /// A block device, or the file that stands for one.
    Path(PathBuf),
    /// LUN 1 of a target of iSCSI, without a password.
    Iscsi {
        /// The portal.
        portal: SocketAddr,
        /// Name of the target.
        iqn: String,
    },
    /// An image of RBD, and how it is reached: `rbd:POOL/IMAGE[?conf=FILE&id=USER]`.
    Rbd(String),
}

/// What people read, and what tells it from other devices: a path, `rbd:POOL/IMAGE`, `iscsi://PORTAL/IQN/1`.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Iscsi { portal, iqn } => write!(f, "iscsi://{portal}/{iqn}/{LUN}"),
            Self::Rbd(address) => f.write_str(address.split('?').next().unwrap_or_default()),
        }
    }
}

impl From<&Path> for Device {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<&PathBuf> for Device {
    fn from(path: &PathBuf) -> Self {
        Self::Path(path.clone())
    }
}

impl From<&Device> for Device {
    fn from(device: &Device) -> Self {
        device.clone()
    }
}

/// An attachment, as the provider tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The provider's name of it.
    pub id: AttachmentId,
    /// The volume.
    pub volume: VolumeId,
    /// The machine.
    pub instance: InstanceId,
    /// Whether writing is refused.
    pub read_only: bool,
    /// Its state.
    pub state: Reported<AttachmentState>,
    /// Where it shows, once the provider knows. A provider that leaves the choice to the machine does not: then it is
    /// found by what appears there.
    pub device: Option<Device>,
}

/// The machine on which this process runs, where the provider knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    /// The machine.
    pub instance: InstanceId,
    /// Its domain: volumes of others cannot be attached to it.
    pub domain: Option<String>,
}

/// A provider that attaches volumes.
pub trait Attachments: Provider {
    /// Attaches a volume, or finds the live attachment of it to the same machine.
    ///
    /// # Errors
    /// The provider failed or refused; a conflict, which names the machine, when it is attached elsewhere, and when
    /// machine or volume are not in a state for it.
    fn attach(&self, spec: &AttachmentSpec) -> Result<Attachment>;

    /// Tells of an attachment.
    ///
    /// # Errors
    /// The provider failed; or it has no such attachment: not found.
    fn attachment(&self, id: &AttachmentId) -> Result<Attachment>;

    /// The attachments of a volume that are not undone.
    ///
    /// # Errors
    /// The provider failed or refused.
    fn attachments_of(&self, volume: &VolumeId) -> Result<Vec<Attachment>>;

    /// Begins to detach; succeeds when it is undone or being undone.
    ///
    /// # Errors
    /// The provider failed; a conflict while it is still being attached.
    fn detach(&self, id: &AttachmentId) -> Result<()>;

    /// The machine on which this process runs; `None` when it is not one of this provider's.
    ///
    /// # Errors
    /// The provider cannot be asked.
    fn here(&self) -> Result<Option<Here>>;
}
