//! The XML that S3, Google Cloud Storage and Aliyun OSS have in common.
//!
//! Answers are bounded by the client (`ANSWER_BYTES_MAX`); documents with a DTD are refused by the parser, so nothing in
//! one can grow.

use roxmltree::{Document, Node};

use crate::answer::Refusal;
use crate::http::Response;
use crate::service::{Listed, Page};

/// Parses a document and reads it.
///
/// # Errors
/// It is no XML: where.
pub(crate) fn read<T>(
    body: &[u8],
    read: impl FnOnce(Node<'_, '_>) -> Result<T, String>,
) -> Result<T, String> {
    let text = std::str::from_utf8(body).map_err(|_| "it is not text".to_owned())?;
    let document =
        Document::parse(text.trim_start_matches('\u{feff}')).map_err(|error| format!("no XML: {error}"))?;
    read(document.root_element())
}

/// The child elements of that name.
pub(crate) fn children<'a, 'input: 'a>(
    node: Node<'a, 'input>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'input>> {
    node.children().filter(move |child| child.tag_name().name() == name)
}

/// The first child element of that name.
pub(crate) fn child<'a, 'input: 'a>(node: Node<'a, 'input>, name: &'static str) -> Option<Node<'a, 'input>> {
    children(node, name).next()
}

/// The text of the first child element of that name.
pub(crate) fn text<'a>(node: Node<'a, '_>, name: &'static str) -> Option<&'a str> {
    child(node, name).and_then(|child| child.text())
}

/// A `ListBucketResult`: version 2 of S3's listing, which OSS and GCS speak too.
pub(crate) fn listing(body: &[u8]) -> Result<Page, String> {
    read(body, |root| {
        if root.tag_name().name() != "ListBucketResult" {
            return Err(format!("a {} is no listing", root.tag_name().name()));
        }
        let objects = children(root, "Contents").map(listed).collect::<Option<Vec<_>>>();
        let objects = objects.ok_or("an entry of the listing has no key or size")?;
        let goes_on = text(root, "IsTruncated").is_some_and(|text| text.trim() == "true");
        let next = text(root, "NextContinuationToken").map(str::to_owned);
        match (goes_on, next) {
            (false, _) => Ok(Page { objects, next: None }),
            (true, Some(next)) => Ok(Page { objects, next: Some(next) }),
            (true, None) => Err("the listing goes on, but does not say where".to_owned()),
        }
    })
}

fn listed(node: Node<'_, '_>) -> Option<Listed> {
    Some(Listed { name: text(node, "Key")?.to_owned(), size: text(node, "Size")?.trim().parse().ok()? })
}

/// An `Error` document; answers without one have neither code nor message.
pub(crate) fn refusal(response: &Response) -> Refusal {
    let words = read(&response.body, |root| {
        let word = |name| text(root, name).unwrap_or_default().to_owned();
        Ok((word("Code"), word("Message"), text(root, "Region").map(str::to_owned)))
    });
    let (code, message, region) = words.unwrap_or_default();
    let refusal = Refusal::of(response, code, message);
    Refusal { region: refusal.region.or(region), ..refusal }
}

#[cfg(test)]
mod tests {
    use super::listing;

    #[test]
    fn a_listing_is_read_and_nonsense_is_not() {
        let page = listing(
            br#"<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
            <IsTruncated>true</IsTruncated><NextContinuationToken>a+b</NextContinuationToken>
            <Contents><Key>p/a%2Fb&amp;c</Key><ETag>"x"</ETag><Size>12</Size></Contents></ListBucketResult>"#,
        )
        .unwrap();
        assert_eq!((page.objects[0].name.as_str(), page.objects[0].size), ("p/a%2Fb&c", 12));
        assert_eq!(page.next.as_deref(), Some("a+b"));
        for bad in [
            "",
            "<html/>",
            "<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
            "<ListBucketResult><Contents><Key>a</Key><Size>-1</Size></Contents></ListBucketResult>",
            "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><ListBucketResult/>",
        ] {
            assert!(listing(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
