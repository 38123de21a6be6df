//! Microsoft's virtual hard disk, version 2.
//!
//! The source is [MS-VHDX]. All numbers are little-endian. The file begins with an identifier, two headers of which the
//! newer sound one counts, and two copies of the region table, which says where the block table and the metadata lie.
//! Changes of these go through a log; what of it is not applied yet is applied here in memory, the file is never
//! written. Blocks of a differencing image may hold some sectors only; sector bitmap blocks say which.

mod blocks;
mod crc32c;
mod guid;
mod header;
mod log;
mod metadata;
mod overlay;
mod parent;
mod region;
mod view;

use std::sync::Arc;

use self::blocks::Blocks;
use self::header::Header;
use self::metadata::Metadata;
use self::region::Regions;
pub use self::view::VhdxView;
use super::image_file::ImageFile;
use super::mapped::{Mapped, Mapping, Run};
use crate::{Format, Info, OpenOptions, Result, SharedSource, SharedStorage, Storage};

/// First bytes of the file.
const SIGNATURE: &[u8; 8] = b"vhdxfile";
/// All parts but the headers are multiples of this, and begin at one.
const MIB: u64 = 1 << 20;

/// Whether the content carries the signature of this format.
pub(crate) fn matches(storage: &dyn Storage) -> Result<bool> {
    let mut signature = [0; SIGNATURE.len()];
    if storage.size() < SIGNATURE.len() as u64 {
        return Ok(false);
    }
    storage.read_at(&mut signature, 0)?;
    Ok(signature == *SIGNATURE)
}

/// Opens an image.
pub(crate) fn open(storage: SharedStorage, options: &OpenOptions) -> Result<SharedSource> {
    Ok(Arc::new(Mapped(open_image(storage, options)?)))
}

fn open_image(storage: SharedStorage, options: &OpenOptions) -> Result<Vhdx> {
    let file = ImageFile::new(storage, Format::Vhdx);
    file.refuse_snapshot(options)?;
    let header = Header::newest(&file)?;
    let (file, replayed) = log::replay(file, &header)?;
    let regions = Regions::read(&file, &header)?;
    let metadata = Metadata::read(&file, regions.metadata)?;
    let blocks = Blocks::open(&file, &regions, metadata, options)?;
    Ok(Vhdx { file, header, replayed, blocks })
}

struct Vhdx {
    file: ImageFile,
    header: Header,
    /// Entries of the log that had not been applied.
    replayed: usize,
    blocks: Blocks,
}

impl Mapping for Vhdx {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn virtual_size(&self) -> u64 {
        self.blocks.disk_bytes()
    }

    fn info(&self) -> Info {
        let mut details = self.blocks.details();
        if self.replayed > 0 {
            details.push((
                "log",
                format!("{} entries were not applied; they are applied in memory", self.replayed),
            ));
        }
        Info {
            format: Format::Vhdx,
            virtual_size: self.virtual_size(),
            allocated_bytes: self.file.storage().allocated_bytes(),
            details,
        }
    }

    fn run(&self, offset: u64, length: u64) -> Result<Run<'_>> {
        self.blocks.run(offset, length)
    }
}
