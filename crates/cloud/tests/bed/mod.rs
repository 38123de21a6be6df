//! The test bed `oci`, or a line that says that it is not there.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use leeward_cloud::oci::{Oci, Settings};
use leeward_cloud::provider::Cloud;
use leeward_remote::Environment;
use leeward_remote::http::{Client, Method, Request};
use leeward_store::bucket::{RequestClass, Requests};
use serde_json::{Value, json};

/// Faults and settings of the bed are for all, so its tests go one by one: those of a process by this, those of several
/// by a lock on a file beside the bed's state.
static ONE_BY_ONE: Mutex<()> = Mutex::new(());

pub struct Bed {
    pub state: PathBuf,
    pub endpoint: String,
    pub site: Value,
    http: Client,
    before: Value,
    _lock: File,
    _turn: MutexGuard<'static, ()>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.control(Method::DELETE, "faults", Value::Null);
        self.control(Method::PUT, "settings", self.before.clone());
    }
}

impl Bed {
    /// The bed, quick and without faults.
    pub fn find() -> Option<Self> {
        let turn = ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let variable = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
        let state = PathBuf::from(variable("TESTBED_DIR", "/var/tmp/testbeds")).join("oci/state");
        let endpoint = format!("http://127.0.0.1:{}", variable("OCI_PORT", "12780"));
        let site = std::fs::read_to_string(state.join("site.json"));
        let http = Client::new(Arc::new(Requests::default())).unwrap();
        let status = Request::new(Method::GET, endpoint.as_str(), "/_control/status");
        let (Ok(site), Ok(_)) = (site, http.send(status, RequestClass::Other)) else {
            println!(
                "SKIPPED: the test bed oci is not up: nobody answers at {endpoint}, or {state:?} is empty"
            );
            return None;
        };
        let site = serde_json::from_str(&site).unwrap();
        let lock = File::create(state.join("leeward-tests.lock")).unwrap();
        lock.lock().unwrap();
        let mut bed = Self { state, endpoint, site, http, before: Value::Null, _lock: lock, _turn: turn };
        bed.before = bed.control(Method::GET, "settings", Value::Null);
        bed.control(Method::DELETE, "faults", Value::Null);
        bed.set(json!({
            "volume_provision": 0.1, "volume_terminate": 0.1, "volume_update": 0.1, "instance_provision": 0.1,
            "instance_terminate": 0.1, "attach": 0.1, "detach": 0.1,
        }));
        Some(bed)
    }

    pub fn environment(&self, profile: &str) -> Environment {
        let file = self.state.join("config");
        Environment::of(&[("OCI_CONFIG_FILE", file.to_str().unwrap()), ("OCI_PROFILE", profile)])
    }

    pub fn settings(&self) -> Settings {
        Settings {
            compartment: Some(self.site["compartments"][1][0].as_str().unwrap().to_owned()),
            endpoint: Some(self.endpoint.clone()),
            poll_milliseconds: Some(50),
            ..Settings::default()
        }
    }

    pub fn cloud(&self) -> Cloud {
        Oci::connect(&self.settings(), &self.environment("DEFAULT")).unwrap().cloud()
    }

    pub fn control(&self, method: Method, path: &str, body: Value) -> Value {
        let mut request = Request::new(method, self.endpoint.as_str(), format!("/_control/{path}"));
        if !body.is_null() {
            request = request.header("content-type", "application/json").body(&[body.to_string().as_bytes()]);
        }
        let response = self.http.send(request, RequestClass::Other).unwrap();
        assert!(response.is_success(), "{path}: {}", String::from_utf8_lossy(&response.body));
        serde_json::from_slice(&response.body).unwrap()
    }

    pub fn set(&self, settings: Value) {
        self.control(Method::PUT, "settings", settings);
    }

    pub fn fault(&self, rule: Value) {
        self.control(Method::POST, "faults", rule);
    }

    /// How many calls of an operation came while something was done.
    pub fn calls<T>(&self, operation: &str, act: impl FnOnce() -> T) -> (T, usize) {
        self.control(Method::DELETE, "requests", Value::Null);
        let done = act();
        let all = self.control(Method::GET, "requests", Value::Null);
        let count = all.as_array().unwrap().iter().filter(|call| call["operation"] == operation).count();
        (done, count)
    }
}
