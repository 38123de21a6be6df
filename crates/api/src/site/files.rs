//! `…/snapshots/ID/files`: what is in a snapshot's disk, and the bytes of a file there.
//!
//! A listing is worked for only as long as its client is there. A file is read in pieces, each when the one before is being
//! taken; few are sent at once, and who takes nothing is not waited for.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use leeward_remote::encode::component;
use leeward_repository::{ImageName, SnapshotId};
use leeward_site::{FilePath, OpenFile};
use tokio::sync::mpsc;

use super::problem::Problem;
use super::query::Query;
use super::{Asking, SiteState, json};
use crate::server::Pieces;

/// How long it is worked on a page of a directory.
const PAGE_TIME: Duration = Duration::from_secs(60);
/// Bytes that are read and sent at a time.
const PIECE_BYTES: u64 = 512 << 10;
/// How long a client may take for one of them.
const PIECE_TIME: Duration = Duration::from_secs(60);
/// The longest name of a file that is suggested, in characters.
const NAME_CHARS_MAX: usize = 150;

/// What may be asked of a directory.
const ASKED: [&str; 3] = ["path", "after", "most"];

/// The query of a look for the log: the path, as it was understood, comes last, behind what else was asked. One that makes no
/// sense, for which nothing was shown, stays as it is.
pub(super) fn looked_at(query: &str) -> String {
    let Ok(asked) = Query::parse(query, &ASKED) else { return query.to_owned() };
    let Ok(path) = asked.value::<FilePath>("path") else { return query.to_owned() };
    let others = ["after", "most"].into_iter().filter_map(|name| Some((name, asked.text(name)?.to_owned())));
    // Of a name `.` file systems take no notice, wherever it stands.
    let plain = |path: FilePath| {
        path.to_string().split('/').filter(|part| *part != "%2E").collect::<Vec<_>>().join("/")
    };
    let all = others.chain(path.map(|path| ("path", plain(path))));
    all.map(|(name, text)| format!("{name}={}", component(&text))).collect::<Vec<_>>().join("&")
}

/// Says that the client has gone when this goes.
pub(super) struct Leaving(Arc<AtomicBool>);

impl Leaving {
    /// The guard to keep while a client waits, and how it is asked whether it does.
    pub fn new() -> (Self, impl Fn() -> bool + Send + 'static) {
        let has_left = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&has_left);
        (Self(has_left), move || !asked.load(Ordering::Acquire))
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A page of a directory.
pub(super) async fn list(
    state: &SiteState,
    asking: &Asking,
    image: ImageName,
    id: SnapshotId,
) -> Result<Response, Problem> {
    let query = Query::parse(&asking.query, &ASKED)?;
    let path: FilePath = query.value("path")?.unwrap_or_default();
    let (after, most) = (query.text("after").map(str::to_owned), query.most()?);
    let (leaving, is_there) = Leaving::new();
    let end = Instant::now() + PAGE_TIME;
    let goes_on = move || is_there() && Instant::now() < end;
    let listing = state
        .call_far(move |site| Ok(site.files(&image, id, &path, after.as_deref(), most, &goes_on)?))
        .await?;
    drop(leaving);
    Ok(json(&listing))
}

/// The bytes of a file, or a range of them.
pub(super) async fn content(
    state: &SiteState,
    asking: &Asking,
    image: ImageName,
    id: SnapshotId,
) -> Result<Response, Problem> {
    let query = Query::parse(&asking.query, &["path"])?;
    let path: FilePath = query.value("path")?.ok_or_else(|| Problem::invalid("say which file, by `path`"))?;
    let turn = super::turn_of(&state.0.downloads, "other files are being taken").await?;
    let file = state.call_far(move |site| Ok(site.open_file(&image, id, &path)?)).await?;
    let asked = asking.header("range").and_then(|text| range_of(text, file.bytes));
    let range = match &asked {
        None => 0..file.bytes,
        Some(None) => return Err(Problem::no_range(file.bytes)),
        Some(Some(range)) => range.clone(),
    };
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    about(headers, &file, &range);
    if asked.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let told = format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), file.bytes);
        put(response.headers_mut(), header::CONTENT_RANGE, &told);
    }
    if asking.method != Method::HEAD {
        let (sender, pieces) = mpsc::channel(2);
        let left = range.end - range.start;
        let peer = asking.peer.clone();
        tokio::spawn(async move {
            let _turn = turn;
            let _inside = peer.as_ref().map(|peer| peer.activity.enter());
            let is_ending = || peer.as_ref().is_some_and(|peer| *peer.stop.borrow());
            send(Arc::new(file), range, sender, &is_ending).await;
        });
        *response.body_mut() = Body::new(Pieces::new(pieces, left));
    }
    Ok(response)
}

/// Reads a file piece by piece and hands the pieces on, until all are taken, the client has gone, or the daemon ends.
async fn send(
    file: Arc<OpenFile>,
    mut range: Range<u64>,
    sender: mpsc::Sender<Result<Bytes, std::io::Error>>,
    is_ending: &(dyn Fn() -> bool + Send + Sync),
) {
    while range.start < range.end && !sender.is_closed() && !is_ending() {
        let (from, length) = (range.start, (range.end - range.start).min(PIECE_BYTES));
        let reader = Arc::clone(&file);
        let read = tokio::task::spawn_blocking(move || piece(&reader, from, length));
        let piece = read.await.unwrap_or_else(|_| Err(std::io::Error::other("the reader broke")));
        let has_failed = piece.is_err();
        let sent = tokio::time::timeout(PIECE_TIME, sender.send(piece)).await;
        // A client that has gone away takes nothing more, and one that takes nothing is not waited for.
        if has_failed || !matches!(sent, Ok(Ok(()))) {
            return;
        }
        range.start += length;
    }
}

fn piece(file: &OpenFile, from: u64, length: u64) -> std::io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
    let count = file.read_at(&mut buffer, from).map_err(|error| {
        eprintln!("leeward: a file of a snapshot cannot be read: {}", leeward_store::with_causes(&error));
        std::io::Error::other("the file cannot be read")
    })?;
    match count == buffer.len() {
        true => Ok(Bytes::from(buffer)),
        false => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

fn put(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// What the bytes are: never something that a browser would show or run.
fn about(headers: &mut HeaderMap, file: &OpenFile, range: &Range<u64>) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    put(headers, header::CONTENT_DISPOSITION, &disposition(&file.name));
}

/// `attachment`, with a name that leads nowhere (RFC 6266): one of plain letters, and the same with all others for those who
/// can read that.
pub(super) fn disposition(name: &[u8]) -> String {
    let is_safe = |letter: char| {
        !letter.is_control()
            && !"/\\:*?\"<>|%".contains(letter)
            && !matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fffd}')
    };
    let name = String::from_utf8_lossy(name);
    let safe: String =
        name.chars().take(NAME_CHARS_MAX).map(|letter| if is_safe(letter) { letter } else { '_' }).collect();
    let safe = safe.trim_start_matches('.').trim();
    let safe = if safe.is_empty() { "file" } else { safe };
    let plain: String = safe.chars().map(|letter| if letter.is_ascii() { letter } else { '_' }).collect();
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", component(safe))
}

/// The range that is asked for, of a file of so many bytes (RFC 9110, section 14): `None` where the request is to be answered
/// with all of it, `Some(None)` where nothing of it is meant.
fn range_of(text: &str, bytes: u64) -> Option<Option<Range<u64>>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| {
        let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let range = match (first, last) {
        ("", last) => bytes.saturating_sub(number(last)?)..bytes,
        (first, "") => number(first)?..bytes,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(bytes)
        }
    };
    Some((range.start < range.end).then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_standard() {
        for (text, expected) in [
            ("bytes=0-0", Some(Some(0..1))),
            ("bytes=2-", Some(Some(2..10))),
            ("bytes=-3", Some(Some(7..10))),
            ("bytes=-30", Some(Some(0..10))),
            ("bytes=5-99999999999999999999999", Some(Some(5..10))),
            ("bytes=10-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=5-4", None),
            ("bytes=0-1,3-4", None),
            ("bytes=a-b", None),
            ("bytes=-", None),
            ("bytes=+1-2", None),
            ("lines=0-1", None),
            ("", None),
        ] {
            assert_eq!(range_of(text, 10), expected, "{text}");
        }
        assert_eq!(range_of("bytes=0-", 0), Some(None));
    }

    #[test]
    fn the_log_says_what_was_looked_at_however_it_was_asked() {
        let many = format!("path=/1{}/etc//shadow/&most=5", "/.".repeat(2000));
        for (query, told) in [
            ("path=/2/etc/fstab", "path=%2F2%2Fetc%2Ffstab"),
            ("p%61th=%2f2%2Fe%74c/fstab", "path=%2F2%2Fetc%2Ffstab"),
            ("path=/2/a+b&after=x%26y&most=2", "after=x%26y&most=2&path=%2F2%2Fa%20b"),
            (many.as_str(), "most=5&path=%2F1%2Fetc%2Fshadow"),
            ("path=/1/etc/shadow/%252E/%252e/.", "path=%2F1%2Fetc%2Fshadow"),
            ("after=x", "after=x"),
            ("path=", "path=%2F"),
            // Nothing is shown for these.
            ("path=/1&path=/2", "path=/1&path=/2"),
            ("path=/1/%25", "path=/1/%25"),
            ("other=1&path=/1", "other=1&path=/1"),
        ] {
            assert_eq!(looked_at(query), told, "{query}");
        }
    }

    #[test]
    fn a_name_from_a_disk_breaks_no_header_and_leads_nowhere() {
        for (name, plain) in [
            (&b"fstab"[..], "fstab"),
            (b"..", "file"),
            (b"../../etc/passwd", "_.._etc_passwd"),
            (b"a\"; filename=b.exe\r\nx: y", "a_; filename=b.exe__x_ y"),
            (b"\xff\xfe", "__"),
            (b"", "file"),
            (".bashrc".as_bytes(), "bashrc"),
            ("Wörter\u{202e}gpj.exe".as_bytes(), "W_rter_gpj.exe"),
        ] {
            let told = disposition(name);
            assert!(told.starts_with(&format!("attachment; filename=\"{plain}\"; ")), "{told}");
            assert!(HeaderValue::from_str(&told).is_ok() && told.is_ascii(), "{told}");
            assert_eq!(told.matches('"').count(), 2, "{told}");
        }
        assert!(disposition("ä".repeat(5000).as_bytes()).len() < 2000);
        assert!(disposition("Wörter".as_bytes()).ends_with("filename*=UTF-8''W%C3%B6rter"));
    }
}
