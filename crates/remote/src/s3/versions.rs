//! `ListVersionsResult`: all versions of all objects, and the marks of deletions.

use jiff::Timestamp;
use roxmltree::Node;

use crate::past::{ListedVersion, VersionsPage};
use crate::xml::{read, text};

/// Reads a page. The service puts the versions of an object in order, the last one first.
pub(super) fn page(body: &[u8]) -> Result<VersionsPage, String> {
    read(body, |root| {
        if root.tag_name().name() != "ListVersionsResult" {
            return Err(format!("a {} is no listing of versions", root.tag_name().name()));
        }
        let entries = root.children().filter_map(|node| match node.tag_name().name() {
            "Version" => Some(listed(node, false)),
            "DeleteMarker" => Some(listed(node, true)),
            _ => None,
        });
        let versions = entries.collect::<Option<Vec<_>>>();
        let versions = versions.ok_or("an entry of the listing has no key, version, time or size")?;
        let goes_on = text(root, "IsTruncated").is_some_and(|text| text.trim() == "true");
        let marker = |name| text(root, name).unwrap_or_default().to_owned();
        let next = (marker("NextKeyMarker"), marker("NextVersionIdMarker"));
        match goes_on {
            false => Ok(VersionsPage { versions, next: None }),
            true if next.0.is_empty() => Err("the listing goes on, but does not say where".to_owned()),
            true => Ok(VersionsPage { versions, next: Some(next) }),
        }
    })
}

fn listed(node: Node<'_, '_>, is_deletion: bool) -> Option<ListedVersion> {
    let size = if is_deletion { None } else { Some(text(node, "Size")?.trim().parse().ok()?) };
    Some(ListedVersion {
        name: text(node, "Key")?.to_owned(),
        version: text(node, "VersionId")?.to_owned(),
        written: text(node, "LastModified")?.trim().parse::<Timestamp>().ok()?,
        size,
    })
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn versions_and_deletions_are_read_and_nonsense_is_not() {
        let found = page(
            br#"<ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>true</IsTruncated>
            <NextKeyMarker>p/b</NextKeyMarker><NextVersionIdMarker>v9</NextVersionIdMarker>
            <DeleteMarker><Key>p/a</Key><VersionId>v2</VersionId><LastModified>2026-01-02T00:00:00.000Z</LastModified></DeleteMarker>
            <Version><Key>p/a</Key><VersionId>v1</VersionId><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>5</Size></Version>
            </ListVersionsResult>"#,
        )
        .unwrap();
        let shown: Vec<_> = found.versions.iter().map(|entry| (entry.version.as_str(), entry.size)).collect();
        assert_eq!(shown, [("v2", None), ("v1", Some(5))]);
        assert_eq!(found.next, Some(("p/b".to_owned(), "v9".to_owned())));
        for bad in [
            "<ListBucketResult/>",
            "<ListVersionsResult><Version><Key>a</Key></Version></ListVersionsResult>",
            "<ListVersionsResult><IsTruncated>true</IsTruncated></ListVersionsResult>",
        ] {
            assert!(page(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
