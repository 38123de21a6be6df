//! Who signs.

use jiff::Timestamp;
use leeward_remote::http::{Method, Request};
use leeward_remote::oci::{Body, Signer};

use super::principal::InstancePrincipal;
use crate::{Error, Result};

/// A user by the key of a profile, or an instance.
pub(super) enum Identity {
    Key(Box<Signer>),
    Instance(Box<InstancePrincipal>),
}

impl Identity {
    /// Signs a request as the last thing before it is sent.
    pub(super) fn sign(&self, provider: &str, request: &mut Request) -> Result<()> {
        match self {
            Self::Key(signer) => sign_with(signer, provider, request),
            Self::Instance(principal) => sign_with(&*principal.signer()?, provider, request),
        }
    }

    /// Gets new credentials after a refusal; `false` when there are no others.
    pub(super) fn renew(&self) -> bool {
        match self {
            Self::Key(_) => false,
            Self::Instance(principal) => principal.forget(),
        }
    }

    /// The clock that dates requests.
    pub(super) fn now(&self) -> Timestamp {
        match self {
            Self::Key(signer) => signer.now(),
            Self::Instance(_) => Timestamp::now(),
        }
    }

    /// What to do about a refusal of the credentials.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Key(_) => {
                "see that the public key with the profile's fingerprint is uploaded for its user, and that the profile \
                 names the right tenancy"
            }
            Self::Instance(_) => {
                "see that the instance belongs to the dynamic group that the policies name, and that its clock is right"
            }
        }
    }
}

fn sign_with(signer: &Signer, provider: &str, request: &mut Request) -> Result<()> {
    let with_body = matches!(request.method, Method::POST | Method::PUT);
    let body = if with_body { Body::Signed } else { Body::Unsigned };
    signer.sign(request, body).map_err(|what| Error::denied(provider, "sign a request", what))
}
