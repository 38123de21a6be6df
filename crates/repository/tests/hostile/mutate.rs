//! Mutators: the same seed gives the same inputs.

use leeward_store::simulation::Random;
use serde_json::{Value, json};

/// Numbers at which readers tend to break.
const NUMBERS: [u64; 18] = [
    0,
    1,
    2,
    7,
    8,
    0x7f,
    0x80,
    0xff,
    0x1000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    1 << 32,
    1 << 62,
    1 << 63,
    u64::MAX,
];

fn number(random: &mut Random) -> u64 {
    NUMBERS[random.below(NUMBERS.len() as u64) as usize]
}

/// Changes bytes in one to six places; half of them are near the ends, where headers and footers are.
pub fn mutate(random: &mut Random, input: &[u8]) -> Vec<u8> {
    let mut input = input.to_vec();
    for _ in 0..=random.below(6) {
        if input.is_empty() {
            return input;
        }
        let at = place(random, input.len());
        match random.below(8) {
            0 => input[at] ^= 1 << random.below(8),
            1 => input[at] = random.number() as u8,
            2..=4 => put_number(random, &mut input, at),
            5 => copy(random, &mut input, at),
            6 => input[at] = input[at].wrapping_add(random.below(5) as u8).wrapping_sub(2),
            _ if random.chance(30) => input.truncate(at),
            _ => put_number(random, &mut input, at),
        }
    }
    input
}

fn place(random: &mut Random, length: usize) -> usize {
    let near = length.min(128) as u64;
    match random.below(4) {
        0 => random.below(near) as usize,
        1 => length - 1 - random.below(near) as usize,
        _ => random.below(length as u64) as usize,
    }
}

fn put_number(random: &mut Random, input: &mut [u8], at: usize) {
    let (value, width) = (number(random), 1 << random.below(4));
    for (target, byte) in input[at & !3..].iter_mut().zip(&value.to_le_bytes()[..width]) {
        *target = *byte;
    }
}

fn copy(random: &mut Random, input: &mut [u8], at: usize) {
    let from = place(random, input.len());
    let length = [4, 32, 48, 512][random.below(4) as usize].min(input.len() - at).min(input.len() - from);
    input.copy_within(from..from + length, at);
}

/// Changes a JSON text: values in it, or rarely its bytes.
pub fn mutate_json(random: &mut Random, text: &[u8]) -> Vec<u8> {
    if random.chance(15) {
        return mutate(random, text);
    }
    let mut value: Value = serde_json::from_slice(text).unwrap();
    let mut count = 0;
    walk(&mut value, &mut |_| count += 1);
    for _ in 0..=random.below(2) {
        let (wanted, mut at) = (random.below(count), 0);
        let part = strange(random);
        walk(&mut value, &mut |found| {
            if at == wanted {
                *found = strangely(found, &part);
            }
            at += 1;
        });
    }
    serde_json::to_vec(&value).unwrap()
}

/// Calls `visit` with every value.
fn walk(value: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| walk(value, visit)),
        Value::Object(values) => values.values_mut().for_each(|value| walk(value, visit)),
        _ => {}
    }
    visit(value);
}

/// What becomes of a value: something of its own kind where that can be, so that it is believed as far as possible.
fn strangely(found: &Value, part: &Value) -> Value {
    match (found, part) {
        (Value::Array(values), Value::Bool(true)) => Value::Array([values.clone(), values.clone()].concat()),
        (Value::String(text), Value::Bool(true)) => json!(text.chars().rev().collect::<String>()),
        (Value::String(text), Value::Bool(false)) => json!(text.chars().skip(1).collect::<String>()),
        (Value::String(text), Value::Null) => json!(text.replacen('0', "é", 1)),
        (Value::Number(_), Value::String(_)) => json!(4),
        (Value::Object(values), Value::Bool(_)) => {
            Value::Object(values.iter().skip(1).map(|(key, value)| (key.clone(), value.clone())).collect())
        }
        _ => part.clone(),
    }
}

fn strange(random: &mut Random) -> Value {
    match random.below(12) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(false),
        3..=6 => json!(number(random)),
        7 => json!(-1),
        8 => json!(["", "/", "..", "\u{0}", &"a".repeat(70_000)][random.below(5) as usize]),
        9 => json!(format!("{:064x}", random.number())),
        10 => (0..random.below(300)).fold(json!([]), |inner, _| json!([inner])),
        _ => json!("9999-12-31T23:59:59Z"),
    }
}
