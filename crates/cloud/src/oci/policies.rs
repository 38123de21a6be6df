//! Backup policies: Oracle's own, and those of the compartment.

use leeward_remote::http::Method;
use serde::Deserialize;
use serde_json::json;

use super::Oci;
use crate::provider::{BackupPolicies, BackupPolicy, Fault, PolicyId, Provider, VolumeId};
use crate::{Error, ErrorKind, Result};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    id: String,
    #[serde(default)]
    display_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Assignment {
    id: String,
    policy_id: String,
}

const POLICIES: &str = "volumeBackupPolicies";
const ASSIGNMENTS: &str = "volumeBackupPolicyAssignments";

impl Oci {
    fn assignment(&self, volume: &VolumeId) -> Result<Option<Assignment>> {
        let request = self.core(Method::GET, ASSIGNMENTS).query("assetId", volume.as_str());
        let told: Vec<Assignment> =
            self.caller.pages(&format!("look for the backup policy of the volume {volume}"), &request)?;
        Ok(told.into_iter().next())
    }
}

impl BackupPolicies for Oci {
    fn policies(&self) -> Result<Vec<BackupPolicy>> {
        let action = "list the backup policies";
        // Oracle's own are listed only when no compartment is named.
        let mut told: Vec<Told> =
            self.caller.pages(action, &self.core(Method::GET, POLICIES).query("limit", "1000"))?;
        told.extend(self.caller.pages::<Told>(action, &self.list(POLICIES))?);
        Ok(told
            .into_iter()
            .map(|policy| BackupPolicy { id: PolicyId::new(policy.id), name: policy.display_name })
            .collect())
    }

    fn policy(&self, id_or_name: &str) -> Result<BackupPolicy> {
        let all = self.policies()?;
        let named = |policy: &&BackupPolicy| {
            policy.id.as_str() == id_or_name || policy.name.eq_ignore_ascii_case(id_or_name)
        };
        let found: Vec<&BackupPolicy> = all.iter().filter(named).collect();
        let action = format!("find the backup policy {id_or_name:?}");
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => {
                let names: Vec<&str> = all.iter().map(|policy| policy.name.as_str()).take(50).collect();
                let what = format!("there is none; there are: {}", names.join(", "));
                Err(Fault::new(ErrorKind::NotFound, self.name(), action, what).into())
            }
            several => {
                let what = format!("{} are called so; name one by its OCID", several.len());
                Err(Error::refused(self.name(), action, what))
            }
        }
    }

    fn assign_policy(&self, volume: &VolumeId, policy: Option<&PolicyId>) -> Result<()> {
        let before = self.assignment(volume)?;
        match (before, policy) {
            (None, None) => Ok(()),
            (Some(before), Some(policy)) if before.policy_id == policy.as_str() => Ok(()),
            // The one before is unassigned by the service; so the same call made twice is the same.
            (_, Some(policy)) => {
                let action = format!("assign the backup policy {policy} to the volume {volume}");
                let body = json!({ "assetId": volume.as_str(), "policyId": policy.as_str() });
                let request = self.core(Method::POST, ASSIGNMENTS);
                self.caller.tell::<Assignment>(&action, request, &body).map(|_| ())
            }
            (Some(before), None) => {
                let request = self.one(Method::DELETE, ASSIGNMENTS, &before.id)?;
                let is_live = || Ok(self.assignment(volume)?.is_some_and(|now| now.id == before.id));
                self.remove(&format!("take the backup policy from the volume {volume}"), &request, is_live)
            }
        }
    }

    fn assigned_policy(&self, volume: &VolumeId) -> Result<Option<PolicyId>> {
        Ok(self.assignment(volume)?.map(|assignment| PolicyId::new(assignment.policy_id)))
    }
}
