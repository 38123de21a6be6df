//! Providers: adapters to what runs machines.
//!
//! - [`qemu`]: machines of QEMU, over its monitor protocol (QMP).

mod error;
pub mod qemu;

pub use error::{Error, ErrorKind, Result};
