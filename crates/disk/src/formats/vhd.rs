//! The vhd format.

use crate::{Error, Format, OpenOptions, Result, SharedSource, SharedStorage, Storage};

/// Whether the content carries the signature of this format.
pub(crate) fn matches(_storage: &dyn Storage) -> Result<bool> {
    Ok(false)
}

/// Opens an image.
pub(crate) fn open(storage: SharedStorage, _options: &OpenOptions) -> Result<SharedSource> {
    Err(Error::Unsupported {
        path: storage.name().to_owned(),
        format: Format::Vhd,
        what: "a reader".to_owned(),
    })
}
