//! What an instance can learn of itself: the metadata service, version 2.

use std::time::Duration;

use leeward_remote::http::{Client, Fault, Method, Request};
use leeward_store::bucket::RequestClass;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::caller::broken;
use crate::provider::{Here, InstanceId};
use crate::{Error, Result};

/// Where every instance finds its metadata.
pub const METADATA: &str = "http://169.254.169.254/opc/v2";
/// How long the service may take; it is on the same host. Elsewhere nobody answers.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// The largest answer that is taken, in bytes.
const ANSWER_BYTES_MAX: u64 = 256 << 10;

/// The metadata service.
#[derive(Clone)]
pub struct Metadata {
    origin: String,
    path: String,
    http: Client,
}

/// Where an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// OCID of the instance.
    pub instance: String,
    /// OCID of its compartment.
    pub compartment: String,
    /// Its availability domain.
    pub domain: String,
    /// Its region, by its long name.
    pub region: String,
    /// The domain name of its realm, where it is told.
    pub realm: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    id: String,
    compartment_id: String,
    availability_domain: String,
    canonical_region_name: String,
    #[serde(default)]
    region_info: Option<Region>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    #[serde(default)]
    realm_domain_component: Option<String>,
}

impl Metadata {
    /// The service at an address, or the usual one.
    pub(super) fn new(address: Option<&str>, http: &Client) -> Result<Self> {
        let address = address.unwrap_or(METADATA).trim_end_matches('/');
        let wrong = || Error::refused("oci", "find the metadata service", format!("{address} is no address"));
        let (scheme, rest) = address.split_once("://").ok_or_else(wrong)?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            origin: format!("{scheme}://{host}"),
            path: if path.is_empty() { String::new() } else { format!("/{path}") },
            http: http.clone().with_idle_timeout(IDLE_TIMEOUT),
        })
    }

    /// Where this instance is.
    ///
    /// # Errors
    /// There is no such service here, or it answers nonsense.
    pub fn place(&self) -> Result<Place> {
        let text = self.text("instance")?;
        let told: Told = serde_json::from_str(&text).map_err(|error| self.nonsense(&error))?;
        Ok(Place {
            instance: told.id,
            compartment: told.compartment_id,
            domain: told.availability_domain,
            region: told.canonical_region_name,
            realm: told.region_info.and_then(|region| region.realm_domain_component),
        })
    }

    /// The instance that this process runs on; `None` where nobody answers as OCI does.
    pub(super) fn here(&self) -> Result<Option<Here>> {
        match self.get("instance") {
            Ok(response) if response.is_success() => self.place().map(|place| {
                Some(Here { instance: InstanceId::new(place.instance), domain: Some(place.domain) })
            }),
            Ok(_) => Ok(None),
            Err(Fault::TooLarge { .. } | Fault::Impossible { .. }) => Ok(None),
            Err(fault) if fault.is_transient() => Ok(None),
            Err(fault) => Err(self.broken(&fault)),
        }
    }

    /// One text of the service, which may be a key.
    pub(super) fn text(&self, path: &str) -> Result<Zeroizing<String>> {
        let response = self.get(path).map_err(|fault| self.broken(&fault))?;
        if !response.is_success() {
            let what = format!("the metadata service answered {} for {path}", response.status);
            return Err(Error::denied("oci", "ask who this instance is", what));
        }
        String::from_utf8(response.body)
            .map(Zeroizing::new)
            .map_err(|error| self.nonsense(&error.utf8_error()))
    }

    fn get(&self, path: &str) -> Result<leeward_remote::http::Response, Fault> {
        let mut request = Request::new(Method::GET, self.origin.as_str(), format!("{}/{path}", self.path))
            .header("authorization", "Bearer Oracle");
        request.answer_bytes_max = ANSWER_BYTES_MAX;
        self.http.send(request, RequestClass::Other)
    }

    fn broken(&self, fault: &Fault) -> Error {
        broken("oci", "ask who this instance is (is this an instance of OCI?)", fault)
    }

    fn nonsense(&self, error: &dyn std::fmt::Display) -> Error {
        let what =
            format!("the metadata service's answer makes no sense ({error}); is this an instance of OCI?");
        Error::denied("oci", "ask who this instance is", what)
    }
}
