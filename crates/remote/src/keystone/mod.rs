//! Keystone, version 3: credentials for a token and the catalogue, by which OpenStack's services are found.

mod account;
mod catalogue;
mod clouds;
pub(crate) mod refusal;

use jiff::Timestamp;
use leeward_store::bucket::RequestClass;
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) use account::of_settings;
pub(crate) use catalogue::{Entry, address};
pub(crate) use clouds::find as find_cloud;

use crate::answer::At;
use crate::http::{Client, Method, Request};
use crate::secret::Secret;

/// Lets an origin pass to which secrets may be sent, or says why not.
pub(crate) type Check<'a> = dyn Fn(&str) -> Result<String, String> + 'a;

/// What Keystone gives for credentials.
pub(crate) struct Granted {
    /// The token.
    pub(crate) token: Secret,
    /// When it ends.
    pub(crate) expires: Option<Timestamp>,
    /// Which service is where.
    pub(crate) catalogue: Vec<Entry>,
}

/// Origin and path of an address, the path without a slash at its end.
///
/// # Errors
/// It is none, or has more than these.
pub(crate) fn split(address: &str) -> Result<(String, String), String> {
    let url: url::Url = address.parse().map_err(|error| format!("{address} is no address ({error})"))?;
    let origin = url.origin().ascii_serialization();
    let path = url.path().trim_end_matches('/');
    if path.contains('%') || url.query().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("an address of Swift or Keystone is scheme, host, port and a plain path".to_owned());
    }
    Ok((origin, path.to_owned()))
}

/// A thing that has an id, or a name in a domain.
#[derive(Debug, Clone)]
pub(crate) enum Named {
    Id(String),
    Name { name: String, domain: Option<Box<Named>> },
}

impl Named {
    fn json(&self) -> Value {
        match self {
            Self::Id(id) => json!({ "id": id }),
            Self::Name { name, domain: None } => json!({ "name": name }),
            Self::Name { name, domain: Some(domain) } => json!({ "name": name, "domain": domain.json() }),
        }
    }
}

/// How to prove who asks.
#[derive(Debug)]
pub(crate) enum Identity {
    Password { user: Named, password: Secret },
    Application { id: Option<String>, name: Option<String>, user: Option<Named>, secret: Secret },
}

/// The project that the token is for.
#[derive(Debug)]
pub(crate) struct Scope(pub(crate) Named);

/// An account of Keystone.
#[derive(Debug)]
pub(crate) struct Keystone {
    pub(crate) url: String,
    pub(crate) identity: Identity,
    /// An application credential has its own.
    pub(crate) scope: Option<Scope>,
    pub(crate) region: Option<String>,
    /// `public`, `internal` or `admin`.
    pub(crate) interface: String,
}

#[derive(Deserialize)]
struct Answer {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    expires_at: Option<String>,
    #[serde(default)]
    catalog: Vec<Entry>,
}

impl Keystone {
    /// The address of version 3: an address without a version gets one.
    fn address(&self) -> Result<String, String> {
        let url = self.url.trim_end_matches('/');
        if url.ends_with("/v2.0") {
            return Err(format!(
                "{url} is Keystone's version 2, which is gone; give the address of version 3"
            ));
        }
        Ok(if url.ends_with("/v3") { url.to_owned() } else { format!("{url}/v3") })
    }

    fn body(&self) -> Value {
        let identity = match &self.identity {
            Identity::Password { user, password } => {
                let mut user = user.json();
                user["password"] = password.reveal().into();
                json!({ "methods": ["password"], "password": { "user": user } })
            }
            Identity::Application { id, name, user, secret } => {
                let mut credential = json!({ "secret": secret.reveal() });
                if let Some(id) = id {
                    credential["id"] = id.as_str().into();
                }
                if let (Some(name), Some(user)) = (name, user) {
                    credential["name"] = name.as_str().into();
                    credential["user"] = user.json();
                }
                json!({ "methods": ["application_credential"], "application_credential": credential })
            }
        };
        let mut auth = json!({ "identity": identity });
        if let Some(Scope(project)) = &self.scope {
            auth["scope"] = json!({ "project": project.json() });
        }
        json!({ "auth": auth })
    }

    /// Fetches a token.
    ///
    /// # Errors
    /// Keystone does not answer, or refuses.
    pub(crate) fn token(
        &self,
        client: &Client,
        check: &Check<'_>,
        at: &At<'_>,
    ) -> leeward_store::Result<Granted> {
        let address = self.address().map_err(|what| at.denied(what))?;
        let (origin, path) = split(&address).map_err(|what| at.denied(what))?;
        let origin = check(&origin).map_err(|what| at.denied(what))?;
        let request = Request::new(Method::POST, origin, format!("{path}/auth/tokens"))
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .body(&[self.body().to_string().as_bytes()]);
        let response = client.send(request, RequestClass::Other).map_err(|fault| at.fault(&fault))?;
        if !response.is_success() {
            let told = refusal::read(&response);
            let hint =
                format!("that was Keystone at {address}: see the OS_ variables or the entry in clouds.yaml");
            return Err(told.into_error(at, None, Some(hint)));
        }
        let token = response.header("x-subject-token").map(Secret::new);
        let token = token.ok_or_else(|| at.nonsense("Keystone gave no token"))?;
        let answer: Answer = serde_json::from_slice(&response.body)
            .map_err(|error| at.nonsense(format!("no token of Keystone: {error}")))?;
        let expires = answer.token.expires_at.and_then(|text| text.parse::<Timestamp>().ok());
        Ok(Granted { token, expires, catalogue: answer.token.catalog })
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, Keystone, Named, Scope, split};
    use crate::secret::Secret;

    fn keystone(url: &str) -> Keystone {
        let domain = Some(Box::new(Named::Name { name: "Default".into(), domain: None }));
        let name = |name: &str| Named::Name { name: name.into(), domain: domain.clone() };
        let identity = Identity::Password { user: name("u"), password: Secret::new("p") };
        let scope = Some(Scope(name("project")));
        Keystone { url: url.into(), identity, scope, region: None, interface: "public".into() }
    }

    #[test]
    fn an_address_has_version_three() {
        for url in ["http://k:5000", "http://k:5000/", "http://k:5000/v3", "http://k:5000/v3/"] {
            assert_eq!(keystone(url).address().unwrap(), "http://k:5000/v3");
        }
        assert!(keystone("http://k/v2.0").address().is_err());
    }

    #[test]
    fn a_password_asks_for_a_token_of_a_project() {
        let expected = serde_json::json!({"auth": {
            "identity": {"methods": ["password"],
                "password": {"user": {"name": "u", "domain": {"name": "Default"}, "password": "p"}}},
            "scope": {"project": {"name": "project", "domain": {"name": "Default"}}}}});
        assert_eq!(keystone("").body(), expected);
    }

    #[test]
    fn an_address_is_split() {
        let parts = |address| split(address).unwrap();
        assert_eq!(parts("http://h:8080/v1/AUTH_x/"), ("http://h:8080".into(), "/v1/AUTH_x".into()));
        assert_eq!(parts("https://h:443"), ("https://h".into(), String::new()));
        for bad in ["h", "http://u:p@h/", "http://h/a%20b", "http://h/?a=b"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
