//! ListObjects.

use serde::Deserialize;

use crate::http::{Method, Request};
use crate::service::{Listed, Page};

/// The most that one page may hold.
const PAGE_ENTRIES: &str = "1000";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    objects: Vec<Entry>,
    #[serde(default)]
    next_start_with: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    size: u64,
}

/// The request for a page; `bucket` is the bucket's path.
pub(super) fn request(origin: &str, bucket: &str, prefix: &str, from: Option<&str>) -> Request {
    // Without `fields` the answer has names only.
    let request = Request::new(Method::GET, origin, format!("{bucket}/o"))
        .query("fields", "name,size")
        .query("limit", PAGE_ENTRIES)
        .query("prefix", prefix);
    match from {
        Some(from) => request.query("start", from),
        None => request,
    }
}

/// Reads a page.
pub(super) fn page(body: &[u8]) -> Result<Page, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| format!("no listing: {error}"))?;
    let objects =
        answer.objects.into_iter().map(|entry| Listed { name: entry.name, size: entry.size }).collect();
    Ok(Page { objects, next: answer.next_start_with.filter(|next| !next.is_empty()) })
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn a_page_is_read_and_nonsense_is_not() {
        let read = page(
            br#"{"objects":[{"name":"p/a%2Fb","size":3,"etag":"e"}],"prefixes":[],"nextStartWith":"p/b"}"#,
        );
        let read = read.unwrap();
        assert_eq!((read.objects[0].name.as_str(), read.objects[0].size), ("p/a%2Fb", 3));
        assert_eq!(read.next.as_deref(), Some("p/b"));
        assert_eq!(page(br#"{"objects":[],"nextStartWith":null}"#).unwrap().next, None);
        for bad in ["", "[]", r#"{"objects":[{"name":"a"}]}"#, r#"{"objects":[{"name":"a","size":-1}]}"#] {
            assert!(page(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
