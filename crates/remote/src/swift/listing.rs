//! Listings of a container.

use serde::Deserialize;

use crate::http::{Method, Request};
use crate::service::{Listed, Page};

/// What every server gives at once.
const PAGE_ENTRIES: &str = "10000";

#[derive(Deserialize)]
struct Entry {
    name: String,
    bytes: u64,
}

/// The request for a page; the storage's address is filled in with the token.
pub(super) fn request(container: &str, prefix: &str, from: Option<&str>) -> Request {
    let request = Request::new(Method::GET, "", format!("/{container}"))
        .query("format", "json")
        .query("limit", PAGE_ENTRIES)
        .query("prefix", prefix);
    match from {
        Some(from) => request.query("marker", from),
        None => request,
    }
}

/// Reads a page. There is another one until a page is empty: a server may give fewer entries than it was asked for, by
/// its configuration or because a part of a large container was slow.
pub(super) fn page(body: &[u8]) -> Result<Page, String> {
    // Instead of an empty listing a server may send nothing.
    if body.is_empty() {
        return Ok(Page::default());
    }
    let entries: Vec<Entry> = serde_json::from_slice(body).map_err(|error| format!("no listing: {error}"))?;
    let next = entries.last().map(|entry| entry.name.clone());
    let objects = entries.into_iter().map(|entry| Listed { name: entry.name, size: entry.bytes }).collect();
    Ok(Page { objects, next })
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn pages_go_on_until_one_is_empty() {
        let read =
            page(br#"[{"hash":"h","bytes":3,"name":"p/a%2Fb","content_type":"x"},{"bytes":0,"name":"p/c"}]"#);
        let read = read.unwrap();
        assert_eq!((read.objects[0].name.as_str(), read.objects[0].size), ("p/a%2Fb", 3));
        assert_eq!(read.next.as_deref(), Some("p/c"));
        assert_eq!((page(b"[]").unwrap().next, page(b"").unwrap().next), (None, None));
        for bad in ["{}", r#"[{"name":"a"}]"#, r#"[{"subdir":"a/"}]"#, r#"[{"name":"a","bytes":-1}]"#] {
            assert!(page(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
