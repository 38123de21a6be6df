//! Where S3's credentials come from: variables first, then the profile in Amazon's files.

use std::collections::BTreeMap;

use super::sign::Credentials;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::location::Location;
use crate::secret::Secret;

/// The settings of one profile.
pub(super) struct Profile {
    name: String,
    config: BTreeMap<String, String>,
    credentials: BTreeMap<String, String>,
}

impl Profile {
    /// The profile that the location or the environment names, or `default`; an empty one where there are no files.
    pub(super) fn of(location: &Location, environment: &Environment) -> Self {
        let name = location.option("profile").map(str::to_owned);
        let name = name.or_else(|| environment.get("AWS_PROFILE")).unwrap_or_else(|| "default".to_owned());
        let read = |variable, in_home| environment.section(variable, in_home, &name).unwrap_or_default();
        Self {
            config: read("AWS_CONFIG_FILE", ".aws/config"),
            credentials: read("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
            name,
        }
    }

    /// A setting that is no secret.
    pub(super) fn setting(&self, name: &str) -> Option<String> {
        self.config
            .get(name)
            .or_else(|| self.credentials.get(name))
            .filter(|value| !value.is_empty())
            .cloned()
    }

    /// The credentials: those of the variables, unless the location asks for a profile.
    pub(super) fn credentials(&self, location: &Location, environment: &Environment) -> Result<Credentials> {
        let of_variables =
            if location.option("profile").is_some() { None } else { of_variables(environment) };
        of_variables.or_else(|| self.of_files()).ok_or_else(|| Error::Credentials {
            store: location.to_string(),
            what: format!(
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write them for the profile {} into ~/.aws/credentials",
                self.name
            ),
        })
    }

    fn of_files(&self) -> Option<Credentials> {
        let setting = |name| self.credentials.get(name).or_else(|| self.config.get(name));
        Some(Credentials {
            access_key: setting("aws_access_key_id")?.clone(),
            secret: Secret::new(setting("aws_secret_access_key")?),
            token: setting("aws_session_token").map(Secret::new),
        })
    }
}

fn of_variables(environment: &Environment) -> Option<Credentials> {
    Some(Credentials {
        access_key: environment.get("AWS_ACCESS_KEY_ID")?,
        secret: Secret::new(environment.get("AWS_SECRET_ACCESS_KEY")?),
        token: environment.get("AWS_SESSION_TOKEN").map(Secret::new),
    })
}
