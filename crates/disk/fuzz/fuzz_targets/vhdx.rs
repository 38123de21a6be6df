//! Fuzzes the reader of vhdx images.
#![no_main]

#[path = "../../tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|input: &[u8]| support::exercise::exercise(leeward_disk::Format::Vhdx, input));
