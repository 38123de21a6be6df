//! Certificates of the server.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::token::replace_file;

/// Where a server's certificate lies.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, with those between it and the authority behind it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority of which clients need a certificate, beside their token.
    pub client_ca: Option<PathBuf>,
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(found) if found.is_empty() => Err(format!("{}: it holds no certificate", path.display())),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("{}: not usable for TLS: {error}", path.display())),
    }
}

pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| format!("{}: not usable for TLS: {error}", path.display()))
}

pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| format!("{}: not usable for TLS: {error}", path.display()))?;
    }
    Ok(roots)
}

/// The configuration of a server with these files; HTTP/2 is preferred.
///
/// # Errors
/// A file is missing or makes no sense; says which.
pub fn tls_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
    // Chosen here and not by the process, which may hold several providers and then has no default.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = match &files.client_ca {
        None => config.with_no_client_auth(),
        Some(path) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(path)?), provider);
            config.with_client_cert_verifier(
                verifier.build().map_err(|error| format!("{}: {error}", path.display()))?,
            )
        }
    };
    let mut config = config
        .with_single_cert(certificates(&files.certificate)?, private_key(&files.key)?)
        .map_err(|error| format!("{}: {error}", files.certificate.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Makes an authority and a certificate of it for these names and addresses in a directory, as far as they are not there:
/// `ca-cert.pem`, `ca-key.pem`, `server-cert.pem`, `server-key.pem`, named as the export over NBD has them. Returns whether
/// something was made.
///
/// # Errors
/// A file cannot be read or written.
pub fn make_certificates(directory: &Path, names: &[String], addresses: &[IpAddr]) -> Result<bool, String> {
    let file = |name: &str| directory.join(name);
    if file("server-cert.pem").exists() && file("server-key.pem").exists() {
        return Ok(false);
    }
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    std::fs::create_dir_all(directory).map_err(failed)?;
    let save = |name: &str, text: String| replace_file(&file(name), text.as_bytes()).map_err(failed);
    let (certificate, key) = (file("ca-cert.pem"), file("ca-key.pem"));
    match (certificate.exists(), key.exists()) {
        (true, true) => {}
        (true, false) => {
            return Err(format!(
                "{}: there is an authority without its key; put server-cert.pem and server-key.pem of it beside it",
                certificate.display()
            ));
        }
        (false, _) => {
            let (made, own) = new_authority().map_err(|error| error.to_string())?;
            save("ca-key.pem", own)?;
            save("ca-cert.pem", made)?;
        }
    }
    let own_key = std::fs::read_to_string(&key).map_err(failed)?;
    let (made, own) = new_server(&own_key, names, addresses).map_err(|error| error.to_string())?;
    save("server-key.pem", own)?;
    save("server-cert.pem", made)?;
    Ok(true)
}

/// Always the same but for its key, so that a later certificate can be made with the key alone.
fn authority() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, "Leeward authority");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

fn new_authority() -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    Ok((authority().self_signed(&key)?.pem(), key.serialize_pem()))
}

fn new_server(
    authority_key: &str,
    names: &[String],
    addresses: &[IpAddr],
) -> Result<(String, String), rcgen::Error> {
    let issuer = Issuer::new(authority(), KeyPair::from_pem(authority_key)?);
    let key = KeyPair::generate()?;
    let mut all = names.to_vec();
    all.extend(addresses.iter().map(ToString::to_string));
    let mut parameters = CertificateParams::new(all)?;
    parameters.distinguished_name.push(DnType::CommonName, "Leeward repository server");
    Ok((parameters.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
}
