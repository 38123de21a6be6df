//! Whether people are told: a server that takes webhooks, whose signatures the reference library checks, and a mail server.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use leeward_api::server::make_certificates;
use serde_json::{Value, json};

use super::daemon::{Daemon, disk};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";
const PASSWORD: &str = "correct horse";

/// A Python that has aiosmtpd and standardwebhooks: made once, beside the test beds.
fn python() -> Option<PathBuf> {
    let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
    let folder = beds.join("notify-receivers");
    let python = folder.join("bin/python");
    let run = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let is_there = || run(Command::new(&python).args(["-c", "import aiosmtpd, standardwebhooks"]));
    // Tests that run at once do not make it twice.
    std::fs::create_dir_all(&beds).ok()?;
    let lock = std::fs::File::create(beds.join("notify-receivers.lock")).ok()?;
    lock.lock().ok()?;
    let is_made = is_there() || {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))
            && run(Command::new(&python).args([
                "-m",
                "pip",
                "install",
                "aiosmtpd==1.4.6",
                "standardwebhooks==1.1.0",
            ]))
            && is_there()
    };
    if !is_made {
        println!("SKIPPED: no Python with aiosmtpd and standardwebhooks can be made in {}", folder.display());
    }
    is_made.then_some(python)
}

/// A receiver that runs; ended when it is dropped.
struct Server(Child);

impl Server {
    fn start(python: &Path, arguments: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/site/receivers.py");
        let mut child =
            Command::new(python).arg(script).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A site with receivers, certificates for these, and files with secrets.
fn site(receivers: &str) -> Daemon {
    let daemon = Daemon::new(|text| text + receivers);
    make_certificates(&daemon.path("tls"), &["localhost".to_owned()], &[]).unwrap();
    for (name, secret) in
        [("hook.secret", SECRET), ("mail.password", PASSWORD), ("hook.header", "Bearer abc")]
    {
        std::fs::write(daemon.path(name), secret).unwrap();
    }
    daemon
}

fn path(daemon: &Daemon, name: &str) -> String {
    daemon.path(name).to_str().unwrap().to_owned()
}

struct Hook<'a> {
    daemon: &'a Path,
    python: &'a Path,
    port: u16,
}

impl Hook<'_> {
    fn start(&self) -> Server {
        let file = |name: &str| self.daemon.join(name).to_str().unwrap().to_owned();
        let files =
            ["tls/server-cert.pem", "tls/server-key.pem", "hook.secret", "behaviour", "heard"].map(file);
        let mut arguments = vec!["webhook".to_owned(), self.port.to_string()];
        arguments.extend(files);
        Server::start(self.python, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn answers(&self, status: u16) {
        std::fs::write(self.daemon.join("behaviour"), status.to_string()).unwrap();
    }

    fn heard(&self) -> Vec<Value> {
        lines(&self.daemon.join("heard"))
    }

    /// Requests about a run that has come to a state.
    fn about(&self, run: &str, kind: &str) -> Vec<Value> {
        let heard = self.heard().into_iter();
        let is_it = |request: &Value| {
            let body: Value = serde_json::from_str(request["body"].as_str().unwrap()).unwrap();
            body["subject"] == run && body["type"] == kind
        };
        heard.filter(is_it).collect()
    }
}

fn deliveries(daemon: &Daemon, receiver: &str) -> Vec<Value> {
    let listed = daemon.leeward(&["notify", "list", "--all", "--json"]);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let lines = listed.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let found = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
    found.filter(|delivery| delivery["receiver"] == receiver).collect()
}

#[test]
fn a_webhook_is_signed_and_arrives_when_the_receiver_was_away_and_the_daemon_was_killed() {
    let Some(python) = python() else { return };
    let (port, dead) = (free_port(), TcpListener::bind("127.0.0.1:0").unwrap());
    let mut daemon = site(&format!(
        "[notify.ops]\non = ['succeeded', 'held', 'failed']\n\
         webhook = {{ url = 'https://localhost:{port}/hook/%2Fa?sig=x%2Fy+z', secret_file = 'hook.secret', \
         ca = 'tls/ca-cert.pem', headers = {{ X-Team = 'storage' }}, header_files = {{ Authorization = 'hook.header' }} }}\n\
         [notify.dead]\non = ['succeeded']\n\
         webhook = {{ url = 'http://127.0.0.1:{}/', secret_file = 'hook.secret' }}\n\
         [notify.others]\non = ['succeeded']\nkinds = ['backup']\n\
         webhook = {{ url = 'https://localhost:{port}/others', secret_file = 'hook.secret' }}\n",
        dead.local_addr().unwrap().port()
    ));
    daemon.up();
    let folder = daemon.folder.path().to_owned();
    let hook = Hook { daemon: &folder, python: &python, port };
    hook.answers(204);
    disk(&daemon.path("inbox/a.raw"), 1 << 20, 1);
    let run = daemon.import("a.raw", json!({}));
    daemon.until(&run, &["succeeded"]);
    let waiting = until("it is tried", || {
        deliveries(&daemon, "ops").into_iter().find(|delivery| delivery["attempts"].as_u64() > Some(0))
    });
    assert_eq!((&waiting["state"], &waiting["about"]), (&json!("waiting"), &json!(run)));
    daemon.kill();

    let server = hook.start();
    daemon.up();
    let request = until("it arrives", || hook.about(&run, "leeward.run.succeeded").pop());
    assert_eq!((&request["verified"], &request["tampered"]), (&json!(true), &json!(false)));
    assert_eq!(request["path"], "/hook/%2Fa?sig=x%2Fy+z", "as it is configured");
    let headers = &request["headers"];
    assert_eq!((&headers["x-team"], &headers["authorization"]), (&json!("storage"), &json!("Bearer abc")));
    assert!(headers["content-type"].as_str().unwrap().starts_with("application/cloudevents+json"));
    assert_eq!(headers["webhook-id"], waiting["id"]);
    let event: Value = serde_json::from_str(request["body"].as_str().unwrap()).unwrap();
    assert_eq!((&event["specversion"], &event["id"]), (&json!("1.0"), &waiting["id"]));
    assert_eq!(
        (&event["source"], &event["data"]["run"]["source"]),
        (&json!("urn:leeward:site:home"), &json!("inbox"))
    );
    until("that is written down", || {
        deliveries(&daemon, "ops").into_iter().find(|delivery| delivery["state"] == "delivered")
    });

    // One that fails for a while is told of the same under the same name; nothing is followed anywhere.
    hook.answers(307);
    let held = daemon.import("b.raw", json!({}));
    daemon.until(&held, &["held"]);
    until("it is refused", || hook.about(&held, "leeward.run.held").pop());
    hook.answers(500);
    until("it is refused again", || {
        hook.about(&held, "leeward.run.held").into_iter().find(|told| told["status"] == 500)
    });
    hook.answers(200);
    until("it is taken", || {
        hook.about(&held, "leeward.run.held").into_iter().find(|told| told["status"] == 200)
    });
    let names: BTreeSet<String> = hook
        .about(&held, "leeward.run.held")
        .iter()
        .map(|told| told["headers"]["webhook-id"].to_string())
        .collect();
    assert_eq!(names.len(), 1);
    let heard = hook.heard();
    assert!(heard.iter().all(|told| told["path"] != "/elsewhere" && told["method"] == "POST"), "{heard:#?}");
    assert!(heard.iter().all(|told| told["path"] != "/others"), "no backup was made");
    assert_eq!(
        deliveries(&daemon, "dead")[0]["state"],
        "waiting",
        "it has not kept the other from its notices"
    );

    let tried = daemon.leeward(&["notify", "test", "ops"]);
    assert!(tried.status.success(), "{}", String::from_utf8_lossy(&tried.stderr));
    assert!(String::from_utf8_lossy(&tried.stdout).contains("it answered 200"));
    assert!(hook.heard().iter().any(|told| told["body"].as_str().unwrap().contains("leeward.test")));
    drop(server);
    let tried = daemon.leeward(&["notify", "test", "ops"]);
    assert!(
        !tried.status.success() && String::from_utf8_lossy(&tried.stderr).contains("nobody answers"),
        "{tried:?}"
    );
    assert_eq!(daemon.leeward(&["notify", "test", "nobody"]).status.code(), Some(7), "there is none");

    let log = std::fs::read_to_string(daemon.path("daemon.log")).unwrap();
    let shown = format!("{log}{}", String::from_utf8_lossy(&daemon.get("/v1/notify").body));
    assert!(
        log.contains("ops could not be told") && !shown.contains("whsec_") && !shown.contains("Bearer abc")
    );
    let metrics = String::from_utf8(daemon.get("/metrics").body).unwrap();
    assert!(metrics.contains("leeward_notices{receiver=\"ops\",state=\"delivered\"} 2"), "{metrics}");
}

#[test]
fn however_often_the_daemon_is_killed_each_end_of_a_run_is_told() {
    let Some(python) = python() else { return };
    let port = free_port();
    let mut daemon = site(&format!(
        "[notify.ops]\non = ['succeeded', 'held']\nwebhook = {{ url = 'https://localhost:{port}/', \
         secret_file = 'hook.secret', ca = 'tls/ca-cert.pem' }}\n"
    ));
    daemon.up();
    let folder = daemon.folder.path().to_owned();
    let hook = Hook { daemon: &folder, python: &python, port };
    hook.answers(204);
    let _server = hook.start();
    let mut begun = BTreeSet::new();
    for round in 0..8 {
        let name = format!("disk-{round}.raw");
        disk(&daemon.path(&format!("inbox/{name}")), 1 << 20, round);
        begun.insert(daemon.import(&name, json!({})));
        begun.insert(daemon.import(&format!("gone-{round}.raw"), json!({})));
        // At another moment each time: before the run ends, after that, while it is told.
        std::thread::sleep(Duration::from_millis(60 + 130 * round));
        daemon.kill();
        daemon.up();
    }
    let mut ended = BTreeMap::new();
    for run in &begun {
        let state = daemon.until(run, &["succeeded", "held"])["state"].as_str().unwrap().to_owned();
        ended.insert(run.clone(), state);
    }
    for (run, state) in &ended {
        let kind = format!("leeward.run.{state}");
        until(&format!("{run} is told"), || hook.about(run, &kind).pop());
    }
    let mut names: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for told in hook.heard() {
        assert_eq!(told["verified"], true);
        let body: Value = serde_json::from_str(told["body"].as_str().unwrap()).unwrap();
        let of = (body["subject"].to_string(), body["type"].to_string());
        names.entry(of).or_default().insert(body["id"].to_string());
    }
    assert_eq!(names.len(), begun.len());
    assert!(names.values().all(|names| names.len() == 1), "told again under another name: {names:?}");
}

fn mail_server(daemon: &Daemon, python: &Path, port: u16, mode: &str) -> Server {
    let (cert, key) = (path(daemon, "tls/server-cert.pem"), path(daemon, "tls/server-key.pem"));
    Server::start(python, &["mail", &port.to_string(), &cert, &key, &path(daemon, "mails"), mode])
}

#[test]
fn mail_arrives_by_starttls_or_tls_with_a_password_and_never_in_the_clear() {
    let Some(python) = python() else { return };
    let ports = [free_port(), free_port(), free_port(), free_port()];
    let receiver = |name: &str, on: &str, scheme: &str, port: u16, more: &str| {
        format!(
            "[notify.{name}]\non = ['{on}']\nmail = {{ smtp = '{scheme}://localhost:{port}', from = 'Leeward Söuth <l@a.example>', \
             to = ['Ops <ops@a.example>', 'b@a.example'], ca = 'tls/ca-cert.pem'{more} }}\n"
        )
    };
    let login = ", username = 'leeward', password_file = 'mail.password'";
    let mut daemon = site(
        &[
            receiver("team", "held", "smtp", ports[0], login),
            receiver("wrapped", "cancelled", "smtps", ports[1], login),
            receiver("stripped", "trouble", "smtp", ports[2], login),
            receiver("relay", "trouble", "smtp", ports[3], ", insecure = true"),
        ]
        .concat(),
    );
    let config = daemon.path("site.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace("#url = ", "url = ");
    std::fs::write(config, text).unwrap();
    daemon.up();
    let servers: Vec<_> = ["starttls", "tls", "plain", "plain"]
        .iter()
        .zip(ports)
        .map(|(mode, port)| mail_server(&daemon, &python, port, mode))
        .collect();
    let mails = || lines(&daemon.path("mails"));

    let name = format!("ü\u{202e}gpj.raw; Bcc: all@example.org {}.raw", "long ".repeat(30));
    let held = daemon.import(&name, json!({}));
    daemon.until(&held, &["held"]);
    let mail = until("the mail arrives", || mails().pop());
    assert_eq!((&mail["tls"], &mail["user"]), (&json!(true), &json!("leeward")));
    assert_eq!(
        (&mail["from"], &mail["to"]),
        (&json!("l@a.example"), &json!(["ops@a.example", "b@a.example"]))
    );
    let headers: BTreeMap<String, String> =
        serde_json::from_value::<Vec<(String, String)>>(mail["headers"].clone())
            .unwrap()
            .into_iter()
            .collect();
    assert!(!headers.contains_key("Bcc") && headers.len() == 9, "{headers:?}");
    assert_eq!(headers["From"], "Leeward Söuth <l@a.example>");
    assert!(
        headers["Subject"].starts_with("[Leeward home] import of ü\\u{202e}gpj.raw; Bcc: all@"),
        "{headers:?}"
    );
    assert!(headers["Subject"].ends_with("is held"), "{headers:?}");
    let text = mail["text"].as_str().unwrap();
    let link = format!("https://leeward.example.org:7443/#/runs/{held}");
    for wanted in ["at site home", "Step ", "What to do: ", &link, &format!("leeward run retry {held}")] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert!(headers["Message-ID"].starts_with("<msg_") && headers["Auto-Submitted"] == "auto-generated");

    assert!(daemon.leeward(&["run", "cancel", &held]).status.success());
    daemon.until(&held, &["cancelled"]);
    let mail = until("the mail arrives by TLS", || mails().into_iter().nth(1));
    assert_eq!((&mail["tls"], &mail["user"]), (&json!(true), &json!("leeward")));

    // A server that offers no STARTTLS gets neither the message nor the password; a relay that needs neither gets the message.
    let refused = daemon.leeward(&["notify", "test", "stripped"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.to_lowercase().contains("starttls"), "{told}");
    assert_eq!(mails().len(), 2);
    assert!(daemon.leeward(&["notify", "test", "relay"]).status.success());
    assert_eq!(mails().len(), 3);

    std::fs::write(daemon.path("mail.password"), "wrong horse").unwrap();
    let refused = daemon.leeward(&["notify", "test", "team"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("535") && !told.contains("horse"), "{told}");
    drop(servers);
    let log = std::fs::read_to_string(daemon.path("daemon.log")).unwrap();
    assert!(!log.contains("horse"), "{log}");
}
