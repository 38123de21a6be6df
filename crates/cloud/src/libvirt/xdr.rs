//! Values as RFC 4506 (XDR) puts them into bytes: big-endian words of four bytes, texts padded to whole words.

/// The longest text that is sent or taken, in bytes: libvirt's own limit.
pub(super) const TEXT_BYTES_MAX: usize = 4 << 20;

/// Puts values together.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn word(mut self, value: u32) -> Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Bytes of a known number, a multiple of four.
    pub(super) fn fixed(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A text; longer ones than [`TEXT_BYTES_MAX`] are refused by the other side.
    pub(super) fn text(mut self, text: &str) -> Self {
        self = self.word(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn optional_text(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.word(1).text(text),
            None => self.word(0),
        }
    }

    pub(super) fn done(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes values apart. `None` means that the bytes are not what they should be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn word(&mut self) -> Option<u32> {
        self.fixed(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn double(&mut self) -> Option<u64> {
        self.fixed(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    pub(super) fn fixed(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    /// A text; what is not UTF-8 in it is replaced.
    pub(super) fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.word()?).ok().filter(|length| *length <= TEXT_BYTES_MAX)?;
        let padded = self.fixed(length.next_multiple_of(4))?;
        Some(String::from_utf8_lossy(&padded[..length]).into_owned())
    }

    pub(super) fn optional_text(&mut self) -> Option<Option<String>> {
        match self.word()? {
            0 => Some(None),
            1 => self.text().map(Some),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were() {
        let bytes =
            Writer::default().word(7).text("abcde").optional_text(None).optional_text(Some("")).done();
        assert_eq!(bytes.len(), 4 + 4 + 8 + 4 + 8);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.word(), Some(7));
        assert_eq!(reader.text().as_deref(), Some("abcde"));
        assert_eq!(reader.optional_text(), Some(None));
        assert_eq!(reader.optional_text(), Some(Some(String::new())));
        assert_eq!(reader.word(), None);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for bytes in [&[0, 0, 0, 9, b'a'][..], &[0xff; 8], &[0, 0, 0, 5, 1, 2, 3, 4, 5], &[1, 2, 3]] {
            assert_eq!(Reader::new(bytes).text(), None);
        }
        assert_eq!(Reader::new(&[0, 0, 0, 2, 0, 0, 0, 0]).optional_text(), None);
    }
}
