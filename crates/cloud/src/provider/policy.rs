//! Backup policies of the provider's own.

use serde::{Deserialize, Serialize};

use super::{PolicyId, Provider, VolumeId};
use crate::Result;

/// A backup policy that the provider has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPolicy {
    /// The provider's name of it.
    pub id: PolicyId,
    /// What people call it: `gold`, `silver` …
    pub name: String,
}

/// A provider that backs volumes up by itself.
pub trait BackupPolicies: Provider {
    /// The policies that can be assigned.
    ///
    /// # Errors
    /// The provider failed or refused.
    fn policies(&self) -> Result<Vec<BackupPolicy>>;

    /// The policy with this id or, where just one is called so, this name.
    ///
    /// # Errors
    /// The provider failed; not found, with a list of what there is, or refused when several are called so.
    fn policy(&self, id_or_name: &str) -> Result<BackupPolicy>;

    /// Assigns a policy to a volume in place of the one before; `None` takes it away. Nothing is asked of the provider
    /// when it is so already.
    ///
    /// # Errors
    /// The provider failed; not found when there is no such volume or policy.
    fn assign_policy(&self, volume: &VolumeId, policy: Option<&PolicyId>) -> Result<()>;

    /// The policy that is assigned to a volume.
    ///
    /// # Errors
    /// The provider failed, or there is no such volume.
    fn assigned_policy(&self, volume: &VolumeId) -> Result<Option<PolicyId>>;
}
