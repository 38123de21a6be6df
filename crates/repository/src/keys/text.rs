//! Keys as people write them: groups of letters and digits with a checksum.
//!
//! `LWPK1-` (public) or `LWSK1-` (secret), then 56 characters of Crockford's base 32 in groups of four: 32 bytes of key and
//! 3 bytes of checksum. `I` and `L` are read as `1`, `O` as `0`; there is no `U`. All of it is in the alphabet that QR codes
//! store most densely.

use zeroize::Zeroizing;

use super::secret::{SECRET_BYTES, Secret};

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const CHECKSUM: &str = "leeward v1 key text checksum";
const CHECKSUM_BYTES: usize = 3;
const PAYLOAD_BYTES: usize = SECRET_BYTES + CHECKSUM_BYTES;
/// 280 bits at 5 each.
const CHARACTERS: usize = PAYLOAD_BYTES * 8 / 5;
const GROUP: usize = 4;
const _: () = assert!(PAYLOAD_BYTES * 8 == CHARACTERS * 5 && CHARACTERS.is_multiple_of(GROUP));

/// What a text stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    Public,
    Secret,
}

impl Tag {
    fn text(self) -> &'static str {
        match self {
            Self::Public => "LWPK1",
            Self::Secret => "LWSK1",
        }
    }
}

fn checksum(tag: Tag, key: &[u8; SECRET_BYTES]) -> [u8; CHECKSUM_BYTES] {
    let digest = Secret::derive(CHECKSUM, &[tag.text().as_bytes(), key]);
    let [a, b, c, ..] = *digest.expose();
    [a, b, c]
}

/// The text of a key.
pub(super) fn encode(tag: Tag, key: &[u8; SECRET_BYTES]) -> Zeroizing<String> {
    let mut payload = Zeroizing::new([0; PAYLOAD_BYTES]);
    payload[..SECRET_BYTES].copy_from_slice(key);
    payload[SECRET_BYTES..].copy_from_slice(&checksum(tag, key));
    // With room for all of it: a string that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(tag.text().len() + CHARACTERS + CHARACTERS / GROUP));
    text.push_str(tag.text());
    for index in 0..CHARACTERS {
        if index % GROUP == 0 {
            text.push('-');
        }
        let value = (0..5).fold(0, |value, bit| {
            let at = index * 5 + bit;
            value << 1 | usize::from(payload[at / 8] >> (7 - at % 8) & 1)
        });
        text.push(char::from(ALPHABET[value]));
    }
    text
}

/// The key in a text, or what is wrong with it. Nothing of the text is repeated: it may be a secret.
pub(super) fn decode(tag: Tag, text: &str) -> Result<Secret, String> {
    let mut characters = Zeroizing::new(Vec::with_capacity(2 * CHARACTERS));
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let kept = line.chars().filter(|character| !character.is_whitespace() && *character != '-');
        for character in kept {
            if characters.len() == 2 * CHARACTERS || !character.is_ascii() {
                return Err(format!("it is not {} and {CHARACTERS} letters and digits", tag.text()));
            }
            characters.push(character.to_ascii_uppercase() as u8);
        }
    }
    let digits = characters
        .strip_prefix(tag.text().as_bytes())
        .ok_or_else(|| format!("it does not begin with {}", tag.text()))?;
    if digits.len() != CHARACTERS {
        return Err(format!("it has {} characters where there must be {CHARACTERS}", digits.len()));
    }
    let mut payload = Zeroizing::new([0_u8; PAYLOAD_BYTES]);
    for (index, digit) in digits.iter().enumerate() {
        let value = value_of(*digit).ok_or_else(|| {
            format!("character {} in group {} cannot stand there", index % GROUP + 1, index / GROUP + 1)
        })?;
        for bit in 0..5 {
            let at = index * 5 + bit;
            payload[at / 8] |= (value >> (4 - bit) & 1) << (7 - at % 8);
        }
    }
    let key = payload.first_chunk().copied().map(Secret::new).ok_or("it is too short")?;
    if payload[SECRET_BYTES..] != checksum(tag, key.expose()) {
        return Err("its checksum is wrong: something was mistyped or left out".to_owned());
    }
    Ok(key)
}

fn value_of(digit: u8) -> Option<u8> {
    let digit = match digit {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        other => other,
    };
    ALPHABET.iter().position(|letter| *letter == digit).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_mistyped_is_noticed() {
        let key = *Secret::random().unwrap().expose();
        let text = encode(Tag::Secret, &key);
        assert_eq!(text.len(), "LWSK1".len() + 14 * 5);
        assert_eq!(decode(Tag::Secret, &text).unwrap().expose(), &key);
        for (at, letter) in text.char_indices().filter(|(_, letter)| *letter != '-') {
            let other = if letter == 'X' { 'Y' } else { 'X' };
            let mut wrong = text.to_string();
            wrong.replace_range(at..=at, &other.to_string());
            assert!(decode(Tag::Secret, &wrong).is_err(), "{at}");
        }
        for length in 0..text.len() {
            assert!(decode(Tag::Secret, &text[..length]).is_err(), "{length}");
        }
        assert!(decode(Tag::Secret, &format!("{}{}", *text, "0".repeat(1000))).is_err());
        assert!(decode(Tag::Secret, "LWSK1-ÄÄÄÄ").is_err());
    }
}
