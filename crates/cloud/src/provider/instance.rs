//! Instances: machines that are launched to work, and removed.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{InstanceId, InstanceState, Owner, Provider, Reported, Tags};
use crate::Result;

/// What cloud-init is given. It may hold a worker's token, so it is wiped when dropped and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct UserData(Zeroizing<String>);

impl UserData {
    /// Takes the text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text, to be sent.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(user data)")
    }
}

/// An instance that is to be launched. It gets no public address.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceSpec {
    /// What people read.
    pub name: String,
    /// Name of the domain.
    pub domain: String,
    /// The provider's name of its kind: `VM.Standard.E5.Flex`, a flavor.
    pub shape: String,
    /// Processors (OCPUs with OCI), where the shape leaves the choice.
    pub cpus: Option<u32>,
    /// Memory in GiB, where the shape leaves the choice.
    pub memory_gib: Option<u32>,
    /// The image that it boots.
    pub image: String,
    /// The network that it is put into.
    pub subnet: String,
    /// What cloud-init is given.
    pub user_data: Option<UserData>,
    /// Public keys that may log in.
    pub ssh_keys: Vec<String>,
    /// Tags beside those of the owner.
    pub tags: Tags,
    /// Tags in a namespace of the provider's, by which it gives rights: namespace, key, value.
    pub defined_tags: Vec<(String, String, String)>,
    /// Size of the boot volume in GiB; the image's without it. It is removed with the instance.
    pub boot_volume_gib: Option<u32>,
    /// The step that launches it.
    pub owner: Owner,
}

/// An instance, as the provider tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The provider's name of it.
    pub id: InstanceId,
    /// What people read.
    pub name: String,
    /// Its domain.
    pub domain: String,
    /// Its kind.
    pub shape: String,
    /// All its tags, with those of its owner.
    pub tags: Tags,
    /// Its state.
    pub state: Reported<InstanceState>,
    /// When it was launched, where that is told.
    pub created: Option<Timestamp>,
}

/// A provider that launches machines.
pub trait Instances: Provider {
    /// Launches an instance, or finds the live one that this owner launched before. It need not run yet.
    ///
    /// # Errors
    /// The provider failed or refused; a limit when it has no room (another domain may); a conflict when this owner's
    /// instance is not the one that is asked for.
    fn launch(&self, spec: &InstanceSpec) -> Result<Instance>;

    /// Tells of an instance.
    ///
    /// # Errors
    /// The provider failed; or it has (or shows) no such instance: not found.
    fn instance(&self, id: &InstanceId) -> Result<Instance>;

    /// All instances that the provider shows, also such as are gone and still listed.
    ///
    /// # Errors
    /// The provider failed or refused.
    fn instances(&self) -> Result<Vec<Instance>>;

    /// The instances with this tag, in any state; with `None` those that have the key at all.
    ///
    /// # Errors
    /// The provider failed or refused.
    fn instances_tagged(&self, key: &str, value: Option<&str>) -> Result<Vec<Instance>> {
        let has = |tags: &Tags| tags.get(key).is_some_and(|is| value.is_none_or(|value| is == value));
        Ok(self.instances()?.into_iter().filter(|instance| has(&instance.tags)).collect())
    }

    /// Its private address; `None` until it has one.
    ///
    /// # Errors
    /// The provider failed; or it has no such instance: not found.
    fn private_address(&self, id: &InstanceId) -> Result<Option<IpAddr>>;

    /// Begins to remove it and its boot volume; succeeds when it is gone or going.
    ///
    /// # Errors
    /// The provider failed or refused.
    fn terminate(&self, id: &InstanceId) -> Result<()>;
}
