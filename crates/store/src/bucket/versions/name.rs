//! Names of the parts of a chain: what they say, they say by being there.

use crate::{Error, Key, Result};

/// What ends the name of the folder in which an object's chain lies: a colon, written so that it can be part of a key.
const FOLDER_END: &str = "%3A";
/// The letter of the scheme (registers), first in every name.
const SCHEME: char = 'r';

/// One try to decide a version. Ballots of one version are ordered by round; the nonce makes each of them its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ballot {
    /// The version that it is about, from 1 on.
    pub version: u32,
    /// Later rounds go before earlier ones.
    pub round: u32,
    /// Random, never 0.
    pub nonce: u64,
}

/// What a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The object has this content.
    Value,
    /// The object is deleted; the chain ends here.
    Tombstone,
}

/// One of the three parts of a ballot; each is written once, when the one before was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The ballot is open. It builds on the ballot with this nonce, or on nothing (0).
    Prepared { base: u64 },
    /// The ballot's value, written by this operation first, is the content of this part.
    Accepted { operation: u64, kind: Kind },
    /// The value is decided.
    Marked,
}

/// The folder of an object's chain.
pub(super) fn folder(key: &Key) -> String {
    format!("{key}{FOLDER_END}")
}

/// The key of a part.
pub(super) fn key_of(folder: &str, ballot: Ballot, part: Part) -> Result<Key> {
    let Ballot { version, round, nonce } = ballot;
    let part = match part {
        Part::Prepared { base } => format!("p{base:016x}"),
        Part::Accepted { operation, kind: Kind::Value } => format!("a{operation:016x}v"),
        Part::Accepted { operation, kind: Kind::Tombstone } => format!("a{operation:016x}t"),
        Part::Marked => "d".to_owned(),
    };
    let name = format!("{SCHEME}{version:08x}.{round:08x}.{nonce:016x}.{part}");
    Key::under(folder, &name).ok_or_else(|| Error::Unsupported {
        store: folder.to_owned(),
        what: "its name is too long for a store without comparison".to_owned(),
    })
}

/// Takes a key apart into the object's key and the part; `None` when it is not the part of a chain.
pub(super) fn parse(key: &Key) -> Option<(Key, Ballot, Part)> {
    let (folder, name) = key.as_str().rsplit_once('/')?;
    let object = Key::new(folder.strip_suffix(FOLDER_END)?)?;
    let mut fields = name.strip_prefix(SCHEME)?.split('.');
    let ballot = Ballot {
        version: u32::from_str_radix(number(fields.next()?, 8)?, 16).ok()?,
        round: u32::from_str_radix(number(fields.next()?, 8)?, 16).ok()?,
        nonce: wide(fields.next()?)?,
    };
    let last = fields.next()?;
    let part = match (last.chars().next()?, &last[1..]) {
        ('d', "") => Part::Marked,
        ('p', base) => Part::Prepared { base: wide(base)? },
        ('a', rest) => match (rest.strip_suffix('v'), rest.strip_suffix('t')) {
            (Some(operation), _) => Part::Accepted { operation: wide(operation)?, kind: Kind::Value },
            (_, Some(operation)) => Part::Accepted { operation: wide(operation)?, kind: Kind::Tombstone },
            _ => return None,
        },
        _ => return None,
    };
    (fields.next().is_none() && ballot.version > 0 && ballot.nonce > 0).then_some((object, ballot, part))
}

fn number(text: &str, digits: usize) -> Option<&str> {
    let is_ours = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == digits && text.bytes().all(is_ours)).then_some(text)
}

fn wide(text: &str) -> Option<u64> {
    u64::from_str_radix(number(text, 16)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::{Ballot, Kind, Part, folder, key_of, parse};
    use crate::Key;

    #[test]
    fn a_part_is_found_again_in_its_key() {
        let object = Key::new("refs/web-01%2Froot").unwrap();
        let ballot = Ballot { version: 7, round: 2, nonce: 0xfeed };
        for part in [
            Part::Prepared { base: 9 },
            Part::Accepted { operation: 5, kind: Kind::Value },
            Part::Accepted { operation: 5, kind: Kind::Tombstone },
            Part::Marked,
        ] {
            let key = key_of(&folder(&object), ballot, part).unwrap();
            assert!(key.as_str().starts_with("refs/web-01%2Froot%3A/r00000007."));
            assert_eq!(parse(&key), Some((object.clone(), ballot, part)));
        }
    }

    #[test]
    fn what_is_not_a_part_is_none() {
        let nonce = "000000000000000a";
        for bad in [
            "config".to_owned(),
            "config%3A/r".to_owned(),
            format!("config/r00000001.00000001.{nonce}.d"),
            format!("config%3A/c00000001.00000001.{nonce}.d"),
            format!("config%3A/r00000000.00000001.{nonce}.d"),
            format!("config%3A/r00000001.00000001.{nonce}.da"),
            format!("config%3A/r00000001.00000001.{nonce}.d.d"),
            format!("config%3A/r+0000001.00000001.{nonce}.d"),
            format!("config%3A/r00000001.00000001.{nonce}.a{nonce}x"),
            format!("config%3A/r00000001.00000001.{nonce}.p12"),
            format!("%3A/r00000001.00000001.{nonce}.d"),
        ] {
            assert_eq!(Key::new(bad.clone()).and_then(|key| parse(&key)), None, "{bad}");
        }
    }
}
