//! A service that answers nonsense: it is told, and costs neither memory nor time without end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod bed;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bed::Bed;
use leeward_cloud::ErrorKind;
use leeward_cloud::oci::{Oci, Settings};
use leeward_cloud::provider::{Cloud, VolumeId};

/// Answers every request with what `answer` makes of its number.
fn serve(answer: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let (counted, answer) = (Arc::clone(&count), Arc::new(answer));
    // It ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (count, answer) = (Arc::clone(&counted), Arc::clone(&answer));
            thread::spawn(move || one(&stream, || answer(count.fetch_add(1, Ordering::SeqCst))));
        }
    });
    (origin, count)
}

/// Reads one request without a body and answers it.
fn one(mut stream: &TcpStream, answer: impl FnOnce() -> Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        line.clear();
    }
    let _ = stream.write_all(&answer());
}

fn reply(head: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

fn cloud(bed: &Bed, origin: &str) -> Cloud {
    let settings = Settings { endpoint: Some(origin.to_owned()), ..bed.settings() };
    Oci::connect(&settings, &bed.environment("DEFAULT")).unwrap().cloud()
}

#[test]
fn answers_that_make_no_sense_are_told() {
    let Some(bed) = Bed::find() else { return };
    let volume = |size: &str, more: &str| {
        format!(
            r#"{{"id": "ocid1.volume.oc1..x", "sizeInGBs": {size}, "availabilityDomain": "a", "lifecycleState": "AVAILABLE"{more}}}"#
        )
    };
    let nested = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in [
        "",
        "null",
        "[]",
        "<html>captive portal</html>",
        "{\"id\": 1}",
        &nested,
        &volume("-1", ""),
        &volume("50.5", ""),
        &volume("1e99", ""),
        &volume("50", ", \"freeformTags\": [1]"),
        &volume("50", ", \"timeCreated\": \"yesterday\""),
    ] {
        let answer = reply("200 OK", body);
        let (origin, _) = serve(move |_| answer.clone());
        let told = cloud(&bed, &origin).volumes.volume(&VolumeId::new("x")).unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Protocol, "{told}");
        assert!(told.to_string().len() < 1000, "{told}");
    }
    // A size beyond all is not a crash.
    let answer = reply("200 OK", &volume(&u64::MAX.to_string(), ""));
    let (origin, _) = serve(move |_| answer.clone());
    assert_eq!(cloud(&bed, &origin).volumes.volume(&VolumeId::new("x")).unwrap().bytes, u64::MAX);
}

#[test]
fn refusals_that_make_no_sense_are_sorted_by_their_status() {
    let Some(bed) = Bed::find() else { return };
    for (head, body, kind) in [
        ("400 Bad", "<html>", ErrorKind::Refused),
        ("302 Found\r\nlocation: http://127.0.0.1:1/", "", ErrorKind::Refused),
        ("404 Not", "{\"code\": 7}", ErrorKind::NotFound),
        ("401 No\r\ndate: yesterday", "{}", ErrorKind::Denied),
        ("409 C", "{\"code\": \"\\u001b[2J\", \"message\": \"\\u0007\"}", ErrorKind::Conflict),
        ("429 T\r\nretry-after: 99999999999999999999", "", ErrorKind::Passing),
        ("503 S\r\nretry-after: Fri, 31 Dec 1999 23:59:59 GMT", "", ErrorKind::Passing),
    ] {
        let answer = reply(head, body);
        let (origin, _) = serve(move |_| answer.clone());
        let told = cloud(&bed, &origin).volumes.volume(&VolumeId::new("x")).unwrap_err();
        assert_eq!(told.kind(), kind, "{told}");
        assert!(!told.to_string().contains(['\u{1b}', '\u{7}']), "{told:?}");
    }
}

#[test]
fn answers_without_end_end() {
    let Some(bed) = Bed::find() else { return };
    let begun = Instant::now();
    // The same page for ever.
    let same = reply("200 OK\r\nopc-next-page: more", "[]");
    let (origin, count) = serve(move |_| same.clone());
    assert_eq!(cloud(&bed, &origin).volumes.volumes().unwrap_err().kind(), ErrorKind::Protocol);
    assert_eq!(count.load(Ordering::SeqCst), 2);
    // Ever new pages of many things.
    let name = r#"{"name": "AD"},"#.repeat(20_000);
    let body = format!("[{}]", name.trim_end_matches(','));
    let (origin, count) = serve(move |number| reply(&format!("200 OK\r\nopc-next-page: {number}"), &body));
    assert_eq!(cloud(&bed, &origin).volumes.domains().unwrap_err().kind(), ErrorKind::Protocol);
    assert!(count.load(Ordering::SeqCst) < 10);
    // Ever new pages of nothing.
    let (origin, count) = serve(move |number| reply(&format!("200 OK\r\nopc-next-page: {number}"), "[]"));
    assert_eq!(cloud(&bed, &origin).volumes.domains().unwrap_err().kind(), ErrorKind::Protocol);
    assert!(count.load(Ordering::SeqCst) < 2_000);
    // One answer that is too long, announced.
    let (origin, _) = serve(move |_| b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n[".to_vec());
    assert_eq!(cloud(&bed, &origin).volumes.domains().unwrap_err().kind(), ErrorKind::Protocol);
    // And not announced.
    let long = [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec(), vec![b' '; 17 << 20]].concat();
    let (origin, _) = serve(move |_| long.clone());
    assert_eq!(cloud(&bed, &origin).volumes.domains().unwrap_err().kind(), ErrorKind::Protocol);
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
}
