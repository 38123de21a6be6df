//! Devices behind a wall: their errors and panics become errors of a request.

use std::error::Error as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Device;
use crate::nbd::wire;
use crate::{Error, ErrorKind, Extent, Result};

/// The protocol's limit for strings.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Why a request failed, in the words of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) errno: u32,
    pub(super) message: String,
    /// Where on the disk, if it was a part of what was asked for.
    pub(super) offset: Option<u64>,
}

impl Failure {
    pub(super) fn new(errno: u32, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        Self { errno, message, offset: None }
    }

    pub(super) fn at(self, offset: u64) -> Self {
        Self { offset: Some(offset), ..self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Self::new(errno(&error), message)
    }
}

fn errno(error: &Error) -> u32 {
    let system = match error {
        Error::Io { source, .. } | Error::Open { source, .. } => Some(source.kind()),
        _ => None,
    };
    match (system, error.kind()) {
        (Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded), _) => wire::ENOSPC,
        (Some(std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem), _)
        | (_, ErrorKind::Refused) => wire::EPERM,
        (Some(std::io::ErrorKind::OutOfMemory), _) => wire::ENOMEM,
        (_, ErrorKind::Unsupported) => wire::ENOTSUP,
        (_, ErrorKind::Usage) => wire::EINVAL,
        _ => wire::EIO,
    }
}

fn guarded<T>(call: impl FnOnce() -> Result<T>) -> Result<T, Failure> {
    // Whether a device is of use after a panic is its own affair: its locks are poisoned, or not.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(Failure::from),
        Err(_) => Err(Failure::new(wire::EIO, "internal error: the disk failed in an unforeseen way")),
    }
}

/// The calls of a device that may fail.
#[derive(Clone, Copy)]
pub(super) struct Guard<'a>(pub(super) &'a dyn Device);

impl Guard<'_> {
    pub(super) fn read(self, buffer: &mut [u8], offset: u64) -> Result<(), Failure> {
        guarded(|| self.0.source().read_at(buffer, offset)).map_err(|failure| failure.at(offset))
    }

    /// Whether a range can be read without waiting for anything.
    pub(super) fn is_at_hand(self, offset: u64, length: u64) -> bool {
        guarded(|| Ok(self.0.source().is_at_hand(offset, length))).unwrap_or(false)
    }

    /// Extents as they are promised by [`crate::Source::extents`]: a device that breaks the promise has failed.
    pub(super) fn extents(self, offset: u64, length: u64) -> Result<Vec<Extent>, Failure> {
        let extents = guarded(|| self.0.source().extents(offset, length))?;
        let mut next = offset;
        for extent in &extents {
            let end = extent.offset.checked_add(extent.length);
            if extent.offset != next || extent.length == 0 || end.is_none_or(|end| end > offset + length) {
                return Err(Failure::new(wire::EIO, "internal error: the disk's extents make no sense"));
            }
            next = extent.end();
        }
        if next == offset {
            return Err(Failure::new(wire::EIO, "internal error: the disk tells no extents"));
        }
        Ok(extents)
    }

    pub(super) fn write(self, data: &[u8], offset: u64) -> Result<(), Failure> {
        self.change(|device| device.write_at(data, offset))
    }

    /// Calls a method of the writable side.
    pub(super) fn change(self, call: impl FnOnce(&dyn super::Writable) -> Result<()>) -> Result<(), Failure> {
        match guarded(|| Ok(self.0.writable())).ok().flatten() {
            Some(writable) => guarded(|| call(writable)),
            None => Err(Failure::new(wire::EPERM, "the export is read-only")),
        }
    }
}
