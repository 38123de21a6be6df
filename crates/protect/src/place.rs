//! Disks by the name that a person gives them: what the disk library opens, and images of RBD.

use std::sync::Arc;

use leeward_cloud::bridge::{BridgedDisk, Use};
use leeward_cloud::rbd::Location;
use leeward_disk::{Format, OpenOptions, SharedSource};

use crate::{Error, ErrorKind, Result};

/// The image of RBD that is meant, if one is.
#[must_use]
pub fn rbd(spec: &str) -> Option<Result<Location>> {
    let location = Location::parse(spec)?;
    Some(location.map_err(|what| {
        Error::asked(
            ErrorKind::Usage,
            format!("{spec}: {what}"),
            "an image is given as rbd:POOL/IMAGE or rbd:POOL/IMAGE@SNAPSHOT, and with ?conf=FILE&id=USER",
        )
    }))
}

/// Opens a disk to read it.
///
/// # Errors
/// It cannot be opened, or is not what the options say.
pub fn open_source(spec: &str, options: &OpenOptions) -> Result<SharedSource> {
    match rbd(spec) {
        None => Ok(leeward_disk::open_source(spec, options)?),
        Some(location) => {
            refuse_format(spec, options.format)?;
            Ok(Arc::new(BridgedDisk::rbd(&location?, Use::Read)?))
        }
    }
}

/// Refuses another format than raw for an image of RBD.
///
/// # Errors
/// It is another one.
pub fn refuse_format(spec: &str, format: Option<Format>) -> Result<()> {
    if format.is_none_or(|format| format == Format::Raw) {
        return Ok(());
    }
    Err(Error::asked(
        ErrorKind::Usage,
        format!("{spec}: an image of RBD is read and written as the raw disk that it is"),
        "leave the format out",
    ))
}
