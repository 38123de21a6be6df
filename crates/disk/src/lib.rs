//! Disk images as sources and targets.
//!
//! A [`Source`] is a virtual disk that can be read: its size, its extents (data, zero or unallocated) and positioned
//! reads from many threads at once. A [`Target`] is a disk that can be written. Between a format reader and the bytes
//! it parses stands [`Storage`]: a file, a block device, memory.
//!
//! Every byte that a reader sees is taken for hostile: sizes are checked before they are added or allocated, tables
//! are bounded, references to other files are refused unless the caller allows them ([`References`]), and an image that
//! could be read as two formats is refused. Nothing here knows a network apart from the NBD client, and nothing knows
//! a runtime or a clock.

mod cache;
mod compare;
mod copy;
mod create;
mod error;
mod format;
pub mod formats;
pub mod in_use;
pub mod nbd;
mod open;
pub mod overlay;
pub mod partitions;
mod plan;
mod slice;
mod source;
mod storage;
mod targets;
pub mod zero;

pub use compare::{Comparison, compare};
pub use copy::{Copied, WorkOptions, copy, default_threads};
pub use create::{CreateOptions, SharedTarget, create_target, open_target};
pub use error::{Error, ErrorKind, Result};
pub use format::Format;
pub use open::{Chain, Extents, OpenOptions, References, detect, open_path, open_source, open_storage};
pub use partitions::{Partition, PartitionTable, TableKind, partitions};
pub use slice::Slice;
pub use source::{Extent, ExtentKind, Info, SharedSource, Source, walk_extents};
pub use storage::{FileStorage, MemoryStorage, SharedStorage, Storage};
pub use targets::Target;
pub use targets::raw::{DeviceTarget, RawFileTarget};
pub use zero::is_zero;
