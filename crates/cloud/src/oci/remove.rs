//! Removing: that something is gone or going is success.

use leeward_remote::http::Request;

use super::Oci;
use crate::provider::Provider;
use crate::{Error, ErrorKind, Result};

impl Oci {
    /// Removes something; that it is gone or going is success. The service refuses in the same words what is gone and
    /// what one may not do, so the thing itself is looked at.
    pub(super) fn remove(
        &self,
        action: &str,
        request: &Request,
        is_live: impl Fn() -> Result<bool>,
    ) -> Result<()> {
        let error = match self.caller.call(action, request) {
            Ok(_) => return Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Conflict) => error,
            Err(error) => return Err(error),
        };
        match is_live() {
            Ok(false) => Ok(()),
            Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(()),
            Err(other) => Err(other),
            Ok(true) if error.kind() == ErrorKind::Conflict => Err(error),
            Ok(true) => Err(Error::denied(
                self.name(),
                action,
                "it is there, but may not be removed; see the policy statements in docs/providers.md",
            )),
        }
    }
}
