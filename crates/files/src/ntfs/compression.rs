//! LZNT1: chunks of 4 KiB, each stored or as tokens of copies and plain bytes. Published as [MS-XCA], 2.5.

use crate::bytes;

const CHUNK: usize = 4096;

/// Unpacks up to `wanted` bytes; the rest is zero. `None` when the input makes no sense.
pub(super) fn unpack(input: &[u8], wanted: usize) -> Option<Vec<u8>> {
    let mut output = Vec::with_capacity(wanted);
    let mut place = 0;
    while output.len() < wanted {
        let head = bytes::le16(input, place);
        if head == 0 {
            break;
        }
        let length = usize::from(head & 0xfff) + 1;
        let chunk = bytes::part(input, place + 2, length);
        if chunk.len() != length {
            return None;
        }
        let start = output.len();
        if head & 0x8000 == 0 {
            output.extend_from_slice(chunk);
        } else {
            tokens(chunk, &mut output, start)?;
        }
        if output.len() - start > CHUNK {
            return None;
        }
        // All chunks but the last are full.
        output.resize(start + CHUNK, 0);
        place += 2 + length;
    }
    output.resize(wanted, 0);
    Some(output)
}

fn tokens(chunk: &[u8], output: &mut Vec<u8>, start: usize) -> Option<()> {
    let mut place = 0;
    while place < chunk.len() {
        let flags = bytes::byte(chunk, place);
        place += 1;
        for bit in 0..8 {
            if place >= chunk.len() {
                break;
            }
            let done = output.len() - start;
            if flags >> bit & 1 == 0 {
                output.push(bytes::byte(chunk, place));
                place += 1;
                continue;
            }
            if place + 2 > chunk.len() || done == 0 {
                return None;
            }
            let token = usize::from(bytes::le16(chunk, place));
            place += 2;
            // The further into the chunk, the more bits say how far back.
            let mut length_bits = 12;
            while length_bits > 4 && (done - 1) >> (16 - length_bits) != 0 {
                length_bits -= 1;
            }
            let back = (token >> length_bits) + 1;
            let length = (token & ((1 << length_bits) - 1)) + 3;
            if back > done || done + length > CHUNK {
                return None;
            }
            for _ in 0..length {
                output.push(output[output.len() - back]);
            }
        }
        if output.len() - start > CHUNK {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_is_unpacked() {
        let packed = [
            0x38, 0xb0, 0x88, b'F', b'#', b' ', 0x00, 0x20, b'A', b' ', 0x00, 0x10, 0xa2, 0x47, 0x01, 0xa0,
            b'D', b' ', 0x01, 0x20, b'E',
        ];
        // Cut in the middle of its announced length, so it must be refused rather than guessed.
        assert_eq!(unpack(&packed, 4096), None);
        // Three plain bytes, then a copy of six from three back.
        let packed = [0x05, 0xb0, 0x08, b'a', b'b', b'c', 0x03, 0x20];
        assert_eq!(unpack(&packed, 9).unwrap(), b"abcabcabc");
    }
}
