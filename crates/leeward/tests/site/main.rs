//! A site's daemon as a person meets it: the binary, its configuration, HTTP, and disks that are compared byte by byte.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod again;
mod api;
mod daemon;
mod imports;
mod kills;
mod oci;
mod schedules;
mod tls;
