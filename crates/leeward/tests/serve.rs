//! A repository behind a server, end to end: the real command on both sides, real TLS, tokens of every role.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, Outcome, outcome, text};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A server of the bench's repository.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// Starts one and waits until it listens. It serves at `address`, with certificates that it makes.
    fn start(bench: &Bench, address: &str) -> Self {
        let (tls, tokens, log) = (bench.path("tls"), bench.path("tokens"), bench.path("audit"));
        let mut child = bench
            .command(&["serve", "--listen", address])
            .arg("--tls-dir")
            .arg(tls)
            .arg("--tokens")
            .arg(tokens)
            .arg("--audit-log")
            .arg(log)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the server says {line:?}"));
        Self { url: text(&value["listening"]), child }
    }

    fn address(&self) -> String {
        self.url.trim_start_matches("https://").to_owned()
    }

    /// Ends it as a person would, and sees that it ends well.
    fn end(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn token(bench: &Bench, name: &str, more: &[&str]) -> PathBuf {
    let (tokens, file) = (bench.path("tokens"), bench.path(&format!("{name}.token")));
    let arguments = [&["token", "add", name, "--tokens", tokens.to_str().unwrap()], more].concat();
    let arguments = [&arguments[..], &["--output", file.to_str().unwrap()]].concat();
    bench.succeeds(&arguments);
    file
}

fn command(bench: &Bench, server: &Server, token: &Path, arguments: &[&str]) -> Command {
    let mut command = bench.command(arguments);
    command
        .env("LEEWARD_REPO", &server.url)
        .env("LEEWARD_CA_FILE", bench.path("tls/ca-cert.pem"))
        .env("LEEWARD_TOKEN_FILE", token)
        .env("XDG_STATE_HOME", bench.path("state"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(bench: &Bench, server: &Server, token: &Path, arguments: &[&str]) -> Outcome {
    outcome(command(bench, server, token, arguments).spawn().unwrap(), arguments)
}

fn succeeds(bench: &Bench, server: &Server, token: &Path, arguments: &[&str]) -> Outcome {
    let outcome = run(bench, server, token, arguments);
    assert_eq!(outcome.code, 0, "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
    outcome
}

fn is_refused(bench: &Bench, server: &Server, token: &Path, arguments: &[&str]) {
    let outcome = run(bench, server, token, arguments);
    assert_eq!(outcome.code, 5, "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stderr.contains("token"), "{}", outcome.stderr);
}

#[test]
fn disks_go_to_a_server_and_come_back_and_every_role_does_what_it_may() {
    let bench = Bench::new();
    std::fs::create_dir(bench.repository()).unwrap();
    let admin = token(&bench, "admin", &["--role", "admin"]);
    let operator = token(&bench, "operator", &["--role", "operator"]);
    let writer = token(&bench, "writer", &["--role", "writer", "--prefix", "web"]);
    let reader = token(&bench, "reader", &["--role", "reader"]);
    let server = Server::start(&bench, "127.0.0.1:0");

    is_refused(&bench, &server, &operator, &["repo", "init"]);
    succeeds(&bench, &server, &admin, &["repo", "init", "--pack-size", "1M"]);
    let disk = bench.disk("disk.raw", 16, 4, 1);
    let changed = bench.changed(&disk, "changed.raw", 2);
    succeeds(&bench, &server, &writer, &["backup", disk.to_str().unwrap(), "web/root"]);
    let second = succeeds(&bench, &server, &writer, &["backup", changed.to_str().unwrap(), "web/root"]);
    assert!(second.value()["statistics"]["new_bytes"].as_u64().unwrap() < 4 << 20, "it builds on the first");
    is_refused(&bench, &server, &writer, &["backup", disk.to_str().unwrap(), "db/root"]);
    is_refused(&bench, &server, &writer, &["forget", "web/root@~1"]);
    let target = bench.path("out.raw");
    let restore = ["restore", "web/root", target.to_str().unwrap()];
    is_refused(&bench, &server, &writer, &restore);
    succeeds(&bench, &server, &reader, &restore);
    assert!(std::fs::read(&target).unwrap() == std::fs::read(&changed).unwrap());
    is_refused(&bench, &server, &reader, &["backup", disk.to_str().unwrap(), "web/root"]);
    let check = succeeds(&bench, &server, &reader, &["check", "--read-data"]);
    assert_eq!(check.value()["findings"], Value::Array(Vec::new()));
    is_refused(&bench, &server, &reader, &["collect"]);
    succeeds(&bench, &server, &operator, &["forget", "web/root@~1"]);
    succeeds(&bench, &server, &operator, &["collect", "--max-unused", "0"]);
    let check = succeeds(&bench, &server, &reader, &["check", "--read-data"]);
    assert_eq!(check.value()["findings"], Value::Array(Vec::new()));
    let log = std::fs::read_to_string(bench.path("audit")).unwrap();
    for name in ["admin", "operator", "writer", "reader"] {
        assert!(log.contains(&format!("\"token\":\"{name}\"")), "{name} is in the log");
    }
    let secret = std::fs::read_to_string(&writer).unwrap();
    assert!(!log.contains(secret.trim()), "no token is in the log");
    let listed = bench.succeeds(&["token", "list", "--tokens", bench.path("tokens").to_str().unwrap()]);
    let used =
        listed.lines.iter().find(|line| line["name"] == "writer").unwrap()["used_bytes"].as_u64().unwrap();
    assert!(used > 1 << 20, "{used}");
    speaks_to_curl(&bench, &server, &reader);
    server.end();
    bench.is_sound("after the server has ended");
}

/// Flips a bit in every file of a folder of the repository, and gives back what they were.
fn damage(bench: &Bench, folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut before = Vec::new();
    for entry in std::fs::read_dir(bench.repository().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        before.push((path.clone(), bytes.clone()));
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(!before.is_empty());
    before
}

#[test]
fn metadata_is_fetched_once_and_a_check_still_sees_what_the_server_has() {
    let bench = Bench::new();
    std::fs::create_dir(bench.repository()).unwrap();
    let admin = token(&bench, "admin", &["--role", "admin"]);
    let server = Server::start(&bench, "127.0.0.1:0");
    succeeds(&bench, &server, &admin, &["repo", "init", "--pack-size", "1M"]);
    let disk = bench.disk("disk.raw", 16, 4, 1);
    let backup = ["backup", disk.to_str().unwrap(), "web/root"];
    let first = succeeds(&bench, &server, &admin, &backup);
    let sent = &first.value()["requests"];
    assert!(sent["put"].as_u64().unwrap() >= 4, "packs, run, manifest, session: {sent}");
    assert!(sent["sent_bytes"].as_u64() >= first.value()["statistics"]["stored_bytes"].as_u64(), "{sent}");

    let restore = |name: &str| {
        let target = bench.path(name);
        let restored = succeeds(&bench, &server, &admin, &["restore", "web/root", target.to_str().unwrap()]);
        assert!(std::fs::read(&target).unwrap() == std::fs::read(&disk).unwrap());
        restored.value()["requests"]["get"].as_u64().unwrap()
    };
    let without = {
        let mut command =
            command(&bench, &server, &admin, &["verify-restore", "web/root", disk.to_str().unwrap()]);
        outcome(command.env("LEEWARD_NO_CACHE", "1").spawn().unwrap(), &["verify-restore"])
    };
    assert_eq!(without.code, 0, "{}", without.stderr);
    let gets = restore("first.raw");
    for folder in ["index", "snapshots"] {
        let before = damage(&bench, folder);
        assert!(restore(&format!("{folder}.raw")) <= gets, "what is kept here is not fetched");
        let check = run(&bench, &server, &admin, &["check"]);
        assert_eq!(check.code, 4, "{folder}: {}", check.stdout);
        assert!(check.value()["requests"]["get"].as_u64().unwrap() > 0);
        before.into_iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    }
    let check = succeeds(&bench, &server, &admin, &["check", "--read-data"]);
    assert!(
        check.value()["requests"]["get"].as_u64().unwrap() < 60,
        "no request for a blob: {}",
        check.stdout
    );
    let left = std::fs::read_dir(bench.path("cache")).unwrap().count();
    assert_eq!(left, 1, "of one server, and nothing of those that examined it");
    let local = bench.succeeds(&["check"]);
    assert!(local.value()["requests"].is_null(), "a directory is sent nothing");
    server.end();
}

/// A foreign client sees what the protocol says.
fn speaks_to_curl(bench: &Bench, server: &Server, token: &Path) {
    let secret = std::fs::read_to_string(token).unwrap();
    let header = bench.path("header");
    std::fs::write(&header, format!("Authorization: Bearer {}", secret.trim())).unwrap();
    let curl = |path: &str, more: &[&str]| {
        Command::new("curl")
            .args(["-sS", "-i", "--cacert"])
            .arg(bench.path("tls/ca-cert.pem"))
            .args(["-H", &format!("@{}", header.display())])
            .args(more)
            .arg(format!("{}{path}", server.url))
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Ok(config) = curl("/v1/objects/config", &[]) else {
        println!("SKIPPED: curl is not installed");
        return;
    };
    assert!(config.contains("200") && config.contains("LEEWARDR") && config.contains("etag: \""), "{config}");
    let list = curl("/v1/objects?prefix=packs&limit=1", &[]).unwrap();
    assert!(list.contains("\"more\":"), "{list}");
    let refused = curl("/v1/objects/config", &["-X", "DELETE"]).unwrap();
    assert!(refused.contains("403") && refused.contains("\"code\":\"denied\""), "{refused}");
    let metrics = curl("/metrics", &[]).unwrap();
    assert!(metrics.contains("leeward_requests_total{class=\"put\",status=\"201\"}"), "{metrics}");
    let nobody = Command::new("curl")
        .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
        .arg(bench.path("tls/ca-cert.pem"))
        .arg(format!("{}/metrics", server.url))
        .output()
        .unwrap();
    assert_eq!(nobody.stdout, b"401");
}

#[test]
fn a_backup_survives_the_death_of_its_server() {
    let bench = Bench::with_repository();
    let writer = token(&bench, "writer", &["--role", "writer"]);
    let reader = token(&bench, "reader", &["--role", "reader"]);
    let mut server = Server::start(&bench, "127.0.0.1:0");
    let disk = bench.disk("disk.raw", 64, 48, 3);
    let arguments = ["backup", disk.to_str().unwrap(), "web/root"];
    let child = command(&bench, &server, &writer, &arguments).spawn().unwrap();
    let packs = || std::fs::read_dir(bench.repository().join("packs")).unwrap().count();
    let deadline = Instant::now() + Duration::from_secs(60);
    while packs() < 4 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    let address = server.address();
    server.kill();
    server = Server::start(&bench, &address);
    // The backup bears the gap, or says so and the rerun continues.
    let first = outcome(child, &arguments);
    assert!(first.code == 0 || first.code == 6, "{}{}", first.stdout, first.stderr);
    succeeds(&bench, &server, &writer, &arguments);
    let target = bench.path("out.raw");
    succeeds(&bench, &server, &reader, &["restore", "web/root", target.to_str().unwrap()]);
    assert!(std::fs::read(&target).unwrap() == std::fs::read(&disk).unwrap());
    server.end();
    bench.is_sound("after the server was killed");
}

#[test]
fn nothing_is_open_to_others_without_tls_and_no_secret_goes_into_a_url() {
    let bench = Bench::with_repository();
    let _token = token(&bench, "a", &["--role", "reader"]);
    let tokens = bench.path("tokens");
    bench.fails(&["serve", "--listen", "0.0.0.0:0", "--tokens", tokens.to_str().unwrap()], 5);
    bench.fails(&["serve", "--tokens", bench.path("missing").to_str().unwrap()], 7);
    bench.fails(&["-r", "http://192.0.2.1:7443", "images"], 2);
    bench.fails(&["-r", "https://me:secret@192.0.2.1:7443", "images"], 2);
    bench.fails(&["-r", "https://127.0.0.1:1", "images"], 2);
}
