//! Who may what: each route of the document with each role, and with tokens that are none.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::api::problem;
use super::daemon::{Daemon, LEEWARD, disk};

const DAG: &str = "1_virtual_disk_to_oci_block_volume";

/// What a route asks of who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// Any token, also one that is confined to images.
    Token,
    See,
    Begin,
    /// To steer runs, to hold snapshots, to see the files of machines.
    Command,
    /// The token of a worker that the site knows, or of a run's: see the tests of workers.
    Work,
}

impl Needs {
    pub fn are_met_by(self, role: &str) -> bool {
        match role {
            _ if self == Self::Work => false,
            "reader" => !matches!(self, Self::Begin | Self::Command),
            "writer" => !matches!(self, Self::See | Self::Command),
            "operator" | "admin" => true,
            _ => matches!(self, Self::Nothing | Self::Token),
        }
    }
}

/// Every route: method, path as the document has it, a body that it takes, and what it needs. A new route is added here.
pub fn table() -> Vec<(&'static str, &'static str, Value, Needs)> {
    let step = || json!({"step": "get_file_head"});
    let trigger = || json!({"conf": {"bucket_name": "inbox", "object_name": "a.raw"}});
    vec![
        ("get", "/healthz", Value::Null, Needs::Nothing),
        ("get", "/readyz", Value::Null, Needs::Nothing),
        ("get", "/v1/openapi.json", Value::Null, Needs::Nothing),
        ("get", "/v1/sign-in", Value::Null, Needs::Nothing),
        ("get", "/v1/whoami", Value::Null, Needs::Token),
        ("get", "/metrics", Value::Null, Needs::See),
        ("get", "/v1/site", Value::Null, Needs::See),
        ("get", "/v1/overview", Value::Null, Needs::See),
        ("get", "/v1/runs", Value::Null, Needs::See),
        ("get", "/v1/runs/{run}", Value::Null, Needs::See),
        ("get", "/v1/runs/{run}/log", Value::Null, Needs::See),
        ("get", "/v1/events", Value::Null, Needs::See),
        ("get", "/v1/heard", Value::Null, Needs::See),
        ("get", "/v1/schedules", Value::Null, Needs::See),
        ("get", "/v1/notify", Value::Null, Needs::See),
        ("get", "/v1/notify/deliveries", Value::Null, Needs::See),
        ("get", "/v1/leftovers", Value::Null, Needs::See),
        ("get", "/v1/sources/{source}/objects", Value::Null, Needs::See),
        ("get", "/v1/images", Value::Null, Needs::See),
        ("get", "/v1/images/{image}/snapshots", Value::Null, Needs::See),
        ("get", "/v1/repository", Value::Null, Needs::See),
        ("get", "/v1/reports", Value::Null, Needs::See),
        ("post", "/v1/images/{image}/snapshots/{snapshot}/holds", json!({"name": "audit"}), Needs::Command),
        ("delete", "/v1/images/{image}/snapshots/{snapshot}/holds/{hold}", Value::Null, Needs::Command),
        ("get", "/v1/images/{image}/snapshots/{snapshot}/files", Value::Null, Needs::Command),
        ("get", "/v1/images/{image}/snapshots/{snapshot}/files/content", Value::Null, Needs::Command),
        ("get", "/api/v1/dags/{dag}/dagRuns/{run}", Value::Null, Needs::See),
        ("get", "/api/v2/dags/{dag}/dagRuns/{run}", Value::Null, Needs::See),
        ("post", "/v1/imports", json!({"source": "inbox", "object": "a.raw"}), Needs::Begin),
        ("post", "/v1/restores", json!({"image": "web/root", "target": "volumes"}), Needs::Command),
        ("post", "/v1/exports", json!({"image": "web/root", "bucket": "out"}), Needs::Command),
        ("post", "/v1/hear/{source}", json!({"Records": []}), Needs::Begin),
        ("post", "/api/v1/dags/{dag}/dagRuns", trigger(), Needs::Begin),
        ("post", "/api/v2/dags/{dag}/dagRuns", trigger(), Needs::Begin),
        ("post", "/v1/runs/{run}/retry", json!({}), Needs::Command),
        ("post", "/v1/runs/{run}/skip", step(), Needs::Command),
        ("post", "/v1/runs/{run}/release", step(), Needs::Command),
        ("post", "/v1/runs/{run}/cancel", json!({}), Needs::Command),
        ("post", "/v1/runs/{run}/undo", json!({}), Needs::Command),
        ("post", "/v1/leftovers/remove", json!({"ids": ["none"]}), Needs::Command),
        ("post", "/v1/notify/{receiver}/test", json!({}), Needs::Command),
        ("post", "/v1/schedules/{schedule}/fire", json!({}), Needs::Command),
        ("post", "/v1/schedules/{schedule}/pause", json!({}), Needs::Command),
        ("post", "/v1/schedules/{schedule}/resume", json!({}), Needs::Command),
        ("post", "/v1/work/claim", json!({"process": "p"}), Needs::Work),
        ("post", "/v1/work/{task}/report", json!({}), Needs::Work),
        ("get", "/v1/work/{task}/head", Value::Null, Needs::Work),
        ("get", "/v1/work/{task}/object", Value::Null, Needs::Work),
        ("get", "/v1/work/binary", Value::Null, Needs::Work),
    ]
}

/// Asked with a password in the body, not with a token; it has a test of its own.
const LOG_IN: (&str, &str) = ("post", "/auth/token");
/// Asked by who has no token yet, and let in by nothing that is sent as one: see the tests of signing in.
const SIGN_IN: [(&str, &str); 2] =
    [("post", "/v1/sign-in/{provider}"), ("post", "/v1/sign-in/{provider}/finish")];

fn tokens(daemon: &Daemon, arguments: &[&str]) -> Output {
    let (verb, rest) = arguments.split_first().unwrap();
    let file = daemon.path("state/tokens");
    Command::new(LEEWARD).args(["token", verb, "--tokens"]).arg(file).args(rest).output().unwrap()
}

fn token(daemon: &Daemon, name: &str, role: &str, more: &[&str]) -> String {
    let made = tokens(daemon, &[&["add", name, "--role", role, "--json"], more].concat());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let line = made.stdout.split(|byte| *byte == b'\n').next().unwrap();
    let value: Value = serde_json::from_slice(line).unwrap();
    value["token"].as_str().unwrap().to_owned()
}

/// A daemon with a run that has succeeded, whose source takes events, and how paths of the document are filled in.
fn site() -> (Daemon, impl Fn(&str) -> String) {
    let (daemon, run) = site_with(|text| text);
    (daemon, move |path: &str| fill(path, &run))
}

/// The same with changes to its configuration; and its run.
pub fn site_with(change: impl Fn(String) -> String) -> (Daemon, String) {
    let daemon = Daemon::start(|text| change(text.replace("watch = \"off\"", "watch = \"events\"")));
    disk(&daemon.path("inbox/a.raw"), 1 << 20, 1);
    let run = daemon.import("a.raw", json!({}));
    daemon.until(&run, &["succeeded"]);
    (daemon, run)
}

/// A path of the document, filled in.
pub fn fill(path: &str, run: &str) -> String {
    path.replace("{run}", run)
        .replace("{source}", "inbox")
        .replace("{schedule}", "none")
        .replace("{receiver}", "none")
        .replace("{image}", "web/root")
        .replace("{snapshot}/files/content", "{snapshot}/files/content?path=/1/etc/fstab")
        .replace("{snapshot}", &"0".repeat(64))
        .replace("{hold}", "audit")
        .replace("{task}/report", "0123/report?process=p")
        .replace("{task}/head", "0123/head?name=a.raw")
        .replace("{task}/object", "0123/object?name=a.raw")
        .replace("{dag}", DAG)
}

#[test]
fn the_table_has_every_route_of_the_document() {
    let daemon = Daemon::start(|text| text);
    let document = daemon.ask("GET", "/v1/openapi.json", &[], "").json();
    let mut documented = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        documented.extend(methods.as_object().unwrap().keys().map(|method| (method.clone(), path.clone())));
    }
    let table = table();
    let known = table.iter().map(|(method, path, _, _)| (*method, *path)).chain([LOG_IN]).chain(SIGN_IN);
    let known: BTreeSet<_> = known.map(|(method, path)| (method.to_owned(), path.to_owned())).collect();
    assert_eq!(documented, known);
}

#[test]
fn each_role_may_what_it_may() {
    let (daemon, fill) = site();
    let confined = token(&daemon, "confined", "admin", &["--prefix", "web"]);
    let of_roles = ["reader", "writer", "operator", "admin", "worker"]
        .map(|role| (role, token(&daemon, &format!("a-{role}"), role, &[])));
    for (role, token) in of_roles.into_iter().chain([("confined", confined)]) {
        for (method, path, body, needs) in table() {
            let text = if body.is_null() { String::new() } else { body.to_string() };
            // Both ways of giving a token are the same to every route.
            for authorization in [format!("Bearer {token}"), basic(&token)] {
                let answer = daemon.head(
                    &method.to_uppercase(),
                    &fill(path),
                    &[("authorization", &authorization)],
                    &text,
                );
                let told = format!("{role} {method} {path}: {}", answer.head);
                assert_eq!(answer.status != 403, needs.are_met_by(role), "{told}");
                assert!(answer.status != 401 && answer.status < 500, "{told}");
            }
        }
    }
}

pub fn basic(token: &str) -> String {
    use base64::Engine;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("any:{token}")))
}

#[test]
fn wrong_expired_removed_and_foreign_tokens_open_no_route() {
    let (daemon, fill) = site();
    let other = Daemon::new(|text| text);
    let expired = token(&daemon, "old", "admin", &["--expires", "2026-01-01T00:00:00Z"]);
    let removed = token(&daemon, "removed", "admin", &[]);
    let bearer = format!("Bearer {removed}");
    assert_eq!(daemon.ask("GET", "/v1/runs", &[("authorization", &bearer)], "").status, 200);
    let done = tokens(&daemon, &["remove", "removed"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let shortened = &daemon.token[..daemon.token.len() - 1];
    let longer = format!("{}0", daemon.token);
    let mut refused: Vec<(&str, Option<String>)> =
        vec![("none", None), ("empty", Some("Bearer ".to_owned()))];
    for (name, token) in [
        ("expired", expired.as_str()),
        ("removed", &removed),
        ("of another site", &other.token),
        ("shortened", shortened),
        ("longer", &longer),
        ("in small letters", &daemon.token.to_lowercase()),
        ("made up", "lwt_0000000000000000000000000000000000000000000"),
    ] {
        if token != daemon.token {
            refused.extend([(name, Some(format!("Bearer {token}"))), (name, Some(basic(token)))]);
        }
    }
    refused.push(("of another scheme", Some(format!("Token {}", daemon.token))));
    refused.push(("no text", Some("Basic %%%".to_owned())));
    let volumes = daemon.volumes();
    for (name, authorization) in &refused {
        for (method, path, body, needs) in table() {
            let text = if body.is_null() { String::new() } else { body.to_string() };
            let headers: Vec<_> =
                authorization.iter().map(|value| ("authorization", value.as_str())).collect();
            let answer = daemon.head(&method.to_uppercase(), &fill(path), &headers, &text);
            let told = format!("{name} {method} {path}: {}", answer.head);
            if needs == Needs::Nothing {
                assert_eq!(answer.status, 200, "{told}");
            } else {
                // Of an address that fails often the daemon says so: the same door, with less noise.
                assert!(matches!(answer.status, 401 | 429), "{told}");
                assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{told}");
            }
        }
        let password = authorization.as_deref().unwrap_or_default().split(' ').nth(1).unwrap_or_default();
        let body = json!({"username": "any", "password": password}).to_string();
        if password != daemon.token {
            assert!(matches!(daemon.ask("POST", LOG_IN.1, &[], &body).status, 401 | 429), "{name}");
        }
    }
    problem(&daemon.ask("GET", "/v1/runs", &[], ""));
    // Nothing came of all that, and a valid token is let in all the same.
    assert_eq!(daemon.get("/v1/runs").json()["runs"].as_array().unwrap().len(), 1);
    assert_eq!(daemon.volumes(), volumes);
}
