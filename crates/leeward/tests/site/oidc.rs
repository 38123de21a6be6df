//! Tokens of a provider of OpenID Connect: what they let one do, and what lets nobody in.

use std::process::Command;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use super::access::{Needs, fill, site_with, table};
use super::api::problem;
use super::daemon::{Answer, Daemon, LEEWARD};
use super::provider::{Provider, Signer, encoded, now};

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn whoami(daemon: &Daemon, token: &str) -> Answer {
    daemon.ask("GET", "/v1/whoami", &[("authorization", &bearer(token))], "")
}

/// Asks again until the answer has this status.
fn until(daemon: &Daemon, token: &str, status: u16) -> Answer {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let answer = whoami(daemon, token);
        if answer.status == status {
            return answer;
        }
        assert!(Instant::now() < end, "still {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn check(daemon: &Daemon) -> (bool, String) {
    let done = Command::new(LEEWARD)
        .args(["server", "check", "--config"])
        .arg(daemon.path("site.toml"))
        .output()
        .unwrap();
    let told = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&told).into_owned())
}

#[test]
fn a_providers_token_does_what_an_own_token_of_its_role_does() {
    let signers = [Signer::rsa("r"), Signer::p256("p"), Signer::ed25519("e")];
    let [rsa, p256, ed25519] = &signers;
    let provider = Provider::start(&[rsa, p256, ed25519]);
    let (daemon, run) = site_with(|text| provider.added(&text, ""));
    for (groups, role, signer) in [
        (&["readers", "x"][..], "reader", rsa),
        (&["writers"], "writer", p256),
        (&["operators", "readers"], "operator", ed25519),
        (&["admins", "writers", "readers"], "admin", rsa),
        (&["Admins", "worker"], "none", p256),
        (&["readers", "writers"], "none", ed25519),
    ] {
        let token = signer.token(&provider.claims(groups));
        for (method, path, body, needs) in table() {
            let text = if body.is_null() { String::new() } else { body.to_string() };
            let as_password = super::access::basic(&token);
            for authorization in [bearer(&token), as_password] {
                let headers = [("authorization", authorization.as_str())];
                let answer = daemon.head(&method.to_uppercase(), &fill(path, &run), &headers, &text);
                let told = format!("{role} {method} {path}: {}", answer.head);
                let may = if role == "none" { needs == Needs::Nothing } else { needs.are_met_by(role) };
                assert_eq!(answer.status != 403, may, "{told}");
                assert!(answer.status != 401 && answer.status < 500, "{told}");
            }
        }
        let answer = whoami(&daemon, &token);
        if role == "none" {
            let told = problem(&answer);
            assert!(told["hint"].as_str().unwrap().contains("[server.oidc.company]"), "{told}");
        } else {
            let wanted = json!({
                "name": "alice", "role": role, "prefixes": [], "issuer": provider.issuer, "subject": "248289761001"
            });
            assert_eq!(answer.json(), wanted);
        }
        let body = json!({ "username": "any", "password": token }).to_string();
        let status = daemon.ask("POST", "/auth/token", &[], &body).status;
        assert_eq!(status, if role == "none" { 403 } else { 201 }, "{role}");
    }
    // RSA with the other padding, and a name of no key where only one is possible.
    let claims = provider.claims(&["readers"]);
    let pss = rsa.token_with(&json!({ "alg": "PS256", "kid": "r" }), &claims);
    let nameless = p256.token_with(&json!({ "alg": "ES256" }), &claims);
    assert_eq!((whoami(&daemon, &pss).status, whoami(&daemon, &nameless).status), (200, 200));
}

#[test]
fn the_log_of_changes_and_the_runs_say_who_it_was() {
    let signer = Signer::ed25519("e");
    let provider = Provider::start(&[&signer]);
    let (daemon, _) = site_with(|text| provider.added(&text.replace("#audit_log", "audit_log"), ""));
    let token = signer.token(&provider.claims(&["operators"]));
    let begin = |key: &str, authorization: &str| {
        let body = json!({ "source": "inbox", "object": "a.raw" }).to_string();
        let headers = [("authorization", authorization), ("idempotency-key", key)];
        let answer = daemon.ask("POST", "/v1/imports", &headers, &body);
        assert!(matches!(answer.status, 200 | 201), "{}", String::from_utf8_lossy(&answer.body));
        answer.json()["run"].as_str().unwrap().to_owned()
    };
    let run = begin("k", &bearer(&token));
    // The same person with a newer token, whatever the person is called by then.
    let mut claims = provider.claims(&["writers"]);
    claims["preferred_username"] = json!("alice.smith");
    assert_eq!(begin("k", &bearer(&signer.token(&claims))), run);
    claims["sub"] = json!("somebody else");
    assert_ne!(begin("k", &bearer(&signer.token(&claims))), run, "keys are each caller's own");
    assert_ne!(begin("k", &daemon.bearer()), run);
    let refused = signer.token(&provider.claims(&[]));
    assert_eq!(whoami(&daemon, &refused).status, 403);

    let lines = std::fs::read_to_string(daemon.path("audit.log")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |what: &str, role: &str| {
        let found = lines.iter().find(|line| line["what"] == what && line["role"] == role);
        found.unwrap_or_else(|| panic!("no line of {what} as {role}: {lines:#?}")).clone()
    };
    let line = of("POST /v1/imports", "operator");
    assert_eq!((&line["token"], &line["issuer"]), (&json!("alice"), &json!(provider.issuer)));
    assert_eq!(line["subject"], "248289761001");
    assert!(of("POST /v1/imports", "admin").get("issuer").is_none(), "an own token is vouched for by nobody");
    assert_eq!(of("GET /v1/whoami", "none")["status"], 403);
    let told = daemon.get(&format!("/v1/runs/{run}")).json().to_string();
    assert!(told.contains("alice (company)"), "{told}");
    let figures = daemon.get("/metrics").body;
    let figures = String::from_utf8(figures).unwrap();
    assert!(figures.contains("leeward_oidc_keys{provider=\"company\"} 1"), "{figures}");
    assert!(figures.contains("leeward_oidc_failing{provider=\"company\"} 0"), "{figures}");
}

#[test]
fn made_up_tokens_open_nothing() {
    let (rsa, ed25519, stranger) = (Signer::rsa("r"), Signer::ed25519("e"), Signer::rsa("r"));
    let provider = Provider::start(&[&rsa, &ed25519]);
    let other = Provider::start(&[&stranger]);
    let two = other.configuration().replace("oidc.company", "oidc.other");
    let daemon = Daemon::start(|text| provider.added(&text, &two));
    let good = provider.claims(&["admins"]);
    let header = |algorithm: &str, key: &str| json!({ "alg": algorithm, "kid": key, "typ": "at+jwt" });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        rsa.token(&claims)
    };
    let unsigned = |header: &Value| format!("{}.{}.", encoded(header.to_string()), encoded(good.to_string()));
    let by_secret = |secret: &[u8]| {
        let message = unsigned(&header("HS256", "r"));
        let message = message.trim_end_matches('.');
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        format!("{message}.{}", encoded(signature))
    };
    let right = rsa.token(&good);
    let parts: Vec<&str> = right.split('.').collect();
    let published = rsa.published();
    let mut crit = header("RS256", "r");
    crit["crit"] = json!(["exp"]);
    let mut carried = header("RS256", "r");
    carried["jwk"] = stranger.published();
    let refused: Vec<(&str, String)> = vec![
        ("no signature (none)", unsigned(&header("none", "r"))),
        ("no signature (None)", unsigned(&header("None", "r"))),
        ("no signature (RS256)", unsigned(&header("RS256", "r"))),
        ("no algorithm", unsigned(&json!({ "kid": "r" }))),
        ("the public key as a secret", by_secret(published["n"].as_str().unwrap().as_bytes())),
        ("the published text as a secret", by_secret(published.to_string().as_bytes())),
        ("nothing as a secret", by_secret(b"")),
        ("another algorithm's name", rsa.token_with(&header("RS512", "r"), &good)),
        ("another kind of key", ed25519.token_with(&header("EdDSA", "r"), &good)),
        ("a stranger's key of the same name", stranger.token(&good)),
        ("a key that the token brings", stranger.token_with(&carried, &good)),
        ("what must be understood", rsa.token_with(&crit, &good)),
        ("a foreign key", rsa.token_with(&header("RS256", "nobody"), &good)),
        ("another kind of signature", ed25519.token_with(&json!({ "alg": "RS256" }), &good)),
        ("a name of a key without end", rsa.token_with(&header("RS256", &"k".repeat(4000)), &good)),
        ("another issuer", with("iss", json!("https://a.example"))),
        ("the other provider as issuer", with("iss", json!(other.issuer))),
        ("an issuer with a slash", with("iss", json!(format!("{}/", provider.issuer)))),
        ("somebody else's token", with("aud", json!("other"))),
        ("no audience", with("aud", json!([]))),
        ("expired", with("exp", json!(now() - 3600))),
        ("no end", with("exp", Value::Null)),
        ("an end that is text", with("exp", json!("9999999999"))),
        ("not yet valid", with("nbf", json!(now() + 3600))),
        ("issued in the future", with("iat", json!(now() + 3600))),
        (
            "an ID token",
            rsa.token_with(&json!({ "alg": "RS256", "kid": "r" }), &{
                let mut claims = good.clone();
                claims["nonce"] = json!("n");
                claims
            }),
        ),
        ("bound to a key", with("cnf", json!({ "x5t#S256": "x" }))),
        (
            "another's claims",
            format!("{}.{}.{}", parts[0], encoded(provider.claims(&["operators"]).to_string()), parts[2]),
        ),
        ("a changed signature", format!("{}.{}.{}", parts[0], parts[1], encoded([0; 256]))),
        ("a signature that is no text", format!("{}.{}.%%%", parts[0], parts[1])),
        ("a fourth part", format!("{right}.x")),
        ("only two parts", format!("{}.{}", parts[0], parts[1])),
        ("claims that are none", rsa.token_with(&header("RS256", "r"), &json!([1]))),
        ("a giant", with("more", json!("x".repeat(40_000)))),
        ("deep nesting", format!("{}.{}.{}", parts[0], encoded("[".repeat(9000)), parts[2])),
        ("dots", "..".to_owned()),
    ];
    assert_eq!(whoami(&daemon, &right).status, 200);
    for (name, token) in &refused {
        for path in ["/v1/whoami", "/v1/runs"] {
            let answer = daemon.ask("GET", path, &[("authorization", &bearer(token))], "");
            assert!(matches!(answer.status, 401 | 429), "{name}: {} {}", answer.status, answer.head);
            problem(&answer);
        }
    }
    assert_eq!(whoami(&daemon, &right).status, 200, "a good token is let in all the same");
    assert_eq!(whoami(&daemon, &daemon.token).status, 200);
    assert!(daemon.get("/v1/runs").json()["runs"].as_array().unwrap().is_empty());
}

#[test]
fn id_tokens_are_taken_where_it_is_said() {
    let signer = Signer::p256("p");
    let provider = Provider::start(&[&signer]);
    let daemon = Daemon::start(|text| provider.added(&text, "tokens = \"id\"\nclients = [\"pages\"]"));
    let mut claims = provider.claims(&["readers"]);
    claims["nonce"] = json!("n");
    claims["azp"] = json!("pages");
    let plain = json!({ "alg": "ES256", "kid": "p", "typ": "JWT" });
    assert_eq!(whoami(&daemon, &signer.token_with(&plain, &claims)).status, 200);
    assert_eq!(whoami(&daemon, &signer.token(&claims)).status, 401, "an access token is none");
    claims["azp"] = json!("other");
    assert_eq!(whoami(&daemon, &signer.token_with(&plain, &claims)).status, 401);
}

#[test]
fn keys_that_do_not_exist_are_looked_for_seldom_and_new_ones_are_found() {
    let (old, new) = (Signer::ed25519("old"), Signer::ed25519("new"));
    let provider = Provider::start(&[&old]);
    let daemon = Daemon::start(|text| provider.added(&text, ""));
    let began = Instant::now();
    let claims = provider.claims(&["readers"]);
    until(&daemon, &old.token(&claims), 200);
    let flood = |from: u32| {
        for number in from..from + 200 {
            let header = json!({ "alg": "EdDSA", "kid": format!("made-up-{number}") });
            let answer = whoami(&daemon, &old.token_with(&header, &claims));
            assert!(matches!(answer.status, 401 | 429), "{}", answer.head);
        }
    };
    flood(0);
    std::thread::scope(|scope| {
        for thread in 1..5 {
            scope.spawn(move || flood(thread * 1000));
        }
    });
    // One at the start, and then at most one in each ten seconds.
    let most = 2 + began.elapsed().as_secs() / 10;
    assert!(u64::from(provider.asked()) <= most, "{} requests, {most} at most", provider.asked());

    provider.publish(&[&new]);
    until(&daemon, &new.token(&claims), 200);
    assert!(
        matches!(whoami(&daemon, &old.token(&claims)).status, 401 | 429),
        "what was withdrawn is believed no more"
    );
    let most = 2 + began.elapsed().as_secs() / 10;
    assert!(u64::from(provider.asked()) <= most, "{} requests, {most} at most", provider.asked());
}

#[test]
fn a_provider_that_is_down_keeps_nobody_else_out() {
    let signer = Signer::ed25519("e");
    let mut provider = Provider::absent(&[&signer]);
    let daemon = Daemon::start(|text| provider.added(&text, ""));
    let token = signer.token(&provider.claims(&["readers"]));
    assert_eq!(whoami(&daemon, &daemon.token).status, 200);
    let answer = whoami(&daemon, &token);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.head);
    assert!(problem(&answer)["detail"].as_str().unwrap().contains("keys"), "{:?}", answer.json());
    let (is_fine, told) = check(&daemon);
    assert!(
        is_fine && told.contains("warning: [server.oidc.company]") && told.contains("own tokens"),
        "{told}"
    );
    let log = || std::fs::read_to_string(daemon.path("daemon.log")).unwrap();
    assert!(log().contains("[server.oidc.company]") && log().contains("own tokens are"), "{}", log());
    provider.up();
    until(&daemon, &token, 200);
    assert!(log().contains("its keys are known again"), "{}", log());
    let (is_fine, told) = check(&daemon);
    assert!(is_fine && told.contains("has 1 keys"), "{told}");
}

#[test]
fn a_provider_that_says_something_else_than_it_should_is_not_believed() {
    let signer = Signer::ed25519("e");
    let provider = Provider::start(&[&signer]);
    let daemon = Daemon::new(|text| provider.added(&text, ""));
    let token = signer.token(&provider.claims(&["readers"]));
    let (issuer, keys) = (&provider.issuer, format!("{}/keys", provider.issuer));
    let cases: Vec<(&str, Value, &str)> = vec![
        (
            "another issuer",
            json!({ "issuer": "https://a.example", "jwks_uri": keys }),
            "speaks for the issuer",
        ),
        (
            "an issuer with a slash",
            json!({ "issuer": format!("{issuer}/"), "jwks_uri": keys }),
            "speaks for the issuer",
        ),
        ("no issuer", json!({ "jwks_uri": keys }), "no discovery document"),
        ("no keys", json!({ "issuer": issuer }), "no discovery document"),
        ("keys without TLS", json!({ "issuer": issuer, "jwks_uri": "http://a.example/keys" }), "use https"),
        ("keys in a file", json!({ "issuer": issuer, "jwks_uri": "file:///etc/passwd" }), "names no host"),
        (
            "keys that are none",
            json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/.well-known/openid-configuration") }),
            "no set of keys",
        ),
        (
            "keys that are not there",
            json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/none") }),
            "answered 404",
        ),
        ("a list", json!([]), "no discovery document"),
    ];
    for (name, document, why) in cases {
        provider.answers.lock().unwrap().discovery = Some(document);
        let (is_fine, told) = check(&daemon);
        assert!(is_fine && told.contains("warning: ") && told.contains(why), "{name}: {told}");
    }
    let asked = provider.asked();
    provider.answers.lock().unwrap().discovery = None;
    provider.answers.lock().unwrap().moved = Some(keys);
    let told = check(&daemon).1;
    assert!(told.contains("redirections are not followed"), "{told}");
    assert_eq!(provider.asked(), asked);
    provider.answers.lock().unwrap().moved = None;
    provider.answers.lock().unwrap().padding = 1 << 20;
    let told = check(&daemon).1;
    assert!(told.contains("more than the"), "{told}");
    provider.answers.lock().unwrap().padding = 0;

    // The daemon itself takes no token of such a provider either, and others are let in.
    provider.answers.lock().unwrap().discovery =
        Some(json!({ "issuer": "https://a.example", "jwks_uri": format!("{issuer}/keys") }));
    let mut daemon = daemon;
    daemon.up();
    assert_eq!(whoami(&daemon, &token).status, 503);
    assert_eq!(whoami(&daemon, &daemon.token).status, 200);
    provider.answers.lock().unwrap().discovery = None;
    until(&daemon, &token, 200);
}

#[test]
fn who_watches_is_let_go_when_the_token_ends() {
    use std::io::{Read, Write};
    let signer = Signer::ed25519("e");
    let provider = Provider::start(&[&signer]);
    let daemon = Daemon::start(|text| provider.added(&text, "leeway_seconds = 0"));
    // On a busy machine a token may end before it is looked at: then one that lasts longer is taken.
    for seconds in [5, 20, 80] {
        let mut claims = provider.claims(&["readers"]);
        claims["exp"] = json!(now() + seconds);
        let mut stream = std::net::TcpStream::connect(&daemon.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(200))).unwrap();
        let head = format!(
            "GET /v1/events HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer {}\r\n\r\n",
            signer.token(&claims)
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).expect("the answer ends, and not by a time-out");
        if told.starts_with("HTTP/1.1 401") {
            continue;
        }
        assert!(told.starts_with("HTTP/1.1 200") && told.contains(": watching"), "{told}");
        assert!(now() >= claims["exp"].as_i64().unwrap(), "it was let go too early");
        return;
    }
    panic!("no token lasted until it was looked at");
}
