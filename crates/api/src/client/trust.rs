//! What a person does about certificates that one side does not accept.

use std::error::Error;

use rustls::{AlertDescription, CertificateError, Error as Tls};

/// What a server says of a client's certificate.
const ALERTS: [AlertDescription; 8] = [
    AlertDescription::CertificateRequired,
    AlertDescription::CertificateExpired,
    AlertDescription::UnknownCA,
    AlertDescription::BadCertificate,
    AlertDescription::DecryptError,
    AlertDescription::CertificateUnknown,
    AlertDescription::CertificateRevoked,
    AlertDescription::UnsupportedCertificate,
];

/// What to do about an error, where it is about trust. `told` is the error with its causes: what comes after the handshake
/// (with TLS 1.3 also that a client's certificate is missing) reaches us as text alone.
pub(super) fn hint(error: &(dyn Error + 'static), told: &str) -> Option<&'static str> {
    match cause(error) {
        Some(Tls::InvalidCertificate(what)) => Some(of_server(what)),
        Some(Tls::AlertReceived(alert)) => of_alert(*alert),
        Some(_) => None,
        None => {
            ALERTS.into_iter().find(|alert| told.contains(&format!("alert: {alert:?}"))).and_then(of_alert)
        }
    }
}

/// The cause in TLS. An error of a connection keeps it inside, where `source` does not lead.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Tls> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<Tls>() {
            return Some(found);
        }
        let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(inside) = inside {
            let inside: &(dyn Error + 'static) = inside;
            return cause(inside);
        }
        next = error.source();
    }
    None
}

fn of_server(what: &CertificateError) -> &'static str {
    match what {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "nobody here knows the authority of the server's certificate: set LEEWARD_CA_FILE to a copy of the server's \
             ca-cert.pem (LEEWARD_OTHER_CA_FILE for the second of two servers)"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for other names: use one of them in the URL, or have the server make a certificate with --tls-name"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired, or this machine's clock is wrong: renew it"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet, or this machine's clock is late: set the clock"
        }
        _ => "see that the server's certificate is sound, and that LEEWARD_CA_FILE names its authority",
    }
}

fn of_alert(alert: AlertDescription) -> Option<&'static str> {
    match alert {
        AlertDescription::CertificateRequired => Some(
            "the server demands a certificate from clients: set LEEWARD_CLIENT_CERT and LEEWARD_CLIENT_KEY to one of its \
             authority (--client-ca)",
        ),
        AlertDescription::CertificateExpired => Some(
            "the client's certificate (LEEWARD_CLIENT_CERT) has expired or is not valid yet: renew it, or set the clocks",
        ),
        other if ALERTS.contains(&other) => Some(
            "the server does not accept the client's certificate: LEEWARD_CLIENT_CERT has to be of the authority that the \
             server was given (--client-ca), and for clients",
        ),
        _ => None,
    }
}
