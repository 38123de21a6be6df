//! Words that may stand in a command line or a document: checked where they are made, so that nothing which comes out of
//! a repository can add an option, leave its quotes or name a file.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// The longest name of a machine, so that its files have names that every file system takes.
const NAME_BYTES_MAX: usize = 64;
/// The longest name of a network interface that Linux has (`IFNAMSIZ` less its zero).
const INTERFACE_BYTES_MAX: usize = 15;

/// The name of a recovered machine: letters, digits, `.`, `_` and `-`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineName(String);

/// The name of a network interface or bridge of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceName(String);

/// The address of one network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac([u8; 6]);

/// The identity of a machine as its guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uuid([u8; 16]);

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk.
    Virtio,
    /// virtio-scsi.
    Scsi,
    /// NVMe.
    Nvme,
    /// IDE on an i440FX, SATA on a Q35.
    Ide,
    /// USB.
    Usb,
}

/// The chip set of a PC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// i440FX.
    Pc,
    /// Q35.
    Q35,
}

impl FromStr for MachineName {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let begins_well = text.starts_with(|first: char| first.is_ascii_alphanumeric());
        if begins_well && text.len() <= NAME_BYTES_MAX && is_word(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "a machine's name has at most {NAME_BYTES_MAX} letters, digits, '.', '_' and '-', and begins with a letter or digit"
        ))
    }
}

impl FromStr for InterfaceName {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let begins_well = text.starts_with(|first: char| first.is_ascii_alphanumeric());
        if begins_well && text.len() <= INTERFACE_BYTES_MAX && is_word(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("{text:?} is not the name of a network interface"))
    }
}

/// Whether only letters, digits, `.`, `_` and `-` stand in it.
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Mac {
    /// The address in `52:54:00:12:34:56`, if it is one that a single card may have.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2)?;
            *byte = hexadecimal(part)?;
        }
        let is_single = bytes[0] & 1 == 0 && bytes != [0; 6];
        (parts.next().is_none() && is_single).then_some(Self(bytes))
    }

    /// A new one, with the prefix of QEMU's machines.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new() -> Result<Self> {
        let [a, b, c] = random()?;
        Ok(Self([0x52, 0x54, 0x00, a, b, c]))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Uuid {
    /// The identity in `f81d4fae-7dec-11d0-a765-00a0c91e6bf6`, unless it is all zeros.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let lengths: Vec<usize> = text.split('-').map(str::len).collect();
        if lengths != [8, 4, 4, 4, 12] {
            return None;
        }
        let digits: Vec<u8> = text.bytes().filter(|&byte| byte != b'-').collect();
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = hexadecimal(std::str::from_utf8(pair).ok()?)?;
        }
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// A new one: random, version 4 (RFC 9562).
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new() -> Result<Self> {
        let mut bytes = random::<16>()?;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if [4, 6, 8, 10].contains(&index) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

fn hexadecimal(pair: &str) -> Option<u8> {
    let is_hexadecimal = pair.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hexadecimal.then(|| u8::from_str_radix(pair, 16).ok()).flatten()
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::io("random numbers", "get", std::io::Error::other(error.to_string())))?;
    Ok(bytes)
}

impl Bus {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::Scsi => "scsi",
            Self::Nvme => "nvme",
            Self::Ide => "ide",
            Self::Usb => "usb",
        }
    }
}

impl FromStr for Bus {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        [Self::Virtio, Self::Scsi, Self::Nvme, Self::Ide, Self::Usb]
            .into_iter()
            .find(|bus| bus.name() == text)
            .or_else(|| (text == "sata").then_some(Self::Ide))
            .ok_or_else(|| format!("{text:?} is not a bus: use virtio, scsi, nvme, ide or usb"))
    }
}

impl Family {
    /// The type of machine that every QEMU has of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pc => "pc",
            Self::Q35 => "q35",
        }
    }

    /// The family to which a type of machine belongs.
    pub(super) fn of(machine_type: &str) -> Self {
        if machine_type.contains("q35") { Self::Q35 } else { Self::Pc }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_become_names() {
        for bad in ["", ".a", "-a", "a b", "a'b", "a/b", "a\nb", "ä", "a$(b)", &"x".repeat(65)] {
            assert!(bad.parse::<MachineName>().is_err(), "{bad:?}");
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad:?}");
        }
        assert!("web-01.drill_2".parse::<MachineName>().is_ok());
        assert!("br0".parse::<InterfaceName>().is_ok() && "x".repeat(16).parse::<InterfaceName>().is_err());
    }

    #[test]
    fn addresses_are_those_of_one_card() {
        assert_eq!(Mac::parse("52:54:00:AB:cd:0f").unwrap().to_string(), "52:54:00:ab:cd:0f");
        for bad in [
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:0f:00",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "+2:54:00:ab:cd:0f",
            "52:54:00:ab:cd:0f,id=x",
            "",
        ] {
            assert_eq!(Mac::parse(bad), None, "{bad}");
        }
        assert!(Mac::new().unwrap().to_string().starts_with("52:54:00:"));
    }

    #[test]
    fn identities_are_read_and_made() {
        let text = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
        assert_eq!(Uuid::parse(text).unwrap().to_string(), text);
        for bad in
            ["f81d4fae-7dec-11d0-a765-00a0c91e6bg6", "00000000-0000-0000-0000-000000000000", "a,b", "ä"]
        {
            assert_eq!(Uuid::parse(bad), None, "{bad}");
        }
        let new = Uuid::new().unwrap();
        assert_eq!(Uuid::parse(&new.to_string()), Some(new));
    }
}
