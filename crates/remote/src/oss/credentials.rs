//! Aliyun's keys: of variables, or of the file of Aliyun's ossutil.

use std::collections::BTreeMap;

use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::location::Location;
use crate::s3::sign::Credentials;
use crate::secret::Secret;

/// The settings of ossutil's file: version 2 has them in `[default]`, version 1 in `[Credentials]`.
pub(super) struct Profile(BTreeMap<String, String>);

impl Profile {
    /// The file's settings; none where there is no file.
    pub(super) fn of(environment: &Environment) -> Self {
        let section = |name| environment.section("OSSUTIL_CONFIG_FILE", ".ossutilconfig", name);
        Self(section("default").or_else(|| section("Credentials")).unwrap_or_default())
    }

    fn setting(&self, name: &str) -> Option<String> {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    }

    pub(super) fn region(&self) -> Option<String> {
        self.setting("region")
    }

    /// The keys: those of the variables first.
    pub(super) fn credentials(&self, location: &Location, environment: &Environment) -> Result<Credentials> {
        of_variables(environment).or_else(|| self.of_file()).ok_or_else(|| Error::Credentials {
            store: location.to_string(),
            what: "set OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET (and OSS_SESSION_TOKEN), or configure ossutil"
                .to_owned(),
        })
    }

    fn of_file(&self) -> Option<Credentials> {
        Some(Credentials {
            access_key: self.setting("accessKeyID")?,
            secret: Secret::new(self.setting("accessKeySecret")?),
            token: self.setting("stsToken").map(Secret::new),
        })
    }
}

fn of_variables(environment: &Environment) -> Option<Credentials> {
    Some(Credentials {
        access_key: environment.first(&["OSS_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_ID"])?,
        secret: Secret::new(
            environment.first(&["OSS_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"])?,
        ),
        token: environment.first(&["OSS_SESSION_TOKEN", "ALIBABA_CLOUD_SECURITY_TOKEN"]).map(Secret::new),
    })
}
