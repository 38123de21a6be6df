//! Signing in at a provider from the pages, by a client that does what a browser does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::api::problem;
use super::daemon::{Answer, Daemon};
use super::provider::{Provider, Signer, now};
use super::sign_ins::{Pairs, SignIns, pairs};

const ORIGIN: &str = "https://leeward.example";
const RETURN: &str = "https://leeward.example/sign-in/company";
const COOKIE: &str = "__Host-leeward-sign-in=";

/// A provider where alice signs in, and what is told of it.
fn provider(groups: &[&'static str]) -> (Arc<Signer>, Provider) {
    let signer = Arc::new(Signer::ed25519("e"));
    let provider = Provider::start(&[&signer]);
    provider.answers.lock().unwrap().sign_ins = Some(SignIns::new(&signer, groups));
    (signer, provider)
}

/// A configuration with a provider where one signs in; `more` are keys of its table.
fn configured(text: &str, provider: &Provider, more: &str) -> String {
    let text = text.replace("#url = \"https://leeward.example.org:7443\"", &format!("url = \"{ORIGIN}\""));
    assert!(text.contains(ORIGIN), "the template has a place for the address");
    let sign_in = if more.contains("sign_in") { "" } else { "sign_in = { client_id = \"pages\" }\n" };
    provider.added(&text.replace("#audit_log", "audit_log"), &format!("{sign_in}{more}"))
}

fn site(provider: &Provider, more: &str) -> Daemon {
    let daemon = Daemon::start(|text| configured(&text, provider, more));
    ready(&daemon);
    daemon
}

/// Waits until the daemon knows where people sign in.
fn ready(daemon: &Daemon) {
    let end = Instant::now() + Duration::from_secs(60);
    while Browser::new(daemon).ask("", &json!({})).status == 503 {
        assert!(Instant::now() < end, "the provider is not known in time");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A browser as far as signing in needs one. It keeps the cookie until it is taken back.
struct Browser<'a> {
    daemon: &'a Daemon,
    cookie: Option<String>,
}

impl<'a> Browser<'a> {
    fn new(daemon: &'a Daemon) -> Self {
        Self { daemon, cookie: None }
    }

    fn ask(&mut self, end: &str, body: &Value) -> Answer {
        let cookie = self.cookie.as_ref().map(|cookie| format!("theme=dark; {cookie}"));
        let mut headers = vec![("origin", ORIGIN), ("content-type", "application/json")];
        headers.extend(cookie.iter().map(|cookie| ("cookie", cookie.as_str())));
        let answer =
            self.daemon.ask("POST", &format!("/v1/sign-in/company{end}"), &headers, &body.to_string());
        if let Some(line) = answer.header("set-cookie") {
            let (pair, rest) = line.split_once("; ").unwrap();
            assert!(pair.starts_with(COOKIE), "{line}");
            assert!(rest.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{line}");
            let is_over = rest.starts_with("Max-Age=0;");
            assert!(is_over || rest.starts_with("Max-Age=600;"), "{line}");
            self.cookie = Some(pair.to_owned()).filter(|_| !is_over);
        }
        answer
    }

    /// Begins, and signs in at the provider; returns what it sends back.
    fn go(&mut self, back: &str) -> Pairs {
        let answer = self.ask("", &json!({ "back": back }));
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        let place = answer.json()["location"].as_str().unwrap().to_owned();
        let head = follow(&place);
        let returned = head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap().to_owned();
        let (address, query) = returned.split_once('?').unwrap();
        assert_eq!(address, RETURN);
        // What the page there does: it is the page itself, and it sends on what stands in its address.
        let path = returned.strip_prefix(ORIGIN).unwrap();
        let page = self.daemon.ask("GET", path, &[], "");
        assert!(page.status == 200 && page.header("content-type") == Some("text/html; charset=utf-8"));
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
        pairs(query)
    }

    fn finish(&mut self, returned: &Pairs) -> Answer {
        self.ask("/finish", &json!(returned))
    }

    /// The whole way.
    fn sign_in(&mut self, back: &str) -> Answer {
        let returned = self.go(back);
        self.finish(&returned)
    }
}

/// The head of what a provider answers a browser that is sent there.
fn follow(place: &str) -> String {
    let (host, path) = place.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).unwrap();
    told
}

fn whoami(daemon: &Daemon, token: &str) -> Answer {
    daemon.ask("GET", "/v1/whoami", &[("authorization", &format!("Bearer {token}"))], "")
}

/// That nobody was signed in, and that it is told why.
fn refused(answer: &Answer, why: &str) {
    let told = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.status == 403 && told.contains(why), "{why}: {} {told}", answer.status);
    assert_eq!(problem(answer)["title"], "Signing in did not work", "{told}");
    assert!(!told.contains("token\":"), "{told}");
}

/// Lines of the log of changes about signing in.
fn lines(daemon: &Daemon) -> Vec<Value> {
    let text = std::fs::read_to_string(daemon.path("audit.log")).unwrap_or_default();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|line| line["what"].as_str().unwrap().contains("sign-in")).collect()
}

#[test]
fn who_signs_in_gets_the_token_that_the_site_takes_and_nothing_more() {
    let (_signer, provider) = provider(&["operators"]);
    let daemon = site(&provider, "");
    let listed = daemon.ask("GET", "/v1/sign-in", &[], "");
    assert_eq!((listed.status, listed.json()), (200, json!({ "providers": [{ "name": "company" }] })));
    let mut browser = Browser::new(&daemon);
    let done = browser.sign_in("/runs?state=held");
    assert_eq!(done.status, 200, "{}", String::from_utf8_lossy(&done.body));
    assert_eq!(done.header("cache-control"), Some("no-store"));
    assert!(browser.cookie.is_none(), "what was under way is over");
    let done = done.json();
    assert_eq!(done["back"], "/runs?state=held");
    let until: jiff::Timestamp = done["until"].as_str().unwrap().parse().unwrap();
    assert!((3500..3700).contains(&(until.as_second() - now())), "{done}");
    let token = done["token"].as_str().unwrap();
    let wanted = json!({
        "name": "alice", "role": "operator", "prefixes": [], "issuer": provider.issuer, "subject": "248289761001"
    });
    assert_eq!(whoami(&daemon, token).json(), wanted);
    // Cookies let nobody in.
    let cookie = browser.go("/");
    assert!(cookie.contains_key("code"));
    let held = browser.cookie.clone().unwrap();
    assert_eq!(daemon.ask("GET", "/v1/whoami", &[("cookie", &held)], "").status, 401);

    let lines = lines(&daemon);
    let line = lines.iter().find(|line| line["status"] == 200).expect("a line of who has signed in");
    assert_eq!(line["what"], "POST /v1/sign-in/company/finish");
    assert_eq!((&line["token"], &line["role"]), (&json!("alice"), &json!("operator")));
    assert_eq!((&line["issuer"], &line["subject"]), (&json!(provider.issuer), &json!("248289761001")));
    assert!(lines.iter().all(|line| line["what"] != "POST /v1/sign-in/company" || line["status"] != 200));
    let log = std::fs::read_to_string(daemon.path("audit.log")).unwrap()
        + &std::fs::read_to_string(daemon.path("daemon.log")).unwrap();
    assert!(!log.contains(token) && !log.contains("c+d/"), "no log has tokens or codes");
}

#[test]
fn what_comes_back_is_good_for_one_time_and_for_the_browser_that_has_begun() {
    let (_signer, provider) = provider(&["readers"]);
    let daemon = site(&provider, "");
    let exchanges = || provider.answers.lock().unwrap().sign_ins.as_ref().unwrap().exchanges;
    let mut browser = Browser::new(&daemon);
    let returned = browser.go("/");
    let with = |name: &str, value: &str| {
        let mut changed = returned.clone();
        changed.insert(name.to_owned(), value.to_owned());
        changed
    };

    // Another browser, and one that has begun something else.
    refused(&Browser::new(&daemon).finish(&returned), "has not begun");
    let mut other = Browser::new(&daemon);
    let theirs = other.go("/");
    refused(&other.finish(&returned), "not the sign-in");
    refused(&browser.finish(&theirs), "not the sign-in");
    // Their code for our sign-in: the provider sees that it was made for another challenge.
    let mut injected = Browser { daemon: &daemon, cookie: browser.cookie.clone() };
    refused(&injected.finish(&with("code", &theirs["code"])), "does not take the code");
    for state in ["", "x", &theirs["state"], &returned["state"].to_uppercase()] {
        refused(&browser.finish(&with("state", state)), "not the sign-in");
    }
    // A cookie that was changed, or that makes no sense.
    let own = browser.cookie.clone().unwrap();
    let (text, back) = own.rsplit_once('.').unwrap();
    let (secret, begun) = text.rsplit_once('.').unwrap();
    let earlier = begun.parse::<i64>().unwrap() - 1;
    for changed in [
        format!("{secret}.{earlier}.{back}"),
        format!("{text}.L2ltYWdlcw"),
        COOKIE.to_owned(),
        format!("{COOKIE}{}", "x".repeat(4000)),
    ] {
        let mut browser = Browser { daemon: &daemon, cookie: Some(changed) };
        refused(&browser.finish(&returned), "not the sign-in");
    }
    assert_eq!(exchanges(), 0);
    assert_eq!(browser.cookie.as_ref(), Some(&own), "what was for others has ended nothing");
    let done = browser.finish(&returned);
    assert_eq!((done.status, exchanges()), (200, 1), "{}", String::from_utf8_lossy(&done.body));

    refused(&browser.finish(&returned), "has not begun");
    let mut replayed = Browser { daemon: &daemon, cookie: Some(own) };
    refused(&replayed.finish(&returned), "does not take the code");
    assert_eq!(exchanges(), 1);
    let lines = lines(&daemon);
    assert!(lines.iter().filter(|line| line["status"] == 403).count() >= 10, "{lines:#?}");
}

#[test]
fn tokens_that_are_not_for_this_sign_in_let_nobody_in() {
    let (signer, provider) = provider(&["admins"]);
    let daemon = site(&provider, "leeway_seconds = 0");
    let stranger = Arc::new(Signer::ed25519("e"));
    let fresh = || SignIns::new(&signer, &["admins"]);
    let mut cases: Vec<(SignIns, &str)> = vec![
        (SignIns { of_id: json!({ "nonce": "other" }), ..fresh() }, "another sign-in"),
        (SignIns { of_id: json!({ "nonce": null }), ..fresh() }, "another sign-in"),
        (SignIns { of_id: json!({ "aud": "other" }), ..fresh() }, "somebody else"),
        (SignIns { of_id: json!({ "aud": "leeward" }), ..fresh() }, "somebody else"),
        (SignIns { of_id: json!({ "aud": ["pages", "other"] }), ..fresh() }, "azp"),
        (SignIns { of_id: json!({ "azp": "other" }), ..fresh() }, "azp"),
        (SignIns { of_id: json!({ "iss": "https://a.example" }), ..fresh() }, "another issuer"),
        (SignIns { of_id: json!({ "exp": now() - 5 }), ..fresh() }, "expired"),
        (SignIns { of_access: json!({ "exp": now() - 5 }), ..fresh() }, "expired"),
        (SignIns { of_access: json!({ "aud": "other" }), ..fresh() }, "somebody else"),
        (SignIns { of_access: json!({ "iss": "https://a.example" }), ..fresh() }, "none that can be read"),
        (SignIns::new(&stranger, &["admins"]), "signature"),
        (SignIns { iss: Some("https://a.example".to_owned()), ..fresh() }, "another provider"),
        (SignIns { iss: Some(format!("{}/", provider.issuer)), ..fresh() }, "another provider"),
    ];
    let body = |value: Value| Some(("200 OK", value.to_string()));
    cases.push((SignIns { answers: body(json!({ "access_token": "x" })), ..fresh() }, "no ID token"));
    cases.push((SignIns { answers: body(json!([])), ..fresh() }, "no ID token"));
    cases.push((SignIns { answers: body(json!({ "id_token": "x" })), ..fresh() }, "header"));
    let giant = format!("e30.{}.e30", "x".repeat(40_000));
    cases.push((SignIns { answers: body(json!({ "id_token": giant })), ..fresh() }, "16384"));
    for (sign_ins, why) in cases {
        provider.answers.lock().unwrap().sign_ins = Some(sign_ins);
        let mut browser = Browser::new(&daemon);
        refused(&browser.sign_in("/"), why);
        assert!(browser.cookie.is_none(), "{why}: it is over");
    }
    // An access token that others cannot read is told as that.
    let mut sign_ins = fresh();
    sign_ins.iss = Some(provider.issuer.clone());
    provider.answers.lock().unwrap().sign_ins = Some(sign_ins);
    assert_eq!(Browser::new(&daemon).sign_in("/").status, 200, "the right issuer is fine");
}

#[test]
fn a_provider_that_fails_or_refuses_is_told_in_own_words() {
    let (signer, provider) = provider(&["readers"]);
    let daemon = site(&provider, "");
    let fresh = || SignIns::new(&signer, &["readers"]);
    let set = |sign_ins: SignIns| provider.answers.lock().unwrap().sign_ins = Some(sign_ins);
    for (error, status, why) in [
        ("access_denied", 403, "has not let you in"),
        ("login_required", 403, "wants something of you"),
        ("invalid_scope", 403, "does not take what this site asks"),
        ("made%20up%0A%1B", 403, "does not take what this site asks"),
        ("server_error", 503, "a trouble of its own"),
    ] {
        set(SignIns { denies: Some(error), ..fresh() });
        let mut browser = Browser::new(&daemon);
        let answer = browser.sign_in("/");
        let told = problem(&answer).to_string();
        assert!(answer.status == status && told.contains(why), "{error}: {} {told}", answer.status);
        // What others write does not speak from these pages.
        assert!(!told.contains("555") && !told.contains("made up"), "{told}");
        assert!(browser.cookie.is_none(), "{error}");
    }
    // Nor does what anybody writes into a link.
    let made_up: Pairs = pairs("state=x&error=access_denied&error_description=call+555");
    let told = Browser::new(&daemon).finish(&made_up);
    refused(&told, "has not begun");
    assert!(!String::from_utf8_lossy(&told.body).contains("555"));
    let answer = |status: &'static str, body: &str| Some((status, body.to_owned()));
    for (answers, status, why) in [
        (answer("401 Unauthorized", "{\"error\":\"invalid_client\"}"), 503, "as the client"),
        (answer("500 Internal Server Error", ""), 503, "a trouble of its own"),
        (answer("302 Found", ""), 503, "as the client"),
        (answer("200 OK", &" ".repeat(1 << 20)), 503, "cannot be made tokens"),
        (answer("400 Bad Request", "{\"error\":\"invalid_grant\"}"), 403, "does not take the code"),
    ] {
        set(SignIns { answers, ..fresh() });
        let answer = Browser::new(&daemon).sign_in("/");
        let told = problem(&answer).to_string();
        assert!(answer.status == status && told.contains(why), "{} {told}", answer.status);
    }
    let log = std::fs::read_to_string(daemon.path("daemon.log")).unwrap();
    assert!(log.contains("invalid_client") && log.contains("call 555") && !log.contains('\u{1b}'), "{log}");
    set(fresh());
    assert_eq!(Browser::new(&daemon).sign_in("/").status, 200);
}

#[test]
fn who_has_no_role_is_told_so_and_gets_no_token() {
    let (_signer, provider) = provider(&["strangers"]);
    let daemon = site(&provider, "");
    let mut browser = Browser::new(&daemon);
    let answer = browser.sign_in("/");
    refused(&answer, "has no role here");
    assert!(problem(&answer)["hint"].as_str().unwrap().contains("[server.oidc.company]"));
    assert!(browser.cookie.is_none());
    let line = lines(&daemon).pop().unwrap();
    assert_eq!(
        (&line["token"], &line["role"], &line["status"]),
        (&json!("alice"), &json!("none"), &json!(403))
    );
}

#[test]
fn ways_that_lead_elsewhere_are_not_begun() {
    let (_signer, provider) = provider(&["readers"]);
    let daemon = site(&provider, "");
    for back in ["//evil.example", "/\\evil.example", "https://evil.example", "evil", "", "/a\nb", "/ä"] {
        let answer = Browser::new(&daemon).ask("", &json!({ "back": back }));
        assert_eq!((answer.status, answer.header("set-cookie")), (400, None), "{back}");
    }
    // Pages of others begin and end nothing.
    for (origin, status) in [("https://evil.example", 403), ("null", 403), (ORIGIN, 200)] {
        let answer = daemon.ask("POST", "/v1/sign-in/company", &[("origin", origin)], "{}");
        assert_eq!(answer.status, status, "{origin}: {}", answer.head);
        if status == 403 {
            assert!(problem(&answer)["hint"].as_str().unwrap().contains(ORIGIN));
        }
    }
    for path in ["/v1/sign-in/nobody", "/v1/sign-in/nobody/finish"] {
        let answer = daemon.ask("POST", path, &[], "{\"state\":\"x\",\"code\":\"x\"}");
        assert_eq!(answer.status, 404, "{}", answer.head);
    }
    // Whatever a request says of where it goes, the provider sends browsers to the configured place.
    let answer = daemon.ask("POST", "/v1/sign-in/company", &[("x-forwarded-host", "evil.example")], "{}");
    let location = answer.json()["location"].as_str().unwrap().to_owned();
    assert_eq!(pairs(location.split_once('?').unwrap().1)["redirect_uri"], RETURN);
}

#[test]
fn id_tokens_and_secrets_of_clients_are_taken_as_configured() {
    for (in_form, methods) in [(false, json!(["client_secret_basic"])), (true, json!(["client_secret_post"]))]
    {
        let (signer, provider) = provider(&["readers"]);
        let secret = Some(("hunter2", in_form));
        {
            let mut answers = provider.answers.lock().unwrap();
            answers.sign_ins = Some(SignIns { secret, ..SignIns::new(&signer, &["readers"]) });
            let issuer = &provider.issuer;
            answers.discovery = Some(json!({
                "issuer": issuer, "jwks_uri": format!("{issuer}/keys"), "token_endpoint": format!("{issuer}/token"),
                "authorization_endpoint": format!("{issuer}/authorize?of=home"), "token_endpoint_auth_methods_supported": methods,
                "authorization_response_iss_parameter_supported": true,
            }));
        }
        let more = "tokens = \"id\"\nsign_in = { client_id = \"pages\", client_secret_file = \"client.secret\", scopes = [\"openid\", \"groups\"] }";
        let of_pages = |text: &str| {
            configured(text, &provider, more).replace("audience = [\"leeward\"]", "audience = [\"pages\"]")
        };
        let mut daemon = Daemon::new(|text| of_pages(&text));
        daemon.up();
        ready(&daemon);
        let finished = |iss: Option<String>| {
            provider.answers.lock().unwrap().sign_ins.as_mut().unwrap().iss = iss;
            Browser::new(&daemon).sign_in("/")
        };
        // Who says that its answers name the issuer is held to it.
        refused(&finished(None), "iss");
        let answer = finished(Some(provider.issuer.clone()));
        assert_eq!(answer.status, 503, "there is no file with the secret");
        assert!(!String::from_utf8_lossy(&answer.body).contains("client.secret"), "paths are for the log");
        std::fs::write(daemon.path("client.secret"), "wrong\n").unwrap();
        assert_eq!(finished(Some(provider.issuer.clone())).status, 503);
        std::fs::write(daemon.path("client.secret"), "hunter2\n").unwrap();
        let done = finished(Some(provider.issuer.clone()));
        assert_eq!(done.status, 200, "{}", String::from_utf8_lossy(&done.body));
        let token = done.json()["token"].as_str().unwrap().to_owned();
        assert_eq!(whoami(&daemon, &token).json()["role"], "reader");
        let log = std::fs::read_to_string(daemon.path("daemon.log")).unwrap();
        assert!(log.contains("client.secret") && !log.contains("hunter2"), "{log}");
    }
}

#[test]
fn a_browser_may_come_back_to_another_daemon_of_the_site() {
    let (_signer, provider) = provider(&["readers"]);
    let (first, second) = (site(&provider, ""), site(&provider, ""));
    let mut browser = Browser::new(&first);
    let returned = browser.go("/images");
    browser.daemon = &second;
    let done = browser.finish(&returned);
    assert_eq!(done.status, 200, "{}", String::from_utf8_lossy(&done.body));
    assert_eq!(done.json()["back"], "/images");
}

#[test]
fn a_provider_without_a_place_to_sign_in_is_told_and_its_tokens_are_taken() {
    let (signer, provider) = provider(&["readers"]);
    let issuer = &provider.issuer;
    provider.answers.lock().unwrap().discovery = Some(json!({
        "issuer": issuer, "jwks_uri": format!("{issuer}/keys"), "token_endpoint": format!("{issuer}/token"),
        "authorization_endpoint": "http://a.example/authorize",
    }));
    let daemon = Daemon::start(|text| configured(&text, &provider, ""));
    let token = signer.token(&provider.claims(&["readers"]));
    assert_eq!(whoami(&daemon, &token).status, 200);
    let answer = Browser::new(&daemon).ask("", &json!({}));
    assert_eq!(answer.status, 503);
    assert!(problem(&answer)["detail"].as_str().unwrap().contains("use https"));
    let done = std::process::Command::new(super::daemon::LEEWARD)
        .args(["server", "check", "--config"])
        .arg(daemon.path("site.toml"))
        .output()
        .unwrap();
    let told = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
    assert!(
        done.status.success() && told.contains("has 1 keys") && told.contains("nobody could sign in"),
        "{told}"
    );
}
