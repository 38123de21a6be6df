//! The API as a client meets it: who may what, problems, tags, events, what Airflow's clients send.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::daemon::{Answer, Daemon, disk};

pub fn problem(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let value = answer.json();
    assert_eq!(value["status"], answer.status);
    for member in ["type", "title", "detail", "hint", "request"] {
        assert!(!value[member].as_str().unwrap().is_empty(), "{member} of {value}");
    }
    value
}

#[test]
fn problems_name_the_thing_and_the_next_step() {
    let daemon = Daemon::start(|text| text);
    let cases: Vec<(&str, &str, &str, u16)> = vec![
        ("GET", "/v1/nothing", "", 404),
        ("GET", "/v1/runs/xyz", "", 404),
        ("GET", "/v1/runs/01hzzzzzzzzzzzzzzzzzzzzzzz", "", 404),
        ("GET", "/v1/runs?state=nonsense", "", 400),
        ("GET", "/v1/runs?most=0", "", 400),
        ("GET", "/v1/runs?unknown=1", "", 400),
        ("DELETE", "/v1/runs", "", 405),
        ("POST", "/v1/imports", "{", 400),
        ("POST", "/v1/imports", "{\"source\": \"inbox\", \"object\": \"a\", \"more\": 1}", 400),
        ("POST", "/v1/imports", "[\"inbox\", \"a.raw\"]", 400),
        ("POST", "/v1/imports", "{\"source\": \"inbox\", \"object\": \"a.raw\", \"options\": []}", 400),
        ("POST", "/v1/hear/inbox", "", 400),
        ("POST", "/v1/hear/inbox", "[]", 400),
        ("POST", "/v1/runs/01hzzzzzzzzzzzzzzzzzzzzzzz/retry", "[null, null]", 400),
        ("POST", "/v1/runs/01hzzzzzzzzzzzzzzzzzzzzzzz/retry", "{\"inputs\": [1]}", 400),
        ("GET", "/v1/runs?past=", "", 400),
        ("GET", "/v1/runs?state=", "", 400),
        ("GET", "/v1/runs?state=held,,failed", "", 400),
        ("GET", "/v1/runs?most=", "", 400),
        ("POST", "/healthz", "", 405),
        ("PUT", "/v1/openapi.json", "", 405),
        (
            "DELETE",
            "/api/v1/dags/1_virtual_disk_to_oci_block_volume/dagRuns/01hzzzzzzzzzzzzzzzzzzzzzzz",
            "",
            405,
        ),
        (
            "POST",
            "/api/v1/dags/1_virtual_disk_to_oci_block_volume/dagRuns",
            "{\"conf\": {\"bucket_name\": \"nowhere\", \"object_name\": \"a.raw\"}}",
            404,
        ),
        ("POST", "/v1/imports", "{\"source\": \"nowhere\", \"object\": \"a.raw\"}", 404),
        (
            "POST",
            "/v1/imports",
            "{\"source\": \"inbox\", \"object\": \"a.raw\", \"target\": \"nowhere\"}",
            404,
        ),
        ("GET", "/v1/images", "", 404),
        ("GET", "/v1/sources/nowhere/objects", "", 404),
        ("POST", "/api/v1/dags/another/dagRuns", "{}", 404),
    ];
    for (method, path, body, status) in cases {
        let answer = daemon.ask(method, path, &[("authorization", &daemon.bearer())], body);
        assert_eq!(answer.status, status, "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
        problem(&answer);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    let large = "x".repeat(300 << 10);
    assert_eq!(daemon.ask("POST", "/v1/imports", &[("authorization", &daemon.bearer())], &large).status, 413);
    for path in ["/healthz", "/readyz", "/v1/openapi.json", "/"] {
        assert_eq!(daemon.ask("GET", path, &[], "").status, 200, "{path}");
    }
}

#[test]
fn asking_twice_with_one_key_begins_one_run_and_a_seen_run_is_not_steered_blindly() {
    let daemon = Daemon::start(|text| text);
    disk(&daemon.path("inbox/a.raw"), 1 << 20, 1);
    let body = json!({"source": "inbox", "object": "a.raw"}).to_string();
    let begin = || {
        let headers = [("authorization", daemon.bearer()), ("idempotency-key", "k1".to_owned())];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        daemon.ask("POST", "/v1/imports", &headers, &body)
    };
    let (first, second) = (begin(), begin());
    assert_eq!((first.status, second.status), (201, 200));
    assert_eq!(first.json()["run"], second.json()["run"]);
    let run = first.json()["run"].as_str().unwrap().to_owned();
    assert_eq!(first.header("location"), Some(format!("/v1/runs/{run}").as_str()));
    daemon.until(&run, &["succeeded"]);
    let path = format!("/v1/runs/{run}");
    let seen = daemon.get(&path);
    let tag = seen.header("etag").unwrap().to_owned();
    let headers = [("authorization", daemon.bearer()), ("if-none-match", tag.clone())];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(daemon.ask("GET", &path, &headers, "").status, 304);
    let steer = |tag: &str| {
        let body = json!({"step": "setup_backup_policy"}).to_string();
        daemon
            .ask(
                "POST",
                &format!("{path}/retry"),
                &[("authorization", &daemon.bearer()), ("if-match", tag)],
                &body,
            )
            .status
    };
    assert_eq!(steer("\"1.0\""), 412);
    assert_eq!(steer(&tag), 200);
    daemon.until(&run, &["succeeded"]);
}

/// Reads events until one says that the run succeeded; returns their numbers.
fn events(daemon: &Daemon, after: Option<u64>) -> Vec<u64> {
    let mut stream = TcpStream::connect(&daemon.address).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let last = after.map(|after| format!("last-event-id: {after}\r\n")).unwrap_or_default();
    let request =
        format!("GET /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\n{last}\r\n", daemon.bearer());
    stream.write_all(request.as_bytes()).unwrap();
    let mut numbers = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        if let Some(number) = line.strip_prefix("id: ") {
            numbers.push(number.parse().unwrap());
        }
        if line.starts_with("data: ") && line.contains("\"state\":\"succeeded\"") {
            break;
        }
    }
    numbers
}

#[test]
fn events_are_told_as_they_happen_and_again_to_who_was_away() {
    let daemon = Daemon::start(|text| text);
    disk(&daemon.path("inbox/a.raw"), 1 << 20, 1);
    let live = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| events(&daemon, Some(0)));
        daemon.import("a.raw", json!({}));
        watcher.join().unwrap()
    });
    assert!(live.len() > 20 && live.is_sorted(), "{live:?}");
    let again = events(&daemon, Some(live[4]));
    assert_eq!(again, live[5..]);
}

#[test]
fn the_published_function_begins_an_import_unchanged() {
    use base64::Engine;
    let daemon = Daemon::start(|text| text);
    disk(&daemon.path("inbox/fn.raw"), 1 << 20, 1);
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("airflow:{}", daemon.token));
    let dag = "dags/1_virtual_disk_to_oci_block_volume/dagRuns";
    let body =
        json!({"conf": {"bucket_name": "inbox", "object_name": "fn.raw", "ad_number": "0"}}).to_string();
    let first =
        daemon.ask("POST", &format!("/api/v1/{dag}"), &[("authorization", &format!("Basic {basic}"))], &body);
    assert_eq!(first.status, 200, "{}", String::from_utf8_lossy(&first.body));
    assert_eq!(first.json()["dag_id"], "1_virtual_disk_to_oci_block_volume");
    let run = first.json()["dag_run_id"].as_str().unwrap().to_owned();
    daemon.until(&run, &["succeeded"]);
    // Airflow 3: a token for the password first.
    let login = json!({"username": "airflow", "password": daemon.token}).to_string();
    let answer = daemon.ask("POST", "/auth/token", &[], &login);
    assert_eq!(answer.status, 201);
    let bearer = format!("Bearer {}", answer.json()["access_token"].as_str().unwrap());
    let state = daemon.ask("GET", &format!("/api/v2/{dag}/{run}"), &[("authorization", &bearer)], "");
    assert_eq!(state.json()["state"], "success");
    assert_eq!(daemon.ask("POST", "/auth/token", &[], "{\"password\": \"wrong\"}").status, 401);
}

#[test]
fn the_document_of_the_api_names_every_route_that_the_pages_use() {
    let daemon = Daemon::start(|text| text);
    let document = daemon.ask("GET", "/v1/openapi.json", &[], "").json();
    assert_eq!(document["openapi"], "3.1.0");
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path = path
                .replace("{run}", "01hzzzzzzzzzzzzzzzzzzzzzzz")
                .replace("{source}", "inbox")
                .replace("{schedule}", "nightly")
                .replace("{receiver}", "operators")
                .replace("{image}", "web/root")
                .replace("{task}", "0123")
                .replace("{dag}", "1_virtual_disk_to_oci_block_volume");
            if path == "/v1/events" {
                continue;
            }
            let answer =
                daemon.ask(&method.to_uppercase(), &path, &[("authorization", &daemon.bearer())], "{}");
            assert_ne!(answer.status, 405, "{method} {path}");
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(!text.contains("there is nothing at"), "{method} {path}: {text}");
        }
    }
}
