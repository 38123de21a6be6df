//! Small encodings that signatures and addresses are made of. Percent-encoding is here for all of Leeward, so that everybody
//! reads what everybody writes.

use std::fmt::Write as _;

use aws_lc_rs::{digest, hmac};
use bytes::Bytes;

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Text as part of a path or query: all but letters, digits and `-_.~` is percent-encoded.
#[must_use]
pub fn component(text: &str) -> String {
    encoded(text, b"")
}

/// Text as a path: slashes stay.
pub(crate) fn path(text: &str) -> String {
    encoded(text, b"/")
}

fn encoded(text: &str, plain: &[u8]) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || plain.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// Percent-encoded text in plain, as it stands in a path; `None` when it is not that, or no text.
#[must_use]
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?].map(|digit| char::from(digit).to_digit(16));
        bytes.push(u8::try_from(digits[0]? * 16 + digits[1]?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// The same as it stands in a query, a form, or an event of S3, where `+` is a space.
#[must_use]
pub fn decoded_form(text: &str) -> Option<String> {
    decoded(&text.replace('+', "%20"))
}

/// SHA-256 of parts, in hexadecimal digits.
pub(crate) fn sha256(parts: &[Bytes]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    hex(context.finish().as_ref())
}

/// HMAC with SHA-256.
pub(crate) fn hmac_sha256(key: &[u8], message: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{component, decoded, decoded_form, hex, hmac_sha256, path, sha256};

    #[test]
    fn what_is_not_plain_is_escaped() {
        assert_eq!(component("a/b c%2F~ä"), "a%2Fb%20c%252F~%C3%A4");
        assert_eq!(path("/refs/web%2Froot"), "/refs/web%252Froot");
        assert_eq!(decoded(&component("a/b c%2F~ä")).as_deref(), Some("a/b c%2F~ä"));
        assert_eq!((decoded("a+b").as_deref(), decoded_form("a+b").as_deref()), (Some("a+b"), Some("a b")));
        assert_eq!(decoded_form("a%2Bb").as_deref(), Some("a+b"));
        for bad in ["%", "%1", "%g0", "%ff", "%+5", "%-5", "% 5"] {
            assert_eq!((decoded(bad), decoded_form(bad)), (None, None), "{bad}");
        }
    }

    #[test]
    fn digests_are_those_of_the_standards() {
        let abc = [Bytes::from_static(b"a"), Bytes::from_static(b"bc")];
        assert_eq!(sha256(&abc), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        // RFC 4231, case 2.
        assert_eq!(
            hex(&hmac_sha256(b"Jefe", "what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
