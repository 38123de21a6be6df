//! Files inside of disks: readers of file systems over any [`Source`](leeward_disk::Source) of a disk.
//!
//! Nothing is mounted and no code of a kernel runs: a guest may have written anything into its disk. So every number
//! that comes from one is checked before it is used, tables and recursion are bounded, every walk over a structure ends
//! even if the structure is a loop, and memory grows with what is asked for, not with what the disk claims.
//!
//! A disk that was copied while its guest ran is as after a power failure. The journal of ext3 and ext4 is therefore
//! replayed in memory; where a reader cannot do this, [`Summary::warnings`] says that recent changes may be missing.
//!
//! Names are bytes: a file system does not promise UTF-8.

mod bytes;
mod crc;
mod disk;
mod error;
mod ext;
mod fat;
mod guard;
mod lvm;
mod names;
mod ntfs;
mod open;
mod path;
mod types;
mod volumes;
mod xfs;

pub use error::{Error, ErrorKind, Result};
pub use names::shown;
pub use open::{OpenOptions, identify, open};
pub use path::{Follow, lookup};
pub use types::{
    Entry, Extent, FileKind, FileSystem, FileType, Flow, Metadata, Node, Summary, Time, walk_extents,
};
pub use volumes::{Content, Volume, Volumes, volumes};
