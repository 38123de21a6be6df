//! Reading numbers out of bytes whose length is not trusted.

/// The `N` bytes at `offset`, if they are there.
pub(crate) fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk::<N>().copied()
}

macro_rules! readers {
    ($($name:ident, $type:ty, $from:ident;)*) => {$(
        /// The number at `offset`, or 0 where the bytes end before it.
        pub(crate) fn $name(bytes: &[u8], offset: usize) -> $type {
            array(bytes, offset).map_or(0, <$type>::$from)
        }
    )*};
}

readers! {
    be16, u16, from_be_bytes;
    be32, u32, from_be_bytes;
    be64, u64, from_be_bytes;
    le16, u16, from_le_bytes;
    le32, u32, from_le_bytes;
    le64, u64, from_le_bytes;
}

/// The byte at `offset`, or 0 where the bytes end before it.
pub(crate) fn byte(bytes: &[u8], offset: usize) -> u8 {
    bytes.get(offset).copied().unwrap_or(0)
}

/// `length` bytes from `offset` on, or nothing where they are not all there.
pub(crate) fn part(bytes: &[u8], offset: usize, length: usize) -> &[u8] {
    offset.checked_add(length).and_then(|end| bytes.get(offset..end)).unwrap_or_default()
}

/// Text up to the first zero; bytes that are no UTF-8 are replaced. `None` when there is none.
pub(crate) fn label(bytes: &[u8]) -> Option<String> {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

/// A UUID as most systems write it: all bytes in their order.
pub(crate) fn uuid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().take(16).enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// UTF-16 as it lies on disk, as UTF-8. Halves of surrogate pairs become three bytes each (as in WTF-8), so that no
/// two names become one.
pub(crate) fn utf16(bytes: &[u8]) -> Vec<u8> {
    let units = bytes.chunks_exact(2).map(|pair| le16(pair, 0));
    let mut text = Vec::with_capacity(bytes.len());
    for unit in char::decode_utf16(units) {
        match unit {
            Ok(character) => text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(half) => {
                let half = half.unpaired_surrogate();
                text.extend([
                    0xe0 | (half >> 12) as u8,
                    0x80 | (half >> 6 & 0x3f) as u8,
                    0x80 | (half & 0x3f) as u8,
                ]);
            }
        }
    }
    text
}
