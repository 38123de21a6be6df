//! Disks by the name that a person gives them: what the disk library opens, and images of RBD.

use std::sync::Arc;

use leeward_cloud::bridge::{BridgedDisk, Use};
use leeward_cloud::rbd::{Cluster, Location};
use leeward_disk::{CreateOptions, OpenOptions, SharedSource, SharedTarget};

use crate::failure::{Code, Failure};

/// The image of RBD that is meant, if one is.
pub fn rbd(spec: &str) -> Option<Result<Location, Failure>> {
    leeward_protect::rbd(spec).map(|found| found.map_err(Failure::from))
}

/// Opens a disk to read it.
pub fn open_source(spec: &str, options: &OpenOptions) -> Result<SharedSource, Failure> {
    Ok(leeward_protect::open_source(spec, options)?)
}

/// Opens an existing disk to write it in place.
pub fn open_target(spec: &str, virtual_size: u64) -> Result<SharedTarget, Failure> {
    match rbd(spec) {
        None => Ok(leeward_disk::open_target(spec, virtual_size)?),
        Some(location) => existing(&writable(spec, location?)?, virtual_size),
    }
}

/// Makes a disk. An image of RBD that is there already is written over only if that is allowed.
pub fn create_target(
    spec: &str,
    virtual_size: u64,
    options: &CreateOptions,
) -> Result<SharedTarget, Failure> {
    let Some(location) = rbd(spec) else {
        return Ok(leeward_disk::create_target(spec, virtual_size, options)?);
    };
    leeward_protect::refuse_format(spec, options.format)?;
    let location = writable(spec, location?)?;
    match Cluster::of(&location).info() {
        Err(leeward_cloud::Error::NotFound { .. }) => {
            Cluster::of(&location).create_image(virtual_size)?;
            Ok(Arc::new(BridgedDisk::rbd(&location, Use::Write { is_blank: true })?))
        }
        Err(error) => Err(error.into()),
        Ok(_) if options.overwrite => existing(&location, virtual_size),
        Ok(_) => Err(Failure::new(Code::Refused, format!("{location}: the image exists already"))
            .hint("choose another name, --onto to write only what differs, or --force to write over it")),
    }
}

fn existing(location: &Location, virtual_size: u64) -> Result<SharedTarget, Failure> {
    let info = Cluster::of(location).info()?;
    if info.size < virtual_size {
        let what = format!("{location}: the image has {} bytes, the disk needs {virtual_size}", info.size);
        return Err(Failure::new(Code::Refused, what).hint("grow it with: rbd resize"));
    }
    Ok(Arc::new(BridgedDisk::rbd(location, Use::Write { is_blank: false })?))
}

fn writable(spec: &str, location: Location) -> Result<Location, Failure> {
    if location.snapshot.is_none() {
        return Ok(location);
    }
    Err(Failure::new(Code::Usage, format!("{spec}: a snapshot of an image cannot be written"))
        .hint("leave @SNAPSHOT out"))
}
