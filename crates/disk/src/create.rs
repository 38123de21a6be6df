//! From a name to a target.

use std::path::Path;
use std::sync::Arc;

use crate::formats::qcow2::{Qcow2Target, WriterOptions};
use crate::nbd::{NbdDisk, NbdOptions, NbdUrl};
use crate::targets::raw::{DeviceTarget, RawFileTarget};
use crate::{Error, Format, Result, Target};

/// A target shared between threads.
pub type SharedTarget = Arc<dyn Target>;

/// How to create a target.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Format of the new image; `None` means what the name announces, and raw otherwise.
    pub format: Option<Format>,
    /// Cluster size of a qcow2 image; 64 KiB unless given.
    pub cluster_bytes: Option<u64>,
    /// Whether a qcow2 image is compressed, with zstd.
    pub compress: bool,
    /// Whether an existing file, or what a device holds, may be lost.
    pub overwrite: bool,
}

/// A target for a disk of `virtual_size` bytes: the NBD export or block device `spec`, or a new image file of that name.
///
/// # Errors
/// The file exists or the target is a device, and overwriting was not asked for; the device is too small; the format cannot
/// be written.
pub fn create_target(spec: &str, virtual_size: u64, options: &CreateOptions) -> Result<SharedTarget> {
    if NbdUrl::is_nbd(spec) {
        return create_nbd(spec, virtual_size, options);
    }
    let path = Path::new(spec);
    let is_device = DeviceTarget::is_device(path);
    let announced = if is_device { None } else { Format::from_extension(path) };
    let format = options.format.or(announced).unwrap_or(Format::Raw);
    let invalid = |what: String| Error::Invalid { path: spec.to_owned(), what };
    if format != Format::Qcow2 && (options.compress || options.cluster_bytes.is_some()) {
        return Err(invalid(format!("a {format} target has no clusters and no compression: use qcow2")));
    }
    match format {
        Format::Raw if is_device => Ok(Arc::new(DeviceTarget::open(path, virtual_size, options.overwrite)?)),
        Format::Raw => Ok(Arc::new(RawFileTarget::create(path, virtual_size, options.overwrite)?)),
        Format::Qcow2 if !is_device => {
            let defaults = WriterOptions::default();
            let options = WriterOptions {
                cluster_bytes: options.cluster_bytes.unwrap_or(defaults.cluster_bytes),
                compress: options.compress,
                overwrite: options.overwrite,
            };
            Ok(Arc::new(Qcow2Target::create(path, virtual_size, &options)?))
        }
        Format::Qcow2 => Err(invalid("a qcow2 image is written to a file, not to a device".to_owned())),
        other => Err(invalid(format!("images of format {other} are read and not written: use raw or qcow2"))),
    }
}

/// An existing raw disk that is to be written in place: an NBD export, a block device, or a raw file, which grows to
/// `virtual_size` where it is shorter. What it holds is the caller's to keep or overwrite.
///
/// # Errors
/// It does not exist, the device is too small or in use, or it cannot be opened.
pub fn open_target(spec: &str, virtual_size: u64) -> Result<SharedTarget> {
    if NbdUrl::is_nbd(spec) {
        return create_nbd(
            spec,
            virtual_size,
            &CreateOptions { overwrite: true, ..CreateOptions::default() },
        );
    }
    let path = Path::new(spec);
    if DeviceTarget::is_device(path) {
        return Ok(Arc::new(DeviceTarget::open(path, virtual_size, true)?));
    }
    Ok(Arc::new(DeviceTarget::open_file(path, virtual_size)?))
}

fn create_nbd(spec: &str, virtual_size: u64, options: &CreateOptions) -> Result<SharedTarget> {
    let url = NbdUrl::parse(spec)?;
    if options.format.is_some_and(|format| format != Format::Raw) || options.compress {
        return Err(Error::Invalid {
            path: spec.to_owned(),
            what: "an NBD export is written as the raw disk that it is".to_owned(),
        });
    }
    if !options.overwrite {
        return Err(Error::WouldOverwrite {
            path: spec.to_owned(),
            what: "all that the export holds would be lost".to_owned(),
        });
    }
    let disk = NbdDisk::connect(&url, &NbdOptions::default())?;
    disk.check_writable(virtual_size)?;
    Ok(Arc::new(disk))
}
