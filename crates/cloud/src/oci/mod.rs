//! Oracle Cloud Infrastructure: Block Volume, Compute and what they need of Identity and Networking.
//!
//! Requests are signed as for Object Storage (`leeward_remote::oci`), by the key of a profile or in the name of the
//! instance that this process runs on. Everything is looked for and made in one compartment.
//!
//! How a lost answer is survived: `opc-retry-token` makes a repetition within 24 hours the same request, and the tags of
//! the owner, which are looked for before and after, decide when the token is older or used up. See `create.rs`.

mod attachments;
mod caller;
mod create;
mod endpoint;
mod identity;
mod instances;
mod metadata;
mod policies;
mod principal;
mod refusal;
mod remove;
mod volumes;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use leeward_remote::Environment;
use leeward_remote::http::{Method, Request};
use leeward_remote::oci::{Clock, Profile, Signer};
use serde::{Deserialize, Serialize};

use self::caller::{Caller, client};
use self::endpoint::Endpoints;
use self::identity::Identity;
pub use self::metadata::{METADATA, Metadata};
use self::principal::InstancePrincipal;
use crate::provider::{Cloud, Provider, TagLimits};
use crate::{Error, Result};

/// What tags may be: "Tags and Tag Namespace Concepts", limits. Fewer than the service bears are safe.
const TAG_LIMITS: TagLimits = TagLimits { count_max: 10, key_chars_max: 100, value_chars_max: 256 };

/// How many things a page may have.
const PAGE_ITEMS: u32 = 1000;

/// Who signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// The key of the profile that the environment points to.
    #[default]
    ApiKey,
    /// The instance that this process runs on.
    InstancePrincipal,
}

/// How to reach the services.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// OCID of the compartment of volumes and instances; the tenancy's root, or the instance's own, without it.
    pub compartment: Option<String>,
    /// The region; that of the profile or the instance without it.
    pub region: Option<String>,
    /// Who signs; the variable `OCI_CLI_AUTH` (`instance_principal`) without it.
    pub auth: Option<Auth>,
    /// One address for all services, in place of those of the region.
    pub endpoint: Option<String>,
    /// The service that gives tokens to instances, in place of the region's.
    pub auth_endpoint: Option<String>,
    /// The metadata service of the instance: [`METADATA`] without it.
    pub metadata_endpoint: Option<String>,
    /// Certificates (PEM) of authorities that are trusted beside the system's; `LEEWARD_CA_FILE` without it.
    pub authority: Option<PathBuf>,
    /// How long to pause before a state is asked for again, in milliseconds; 5000 without it.
    pub poll_milliseconds: Option<u64>,
    /// How many things a page of a list may have; 1000, the most, without it.
    pub page_items: Option<u32>,
}

/// The services of one region, for one compartment.
pub struct Oci {
    caller: Caller,
    endpoints: Endpoints,
    compartment: String,
    metadata: Metadata,
    poll_interval: Duration,
    page_items: u32,
}

impl Oci {
    /// Makes a client. With the key of a profile nothing is sent yet; an instance is asked where it is.
    ///
    /// # Errors
    /// Denied: there are no credentials. Refused: region or address are missing or wrong.
    pub fn connect(settings: &Settings, environment: &Environment) -> Result<Self> {
        let http = client(settings, environment)?;
        let metadata = Metadata::new(settings.metadata_endpoint.as_deref(), &http)?;
        let of_variable = environment.get("OCI_CLI_AUTH").is_some_and(|auth| auth == "instance_principal");
        let auth = settings.auth.unwrap_or(if of_variable { Auth::InstancePrincipal } else { Auth::ApiKey });
        let (identity, endpoints, default_compartment) = match auth {
            Auth::ApiKey => by_profile(settings, environment)?,
            Auth::InstancePrincipal => by_instance(settings, &metadata, &http)?,
        };
        Ok(Self {
            caller: Caller::new(format!("oci {}", endpoints.region), http, identity),
            endpoints,
            compartment: settings.compartment.clone().unwrap_or(default_compartment),
            metadata,
            poll_interval: Duration::from_millis(settings.poll_milliseconds.unwrap_or(5000)),
            page_items: settings.page_items.unwrap_or(PAGE_ITEMS).clamp(1, PAGE_ITEMS),
        })
    }

    /// The same client by another clock, which dates what a profile's key signs.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { caller: self.caller.with_clock(clock), ..self }
    }

    /// All that OCI can do.
    #[must_use]
    pub fn cloud(self) -> Cloud {
        let this = Arc::new(self);
        Cloud {
            volumes: Arc::clone(&this) as _,
            attachments: Some(Arc::clone(&this) as _),
            images: None,
            instances: Some(Arc::clone(&this) as _),
            policies: Some(this),
        }
    }

    /// A request of the core services.
    fn core(&self, method: Method, path: &str) -> Request {
        Request::new(method, self.endpoints.core.as_str(), format!("/20160918/{path}"))
    }

    /// The same, about one thing, whose id comes from outside.
    fn one(&self, method: Method, kind: &str, id: &str) -> Result<Request> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if id.is_empty() || id.len() > 255 || !id.bytes().all(plain) || id.bytes().all(|byte| byte == b'.') {
            let what = "the id is no OCID: copy it from the console, or from `oci` with --output table";
            return Err(Error::refused(self.name(), format!("ask for {kind} {id:?}"), what));
        }
        Ok(self.core(method, &format!("{kind}/{id}")))
    }

    /// A request for a list of what is in the compartment.
    fn list(&self, path: &str) -> Request {
        self.core(Method::GET, path)
            .query("compartmentId", &self.compartment)
            .query("limit", self.page_items.to_string())
    }
}

type Access = (Identity, Endpoints, String);

fn by_profile(settings: &Settings, environment: &Environment) -> Result<Access> {
    let profile =
        Profile::find(environment).map_err(|what| Error::denied("oci", "find credentials", what))?;
    let region = settings.region.clone().or_else(|| profile.region.clone());
    let endpoints = Endpoints::of(settings, region, None)?;
    let tenancy = profile.tenancy.clone();
    Ok((Identity::Key(Box::new(Signer::new(profile))), endpoints, tenancy))
}

fn by_instance(
    settings: &Settings,
    metadata: &Metadata,
    http: &leeward_remote::http::Client,
) -> Result<Access> {
    let place = metadata.place()?;
    let region = settings.region.clone().unwrap_or_else(|| place.region.clone());
    let endpoints = Endpoints::of(settings, Some(region), place.realm.as_deref())?;
    let principal = InstancePrincipal::new(metadata.clone(), http.clone(), endpoints.auth.clone());
    Ok((Identity::Instance(Box::new(principal)), endpoints, place.compartment))
}

impl Provider for Oci {
    fn name(&self) -> &str {
        self.caller.name()
    }

    fn tag_limits(&self) -> TagLimits {
        TAG_LIMITS
    }

    fn poll_interval(&self) -> Duration {
        self.poll_interval
    }
}
