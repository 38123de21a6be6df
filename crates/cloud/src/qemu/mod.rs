//! Machines of QEMU: its monitor protocol, what a machine is made of, and starting one again from that.

mod definition;
mod lines;
pub mod qmp;
pub mod recovery;

pub use definition::{DiskDefinition, Firmware, MachineDefinition, NicDefinition};
pub use qmp::{Qmp, QmpEvent, QmpOptions, QmpVersion};
