//! Where a file lies, as text: `/VOLUME/DIRECTORY/FILE`.
//!
//! Names in a disk are bytes, and what this text is made of must not be mistaken for them: in each part `%XX` stands for a byte.
//! So written are `%` itself, control characters, what is no text, and the slashes in the names of logical volumes.

use std::fmt::Write;
use std::str::FromStr;

/// The longest path, in characters.
const PATH_CHARS_MAX: usize = 4096;

/// A place in a snapshot: its disk, a volume of it, or something in that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilePath {
    parts: Vec<Vec<u8>>,
}

impl FilePath {
    /// The volume; none where the disk itself is meant.
    pub(super) fn volume(&self) -> Option<&[u8]> {
        self.parts.first().map(Vec::as_slice)
    }

    /// The way in the volume's file system, with slashes between; none where a part of it cannot be a name there.
    pub(super) fn inside(&self) -> Option<Vec<u8>> {
        let names = self.parts.get(1..).unwrap_or_default();
        let is_name = |name: &Vec<u8>| !name.contains(&b'/') && !name.contains(&0);
        names.iter().all(is_name).then(|| names.join(&b'/'))
    }

    /// The last name; none where the disk itself is meant.
    pub(super) fn name(&self) -> Option<&[u8]> {
        self.parts.last().map(Vec::as_slice)
    }

    /// The path of something in this directory.
    pub(super) fn join(&self, name: &[u8]) -> Self {
        let mut parts = self.parts.clone();
        parts.push(name.to_vec());
        Self { parts }
    }
}

/// A name as a part of a path.
pub(super) fn encoded(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character.is_control() || matches!(character, '%' | '/') {
                true => character.to_string().bytes().for_each(|byte| push_byte(&mut text, byte)),
                false => text.push(character),
            }
        }
        chunk.invalid().iter().for_each(|byte| push_byte(&mut text, *byte));
    }
    // These would be taken for ways, not for names.
    match text.as_str() {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => text,
    }
}

fn push_byte(text: &mut String, byte: u8) {
    // Writing to a string cannot fail.
    let _ = write!(text, "%{byte:02X}");
}

/// The name that a part of a path stands for.
pub(super) fn decoded(part: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("{part:?}: two hexadecimal digits follow each % in a path");
    let mut name = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            name.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(wrong()) };
        name.push(u8::try_from(high * 16 + low).map_err(|_| wrong())?);
    }
    Ok(name)
}

impl FromStr for FilePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.chars().count() > PATH_CHARS_MAX {
            return Err(format!("a path has at most {PATH_CHARS_MAX} characters"));
        }
        let parts = text.split('/').filter(|part| !part.is_empty() && *part != ".");
        Ok(Self { parts: parts.map(decoded).collect::<Result<_, _>>()? })
    }
}

impl std::fmt::Display for FilePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.parts.is_empty() {
            return f.write_str("/");
        }
        self.parts.iter().try_for_each(|part| write!(f, "/{}", encoded(part)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_can_be_asked_for_and_none_is_mistaken_for_another() {
        let names: [&[u8]; 9] = [
            b"plain.txt",
            "Wörter".as_bytes(),
            b"100%",
            b"%2F",
            b"lvm:vg/root",
            b"\xff\xfe",
            b"a\nb\x1b",
            b"..",
            b".",
        ];
        for name in names {
            let path = FilePath::default().join(b"1").join(name);
            let text = path.to_string();
            assert_eq!(text.parse::<FilePath>().unwrap(), path, "{text}");
            assert_eq!(text.matches('/').count(), 2, "{text}");
        }
        assert_eq!("/1/a//./b/".parse::<FilePath>().unwrap().to_string(), "/1/a/b");
        assert_eq!("".parse::<FilePath>().unwrap().to_string(), "/");
        for bad in ["/1/%", "/1/%2", "/1/%zz", "/1/%é", "/1/%+1"] {
            assert!(bad.parse::<FilePath>().is_err(), "{bad}");
        }
        assert!("/x".repeat(2049).parse::<FilePath>().is_err());
        assert_eq!("/1/a%2Fb".parse::<FilePath>().unwrap().inside(), None);
        assert_eq!("/lvm:vg%2Froot/a/b".parse::<FilePath>().unwrap().inside(), Some(b"a/b".to_vec()));
    }
}
