//! Providers: adapters to what runs machines.
//!
//! - [`libvirt`]: domains of libvirt, through its daemon.
//! - [`device`]: one block device of this machine as a volume.
//! - [`directory`]: volumes as files in a folder.
//! - [`oci`]: Oracle Cloud Infrastructure.
//! - [`provider`]: what an import and a recovery ask of a cloud: volumes, attachments, instances.
//! - [`qemu`]: machines of QEMU, over its monitor protocol (QMP).
//! - [`rbd`]: images of Ceph, which machines use as disks.

pub mod device;
pub mod directory;
mod error;
pub mod libvirt;
pub mod oci;
pub mod provider;
pub mod qemu;
pub mod rbd;

pub use error::{Error, ErrorKind, Result};
