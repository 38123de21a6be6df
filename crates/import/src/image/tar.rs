//! Members of a tar archive, by their places: nothing is unpacked.
//!
//! Read are ustar (POSIX.1-1988), the extended headers of POSIX.1-2001 for `path` and `size`, and GNU's long names; the
//! numbers may be octal or GNU's base 256.

use leeward_disk::Storage;

use crate::{Error, Result};

const BLOCK: u64 = 512;
/// Headers of an archive, at most.
const HEADERS_MAX: usize = 4096;
/// The longest extended header, in bytes.
const EXTENDED_BYTES_MAX: u64 = 64 << 10;

/// A regular file in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    /// Where its content begins in the archive.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Whether a storage begins like an archive.
pub(super) fn matches(storage: &dyn Storage) -> Result<bool> {
    if storage.size() < 2 * BLOCK {
        return Ok(false);
    }
    let header = block(storage, 0)?;
    Ok(&header[257..262] == b"ustar" && has_checksum(&header))
}

fn block(storage: &dyn Storage, offset: u64) -> Result<[u8; BLOCK as usize]> {
    let mut header = [0; BLOCK as usize];
    storage.read_at(&mut header, offset)?;
    Ok(header)
}

/// The files of an archive, in order.
pub(super) fn members(storage: &dyn Storage) -> Result<Vec<Member>> {
    let wrong = |what: String| Error::Image { object: storage.name().to_owned(), what };
    let (mut found, mut position) = (Vec::new(), 0_u64);
    let mut extended = Extended::default();
    for _ in 0..HEADERS_MAX {
        // Two blocks of zeros end an archive, but not every writer writes them.
        if position.saturating_add(BLOCK) > storage.size() {
            return Ok(found);
        }
        let header = block(storage, position)?;
        if header.iter().all(|&byte| byte == 0) {
            return Ok(found);
        }
        if !has_checksum(&header) {
            return Err(wrong(format!(
                "the archive is damaged: no sound header at byte {position}; upload it again"
            )));
        }
        let is_extension = matches!(header[156], b'x' | b'L' | b'g' | b'K');
        let stated = number(&header[124..136]).ok_or_else(|| wrong("a member without a size".to_owned()))?;
        let bytes = if is_extension { stated } else { extended.bytes.take().unwrap_or(stated) };
        let offset = position + BLOCK;
        let end = offset.checked_add(bytes).filter(|end| *end <= storage.size()).ok_or_else(|| {
            wrong(format!(
                "the archive is cut off: a member of {bytes} bytes at byte {offset}; upload it again"
            ))
        })?;
        match header[156] {
            b'x' | b'L' => extended.read(storage, header[156], offset, bytes).map_err(wrong)?,
            b'0' | 0 | b'7' => {
                let name = extended.name.take().unwrap_or_else(|| name(&header));
                found.push(Member { name, offset, bytes });
            }
            _ => extended = Extended::default(),
        }
        position = end.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
    }
    Err(wrong(format!("the archive has more than {HEADERS_MAX} members")))
}

/// What an extended header says about the member behind it.
#[derive(Default)]
struct Extended {
    name: Option<String>,
    bytes: Option<u64>,
}

impl Extended {
    fn read(&mut self, storage: &dyn Storage, kind: u8, offset: u64, bytes: u64) -> Result<(), String> {
        if bytes > EXTENDED_BYTES_MAX {
            return Err(format!("an extended header of {bytes} bytes"));
        }
        let mut text = vec![0; bytes as usize];
        storage.read_at(&mut text, offset).map_err(|error| error.to_string())?;
        if kind == b'L' {
            self.name = Some(until_nul(&text));
            return Ok(());
        }
        for (key, value) in records(&text).ok_or("an extended header that makes no sense")? {
            match key.as_str() {
                "path" => self.name = Some(value),
                "size" => self.bytes = Some(value.parse().map_err(|_| "a size that is no number")?),
                _ => {}
            }
        }
        Ok(())
    }
}

/// `LENGTH KEY=VALUE\n`, one after the other; the length is of the whole record.
fn records(mut text: &[u8]) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    while !text.is_empty() && text[0] != 0 {
        let space = text.iter().position(|&byte| byte == b' ')?;
        let length: usize = std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
        let record = text.get(space + 1..length)?.strip_suffix(b"\n")?;
        let record = String::from_utf8_lossy(record);
        let (key, value) = record.split_once('=')?;
        found.push((key.to_owned(), value.to_owned()));
        text = &text[length..];
    }
    Some(found)
}

fn name(header: &[u8; BLOCK as usize]) -> String {
    let (prefix, name) = (until_nul(&header[345..500]), until_nul(&header[..100]));
    // GNU keeps other things in the place of the prefix.
    if prefix.is_empty() || &header[257..265] == b"ustar  \0" { name } else { format!("{prefix}/{name}") }
}

fn until_nul(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

/// A number in octal digits, or in base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] == 0x80 {
        let (high, low) = field[1..].split_at(field.len().checked_sub(9)?);
        return high.iter().all(|&byte| byte == 0).then(|| low.try_into().map(u64::from_be_bytes).ok())?;
    }
    let text = until_nul(field);
    let digits = text.trim_matches(' ');
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

fn has_checksum(header: &[u8; BLOCK as usize]) -> bool {
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, &byte)| u64::from(if (148..156).contains(&at) { b' ' } else { byte }))
        .sum();
    number(&header[148..156]) == Some(sum)
}

#[cfg(test)]
mod tests {
    use leeward_disk::MemoryStorage;

    use super::{BLOCK, matches, members, number, records};

    /// A header with its checksum.
    fn header(name: &str, kind: u8, bytes: &str) -> Vec<u8> {
        let mut header = vec![0; BLOCK as usize];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..124 + bytes.len()].copy_from_slice(bytes.as_bytes());
        header[148..156].fill(b' ');
        header[156] = kind;
        header[257..263].copy_from_slice(b"ustar\0");
        let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        header
    }

    #[test]
    fn no_archive_however_damaged_does_harm() {
        let mut archive = header("x", b'x', "00000000020");
        archive.extend([b"16 path=longest\n".to_vec(), vec![0; 496]].concat());
        archive.extend(header("a", b'0', "00000001000"));
        archive.extend(vec![7; 512]);
        archive.extend(vec![0; 1024]);
        let open = |bytes: Vec<u8>| MemoryStorage::new("t", bytes);
        let found = members(&open(archive.clone())).unwrap();
        assert_eq!((found.len(), found[0].name.as_str(), found[0].offset), (1, "longest", 1536));
        // Every byte of the headers changed to a few others, and every length.
        for at in (0..512).chain(512..528).chain(1024..1536) {
            for value in [0, 1, 0x80, 0xff, b'9', b'7', b' '] {
                let mut changed = archive.clone();
                changed[at] = value;
                let storage = open(changed);
                let _ = (matches(&storage), members(&storage));
            }
        }
        for length in 0..archive.len() {
            let storage = open(archive[..length].to_vec());
            let _ = (matches(&storage), members(&storage));
        }
        for bytes in ["77777777777", "99999999999", "-0000000001"] {
            assert!(members(&open([header("a", b'0', bytes), vec![0; 512]].concat())).is_err(), "{bytes}");
        }
    }

    #[test]
    fn numbers_of_both_kinds_are_read() {
        assert_eq!(number(b"00000001750\0"), Some(0o1750));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x02"), None, "a field of eight bytes has no base 256");
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x02\0\0\0\0"), Some(2 << 32));
        assert_eq!(number(b"\x80\x01\0\0\0\0\0\0\0\0\0\0"), None);
        assert_eq!(number(b"0000000175x\0"), None);
    }

    #[test]
    fn records_of_a_wrong_length_are_refused() {
        assert_eq!(records(b"12 path=a.b\n").unwrap(), [("path".to_owned(), "a.b".to_owned())]);
        for bad in [&b"99 path=a\n"[..], b"2 p=a\n", b"path=a", b"x path=a\n", b"0 a=b\n"] {
            assert!(records(bad).is_none(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
