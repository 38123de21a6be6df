//! Clients that lie, steal or dawdle are refused by the server, which names them; and nothing is lost.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Served, Setup};
use jiff::SignedDuration;
use leeward_api::Pace;
use leeward_api::server::{ListenOptions, ServerOptions};
use leeward_api::token::{NewToken, Role, TokenText};
use leeward_disk::{OpenOptions, open_source};
use leeward_repository::verify::{Inspected, inspect};
use leeward_repository::{
    BackupOptions, BackupOutcome, CollectOptions, Consistency, Control, ImageName, Repository, SourceRecord,
    Unattended,
};
use leeward_store::{Error, ErrorKind, Key, SharedStore, Version};
use serde_json::{Value, json};

struct Quiet;

impl Control for Quiet {
    fn advance(&self, _: u64) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// Backs a disk of noise up through a store.
fn back_up(
    served: &Served,
    store: SharedStore,
    image: &str,
    seed: u64,
) -> leeward_repository::Result<BackupOutcome> {
    let mut bytes = vec![0; 3 << 20];
    leeward_store::simulation::Random::new(seed).fill(&mut bytes);
    let path = served.directory.path().join("disk.raw");
    std::fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    let source = open_source(path, &OpenOptions::default()).unwrap();
    let options = BackupOptions {
        image: image.parse::<ImageName>().unwrap(),
        source: SourceRecord { location: path.to_owned(), format: "raw".to_owned(), host: "here".to_owned() },
        consistency: Consistency::AtRest,
        tags: std::collections::BTreeMap::default(),
        threads: 2,
    };
    Repository::open(store)?.backup(source.as_ref(), &options, &Quiet)
}

/// A record with this payload.
fn record(kind: u8, value: &Value) -> Vec<u8> {
    let payload = serde_json::to_vec(value).unwrap();
    let mut bytes = b"LEEWARDR\x01\x00".to_vec();
    bytes.extend([kind, 0]);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend([0; 24]);
    bytes.extend(payload);
    let digest = blake3::derive_key("leeward v1 stored record", &bytes);
    bytes.extend(digest);
    bytes
}

fn payload(bytes: &[u8]) -> Value {
    serde_json::from_slice(&bytes[40..bytes.len() - 32]).unwrap()
}

/// The error is a refusal that names whoever asked, and says this.
fn is_refused(result: Result<(), Error>, who: &str, what: &str) {
    let error = result.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("{who:?}")) && text.contains(what), "no {who:?} or {what:?} in: {text}");
}

/// Everything that is stored, to see that nothing has changed.
fn all(served: &Served) -> Vec<(String, Version)> {
    let mut found = Vec::new();
    for prefix in leeward_repository::PREFIXES {
        for entry in served.store.list(prefix).unwrap() {
            found.push((entry.key.to_string(), served.store.get(&entry.key, u64::MAX).unwrap().1));
        }
    }
    found
}

fn only(served: &Served, prefix: &str) -> Key {
    served.store.list(prefix).unwrap().remove(0).key
}

/// The packs of one kind.
fn packs(served: &Served, kind: leeward_repository::BlobKind) -> Vec<Key> {
    let keys = served.store.list("packs").unwrap().into_iter().map(|entry| entry.key);
    keys.filter(|key| {
        let bytes = served.store.get(key, u64::MAX).unwrap().0;
        inspect(key.as_str(), &bytes) == Ok(Inspected::Pack(kind))
    })
    .collect()
}

#[test]
fn a_writer_backs_up_again_and_again_and_can_neither_read_chunks_nor_remove() {
    let served = Served::new(Setup::default());
    let writer = served.as_role("w", Role::Writer, &["web"]);
    back_up(&served, writer.clone(), "web/root", 1).unwrap();
    back_up(&served, writer.clone(), "web/root", 2).unwrap();
    assert!(served.store.list("sessions").unwrap().is_empty(), "its own session it ends");
    let before = all(&served);

    for pack in packs(&served, leeward_repository::BlobKind::Chunk) {
        let object = writer.open(&pack).unwrap();
        is_refused(object.read_at(&mut [0; 100], 64), "w", "may not read chunks");
        is_refused(object.read_at(&mut [0; 65], 0), "w", "may not read chunks");
        is_refused(writer.get(&pack, u64::MAX).map(|_| ()), "w", "may not read chunks");
        object.read_at(&mut [0; 64], 0).unwrap();
        object.read_at(&mut [0; 64], object.size() - 64).unwrap();
    }
    for pack in packs(&served, leeward_repository::BlobKind::Node) {
        writer.get(&pack, u64::MAX).unwrap();
    }
    for prefix in ["packs", "index", "snapshots", "refs"] {
        is_refused(writer.delete(&only(&served, prefix)).map(|_| ()), "w", "may not delete");
    }
    is_refused(writer.delete(&key("config")).map(|_| ()), "w", "may not delete");
    is_refused(writer.sweep_leftovers().map(|_| ()), "w", "may not remove");
    let list = record(
        5,
        &json!({"condemned_version": 1, "id": "0".repeat(32), "created": "", "packs": [],
        "snapshots": [], "waits_for": null, "decided": true}),
    );
    is_refused(
        writer.put_if_absent(&key(&format!("condemned/{}", "0".repeat(32))), &[&list]),
        "w",
        "collect",
    );
    assert_eq!(all(&served), before);
    assert!(served.log.text().contains("\"token\":\"w\""), "changes and refusals are logged");
}

#[test]
fn a_writer_changes_a_ref_only_by_adding() {
    let served = Served::new(Setup::default());
    let writer = served.as_role("w", Role::Writer, &["web"]);
    back_up(&served, writer.clone(), "web/root", 1).unwrap();
    let name = only(&served, "refs");
    let (first, _) = writer.get(&name, u64::MAX).unwrap();
    back_up(&served, writer.clone(), "web/root", 2).unwrap();
    let (present, version) = writer.get(&name, u64::MAX).unwrap();
    let before = all(&served);
    let put = |value: &Value| writer.put_if_match(&name, &record(3, value), &version);
    let with = |act: &dyn Fn(&mut Value)| {
        let mut value = payload(&present);
        value["generation"] = json!(value["generation"].as_u64().unwrap() + 1);
        act(&mut value);
        value
    };
    is_refused(writer.put_if_match(&name, &first, &version), "w", "replayed");
    is_refused(
        put(&with(&|value| drop(value["snapshots"].as_array_mut().unwrap().remove(0)))),
        "w",
        "removes the entry",
    );
    is_refused(
        put(&with(&|value| value["snapshots"][0]["tags"] = json!({"x": ""}))),
        "w",
        "changes or moves",
    );
    is_refused(
        put(&with(&|value| {
            value["snapshots"][0]["holds"] = json!([{"name": "h", "reason": "", "created": ""}])
        })),
        "w",
        "changes or moves",
    );
    is_refused(put(&with(&|value| value["generation"] = json!(u64::MAX))), "w", "generation");
    is_refused(
        put(&with(&|value| {
            let mut entry = value["snapshots"][0].clone();
            entry["id"] = json!("ab".repeat(32));
            value["snapshots"].as_array_mut().unwrap().push(entry);
        })),
        "w",
        "without its manifest",
    );
    is_refused(
        put(&with(&|value| {
            let mut entry = value["snapshots"][0].clone();
            (entry["id"], entry["created"]) = (json!("ab".repeat(32)), json!("2999-01-01T00:00:00Z"));
            value["snapshots"].as_array_mut().unwrap().push(entry);
        })),
        "w",
        "says that it is of 2999",
    );
    let stale = writer.put_if_match(&name, &record(3, &with(&|_| {})), &Version::of(b"never"));
    assert_eq!(stale.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(all(&served), before);
    // Whoever rules may take away, but never go back.
    let operator = served.as_role("o", Role::Operator, &[]);
    is_refused(operator.put_if_match(&name, &first, &version), "o", "its generation goes from");
    operator
        .put_if_match(&name, &record(3, &with(&|value| value["snapshots"] = json!([]))), &version)
        .unwrap();
}

#[test]
fn bytes_that_are_not_what_their_name_says_are_refused() {
    let served = Served::new(Setup::default());
    let writer = served.as_role("w", Role::Writer, &[]);
    back_up(&served, served.store.clone(), "a", 1).unwrap();
    let before = all(&served);
    for prefix in ["packs", "index", "snapshots"] {
        let name = only(&served, prefix);
        let (mut bytes, _) = served.store.get(&name, u64::MAX).unwrap();
        let other = key(&format!("{prefix}/{}", "0".repeat(64)));
        is_refused(writer.put_if_absent(&other, &[&bytes]), "w", "cannot be accepted");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        is_refused(writer.put_if_absent(&other, &[&bytes]), "w", "cannot be accepted");
        is_refused(writer.put_if_match(&name, &bytes, &Version::of(b"")), "w", "never replaced");
    }
    is_refused(writer.put_if_absent(&key("refs/b"), &[b"no record"]), "w", "too short for a record");
    let error = writer.put_if_absent(&key("other/thing"), &[b"x"]).unwrap_err();
    assert!(error.to_string().contains("other/thing is no object of a repository"), "{error}");
    assert_eq!(all(&served), before);
}

#[test]
fn a_run_whose_packs_are_not_there_is_refused() {
    let (from, to) = (Served::new(Setup::default()), Served::new(Setup::default()));
    back_up(&from, from.store.clone(), "a", 1).unwrap();
    let run = only(&from, "index");
    let bytes = from.store.get(&run, u64::MAX).unwrap().0;
    let writer = to.as_role("w", Role::Writer, &[]);
    is_refused(writer.put_if_absent(&run, &[&bytes]), "w", "that is not here");
}

#[test]
fn nobody_leaves_the_images_of_its_token() {
    let served = Served::new(Setup::default());
    back_up(&served, served.store.clone(), "db/root", 1).unwrap();
    back_up(&served, served.store.clone(), "web-01", 2).unwrap();
    let writer = served.as_role("w", Role::Writer, &["web"]);
    let error = back_up(&served, writer.clone(), "db/root", 3).unwrap_err();
    assert!(error.to_string().contains("outside its images"), "{error}");
    let error = back_up(&served, writer.clone(), "web-02", 3).unwrap_err();
    assert!(error.to_string().contains("outside its images"), "{error}");
    back_up(&served, writer.clone(), "web/root", 4).unwrap();
    for (name, role) in [("r", Role::Reader), ("o", Role::Operator), ("w2", Role::Writer)] {
        let confined = served.as_role(name, role, &["web"]);
        let refs = confined.list("refs").unwrap();
        assert_eq!(refs.len(), 1);
        assert_eq!(refs[0].key.as_str(), "refs/web%2Froot");
        assert_eq!(confined.list("snapshots").unwrap().len(), 1);
        is_refused(confined.get(&key("refs/db%2Froot"), u64::MAX).map(|_| ()), name, "outside its images");
        let foreign = served.store.list("snapshots").unwrap();
        let seen = foreign.iter().filter(|entry| confined.get(&entry.key, u64::MAX).is_ok()).count();
        assert_eq!(seen, 1);
        // Who sees a part must not collect: it would delete the rest.
        is_refused(confined.delete(&only(&served, "packs")).map(|_| ()), name, "may not delete");
    }
    let reader = served.as_role("reader", Role::Reader, &[]);
    assert_eq!(Repository::open(reader.clone()).unwrap().images().unwrap().len(), 3);
    is_refused(reader.put_if_absent(&key("refs/x"), &[b"x"]), "reader", "only read");
    is_refused(reader.delete(&key("refs/db%2Froot")).map(|_| ()), "reader", "may not delete");
}

#[test]
fn sessions_are_their_makers() {
    let served = Served::new(Setup::default());
    let (a, b) = (served.as_role("a", Role::Writer, &["web"]), served.as_role("b", Role::Writer, &["web"]));
    let id = "0123456789abcdef".repeat(2);
    let name = key(&format!("sessions/{id}"));
    let session = |state: Value| {
        record(
            4,
            &json!({"session_version": 1, "id": id, "purpose": "", "created": "", "state": state,
            "process": {"host": "h", "boot": "b", "pid": 1, "started": 1}}),
        )
    };
    let (open, revoked) = (session(json!("open")), session(json!("revoked")));
    is_refused(a.put_if_absent(&name, &[&revoked]), "a", "begins open");
    a.put_if_absent(&name, &[&open]).unwrap();
    is_refused(b.put_if_match(&name, &revoked, &Version::of(&open)), "b", "another token");
    is_refused(b.delete(&name).map(|_| ()), "b", "another token");
    assert_eq!(b.put_if_absent(&name, &[&open]).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let entry = json!({"image": "web/root", "entry": {"id": "ab".repeat(32), "created": "2026-01-01T00:00:00Z",
        "virtual_size": 1, "tags": {}, "holds": []}});
    let committed = session(json!({"committed": {"snapshots": [entry]}}));
    is_refused(a.put_if_match(&name, &committed, &Version::of(&open)), "a", "without its manifest");
    // One that was made at the store itself belongs to nobody.
    let other = "f".repeat(32);
    let bytes = record(
        4,
        &json!({"session_version": 1, "id": other, "purpose": "", "created": "", "state": "open",
        "process": {"host": "h", "boot": "b", "pid": 1, "started": 1}}),
    );
    let local = key(&format!("sessions/{other}"));
    served.store.put_if_absent(&local, &[&bytes]).unwrap();
    assert_eq!(b.put_if_absent(&local, &[&bytes]).unwrap_err().kind(), ErrorKind::AlreadyExists);
    is_refused(b.delete(&local).map(|_| ()), "b", "another token");
    assert!(a.delete(&name).unwrap());
}

#[test]
fn a_quota_stops_a_writer_and_loses_nothing_and_outlives_the_server() {
    let mut served = Served::new(Setup::default());
    let quota = |bytes| NewToken {
        name: "w".to_owned(),
        role: Role::Writer,
        prefixes: vec!["web".to_owned()],
        quota_bytes: Some(bytes),
        expires: None,
    };
    let text = served.add(quota(5 << 20));
    let again = TokenText::new(text.reveal());
    let third = TokenText::new(text.reveal());
    let writer = served.client(text);
    back_up(&served, writer.clone(), "web/root", 1).unwrap();
    let error = back_up(&served, writer, "web/root", 2).unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    let told = format!("{error} {source}");
    assert!(told.contains("nothing was lost"), "{told}");
    served.restart(Setup::default());
    let error = back_up(&served, served.client(again), "web/root", 2).unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
    let repository = Repository::open(served.store.clone()).unwrap();
    assert_eq!(repository.image(&"web/root".parse().unwrap()).unwrap().snapshots.len(), 1);
    served.change_tokens(|file| file.tokens[0].quota_bytes = Some(50 << 20));
    back_up(&served, served.client(third), "web/root", 2).unwrap();
}

/// Both through the server and behind its back.
#[test]
fn a_collection_gives_back_the_quota_of_what_it_deletes() {
    let mut served = Served::new(Setup::default());
    let name = "web/root".parse().unwrap();
    served.change_tokens(|file| file.set_prefix_quota("web", Some(5 << 20)).unwrap());
    let text = served.token("w", Role::Writer, &["web"]);
    // Each backup is a process of its own: one client remembers what it stored, and takes what is gone for a lie.
    let writer = |served: &Served| served.client(TokenText::new(text.reveal()));
    let operator = Repository::open(served.as_role("o", Role::Operator, &[])).unwrap();
    let local = Repository::open(served.store.clone()).unwrap();
    back_up(&served, writer(&served), "web/root", 1).unwrap();
    // Two do not fit, so each one after the first needs what was given back. A backup that is refused would leave its
    // session open as long as this process lives, and its packs with it: that is tried last.
    for (number, collector) in [(2, &operator), (3, &local)] {
        // What was deleted behind its back is looked for once a minute, and first of all after its start.
        served.restart(Setup::default());
        for entry in local.image(&name).unwrap().snapshots {
            collector.forget(&name, &[entry.id]).unwrap();
        }
        let options = CollectOptions { window: SignedDuration::ZERO, ..CollectOptions::default() };
        assert!(collector.collect(&options, &Unattended).unwrap().deleted_bytes > 3 << 20);
        back_up(&served, writer(&served), "web/root", number).unwrap();
    }
    let full = back_up(&served, writer(&served), "web/root", 4).unwrap_err();
    assert!(full.to_string().contains("no space left"), "{full}");
}

#[test]
fn expired_removed_and_guessed_tokens_are_not_let_in() {
    let served = Served::new(Setup::default());
    let expired = NewToken {
        name: "old".to_owned(),
        role: Role::Admin,
        prefixes: Vec::new(),
        quota_bytes: None,
        expires: Some("2020-01-01T00:00:00Z".parse().unwrap()),
    };
    let old = served.client(served.add(expired));
    let error = old.get(&key("config"), u64::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("\"old\" has expired"), "{error}");
    let removed = served.as_role("gone", Role::Reader, &[]);
    removed.get(&key("config"), u64::MAX).unwrap();
    assert!(served.change_tokens(|file| file.remove("gone")));
    assert_eq!(removed.get(&key("config"), u64::MAX).unwrap_err().kind(), ErrorKind::Denied);
    let valid = served.as_role("valid", Role::Reader, &[]);
    let answers: Vec<String> = (0..20)
        .map(|number| {
            let head = format!("GET /v1/objects/config HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer lwt_{number}\r\nConnection: close\r\n\r\n");
            served.raw(head.as_bytes())
        })
        .collect();
    assert!(answers[0].starts_with("HTTP/1.1 401"), "{}", answers[0]);
    assert!(answers[19].starts_with("HTTP/1.1 429"), "{}", answers[19]);
    assert!(served.log.text().lines().count() < 15, "the log is not flooded");
    valid.get(&key("config"), u64::MAX).unwrap();
}

#[test]
fn absurd_requests_are_refused() {
    let served = Served::new(Setup::default());
    let token = served.token("w", Role::Writer, &[]);
    let ask = |line: &str, headers: &str| {
        let text = format!(
            "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n{headers}\r\n",
            token.reveal()
        );
        served.raw(text.as_bytes())
    };
    let pack = format!("PUT /v1/objects/packs/{}", "a".repeat(64));
    let absent = "If-None-Match: *\r\n";
    for (line, headers, status) in [
        (pack.as_str(), format!("{absent}Content-Length: 9000000000000000000\r\n"), 413),
        (&pack, format!("{absent}Transfer-Encoding: chunked\r\n"), 411),
        (&pack, "Content-Length: 0\r\n".to_owned(), 428),
        (&pack, format!("{absent}If-Match: \"x\"\r\nContent-Length: 0\r\n"), 428),
        (&pack, "If-Match: \"x\"\r\nContent-Length: 0\r\n".to_owned(), 400),
        ("PUT /v1/objects/../config", format!("{absent}Content-Length: 0\r\n"), 400),
        ("GET /v1/objects/packs/%2e%2e/config", String::new(), 400),
        ("GET /v1/objects/packs/..%2f..%2fetc%2fpasswd", String::new(), 400),
        ("GET /v1/objects/packs/%00", String::new(), 400),
        ("GET /v1/objects/tmp/x", String::new(), 403),
        ("GET /v1/objects/lock", String::new(), 403),
        ("GET /v1/objects?prefix=..", String::new(), 400),
        ("GET /v1/objects?prefix=tmp", String::new(), 403),
        ("GET /v1/objects/config", "Range: bytes=5-1\r\n".to_owned(), 416),
        ("GET /v1/objects/config", "Range: bytes=0-99999999999\r\n".to_owned(), 416),
        ("GET /metrics", String::new(), 403),
        ("BREW /v1/coffee", String::new(), 400),
    ] {
        let answer = ask(line, &headers);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line} {headers}: {answer}");
        assert!(answer.contains("\"hint\"") && answer.contains("\"request_id\""), "{answer}");
    }
    let long = ask(&format!("GET /v1/objects/packs/{}", "a".repeat(60_000)), "");
    assert!(long.starts_with("HTTP/1.1 4"), "{}", &long[..50.min(long.len())]);
    let health = served.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    assert!(all(&served).is_empty(), "nothing was stored");
}

#[test]
fn who_trickles_is_cut_off_in_both_directions() {
    let pace = Pace { interval: Duration::from_secs(1), bytes_min: 64 << 10 };
    let options = ServerOptions { pace, ..ServerOptions::default() };
    let served = Served::new(Setup { options, ..Setup::default() });
    let token = served.token("slow", Role::Operator, &[]);
    let began = Instant::now();
    let mut stream = TcpStream::connect(served.address).unwrap();
    let name = "a".repeat(64);
    let head = format!(
        "PUT /v1/objects/packs/{name} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nIf-None-Match: *\r\nContent-Length: 1000000\r\n\r\n",
        token.reveal()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut dawdler = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        while dawdler.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answer = vec![0; 1000];
    let length = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("slow") && answer.contains(&name), "the offender is named: {answer}");

    // A reader that takes nothing loses its connection.
    let large = vec![7; 40 << 20];
    let path = served.directory.path().join(format!("store/packs/{name}"));
    std::fs::write(path, &large).unwrap();
    let mut stream = TcpStream::connect(served.address).unwrap();
    let head = format!(
        "GET /v1/objects/packs/{name} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        token.reveal()
    );
    stream.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut taken = Vec::new();
    let _ = stream.read_to_end(&mut taken);
    assert!(taken.len() < large.len(), "all {} bytes were still sent", taken.len());
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let listen = ListenOptions {
        idle_time: Duration::from_millis(500),
        handshake_time: Duration::from_millis(500),
        drain_time: Duration::from_secs(1),
        ..ListenOptions::default()
    };
    let served = Served::new(Setup { listen, has_tls: true, ..Setup::default() });
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "closed, not silent");
}

#[test]
fn what_is_published_by_a_dead_writer_is_completed_by_another() {
    let served = Served::new(Setup::default());
    back_up(&served, served.store.clone(), "web/root", 1).unwrap();
    // As if its writer had died after the commit: the session says so, and the ref is not there yet.
    let name = only(&served, "refs");
    let (bytes, _) = served.store.get(&name, u64::MAX).unwrap();
    let entry = payload(&bytes)["snapshots"][0].clone();
    served.store.delete(&name).unwrap();
    let id = "5".repeat(32);
    let session = record(
        4,
        &json!({"session_version": 1, "id": id, "purpose": "", "created": "",
        "state": {"committed": {"snapshots": [{"image": "web/root", "entry": entry}]}},
        "process": {"host": "h", "boot": "b", "pid": 1, "started": 1}}),
    );
    let session_name = key(&format!("sessions/{id}"));
    served.store.put_if_absent(&session_name, &[&session]).unwrap();
    let writer = served.as_role("w", Role::Writer, &["web"]);
    is_refused(writer.delete(&session_name).map(|_| ()), "w", "not in the ref");
    back_up(&served, writer, "web/root", 2).unwrap();
    let repository = Repository::open(Arc::clone(&served.store)).unwrap();
    assert_eq!(repository.image(&"web/root".parse().unwrap()).unwrap().snapshots.len(), 2);
    assert!(served.store.list("sessions").unwrap().is_empty());
}
