//! OpenStack: volumes of Cinder (API version 3), made empty or of images of Glance (version 2).
//!
//! The account is that of Swift's: an entry of `clouds.yaml` or the `OS_` variables (`leeward_remote::openstack`). Everything
//! is looked for and made in its project.
//!
//! Nothing here can attach a volume to the machine on which this process runs, unless that is a server of the same cloud, which
//! a disaster recovery site seldom is. So there are no attachments, but images: a volume is made of an image whose bytes were
//! sent to Glance, and Glance's own digest of them tells that they arrived.
//!
//! How a lost answer is survived: neither service has idempotency tokens. A request that makes something is therefore sent once,
//! and what it may have made is looked for by the owner's tags, before and after: see `create.rs`.

mod caller;
mod create;
mod filling;
mod images;
mod refusal;
mod room;
mod volumes;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use leeward_remote::Environment;
use leeward_remote::openstack::{Account, Session};
use serde::{Deserialize, Serialize};

use self::caller::{Caller, client};
use crate::provider::{Cloud, Provider, TagLimits};
use crate::{Error, Result};

/// What metadata may be: 255 characters, and 128 items as a rule, of which a cloud may allow fewer. Fewer than the service bears
/// are safe.
const TAG_LIMITS: TagLimits = TagLimits { count_max: 64, key_chars_max: 255, value_chars_max: 255 };

/// How to reach a cloud, and what is made there.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The entry of `clouds.yaml`; the variable `OS_CLOUD`, or the other `OS_` variables, without it.
    pub cloud: Option<String>,
    /// The region; that of the account without it.
    pub region: Option<String>,
    /// The availability zone of new volumes; one of all that are available without it.
    pub zone: Option<String>,
    /// Type of new volumes; the cloud's default without it.
    pub volume_type: Option<String>,
    /// Type of volumes when an import is over; they keep theirs without it.
    pub final_volume_type: Option<String>,
    /// Certificates (PEM) of authorities that are trusted beside the system's; those of the account without it.
    pub authority: Option<PathBuf>,
    /// Whether what is sent may be unencrypted beyond this machine.
    pub allow_http: bool,
    /// How long to pause before a state is asked for again, in milliseconds; 3000 without it.
    pub poll_milliseconds: Option<u64>,
}

/// The block storage and the images of one project in one region.
pub struct Openstack {
    caller: Arc<Caller>,
    zone: Option<String>,
    poll_interval: Duration,
}

impl Openstack {
    /// Makes a client; nothing is sent yet.
    ///
    /// # Errors
    /// Denied: there is no account, or something of it is missing. Refused: TLS cannot be set up.
    pub fn connect(settings: &Settings, environment: &Environment) -> Result<Self> {
        let account = Account::find(settings.cloud.as_deref(), settings.region.as_deref(), environment)
            .map_err(|what| Error::denied("openstack", "find credentials", what))?;
        let authority = settings.authority.as_ref().or_else(|| account.authority()).cloned();
        let http = client(authority, environment)?;
        let name = format!("openstack {}", settings.cloud.as_deref().unwrap_or_else(|| account.name()));
        let session = Session::new(account, http.clone(), settings.allow_http);
        Ok(Self {
            caller: Arc::new(Caller::new(name, http, session)),
            zone: settings.zone.clone(),
            poll_interval: Duration::from_millis(settings.poll_milliseconds.unwrap_or(3000)),
        })
    }

    /// All that is done here with OpenStack.
    #[must_use]
    pub fn cloud(self) -> Cloud {
        let this = Arc::new(self);
        Cloud {
            volumes: Arc::clone(&this) as _,
            attachments: None,
            images: Some(this),
            instances: None,
            policies: None,
        }
    }
}

impl Provider for Openstack {
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
