//! Tokens of temporary workers: for one run each.
//!
//! A token is 256 random bits. The daemon keeps its digest; its text is in the user data of the one instance that is launched
//! with it, and nowhere else.

use zeroize::Zeroizing;

/// What the text of a token begins with, so that it is recognised where it should not be.
pub const TEXT_PREFIX: &str = "lww_";
const DIGEST_CONTEXT: &str = "leeward 2026-11 worker token digest";

/// A new token.
///
/// # Errors
/// The system gives no random bytes; in words.
pub fn new() -> Result<Zeroizing<String>, String> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    getrandom::fill(bytes.as_mut_slice())
        .map_err(|error| format!("the system gives no random bytes: {error}"))?;
    let mut text = Zeroizing::new(String::with_capacity(TEXT_PREFIX.len() + 64));
    text.push_str(TEXT_PREFIX);
    for byte in bytes.iter() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    Ok(text)
}

/// What is kept of a token: 64 hexadecimal digits.
#[must_use]
pub fn digest(text: &str) -> String {
    blake3::Hash::from_bytes(blake3::derive_key(DIGEST_CONTEXT, text.as_bytes())).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tokens_are_the_same_and_a_digest_says_nothing_of_its_text() {
        let (one, other) = (new().unwrap(), new().unwrap());
        assert_ne!(*one, *other);
        assert!(one.starts_with(TEXT_PREFIX) && one.len() == TEXT_PREFIX.len() + 64);
        assert_eq!(digest(&one), digest(&one));
        assert_ne!(digest(&one), digest(&other));
        assert!(!digest(&one).contains(&one[4..20]));
    }
}
