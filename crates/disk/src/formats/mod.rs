//! One module per format. Each has `matches` (does the content carry the signature) and `open`.
//!
//! The sparse formats say where each stretch of their disk lies ([`mapped::Mapping`]); reading, extents and limits are
//! the same for all of them and stand in `mapped`.

pub(crate) mod bits;
pub(crate) mod bytes;
pub(crate) mod claims;
pub(crate) mod data_map;
pub(crate) mod image_file;
pub(crate) mod mapped;
pub mod qcow2;
pub mod raw;
pub(crate) mod table;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
