//! Providers: adapters to what runs machines.
//!
//! - [`libvirt`]: domains of libvirt, through its daemon.
//! - [`qemu`]: machines of QEMU, over its monitor protocol (QMP).

mod error;
pub mod libvirt;
pub mod qemu;

pub use error::{Error, ErrorKind, Result};
