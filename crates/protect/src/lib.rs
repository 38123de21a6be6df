//! Protection: a disk becomes a snapshot of an image, snapshots are kept or let go by rules, and the repository is checked.
//!
//! What is here is done once by a verb of the command line, and again and again by the runs of a site ([`job`]). Nothing here
//! prints or asks: who calls gives an [`Attendant`].

mod attendant;
pub mod check;
mod error;
pub mod job;
mod limit;
mod machine;
mod moment;
mod mounted;
mod place;
pub mod retain;
pub mod size;
mod volume;

pub use attendant::{Alone, Attendant};
pub use error::{Error, ErrorKind, Result};
pub use limit::LimitedSource;
pub use machine::{
    CaptureSettings, DiskDone, FREEZE_LIMIT, Found, MachineBackup, MachineDone, MachinePlace, MachinePlan,
    PlannedDisk, Running, group_id,
};
pub use place::{open_source, rbd, refuse_format};
pub use volume::{Done, Planned, Volume};
