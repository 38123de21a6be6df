//! VMware's virtual machine disk.
//!
//! The source is VMware's "Virtual Disk Format 5.0". All numbers are little-endian.
//!
//! A disk is described by a text, the *descriptor*, and lies in one or more *extents*: flat files, which are the bytes
//! as they are, or sparse ones, in which two levels of tables lead to *grains*. The descriptor is a file of its own or
//! is embedded in the only extent. Extent files that a descriptor names are opened only if the caller allows
//! references; what they are is said by the descriptor and never guessed from their content.
//!
//! Not read: images with a parent, and ESX' own sparse formats (COWD and SESPARSE).

mod descriptor;
mod header;
mod sparse;
mod view;

use std::sync::Arc;

use self::descriptor::{Descriptor, ExtentLine, ExtentType};
use self::sparse::SparseExtent;
pub use self::view::VmdkView;
use super::image_file::ImageFile;
use super::mapped::{Content, Mapped, Mapping, Run};
use crate::{Format, Info, OpenOptions, Result, SharedSource, SharedStorage, Storage};

const SECTOR_BYTES: u64 = 512;
/// First bytes of a sparse extent.
const SPARSE_SIGNATURE: &[u8] = b"KDMV";
/// First bytes of a descriptor file; the case of the letters varies.
const DESCRIPTOR_SIGNATURE: &[u8] = b"# Disk DescriptorFile";
/// First bytes of the sparse extents of ESX before version 6.5.
const COWD_SIGNATURE: &[u8] = b"COWD";
/// First bytes of the sparse extents of ESX since version 6.5: two numbers, for magic and version.
const SESPARSE_SIGNATURE: &[u8] = b"\xbe\xba\xfe\xca\0\0\0\0\x01\0\0\0\x02\0\0\0";

/// What a file begins like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sparse,
    Descriptor,
    Cowd,
    SeSparse,
}

fn kind(storage: &dyn Storage) -> Result<Option<Kind>> {
    let mut start = [0; 32];
    let start = &mut start[..storage.size().min(32) as usize];
    storage.read_at(start, 0)?;
    let text = start.get(..DESCRIPTOR_SIGNATURE.len()).unwrap_or_default();
    Ok(if start.starts_with(SPARSE_SIGNATURE) {
        Some(Kind::Sparse)
    } else if text.eq_ignore_ascii_case(DESCRIPTOR_SIGNATURE) {
        Some(Kind::Descriptor)
    } else if start.starts_with(COWD_SIGNATURE) {
        Some(Kind::Cowd)
    } else if start.starts_with(SESPARSE_SIGNATURE) {
        Some(Kind::SeSparse)
    } else {
        None
    })
}

/// Whether the content carries the signature of this format.
pub(crate) fn matches(storage: &dyn Storage) -> Result<bool> {
    Ok(kind(storage)?.is_some())
}

/// Opens an image.
pub(crate) fn open(storage: SharedStorage, options: &OpenOptions) -> Result<SharedSource> {
    let file = ImageFile::new(storage, Format::Vmdk);
    file.refuse_snapshot(options)?;
    let vmdk = match kind(file.storage().as_ref())? {
        Some(Kind::Sparse) => open_monolithic(file)?,
        Some(Kind::Descriptor) => open_described(file, options)?,
        Some(Kind::Cowd) => return Err(file.unsupported("the COWD format of ESX (vmfsSparse)")),
        Some(Kind::SeSparse) => return Err(file.unsupported("the SESPARSE format of ESX")),
        None => return Err(file.corrupt("it has no signature")),
    };
    Ok(Arc::new(Mapped(vmdk)))
}

/// A sparse extent with its descriptor inside.
fn open_monolithic(file: ImageFile) -> Result<Vmdk> {
    let extent = SparseExtent::open(file.clone())?;
    let Some(text) = extent.descriptor()? else {
        return Err(file.unsupported(
            "the other extents of its disk (it is one part of a split disk): open the descriptor file instead",
        ));
    };
    let descriptor = Descriptor::parse(&file, &text)?;
    if descriptor.extents.len() > 1 {
        return Err(file.unsupported("more extents than the one in this file"));
    }
    let mut vmdk = Vmdk { file, create_type: descriptor.create_type, pieces: Vec::new() };
    vmdk.append(extent.disk_bytes(), PieceKind::Sparse(Box::new(extent)))?;
    Ok(vmdk)
}

/// A descriptor file and the extents it names.
fn open_described(file: ImageFile, options: &OpenOptions) -> Result<Vmdk> {
    let descriptor = Descriptor::read(&file)?;
    if descriptor.extents.is_empty() {
        return Err(file.corrupt("the descriptor names no extent"));
    }
    let mut vmdk = Vmdk { file, create_type: descriptor.create_type, pieces: Vec::new() };
    for line in &descriptor.extents {
        let length = line.sectors.checked_mul(SECTOR_BYTES).ok_or_else(|| vmdk.too_large())?;
        let piece = vmdk.open_extent(line, length, options)?;
        vmdk.append(length, piece)?;
    }
    vmdk.refuse_shared()?;
    Ok(vmdk)
}

struct Vmdk {
    file: ImageFile,
    create_type: String,
    /// In order and without gaps.
    pieces: Vec<Piece>,
}

/// An extent, as a part of the disk.
struct Piece {
    start: u64,
    end: u64,
    kind: PieceKind,
}

enum PieceKind {
    Sparse(Box<SparseExtent>),
    Flat { storage: SharedStorage, offset: u64 },
    Zero,
}

impl Vmdk {
    fn append(&mut self, length: u64, kind: PieceKind) -> Result<()> {
        let start = self.virtual_size();
        let end = start
            .checked_add(length)
            .filter(|end| *end <= i64::MAX as u64)
            .ok_or_else(|| self.too_large())?;
        if length > 0 {
            self.pieces.push(Piece { start, end, kind });
        }
        Ok(())
    }

    fn too_large(&self) -> crate::Error {
        self.file.corrupt("its extents add up to more bytes than a disk can have")
    }

    fn open_extent(&self, line: &ExtentLine, length: u64, options: &OpenOptions) -> Result<PieceKind> {
        let (ExtentType::Flat { name, .. } | ExtentType::Sparse { name }) = &line.kind else {
            return Ok(PieceKind::Zero);
        };
        let (storage, _) = options.open_reference(self.file.storage().as_ref(), Format::Vmdk, name)?;
        let file = ImageFile::new(storage, Format::Vmdk);
        match &line.kind {
            ExtentType::Flat { first_sector, .. } => {
                let offset = first_sector.checked_mul(SECTOR_BYTES).ok_or_else(|| self.too_large())?;
                file.check("the flat extent", offset, length)?;
                Ok(PieceKind::Flat { storage: Arc::clone(file.storage()), offset })
            }
            _ => {
                let extent = SparseExtent::open(file)?;
                if extent.disk_bytes() < length {
                    return Err(self.file.corrupt(format!(
                        "the extent {name:?} holds {} bytes of disk, and the descriptor counts on {length}",
                        extent.disk_bytes()
                    )));
                }
                Ok(PieceKind::Sparse(Box::new(extent)))
            }
        }
    }

    /// Refuses extents that share bytes of a file.
    fn refuse_shared(&self) -> Result<()> {
        let mut used: Vec<(&str, u64, u64)> = self.pieces.iter().filter_map(Piece::file_range).collect();
        used.sort_unstable();
        match used.windows(2).find(|pair| pair[0].0 == pair[1].0 && pair[0].2 > pair[1].1) {
            Some(pair) => Err(self.file.corrupt(format!("two extents share bytes of {:?}", pair[0].0))),
            None => Ok(()),
        }
    }
}

impl Piece {
    /// File, first byte and end of what an extent uses of a file.
    fn file_range(&self) -> Option<(&str, u64, u64)> {
        match &self.kind {
            PieceKind::Sparse(extent) => Some((extent.file().name(), 0, u64::MAX)),
            PieceKind::Flat { storage, offset } => {
                Some((storage.name(), *offset, offset.saturating_add(self.end - self.start)))
            }
            PieceKind::Zero => None,
        }
    }

    fn storage(&self) -> Option<&SharedStorage> {
        match &self.kind {
            PieceKind::Sparse(extent) => Some(extent.file().storage()),
            PieceKind::Flat { storage, .. } => Some(storage),
            PieceKind::Zero => None,
        }
    }
}

/// Bytes that the files of all extents take; a file counts once.
fn allocated_bytes(pieces: &[Piece]) -> Option<u64> {
    let mut files: Vec<&SharedStorage> = pieces.iter().filter_map(Piece::storage).collect();
    files.sort_by_key(|storage| storage.name().to_owned());
    files.dedup_by_key(|storage| storage.name().to_owned());
    files.into_iter().map(|storage| storage.allocated_bytes()).sum()
}

impl Mapping for Vmdk {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn virtual_size(&self) -> u64 {
        self.pieces.last().map_or(0, |piece| piece.end)
    }

    fn info(&self) -> Info {
        let mut details =
            vec![("subformat", self.create_type.clone()), ("extents", self.pieces.len().to_string())];
        if let Some(PieceKind::Sparse(extent)) = self.pieces.first().map(|piece| &piece.kind) {
            details.push(("grain size", extent.grain_bytes().to_string()));
            if extent.is_compressed() {
                details.push(("compression", "zlib".to_owned()));
            }
        }
        Info {
            format: Format::Vmdk,
            virtual_size: self.virtual_size(),
            allocated_bytes: allocated_bytes(&self.pieces),
            details,
        }
    }

    fn run(&self, offset: u64, length: u64) -> Result<Run<'_>> {
        let index = self.pieces.partition_point(|piece| piece.end <= offset);
        let Some(piece) = self.pieces.get(index) else {
            return Err(self.file.corrupt(format!("no extent holds offset {offset}")));
        };
        let within = offset - piece.start;
        let length = length.min(piece.end - offset);
        match &piece.kind {
            PieceKind::Sparse(extent) => extent.run(within, length),
            PieceKind::Zero => Ok(Run { length, content: Content::Zero }),
            PieceKind::Flat { storage, offset } => {
                Ok(Run { length, content: Content::Stored { storage, offset: offset + within } })
            }
        }
    }
}
