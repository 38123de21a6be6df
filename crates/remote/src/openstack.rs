//! A project of an OpenStack cloud, logged in: what signs requests to its services, and finds them.
//!
//! The account comes from an entry of `clouds.yaml`, or from the `OS_` variables: a user with a password, or an application
//! credential. A token is fetched when the first request needs one, renewed before it ends and when a service refuses it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use leeward_store::bucket::{Backoff, RetryPolicy};

use crate::answer::{At, Refusal};
use crate::environment::Environment;
use crate::http::{Client, Request, Response};
use crate::keystone::{Granted, Keystone, address, find_cloud, of_settings, split};
use crate::location::safe_origin;

/// A token that was renewed so shortly ago was renewed for this refusal too, by another thread.
const JUST_NOW: Duration = Duration::from_secs(2);
/// A login is tried again a few times; what lasts longer is told.
const POLICY: RetryPolicy =
    RetryPolicy { times_max: 5, first: Duration::from_millis(200), longest: Duration::from_secs(5) };

/// A service, by what people call it and the types under which a catalogue may list it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// `image service` …
    pub name: &'static str,
    /// The types, the one that is wanted most first.
    pub kinds: &'static [&'static str],
}

/// Glance, version 2.
pub const IMAGES: Service = Service { name: "image service", kinds: &["image"] };
/// Cinder, version 3.
pub const VOLUMES: Service =
    Service { name: "block storage", kinds: &["volumev3", "block-storage", "block-store"] };

/// An account, before it is used.
#[derive(Debug)]
pub struct Account {
    keystone: Keystone,
    authority: Option<PathBuf>,
}

impl Account {
    /// The account of an entry of `clouds.yaml`: the one that is named, else that of `OS_CLOUD`; else that of the `OS_`
    /// variables. A region that is named overrides theirs.
    ///
    /// # Errors
    /// What is missing, or wrong.
    pub fn find(
        cloud: Option<&str>,
        region: Option<&str>,
        environment: &Environment,
    ) -> Result<Self, String> {
        let cloud = cloud.map(str::to_owned).or_else(|| environment.get("OS_CLOUD"));
        let entry: Option<BTreeMap<String, String>> =
            cloud.map(|cloud| find_cloud(&cloud, environment)).transpose()?;
        let setting = |name: &str| match &entry {
            Some(entry) => entry.get(name).cloned(),
            None => environment.get(name),
        };
        if entry.is_none() && setting("OS_AUTH_URL").is_none() {
            return Err("there is no account: name a cloud of clouds.yaml, or set OS_CLOUD, or OS_AUTH_URL with OS_USERNAME, \
                        OS_PASSWORD and OS_PROJECT_NAME (or OS_APPLICATION_CREDENTIAL_ID and _SECRET)"
                .to_owned());
        }
        let mut keystone = of_settings(&setting)?;
        keystone.region = region.map(str::to_owned).or(keystone.region);
        Ok(Self { keystone, authority: setting("OS_CACERT").map(PathBuf::from) })
    }

    /// The file of authorities that the account names beside the system's.
    #[must_use]
    pub fn authority(&self) -> Option<&PathBuf> {
        self.authority.as_ref()
    }

    /// What to call it in messages: its region, else the address of its Keystone.
    #[must_use]
    pub fn name(&self) -> &str {
        self.keystone.region.as_deref().unwrap_or(&self.keystone.url)
    }
}

struct State {
    granted: Arc<Granted>,
    renewed: Instant,
}

/// An account that is logged in when that is needed.
pub struct Session {
    account: Account,
    client: Client,
    allow_http: bool,
    state: Mutex<Option<State>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.account.name())
    }
}

impl Session {
    /// A session of an account; nothing is sent yet. With `allow_http` secrets are sent unencrypted beyond this machine, where
    /// the catalogue has such addresses.
    #[must_use]
    pub fn new(account: Account, client: Client, allow_http: bool) -> Self {
        Self { account, client, allow_http, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes a request to a service, whose path begins behind the service's own address: with that address, and a token
    /// that will be good for so long.
    ///
    /// # Errors
    /// There is no token to be had, or no such service.
    pub fn sign(
        &self,
        service: Service,
        good_for: SignedDuration,
        request: &mut Request,
    ) -> leeward_store::Result<()> {
        let granted = self.granted(good_for)?;
        let (region, interface) = (self.account.keystone.region.as_deref(), &self.account.keystone.interface);
        let found = address(&granted.catalogue, (service.name, service.kinds), region, interface)
            .and_then(split)
            .and_then(|(origin, path)| Ok((self.checked(&origin)?, path)));
        let (origin, path) = found.map_err(|what| self.at().denied(what))?;
        request.origin = origin;
        // Glance is listed with and without its version.
        let path = if service == IMAGES { path.trim_end_matches("/v2").to_owned() } else { path };
        request.path = format!("{path}{}", request.path);
        request.set_header("x-auth-token", granted.token.reveal());
        Ok(())
    }

    /// Fetches another token after this one was refused; other threads wait for it. `false` when that fails too.
    pub fn renew(&self) -> bool {
        let mut state = self.state();
        if state.as_ref().is_some_and(|state| state.renewed.elapsed() < JUST_NOW) {
            return true;
        }
        let Ok(granted) = self.log_in() else { return false };
        *state = Some(State { granted: Arc::new(granted), renewed: Instant::now() });
        true
    }

    fn granted(&self, good_for: SignedDuration) -> leeward_store::Result<Arc<Granted>> {
        let mut state = self.state();
        let left =
            |state: &State| state.granted.expires.map(|expires| expires.duration_since(Timestamp::now()));
        if let Some(state) = state.as_ref()
            && left(state).is_none_or(|left| left >= good_for)
        {
            return Ok(Arc::clone(&state.granted));
        }
        match self.log_in() {
            Ok(granted) => {
                let granted = Arc::new(granted);
                *state = Some(State { granted: Arc::clone(&granted), renewed: Instant::now() });
                Ok(granted)
            }
            Err(error) => match state.as_ref() {
                // It is good for a while yet.
                Some(state) if left(state).is_some_and(|left| left.is_positive()) => {
                    Ok(Arc::clone(&state.granted))
                }
                _ => Err(error),
            },
        }
    }

    fn log_in(&self) -> leeward_store::Result<Granted> {
        let check = |origin: &str| self.checked(origin);
        let mut backoff = Backoff::new(POLICY);
        loop {
            match self.account.keystone.token(&self.client, &check, &self.at()) {
                Err(error) if backoff.pause(&error) => {}
                other => return other,
            }
        }
    }

    fn checked(&self, origin: &str) -> Result<String, String> {
        safe_origin(origin, self.allow_http, "set allow_http for this cloud")
    }

    fn at(&self) -> At<'_> {
        At { store: self.account.name(), action: "log in to", key: "the project" }
    }
}

/// Reads a refusal of any of the services.
#[must_use]
pub fn refusal(response: &Response) -> Refusal {
    crate::keystone::refusal::read(response)
}

#[cfg(test)]
mod tests {
    use super::Account;
    use crate::Environment;

    #[test]
    fn an_account_is_of_a_cloud_or_of_variables() {
        let of = |cloud: Option<&str>, variables: &[(&str, &str)]| {
            Account::find(cloud, Some("R2"), &Environment::of(variables))
        };
        assert!(of(None, &[]).unwrap_err().contains("clouds.yaml"));
        let account = of(
            None,
            &[
                ("OS_AUTH_URL", "https://k:5000"),
                ("OS_APPLICATION_CREDENTIAL_ID", "i"),
                ("OS_APPLICATION_CREDENTIAL_SECRET", "hidden"),
                ("OS_CACERT", "/etc/ca.pem"),
                ("OS_REGION_NAME", "R1"),
            ],
        )
        .unwrap();
        assert_eq!(account.name(), "R2");
        assert_eq!(account.authority().unwrap().to_str(), Some("/etc/ca.pem"));
        assert!(!format!("{account:?}").contains("hidden"));
        assert!(of(Some("x"), &[("OS_CLIENT_CONFIG_FILE", "/nowhere")]).is_err());
    }
}
