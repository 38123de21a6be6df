//! Which account, where, and by what right.
//!
//! Variables are those of Microsoft's own tools; each secret may also be in a file of its own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::encode;
use crate::environment::{self, Environment};
use crate::error::{Error, Result};
use crate::location::Location;
use crate::secret::Secret;

const KEY: &str = "AZURE_STORAGE_KEY";
const SIGNATURE: &str = "AZURE_STORAGE_SAS_TOKEN";
const CONNECTION: &str = "AZURE_STORAGE_CONNECTION_STRING";

/// By what right requests are made.
pub(super) enum Credentials {
    /// The account's key, decoded: requests are signed with it.
    Key(Zeroizing<Vec<u8>>),
    /// A shared access signature: its parameters go along with each request.
    Signature(Vec<(String, Secret)>),
}

impl Credentials {
    /// The variables that it may come from, for messages.
    pub(super) fn source(&self) -> &'static str {
        match self {
            Self::Key(_) => "AZURE_STORAGE_KEY, AZURE_STORAGE_KEY_FILE or AZURE_STORAGE_CONNECTION_STRING",
            Self::Signature(_) => {
                "AZURE_STORAGE_SAS_TOKEN, AZURE_STORAGE_SAS_TOKEN_FILE or AZURE_STORAGE_CONNECTION_STRING"
            }
        }
    }
}

/// A storage account.
pub(super) struct Account {
    pub(super) name: String,
    /// Scheme, host and port.
    pub(super) origin: String,
    /// What the paths of all requests begin with: empty, or `/NAME` where the account is not in the host's name.
    pub(super) root: String,
    pub(super) credentials: Credentials,
}

impl Account {
    /// The account of a location.
    ///
    /// # Errors
    /// None is named, or there are no credentials for it.
    pub(super) fn of(location: &Location, environment: &Environment) -> Result<Self> {
        let connection = environment.get(CONNECTION).map(Zeroizing::new);
        let of_connection = |name: &str| connection.as_deref().and_then(|text| setting(text, name));
        let name = location
            .option("account")
            .map(str::to_owned)
            .or_else(|| environment.get("AZURE_STORAGE_ACCOUNT"))
            .or_else(|| of_connection("AccountName").map(str::to_owned));
        let name = name.ok_or_else(|| {
            location.wrong("no storage account: add account=NAME, or set AZURE_STORAGE_ACCOUNT")
        })?;
        // A string about another account than the one that is named tells nothing about this one.
        let is_meant = of_connection("AccountName").is_none_or(|known| known == name);
        let of_connection = |setting: &str| of_connection(setting).filter(|_| is_meant);
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(location.wrong("the name of a storage account has letters and digits only"));
        }
        let endpoint = location
            .option("endpoint")
            .map(str::to_owned)
            .or_else(|| environment.get("AZURE_STORAGE_SERVICE_ENDPOINT"))
            .or_else(|| of_connection("BlobEndpoint").map(str::to_owned))
            .unwrap_or_else(|| {
                let suffix = of_connection("EndpointSuffix").unwrap_or("core.windows.net");
                format!("https://{name}.blob.{suffix}")
            });
        let (origin, root) = divided(location.origin(&endpoint)?);
        let credentials = credentials(location, environment, &of_connection)?;
        Ok(Self { name, origin, root, credentials })
    }
}

/// Origin and path of an endpoint.
fn divided(endpoint: String) -> (String, String) {
    let host = endpoint.find("://").map_or(0, |at| at + 3);
    match endpoint[host..].find('/') {
        Some(slash) => {
            let (origin, path) = endpoint.split_at(host + slash);
            (origin.to_owned(), path.to_owned())
        }
        None => (endpoint, String::new()),
    }
}

/// The least right that is given goes first: a signature before a key.
fn credentials<'a>(
    location: &Location,
    environment: &Environment,
    of_connection: &dyn Fn(&str) -> Option<&'a str>,
) -> Result<Credentials> {
    let secret = |variable| secret(variable, location, environment);
    if let Some(text) = secret(SIGNATURE)? {
        return signature(&text, location);
    }
    if let Some(text) = secret(KEY)? {
        return key(&text, location);
    }
    if let Some(text) = of_connection("SharedAccessSignature") {
        return signature(text, location);
    }
    match of_connection("AccountKey") {
        Some(text) => key(text, location),
        None => Err(missing(
            location,
            format!(
                "set {KEY} or {SIGNATURE} (or {KEY}_FILE, {SIGNATURE}_FILE to a file that holds it), or {CONNECTION}"
            ),
        )),
    }
}

fn missing(location: &Location, what: String) -> Error {
    Error::Credentials { store: location.to_string(), what }
}

/// The secret in a variable, or in the file that `VARIABLE_FILE` names.
fn secret(
    variable: &str,
    location: &Location,
    environment: &Environment,
) -> Result<Option<Zeroizing<String>>> {
    if let Some(text) = environment.get(variable) {
        return Ok(Some(Zeroizing::new(text)));
    }
    let of_file = format!("{variable}_FILE");
    let Some(path) = environment.get(&of_file) else {
        return Ok(None);
    };
    match environment::read(path.as_ref()).map(Zeroizing::new) {
        Some(text) if !text.trim().is_empty() => Ok(Some(Zeroizing::new(text.trim().to_owned()))),
        _ => {
            Err(missing(location, format!("the file {path} that {of_file} names cannot be read or is empty")))
        }
    }
}

fn key(text: &str, location: &Location) -> Result<Credentials> {
    STANDARD
        .decode(text.trim())
        .map(|key| Credentials::Key(Zeroizing::new(key)))
        .map_err(|_| missing(location, format!("what {KEY} holds is no key: keys of accounts are Base64")))
}

fn signature(text: &str, location: &Location) -> Result<Credentials> {
    let text = text.trim().trim_start_matches('?');
    let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((encode::decoded(name)?, Secret::new(encode::decoded(value)?)))
    });
    let pairs: Option<Vec<_>> = pairs.collect();
    match pairs {
        Some(pairs) if pairs.iter().any(|(name, _)| name == "sig") => Ok(Credentials::Signature(pairs)),
        _ => Err(missing(
            location,
            format!("what {SIGNATURE} holds is no shared access signature: those look like sv=…&sig=…"),
        )),
    }
}

/// A setting of a connection string: `Name=value;Name=value`.
fn setting<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(known, value)| (known.trim(), value.trim()))
        .find(|(known, value)| known.eq_ignore_ascii_case(name) && !value.is_empty())
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::{Account, Credentials};
    use crate::environment::Environment;
    use crate::location::Location;

    fn account(text: &str, variables: &[(&str, &str)]) -> crate::Result<Account> {
        Account::of(&Location::parse(text).unwrap().unwrap(), &Environment::of(variables))
    }

    #[test]
    fn an_account_is_found_by_location_variables_and_connection_string() {
        let by_location = account(
            "azure://c?account=one",
            &[("AZURE_STORAGE_ACCOUNT", "two"), ("AZURE_STORAGE_KEY", "a2V5")],
        );
        let by_location = by_location.unwrap();
        assert_eq!(by_location.name, "one");
        assert_eq!(by_location.origin, "https://one.blob.core.windows.net");
        assert!(matches!(&by_location.credentials, Credentials::Key(key) if key.as_slice() == b"key"));
        let text = "AccountName=dev;AccountKey=a2V5PQ==;BlobEndpoint=http://127.0.0.1:10000/dev;";
        let by_string = account("azure://c", &[("AZURE_STORAGE_CONNECTION_STRING", text)]).unwrap();
        assert_eq!(
            (by_string.name.as_str(), by_string.origin.as_str(), by_string.root.as_str()),
            ("dev", "http://127.0.0.1:10000", "/dev")
        );
        assert!(matches!(&by_string.credentials, Credentials::Key(key) if key.as_slice() == b"key="));
    }

    #[test]
    fn a_signature_goes_before_a_key_and_is_decoded() {
        let variables = [("AZURE_STORAGE_SAS_TOKEN", "?sv=2021&sig=a%2Bb%3D"), ("AZURE_STORAGE_KEY", "a2V5")];
        let found = account("azure://c?account=one", &variables).unwrap();
        let Credentials::Signature(pairs) = found.credentials else { panic!("a key was taken") };
        assert_eq!((pairs[1].0.as_str(), pairs[1].1.reveal()), ("sig", "a+b="));
    }

    #[test]
    fn what_is_missing_or_no_credential_is_named_and_not_repeated() {
        let refused =
            |variables: &[_]| account("azure://c?account=one", variables).err().unwrap().to_string();
        assert!(refused(&[]).contains("AZURE_STORAGE_KEY"));
        for (variable, value) in [
            ("AZURE_STORAGE_KEY", "hunter2!"),
            ("AZURE_STORAGE_SAS_TOKEN", "hunter2"),
            ("AZURE_STORAGE_SAS_TOKEN", "sig=hunter2%"),
            ("AZURE_STORAGE_KEY_FILE", "/nowhere/at/all"),
        ] {
            let text = refused(&[(variable, value)]);
            assert!(text.contains(variable) && !text.contains("hunter2"), "{text}");
        }
        assert!(account("azure://c", &[]).err().unwrap().to_string().contains("account=NAME"));
        assert!(account("azure://c?account=a/b", &[]).is_err());
    }
}
