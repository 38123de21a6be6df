//! Providers: adapters to what runs machines.
//!
//! - [`libvirt`]: domains of libvirt, through its daemon.
//! - [`qemu`]: machines of QEMU, over its monitor protocol (QMP).
//! - [`rbd`]: images of Ceph, which machines use as disks.

mod error;
pub mod libvirt;
pub mod qemu;
pub mod rbd;

pub use error::{Error, ErrorKind, Result};
