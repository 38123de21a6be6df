//! Who asks, from the environment: a user of Keystone, an application credential, or a user of the older authentication.

use super::clouds;
use super::keystone::{Identity, Keystone, Named, Scope};
use super::v1::V1;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::location::Location;
use crate::secret::Secret;

/// An account that can log in.
#[derive(Debug)]
pub(super) enum Account {
    /// By Keystone, version 3.
    Keystone(Keystone),
    /// By the authentication that Swift began with.
    V1(V1),
}

/// Reads one setting by the name of its `OS_` variable.
type Setting<'a> = dyn Fn(&str) -> Option<String> + 'a;

impl Account {
    /// The account that the environment describes: the entry `OS_CLOUD` of `clouds.yaml`, else `OS_AUTH_URL` and the
    /// other `OS_` variables, else `ST_AUTH`, `ST_USER` and `ST_KEY`.
    pub(super) fn find(location: &Location, environment: &Environment) -> Result<Self> {
        let missing = |what: String| Error::Credentials { store: location.to_string(), what };
        if let Some(cloud) =
            location.option("cloud").map(str::to_owned).or_else(|| environment.get("OS_CLOUD"))
        {
            let entry = clouds::find(&cloud, environment).map_err(missing)?;
            let setting = |name: &str| entry.get(name).cloned();
            return of_keystone(&setting).map(Self::Keystone).map_err(missing);
        }
        let variable = |name: &str| environment.get(name);
        if variable("OS_AUTH_URL").is_some() {
            return of_keystone(&variable).map(Self::Keystone).map_err(missing);
        }
        let first = || {
            Some(V1 {
                url: variable("ST_AUTH")?,
                user: variable("ST_USER")?,
                key: Secret::new(variable("ST_KEY")?),
            })
        };
        first().map(Self::V1).ok_or_else(|| {
            missing(
                "set OS_CLOUD, or OS_AUTH_URL with OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME (or \
                 OS_APPLICATION_CREDENTIAL_ID and _SECRET), or ST_AUTH, ST_USER and ST_KEY"
                    .to_owned(),
            )
        })
    }
}

fn of_keystone(setting: &Setting<'_>) -> Result<Keystone, String> {
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

#[cfg(test)]
mod tests {
    use super::Account;
    use crate::{Environment, Location};

    fn find(variables: &[(&str, &str)]) -> Result<Account, String> {
        let location = Location::parse("swift://container").unwrap().unwrap();
        Account::find(&location, &Environment::of(variables)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(find(&[]).unwrap_err().contains("OS_AUTH_URL"));
        let url = ("OS_AUTH_URL", "http://127.0.0.1:5000");
        assert!(find(&[url]).unwrap_err().contains("OS_USERNAME"));
        assert!(find(&[url, ("OS_USERNAME", "u")]).unwrap_err().contains("OS_PASSWORD"));
        assert!(
            find(&[url, ("OS_USERNAME", "u"), ("OS_PASSWORD", "p")]).unwrap_err().contains("OS_PROJECT_NAME")
        );
        assert!(find(&[url, ("OS_AUTH_TYPE", "v3applicationcredential")]).unwrap_err().contains("_SECRET"));
        assert!(find(&[("ST_AUTH", "http://x"), ("ST_USER", "u")]).is_err());
    }

    #[test]
    fn accounts_of_all_kinds_are_found_and_keep_their_secrets() {
        let url = ("OS_AUTH_URL", "http://127.0.0.1:5000");
        let user = [url, ("OS_USERNAME", "u"), ("OS_PASSWORD", "hidden"), ("OS_TENANT_NAME", "p")];
        let application =
            [url, ("OS_APPLICATION_CREDENTIAL_ID", "i"), ("OS_APPLICATION_CREDENTIAL_SECRET", "hidden")];
        let old = [("ST_AUTH", "http://127.0.0.1/auth"), ("ST_USER", "u"), ("ST_KEY", "hidden")];
        for (variables, kind) in [(&user[..], "Password"), (&application, "Application"), (&old, "V1")] {
            let shown = format!("{:?}", find(variables).unwrap());
            assert!(shown.contains(kind) && !shown.contains("hidden"), "{shown}");
        }
    }
}
