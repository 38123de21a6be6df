//! HMAC keys: of variables, or of the file in which Google's gsutil keeps them.

use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::location::Location;
use crate::s3::sign::Credentials;
use crate::secret::Secret;

/// The key for a location.
///
/// # Errors
/// There is none.
pub(super) fn find(location: &Location, environment: &Environment) -> Result<Credentials> {
    of_variables(environment).or_else(|| of_file(environment)).ok_or_else(|| Error::Credentials {
        store: location.to_string(),
        what: "set GS_ACCESS_KEY_ID and GS_SECRET_ACCESS_KEY to an HMAC key (gcloud storage hmac create \
               SERVICE_ACCOUNT makes one), or write gs_access_key_id and gs_secret_access_key into ~/.boto"
            .to_owned(),
    })
}

fn of_variables(environment: &Environment) -> Option<Credentials> {
    Some(Credentials {
        access_key: environment.get("GS_ACCESS_KEY_ID")?,
        secret: Secret::new(environment.get("GS_SECRET_ACCESS_KEY")?),
        token: None,
    })
}

fn of_file(environment: &Environment) -> Option<Credentials> {
    let section = environment.section("BOTO_CONFIG", ".boto", "Credentials")?;
    Some(Credentials {
        access_key: section.get("gs_access_key_id")?.clone(),
        secret: Secret::new(section.get("gs_secret_access_key")?),
        token: None,
    })
}
