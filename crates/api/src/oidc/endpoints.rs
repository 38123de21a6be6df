//! Where people sign in at a provider, and where codes become tokens, as its discovery document says (OpenID Connect Discovery 1.0,
//! section 3; RFC 8414; RFC 9207).

use leeward_site::config::endpoint;
use serde::Deserialize;
use url::Url;

use super::fetch::shortened;

/// What of a discovery document concerns signing in. All of it may be missing, or be something else than it should: that keeps no
/// token from being taken.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Metadata {
    authorization_endpoint: Option<serde_json::Value>,
    token_endpoint: Option<serde_json::Value>,
    code_challenge_methods_supported: Option<serde_json::Value>,
    token_endpoint_auth_methods_supported: Option<serde_json::Value>,
    authorization_response_iss_parameter_supported: Option<serde_json::Value>,
}

/// The endpoints of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoints {
    /// Where browsers are sent.
    pub authorization: Url,
    /// Where codes become tokens.
    pub token: Url,
    /// Whether a client's secret is sent in the form, because the provider takes it in no header.
    pub takes_secret_in_form: bool,
    /// Whether what comes back always names the issuer.
    pub names_issuer: bool,
}

impl Endpoints {
    /// The endpoints that a discovery document names.
    ///
    /// # Errors
    /// There are none that could be used, in words.
    pub fn of(metadata: &Metadata) -> Result<Self, String> {
        if has(&metadata.code_challenge_methods_supported, "S256") == Some(false) {
            return Err(
                "it does not take a code challenge by S256 (PKCE), without which nobody is sent there"
                    .to_owned(),
            );
        }
        let methods = &metadata.token_endpoint_auth_methods_supported;
        Ok(Self {
            authorization: place("authorization_endpoint", &metadata.authorization_endpoint)?,
            token: place("token_endpoint", &metadata.token_endpoint)?,
            takes_secret_in_form: has(methods, "client_secret_basic") == Some(false)
                && has(methods, "client_secret_post") == Some(true),
            names_issuer: metadata.authorization_response_iss_parameter_supported
                == Some(serde_json::Value::Bool(true)),
        })
    }
}

/// Whether a list has a name; `None` where there is no list.
fn has(list: &Option<serde_json::Value>, name: &str) -> Option<bool> {
    let list = list.as_ref()?.as_array()?;
    Some(list.iter().any(|value| value == name))
}

fn place(name: &str, value: &Option<serde_json::Value>) -> Result<Url, String> {
    let text = value.as_ref().and_then(serde_json::Value::as_str);
    let text = text.ok_or_else(|| format!("its discovery document has no {name}"))?;
    endpoint(text).map_err(|what| format!("its {name} is {:?}: {what}", shortened(text)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(more: Value) -> Result<Endpoints, String> {
        let mut document = json!({ "authorization_endpoint": "https://a.example/in", "token_endpoint": "https://a.example/token" });
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Endpoints::of(&serde_json::from_value(document).unwrap())
    }

    #[test]
    fn a_provider_that_says_little_is_taken_as_the_standards_have_it() {
        let found = of(json!({})).unwrap();
        assert_eq!((found.takes_secret_in_form, found.names_issuer), (false, false));
        let methods = |names: &[&str]| {
            of(json!({ "token_endpoint_auth_methods_supported": names })).unwrap().takes_secret_in_form
        };
        assert!(methods(&["client_secret_post", "private_key_jwt"]));
        assert!(!methods(&["client_secret_post", "client_secret_basic"]) && !methods(&["private_key_jwt"]));
        let more = json!({
            "code_challenge_methods_supported": ["plain", "S256"],
            "authorization_response_iss_parameter_supported": true,
        });
        assert!(of(more).unwrap().names_issuer);
    }

    #[test]
    fn where_nobody_can_be_sent_safely_nobody_is_sent() {
        for (more, why) in [
            (json!({ "authorization_endpoint": null }), "no authorization_endpoint"),
            (json!({ "token_endpoint": 7 }), "no token_endpoint"),
            (json!({ "token_endpoint": "http://a.example/token" }), "use https"),
            (json!({ "authorization_endpoint": "javascript:alert(1)" }), "authorization_endpoint"),
            (json!({ "authorization_endpoint": "https://a.example/in#x" }), "fragment"),
            (json!({ "code_challenge_methods_supported": ["plain"] }), "S256"),
        ] {
            let told = of(more.clone()).unwrap_err();
            assert!(told.contains(why), "{more}: {told}");
        }
    }
}
