//! Machines of QEMU: its monitor protocol, its disks, and their capture at one moment.
//!
//! A backup of a running machine goes: [`Claim`] the machine, discover its [`Machine`], [`bitmap::decide`] how each disk
//! is read, [`Capture::begin`], read the disks under [`Capture::watched`], confirm, publish, [`Capture::finish`].

pub mod agent;
pub mod bitmap;
mod capture;
pub(crate) mod channel;
pub(crate) mod definition;
mod guardian;
mod lines;
mod machine;
mod overlay;
mod owner;
pub mod qmp;
pub mod recovery;
mod source;
pub mod tracking;

pub use bitmap::{Bitmap, LastSnapshot, Mode};
pub use capture::{Capture, CaptureOptions, CapturedDisk, Claim, Moment, Wanted, Watched};
pub use definition::{DiskDefinition, Firmware, MachineDefinition, NicDefinition};
pub use guardian::{GuardianProgram, stand_guard};
pub(crate) use machine::sanitise as part_of_name;
pub use machine::{LeftOut, Machine, MachineDisk};
pub use qmp::{Qmp, QmpEvent, QmpOptions, QmpVersion};
pub use source::CaptureSource;
