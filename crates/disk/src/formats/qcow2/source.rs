//! Reading an image.

use std::sync::Arc;

use super::compressed::Inflater;
use super::entry::Mapping;
use super::header::{Compression, Header, check_l1};
use super::map::Map;
use super::snapshots::Snapshots;
use super::{corrupt, unsupported};
use crate::source::check_range;
use crate::{
    Error, Extent, ExtentKind, Format, Info, OpenOptions, Result, SharedSource, SharedStorage, Source,
    Storage, open_storage,
};

/// Bounds of one call of [`Source::extents`]: extents returned, and work in steps of which loading a table or asking the
/// backing image costs [`STEPS_TABLE`] and everything else 1.
const EXTENTS_MAX: usize = 4096;
const STEPS_MAX: u64 = 1 << 16;
const STEPS_TABLE: u64 = 512;

/// A qcow2 image.
pub struct Qcow2Source {
    storage: SharedStorage,
    header: Header,
    snapshots: Snapshots,
    virtual_size: u64,
    map: Map,
    inflater: Inflater,
    backing: Option<SharedSource>,
}

pub(super) fn open(storage: SharedStorage, options: &OpenOptions) -> Result<SharedSource> {
    let header = Header::read(storage.as_ref())?;
    let snapshots = Snapshots::read(storage.as_ref(), &header)?;
    if header.has_data_file {
        return open_data_file(&storage, &header, &snapshots, options);
    }
    let (l1, virtual_size) = match &options.snapshot {
        None => (header.l1, header.virtual_size),
        Some(wanted) => {
            let snapshot = snapshots.find(storage.as_ref(), wanted)?;
            check_l1(storage.as_ref(), &header.geometry, snapshot.l1, snapshot.virtual_size)?;
            (snapshot.l1, snapshot.virtual_size)
        }
    };
    let backing = open_backing(storage.as_ref(), &header, options)?;
    let map = Map::open(Arc::clone(&storage), &header, &snapshots, l1)?;
    let inflater = Inflater::new(Arc::clone(&storage), header.compression, header.geometry.cluster_bytes());
    Ok(Arc::new(Qcow2Source { storage, header, snapshots, virtual_size, map, inflater, backing }))
}

/// Opens the backing image, in the format that this image states: content that a guest wrote must not choose it.
fn open_backing(
    storage: &dyn Storage,
    header: &Header,
    options: &OpenOptions,
) -> Result<Option<SharedSource>> {
    let Some(name) = &header.backing else { return Ok(None) };
    let (backing, mut options) = options.open_reference(storage, Format::Qcow2, name)?;
    let unusable = |why: String| Error::ReferenceUnusable {
        path: storage.name().to_owned(),
        reference: name.clone(),
        why,
    };
    let format = header.extensions.backing_format.as_deref().ok_or_else(|| {
        unusable(
            "the image does not state the format of its backing file; `qemu-img rebase -u -b FILE -F FORMAT` writes it in"
                .to_owned(),
        )
    })?;
    let format = format.parse().map_err(|_| unusable(format!("its format {format:?} is not known")))?;
    options.format = Some(format);
    open_storage(backing, &options).map(Some)
}

/// Opens the external data file, where that is a raw disk by itself.
fn open_data_file(
    storage: &SharedStorage,
    header: &Header,
    snapshots: &Snapshots,
    options: &OpenOptions,
) -> Result<SharedSource> {
    let name = header
        .extensions
        .data_file
        .as_deref()
        .ok_or_else(|| corrupt(storage.as_ref(), "it has an external data file without a name"))?;
    let (data, mut data_options) = options.open_reference(storage.as_ref(), Format::Qcow2, name)?;
    if !header.data_file_is_raw || header.backing.is_some() || !snapshots.list.is_empty() {
        return Err(unsupported(
            storage.as_ref(),
            format!("the external data file {name:?}, which is not a plain raw disk"),
        ));
    }
    if data.size() < header.virtual_size {
        return Err(corrupt(
            storage.as_ref(),
            format!("the external data file {name:?} is smaller than the disk"),
        ));
    }
    data_options.format = Some(Format::Raw);
    data_options.snapshot.clone_from(&options.snapshot);
    let disk = open_storage(data, &data_options)?;
    Ok(Arc::new(ExternalSource { disk, virtual_size: header.virtual_size, name: name.to_owned() }))
}

impl Qcow2Source {
    /// Fills `part` from the file, which must hold all of it.
    fn read_data(&self, part: &mut [u8], host: u64) -> Result<()> {
        let end = host.saturating_add(part.len() as u64);
        if end > self.storage.size() {
            return Err(corrupt(
                self.storage.as_ref(),
                format!("the file ends at {}, inside a cluster that reaches {end}", self.storage.size()),
            ));
        }
        self.storage.read_at(part, host)
    }

    /// Fills `part` from the backing image, and with zeros behind its end.
    fn read_backing(&self, part: &mut [u8], offset: u64) -> Result<()> {
        let Some(backing) = &self.backing else {
            part.fill(0);
            return Ok(());
        };
        let held = backing.virtual_size().saturating_sub(offset).min(part.len() as u64) as usize;
        let (inside, behind) = part.split_at_mut(held);
        behind.fill(0);
        if inside.is_empty() { Ok(()) } else { backing.read_at(inside, offset) }
    }

    /// Adds the extents of a stretch that this image does not map, and returns their end.
    fn backing_extents(&self, offset: u64, length: u64, found: &mut Vec<Extent>) -> Result<u64> {
        if let Some(backing) = &self.backing
            && offset < backing.virtual_size()
        {
            let length = length.min(backing.virtual_size() - offset);
            let extents = backing.extents(offset, length)?;
            let end = extents.last().map_or(offset + length, Extent::end);
            extents.into_iter().for_each(|extent| extent.push_merged(found));
            return Ok(end);
        }
        Extent { offset, length, kind: ExtentKind::Unallocated }.push_merged(found);
        Ok(offset + length)
    }
}

impl Source for Qcow2Source {
    fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    fn info(&self) -> Info {
        let header = &self.header;
        let mut details = vec![
            ("version", header.version.to_string()),
            ("cluster size", header.geometry.cluster_bytes().to_string()),
            (
                "compression",
                match header.compression {
                    Compression::Zlib => "zlib",
                    Compression::Zstd => "zstd",
                }
                .to_owned(),
            ),
            ("refcount bits", header.refcount_bits.to_string()),
        ];
        if header.geometry.is_extended() {
            details.push(("extended L2", "yes".to_owned()));
        }
        if header.is_dirty {
            details.push(("dirty", "yes".to_owned()));
        }
        if let Some(name) = &header.backing {
            details.push(("backing file", name.clone()));
        }
        if let Some(format) = &header.extensions.backing_format {
            details.push(("backing format", format.clone()));
        }
        details.extend(
            self.snapshots
                .list
                .iter()
                .map(|snapshot| ("internal snapshot", format!("{} {}", snapshot.id, snapshot.name))),
        );
        Info {
            format: Format::Qcow2,
            virtual_size: self.virtual_size,
            allocated_bytes: self.storage.allocated_bytes(),
            details,
        }
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range(self.storage.name(), offset, length, self.virtual_size)?;
        let end = offset + length;
        let mut found = Vec::new();
        let (mut position, mut steps) = (offset, 0);
        let mut table = None;
        while position < end && found.len() < EXTENTS_MAX && steps < STEPS_MAX {
            let current = position / self.map.geometry().l2_coverage();
            if self.map.has_table(position) && table.replace(current) != Some(current) {
                steps += STEPS_TABLE;
            }
            steps += 1;
            let run = self.map.run(position, end - position)?;
            let kind = match run.mapping {
                Mapping::Data { .. } | Mapping::Compressed { .. } => ExtentKind::Data,
                Mapping::Zero => ExtentKind::Zero,
                Mapping::Unallocated => {
                    steps += if self.backing.is_some() { STEPS_TABLE } else { 0 };
                    position = self.backing_extents(position, run.length, &mut found)?;
                    continue;
                }
            };
            Extent { offset: position, length: run.length, kind }.push_merged(&mut found);
            position += run.length;
        }
        Ok(found)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.storage.name(), offset, buffer.len() as u64, self.virtual_size)?;
        let mut rest = buffer;
        let mut position = offset;
        while !rest.is_empty() {
            let run = self.map.run(position, rest.len() as u64)?;
            let (part, behind) = std::mem::take(&mut rest).split_at_mut(run.length as usize);
            match run.mapping {
                Mapping::Data { host } => self.read_data(part, host)?,
                Mapping::Zero => part.fill(0),
                Mapping::Unallocated => self.read_backing(part, position)?,
                Mapping::Compressed { host, length } => {
                    let within = position % self.map.geometry().cluster_bytes();
                    self.inflater.read(part, within as usize, host, length)?;
                }
            }
            position += run.length;
            rest = behind;
        }
        Ok(())
    }

    fn internal_snapshots(&self) -> Vec<String> {
        self.snapshots.list.iter().map(|snapshot| snapshot.name.clone()).collect()
    }
}

/// The disk of an image whose content lies in a raw file beside it. That file is what a guest reads, so the image's own
/// tables are not consulted.
struct ExternalSource {
    disk: SharedSource,
    virtual_size: u64,
    name: String,
}

impl Source for ExternalSource {
    fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    fn info(&self) -> Info {
        Info {
            format: Format::Qcow2,
            virtual_size: self.virtual_size,
            allocated_bytes: self.disk.info().allocated_bytes,
            details: vec![("external data file", self.name.clone())],
        }
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range(&self.name, offset, length, self.virtual_size)?;
        self.disk.extents(offset, length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        check_range(&self.name, offset, buffer.len() as u64, self.virtual_size)?;
        self.disk.read_at(buffer, offset)
    }
}
