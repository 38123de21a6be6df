//! Fuzzes the NBD server with what a client sends.
#![no_main]

#[path = "../../tests/support/nbd.rs"]
mod nbd;

libfuzzer_sys::fuzz_target!(|input: &[u8]| nbd::exercise_server(input));
