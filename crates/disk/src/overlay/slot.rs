//! A page of the map as the file has it. Each has two places, called slots: a new state is written over the older one,
//! so that a write which tears leaves the newer whole. The layout is in `docs/overlay-format.md`.

use super::bits::{BITMAP_BYTES, Bits};

/// Bytes of a slot: a block of every file system and disk, so that no write of one touches another.
pub(super) const SLOT_BYTES: usize = 4096;
const MAGIC: [u8; 4] = *b"LWMP";
const LOCAL_AT: usize = 64;
const CHANGED_AT: usize = LOCAL_AT + BITMAP_BYTES;
const USED_BYTES: usize = CHANGED_AT + BITMAP_BYTES;
const DOUBTFUL: u32 = 1;

/// A state of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// Counts the states that were written of this page, from 1.
    pub(super) sequence: u64,
    /// The granule's bytes are in the local file.
    pub(super) local: Bits,
    /// They differ, or may differ, from the base.
    pub(super) changed: Bits,
    /// Every local granule may have been written without being marked as changed.
    pub(super) doubtful: bool,
}

/// What a slot holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Nothing was ever written.
    Blank,
    /// Neither nothing nor a whole state: a write of it did not end.
    Torn,
    /// A whole state.
    Whole(State),
}

impl State {
    /// The bytes of a slot.
    pub(super) fn encode(&self, number: u64) -> Vec<u8> {
        let mut bytes = vec![0; SLOT_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..28].copy_from_slice(&if self.doubtful { DOUBTFUL } else { 0 }.to_le_bytes());
        self.local.encode(&mut bytes[LOCAL_AT..CHANGED_AT]);
        self.changed.encode(&mut bytes[CHANGED_AT..USED_BYTES]);
        let checksum = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

impl Slot {
    /// Reads the bytes of a slot of page `number`.
    pub(super) fn decode(bytes: &[u8; SLOT_BYTES], number: u64) -> Self {
        if crate::is_zero(bytes) {
            return Self::Blank;
        }
        let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        let half = |at: usize| bytes[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        let state = State {
            sequence: word(16),
            local: Bits::decode(&bytes[LOCAL_AT..CHANGED_AT]),
            changed: Bits::decode(&bytes[CHANGED_AT..USED_BYTES]),
            doubtful: half(24) & DOUBTFUL != 0,
        };
        let is_whole = bytes[..4] == MAGIC
            && half(4) == crc32fast::hash(&bytes[8..])
            && word(8) == number
            && state.sequence > 0
            && half(24) & !DOUBTFUL == 0
            && state.changed.is_within(&state.local);
        if is_whole { Self::Whole(state) } else { Self::Torn }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_read_whole_or_not_at_all() {
        let (mut local, mut changed) = (Bits::Empty, Bits::Empty);
        local.set(5..900);
        changed.set(7..10);
        local.set(8000..8192);
        changed.set(8100..8192);
        let state = State { sequence: 3, local, changed, doubtful: true };
        let bytes: [u8; SLOT_BYTES] = state.encode(9).try_into().unwrap();
        assert_eq!(Slot::decode(&bytes, 9), Slot::Whole(state.clone()));
        assert_eq!(Slot::decode(&bytes, 8), Slot::Torn, "a slot of another page");
        assert_eq!(Slot::decode(&[0; SLOT_BYTES], 9), Slot::Blank);
        for at in 0..SLOT_BYTES {
            let mut damaged = bytes;
            damaged[at] ^= 4;
            assert_eq!(Slot::decode(&damaged, 9), Slot::Torn, "byte {at}");
        }
        for end in (512..SLOT_BYTES).step_by(512) {
            let mut torn = [0; SLOT_BYTES];
            torn[..end].copy_from_slice(&bytes[..end]);
            // Behind the bits there are only zeros, which are there already.
            let expected = if end < USED_BYTES { Slot::Torn } else { Slot::Whole(state.clone()) };
            assert_eq!(Slot::decode(&torn, 9), expected, "{end} bytes");
        }
    }
}
