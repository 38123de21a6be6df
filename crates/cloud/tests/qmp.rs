//! The QMP client against a real QEMU, and against one that breaks the protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use leeward_cloud::ErrorKind;
use leeward_cloud::qemu::{Qmp, QmpOptions};
use serde_json::{Value, json};

struct Machine {
    child: Child,
    directory: tempfile::TempDir,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    /// A machine that never runs; `None`, and a line that says so, where QEMU is missing.
    fn start() -> Option<Self> {
        let there = Command::new("qemu-system-x86_64").arg("--version").output();
        if !there.is_ok_and(|output| output.status.success()) {
            println!("SKIPPED: qemu-system-x86_64 is not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let monitor = format!("unix:{},server=on,wait=off", directory.path().join("qmp").display());
        let child = Command::new("qemu-system-x86_64")
            .args(["-S", "-display", "none", "-nodefaults", "-name", "testee", "-qmp", &monitor])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let machine = Self { child, directory };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !machine.socket().exists() {
            assert!(Instant::now() < deadline, "QEMU does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(machine)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("qmp")
    }
}

fn hasty() -> QmpOptions {
    QmpOptions { greeting_limit: Duration::from_millis(300), answer_limit: Duration::from_millis(300) }
}

#[test]
fn commands_answers_errors_events_and_descriptors_pass() {
    let Some(machine) = Machine::start() else { return };
    let mut monitor = Qmp::connect(&machine.socket(), &QmpOptions::default()).unwrap();
    assert!(monitor.version().major >= 5);
    assert_eq!(monitor.peer_process(), Some(machine.child.id()));
    assert_eq!(monitor.execute("query-name", json!({})).unwrap()["name"], "testee");

    let error = monitor.execute("no-such-command", json!({})).unwrap_err();
    assert!(error.is_answer() && error.to_string().contains("no-such-command"), "{error}");
    assert_eq!(monitor.execute("query-status", json!({})).unwrap()["running"], false);

    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let set = monitor.add_descriptor(&file, "of a test").unwrap();
    let node = json!({ "driver": "file", "node-name": "n0", "filename": format!("/dev/fdset/{set}") });
    monitor.execute("blockdev-add", node).unwrap();
    let sets = monitor.execute("query-fdsets", json!({})).unwrap();
    assert_eq!(sets[0]["fds"][0]["opaque"], "of a test");

    let create = json!({ "driver": "qcow2", "file": "n0", "size": 1 << 30 });
    monitor.execute("blockdev-create", json!({ "job-id": "j0", "options": create })).unwrap();
    monitor.wait_for_job("j0", Duration::from_secs(20)).unwrap();
    let event = monitor.next_event(Instant::now() + Duration::from_secs(5)).unwrap().unwrap();
    assert_eq!((event.name.as_str(), &event.data["id"]), ("JOB_STATUS_CHANGE", &json!("j0")));
    assert_eq!(monitor.wait_for_job("j0", Duration::from_secs(1)).unwrap_err().kind(), ErrorKind::NotFound);

    while monitor.next_event(Instant::now() + Duration::from_millis(50)).unwrap().is_some() {}
    monitor.transaction(&[("block-dirty-bitmap-add", json!({ "node": "n0", "name": "b0" }))]).unwrap();
    let both = [
        ("block-dirty-bitmap-add", json!({ "node": "n0", "name": "b1" })),
        ("block-dirty-bitmap-remove", json!({ "node": "n0", "name": "missing" })),
    ];
    monitor.transaction(&both).unwrap_err();
    let nodes = monitor.execute("query-named-block-nodes", json!({ "flat": true })).unwrap();
    assert_eq!(nodes[0]["dirty-bitmaps"].as_array().unwrap().len(), 1, "half a transaction: {nodes}");
}

#[test]
fn a_monitor_with_a_client_is_said_to_be_busy() {
    let Some(machine) = Machine::start() else { return };
    let first = Qmp::connect(&machine.socket(), &QmpOptions::default()).unwrap();
    assert_eq!(Qmp::connect(&machine.socket(), &hasty()).unwrap_err().kind(), ErrorKind::Busy);
    drop(first);
    Qmp::connect(&machine.socket(), &QmpOptions::default()).unwrap();
}

/// A client that is killed may leave the answer to its last command, or an event of what that began, to the next one.
#[test]
fn what_was_for_the_client_before_is_passed_over() {
    let left = "{\"return\": {}, \"id\": 7}\r\n{\"timestamp\": {}, \"event\": \"JOB_STATUS_CHANGE\", \"data\": {}}\r\n";
    let greeting = "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 7, \"minor\": 2, \"micro\": 0}}}}\r\n";
    let directory = tempfile::tempdir().unwrap();
    let greeted = |name: &str, sent: String| {
        let path = directory.path().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The client may leave in the middle.
            let _ = stream.write_all(sent.as_bytes());
            let mut asked = [0; 1000];
            let length = stream.read(&mut asked).unwrap_or(0);
            if let Ok(asked) = serde_json::from_slice::<Value>(&asked[..length]) {
                let answer = format!("{}\r\n", json!({ "return": {}, "id": asked["id"] }));
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let connected = Qmp::connect(&path, &QmpOptions::default()).map(drop);
        peer.join().unwrap();
        connected
    };
    greeted("left", format!("{left}{greeting}")).unwrap();
    let endless = greeted("endless", left.repeat(2000)).unwrap_err();
    assert!(endless.to_string().contains("no greeting"), "{endless}");
    let strange = greeted("strange", "{\"hello\": 1}\r\n".to_owned()).unwrap_err();
    assert!(strange.to_string().contains("not the QMP monitor"), "{strange}");
}

/// What comes of a peer that answers the negotiation with this, where `ID` stands for the number of what was asked.
fn connected(answer: &'static [u8]) -> leeward_cloud::Result<Qmp> {
    const GREETING: &[u8] =
        b"{\"QMP\": {\"version\": {\"qemu\": {\"major\": 7, \"minor\": 2, \"micro\": 0}}}}\r\n";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(GREETING).unwrap();
        let mut asked = [0; 1000];
        let length = stream.read(&mut asked).unwrap();
        let asked: Value = serde_json::from_slice(&asked[..length]).unwrap();
        let answer = match std::str::from_utf8(answer) {
            Ok(text) => text.replace("ID", &asked["id"].to_string()).into_bytes(),
            Err(_) => answer.to_vec(),
        };
        // The client may leave in the middle.
        let _ = stream.write_all(&answer);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let connected = Qmp::connect(&path, &hasty());
    if connected.is_err() {
        peer.join().unwrap();
    }
    connected
}

/// What the client says of a peer that answers the negotiation with this.
fn answered(answer: &'static [u8]) -> leeward_cloud::Error {
    connected(answer).unwrap_err()
}

#[test]
fn answers_to_a_client_that_was_killed_are_passed_over() {
    connected(b"{\"return\": 5, \"id\": 15}\n{\"error\": {}, \"id\": 16}\n{\"return\": {}, \"id\": ID}\n")
        .unwrap();
    let endless: &[u8] = b"{\"return\": 5, \"id\": 15}\n".repeat(1000).leak();
    assert!(answered(endless).to_string().contains("not asked"));
}

#[test]
fn what_breaks_the_protocol_ends_the_connection() {
    for (answer, told) in [
        (&b"{\"return\": {}, \"id\": \"x\"}\n"[..], "not asked"),
        (b"{\"return\": {}, \"id\": 77}\n", "no answer to qmp_capabilities"),
        (b"{\"return\": \n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"{\"id\": ID}\n", "neither"),
        (b"[1, 2]\n", "not asked"),
        (b"", "no answer to qmp_capabilities"),
        (b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": ID}\n", "no"),
    ] {
        let error = answered(answer);
        assert!(error.to_string().contains(told), "{error}");
    }
    assert!(answered(vec![b' '; 40 << 20].leak()).to_string().contains("more than"));
    let deep: &[u8] = vec![b'['; 1 << 20].leak();
    let mut line = deep.to_vec();
    line.push(b'\n');
    assert!(answered(line.leak()).to_string().contains("not JSON"));
}
