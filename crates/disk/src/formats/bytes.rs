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
