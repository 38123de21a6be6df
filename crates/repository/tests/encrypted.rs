//! The suites of damage, parity, power loss and interleaving once more, on encrypted repositories: `common::is_encrypted` knows the
//! name of this file.

#![allow(clippy::duplicate_mod, reason = "each suite brings what it needs")]

#[path = "corruption.rs"]
mod corruption;
#[path = "interleaving.rs"]
mod interleaving;
#[path = "parity.rs"]
mod parity;
#[path = "power_loss.rs"]
mod power_loss;
