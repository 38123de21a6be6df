//! The file in which an image lies, with the words for what is wrong with it.

use crate::{Error, Format, OpenOptions, Result, SharedStorage};

/// The storage of an image, read under a format. Every part is checked against the size of the file before it is read.
#[derive(Clone)]
pub(crate) struct ImageFile {
    storage: SharedStorage,
    format: Format,
}

impl ImageFile {
    /// The image in `storage`, taken for a `format` image.
    pub(crate) fn new(storage: SharedStorage, format: Format) -> Self {
        Self { storage, format }
    }

    /// The bytes themselves.
    pub(crate) fn storage(&self) -> &SharedStorage {
        &self.storage
    }

    /// Where the image lies, for messages.
    pub(crate) fn name(&self) -> &str {
        self.storage.name()
    }

    /// Size of the file in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.storage.size()
    }

    /// The format under which it is read.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// The image is damaged or made to harm.
    pub(crate) fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::Corrupt { path: self.name().to_owned(), format: self.format, what: what.into() }
    }

    /// The image is sound but needs something that its reader does not do.
    pub(crate) fn unsupported(&self, what: impl Into<String>) -> Error {
        Error::Unsupported { path: self.name().to_owned(), format: self.format, what: what.into() }
    }

    /// Refuses the wish for an internal snapshot, in formats that have none.
    pub(crate) fn refuse_snapshot(&self, options: &OpenOptions) -> Result<()> {
        match &options.snapshot {
            None => Ok(()),
            Some(snapshot) => Err(Error::Invalid {
                path: self.name().to_owned(),
                what: format!("a {} image has no internal snapshot {snapshot:?}: leave it out", self.format),
            }),
        }
    }

    /// Refuses a part of the image that does not lie inside the file; returns the first byte after it.
    pub(crate) fn check(&self, part: &str, offset: u64, length: u64) -> Result<u64> {
        check_inside(self.size(), part, offset, length).map_err(|what| self.corrupt(what))
    }

    /// Reads a part of the image. The caller has bounded `length` to what it is willing to allocate.
    pub(crate) fn read(&self, part: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.check(part, offset, length as u64)?;
        let mut bytes = vec![0; length];
        self.storage.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

/// Whether a part lies inside a file of `size` bytes: the first byte after it, or what is wrong.
pub(crate) fn check_inside(size: u64, part: &str, offset: u64, length: u64) -> Result<u64, String> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(end),
        _ => Err(format!(
            "{part} at offset {offset} ({length} bytes) lies outside the file of {size} bytes — it may have been cut off: copy it again"
        )),
    }
}
