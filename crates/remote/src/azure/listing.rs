//! Pages of a listing: `EnumerationResults`.

use roxmltree::Node;

use crate::service::{Listed, Page};
use crate::xml;

/// Reads a page.
///
/// # Errors
/// It is not one: what is wrong with it.
pub(super) fn page(body: &[u8]) -> Result<Page, String> {
    xml::read(body, |root| {
        if root.tag_name().name() != "EnumerationResults" {
            return Err(format!("a {} is no listing", root.tag_name().name()));
        }
        let blobs = xml::child(root, "Blobs").ok_or("a listing without blobs")?;
        let objects = xml::children(blobs, "Blob").filter(|blob| !is_folder(*blob)).map(listed);
        let objects =
            objects.collect::<Option<Vec<_>>>().ok_or("a blob of the listing has no name or size")?;
        let next = xml::text(root, "NextMarker").filter(|next| !next.is_empty()).map(str::to_owned);
        Ok(Page { objects, next })
    })
}

/// Accounts with a hierarchical name space list folders among the blobs.
fn is_folder(blob: Node<'_, '_>) -> bool {
    let properties = xml::child(blob, "Properties");
    properties.and_then(|properties| xml::text(properties, "ResourceType")) == Some("directory")
}

fn listed(blob: Node<'_, '_>) -> Option<Listed> {
    let size = xml::text(xml::child(blob, "Properties")?, "Content-Length")?.trim().parse().ok()?;
    Some(Listed { name: xml::text(blob, "Name")?.to_owned(), size })
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn a_page_is_read_and_nonsense_is_not() {
        let text = r#"<?xml version="1.0" encoding="utf-8"?>
            <EnumerationResults ServiceEndpoint="https://a.blob.core.windows.net/" ContainerName="c"><Prefix>p/</Prefix>
            <Blobs><Blob><Name>p/a%2Fb</Name><Properties><Content-Length>12</Content-Length></Properties></Blob>
            <Blob><Name>p/folder</Name><Properties><Content-Length>0</Content-Length>
              <ResourceType>directory</ResourceType></Properties></Blob></Blobs>
            <NextMarker>2!76!MDA=</NextMarker></EnumerationResults>"#;
        // The service begins its answers with a mark of the byte order.
        let found = page(format!("\u{feff}{text}").as_bytes()).unwrap();
        assert_eq!(found.objects.len(), 1);
        assert_eq!((found.objects[0].name.as_str(), found.objects[0].size), ("p/a%2Fb", 12));
        assert_eq!(found.next.as_deref(), Some("2!76!MDA="));
        let last = page(b"<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>").unwrap();
        assert_eq!((last.objects.len(), last.next), (0, None));
        for bad in [
            "",
            "<EnumerationResults/>",
            "<ListBucketResult><Blobs/></ListBucketResult>",
            "<EnumerationResults><Blobs><Blob><Name>a</Name></Blob></Blobs></EnumerationResults>",
        ] {
            assert!(page(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
