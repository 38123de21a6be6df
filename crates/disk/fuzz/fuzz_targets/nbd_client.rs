//! Fuzzes the NBD client with what a server sends.
#![no_main]

#[path = "../../tests/support/nbd.rs"]
mod nbd;

libfuzzer_sys::fuzz_target!(|input: &[u8]| nbd::exercise_client(input));
