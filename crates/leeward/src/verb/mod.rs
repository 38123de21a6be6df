//! One module per verb, or per family of short ones.

pub mod backup;
pub mod cancel;
pub mod changed_blocks;
pub mod check;
pub mod disk;
pub mod export;
pub mod files;
pub mod groups;
pub mod hydrate;
pub mod key;
pub mod label;
pub mod mount;
pub mod overlay;
pub mod probe;
pub mod quickstart;
pub mod repository;
pub mod restore;
pub mod retain;
pub mod snapshots;
pub mod thaw;
