//! LVM2: volumes in physical volumes that lie on one disk.
//!
//! Read are linear volumes, in one or more pieces. Striped, mirrored, thin and cached ones, and those with a piece on
//! another disk, are listed and not opened. A label in one of the first four sectors leads to an area of metadata, whose
//! head leads to text with nested sections. Format: `lib/format_text` of LVM2 as documented in its manual pages
//! (`lvmsystemid`, `vgcfgbackup`) and seen on disks.

use std::collections::HashMap;
use std::sync::Arc;

use leeward_disk::{Extent, Format, Info, SharedSource, Source};

use crate::{Result, bytes};

const SECTOR: u64 = 512;
const MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
const TEXT_MAX: u64 = 8 << 20;
const DEPTH_MAX: usize = 8;
const AREAS_MAX: usize = 8;
const CHECKSUM_START: u32 = 0xf597_a6cf;

/// A physical volume: its identity, and the disk or partition that it is.
pub(crate) struct Physical {
    id: String,
    source: SharedSource,
    text: Option<String>,
}

/// A logical volume.
pub(crate) struct Logical {
    pub(crate) id: String,
    pub(crate) size: u64,
    /// The volume as a disk, or why it cannot be read.
    pub(crate) source: Result<SharedSource, String>,
}

/// Reads the label of a physical volume, and the text that describes its group.
pub(crate) fn physical(source: &SharedSource) -> Result<Option<Physical>> {
    let size = source.virtual_size();
    let mut head = vec![0; size.min(4 * SECTOR) as usize];
    source.read_at(&mut head, 0)?;
    let labels = (0..4).map(|sector| sector * SECTOR as usize);
    let Some(label) = labels.into_iter().find(|place| {
        bytes::part(&head, *place, 8) == b"LABELONE" && bytes::part(&head, place + 24, 8) == b"LVM2 001"
    }) else {
        return Ok(None);
    };
    let header = label + bytes::le32(&head, label + 20).min(SECTOR as u32) as usize;
    let id = String::from_utf8_lossy(bytes::part(&head, header, 32)).into_owned();
    // Two lists of places, each ended by an empty one: of data, and of metadata.
    let (mut place, mut ends, mut areas) = (header + 40, 0, Vec::new());
    while ends < 2 && areas.len() < AREAS_MAX && place + 16 <= head.len() {
        let (start, length) = (bytes::le64(&head, place), bytes::le64(&head, place + 8));
        place += 16;
        if start == 0 {
            ends += 1;
        } else if ends == 1 {
            areas.push((start, length));
        }
    }
    let mut text = None;
    for (start, length) in areas {
        if text.is_none() && start.checked_add(length).is_some_and(|end| end <= size) {
            text = metadata(source, start, length)?;
        }
    }
    Ok(Some(Physical { id, source: Arc::clone(source), text }))
}

/// The text in an area of metadata, which is a ring behind its head.
fn metadata(source: &SharedSource, start: u64, length: u64) -> Result<Option<String>> {
    if length < 2 * SECTOR {
        return Ok(None);
    }
    let mut head = vec![0; SECTOR as usize];
    source.read_at(&mut head, start)?;
    let (offset, size) = (bytes::le64(&head, 40), bytes::le64(&head, 48));
    if bytes::part(&head, 4, 16) != MAGIC
        || !(SECTOR..length).contains(&offset)
        || size > TEXT_MAX.min(length - SECTOR)
    {
        return Ok(None);
    }
    let mut text = vec![0; size as usize];
    let first = size.min(length - offset) as usize;
    let (before, after) = text.split_at_mut(first);
    source.read_at(before, start + offset)?;
    source.read_at(after, start + SECTOR)?;
    let mut checksum = crc32fast::Hasher::new_with_initial(!CHECKSUM_START);
    checksum.update(&text);
    if !checksum.finalize() != bytes::le32(&head, 56) {
        return Ok(None);
    }
    Ok(String::from_utf8(text).ok())
}

/// The logical volumes of the groups that these physical volumes belong to.
pub(crate) fn logical(physicals: &[Physical]) -> Vec<Logical> {
    let mut groups: HashMap<String, (u64, Value)> = HashMap::new();
    for text in physicals.iter().filter_map(|physical| physical.text.as_deref()) {
        let Some(Value::Section(whole)) = parse(text) else { continue };
        for (name, group) in whole {
            let Some(number) = group.get("seqno").and_then(Value::number) else { continue };
            // Several copies of one group: the newest counts.
            if groups.get(&name).is_none_or(|(before, _)| *before < number) {
                groups.insert(name, (number, group));
            }
        }
    }
    let mut names: Vec<&String> = groups.keys().collect();
    names.sort();
    let mut found = Vec::new();
    for name in names {
        let Some((_, group)) = groups.get(name) else { continue };
        let Some(Value::Section(volumes)) = group.get("logical_volumes") else { continue };
        for (volume, description) in volumes {
            // Parts of mirrors, thin pools and the like are not visible.
            let visible = matches!(description.get("status"), Some(Value::List(status)) if status.iter().any(|word| word.text() == Some("VISIBLE")));
            if !visible {
                continue;
            }
            let (size, source) = match linear(group, description, physicals) {
                Ok(linear) => (linear.size, Ok(Arc::new(linear) as SharedSource)),
                Err((size, why)) => (size, Err(why)),
            };
            found.push(Logical { id: format!("lvm:{name}/{volume}"), size, source });
        }
    }
    found
}

/// A piece of a volume.
struct Piece {
    offset: u64,
    length: u64,
    source: SharedSource,
    start: u64,
}

/// A volume of one or more pieces.
struct Linear {
    pieces: Vec<Piece>,
    size: u64,
}

/// Puts a volume together; else its size and why not.
fn linear(group: &Value, volume: &Value, physicals: &[Physical]) -> Result<Linear, (u64, String)> {
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::number);
    let unreadable = |size: u64, why: &str| (size, why.to_owned());
    let extent = number(group, "extent_size").and_then(|sectors| sectors.checked_mul(SECTOR)).unwrap_or(0);
    let Value::Section(parts) = volume else { return Err(unreadable(0, "its description makes no sense")) };
    let mut segments: Vec<(u64, u64, &Value)> = parts
        .iter()
        .filter(|(name, _)| name.starts_with("segment") && name != "segment_count")
        .filter_map(|(_, part)| {
            let start = number(part, "start_extent")?.checked_mul(extent)?;
            Some((start, number(part, "extent_count")?.checked_mul(extent)?, part))
        })
        .collect();
    segments.sort_by_key(|(start, ..)| *start);
    let size = segments.iter().fold(0_u64, |size, (_, length, _)| size.saturating_add(*length));
    let mut linear = Linear { pieces: Vec::new(), size: 0 };
    for (offset, length, part) in segments {
        let kind = part.get("type").and_then(Value::text).unwrap_or("unknown");
        if !matches!(kind, "striped" | "linear") || number(part, "stripe_count") != Some(1) {
            let kind = if kind == "striped" { "striped over several" } else { kind };
            return Err((size, format!("a volume of the type `{kind}` is not read")));
        }
        let Some(Value::List(stripes)) = part.get("stripes") else {
            return Err(unreadable(size, "its description makes no sense"));
        };
        let [physical, start] = stripes.as_slice() else {
            return Err(unreadable(size, "its description makes no sense"));
        };
        let description = physical.text().and_then(|name| group.get("physical_volumes")?.get(name));
        let id = description.and_then(|description| description.get("id")).and_then(Value::text);
        let id = id.unwrap_or_default().replace('-', "");
        let Some(physical) = physicals.iter().find(|physical| physical.id == id) else {
            return Err(unreadable(size, "a part of it lies on another disk"));
        };
        let first = description
            .and_then(|description| number(description, "pe_start"))
            .and_then(|sectors| sectors.checked_mul(SECTOR));
        let start = start.number().and_then(|extents| extents.checked_mul(extent)?.checked_add(first?));
        let end = start.and_then(|start| start.checked_add(length));
        let (Some(start), Some(_)) = (start, end.filter(|end| *end <= physical.source.virtual_size())) else {
            return Err(unreadable(size, "a part of it lies outside its physical volume"));
        };
        if length == 0 || offset != linear.size {
            return Err(unreadable(size, "its pieces do not follow each other"));
        }
        linear.size = offset.saturating_add(length);
        linear.pieces.push(Piece { offset, length, source: Arc::clone(&physical.source), start });
    }
    if linear.pieces.is_empty() { Err(unreadable(size, "it has no pieces")) } else { Ok(linear) }
}

impl Linear {
    fn piece(&self, offset: u64) -> Option<&Piece> {
        let after = self.pieces.partition_point(|piece| piece.offset <= offset);
        self.pieces.get(after.checked_sub(1)?).filter(|piece| offset - piece.offset < piece.length)
    }

    fn outside(&self, offset: u64, length: u64) -> leeward_disk::Error {
        leeward_disk::Error::OutOfRange {
            path: "logical volume".to_owned(),
            offset,
            length,
            virtual_size: self.size,
        }
    }
}

impl Source for Linear {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn info(&self) -> Info {
        let details = vec![("pieces", self.pieces.len().to_string())];
        Info { format: Format::Raw, virtual_size: self.size, allocated_bytes: None, details }
    }

    fn extents(&self, offset: u64, length: u64) -> leeward_disk::Result<Vec<Extent>> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let piece = self.piece(offset).ok_or_else(|| self.outside(offset, length))?;
        let within = offset - piece.offset;
        let mut extents = piece.source.extents(piece.start + within, length.min(piece.length - within))?;
        for extent in &mut extents {
            extent.offset = extent.offset.saturating_sub(piece.start).saturating_add(piece.offset);
        }
        Ok(extents)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> leeward_disk::Result<()> {
        let (mut done, length) = (0, buffer.len());
        while done < length {
            let position = offset.saturating_add(done as u64);
            let piece = self.piece(position).ok_or_else(|| self.outside(offset, length as u64))?;
            let within = position - piece.offset;
            let count = (piece.length - within).min((length - done) as u64) as usize;
            let part = buffer.get_mut(done..done + count).unwrap_or_default();
            piece.source.read_at(part, piece.start + within)?;
            done += count;
        }
        Ok(())
    }
}

/// A value of the text.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Number(u64),
    List(Vec<Value>),
    Section(Vec<(String, Value)>),
}

impl Value {
    fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Section(parts) => parts.iter().find(|(other, _)| other == name).map(|(_, value)| value),
            _ => None,
        }
    }

    fn number(&self) -> Option<u64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

/// Reads the whole text.
fn parse(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text };
    reader.section(0, true)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// Steps over blanks and comments.
    fn skip(&mut self) {
        loop {
            self.rest = self
                .rest
                .trim_start_matches(|character: char| character.is_whitespace() || character == '\0');
            let Some(comment) = self.rest.strip_prefix('#') else { return };
            self.rest = comment.find('\n').and_then(|end| comment.get(end..)).unwrap_or_default();
        }
    }

    fn take(&mut self, token: char) -> bool {
        self.skip();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn section(&mut self, depth: usize, is_whole: bool) -> Option<Value> {
        let mut parts = Vec::new();
        if depth > DEPTH_MAX {
            return None;
        }
        loop {
            self.skip();
            if self.rest.is_empty() {
                return is_whole.then_some(Value::Section(parts));
            }
            if self.take('}') {
                return (!is_whole).then_some(Value::Section(parts));
            }
            let length = self
                .rest
                .find(|character: char| !(character.is_alphanumeric() || "_.+-/@".contains(character)))?;
            let (name, rest) = self.rest.split_at_checked(length).filter(|(name, _)| !name.is_empty())?;
            let name = name.to_owned();
            self.rest = rest;
            let value = if self.take('=') {
                self.value(depth)?
            } else if self.take('{') {
                self.section(depth + 1, false)?
            } else {
                return None;
            };
            parts.push((name, value));
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        if self.take('[') {
            let mut list = Vec::new();
            while !self.take(']') {
                list.push(self.value(depth + 1)?);
                self.take(',');
            }
            return Some(Value::List(list));
        }
        if self.take('"') {
            let mut text = String::new();
            let mut characters = self.rest.char_indices();
            loop {
                match characters.next()? {
                    (place, '"') => {
                        self.rest = self.rest.get(place + 1..)?;
                        return Some(Value::Text(text));
                    }
                    (_, '\\') => text.push(characters.next()?.1),
                    (_, character) => text.push(character),
                }
            }
        }
        let length =
            self.rest.find(|character: char| !(character.is_ascii_digit() || ".-".contains(character)))?;
        let (number, rest) = self.rest.split_at_checked(length).filter(|(number, _)| !number.is_empty())?;
        self.rest = rest;
        // Negative and broken numbers stand for nothing that is read here.
        Some(number.parse().map_or_else(|_| Value::Text(number.to_owned()), Value::Number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read() {
        let text = "vg-0 {\nid = \"a\\\"b\"\nseqno = 3 # comment\nstatus = [\"READ\", \"WRITE\"]\nempty = []\nsub {\nx = -1\n}\n}\n# end\n\0";
        let found = parse(text).unwrap();
        let group = found.get("vg-0").unwrap();
        assert_eq!(group.get("id").and_then(Value::text), Some("a\"b"));
        assert_eq!(group.get("seqno").and_then(Value::number), Some(3));
        assert_eq!(
            group.get("status").unwrap(),
            &Value::List(vec![Value::Text("READ".into()), Value::Text("WRITE".into())])
        );
        for broken in ["a {", "a = ", "a = \"x", "}", "a", "a = [1", &"a {".repeat(100)] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }
}
