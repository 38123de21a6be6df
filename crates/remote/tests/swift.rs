//! Swift on real servers: OpenStack's own with Keystone, and Ceph's gateway with the older authentication.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod beds;

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use beds::{answers, beds, extent, skipped};
use leeward_remote::http::{Client, Method, Request, Response};
use leeward_remote::{Connection, Environment, Location, connect};
use leeward_store::bucket::{Comparison, Condition, RequestClass, Requests};
use leeward_store::simulation::conformance::{Deletion, run_to};
use leeward_store::{ErrorKind, Key, SharedStore};
use serde_json::{Value, json};

const KEYSTONE: &str = "http://127.0.0.11:5000";
const MEMCACHED: &str = "127.0.0.11:11211";
const CONTAINER: &str = "leeward-tests";

fn location(prefix: &str) -> Location {
    Location::parse(&format!("swift://{CONTAINER}/{prefix}?lag=0")).unwrap().unwrap()
}

/// A prefix that nobody else has.
fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
}

fn key(name: &str) -> Key {
    Key::under("things", name).unwrap()
}

/// An account of a server that is up, with a container.
struct Account {
    variables: Vec<(String, String)>,
    client: Client,
}

impl Account {
    fn new(variables: &[(&str, &str)]) -> Self {
        let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self { variables: owned.collect(), client: Client::new(Arc::new(Requests::default())).unwrap() }
    }

    /// That of Ceph's gateway.
    fn of_ceph() -> Option<Self> {
        let endpoint = "http://127.0.0.1:7480";
        if !beds().join("ceph/env").is_file() || !answers(endpoint) {
            return skipped(&format!("the test bed ceph is not up: nobody answers at {endpoint}"));
        }
        let url = format!("{endpoint}/auth/1.0");
        let account =
            Self::new(&[("ST_AUTH", &url), ("ST_USER", "testbed:swift"), ("ST_KEY", "swift-secret")]);
        let login = Request::new(Method::GET, endpoint, "/auth/1.0")
            .header("x-auth-user", "testbed:swift")
            .header("x-auth-key", "swift-secret");
        let login = account.send(login);
        account.make_container(login.header("x-storage-url").unwrap(), login.header("x-auth-token").unwrap());
        Some(account)
    }

    /// That of the cloud `primary`.
    fn of_openstack() -> Option<Self> {
        let clouds = beds().join("openstack/clouds.yaml");
        if !clouds.is_file() || !answers(KEYSTONE) {
            return skipped(&format!("the test bed openstack is not up: nobody answers at {KEYSTONE}"));
        }
        let account =
            Self::new(&[("OS_CLIENT_CONFIG_FILE", clouds.to_str().unwrap()), ("OS_CLOUD", "primary")]);
        let (token, body) = account.token("demo", "testbed-demo", "demo");
        let services = body["token"]["catalog"].as_array().unwrap();
        let swift = services.iter().find(|service| service["type"] == "object-store").unwrap();
        let endpoints = swift["endpoints"].as_array().unwrap();
        let public = endpoints.iter().find(|endpoint| endpoint["interface"] == "public").unwrap();
        account.make_container(public["url"].as_str().unwrap(), &token);
        Some(account)
    }

    fn send(&self, request: Request) -> Response {
        let response = self.client.send(request, RequestClass::Other).unwrap();
        assert!(response.is_success(), "{}: {}", response.status, String::from_utf8_lossy(&response.body));
        response
    }

    fn make_container(&self, storage: &str, token: &str) {
        let (scheme, rest) = storage.split_once("://").unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        let request = Request::new(Method::PUT, format!("{scheme}://{host}"), format!("/{path}/{CONTAINER}"));
        self.send(request.header("x-auth-token", token));
    }

    /// A token of Keystone and what came with it.
    fn token(&self, user: &str, password: &str, project: &str) -> (String, Value) {
        let domain = json!({"name": "Default"});
        let user = json!({"name": user, "domain": domain, "password": password});
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": project, "domain": domain}}}});
        let response = self
            .send(Self::keystone(Method::POST, "/v3/auth/tokens", "").body(&[body.to_string().as_bytes()]));
        let token = response.header("x-subject-token").unwrap().to_owned();
        (token, serde_json::from_slice(&response.body).unwrap())
    }

    fn keystone(method: Method, path: &str, token: &str) -> Request {
        let request = Request::new(method, KEYSTONE, path).header("content-type", "application/json");
        if token.is_empty() { request } else { request.header("x-auth-token", token) }
    }

    fn environment(&self) -> Environment {
        let pairs: Vec<_> =
            self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Environment::of(&pairs)
    }

    fn connect(&self) -> Connection {
        connect(&location(&prefix()), &self.environment()).unwrap()
    }
}

fn store(connection: &Connection) -> SharedStore {
    // Whatever a probe may find: Swift promises no comparison.
    leeward_remote::store(connection, Comparison::Native).unwrap()
}

/// Every promise of a store; `LEEWARD_ROUNDS=1` plays the whole suite, which takes tens of thousands of requests here.
fn conforms(account: &Account) {
    let connection = account.connect();
    let started = Instant::now();
    run_to(&store(&connection), Deletion::IsToldToSome, extent());
    println!("requests: {} in {:?}", connection.requests.counts(), started.elapsed());
    for prefix in leeward_store::simulation::conformance::PREFIXES {
        for entry in connection.bucket.list(prefix).unwrap() {
            connection.bucket.delete(&entry.key).unwrap();
        }
    }
}

#[test]
fn swift_of_cephs_gateway_is_a_store() {
    if let Some(account) = Account::of_ceph() {
        conforms(&account);
    }
}

#[test]
fn openstacks_swift_is_a_store() {
    if let Some(account) = Account::of_openstack() {
        conforms(&account);
    }
}

/// Of racing writers one wins, and counting by replacement loses nothing: what the service itself does not promise.
fn compares(account: &Account) {
    const THREADS: u8 = 4;
    let connection = account.connect();
    let store = store(&connection);
    let key = Key::new("refs/raced").unwrap();
    let won = |act: &(dyn Fn(u8) -> leeward_store::Result<()> + Sync), lost: ErrorKind| -> Vec<u8> {
        let winners = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let winners = &winners;
                scope.spawn(move || match act(thread) {
                    Ok(()) => winners.lock().unwrap().push(thread),
                    Err(error) => assert_eq!(error.kind(), lost, "{error}"),
                });
            }
        });
        winners.into_inner().unwrap()
    };
    let created = won(&|thread| store.put_if_absent(&key, &[&[thread]]), ErrorKind::AlreadyExists);
    assert_eq!(created.len(), 1, "{created:?}");
    let (content, version) = store.get(&key, 1).unwrap();
    assert_eq!(content, created);
    let replaced = won(&|thread| store.put_if_match(&key, &[thread, 1], &version), ErrorKind::Conflict);
    assert_eq!(replaced.len(), 1, "{replaced:?}");
    assert_eq!(store.get(&key, 2).unwrap().0, [replaced[0], 1]);
    store.put_if_match(&key, &[0], &store.get(&key, 2).unwrap().1).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..2 {
                    loop {
                        let (count, version) = store.get(&key, 1).unwrap();
                        match store.put_if_match(&key, &[count[0] + 1], &version) {
                            Ok(()) => break,
                            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
                        }
                    }
                }
            });
        }
    });
    assert_eq!(store.get(&key, 1).unwrap().0, [4]);
    assert!(store.delete(&key).unwrap());
    assert_eq!(store.get(&key, 1).unwrap_err().kind(), ErrorKind::NotFound);
    println!("requests: {}", connection.requests.counts());
}

#[test]
fn writers_of_cephs_gateway_do_not_overwrite_each_other() {
    if let Some(account) = Account::of_ceph() {
        compares(&account);
    }
}

#[test]
fn writers_of_openstacks_swift_do_not_overwrite_each_other() {
    if let Some(account) = Account::of_openstack() {
        compares(&account);
    }
}

/// Every promise of the bucket itself, without a scheme above.
fn keeps_objects(account: &Account) {
    let connection = account.connect();
    let bucket = &connection.bare;
    let content: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
    for name in ["a%2Fb", "a+b".replace('+', "%2B").as_str(), "c..d", "e_f-g"] {
        bucket.write(&key(name), &[&content[..10], &content[10..]], Condition::Always).unwrap();
        let read = bucket.read(&key(name), None, 1 << 20).unwrap();
        assert!(read.content == content && read.tag.is_some(), "{name}");
        let read = bucket.read(&key(name), Some(299_990..300_100), 1 << 20).unwrap();
        assert!(read.content == content[299_990..] && read.size == 300_000, "{name}");
        let read = bucket.read(&key(name), Some(300_000..300_001), 1 << 20).unwrap();
        // Ceph's gateway does not tell the size in the answer to a range past the end.
        assert!(read.content.is_empty(), "{name}");
        assert_eq!(bucket.head(&key(name)).unwrap().size, 300_000);
        let too_large = bucket.read(&key(name), None, 299_999).unwrap_err();
        assert_eq!(too_large.kind(), ErrorKind::Damaged);
    }
    let names: Vec<String> =
        bucket.list("things").unwrap().iter().map(|entry| entry.key.name().to_owned()).collect();
    assert_eq!(names, ["a%2Bb", "a%2Fb", "c..d", "e_f-g"]);
    for entry in bucket.list("things").unwrap() {
        bucket.delete(&entry.key).unwrap();
        bucket.delete(&entry.key).unwrap();
        assert_eq!(bucket.read(&entry.key, None, 10).unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert!(bucket.list("things").unwrap().is_empty());
}

#[test]
fn objects_of_cephs_gateway_come_back_by_their_names() {
    if let Some(account) = Account::of_ceph() {
        keeps_objects(&account);
    }
}

#[test]
fn objects_of_openstacks_swift_come_back_by_their_names() {
    if let Some(account) = Account::of_openstack() {
        keeps_objects(&account);
    }
}

#[test]
fn what_is_wrong_with_the_account_of_cephs_gateway_is_told() {
    let Some(account) = Account::of_ceph() else { return };
    let url = account.variables[0].1.clone();
    let refused = |text: &str, variables: &[(&str, &str)]| {
        let location = Location::parse(text).unwrap().unwrap();
        connect(&location, &Environment::of(variables)).err().unwrap().to_string()
    };
    let known = [("ST_AUTH", url.as_str()), ("ST_USER", "testbed:swift"), ("ST_KEY", "swift-secret")];
    let wrong = [known[0], known[1], ("ST_KEY", "wrong")];
    let text = refused("swift://leeward-tests", &wrong);
    assert!(text.contains("ST_KEY") && !text.contains("wrong"), "{text}");
    let text = refused("swift://no-such-container", &known);
    assert!(text.contains("openstack container create no-such-container"), "{text}");
    let text = refused("swift://leeward-tests?lag=-1", &known);
    assert!(text.contains("number of seconds"), "{text}");
    let text =
        refused("swift://leeward-tests", &[("ST_AUTH", "http://example.org/auth"), known[1], known[2]]);
    assert!(text.contains("not encrypted"), "{text}");
}

#[test]
fn what_is_wrong_with_an_account_of_keystone_is_told() {
    let Some(account) = Account::of_openstack() else { return };
    let refused = |more: &[(&str, &str)]| {
        let base = [
            ("OS_AUTH_URL", KEYSTONE),
            ("OS_USERNAME", "demo"),
            ("OS_PASSWORD", "testbed-demo"),
            ("OS_PROJECT_NAME", "demo"),
            ("OS_REGION_NAME", "RegionOne"),
        ];
        let kept = base.iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name));
        let all: Vec<(&str, &str)> = kept.chain(more).copied().collect();
        connect(&location("x"), &Environment::of(&all)).err().map(|error| error.to_string())
    };
    assert_eq!(refused(&[]), None);
    let text = refused(&[("OS_PASSWORD", "wrong-one")]).unwrap();
    assert!(text.contains("Keystone at") && !text.contains("wrong-one"), "{text}");
    let text = refused(&[("OS_REGION_NAME", "Nowhere")]).unwrap();
    assert!(text.contains("RegionOne") && text.contains("OS_REGION_NAME"), "{text}");
    let text = refused(&[("OS_INTERFACE", "nothing")]).unwrap();
    assert!(text.contains("OS_INTERFACE"), "{text}");
    drop(account);
}

/// Makes a token worthless at once: Keystone revokes it, and Swift forgets that it knew it.
fn revoke_all(account: &Account, user: &str) {
    let (admin, _) = account.token("admin", "testbed-admin", "admin");
    let found = Account::keystone(Method::GET, "/v3/users", &admin).query("name", user);
    let found: Value = serde_json::from_slice(&account.send(found).body).unwrap();
    let id = found["users"][0]["id"].as_str().unwrap().to_owned();
    // Disabling a user revokes all of his tokens.
    for enabled in [false, true] {
        let body = json!({"user": {"enabled": enabled}}).to_string();
        account.send(
            Account::keystone(Method::PATCH, &format!("/v3/users/{id}"), &admin).body(&[body.as_bytes()]),
        );
    }
    let mut memcached = TcpStream::connect(MEMCACHED).unwrap();
    memcached.write_all(b"flush_all\r\nquit\r\n").unwrap();
    std::io::copy(&mut memcached, &mut std::io::sink()).unwrap();
}

/// A user of a test's own, so that what is done to him disturbs nobody; removed at the end.
struct User<'a> {
    account: &'a Account,
    admin: String,
    id: String,
    name: String,
}

impl<'a> User<'a> {
    fn create(account: &'a Account) -> Self {
        let (admin, body) = account.token("admin", "testbed-admin", "admin");
        let name = prefix();
        let get = |path: &str, query: (&str, &str)| -> Value {
            let request = Account::keystone(Method::GET, path, &admin).query(query.0, query.1);
            serde_json::from_slice(&account.send(request).body).unwrap()
        };
        let project = get("/v3/projects", ("name", "demo"))["projects"][0]["id"].as_str().unwrap().to_owned();
        let role = get("/v3/roles", ("name", "member"))["roles"][0]["id"].as_str().unwrap().to_owned();
        let domain = body["token"]["user"]["domain"]["id"].as_str().unwrap();
        let made =
            json!({"user": {"name": name, "password": "own-password", "domain_id": domain}}).to_string();
        let made =
            account.send(Account::keystone(Method::POST, "/v3/users", &admin).body(&[made.as_bytes()]));
        let made: Value = serde_json::from_slice(&made.body).unwrap();
        let id = made["user"]["id"].as_str().unwrap().to_owned();
        let grant = format!("/v3/projects/{project}/users/{id}/roles/{role}");
        account.send(Account::keystone(Method::PUT, &grant, &admin));
        Self { account, admin, id, name }
    }

    fn environment(&self) -> Environment {
        Environment::of(&[
            ("OS_AUTH_URL", KEYSTONE),
            ("OS_USERNAME", &self.name),
            ("OS_PASSWORD", "own-password"),
            ("OS_PROJECT_NAME", "demo"),
        ])
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        let request = Account::keystone(Method::DELETE, &format!("/v3/users/{}", self.id), &self.admin);
        let _ = self.account.client.send(request, RequestClass::Other);
    }
}

#[test]
fn a_token_that_is_revoked_in_the_middle_is_renewed() {
    let Some(account) = Account::of_openstack() else { return };
    let user = User::create(&account);
    let connection = connect(&location(&prefix()), &user.environment()).unwrap();
    let bucket = &connection.bucket;
    let large: Vec<u8> = vec![7; 24 << 20];
    bucket.write(&key("a"), &[b"before"], Condition::Always).unwrap();
    // The first request after it is a large upload, whose refusal comes while it is being sent.
    revoke_all(&account, &user.name);
    let logins = connection.requests.counts().other;
    bucket.write(&key("b"), &[&large], Condition::Always).unwrap();
    assert!(connection.requests.counts().other > logins, "it logged in again");
    revoke_all(&account, &user.name);
    // What was renewed just now counts as renewed for a moment.
    let until = Instant::now() + Duration::from_secs(20);
    while bucket.read(&key("a"), None, 10).is_err() && Instant::now() < until {
        std::thread::yield_now();
    }
    assert_eq!(bucket.read(&key("a"), None, 10).unwrap().content, b"before");
    revoke_all(&account, &user.name);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let until = Instant::now() + Duration::from_secs(20);
                while bucket.head(&key("b")).is_err() && Instant::now() < until {
                    std::thread::yield_now();
                }
                assert_eq!(bucket.head(&key("b")).unwrap().size, large.len() as u64);
            });
        }
    });
    for name in ["a", "b"] {
        bucket.delete(&key(name)).unwrap();
    }
}

#[test]
fn an_application_credential_is_enough() {
    let Some(account) = Account::of_openstack() else { return };
    let user = User::create(&account);
    let (token, _) = account.token(&user.name, "own-password", "demo");
    let made =
        json!({"application_credential": {"name": user.name, "secret": "of-the-application"}}).to_string();
    let path = format!("/v3/users/{}/application_credentials", user.id);
    let made = account.send(Account::keystone(Method::POST, &path, &token).body(&[made.as_bytes()]));
    let made: Value = serde_json::from_slice(&made.body).unwrap();
    let id = made["application_credential"]["id"].as_str().unwrap();
    let secret = ("OS_APPLICATION_CREDENTIAL_SECRET", "of-the-application");
    let by_id = [("OS_AUTH_URL", KEYSTONE), ("OS_APPLICATION_CREDENTIAL_ID", id), secret];
    let by_name = [
        ("OS_AUTH_URL", KEYSTONE),
        ("OS_APPLICATION_CREDENTIAL_NAME", user.name.as_str()),
        ("OS_USERNAME", user.name.as_str()),
        secret,
    ];
    for variables in [&by_id[..], &by_name] {
        let connection = connect(&location(&prefix()), &Environment::of(variables)).unwrap();
        connection.bucket.write(&key("a"), &[b"x"], Condition::Always).unwrap();
        assert_eq!(connection.bucket.list("things").unwrap().len(), 1);
        connection.bucket.delete(&key("a")).unwrap();
    }
}
