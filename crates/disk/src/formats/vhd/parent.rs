//! The parent of a differencing image.

use super::super::image_file::ImageFile;
use super::header::{Header, Locator};
use super::{Vhd, matches, open_image};
use crate::{Error, Format, OpenOptions, Result};

/// Longest text of a locator that is read.
const LOCATOR_BYTES_MAX: u32 = 4096;

/// Opens the parent, if the caller allows it, under the first of its names that leads to a file. It must have the UUID
/// that the child remembers.
pub(super) fn open_parent(file: &ImageFile, header: &Header, options: &OpenOptions) -> Result<Vhd> {
    let mut first = None;
    for name in names(file, header)? {
        match options.open_reference(file.storage().as_ref(), Format::Vhd, &name) {
            Ok((storage, options)) => {
                if !matches(storage.as_ref())? {
                    return Err(unusable(file, &name, "it is not a vhd image"));
                }
                let parent = open_image(storage, &options)?;
                if parent.footer.uuid != header.parent_uuid {
                    return Err(unusable(
                        file,
                        &name,
                        "it is not the parent that the image was made on: its UUID differs",
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

fn unusable(file: &ImageFile, name: &str, why: &str) -> Error {
    Error::ReferenceUnusable { path: file.name().to_owned(), reference: name.to_owned(), why: why.to_owned() }
}

/// The names under which the parent may be found, best first: relative ones, then the name alone of absolute ones, since
/// an absolute path is of the machine that wrote it.
fn names(file: &ImageFile, header: &Header) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for locator in header.locators.iter().filter(|locator| &locator.platform == b"W2ru") {
        names.push(text(file, locator)?.replace('\\', "/"));
    }
    for locator in header.locators.iter().filter(|locator| &locator.platform == b"W2ku") {
        names.push(last_part(&text(file, locator)?));
    }
    names.push(last_part(&String::from_utf16_lossy(&header.parent_name)));
    names.retain(|name| !name.is_empty());
    Ok(names)
}

fn last_part(path: &str) -> String {
    path.rsplit(['\\', '/']).next().unwrap_or_default().to_owned()
}

fn text(file: &ImageFile, locator: &Locator) -> Result<String> {
    if locator.length > LOCATOR_BYTES_MAX {
        return Err(file.corrupt(format!("the parent's name is {} bytes long", locator.length)));
    }
    let bytes = file.read("the parent's name", locator.offset, locator.length as usize)?;
    let units: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    Ok(String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned())
}
