//! What the object is made of, part by part.
//!
//! A part is made from a position alone: the offset in the object where nothing is compressed, the offset in the disk where
//! something is. So an attempt goes on where the one before had come, without what that had in memory.

use std::sync::Arc;

use leeward_disk::formats::qcow2::Qcow2View;
use leeward_disk::formats::vhd::{FixedVhdView, VhdView};
use leeward_disk::formats::vhdx::VhdxView;
use leeward_disk::formats::vmdk::VmdkView;
use leeward_disk::{SharedSource, Storage, detect};
use leeward_runs::step::Fault;

use super::ExportFormat;
use crate::Error;
use crate::image::needs_seeking;
use crate::job::fault;

/// What one frame of Zstandard holds, in bytes of the disk: each can be made, and expanded, without the others.
const FRAME_BYTES: u64 = 8 << 20;
/// How much is compressed: Zstandard's own usual level.
const LEVEL: i32 = 3;

/// A disk as the bytes of a raw image.
struct Raw {
    source: SharedSource,
    name: String,
}

impl Storage for Raw {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.source.virtual_size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> leeward_disk::Result<()> {
        self.source.read_at(buffer, offset)
    }
}

/// The bytes of the object.
pub(super) enum Body {
    /// As they lie in a format that needs no compressing.
    Plain(Box<dyn Storage>),
    /// The disk, to be compressed.
    Zst(SharedSource),
}

/// A part of the object.
pub(super) struct Piece {
    pub content: Vec<u8>,
    /// The position after it.
    pub next: u64,
}

impl Body {
    /// Looks at the disk. `identity` tells its content from others, as images say it of themselves.
    pub fn new(
        source: &SharedSource,
        format: ExportFormat,
        name: &str,
        identity: &[u8; 16],
    ) -> Result<Self, Fault> {
        let failed = |error: leeward_disk::Error| match error {
            leeward_disk::Error::Invalid { what, .. } => Fault::lasting(
                format!("{name}: {what}"),
                "export it as qcow2: set format to \"qcow2\", then retry the step",
            ),
            error => fault::of_import(&Error::from(error)),
        };
        let raw = || Raw { source: Arc::clone(source), name: name.to_owned() };
        // What begins with the disk's own bytes may be taken for what they look like.
        let is_bare = matches!(format, ExportFormat::Raw | ExportFormat::Zst | ExportFormat::VhdFixed);
        if is_bare && needs_seeking(&raw()).map_err(|error| fault::of_import(&error))? {
            let like = detect(&raw()).map_err(failed)?;
            let like = like.first().map_or("an archive or compressed file", |format| format.name());
            return Err(Fault::lasting(
                format!(
                    "the disk itself looks like another file ({like}): whoever reads it as raw bytes without being told so would take \
                     its content for one"
                ),
                "export it as qcow2: set format to \"qcow2\", then retry the step",
            ));
        }
        let disk = Arc::clone(source);
        Ok(match format {
            ExportFormat::Qcow2 => Self::plain(Qcow2View::new(disk, name).map_err(failed)?),
            ExportFormat::Vmdk => Self::plain(VmdkView::new(disk, name, identity).map_err(failed)?),
            ExportFormat::Vhd => Self::plain(VhdView::new(disk, name, identity).map_err(failed)?),
            ExportFormat::VhdFixed => Self::plain(FixedVhdView::new(disk, name, identity).map_err(failed)?),
            ExportFormat::Vhdx => Self::plain(VhdxView::new(disk, name, identity).map_err(failed)?),
            ExportFormat::Raw => Self::plain(raw()),
            ExportFormat::Zst => Self::Zst(disk),
        })
    }

    fn plain(image: impl Storage + 'static) -> Self {
        Self::Plain(Box::new(image))
    }

    /// The position behind the last part.
    pub fn end(&self) -> u64 {
        match self {
            Self::Plain(storage) => storage.size(),
            Self::Zst(source) => source.virtual_size(),
        }
    }

    /// Bytes of the object, at most.
    pub fn bytes_max(&self) -> u64 {
        match self {
            Self::Plain(storage) => storage.size(),
            // What cannot be compressed takes a little more than itself.
            Self::Zst(source) => source.virtual_size() + source.virtual_size() / 128 + FRAME_BYTES,
        }
    }

    /// The part that begins at a position: of so many bytes, or a little more, unless it is the last one.
    pub fn part(
        &self,
        position: u64,
        bytes: u64,
        zeros: &mut Option<Vec<u8>>,
        check: &dyn Fn() -> Result<(), Fault>,
    ) -> Result<Piece, Fault> {
        let failed = |error: leeward_disk::Error| fault::of_import(&Error::from(error));
        match self {
            Self::Plain(storage) => {
                let length = bytes.min(storage.size().saturating_sub(position));
                let mut content = vec![0; usize::try_from(length).unwrap_or_default()];
                storage.read_at(&mut content, position).map_err(failed)?;
                Ok(Piece { content, next: position + length })
            }
            Self::Zst(source) => {
                let (mut content, mut next) = (Vec::new(), position);
                while (content.len() as u64) < bytes && next < source.virtual_size() {
                    check()?;
                    let length = FRAME_BYTES.min(source.virtual_size() - next);
                    content.extend(frame(source, next, length, zeros)?);
                    next += length;
                }
                Ok(Piece { content, next })
            }
        }
    }
}

/// A frame of its own. That of zeros is made once: most of many disks is empty.
fn frame(
    source: &SharedSource,
    offset: u64,
    length: u64,
    zeros: &mut Option<Vec<u8>>,
) -> Result<Vec<u8>, Fault> {
    let failed = |error: leeward_disk::Error| fault::of_import(&Error::from(error));
    let is_empty = source
        .extents(offset, length)
        .map_err(failed)?
        .first()
        .is_some_and(|extent| extent.length == length && !extent.kind.is_data());
    if is_empty
        && length == FRAME_BYTES
        && let Some(frame) = zeros
    {
        return Ok(frame.clone());
    }
    let mut content = vec![0; usize::try_from(length).unwrap_or_default()];
    if !is_empty {
        source.read_at(&mut content, offset).map_err(failed)?;
    }
    let frame = compressed(&content)
        .map_err(|error| Fault::lasting(format!("cannot compress: {error}"), "export it as qcow2"))?;
    if is_empty && length == FRAME_BYTES {
        *zeros = Some(frame.clone());
    }
    Ok(frame)
}

fn compressed(content: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    // Whoever expands it learns where something went wrong on the way.
    compressor.include_checksum(true)?;
    compressor.compress(content)
}
