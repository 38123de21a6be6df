//! A sign-in that was begun and has not come back yet, as the browser keeps it in a cookie.
//!
//! The daemon keeps nothing of it, so there is no number of them that could be too large, and whichever daemon of a site the
//! browser comes back to can go on. The cookie holds 256 random bits, when it was begun, and where the person wants to go. From all of
//! that and the provider's name three values are derived: `state`, `nonce`, and the verifier of the code's challenge (RFC 7636). The
//! provider sees the first two, and the digest of the third. So a changed cookie fits no `state`, a `state` fits no other cookie, and a code that somebody took from another
//! browser, or brought into this one, is worth nothing without the cookie that it belongs to.

use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;

/// How long a person has to sign in at the provider.
pub(crate) const PENDING_TIME: Duration = Duration::from_secs(600);
/// By how much the clocks of two daemons may differ, in seconds.
const CLOCKS_SECONDS_MAX: i64 = 60;
/// The longest way back, in bytes.
const BACK_BYTES_MAX: usize = 1024;
/// The longest cookie that is looked at, in bytes.
const TEXT_BYTES_MAX: usize = 2048;

/// A sign-in that is under way.
pub(super) struct Pending {
    /// What the cookie holds.
    text: String,
    /// What values are derived from: the provider, and all of the cookie.
    material: String,
    begun: i64,
    back: String,
}

impl Pending {
    /// Begins one; `back` is where the person wants to go afterwards.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn begin(provider: &str, back: &str, now: Timestamp) -> Result<Self, String> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| format!("the system gives no random bytes: {error}"))?;
        let text = format!("{}.{}.{}", encoded(&secret), now.as_second(), encoded(back.as_bytes()));
        Ok(Self { material: material(provider, &text), text, begun: now.as_second(), back: back.to_owned() })
    }

    /// The one that a cookie holds; `None` where it holds none.
    pub fn read(provider: &str, text: &str) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let mut parts = text.split('.');
        let (secret, begun, back) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || URL_SAFE_NO_PAD.decode(secret).ok()?.len() != 32 {
            return None;
        }
        let back = String::from_utf8(URL_SAFE_NO_PAD.decode(back).ok()?).ok()?;
        let begun = begun.parse().ok()?;
        is_way_back(&back).then(|| Self {
            material: material(provider, text),
            text: text.to_owned(),
            begun,
            back,
        })
    }

    /// What the cookie holds.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where the person wants to go.
    pub fn back(&self) -> &str {
        &self.back
    }

    /// Whether it is too late, or the clock of who began it is wrong.
    pub fn is_over(&self, now: Timestamp) -> bool {
        let age = now.as_second().saturating_sub(self.begun);
        !(-CLOCKS_SECONDS_MAX..=PENDING_TIME.as_secs() as i64).contains(&age)
    }

    /// What the provider hands back unchanged, so that it is known for which sign-in of which browser its answer is.
    pub fn state(&self) -> String {
        self.derived("leeward 2026-11 sign-in state")
    }

    /// What the ID token repeats, so that it is known for which sign-in it was made.
    pub fn nonce(&self) -> String {
        self.derived("leeward 2026-11 sign-in nonce")
    }

    /// What only who began can show when the code becomes a token.
    pub fn verifier(&self) -> String {
        self.derived("leeward 2026-11 sign-in code verifier")
    }

    /// The verifier's digest, which the provider keeps with the code.
    pub fn challenge(&self) -> String {
        encoded(digest::digest(&digest::SHA256, self.verifier().as_bytes()).as_ref())
    }

    /// Whether an answer is for this one.
    pub fn is_named_by(&self, state: &str) -> bool {
        is_same(&self.state(), state)
    }

    /// Whether an ID token was made for this one.
    pub fn has_nonce(&self, nonce: &str) -> bool {
        is_same(&self.nonce(), nonce)
    }

    fn derived(&self, context: &str) -> String {
        encoded(&blake3::derive_key(context, self.material.as_bytes()))
    }
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// No name of a provider has a new line in it.
fn material(provider: &str, text: &str) -> String {
    format!("{provider}\n{text}")
}

/// Compares digests, whose comparison takes the same time wherever they differ.
fn is_same(one: &str, other: &str) -> bool {
    blake3::hash(one.as_bytes()) == blake3::hash(other.as_bytes())
}

/// Whether this is a place within the pages, and nothing that leads elsewhere: it stands behind the `#` of their address, begins
/// with one slash, and has no character that browsers read in some way of their own.
pub(crate) fn is_way_back(back: &str) -> bool {
    let mut bytes = back.bytes();
    let is_plain = |byte: u8| matches!(byte, 0x21..=0x7e) && byte != b'\\';
    back.len() <= BACK_BYTES_MAX
        && bytes.next() == Some(b'/')
        && bytes.next().is_none_or(|second| second != b'/')
        && back.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn what_is_derived_belongs_to_one_cookie_and_one_provider() {
        let begun = Pending::begin("company", "/runs?state=held", at(1000)).unwrap();
        let read = Pending::read("company", begun.text()).unwrap();
        assert_eq!((read.state(), read.nonce()), (begun.state(), begun.nonce()));
        assert_eq!((read.verifier(), read.back()), (begun.verifier(), "/runs?state=held"));
        assert!(read.is_named_by(&begun.state()) && read.has_nonce(&begun.nonce()));
        // RFC 7636, section 4.1: 43 to 128 characters that need no encoding.
        assert_eq!(begun.verifier().len(), 43);
        let all = [begun.state(), begun.nonce(), begun.verifier(), begun.challenge()];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        for other in [
            Pending::read("other", begun.text()).unwrap(),
            Pending::begin("company", "/runs?state=held", at(1000)).unwrap(),
            Pending::read("company", &begun.text().replace(".1000.", ".1001.")).unwrap(),
            Pending::read("company", &format!("{}{}", begun.text().rsplit_once('.').unwrap().0, ".Lw"))
                .unwrap(),
        ] {
            assert!(!other.is_named_by(&begun.state()) && !other.has_nonce(&begun.nonce()));
            assert_ne!(other.verifier(), begun.verifier());
        }
    }

    #[test]
    fn it_ends_and_does_not_begin_in_the_future() {
        let begun = Pending::begin("company", "/", at(1000)).unwrap();
        for (now, is_over) in [(939, true), (940, false), (1000, false), (1600, false), (1601, true)] {
            assert_eq!(begun.is_over(at(now)), is_over, "{now}");
        }
        let far = begun.text().replace(".1000.", &format!(".{}.", i64::MIN));
        assert!(Pending::read("company", &far).unwrap().is_over(at(1000)));
    }

    #[test]
    fn cookies_that_make_no_sense_are_none() {
        let good = Pending::begin("company", "/", at(1)).unwrap().text().to_owned();
        let parts: Vec<&str> = good.split('.').collect();
        for text in [
            String::new(),
            "..".to_owned(),
            format!("{}.{}", parts[0], parts[1]),
            format!("{good}.x"),
            format!("{}.x.{}", parts[0], parts[2]),
            format!("AAAA.{}.{}", parts[1], parts[2]),
            format!("{}.{}.%%", parts[0], parts[1]),
            format!("{}.{}.{}", parts[0], parts[1], encoded(b"//evil.example")),
            format!("{}.{}.{}", parts[0], parts[1], encoded(&[0xff])),
            format!("{}.{}.{}", parts[0], parts[1], "A".repeat(4000)),
        ] {
            assert!(Pending::read("company", &text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_way_back_leads_nowhere_else() {
        for back in ["/", "/runs", "/images/a%2Fb?snapshot=1", "/a//b"] {
            assert!(is_way_back(back), "{back}");
        }
        let long = format!("/{}", "a".repeat(BACK_BYTES_MAX));
        for back in [
            "",
            "runs",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/a b",
            "/\n",
            "/ä",
            "/a\\b",
            &long,
        ] {
            assert!(!is_way_back(back), "{back}");
        }
    }
}
