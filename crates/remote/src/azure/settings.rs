//! Settings of a container, as far as the storage service tells them: versioning and lifecycle rules are known to Azure's
//! management interface only, which wants other credentials.

use super::Azure;
use crate::http::Response;
use crate::service::Service;
use crate::settings::{Known, Settings};

/// Reads the container's properties.
pub(super) fn read(answer: leeward_store::Result<Response>, service: &Azure) -> Settings {
    let account = &service.account.name;
    Settings {
        versioning: Known::Untold(format!(
            "see: az storage account blob-service-properties show --account-name {account}"
        )),
        object_lock: object_lock(answer, service),
        lifecycle: Known::Untold(format!(
            "see that no rule deletes or moves the repository's objects: az storage account management-policy show \
             --account-name {account}"
        )),
    }
}

/// Whether versions of blobs can be locked one by one. A policy of the whole container is no such thing: the probe finds
/// out that nothing can be replaced there.
fn object_lock(answer: leeward_store::Result<Response>, service: &Azure) -> Known<bool> {
    let response = match answer {
        Ok(response) if response.is_success() => response,
        Ok(response) => {
            let refusal = service.refusal(&response);
            return Known::Untold(format!("the service answered {} {}", refusal.status, refusal.code));
        }
        Err(error) => return Known::Untold(error.to_string()),
    };
    Known::Is(response.header("x-ms-immutable-storage-with-versioning-enabled") == Some("true"))
}
