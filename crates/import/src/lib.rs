//! Imports: from an object in a user's bucket to the bytes on a volume.
//!
//! Everything here works on plain threads, blocks, and tells how far it is through a [`Watch`]; whoever runs it (a step of
//! a durable run, a verb) decides what to keep. In the order of an import:
//!
//! 1. [`image::open`]: what is in the object: the format by content, the disks in it, read by ranged GETs without a copy;
//! 2. [`metadata`], [`names`]: what the object's owner asks for, checked;
//! 3. [`write::write`]: the disk onto a volume: data by many requests in flight, zeros really made zero, with a
//!    [`Checkpoint`](write::Checkpoint) after each window from which a later call goes on;
//! 4. [`verify::verify`]: the volume read back from its medium and compared with what was written;
//! 5. [`gpt::move_backup`], if asked, after the comparison: it changes the disk;
//! 6. [`filesystem::check`]: each file system by its own tool, read-only, in a confined process.
//!
//! What always holds:
//! - the object is hostile: its format, its names, its metadata, what it expands to are bounded and checked, and no tool
//!   sees it before the readers of `leeward_disk` have understood it;
//! - an object that is replaced while it is read is an error, never a mixture;
//! - nothing on the volume is left as it was found: what the image has no data for is made zero;
//! - memory is bounded: see [`write::WriteOptions`].

mod digest;
mod direct;
mod error;
pub mod filesystem;
pub mod gpt;
mod identity;
pub mod image;
pub mod job;
mod ledger;
pub mod metadata;
pub mod names;
mod plan;
mod pool;
mod pour;
mod read_back;
mod target;
pub mod verify;
mod watch;
pub mod work;
pub mod write;

pub use digest::{DigestCheck, DigestKind};
pub use error::{Error, ErrorKind, Result};
pub use identity::{SourceIdentity, TargetIdentity};
pub use leeward_store::RateLimit;
pub use target::VolumeTarget;
pub use watch::{Progress, Quiet, Watch};
