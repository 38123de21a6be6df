//! From a path to a source: which format, and which other files may be touched.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::formats::{qcow2, raw, vdi, vhd, vhdx, vmdk};
use crate::nbd::{NbdDisk, NbdOptions, NbdUrl};
use crate::{Error, FileStorage, Format, Result, SharedSource, SharedStorage, Storage};

/// The longest chain of images, each backed by the next.
const CHAIN_LENGTH_MAX: usize = 64;

/// Which other files an image may name.
#[derive(Debug, Clone, Default)]
pub enum References {
    /// None: an image that names another file is refused.
    #[default]
    Refuse,
    /// Files inside this directory, links resolved.
    Within(PathBuf),
    /// The extents of a split VMDK, and nothing else, where images do not lie in files: whoever keeps them decides by name.
    Extents(Arc<dyn Extents>),
}

/// Finds the extents that a VMDK descriptor names.
pub trait Extents: std::fmt::Debug + Send + Sync {
    /// The storage of the extent that is called `name` in the descriptor, which is not to be trusted.
    ///
    /// # Errors
    /// Why it is not used, in words.
    fn extent(&self, name: &str) -> Result<SharedStorage, String>;
}

/// How to open an image.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The format; `None` means to find it out where that is safe.
    pub format: Option<Format>,
    /// Which other files the image may name.
    pub references: References,
    /// The internal snapshot to read instead of the active state.
    pub snapshot: Option<String>,
    /// The chain of images above this one; empty for a caller's own.
    pub chain: Chain,
}

/// The files of a chain of images, outermost first, by device and inode.
#[derive(Debug, Clone, Default)]
pub struct Chain(Vec<(u64, u64)>);

impl OpenOptions {
    /// Options with a known format.
    #[must_use]
    pub fn with_format(format: Format) -> Self {
        Self { format: Some(format), ..Self::default() }
    }

    /// Opens a file that the image in `from` names (a backing file, an extent), if the caller allows it, and returns it
    /// with the options under which an image in it is to be opened. `format` is the format of the *naming* image.
    ///
    /// # Errors
    /// References are refused, the file lies outside the allowed directory, cannot be opened, or the chain is cyclic or
    /// too long.
    pub(crate) fn open_reference(
        &self,
        from: &dyn Storage,
        format: Format,
        reference: &str,
    ) -> Result<(SharedStorage, OpenOptions)> {
        let unusable = |why: String| Error::ReferenceUnusable {
            path: from.name().to_owned(),
            reference: reference.to_owned(),
            why,
        };
        let allowed = match &self.references {
            References::Within(allowed) => allowed,
            References::Extents(extents) if format == Format::Vmdk => {
                let storage = extents.extent(reference).map_err(unusable)?;
                return Ok((storage, Self::default()));
            }
            References::Refuse | References::Extents(_) => {
                return Err(Error::ReferenceRefused {
                    path: from.name().to_owned(),
                    format,
                    reference: reference.to_owned(),
                });
            }
        };
        let allowed = allowed.canonicalize().map_err(|source| Error::open(allowed, "open", source))?;
        let image = from.path().ok_or_else(|| unusable("the image is not a file".to_owned()))?;
        let image = image.canonicalize().map_err(|source| Error::open(image, "open", source))?;
        let wanted = normalised(image.parent().unwrap_or(&allowed), Path::new(reference));
        let inside = wanted
            .strip_prefix(&allowed)
            .map_err(|_| unusable(format!("it lies outside the allowed directory {}", allowed.display())))?;
        let cannot = |errno: rustix::io::Errno| {
            unusable(format!("it cannot be opened inside {}: {errno}", allowed.display()))
        };
        let directory =
            rustix::fs::open(&allowed, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(cannot)?;
        let file = rustix::fs::openat2(
            &directory,
            inside,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )
        .map_err(cannot)?;
        let file = std::fs::File::from(file);
        let metadata = file.metadata().map_err(|source| Error::open(&wanted, "examine", source))?;
        if !metadata.is_file() {
            return Err(unusable("it is not a regular file".to_owned()));
        }
        let identity = (metadata.dev(), metadata.ino());
        let mut chain = self.chain.0.clone();
        if chain.is_empty() {
            let own = std::fs::metadata(&image).map_err(|source| Error::open(&image, "examine", source))?;
            chain.push((own.dev(), own.ino()));
        }
        if chain.contains(&identity) {
            return Err(unusable("the chain of images leads back to itself".to_owned()));
        }
        if chain.len() >= CHAIN_LENGTH_MAX {
            return Err(unusable(format!("the chain of images is longer than {CHAIN_LENGTH_MAX}")));
        }
        chain.push(identity);
        let options =
            Self { format: None, references: self.references.clone(), snapshot: None, chain: Chain(chain) };
        Ok((Arc::new(FileStorage::from_file(file, &wanted)?), options))
    }
}

/// `path` relative to `base`, with `.` and `..` removed by their letters.
fn normalised(base: &Path, path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for component in base.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                result.pop();
            }
            other => result.push(other),
        }
    }
    result
}

/// Tells whether the bytes carry a format's signature.
type Matches = fn(&dyn Storage) -> Result<bool>;

/// The formats whose signature the bytes of `storage` carry; raw is never among them.
///
/// # Errors
/// The medium fails.
pub fn detect(storage: &dyn Storage) -> Result<Vec<Format>> {
    let mut found = Vec::new();
    let tests: [(Format, Matches); 5] = [
        (Format::Qcow2, qcow2::matches),
        (Format::Vmdk, vmdk::matches),
        (Format::Vhd, vhd::matches),
        (Format::Vhdx, vhdx::matches),
        (Format::Vdi, vdi::matches),
    ];
    for (format, matches) in tests {
        if matches(storage)? {
            found.push(format);
        }
    }
    Ok(found)
}

/// Opens the disk that a person named: an NBD URL, or the path of an image or block device.
///
/// # Errors
/// Those of [`open_path`], or of the connection.
pub fn open_source(spec: &str, options: &OpenOptions) -> Result<SharedSource> {
    if !NbdUrl::is_nbd(spec) {
        return open_path(Path::new(spec), options);
    }
    let url = NbdUrl::parse(spec)?;
    let invalid = |what: &str| Error::Invalid { path: spec.to_owned(), what: what.to_owned() };
    if options.snapshot.is_some() {
        return Err(invalid("an NBD export has no internal snapshots"));
    }
    if options.format.is_some_and(|format| !matches!(format, Format::Raw | Format::Nbd)) {
        return Err(invalid("an NBD export is read as the raw disk that it is"));
    }
    Ok(Arc::new(NbdDisk::connect(&url, &NbdOptions::default())?))
}

/// Opens the image in `path`.
///
/// Without a format in `options`, the content decides where that is safe. A guest that may write its whole disk can
/// write the header of another format into it, so a file or device that is raw by its name, or has no telling name, and
/// carries a signature is an error that asks for the format.
///
/// # Errors
/// The image cannot be read, is refused, or is damaged.
pub fn open_path(path: &Path, options: &OpenOptions) -> Result<SharedSource> {
    open_storage(Arc::new(FileStorage::open(path)?), options)
}

/// Opens the image in `storage`; see [`open_path`].
///
/// # Errors
/// The image cannot be read, is refused, or is damaged.
pub fn open_storage(storage: SharedStorage, options: &OpenOptions) -> Result<SharedSource> {
    let format = match options.format {
        Some(Format::Raw) => Format::Raw,
        Some(format) => {
            // The caller's word decides between two formats: a guest that can write the last sector of its image could
            // otherwise keep it from ever being read, by putting the footer of another format there.
            let found = detect(storage.as_ref())?;
            if !found.contains(&format) {
                let what = match found.first() {
                    Some(other) => format!("its content is {other}"),
                    None => "its content carries no signature of that format".to_owned(),
                };
                return Err(Error::WrongFormat { path: storage.name().to_owned(), expected: format, what });
            }
            format
        }
        None => guess(storage.as_ref())?,
    };
    match format {
        Format::Raw => raw::open(storage, options),
        Format::Qcow2 => qcow2::open(storage, options),
        Format::Vmdk => vmdk::open(storage, options),
        Format::Vhd => vhd::open(storage, options),
        Format::Vhdx => vhdx::open(storage, options),
        Format::Vdi => vdi::open(storage, options),
        Format::Nbd => Err(Error::Invalid {
            path: storage.name().to_owned(),
            what: "nbd is not a file format: give an nbd:// or nbd+unix:// URL".to_owned(),
        }),
    }
}

fn refuse_ambiguous(storage: &dyn Storage, found: &[Format]) -> Result<()> {
    match found {
        [first, second, ..] => {
            Err(Error::Ambiguous { path: storage.name().to_owned(), first: *first, second: *second })
        }
        _ => Ok(()),
    }
}

fn guess(storage: &dyn Storage) -> Result<Format> {
    let found = detect(storage)?;
    refuse_ambiguous(storage, &found)?;
    let Some(&content) = found.first() else {
        return match announced(storage) {
            None | Some(Format::Raw) => Ok(Format::Raw),
            Some(format) => Err(Error::WrongFormat {
                path: storage.name().to_owned(),
                expected: format,
                what: "its name says so but its content carries no such signature; if it is a raw disk, say -f raw"
                    .to_owned(),
            }),
        };
    };
    match announced(storage) {
        Some(format) if format != Format::Raw => Ok(content),
        _ => Err(Error::Invalid {
            path: storage.name().to_owned(),
            what: format!(
                "the content looks like {content}, but the name does not say so, and a guest could have written this into a raw disk — say which it is: -f {content} or -f raw"
            ),
        }),
    }
}

/// The format that the name announces; a block device announces raw.
fn announced(storage: &dyn Storage) -> Option<Format> {
    let path = storage.path()?;
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_block_device() => Some(Format::Raw),
        _ => Format::from_extension(path),
    }
}
