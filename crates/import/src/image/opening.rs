//! From an object to the disks in it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use leeward_disk::{
    Extents, FileStorage, Format, MemoryStorage, OpenOptions, References, SharedStorage, Storage, detect,
    open_storage,
};
use leeward_remote::objects::{ObjectHead, SharedObjects};

use super::extents::Beside;
use super::slice::SliceStorage;
use super::storage::{BlockCache, ObjectStorage};
use super::stream::{Compression, StreamImage};
use super::{Content, Disk, ImageOptions, ObjectImage, expand, ova, tar};
use crate::digest::Stated;
use crate::identity::SourceIdentity;
use crate::{Error, Result, Watch};

/// How much of a wrapped image is looked at to tell its format, in bytes.
const START_BYTES: usize = 1 << 20;
/// Wrappings inside of each other, at most: an archive, a compression in it, and a scratch file.
const DEPTH_MAX: u32 = 3;

/// Opens the version of an object that `head` shows.
///
/// # Errors
/// It was replaced since, cannot be read, is no image, is refused or damaged, or expands to too much.
pub fn open(
    objects: &SharedObjects,
    object: &str,
    head: &ObjectHead,
    options: &ImageOptions,
    watch: &dyn Watch,
) -> Result<ObjectImage> {
    if head.bytes == 0 {
        return Err(Error::Image { object: object.to_owned(), what: "the object is empty".to_owned() });
    }
    let cache = Arc::new(BlockCache::default());
    let storage: SharedStorage =
        Arc::new(ObjectStorage::new(Arc::clone(objects), object, head.version.clone(), head.bytes, &cache));
    let beside = Arc::new(Beside::new(Arc::clone(objects), object, cache));
    let mut opening = Opening {
        objects,
        object,
        head,
        options,
        watch,
        beside,
        found: ObjectImage { disks: Vec::new(), notes: Vec::new(), expanded: BTreeMap::new() },
    };
    opening.open(&storage, &Place::default())?;
    Ok(opening.found)
}

/// Where inside of an object a storage is.
#[derive(Clone, Default)]
struct Place {
    disk: String,
    wrappings: Vec<String>,
    depth: u32,
}

impl Place {
    fn inside(&self, wrapping: &str) -> Self {
        let mut place = self.clone();
        place.wrappings.push(wrapping.to_owned());
        place.depth += 1;
        place
    }
}

struct Opening<'a> {
    objects: &'a SharedObjects,
    object: &'a str,
    head: &'a ObjectHead,
    options: &'a ImageOptions,
    watch: &'a dyn Watch,
    beside: Arc<Beside>,
    found: ObjectImage,
}

impl Opening<'_> {
    fn open(&mut self, storage: &SharedStorage, place: &Place) -> Result<()> {
        if place.depth > DEPTH_MAX {
            return Err(self.wrong(storage, "it is wrapped too many times"));
        }
        let is_outermost = place.depth == 0;
        if let Some(format) = self.options.format.filter(|_| is_outermost) {
            return self.open_image(storage, format, place);
        }
        if let Some(compression) = Compression::detect(storage.as_ref())? {
            return self.open_compressed(storage, compression, place);
        }
        if tar::matches(storage.as_ref())? {
            return self.open_archive(storage, place);
        }
        match detect(storage.as_ref())?.as_slice() {
            [] => self.open_image(storage, Format::Raw, place),
            [format] => self.open_image(storage, *format, place),
            [first, second, ..] => Err(leeward_disk::Error::Ambiguous {
                path: storage.name().to_owned(),
                first: *first,
                second: *second,
            }
            .into()),
        }
    }

    fn wrong(&self, storage: &SharedStorage, what: &str) -> Error {
        Error::Image { object: storage.name().to_owned(), what: what.to_owned() }
    }

    fn open_image(&mut self, storage: &SharedStorage, format: Format, place: &Place) -> Result<()> {
        // What lies in an archive or was expanded has nothing beside it.
        let references = if place.depth == 0 {
            References::Extents(Arc::clone(&self.beside) as Arc<dyn Extents>)
        } else {
            References::Refuse
        };
        let options = OpenOptions { references, ..OpenOptions::with_format(format) };
        let source = open_storage(Arc::clone(storage), &options)?;
        let is_whole = format == Format::Raw && place.depth == 0;
        let whole = is_whole.then(|| Stated::of(self.head));
        let virtual_size = source.virtual_size();
        self.add(Content::Source { source, whole }, format, virtual_size, place);
        Ok(())
    }

    fn open_archive(&mut self, storage: &SharedStorage, place: &Place) -> Result<()> {
        let disks = ova::disks(storage.as_ref())?;
        self.found.notes.extend(disks.notes);
        for member in disks.members {
            let slice = SliceStorage::new(Arc::clone(storage), member.offset, member.bytes, &member.name);
            let mut inside = place.inside("OVA");
            inside.disk.clone_from(&member.name);
            self.open(&(Arc::new(slice) as SharedStorage), &inside)?;
        }
        Ok(())
    }

    fn open_compressed(
        &mut self,
        storage: &SharedStorage,
        compression: Compression,
        place: &Place,
    ) -> Result<()> {
        let inside = place.inside(match compression {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Xz => "xz",
        });
        let start = expand::start(storage, compression, START_BYTES)?;
        let start: SharedStorage = Arc::new(MemoryStorage::new(storage.name(), start));
        if needs_seeking(start.as_ref())? {
            return self.open_spooled(storage, compression, &inside);
        }
        let measured =
            self.options.expanded.get(&place.disk).filter(|known| known.version == self.head.version.0);
        let expanded = match measured {
            Some(known) => known.clone(),
            None => {
                let stated = if place.depth == 0 { Stated::of(self.head) } else { Stated::default() };
                let (version, bytes_max) = (&self.head.version.0, self.options.expanded_bytes_max);
                expand::measure(storage, compression, version, stated, bytes_max, self.watch)?
            }
        };
        self.found.expanded.insert(place.disk.clone(), expanded.clone());
        let virtual_size = expanded.disk_bytes();
        let format = if expanded.has_footer { Format::Vhd } else { Format::Raw };
        let stream = StreamImage { storage: Arc::clone(storage), compression, expanded };
        self.add(Content::Stream(stream), format, virtual_size, &inside);
        Ok(())
    }

    fn open_spooled(
        &mut self,
        storage: &SharedStorage,
        compression: Compression,
        inside: &Place,
    ) -> Result<()> {
        let Some(scratch) = &self.options.scratch else {
            return Err(self.wrong(
                storage,
                "it holds a format that cannot be read as a stream: upload it without the compression around it (qcow2 \
                 and vmdk compress by themselves), or allow a scratch file",
            ));
        };
        let bytes_max = self.options.expanded_bytes_max;
        let file = expand::spool(storage, compression, bytes_max, scratch, self.watch)?;
        let label = PathBuf::from(format!("expanded {}", storage.name()));
        let file: SharedStorage = Arc::new(FileStorage::from_file(file, &label)?);
        self.open(&file, inside)
    }

    fn add(&mut self, content: Content, format: Format, virtual_size: u64, place: &Place) {
        let identity = SourceIdentity {
            place: self.objects.name().to_owned(),
            object: self.object.to_owned(),
            version: self.head.version.0.clone(),
            parts: self.beside.opened(),
            disk: place.disk.clone(),
            virtual_size,
        };
        let wrappings = place.wrappings.clone();
        self.found.disks.push(Disk { identity, format, wrappings, content });
    }
}

/// Whether what begins so is no raw disk. The footer of a fixed VHD is at the end only, where it does not matter.
pub(crate) fn needs_seeking(start: &dyn Storage) -> Result<bool> {
    let is_wrapped = Compression::detect(start)?.is_some() || tar::matches(start)?;
    Ok(is_wrapped || !detect(start)?.is_empty())
}
