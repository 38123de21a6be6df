//! A server of the network block device protocol.

mod device;

pub use device::{Device, ReadOnly, Writable};
