//! What is decided, and when; and what is told when nothing can be kept.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use leeward_runs::state::{Replaced, SqliteState};
use leeward_runs::{OnCancel, OnFailure, Plan, Run, RunState};

use super::*;

struct World {
    folder: tempfile::TempDir,
    state: SqliteState,
}

const OPS: &str = "[notify.ops]\non=['held','trouble']\nwebhook={url='https://h.example/',secret_file='s'}\n";

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = SqliteState::open(&folder.path().join("runs")).unwrap();
        Self { folder, state }
    }

    /// A daemon as it is when it has been started with these receivers.
    fn daemon(&self, receivers: &str) -> Notifier {
        let text = format!("name='home'\nstate='s'\n{receivers}");
        let config = Config::parse(&text, self.folder.path()).unwrap();
        let catalog = Catalog::open(&self.folder.path().join("catalog")).unwrap();
        let notifier = Notifier::new(&config, Arc::new(catalog));
        notifier.begin(&self.state).unwrap();
        notifier
    }

    /// A run that has come to be held.
    fn held(&self) -> RunId {
        let plan = Plan {
            kind: "import".to_owned(),
            version: 1,
            steps: Vec::new(),
            on_failure: OnFailure::Hold,
            on_cancel: OnCancel::Undo,
            pools: std::collections::BTreeSet::new(),
        };
        let now = Timestamp::now();
        let run = Run::new(RunId::new(now).unwrap(), "a.raw", plan, serde_json::Value::Null, "ann", now);
        self.state.insert(&run, None).unwrap();
        let moved = Event::Moved { state: RunState::Held, reason: Some("x".to_owned()) };
        let held = Run { state: RunState::Held, ..run.clone() };
        assert_eq!(self.state.replace(&held, 0, None, &[moved]).unwrap(), Replaced::Done);
        run.id
    }
}

fn decide(daemon: &Notifier, world: &World) {
    while daemon.decide(&world.state, Timestamp::now()).unwrap() {}
}

fn told(daemon: &Notifier) -> Vec<String> {
    let found = daemon.catalog.deliveries(&[], None, 1000).unwrap();
    found.into_iter().rev().filter_map(|delivery| delivery.about).collect()
}

#[test]
fn a_daemon_that_dies_between_the_end_of_a_run_and_the_decision_tells_it_later_and_once() {
    let world = World::new();
    let before = world.held();
    let daemon = world.daemon(OPS);
    decide(&daemon, &world);
    assert!(told(&daemon).is_empty(), "what was before anybody was told is not told: {before}");
    let first = world.held();
    drop(daemon);
    let daemon = world.daemon(OPS);
    decide(&daemon, &world);
    assert_eq!(told(&daemon), [first.to_string()]);
    // It dies after it has decided, and before that is written down; or the catalog is an older copy.
    daemon.catalog.tell_after(Some(0)).unwrap();
    drop(daemon);
    let daemon = world.daemon(OPS);
    decide(&daemon, &world);
    assert_eq!(told(&daemon), [first.to_string(), before.to_string()]);
    // Many at once.
    let more: Vec<_> = (0..EVENTS_AT_ONCE / 2 + 7).map(|_| world.held().to_string()).collect();
    decide(&daemon, &world);
    assert_eq!(told(&daemon)[2..], more);
}

#[test]
fn what_happens_while_nobody_is_configured_is_not_told_later() {
    let world = World::new();
    let daemon = world.daemon(OPS);
    drop(daemon);
    let daemon = world.daemon("");
    world.held();
    decide(&daemon, &world);
    drop(daemon);
    let daemon = world.daemon(OPS);
    decide(&daemon, &world);
    assert!(told(&daemon).is_empty());
    // Runs that were restored from an older copy than the catalog: what happens from now on is told.
    daemon.catalog.tell_after(Some(1_000_000)).unwrap();
    drop(daemon);
    let daemon = world.daemon(OPS);
    let run = world.held();
    decide(&daemon, &world);
    assert_eq!(told(&daemon), [run.to_string()]);
}

#[test]
fn a_run_that_is_forgotten_or_damaged_holds_up_nothing() {
    let world = World::new();
    let daemon = world.daemon(OPS);
    let damaged = world.held();
    let connection = rusqlite::Connection::open(world.folder.path().join("runs")).unwrap();
    connection.execute("UPDATE runs SET body = '{' WHERE id = ?1", [damaged.as_str()]).unwrap();
    let whole = world.held();
    decide(&daemon, &world);
    assert_eq!(told(&daemon), [damaged.to_string(), whole.to_string()]);
}

/// A server that takes one request, answers 204, and returns what it was sent.
fn server() -> (u16, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut request, mut piece) = (Vec::new(), [0; 4096]);
        let is_whole = |request: &[u8]| {
            let text = String::from_utf8_lossy(request).to_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            body.len() >= length.parse::<usize>().unwrap()
        };
        while !is_whole(&request) {
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0);
            request.extend_from_slice(&piece[..count]);
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
        String::from_utf8(request).unwrap()
    });
    (port, serving)
}

#[test]
fn a_trouble_that_cannot_be_kept_because_the_disk_fails_is_told_all_the_same() {
    let world = World::new();
    let (port, serving) = server();
    std::fs::write(world.folder.path().join("s"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let daemon = world.daemon(&OPS.replace("https://h.example", &format!("http://127.0.0.1:{port}")));
    let connection = rusqlite::Connection::open(world.folder.path().join("catalog")).unwrap();
    connection.execute("DROP TABLE deliveries", []).unwrap();
    daemon.trouble(None, "the disk is full", Timestamp::UNIX_EPOCH, false);
    let receiver = &daemon.receivers["ops"];
    assert_eq!(deliver::tell_unkept(receiver), Some(true));
    assert_eq!(deliver::tell_unkept(receiver), None, "told once");
    let request = serving.join().unwrap();
    assert!(request.contains("leeward.trouble.begun") && request.contains("the disk is full"), "{request}");
}

#[test]
fn files_with_secrets_are_bounded_and_what_is_wrong_with_them_tells_nothing_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s");
    assert!(secret(&file).unwrap_err().contains("cannot be read"));
    std::fs::write(&file, vec![b'x'; 70_000]).unwrap();
    assert!(secret(&file).unwrap_err().contains("no secret"));
    assert!(secret(Path::new("/dev/null")).unwrap().is_empty());
}
