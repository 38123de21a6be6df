//! Who asks, from the environment: a user of Keystone, an application credential, or a user of the older authentication.

use super::v1::V1;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::keystone::{Keystone, find_cloud, of_settings};
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

impl Account {
    /// The account that the environment describes: the entry `OS_CLOUD` of `clouds.yaml`, else `OS_AUTH_URL` and the
    /// other `OS_` variables, else `ST_AUTH`, `ST_USER` and `ST_KEY`.
    pub(super) fn find(location: &Location, environment: &Environment) -> Result<Self> {
        let missing = |what: String| Error::Credentials { store: location.to_string(), what };
        if let Some(cloud) =
            location.option("cloud").map(str::to_owned).or_else(|| environment.get("OS_CLOUD"))
        {
            let entry = find_cloud(&cloud, environment).map_err(missing)?;
            let setting = |name: &str| entry.get(name).cloned();
            return of_settings(&setting).map(Self::Keystone).map_err(missing);
        }
        let variable = |name: &str| environment.get(name);
        if variable("OS_AUTH_URL").is_some() {
            return of_settings(&variable).map(Self::Keystone).map_err(missing);
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
