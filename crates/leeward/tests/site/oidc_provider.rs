//! A site and an OpenID provider that others wrote (oidc-provider-mock, with Authlib inside): a person logs in there, and the
//! token that comes of it is taken here.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::Daemon;
use super::sign_ins::pairs;

/// The last version that Debian's Python 3.11 can run.
const PROVIDER: &str = "oidc-provider-mock==0.3.4";

/// The program, installed beside what cargo builds; `None` where it cannot be had.
fn program() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_leeward")).parent()?.parent()?;
    let place = target.join("oidc-provider");
    let program = place.join("bin/oidc-provider-mock");
    let run = |command: &mut Command| command.output().is_ok_and(|done| done.status.success());
    // Made under another name first: what was left half made by a killed test is not taken for whole.
    let marker = place.join("whole");
    if !marker.exists() {
        let is_made = run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place))
            && run(Command::new(place.join("bin/pip")).args([
                "install",
                "--quiet",
                "--retries",
                "2",
                PROVIDER,
            ]));
        if !is_made {
            return None;
        }
        std::fs::write(&marker, PROVIDER).ok()?;
    }
    program.exists().then_some(program)
}

struct Provider {
    child: Child,
    address: String,
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Provider {
    fn start(program: &Path, port: u16) -> Self {
        let alice = json!({ "sub": "alice", "groups": ["operators"], "preferred_username": "alice" });
        let bob = json!({ "sub": "bob", "preferred_username": "bob" });
        let child = Command::new(program)
            .args(["--port", &port.to_string(), "--user-claims", &alice.to_string()])
            .args(["--user-claims", &bob.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let provider = Self { child, address: format!("127.0.0.1:{port}") };
        let end = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect(&provider.address).is_err() {
            assert!(Instant::now() < end, "the provider does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        provider
    }

    /// Sends a form; returns the answer's head and body.
    fn post(&self, path: &str, form: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let length = form.len();
        // bGVld2FyZDp4: the client `leeward` with any password.
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\nauthorization: Basic bGVld2FyZDp4\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n{form}",
            self.address
        );
        stream.write_all(head.as_bytes()).unwrap();
        let (mut reader, mut head, mut body) = (BufReader::new(stream), String::new(), String::new());
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "no whole head: {head}");
        }
        reader.read_to_string(&mut body).unwrap();
        (head, body)
    }

    /// What the provider gives for somebody's log-in, by authorization code.
    fn log_in(&self, who: &str) -> Value {
        let back = "http%3A%2F%2Flocalhost%2Fback";
        let asked = format!(
            "/oauth2/authorize?response_type=code&client_id=leeward&redirect_uri={back}&scope=openid%20profile&nonce=n&state=s"
        );
        let (head, _) = self.post(&asked, &format!("sub={who}"));
        let code = head.split("code=").nth(1).unwrap_or_else(|| panic!("no code: {head}"));
        let code = code.split(['&', '\r']).next().unwrap();
        let form = format!("grant_type=authorization_code&code={code}&redirect_uri={back}");
        let (head, body) = self.post("/oauth2/token", &form);
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {head}{body}"))
    }
}

#[test]
fn who_logs_in_at_a_provider_is_known_here() {
    let Some(program) = program() else {
        println!("SKIPPED: {PROVIDER} is not to be had: no token of another's provider is taken");
        return;
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let provider = Provider::start(&program, port);
    let issuer = format!("http://{}", provider.address);
    let daemon = Daemon::start(|text| {
        format!(
            "{text}\n[server.oidc.mock]\nissuer = \"{issuer}\"\naudience = [\"leeward\"]\ntokens = \"id\"\n\
             roles_claim = \"groups\"\nroles = {{ operators = \"operator\" }}\n"
        )
    });
    let whoami =
        |token: &str| daemon.ask("GET", "/v1/whoami", &[("authorization", &format!("Bearer {token}"))], "");
    let given = provider.log_in("alice");
    let token = given["id_token"].as_str().unwrap();
    let wanted =
        json!({ "name": "alice", "role": "operator", "prefixes": [], "issuer": issuer, "subject": "alice" });
    assert_eq!(whoami(token).json(), wanted);
    // Its access tokens are no JWTs, and its refresh tokens are nobody's business.
    for other in ["access_token", "refresh_token"] {
        assert_eq!(whoami(given[other].as_str().unwrap()).status, 401, "{other}");
    }
    let bob = provider.log_in("bob");
    assert_eq!(whoami(bob["id_token"].as_str().unwrap()).status, 403, "bob has no role");

    // Started anew it has another key, and names neither.
    drop(provider);
    let provider = Provider::start(&program, port);
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let given = provider.log_in("alice");
        if whoami(given["id_token"].as_str().unwrap()).status == 200 {
            break;
        }
        assert!(Instant::now() < end, "the new key is not found");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(matches!(whoami(token).status, 401 | 429), "the old key signs no more");
    // The command line takes such a token where it takes one of the site's own.
    std::fs::write(daemon.path("admin.token"), provider.log_in("alice")["id_token"].as_str().unwrap())
        .unwrap();
    let done = daemon.leeward(&["run", "list"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn who_signs_in_there_from_the_pages_is_known_here() {
    let Some(program) = program() else {
        println!("SKIPPED: {PROVIDER} is not to be had: nobody signs in at another's provider");
        return;
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let provider = Provider::start(&program, port);
    let issuer = format!("http://{}", provider.address);
    let mut daemon = Daemon::new(|text| {
        let text =
            text.replace("#url = \"https://leeward.example.org:7443\"", "url = \"https://leeward.example\"");
        format!(
            "{text}\n[server.oidc.mock]\nissuer = \"{issuer}\"\naudience = [\"leeward\"]\ntokens = \"id\"\n\
             roles_claim = \"groups\"\nroles = {{ operators = \"operator\" }}\n\
             sign_in = {{ client_id = \"leeward\", client_secret_file = \"client.secret\" }}\n"
        )
    });
    std::fs::write(daemon.path("client.secret"), "x").unwrap();
    daemon.up();
    let end = Instant::now() + Duration::from_secs(120);
    let sign_in = |who: &str| {
        let begun = loop {
            let begun = daemon.ask("POST", "/v1/sign-in/mock", &[], "{}");
            if begun.status == 200 {
                break begun;
            }
            assert!(Instant::now() < end, "{}", String::from_utf8_lossy(&begun.body));
            std::thread::sleep(Duration::from_millis(200));
        };
        let location = begun.json()["location"].as_str().unwrap().to_owned();
        let asked = location.strip_prefix(&issuer).expect("browsers are sent to the provider");
        let (head, _) = provider.post(asked, &format!("sub={who}"));
        let back =
            head.split_once("https://leeward.example/sign-in/mock?").unwrap_or_else(|| panic!("{head}")).1;
        let returned = json!(pairs(back.split("\r\n").next().unwrap()));
        let cookie = begun.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        daemon.ask("POST", "/v1/sign-in/mock/finish", &[("cookie", &cookie)], &returned.to_string())
    };
    let done = sign_in("alice");
    assert_eq!(done.status, 200, "{}", String::from_utf8_lossy(&done.body));
    let bearer = format!("Bearer {}", done.json()["token"].as_str().unwrap());
    let known = daemon.ask("GET", "/v1/whoami", &[("authorization", &bearer)], "").json();
    assert_eq!((&known["name"], &known["role"]), (&json!("alice"), &json!("operator")));
    let bob = sign_in("bob");
    assert!(bob.status == 403 && String::from_utf8_lossy(&bob.body).contains("has no role here"));
}
