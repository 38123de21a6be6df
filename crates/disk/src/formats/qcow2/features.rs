//! Feature bits.

use super::extensions::Extensions;
use super::{corrupt, unsupported};
use crate::{Result, Storage};

/// The refcounts may be stale. Reading does not use them.
pub(super) const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
pub(super) const DATA_FILE: u64 = 1 << 2;
pub(super) const COMPRESSION: u64 = 1 << 3;
pub(super) const EXTENDED_L2: u64 = 1 << 4;
const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;

/// Autoclear: the external data file can be read as a raw disk without this image.
pub(super) const AUTOCLEAR_RAW_DATA_FILE: u64 = 1 << 1;

/// Refuses images that were marked corrupt, and those with features that change how they are read and are unknown here.
pub(super) fn check(storage: &dyn Storage, incompatible: u64, extensions: &Extensions) -> Result<()> {
    let unknown = incompatible & !KNOWN;
    if unknown != 0 {
        let names: Vec<String> = (0..64)
            .filter(|bit| unknown >> bit & 1 == 1)
            .map(|bit| match extensions.incompatible_name(bit) {
                Some(name) => format!("{name:?} (feature bit {bit})"),
                None => format!("feature bit {bit}"),
            })
            .collect();
        return Err(unsupported(storage, names.join(", ")));
    }
    if incompatible & CORRUPT != 0 {
        return Err(corrupt(
            storage,
            "it is marked corrupt; `qemu-img check -r all` on a copy may mend what can be mended",
        ));
    }
    Ok(())
}
