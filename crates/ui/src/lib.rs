//! The web pages, which are in the binary.
//!
//! What they are lies in `ui/` at the project's root: plain modules, one style sheet, one vendored library. There is no build
//! step, so `cargo build` needs no node. This crate knows paths and bytes; it does not serve them, knows no HTTP library and
//! reads no file at run time.
//!
//! One page, at [`PAGE`] and where providers send browsers back to, names everything else below `assets/DIGEST/`, where the digest is that of all files together. So what lies
//! there never changes and may be kept for ever, and a page from one release never loads a module of another.

mod files;

use std::borrow::Cow;
use std::sync::LazyLock;

use files::FILES;

/// The path of the page.
pub const PAGE: &str = "/";

/// The path to which a provider sends browsers back, before its name. The same page is there, a step further from its files.
const RETURN: &str = "/sign-in/";

/// What the page may load and do: its own origin's scripts, styles, images and requests, and nothing inline.
pub const CONTENT_SECURITY_POLICY: &str = include_str!("../../../ui/policy.txt").trim_ascii();

/// Headers of every answer with an [`Asset`], beside those that follow from it.
pub const HEADERS: [(&str, &str); 6] = [
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
];

/// What stands in the page where the digest belongs.
const PLACEHOLDER: &str = "assets/dev/";
/// Hexadecimal digits of the digest in paths; it tells releases apart, nothing rests on it.
const DIGEST_DIGITS: usize = 16;

/// A file to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// Its bytes.
    pub bytes: Cow<'static, [u8]>,
    /// Its type, for `Content-Type`.
    pub content_type: &'static str,
    /// Its entity tag with the quotation marks, for `ETag` and `If-None-Match`.
    pub etag: String,
    /// Whether the path never has other bytes.
    pub is_immutable: bool,
}

impl Asset {
    /// The value for `Cache-Control`.
    #[must_use]
    pub fn cache_control(&self) -> &'static str {
        match self.is_immutable {
            true => "public, max-age=31536000, immutable",
            false => "no-cache",
        }
    }
}

/// What a path of the site's root has; `None` where it has nothing. The path begins with `/`, has no query, and is not decoded: no name
/// here needs it.
#[must_use]
pub fn asset(path: &str) -> Option<Asset> {
    if path == PAGE || path == "/index.html" {
        return Some(PAGE_ASSET.clone());
    }
    if path.strip_prefix(RETURN).is_some_and(is_name) {
        return Some(RETURN_ASSET.clone());
    }
    let (digest, name) = path.strip_prefix("/assets/")?.split_once('/')?;
    if digest != DIGEST.as_str() {
        return None;
    }
    let (name, bytes) = FILES.iter().find(|(known, _)| *known == name && *known != "index.html")?;
    Some(Asset {
        bytes: Cow::Borrowed(bytes),
        content_type: content_type(name),
        etag: etag(bytes),
        is_immutable: true,
    })
}

/// The digest of all files, as in paths.
static DIGEST: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = blake3::Hasher::new();
    for (name, bytes) in FILES {
        hasher.update(&blake3::hash(name.as_bytes()).as_bytes()[..]);
        hasher.update(&blake3::hash(bytes).as_bytes()[..]);
    }
    hasher.finalize().to_hex()[..DIGEST_DIGITS].to_owned()
});

static PAGE_ASSET: LazyLock<Asset> = LazyLock::new(|| page_below(""));

static RETURN_ASSET: LazyLock<Asset> = LazyLock::new(|| page_below("../"));

/// The page; `up` leads from its path to the site's root.
fn page_below(up: &str) -> Asset {
    let page =
        include_str!("../../../ui/index.html").replace(PLACEHOLDER, &format!("{up}assets/{}/", *DIGEST));
    let etag = etag(page.as_bytes());
    let content_type = content_type("index.html");
    Asset { bytes: Cow::Owned(page.into_bytes()), content_type, etag, is_immutable: false }
}

/// Whether this may be the name of a provider.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=64).contains(&name.len()) && name.bytes().all(fits)
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", &blake3::hash(bytes).to_hex()[..2 * DIGEST_DIGITS])
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests;
