//! Microsoft's virtual hard disk, also known as VPC.
//!
//! The source is Microsoft's "Virtual Hard Disk Image Format Specification", version 1.0. All numbers are big-endian.
//!
//! A *fixed* image is the disk followed by a 512 byte footer. A *dynamic* one is a copy of the footer, a header, a block
//! table, blocks, and the footer; each block is a bitmap with a bit per sector, then the sectors. A *differencing* one
//! is a dynamic one that names a parent, which has the sectors whose bits are clear.

mod dynamic;
mod footer;
mod header;
mod parent;
mod view;

use std::sync::Arc;

use self::dynamic::Dynamic;
use self::footer::{FOOTER_BYTES, Footer, Kind};
pub use self::view::{FixedVhdView, VhdView};
use super::image_file::ImageFile;
use super::mapped::{Content, Mapped, Mapping, Run};
use crate::{Format, Info, OpenOptions, Result, SharedSource, SharedStorage, Storage};

/// Whether the content carries the signature of this format.
///
/// A footer can stand at the end of any file, also by a guest's hand, so a footer counts only if its checksum is right
/// and it fits the size of the file; the copy at the front of a dynamic image counts by its cookie.
pub(crate) fn matches(storage: &dyn Storage) -> Result<bool> {
    footer::is_at_end(storage).and_then(|found| if found { Ok(true) } else { footer::is_at_front(storage) })
}

/// Opens an image.
pub(crate) fn open(storage: SharedStorage, options: &OpenOptions) -> Result<SharedSource> {
    Ok(Arc::new(Mapped(open_image(storage, options)?)))
}

fn open_image(storage: SharedStorage, options: &OpenOptions) -> Result<Vhd> {
    let file = ImageFile::new(storage, Format::Vhd);
    file.refuse_snapshot(options)?;
    let footer = Footer::find(&file)?;
    let layout = match footer.kind {
        Kind::Fixed => {
            let end = file.check("the disk", 0, footer.disk_bytes)?;
            file.check("the footer", end, FOOTER_BYTES)?;
            Layout::Fixed
        }
        Kind::Dynamic | Kind::Differencing => {
            Layout::Dynamic(Box::new(Dynamic::open(&file, &footer, options)?))
        }
    };
    Ok(Vhd { file, footer, layout })
}

struct Vhd {
    file: ImageFile,
    footer: Footer,
    layout: Layout,
}

enum Layout {
    Fixed,
    Dynamic(Box<Dynamic>),
}

impl Mapping for Vhd {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn virtual_size(&self) -> u64 {
        self.footer.disk_bytes
    }

    fn info(&self) -> Info {
        let mut details = vec![("subformat", self.footer.kind.name().to_owned())];
        details.push(("creator", self.footer.creator()));
        if let Layout::Dynamic(dynamic) = &self.layout {
            details.extend(dynamic.details());
        }
        if !self.footer.at_end {
            details
                .push(("footer", "damaged or missing at the end; its copy at the front is used".to_owned()));
        }
        Info {
            format: Format::Vhd,
            virtual_size: self.footer.disk_bytes,
            allocated_bytes: self.file.storage().allocated_bytes(),
            details,
        }
    }

    fn run(&self, offset: u64, length: u64) -> Result<Run<'_>> {
        match &self.layout {
            Layout::Fixed => {
                Ok(Run { length, content: Content::Stored { storage: self.file.storage(), offset } })
            }
            Layout::Dynamic(dynamic) => dynamic.run(offset, length),
        }
    }
}
