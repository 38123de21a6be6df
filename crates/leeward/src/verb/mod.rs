//! One module per verb, or per family of short ones.

pub mod backup;
pub mod cancel;
pub mod check;
pub mod disk;
pub mod groups;
pub mod label;
pub mod mount;
pub mod quickstart;
pub mod repository;
pub mod restore;
pub mod retain;
pub mod snapshots;
