//! Who asks, from settings under the names of the `OS_` variables: a user, or an application credential.

use super::{Identity, Keystone, Named, Scope};
use crate::secret::Secret;

/// Reads one setting by the name of its `OS_` variable.
type Setting<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The account that settings describe.
///
/// # Errors
/// What is missing.
pub(crate) fn of_settings(setting: &Setting<'_>) -> Result<Keystone, String> {
    let url = setting("OS_AUTH_URL").ok_or("OS_AUTH_URL is missing")?;
    let (identity, scope) = match application(setting)? {
        Some(identity) => (identity, None),
        None => (user(setting)?, Some(project(setting)?)),
    };
    let interface = setting("OS_INTERFACE").or_else(|| setting("OS_ENDPOINT_TYPE"));
    let interface =
        interface.map_or_else(|| "public".to_owned(), |name| name.trim_end_matches("URL").to_owned());
    Ok(Keystone { url, identity, scope, region: setting("OS_REGION_NAME"), interface })
}

/// Something named by its id, or by its name within a domain.
fn named(setting: &Setting<'_>, id: &str, name: &str, domain: &str) -> Option<Named> {
    if let Some(id) = setting(id) {
        return Some(Named::Id(id));
    }
    let domain_id = setting(&format!("{domain}_ID")).or_else(|| setting("OS_DEFAULT_DOMAIN_ID"));
    let domain_name = setting(&format!("{domain}_NAME")).or_else(|| setting("OS_DEFAULT_DOMAIN_NAME"));
    let domain = match (domain_id, domain_name) {
        (Some(id), _) => Named::Id(id),
        (None, name) => Named::Name { name: name.unwrap_or_else(|| "Default".to_owned()), domain: None },
    };
    Some(Named::Name { name: setting(name)?, domain: Some(Box::new(domain)) })
}

fn application(setting: &Setting<'_>) -> Result<Option<Identity>, String> {
    let secret = setting("OS_APPLICATION_CREDENTIAL_SECRET");
    let is_meant = setting("OS_AUTH_TYPE").is_some_and(|kind| kind.contains("applicationcredential"));
    let Some(secret) = secret.map(Secret::new) else {
        return if is_meant {
            Err("OS_APPLICATION_CREDENTIAL_SECRET is missing".to_owned())
        } else {
            Ok(None)
        };
    };
    if let Some(id) = setting("OS_APPLICATION_CREDENTIAL_ID") {
        return Ok(Some(Identity::Application { id: Some(id), name: None, user: None, secret }));
    }
    let name = setting("OS_APPLICATION_CREDENTIAL_NAME");
    let user = named(setting, "OS_USER_ID", "OS_USERNAME", "OS_USER_DOMAIN");
    if name.is_none() || user.is_none() {
        return Err("OS_APPLICATION_CREDENTIAL_ID is missing, or _NAME with OS_USERNAME".to_owned());
    }
    Ok(Some(Identity::Application { id: None, name, user, secret }))
}

fn user(setting: &Setting<'_>) -> Result<Identity, String> {
    let user = named(setting, "OS_USER_ID", "OS_USERNAME", "OS_USER_DOMAIN");
    Ok(Identity::Password {
        user: user.ok_or("OS_USERNAME or OS_USER_ID is missing")?,
        password: setting("OS_PASSWORD").map(Secret::new).ok_or("OS_PASSWORD is missing")?,
    })
}

fn project(setting: &Setting<'_>) -> Result<Scope, String> {
    let old = |name: &str| setting(&name.replace("PROJECT", "TENANT"));
    let setting = |name: &str| setting(name).or_else(|| old(name));
    let project = named(&setting, "OS_PROJECT_ID", "OS_PROJECT_NAME", "OS_PROJECT_DOMAIN");
    project.map(Scope).ok_or_else(|| "OS_PROJECT_NAME or OS_PROJECT_ID is missing".to_owned())
}
