//! GUIDs, as [MS-DTYP] stores and writes them.

use std::fmt;

use super::super::bytes::{array, le16, le32};

/// A GUID as stored: the first three groups little-endian.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Guid(pub(super) [u8; 16]);

impl Guid {
    /// The GUID written `group-…`, for constants.
    pub(super) const fn new(first: u32, second: u16, third: u16, rest: [u8; 8]) -> Self {
        let (a, b, c, d) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes(), rest);
        Self([a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]])
    }

    /// The GUID at `offset`, or zeros where the bytes end.
    pub(super) fn at(bytes: &[u8], offset: usize) -> Self {
        Self(array(bytes, offset).unwrap_or_default())
    }

    /// Whether it is all zeros: no GUID.
    pub(super) fn is_zero(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = &self.0;
        write!(f, "{:08x}-{:04x}-{:04x}-", le32(bytes, 0), le16(bytes, 4), le16(bytes, 6))?;
        for (index, byte) in bytes[8..].iter().enumerate() {
            write!(f, "{}{byte:02x}", if index == 2 { "-" } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_written_as_windows_does() {
        let guid = Guid::new(0x2dc2_7766, 0xf623, 0x4200, [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08]);
        assert_eq!(guid.to_string(), "2dc27766-f623-4200-9d64-115e9bfd4a08");
    }
}
