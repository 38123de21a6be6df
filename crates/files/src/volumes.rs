//! The parts of a disk that may hold a file system: the whole disk, or its partitions.

use std::sync::Arc;

use leeward_disk::{SharedSource, TableKind, partitions};

use crate::{FileKind, FileSystem, OpenOptions, Result, bytes, identify, lvm, open};

/// What a volume holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file system that can be read.
    Files(FileKind),
    /// Something else, in words.
    Other(String),
}

/// A part of a disk.
pub struct Volume {
    /// How it is called: `disk`, the number of a partition, or `lvm:GROUP/VOLUME`.
    pub id: String,
    /// First byte on the disk; `None` for a logical volume, which may lie in several pieces.
    pub offset: Option<u64>,
    /// Length in bytes.
    pub size: u64,
    /// What the partition table says that it is for.
    pub purpose: String,
    /// The name that the partition table gives it.
    pub name: Option<String>,
    /// What it holds.
    pub content: Content,
    /// Why it cannot be read.
    pub problem: Option<String>,
    source: Option<SharedSource>,
}

impl Volume {
    /// Whether it holds a file system that can be read.
    #[must_use]
    pub fn has_files(&self) -> bool {
        matches!(self.content, Content::Files(_))
    }

    /// Its bytes, if they can be read.
    #[must_use]
    pub fn source(&self) -> Option<&SharedSource> {
        self.source.as_ref()
    }

    /// Opens its file system.
    ///
    /// # Errors
    /// It holds none that is known here, or a damaged one.
    pub fn open(&self, options: OpenOptions) -> Result<Box<dyn FileSystem>> {
        match (&self.source, &self.problem) {
            (Some(source), _) => open(Arc::clone(source), options),
            (None, problem) => {
                let what = problem.clone().unwrap_or_else(|| "it holds other partitions".to_owned());
                Err(crate::Error::Unknown { what })
            }
        }
    }
}

/// The volumes of a disk.
pub struct Volumes {
    /// The kind of its partition table.
    pub table: TableKind,
    /// Its volumes, partitions in the order of their numbers.
    pub volumes: Vec<Volume>,
    /// What is wrong with the table.
    pub problems: Vec<String>,
}

/// Finds the volumes of a disk and what they hold.
///
/// # Errors
/// The disk cannot be read.
pub fn volumes(source: &SharedSource) -> Result<Volumes> {
    let table = partitions(source.as_ref())?;
    let mut found = Volumes { table: table.kind, volumes: Vec::new(), problems: table.problems.clone() };
    if table.kind == TableKind::None {
        found.add("disk".to_owned(), Some(0), "whole disk", None, Some(Arc::clone(source)))?;
        found.add_logical()?;
        return Ok(found);
    }
    for partition in &table.partitions {
        let opened = if partition.extended { None } else { partition.open(source).ok() };
        let (id, name) = (partition.number.to_string(), partition.name.clone());
        found.add(id, Some(partition.offset), partition.type_name, name, opened)?;
        if let Some(volume) = found.volumes.last_mut().filter(|volume| volume.source.is_none()) {
            volume.size = partition.length;
            volume.problem.clone_from(&partition.problem);
        }
    }
    found.add_logical()?;
    Ok(found)
}

impl Volumes {
    /// Adds the logical volumes that lie in the others.
    fn add_logical(&mut self) -> Result<()> {
        let mut physicals = Vec::new();
        for source in self.volumes.iter().filter_map(|volume| volume.source.as_ref()) {
            physicals.extend(lvm::physical(source)?);
        }
        for logical in lvm::logical(&physicals) {
            let (opened, problem) = match logical.source {
                Ok(source) => (Some(source), None),
                Err(why) => (None, Some(why)),
            };
            self.add(logical.id, None, "logical volume", None, opened)?;
            if let Some(volume) = self.volumes.last_mut() {
                (volume.size, volume.problem) = (logical.size, problem);
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        id: String,
        offset: Option<u64>,
        purpose: &str,
        name: Option<String>,
        source: Option<SharedSource>,
    ) -> Result<()> {
        let content = match &source {
            None => Content::Other("nothing that can be read".to_owned()),
            Some(source) => match identify(source)? {
                Some(kind) => Content::Files(kind),
                None => Content::Other(describe(source)?),
            },
        };
        let size = source.as_ref().map_or(0, |source| source.virtual_size());
        let purpose = purpose.to_owned();
        self.volumes.push(Volume { id, offset, size, purpose, name, content, problem: None, source });
        Ok(())
    }
}

/// Says what the content is if it is no file system that can be read: `LVM`, `swap`, `nothing` …
///
/// # Errors
/// The disk cannot be read.
pub(crate) fn describe(source: &SharedSource) -> Result<String> {
    let mut head = vec![0; source.virtual_size().min(68 << 10) as usize];
    source.read_at(&mut head, 0)?;
    let found = if (0..4).any(|sector| bytes::part(&head, sector * 512, 8) == b"LABELONE") {
        "an LVM physical volume"
    } else if bytes::part(&head, 4086, 10) == b"SWAPSPACE2" {
        "Linux swap"
    } else if head.starts_with(b"LUKS\xba\xbe") {
        "an encrypted volume (LUKS)"
    } else if bytes::part(&head, 3, 8) == b"-FVE-FS-" {
        "an encrypted volume (BitLocker)"
    } else if bytes::le32(&head, 4096) == 0xa92b_4efc {
        "a member of a Linux RAID"
    } else if bytes::part(&head, 0x10040, 8) == b"_BHRfS_M" {
        "Btrfs, which is not read here"
    } else if head.starts_with(b"hsqs") {
        "squashfs"
    } else if bytes::part(&head, 32769, 5) == b"CD001" {
        "ISO 9660"
    } else if bytes::part(&head, 32, 4) == b"NXSB" {
        "Apple APFS"
    } else if matches!(bytes::part(&head, 1024, 2), b"H+" | b"HX") {
        "Apple HFS+"
    } else if head.iter().all(|&byte| byte == 0) {
        "nothing but zeros at its start"
    } else {
        "content without a known signature"
    };
    Ok(found.to_owned())
}
