//! Fuzzes partition tables and the readers of all file systems.
#![no_main]

use std::sync::Arc;

use leeward_disk::{Format, MemoryStorage, OpenOptions, open_storage};

#[path = "../../tests/support/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let storage = Arc::new(MemoryStorage::new("input", input));
    if let Ok(disk) = open_storage(storage, &OpenOptions::with_format(Format::Raw)) {
        exercise::exercise(&disk);
    }
});
