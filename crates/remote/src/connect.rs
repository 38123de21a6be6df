//! From a location to a bucket that can be used.

use std::sync::Arc;

use jiff::Timestamp;
use leeward_store::bucket::{PacePolicy, PacedBucket, Requests, RetryBucket, RetryPolicy, SharedBucket};

use crate::adapter::Adapter;
use crate::azure::Azure;
use crate::bucket::RemoteBucket;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::gcs::Gcs;
use crate::http::Client;
use crate::location::{Location, Scheme};
use crate::oci::Oci;
use crate::oss::Oss;
use crate::s3::S3;
use crate::service::Service;
use crate::sftp::Sftp;
use crate::swift::Swift;

/// A bucket, and what its layers share.
#[derive(Clone)]
pub struct Connection {
    /// The bucket itself: one request for each call.
    pub bare: Arc<dyn Adapter>,
    /// The bucket at a pace that the service bears; each call is sent once.
    pub paced: SharedBucket,
    /// The same, which tries again what fails in passing.
    pub bucket: SharedBucket,
    /// What was sent so far.
    pub requests: Arc<Requests>,
}

/// The moment that `at=TIME` names.
fn moment(location: &Location, text: &str) -> Result<Timestamp> {
    text.parse().map_err(|_| {
        location.wrong("at=TIME is a time as in 2026-11-21T08:00:00Z (it may have other offsets than Z)")
    })
}

/// Makes a bucket of a location. Nothing is sent yet, except to Swift: there the login says where objects are.
///
/// # Errors
/// An option makes no sense, there are no credentials, or TLS cannot be set up.
pub fn connect(location: &Location, environment: &Environment) -> Result<Connection> {
    let requests = Arc::new(Requests::default());
    let client = Client::new(Arc::clone(&requests))
        .map_err(|source| Error::Client { store: location.to_string(), source })?;
    let service: Box<dyn Service> = match location.scheme {
        Scheme::Oci => Box::new(Oci::at(location, environment)?),
        Scheme::Swift => Box::new(Swift::connect(location, environment, &client)?),
        Scheme::S3 => Box::new(S3::new(location, environment)?),
        Scheme::AzureBlob => Box::new(Azure::new(location, environment)?),
        Scheme::Gcs => Box::new(Gcs::new(location, environment)?),
        Scheme::Oss => Box::new(Oss::new(location, environment)?),
        Scheme::Sftp => {
            let bare = Sftp::new(location, environment, Arc::clone(&requests))?;
            return Ok(layered(Arc::new(bare), requests));
        }
    };
    let bare = RemoteBucket::new(service, client, location.to_string(), &location.prefix);
    let bare = match location.option("at") {
        Some(text) => bare.at(moment(location, text)?),
        None => bare,
    };
    Ok(layered(Arc::new(bare), requests))
}

/// Puts the layers above a bucket.
fn layered(bare: Arc<dyn Adapter>, requests: Arc<Requests>) -> Connection {
    let paced: SharedBucket =
        Arc::new(PacedBucket::new(Arc::clone(&bare) as SharedBucket, PacePolicy::default()));
    let bucket = Arc::new(RetryBucket::new(Arc::clone(&paced), RetryPolicy::default()));
    Connection { bare, paced, bucket, requests }
}
