//! Domains of libvirt: found, described and captured through its daemon, without its library.
//!
//! The daemon passes commands on to QEMU's monitor and open files with them, so a domain is captured by the same code as
//! any machine of QEMU (see [`crate::qemu`]); why not by libvirt's own backups is told in `docs/decisions/0008-libvirt.md`.

mod channel;
mod connection;
mod description;
mod domain;
mod place;
mod rpc;
mod xdr;

pub use connection::State;
pub use domain::{Domain, RestingDisk};
pub use place::{Place, SCHEME};

/// The name of this provider.
pub const PROVIDER: &str = "libvirt";
/// The name of the disk with the variables of UEFI.
const NVRAM: &str = "nvram";
