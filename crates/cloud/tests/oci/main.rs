//! OCI against its test bed: every promise of a provider, and every fault.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod access;
#[path = "../bed/mod.rs"]
mod bed;
#[path = "../conformance/mod.rs"]
mod conformance;
mod machines;
mod volumes;
