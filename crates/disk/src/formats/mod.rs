//! One module per format. Each has `matches` (does the content carry the signature) and `open`.

pub(crate) mod bytes;
pub mod qcow2;
pub mod raw;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
