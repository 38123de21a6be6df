//! Who asks: the profile in OCI's configuration file, and the variables that stand above it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::SigningKey;
use crate::environment::{Environment, read};
use crate::profile;

/// The identity that signs.
#[derive(Debug)]
pub struct Profile {
    /// OCID of the tenancy.
    pub tenancy: String,
    /// OCID of the user.
    pub user: String,
    /// The fingerprint under which the user's public key was uploaded.
    pub fingerprint: String,
    /// The home of requests that name no region.
    pub region: Option<String>,
    /// The private key.
    pub key: SigningKey,
}

impl Profile {
    /// Reads the profile that the environment points to: the file `OCI_CLI_CONFIG_FILE` or `OCI_CONFIG_FILE`, else
    /// `~/.oci/config`; in it the profile `OCI_CLI_PROFILE` or `OCI_PROFILE`, else `DEFAULT`. `OCI_CLI_TENANCY`, `_USER`,
    /// `_FINGERPRINT`, `_KEY_FILE` and `_REGION` replace what the file says.
    ///
    /// # Errors
    /// What is missing or wrong, where, and what to do.
    pub fn find(environment: &Environment) -> Result<Self, String> {
        let home = environment.get("HOME").map(PathBuf::from).unwrap_or_default();
        let path = environment
            .first(&["OCI_CLI_CONFIG_FILE", "OCI_CONFIG_FILE"])
            .map_or_else(|| home.join(".oci/config"), |path| expand(&path, &home));
        let name =
            environment.first(&["OCI_CLI_PROFILE", "OCI_PROFILE"]).unwrap_or_else(|| "DEFAULT".to_owned());
        let mut values = match read(&path) {
            Some(text) => section(&text, &name).ok_or_else(|| {
                format!("{} has no profile [{name}]; set OCI_PROFILE to one that it has", path.display())
            })?,
            // Variables alone may say everything.
            None if environment.get("OCI_CLI_USER").is_some() => BTreeMap::new(),
            None => {
                return Err(format!(
                    "the configuration {} cannot be read; make it with: oci setup config, or set OCI_CLI_CONFIG_FILE",
                    path.display()
                ));
            }
        };
        for field in ["tenancy", "user", "fingerprint", "key_file", "region"] {
            if let Some(value) = environment.get(&format!("OCI_CLI_{}", field.to_uppercase())) {
                values.insert(field.to_owned(), value);
            }
        }
        Self::of(&values, &home).map_err(|what| format!("profile [{name}] in {}: {what}", path.display()))
    }

    fn of(values: &BTreeMap<String, String>, home: &Path) -> Result<Self, String> {
        if values.contains_key("security_token_file") {
            return Err("it uses a session token, which is not supported; use a profile with an API key \
                        (oci setup config)"
                .to_owned());
        }
        let value = |name: &str| {
            values
                .get(name)
                .filter(|value| !value.is_empty())
                .cloned()
                .ok_or_else(|| format!("{name} is missing"))
        };
        let path = expand(&value("key_file")?, home);
        let of_key = |what: String| format!("key_file {}: {what}", path.display());
        let pem = read(&path).map(Zeroizing::new).ok_or_else(|| of_key("it cannot be read".to_owned()))?;
        let key = SigningKey::from_pem(&pem).map_err(of_key)?;
        let fingerprint = value("fingerprint")?;
        if let Some(own) = key.fingerprint().filter(|own| !own.eq_ignore_ascii_case(&fingerprint)) {
            return Err(of_key(format!(
                "its fingerprint is {own}, but the profile says {fingerprint}; name the key that belongs to the profile"
            )));
        }
        let region = values.get("region").filter(|region| !region.is_empty()).cloned();
        Ok(Self { tenancy: value("tenancy")?, user: value("user")?, fingerprint, region, key })
    }

    /// What requests call the key.
    #[must_use]
    pub fn key_id(&self) -> String {
        format!("{}/{}/{}", self.tenancy, self.user, self.fingerprint)
    }
}

fn expand(path: &str, home: &Path) -> PathBuf {
    path.strip_prefix("~/").map_or_else(|| PathBuf::from(path), |rest| home.join(rest))
}

/// The values of a section; those of `[DEFAULT]` hold for every section that does not set them.
fn section(text: &str, name: &str) -> Option<BTreeMap<String, String>> {
    let mut found = profile::section(text, name)?;
    for (key, value) in profile::section(text, "DEFAULT").unwrap_or_default() {
        found.entry(key).or_insert(value);
    }
    Some(found)
}

#[cfg(test)]
pub(super) mod tests {
    use std::process::Command;

    use super::{Profile, section};
    use crate::Environment;

    /// What OpenSSL says; it must succeed.
    pub(in crate::oci) fn openssl(arguments: &[&str]) -> String {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A folder with `key.pem`, a new key; nothing where there is no OpenSSL.
    pub(in crate::oci) fn openssl_key() -> Option<tempfile::TempDir> {
        if Command::new("openssl").arg("version").output().is_err() {
            println!("SKIPPED: openssl is not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key.pem");
        openssl(&[
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-out",
            key.to_str().unwrap(),
        ]);
        Some(folder)
    }

    #[test]
    fn a_section_inherits_from_the_default_one() {
        let text = "# c\n[DEFAULT]\nuser=u\nregion = r1\n[other]\n  region= r2 \nkey_file = ~/k\n";
        let other = section(text, "other").unwrap();
        assert_eq!(
            (other["user"].as_str(), other["region"].as_str(), other["key_file"].as_str()),
            ("u", "r2", "~/k")
        );
        assert_eq!(section(text, "DEFAULT").unwrap()["region"], "r1");
        assert!(section(text, "none").is_none());
    }

    #[test]
    fn a_profile_is_found_through_the_environment_and_its_faults_are_named() {
        let Some(folder) = openssl_key() else { return };
        let home = folder.path();
        std::fs::create_dir(home.join(".oci")).unwrap();
        let key =
            super::SigningKey::from_pem(&std::fs::read_to_string(home.join("key.pem")).unwrap()).unwrap();
        let fingerprint = key.fingerprint().unwrap();
        let text = format!(
            "[DEFAULT]\nuser=u\ntenancy=t\nfingerprint={fingerprint}\nkey_file=~/key.pem\n[bad]\nfingerprint=00:11\n"
        );
        std::fs::write(home.join(".oci/config"), text).unwrap();
        let find = |variables: &[(&str, &str)]| {
            let all = [variables, &[("HOME", home.to_str().unwrap())]].concat();
            Profile::find(&Environment::of(&all))
        };
        let profile = find(&[]).unwrap();
        assert_eq!(profile.key_id(), format!("t/u/{fingerprint}"));
        assert_eq!(profile.region, None);
        assert_eq!(find(&[("OCI_CLI_REGION", "r")]).unwrap().region.as_deref(), Some("r"));
        assert!(find(&[("OCI_PROFILE", "bad")]).unwrap_err().contains(&fingerprint));
        assert!(find(&[("OCI_CLI_PROFILE", "none")]).unwrap_err().contains("no profile [none]"));
        assert!(find(&[("OCI_CONFIG_FILE", "/none")]).unwrap_err().contains("oci setup config"));
        assert!(find(&[("OCI_CLI_KEY_FILE", "/none")]).unwrap_err().contains("key_file /none"));
    }
}
