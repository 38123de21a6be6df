//! Images of RBD, Ceph's block device, as disks.
//!
//! An image is named `rbd:POOL/IMAGE[@SNAPSHOT]`. Two programs that every user of Ceph has do the work, so no library of
//! Ceph is linked: the `rbd` tool ([`Cluster`]) makes snapshots and tells what differs between two of them, and `qemu-nbd`
//! with QEMU's rbd driver serves the bytes over a socket of this process's own ([`bridge`](crate::bridge)).
//!
//! A pool is also a place for volumes of its own: [`RbdVolumes`].
//!
//! What always holds: a moving image is never backed up, only a snapshot of it; an image is written by one client alone; and the tool's list of differences is believed
//! only for a snapshot that is the very one, by identity, from which the last backup was made.

mod cluster;
mod location;
mod open;
mod plan;
mod volumes;

pub use cluster::{Cluster, ImageInfo, RbdSnapshot};
pub use location::Location;
pub use plan::{Known, Mode, Moment, decide};
pub use volumes::RbdVolumes;
