//! Machines of QEMU: its monitor protocol.

mod lines;
pub mod qmp;

pub use qmp::{Qmp, QmpEvent, QmpOptions, QmpVersion};
