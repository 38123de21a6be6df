//! Whom a client trusts, and how it shows who it is.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::server::{authorities, certificates, private_key};

/// Whom a client trusts.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// The authority of the server; those of the system without one.
    pub authority: Option<PathBuf>,
    /// A certificate of the client's own, and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// Whether the files of a trust can be used.
///
/// # Errors
/// One of them cannot; says which.
pub fn check_trust(trust: &Trust) -> Result<(), String> {
    config(trust).map(|_| ())
}

pub(super) fn config(trust: &Trust) -> Result<ClientConfig, String> {
    let roots = match &trust.authority {
        Some(path) => authorities(path)?,
        None => system_roots(),
    };
    // Chosen here and not by the process, which may hold several providers and then has no default.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    match &trust.certificate {
        None => Ok(config.with_no_client_auth()),
        Some((certificate, key)) => config
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| format!("{}: {error}", certificate.display())),
    }
}

/// A system without authorities trusts nobody, and then no server is believed: that is told when one is spoken to.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let (_, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}
