//! Servers that lie are found out, and the message names the server and the object.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use common::{Liar, answer, body};
use leeward_store::{Error, ErrorKind, Key, Version};

fn key() -> Key {
    Key::new("refs/a").unwrap()
}

fn pack() -> Key {
    Key::new(format!("packs/{}", "a".repeat(64))).unwrap()
}

/// The error names server and object, and says this of it.
fn names(liar: &Liar, key: &Key, error: &Error, what: &str) {
    let text = error.to_string();
    for part in [&liar.url, key.as_str(), what] {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

#[test]
fn bytes_of_another_version_than_told() {
    let tag = format!("ETag: \"{}\"\r\n", Version::of(b"right"));
    let liar = Liar::new(move |_, stream| answer(stream, "200 OK", &tag, b"wrong"));
    let error = liar.client().get(&key(), 100).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    names(&liar, &key(), &error, "said that it is");
}

#[test]
fn a_body_that_is_cut() {
    let liar = Liar::new(|_, stream: &mut TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this");
    });
    let error = liar.client().get(&key(), 1000).unwrap_err();
    assert!(error.is_transient(), "{error}");
    names(&liar, &key(), &error, "after 9 bytes");
    assert_eq!(liar.requests.lock().unwrap().len(), 3, "a read is tried again");
}

#[test]
fn a_body_of_exabytes() {
    let liar = Liar::new(|_, stream: &mut TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000000000000000\r\n\r\nx");
    });
    for error in [
        liar.client().get(&key(), u64::MAX).unwrap_err(),
        liar.client().open(&key()).err().unwrap(),
        liar.client().list("refs").unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        assert!(error.to_string().contains("9000000000000000000"), "{error}");
        assert!(error.to_string().contains(&liar.url), "{error}");
    }
}

#[test]
fn a_body_without_end() {
    let liar = Liar::new(|_, stream: &mut TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [b"10000\r\n".to_vec(), vec![7; 0x10000], b"\r\n".to_vec()].concat();
        while stream.write_all(&chunk).is_ok() {}
    });
    let error = liar.client().get(&key(), 1 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    names(&liar, &key(), &error, "more than the 1048576");
}

#[test]
fn a_range_of_another_length() {
    let liar = Liar::new(|head: &str, stream: &mut TcpStream| match head.starts_with("HEAD") {
        true => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n");
        }
        false => answer(stream, "206 Partial Content", "", b"short"),
    });
    let object = liar.client().open(&pack()).unwrap();
    let error = object.read_at(&mut [0; 50], 0).unwrap_err();
    names(&liar, &pack(), &error, "5 bytes for the 50");
}

#[test]
fn a_listing_without_end() {
    let next = Mutex::new(0_u64);
    let liar = Liar::new(move |_, stream: &mut TcpStream| {
        let mut next = next.lock().unwrap();
        let entries: Vec<_> = (0..5000)
            .map(|_| {
                *next += 1;
                serde_json::json!({"key": format!("packs/{:016x}", *next), "size": 1})
            })
            .collect();
        answer(
            stream,
            "200 OK",
            "",
            serde_json::json!({"entries": entries, "more": true}).to_string().as_bytes(),
        );
    });
    let error = liar.client().list("packs").unwrap_err();
    assert!(error.to_string().contains("does not end") && error.to_string().contains(&liar.url), "{error}");
}

#[test]
fn a_listing_that_goes_in_circles_or_lists_other_things() {
    for text in [
        r#"{"entries": [], "more": true}"#,
        r#"{"entries": [{"key": "packs/a", "size": 1}], "more": true}"#,
        r#"{"entries": [{"key": "packs/b", "size": 1}, {"key": "packs/a", "size": 1}], "more": false}"#,
        r#"{"entries": [{"key": "packs/../../etc/passwd", "size": 1}], "more": false}"#,
        r#"{"entries": [{"key": "refs/a", "size": 1}], "more": false}"#,
        "no listing at all",
    ] {
        let liar = Liar::new(move |_, stream| answer(stream, "200 OK", "", text.as_bytes()));
        let error = liar.client().list("packs").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{text}: {error}");
        assert!(error.to_string().contains(&liar.url), "{error}");
    }
}

#[test]
fn an_answer_that_trickles() {
    let liar = Liar::new(|_, stream: &mut TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let error = liar.client().get(&key(), 1 << 20).unwrap_err();
    names(&liar, &key(), &error, "more slowly than");
}

#[test]
fn a_server_that_takes_nothing() {
    let liar = Liar::new(|head: &str, stream: &mut TcpStream| match head.starts_with("HEAD") {
        true => answer(stream, "404 Not Found", "", b""),
        false => std::thread::sleep(Duration::from_secs(8)),
    });
    let large = vec![1; 32 << 20];
    let error = liar.client().put_if_absent(&pack(), &[&large]).unwrap_err();
    names(&liar, &pack(), &error, "takes data more slowly than");
}

#[test]
fn another_version_acknowledged_than_written() {
    let tag = format!("ETag: \"{}\"\r\n", Version::of(b"something else"));
    let liar = Liar::new(move |head: &str, stream: &mut TcpStream| {
        body(head, stream);
        answer(stream, "201 Created", &tag, b"");
    });
    let error = liar.client().put_if_absent(&key(), &[b"mine"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    names(&liar, &key(), &error, "was written and the server acknowledged");
    let error = liar.client().put_if_match(&key(), b"mine", &Version::of(b"old")).unwrap_err();
    names(&liar, &key(), &error, "was written and the server acknowledged");
}

#[test]
fn a_write_that_is_acknowledged_and_lost() {
    let liar = Liar::new(|head: &str, stream: &mut TcpStream| {
        let bytes = body(head, stream);
        let tag = format!("ETag: \"{}\"\r\n", Version::of(&bytes));
        match head.split(' ').next() {
            Some("PUT") => answer(stream, "201 Created", &tag, b""),
            Some("GET") => answer(stream, "200 OK", "", br#"{"entries": [], "more": false}"#),
            _ => answer(stream, "200 OK", "", b"{}"),
        }
    });
    let client = liar.client();
    client.put_if_absent(&pack(), &[b"bytes of a pack"]).unwrap();
    let error = client.settle("packs").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    names(&liar, &pack(), &error, "acknowledged that it stored these 15 bytes");
}

#[test]
fn an_answer_that_is_lost_is_settled_by_reading() {
    // The first write is done, and its answer lost.
    let stored: Mutex<Option<Vec<u8>>> = Mutex::default();
    let liar = Liar::new(move |head: &str, stream: &mut TcpStream| {
        let bytes = body(head, stream);
        let mut stored = stored.lock().unwrap();
        match (head.split(' ').next(), stored.as_ref()) {
            (Some("PUT"), None) => *stored = Some(bytes),
            (Some("PUT"), Some(_)) => answer(
                stream,
                "412 Precondition Failed",
                "",
                br#"{"code": "exists", "message": "there", "hint": "none"}"#,
            ),
            (_, Some(found)) => answer(stream, "200 OK", "", found),
            _ => {
                answer(stream, "404 Not Found", "", br#"{"code": "not-found", "message": "m", "hint": "h"}"#)
            }
        }
    });
    let client = liar.client();
    client.put_if_absent(&key(), &[b"mine"]).unwrap();
    let error = client.put_if_absent(&key(), &[b"other"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
}

#[test]
fn who_cannot_be_trusted_gets_no_token() {
    use leeward_api::token::{Role, TokenText};
    let served = common::Served::new(common::Setup { has_tls: true, ..common::Setup::default() });
    let token = served.token("a", Role::Reader, &[]);
    // Without its authority the server is a stranger.
    let stranger = common::connect(&served.url(), TokenText::new(token.reveal()), None);
    let error = stranger.get(&key(), 10).unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(!served.log.text().contains("token"), "{}", served.log.text());
}
