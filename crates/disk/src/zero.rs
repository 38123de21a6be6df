//! Finding zeros fast.

/// Bytes folded into one word before each test. Wide enough for the compiler to use the widest vectors that there are.
const FOLD: usize = 128;

/// Whether every byte is 0. Stops at the first [`FOLD`] bytes that are not, and runs at memory speed where all are.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<FOLD>();
    blocks.iter().all(is_zero_block) && rest.iter().all(|&byte| byte == 0)
}

fn is_zero_block(block: &[u8; FOLD]) -> bool {
    let (words, _) = block.as_chunks::<8>();
    words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) == 0
}

/// Calls `visit(start, end, zero)` for the stretches of `bytes` that are zero and that are not, in order. Both are cut at
/// multiples of `block`, counted from the start of `bytes`; a block that holds anything but zeros is not zero.
///
/// # Errors
/// Those of `visit`.
pub fn split_zeros<E>(
    bytes: &[u8],
    block: usize,
    mut visit: impl FnMut(usize, usize, bool) -> Result<(), E>,
) -> Result<(), E> {
    let block = block.max(1);
    let mut start = 0;
    let mut position = 0;
    let mut zero = false;
    for part in bytes.chunks(block) {
        let part_zero = is_zero(part);
        if part_zero != zero && position > start {
            visit(start, position, zero)?;
            start = position;
        }
        zero = part_zero;
        position += part.len();
    }
    if position > start { visit(start, position, zero) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_is_found_at_every_length() {
        for length in 0..400 {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes), "length {length}");
            for at in 0..length {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "byte {at} of {length}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn stretches_cover_the_bytes_and_alternate() {
        let mut bytes = vec![0; 10 * 16 + 5];
        bytes[20] = 1;
        bytes[40] = 1;
        bytes[163] = 1;
        let mut seen = Vec::new();
        split_zeros::<()>(&bytes, 16, |start, end, zero| {
            seen.push((start, end, zero));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [(0, 16, true), (16, 48, false), (48, 160, true), (160, 165, false)]);
    }
}
