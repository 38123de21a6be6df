//! Stand-ins for the metadata service of an instance and for the service that gives tokens to instances.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use leeward_remote::http::Method;
use serde_json::{Value, json};

use crate::bed::Bed;

const TENANCY: &str = "ocid1.tenancy.oc1..standin";

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The answer is another than a token.
    NoToken,
    /// The status of a refusal.
    Refuses(u16),
    /// A token that would break a header.
    Header,
    /// The metadata service has no certificate.
    NoCertificate,
}

struct State {
    folder: tempfile::TempDir,
    bed: String,
    keys: std::path::PathBuf,
    token_seconds: i64,
    given: Mutex<Vec<String>>,
    fault: Mutex<Option<Fault>>,
}

pub struct StandIn {
    pub origin: String,
    state: Arc<State>,
}

struct Asked {
    line: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl StandIn {
    /// Starts both on one port; `None`, and a line that says so, where there is no OpenSSL.
    pub fn start(bed: &Bed, token_seconds: i64) -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            println!("SKIPPED: openssl is not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let subject = format!("/CN=instance/OU=opc-certtype:instance/OU=opc-tenant:{TENANCY}");
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            &subject,
            "-keyout",
            &path("key.pem"),
            "-out",
            &path("cert.pem"),
        ]);
        std::fs::copy(path("cert.pem"), path("intermediate.pem")).unwrap();
        std::fs::write(path("public.pem"), openssl(&["x509", "-in", &path("cert.pem"), "-pubkey", "-noout"]))
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            folder,
            bed: bed.endpoint.clone(),
            keys: bed.state.join("keys.json"),
            token_seconds,
            given: Mutex::default(),
            fault: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        // It ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || state.serve(stream));
            }
        });
        Some(Self { origin, state })
    }

    /// How many tokens were given out.
    pub fn tokens(&self) -> usize {
        self.state.given.lock().unwrap().len()
    }

    pub fn fail(&self, fault: Fault) {
        *self.state.fault.lock().unwrap() = Some(fault);
    }

    /// Takes the keys of all tokens from the bed.
    pub fn forget_keys(&self, bed: &Bed) {
        self.state.change_keys(|keys| keys.retain(|id, _| !id.starts_with("ST$")));
        bed.control(Method::POST, "keys/reload", Value::Null);
    }
}

impl State {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(asked) = read(&mut reader) {
            let (status, body) = self.answer(&asked);
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
            let mut stream = &stream;
            if stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, asked: &Asked) -> (u16, String) {
        let fault = *self.fault.lock().unwrap();
        let words: Vec<&str> = asked.line.split(' ').collect();
        if words[1] == "/v1/x509" {
            return match fault {
                Some(Fault::NoToken) => (200, r#"{"secret": "no token"}"#.to_owned()),
                Some(Fault::Header) => (200, r#"{"token": "secret\r\nx: y"}"#.to_owned()),
                Some(Fault::Refuses(status)) => (status, r#"{"code": "X", "message": "secret"}"#.to_owned()),
                _ => self.exchange(asked),
            };
        }
        if asked.headers.get("authorization").map(String::as_str) != Some("Bearer Oracle") {
            return (403, String::new());
        }
        match words[1].strip_prefix("/opc/v2/") {
            Some("instance") => (200, instance()),
            Some("identity/cert.pem") if fault == Some(Fault::NoCertificate) => (404, String::new()),
            Some(path) if path.starts_with("identity/") => {
                let file = self.folder.path().join(path.trim_start_matches("identity/"));
                std::fs::read_to_string(file).map_or((404, String::new()), |text| (200, text))
            }
            _ => (404, String::new()),
        }
    }

    /// Checks a request for a token as the service does, and gives one whose key the bed knows from then on.
    fn exchange(&self, asked: &Asked) -> (u16, String) {
        if let Err(why) = self.check(asked) {
            println!("the federation request is wrong: {why}");
            return (401, r#"{"code": "NotAuthenticated", "message": "wrong"}"#.to_owned());
        }
        let body: Value = serde_json::from_slice(&asked.body).unwrap();
        let mut given = self.given.lock().unwrap();
        let claims = json!({ "exp": Timestamp::now().as_second() + self.token_seconds });
        let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
        // The bed takes the user from between two slashes.
        let token = format!("head.{claims}.secret{}-{}/instance", std::process::id(), given.len());
        let public = body["publicKey"].as_str().unwrap();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{public}\n-----END PUBLIC KEY-----\n");
        self.change_keys(|keys| {
            keys.insert(format!("ST${token}"), pem.into());
        });
        reload(&self.bed);
        given.push(token.clone());
        (200, json!({ "token": token }).to_string())
    }

    fn check(&self, asked: &Asked) -> Result<(), String> {
        let header = asked.headers.get("authorization").ok_or("no signature")?;
        let part = |name: &str| {
            let (_, rest) = header.split_once(&format!("{name}=\"")).ok_or(format!("no {name}"))?;
            rest.split_once('"').map(|(value, _)| value.to_owned()).ok_or(format!("no end of {name}"))
        };
        let path = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        let certificate = path("cert.pem");
        let print = openssl(&["x509", "-in", &certificate, "-fingerprint", "-sha1", "-noout"]);
        let print = print.trim().split_once('=').unwrap().1.to_owned();
        if part("keyId")? != format!("{TENANCY}/fed-x509/{print}") {
            return Err(format!("key id {}", part("keyId")?));
        }
        let names = part("headers")?;
        if names != "date (request-target) content-length content-type x-content-sha256" {
            return Err(format!("signed headers {names}"));
        }
        let lines: Vec<String> = names
            .split(' ')
            .map(|name| match name {
                "(request-target)" => "(request-target): post /v1/x509".to_owned(),
                name => format!("{name}: {}", asked.headers[name]),
            })
            .collect();
        std::fs::write(path("message"), lines.join("\n")).unwrap();
        std::fs::write(path("signature"), STANDARD.decode(part("signature")?).unwrap()).unwrap();
        let (public, signature) = (path("public.pem"), path("signature"));
        openssl(&["dgst", "-sha256", "-verify", &public, "-signature", &signature, &path("message")]);
        let body: Value = serde_json::from_slice(&asked.body).map_err(|error| error.to_string())?;
        let sent = body["certificate"].as_str().ok_or("no certificate")?;
        let own = std::fs::read_to_string(certificate).unwrap().replace('\n', "");
        if !own.contains(sent) || body["intermediateCertificates"][0] != body["certificate"] {
            return Err("other certificates".to_owned());
        }
        Ok(())
    }

    fn change_keys(&self, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
        let text = std::fs::read_to_string(&self.keys).unwrap();
        let mut keys: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
        change(&mut keys);
        std::fs::write(&self.keys, serde_json::to_string(&keys).unwrap()).unwrap();
    }
}

fn instance() -> String {
    json!({
        "id": "ocid1.instance.oc1..me",
        "compartmentId": "ocid1.compartment.oc1..mine",
        "availabilityDomain": "AD-1",
        "canonicalRegionName": "eu-frankfurt-1",
        "regionInfo": {"realmKey": "oc1", "realmDomainComponent": "oraclecloud.com"},
        "shape": "VM.Standard.E5.Flex",
    })
    .to_string()
}

fn reload(bed: &str) {
    let mut stream = TcpStream::connect(bed.trim_start_matches("http://")).unwrap();
    let request =
        "POST /_control/keys/reload HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let bytes = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; bytes];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { line: line.trim_end().to_owned(), headers, body })
}
