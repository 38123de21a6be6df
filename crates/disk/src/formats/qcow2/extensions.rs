//! Header extensions.

use super::corrupt;
use crate::formats::bytes::be32;
use crate::{Result, Storage};

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const DATA_FILE: u32 = 0x4441_5441;

/// One entry of the feature name table: type, bit, 46 bytes of name.
const FEATURE_NAME_BYTES: usize = 48;
const FEATURE_TYPE_INCOMPATIBLE: u8 = 0;

/// What the extensions say.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    /// Format of the backing file, in QEMU's words.
    pub(super) backing_format: Option<String>,
    /// Name of the external data file.
    pub(super) data_file: Option<String>,
    incompatible_names: Vec<(u8, String)>,
}

impl Extensions {
    /// Parses the extensions in the first cluster, from the end of the header to the name of the backing file.
    pub(super) fn parse(
        storage: &dyn Storage,
        cluster: &[u8],
        header_length: usize,
        backing_offset: u64,
    ) -> Result<Self> {
        let end = match usize::try_from(backing_offset) {
            Ok(offset) if offset >= header_length && offset < cluster.len() => offset,
            _ => cluster.len(),
        };
        let area = &cluster[..end];
        let mut found = Self::default();
        let mut position = header_length;
        while position + 8 <= area.len() {
            let kind = be32(area, position);
            let length = be32(area, position + 4) as usize;
            if kind == END {
                break;
            }
            let start = position + 8;
            let Some(data) = start.checked_add(length).and_then(|end| area.get(start..end)) else {
                return Err(corrupt(
                    storage,
                    format!("header extension {kind:#x} at {position} is {length} bytes long"),
                ));
            };
            found.take(kind, data);
            position = start + length.next_multiple_of(8);
        }
        Ok(found)
    }

    fn take(&mut self, kind: u32, data: &[u8]) {
        match kind {
            BACKING_FORMAT => self.backing_format = Some(text(data)),
            DATA_FILE => self.data_file = Some(text(data)),
            FEATURE_NAMES => {
                let (entries, _) = data.as_chunks::<FEATURE_NAME_BYTES>();
                self.incompatible_names = entries
                    .iter()
                    .filter(|entry| entry[0] == FEATURE_TYPE_INCOMPATIBLE)
                    .map(|entry| (entry[1], text(&entry[2..])))
                    .collect();
            }
            // Bitmaps and what is newer: of no concern to a reader of the content.
            _ => {}
        }
    }

    /// The name that the image itself gives to an incompatible feature.
    pub(super) fn incompatible_name(&self, bit: u8) -> Option<&str> {
        self.incompatible_names.iter().find(|(number, _)| *number == bit).map(|(_, name)| name.as_str())
    }
}

fn text(data: &[u8]) -> String {
    let end = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
    String::from_utf8_lossy(&data[..end]).into_owned()
}
