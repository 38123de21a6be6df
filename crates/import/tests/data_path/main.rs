//! The data path of an import with real parts: images by qemu-img, buckets of the test beds that are up, the tools of file
//! systems. One program, as linking many takes longer than running them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod bench;
mod formats;
mod resume;
mod support;
mod tables;
