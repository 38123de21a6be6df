//! Providers: adapters to what runs machines.
//!
//! - [`libvirt`]: domains of libvirt, through its daemon.
//! - [`bridge`]: disks that are no path of this machine.
//! - [`device`]: one block device of this machine as a volume.
//! - [`directory`]: volumes as files in a folder.
//! - [`iscsi`]: LUNs of iSCSI.
//! - [`oci`]: Oracle Cloud Infrastructure.
//! - [`openstack`]: block storage and images of OpenStack.
//! - [`provider`]: what an import and a recovery ask of a cloud: volumes, attachments, instances.
//! - [`qemu`]: machines of QEMU, over its monitor protocol (QMP).
//! - [`rbd`]: images of Ceph, which machines use as disks.

pub mod bridge;
pub mod device;
pub mod directory;
mod error;
pub mod iscsi;
pub mod libvirt;
pub mod oci;
pub mod openstack;
pub mod provider;
pub mod qemu;
pub mod rbd;

pub use error::{Error, ErrorKind, Result};
