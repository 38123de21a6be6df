//! The parent of a differencing image; [MS-VHDX] 2.6.2.6.

use std::collections::HashMap;

use super::super::bytes::{le16, le32};
use super::super::image_file::ImageFile;
use super::guid::Guid;
use super::{Vhdx, matches, open_image};
use crate::{Error, Format, OpenOptions, Result};

/// The kind of locator that names a VHDX.
const VHDX_LOCATOR: Guid =
    Guid::new(0xb04a_efb7, 0xd19e, 0x4a81, [0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13]);
/// Keys under which the parent's `DataWriteGuid` may stand. The second is set while a parent is being changed.
const LINKAGES: [&str; 2] = ["parent_linkage", "parent_linkage2"];

/// Opens the parent, if the caller allows it, under the first of its names that leads to a file. Its content must be
/// that on which the child was made.
pub(super) fn open_parent(file: &ImageFile, locator: &[u8], options: &OpenOptions) -> Result<Vhdx> {
    let values = values(file, locator)?;
    let linkages: Vec<String> =
        LINKAGES.iter().filter_map(|key| values.get(*key)).map(|link| bare(link)).collect();
    let mut first = None;
    for name in names(&values) {
        match options.open_reference(file.storage().as_ref(), Format::Vhdx, &name) {
            Ok((storage, options)) => {
                if !matches(storage.as_ref())? {
                    return Err(unusable(file, &name, "it is not a vhdx image".to_owned()));
                }
                let parent = open_image(storage, &options)?;
                let found = parent.header.data_write;
                if !linkages.contains(&found.to_string()) {
                    return Err(unusable(
                        file,
                        &name,
                        format!(
                            "its content is not that on which the image was made: it is {found}, not {}",
                            linkages.join(" or ")
                        ),
                    ));
                }
                return Ok(parent);
            }
            Err(error @ Error::ReferenceUnusable { .. }) => first = first.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Err(first.unwrap_or_else(|| file.corrupt("a differencing image without the name of its parent")))
}

fn unusable(file: &ImageFile, name: &str, why: String) -> Error {
    Error::ReferenceUnusable { path: file.name().to_owned(), reference: name.to_owned(), why }
}

/// The names under which the parent may be found, best first: the relative one, then the name alone of the absolute
/// one, since an absolute path is of the machine that wrote it.
fn names(values: &HashMap<String, String>) -> Vec<String> {
    let relative = values.get("relative_path").map(|path| path.replace('\\', "/"));
    let absolute =
        values.get("absolute_win32_path").and_then(|path| path.rsplit(['\\', '/']).next()).map(str::to_owned);
    relative.into_iter().chain(absolute).filter(|name| !name.is_empty()).collect()
}

/// A GUID as text, without braces and case.
fn bare(guid: &str) -> String {
    guid.trim_matches(['{', '}']).to_ascii_lowercase()
}

fn values(file: &ImageFile, locator: &[u8]) -> Result<HashMap<String, String>> {
    if Guid::at(locator, 0) != VHDX_LOCATOR {
        return Err(file.unsupported(format!("a parent locator of kind {}", Guid::at(locator, 0))));
    }
    let mut values = HashMap::new();
    for at in (20..).step_by(12).take(le16(locator, 18).into()) {
        let key = text(locator, le32(locator, at), le16(locator, at + 8));
        let value = text(locator, le32(locator, at + 4), le16(locator, at + 10));
        let (Some(key), Some(value)) = (key, value) else {
            return Err(file.corrupt("the parent locator's entries lie outside it"));
        };
        values.insert(key, value);
    }
    Ok(values)
}

fn text(locator: &[u8], offset: u32, length: u16) -> Option<String> {
    let bytes = locator.get(offset as usize..)?.get(..length.into())?;
    let units: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    Some(String::from_utf16_lossy(&units))
}
