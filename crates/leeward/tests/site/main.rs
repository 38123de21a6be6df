//! A site's daemon as a person meets it: the binary, its configuration, HTTP, and disks that are compared byte by byte.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod access;
mod again;
mod api;
mod bridges;
#[path = "../common/mod.rs"]
mod common;
mod daemon;
mod exports;
mod images;
mod imports;
mod iscsi;
mod kills;
mod machines;
mod many;
mod moving;
mod notify;
mod oci;
mod oidc;
mod oidc_provider;
mod openstack;
mod openstack_proxy;
mod provider;
mod rbd;
mod restores;
mod schedules;
mod shared;
mod sign_in;
mod sign_ins;
mod sweep;
mod tls;
mod vault;
mod workers;
