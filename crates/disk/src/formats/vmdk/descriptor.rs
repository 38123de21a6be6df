//! The text that describes a disk.
//!
//! ```text
//! # Disk DescriptorFile
//! version=1
//! CID=4211e9af
//! parentCID=ffffffff
//! createType="twoGbMaxExtentSparse"
//! RW 4192256 SPARSE "disk-s001.vmdk"
//! RW 2048 FLAT "disk-f002.vmdk" 0
//! RW 100 ZERO
//! ddb.adapterType = "ide"
//! ```

use std::collections::HashMap;

use super::super::image_file::ImageFile;
use crate::Result;

/// The largest descriptor that is read.
const DESCRIPTOR_BYTES_MAX: u64 = 1 << 20;
/// Extents of a disk, at most: 8 TiB in pieces of 2 GB. Each holds an open file.
const EXTENTS_MAX: usize = 4096;
/// What `parentCID` says in an image without a parent.
const NO_PARENT: &str = "ffffffff";

/// A descriptor, parsed.
pub(super) struct Descriptor {
    /// The kind of disk, for people; what counts is the type of each extent.
    pub(super) create_type: String,
    /// The extents in the order of the disk.
    pub(super) extents: Vec<ExtentLine>,
}

/// A line that describes an extent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExtentLine {
    /// Length in sectors.
    pub(super) sectors: u64,
    /// Where it lies.
    pub(super) kind: ExtentType,
}

/// Where an extent lies.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExtentType {
    /// In a file, as it is.
    Flat {
        /// The file.
        name: String,
        /// Where in the file it begins.
        first_sector: u64,
    },
    /// In a sparse extent file.
    Sparse {
        /// The file.
        name: String,
    },
    /// Nowhere: it is zeros.
    Zero,
}

impl Descriptor {
    /// Reads a descriptor that is a file of its own.
    pub(super) fn read(file: &ImageFile) -> Result<Self> {
        if file.size() > DESCRIPTOR_BYTES_MAX {
            return Err(file.unsupported(format!("a descriptor of {} bytes", file.size())));
        }
        let text = file.read("the descriptor", 0, file.size() as usize)?;
        Self::parse(file, &text)
    }

    /// Parses a descriptor. It ends at the first NUL: an embedded one is padded with them.
    pub(super) fn parse(file: &ImageFile, text: &[u8]) -> Result<Self> {
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let mut keys: HashMap<String, &str> = HashMap::new();
        let mut extents = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if is_extent(line) {
                extents.push(extent(file, line)?);
            } else if let Some((key, value)) = line.split_once('=') {
                let value = value.trim().trim_matches('"');
                if keys.insert(key.trim().to_ascii_lowercase(), value).is_some_and(|before| before != value) {
                    return Err(file.corrupt(format!("the descriptor gives two values for {:?}", key.trim())));
                }
            }
        }
        if extents.len() > EXTENTS_MAX {
            return Err(file.unsupported(format!("{} extents", extents.len())));
        }
        refuse_parent(file, &keys)?;
        let create_type = keys.get("createtype").copied().unwrap_or("unknown").to_owned();
        Ok(Self { create_type, extents })
    }
}

fn refuse_parent(file: &ImageFile, keys: &HashMap<String, &str>) -> Result<()> {
    let has_parent = keys.get("parentcid").is_some_and(|cid| !cid.eq_ignore_ascii_case(NO_PARENT));
    match (keys.get("parentfilenamehint"), has_parent) {
        (None, false) => Ok(()),
        (None, true) => Err(file.unsupported("its parent: consolidate the snapshots first")),
        (Some(hint), _) => {
            Err(file.unsupported(format!("its parent {hint:?}: consolidate the snapshots first")))
        }
    }
}

fn is_extent(line: &str) -> bool {
    ["RW", "RDONLY", "NOACCESS"].contains(&line.split_whitespace().next().unwrap_or_default())
}

/// `RW 63 FLAT "name" 0`: access, sectors, type, file, sector of the file where the extent begins.
fn extent(file: &ImageFile, line: &str) -> Result<ExtentLine> {
    let bad = || file.corrupt(format!("the descriptor's line {line:?} makes no sense"));
    let mut quoted = line.splitn(2, '"');
    let mut words = quoted.next().unwrap_or_default().split_whitespace();
    let (access, sectors, kind) = (words.next(), words.next(), words.next());
    if access == Some("NOACCESS") {
        return Err(file.unsupported("an extent that may not be read"));
    }
    let sectors = sectors.and_then(|sectors| sectors.parse().ok()).ok_or_else(bad)?;
    let (name, after) = match quoted.next() {
        None => (String::new(), ""),
        Some(rest) => {
            rest.rsplit_once('"').map(|(name, after)| (name.to_owned(), after.trim())).ok_or_else(bad)?
        }
    };
    let kind = match kind.ok_or_else(bad)? {
        "ZERO" => ExtentType::Zero,
        "SPARSE" if !name.is_empty() => ExtentType::Sparse { name },
        // ESX writes flat extents as VMFS, without the place where they begin.
        "FLAT" | "VMFS" if !name.is_empty() => {
            let first_sector = if after.is_empty() { 0 } else { after.parse().map_err(|_| bad())? };
            ExtentType::Flat { name, first_sector }
        }
        "SPARSE" | "FLAT" | "VMFS" => return Err(bad()),
        other => return Err(file.unsupported(format!("extents of type {other:?}"))),
    };
    Ok(ExtentLine { sectors, kind })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Format, MemoryStorage};

    fn parse(text: &str) -> Result<Descriptor> {
        let storage = Arc::new(MemoryStorage::new("disk.vmdk", text.as_bytes()));
        Descriptor::parse(&ImageFile::new(storage, Format::Vmdk), text.as_bytes())
    }

    #[test]
    fn extents_of_every_readable_type_are_understood() {
        let text = "# Disk DescriptorFile\r\nparentCID=ffffffff\r\ncreateType=\"custom\"\r\n\
            RW 63 FLAT \"a \"b\".vmdk\" 7\r\nRDONLY 5 SPARSE \"s.vmdk\"\r\nRW 100 ZERO\r\nRW 2 VMFS \"f.vmdk\"\r\n\
            ddb.x = \"1\"\r\n\0RW 9 NONSENSE";
        let descriptor = parse(text).unwrap();
        assert_eq!(descriptor.create_type, "custom");
        let flat = |name: &str, first_sector| ExtentType::Flat { name: name.to_owned(), first_sector };
        let kinds = [
            flat("a \"b\".vmdk", 7),
            ExtentType::Sparse { name: "s.vmdk".to_owned() },
            ExtentType::Zero,
            flat("f.vmdk", 0),
        ];
        let lines = [63, 5, 100, 2].into_iter().zip(kinds);
        assert_eq!(
            descriptor.extents,
            lines.map(|(sectors, kind)| ExtentLine { sectors, kind }).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_parent_is_refused_by_name() {
        let refused = |text: &str| parse(text).err().unwrap().to_string();
        assert!(refused("parentCID=12345678\nparentFileNameHint=\"base.vmdk\"").contains("base.vmdk"));
        assert!(refused("parentCID=12345678").contains("parent"));
        assert!(refused("parentFileNameHint=\"/etc/passwd\"").contains("/etc/passwd"));
        assert!(parse("parentCID=FFFFFFFF").is_ok());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "RW",
            "RW x FLAT \"a\"",
            "RW 5",
            "RW 5 FLAT",
            "RW 5 FLAT \"a",
            "RW 5 FLAT \"a\" -1",
            "RW 5 SPARSE \"\"",
            "RW 18446744073709551616 ZERO",
            "NOACCESS 5 ZERO",
            "RW 5 VMFSRDM \"a\"",
            "CID=1\nCID=2",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
