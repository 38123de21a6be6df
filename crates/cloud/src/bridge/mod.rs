//! Disks that are no path of this machine, through `qemu-nbd`: images of RBD, and LUNs of iSCSI.
//!
//! A program that every user of QEMU has serves the bytes over a socket of this process' own, and our client of NBD reads and
//! writes them with many requests under way. So no library of Ceph or iSCSI is linked, no device of the kernel is needed, and
//! whoever runs this needs no rights beyond those of the storage.
//!
//! What always holds:
//! - who writes a disk from this machine does it alone: see [`turn`]. A bridge whose daemon was killed ends by itself; until it
//!   has ended, nobody else writes. What the kernel or the storage has of its requests by then is theirs: of RBD the exclusive lock
//!   shuts it out; for iSCSI nothing does, which matters only where the next one writes something else;
//! - past memory: QEMU's own cache is off, so what another bridge reads is on the medium;
//! - every wait has a limit.

mod disk;
mod process;
mod turn;

pub use disk::{BridgedDisk, Use, settle};
pub(crate) use process::Options;
pub(crate) use turn::Turn;
