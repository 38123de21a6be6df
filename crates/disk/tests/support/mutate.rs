//! A mutator for inputs: the same seed gives the same inputs.

use super::Random;

/// Numbers at which readers tend to break.
const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    3,
    6,
    7,
    8,
    0x7f,
    0x80,
    0xff,
    0x1ff,
    0x200,
    0xfff,
    0x1000,
    0xffff,
    0x1_0000,
    0x10_0000,
    0x20_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 40,
    1 << 55,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// Changes an input in one to eight places.
pub fn mutate(random: &mut Random, input: &[u8]) -> Vec<u8> {
    let mut input = input.to_vec();
    for _ in 0..=random.below(8) {
        change(random, &mut input);
    }
    input
}

fn change(random: &mut Random, input: &mut Vec<u8>) {
    if input.is_empty() {
        input.push(random.next() as u8);
        return;
    }
    let at = place(random, input.len());
    match random.below(10) {
        0 => input[at] ^= 1 << random.below(8),
        1 => input[at] = random.next() as u8,
        2..=5 => number(random, input, at),
        6 | 7 => copy_within(random, input, at),
        8 => nudge(random, input, at),
        _ if random.below(4) == 0 => input.truncate(at),
        _ => number(random, input, at),
    }
}

/// Half of the changes go to the first KiB, where headers are.
fn place(random: &mut Random, length: usize) -> usize {
    let bound = if random.below(2) == 0 { length.min(1024) } else { length };
    let at = random.below(bound as u64) as usize;
    if random.below(4) == 0 { at } else { at & !3 }
}

fn number(random: &mut Random, input: &mut [u8], at: usize) {
    let value = NUMBERS[random.below(NUMBERS.len() as u64) as usize];
    let width = 1 << random.below(4);
    let bytes = if random.below(2) == 0 {
        value.to_le_bytes()
    } else {
        value.rotate_right(8 * width as u32).to_be_bytes()
    };
    for (target, byte) in input[at..].iter_mut().zip(&bytes[..width]) {
        *target = *byte;
    }
}

/// Two table entries that are alike, a header over another one.
fn copy_within(random: &mut Random, input: &mut [u8], at: usize) {
    let from = place(random, input.len());
    let length = [4, 8, 32, 512][random.below(4) as usize];
    let length = length.min(input.len() - at).min(input.len() - from);
    input.copy_within(from..from + length, at);
}

fn nudge(random: &mut Random, input: &mut [u8], at: usize) {
    let by = random.below(9) as u8;
    input[at] = input[at].wrapping_add(by.wrapping_sub(4));
}
