//! From a location to objects.

use std::path::Path;
use std::sync::Arc;

use leeward_store::bucket::Requests;

use super::dialect::Dialect;
use super::remote::RemoteObjects;
use super::swift_parts::SwiftObjects;
use super::{DirectoryObjects, SharedObjects};
use crate::encode;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::http::Client;
use crate::location::{Location, Scheme};
use crate::oci::Oci;
use crate::s3::S3;
use crate::swift::Swift;

/// The objects at a location: `s3://BUCKET[/PREFIX][?OPTION=VALUE]`, `oci://BUCKET@NAMESPACE…`, `swift://CONTAINER…`, or
/// the path of a directory. Nothing is sent yet, except to Swift: there the login says where objects are.
///
/// # Errors
/// An option makes no sense, there are no credentials, TLS cannot be set up, or there is no such directory.
pub fn open(location: &str, environment: &Environment) -> Result<SharedObjects> {
    let Some(location) = Location::parse(location)? else {
        return Ok(Arc::new(DirectoryObjects::open(Path::new(location))?));
    };
    if location.option("at").is_some() {
        return Err(location.wrong("at=TIME shows a repository as it was, not a user's objects"));
    }
    let requests = Arc::new(Requests::default());
    let client = Client::new(Arc::clone(&requests))
        .map_err(|source| Error::Client { store: location.to_string(), source })?;
    let service: Box<dyn Dialect> = match location.scheme {
        Scheme::Oci => Box::new(Oci::at(&location, environment)?),
        Scheme::S3 => Box::new(S3::new(&location, environment)?),
        Scheme::Swift => {
            let service = Box::new(Swift::connect(&location, environment, &client)?);
            let objects = RemoteObjects::new(service, client, location.to_string(), &location.prefix);
            return Ok(Arc::new(SwiftObjects::new(objects, &location.bucket)));
        }
        Scheme::AzureBlob | Scheme::Gcs | Scheme::Oss | Scheme::Sftp => {
            return Err(location.wrong(
                "images are read from s3://, oci://, swift:// and directories; others keep repositories only",
            ));
        }
    };
    Ok(Arc::new(RemoteObjects::new(service, client, location.to_string(), &location.prefix)))
}

/// Splits what a person gives for one object, `s3://BUCKET/NAME[?OPTION=VALUE]` or the path of a file, into the location
/// of the bucket or directory and the object's name. Percent-encoded characters of a name in a bucket are decoded, so that
/// a name may hold a `?`.
///
/// # Errors
/// It names no object.
pub fn locate(url: &str) -> Result<(String, String)> {
    let none = || Error::Location {
        text: url.split_once("://").map_or(url, |(scheme, _)| scheme).to_owned(),
        what:
            "no object is named: it comes behind the bucket, as in s3://BUCKET/NAME, or is the path of a file"
                .to_owned(),
    };
    let Some((scheme, rest)) = url.split_once("://") else {
        let path = Path::new(url);
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(none)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.map_or(Some("."), Path::to_str).ok_or_else(none)?;
        return Ok((parent.to_owned(), name.to_owned()));
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, name) = place.split_once('/').ok_or_else(none)?;
    let name = encode::decoded(name).filter(|name| !name.is_empty()).ok_or_else(none)?;
    let options = if query.is_empty() { String::new() } else { format!("?{query}") };
    Ok((format!("{scheme}://{bucket}{options}"), name))
}

#[cfg(test)]
mod tests {
    use super::locate;

    #[test]
    fn an_object_is_told_from_its_bucket() {
        let split = |url| locate(url).unwrap();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            split("s3://b/a/d isk%3F.raw?endpoint=http://h:1"),
            pair("s3://b?endpoint=http://h:1", "a/d isk?.raw")
        );
        assert_eq!(split("oci://b@ns/x.qcow2"), pair("oci://b@ns", "x.qcow2"));
        assert_eq!(split("/srv/images/x.raw"), pair("/srv/images", "x.raw"));
        assert_eq!(split("x.raw"), pair(".", "x.raw"));
        for bad in ["s3://b", "s3://b/", "s3://b/%ff", "/", "/a/.."] {
            assert!(locate(bad).is_err(), "{bad}");
        }
    }
}
