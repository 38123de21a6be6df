//! One module per verb.

pub mod disk;
