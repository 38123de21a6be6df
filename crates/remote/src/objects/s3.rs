//! S3 and what speaks like it: `x-amz-meta-` headers, uploads by `?uploads`.

use jiff::Timestamp;
use leeward_store::bucket::Condition;

use super::dialect::{Dialect, Entries, Unfinished, Uploads, from_base64, is_hex};
use super::{ListedObject, Metadata, ObjectVersion, StatedDigests};
use crate::encode::decoded_form;
use crate::http::{Bytes, Method, Request, Response};
use crate::s3::S3;
use crate::service::Service;
use crate::xml;

impl Dialect for S3 {
    fn metadata_prefix(&self) -> &'static str {
        "x-amz-meta-"
    }

    fn prepare_look(&self, request: &mut Request) {
        request.set_header("x-amz-checksum-mode", "ENABLED");
    }

    fn digests(&self, response: &Response) -> StatedDigests {
        let etag = response.header("etag").unwrap_or_default().trim_matches('"');
        // With keys of a service for keys or of the customer the tag is no digest of the content.
        let is_sealed =
            response.header("x-amz-server-side-encryption").is_some_and(|kind| kind.starts_with("aws:kms"))
                || response.header("x-amz-server-side-encryption-customer-algorithm").is_some();
        let is_whole = response.header("x-amz-checksum-type").is_none_or(|kind| kind == "FULL_OBJECT");
        let sha256 = response.header("x-amz-checksum-sha256").filter(|_| is_whole);
        StatedDigests {
            md5: (is_hex(etag, 32) && !is_sealed).then(|| etag.to_ascii_lowercase()),
            sha256: sha256.and_then(|text| from_base64(text, 32)),
            of_parts: etag.contains('-').then(|| etag.to_owned()),
        }
    }

    fn list_after(&self, prefix: &str, after: Option<&str>) -> Request {
        // Names may have characters that no XML can have: one of them would hide all others.
        let request = self.bucket_request(Method::GET).query("list-type", "2").query("encoding-type", "url");
        let request = request.query("prefix", prefix);
        match after {
            Some(after) => request.query("start-after", after),
            None => request,
        }
    }

    fn entries(&self, body: &[u8]) -> Result<Entries, String> {
        read_entries(body)
    }

    fn uploads(&self) -> Option<&dyn Uploads> {
        Some(self)
    }
}

fn read_entries(body: &[u8]) -> Result<Entries, String> {
    xml::read(body, |root| {
        if root.tag_name().name() != "ListBucketResult" {
            return Err(format!("a {} is no listing", root.tag_name().name()));
        }
        let goes_on = xml::text(root, "IsTruncated").is_some_and(|text| text.trim() == "true");
        // Who does not know the encoding does not say so.
        let is_encoded = xml::text(root, "EncodingType").is_some_and(|text| text.trim() == "url");
        let mut objects = Vec::new();
        for node in xml::children(root, "Contents") {
            let key = xml::text(node, "Key").ok_or("an entry of the listing has no key")?;
            // As in a form: some write a space as `+`. A name that is no text is none that could be asked for.
            let name = if is_encoded { decoded_form(key) } else { Some(key.to_owned()) };
            if let Some(name) = name {
                objects.push(listed(node, name).ok_or("an entry of the listing has no size")?);
            }
        }
        Ok((objects, goes_on))
    })
}

fn listed(node: roxmltree::Node<'_, '_>, name: String) -> Option<ListedObject> {
    Some(ListedObject {
        name,
        bytes: xml::text(node, "Size")?.trim().parse().ok()?,
        version: xml::text(node, "ETag").map(|tag| ObjectVersion(tag.to_owned())),
        modified: xml::text(node, "LastModified").and_then(|text| text.parse::<Timestamp>().ok()),
    })
}

impl Uploads for S3 {
    fn start(&self, name: &str, metadata: &Metadata) -> Request {
        let mut request = self.object(Method::POST, name).query("uploads", "");
        super::remote::set_metadata(&mut request, self.metadata_prefix(), metadata);
        request
    }

    fn started(&self, response: &Response) -> Result<String, String> {
        xml::read(&response.body, |root| {
            xml::text(root, "UploadId").map(str::to_owned).ok_or_else(|| "it names no upload".to_owned())
        })
    }

    fn part(&self, name: &str, upload: &str, number: u32, content: Bytes) -> Request {
        let mut request =
            self.object(Method::PUT, name).query("partNumber", number.to_string()).query("uploadId", upload);
        request.body = vec![content];
        self.prepare_write(&mut request, Condition::Always);
        request
    }

    fn complete(&self, name: &str, upload: &str, parts: &[(u32, String)]) -> Request {
        let parts: String = parts
            .iter()
            .map(|(number, etag)| {
                let etag = etag.replace('&', "&amp;").replace('<', "&lt;");
                format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
            })
            .collect();
        let document = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        self.object(Method::POST, name).query("uploadId", upload).body(&[document.as_bytes()])
    }

    fn completed(&self, response: &Response) -> Result<Option<ObjectVersion>, String> {
        // The answer begins before the work is done: success may turn out to be a failure. A repeated request may get an
        // answer without a tag (Ceph's gateway does that).
        xml::read(&response.body, |root| match root.tag_name().name() {
            "CompleteMultipartUploadResult" => {
                Ok(xml::text(root, "ETag").map(|tag| ObjectVersion(tag.to_owned())))
            }
            other => Err(format!("the upload ended with a {other}")),
        })
    }

    fn abort(&self, name: &str, upload: &str) -> Request {
        self.object(Method::DELETE, name).query("uploadId", upload)
    }

    fn unfinished(&self, name: &str, from: Option<&str>) -> Request {
        // Not encoded: Ceph's gateway encodes the names of uploads when it is asked to, and does not say that it has.
        let request = self.bucket_request(Method::GET).query("uploads", "").query("prefix", name);
        match from.and_then(|from| from.split_once('\n')) {
            Some((upload, key)) => request.query("key-marker", key).query("upload-id-marker", upload),
            None => request,
        }
    }

    fn unfinished_in(&self, name: &str, response: &Response) -> Result<Unfinished, String> {
        read_unfinished(name, &response.body)
    }
}

fn read_unfinished(name: &str, body: &[u8]) -> Result<Unfinished, String> {
    xml::read(body, |root| {
        if root.tag_name().name() != "ListMultipartUploadsResult" {
            return Err(format!("a {} is no listing of uploads", root.tag_name().name()));
        }
        let is_encoded = xml::text(root, "EncodingType").is_some_and(|text| text.trim() == "url");
        let plain = |text: &str| if is_encoded { decoded_form(text) } else { Some(text.to_owned()) };
        let of_object = |node: roxmltree::Node<'_, '_>| {
            let is_mine = xml::text(node, "Key").and_then(plain).is_some_and(|key| key == name);
            xml::text(node, "UploadId").filter(|_| is_mine).map(str::to_owned)
        };
        let found = xml::children(root, "Upload").filter_map(of_object).collect();
        let goes_on = xml::text(root, "IsTruncated").is_some_and(|text| text.trim() == "true");
        let marker = |tag| xml::text(root, tag).unwrap_or_default();
        let next = goes_on.then(|| {
            let key = plain(marker("NextKeyMarker")).unwrap_or_default();
            format!("{}\n{key}", marker("NextUploadIdMarker"))
        });
        Ok((found, next))
    })
}

#[cfg(test)]
mod tests {
    use super::{read_entries, read_unfinished};

    #[test]
    fn uploads_of_one_object_are_told_from_others() {
        let body = b"<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
            <NextKeyMarker>a%2Fb</NextKeyMarker><NextUploadIdMarker>2~x</NextUploadIdMarker>
            <Upload><Key>a%2Fb</Key><UploadId>2~one</UploadId></Upload><Upload><Key>a%2Fbc</Key><UploadId>2~two</UploadId></Upload>
            </ListMultipartUploadsResult>";
        assert_eq!(
            read_unfinished("a/b", body).unwrap(),
            (vec!["2~one".to_owned()], Some("2~x\na/b".to_owned()))
        );
        assert!(read_unfinished("a/b", b"<Error/>").is_err());
    }

    fn names(body: &str) -> Vec<String> {
        let (objects, goes_on) = read_entries(body.as_bytes()).unwrap();
        assert!(goes_on);
        objects.into_iter().map(|object| object.name).collect()
    }

    #[test]
    fn a_name_that_no_xml_can_hold_hides_no_other() {
        let page = |encoding: &str, names: &[&str]| {
            let entries: String = names
                .iter()
                .map(|name| format!("<Contents><Key>{name}</Key><Size>1</Size></Contents>"))
                .collect();
            format!("<ListBucketResult><IsTruncated>true</IsTruncated>{encoding}{entries}</ListBucketResult>")
        };
        let url = "<EncodingType>url</EncodingType>";
        let listed = page(url, &["a%01b", "c+d%2Be%20f", "disks/%C3%BC.raw", "bad%FF", "bad%2", "z"]);
        assert_eq!(names(&listed), ["a\u{1}b", "c d+e f", "disks/\u{fc}.raw", "z"]);
        // Who does not know the encoding tells names as they are.
        assert_eq!(names(&page("", &["a%01b", "c+d"])), ["a%01b", "c+d"]);
        assert!(read_entries(page("", &["a\u{1}b"]).as_bytes()).is_err());
        assert!(
            read_entries(b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>")
                .is_err()
        );
    }
}
