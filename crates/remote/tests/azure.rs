//! Azure Blob Storage, on Microsoft's emulator: every promise of a store, both kinds of credentials, large objects, and what is
//! said when something is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod beds;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use beds::azurite::{ACCOUNT, Azurite, CONTAINER, KEY};
use leeward_remote::{Environment, Location, connect, probe};
use leeward_store::bucket::{BucketStore, Comparison, Condition};
use leeward_store::simulation::Random;
use leeward_store::simulation::conformance::{Deletion, run_with};
use leeward_store::{ErrorKind, Key, SharedStore};

fn key(name: &str) -> Key {
    Key::under("things", name).unwrap()
}

/// A shared access signature for the container, as Microsoft's documentation has it ("Create a service SAS").
fn signature(permissions: &str, expiry: &str) -> String {
    let fields = [
        permissions,
        "",
        expiry,
        &format!("/blob/{ACCOUNT}/{CONTAINER}"),
        "",
        "",
        "",
        "2021-12-02",
        "c",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
    ];
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(KEY).unwrap());
    let signed = STANDARD.encode(hmac::sign(&secret, fields.join("\n").as_bytes()));
    let escaped = signed.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("?sv=2021-12-02&sr=c&sp={permissions}&se={}&sig={escaped}", expiry.replace(':', "%3A"))
}

#[test]
fn the_emulator_of_azure_is_a_store() {
    let Some(azurite) = Azurite::start() else { return };
    let connection = azurite.connect();
    let store: SharedStore = Arc::new(BucketStore::new(connection.bucket, Comparison::Native).unwrap());
    run_with(&store, Deletion::IsToldToSome);
    println!("requests: {}", connection.requests.counts());
}

#[test]
fn a_probe_finds_that_it_compares() {
    let Some(azurite) = Azurite::start() else { return };
    let connection = azurite.connect();
    let abilities = probe::probe(connection.bare.as_ref()).unwrap();
    for row in abilities.rows() {
        println!("{:<26} {:<8} {}", row.ability, row.state, row.meaning);
    }
    assert_eq!(abilities.comparison(), Comparison::Native);
    assert_eq!(abilities.unfit(), None);
    assert!(connection.bucket.list("probe").unwrap().is_empty(), "a probe leaves nothing");
}

#[test]
fn a_listing_has_all_its_pages() {
    if std::env::var_os("LEEWARD_LONG_LISTINGS").is_none() {
        println!("SKIPPED: a listing of more than 5,000 blobs; set LEEWARD_LONG_LISTINGS=1");
        return;
    }
    let Some(azurite) = Azurite::start() else { return };
    let bucket = azurite.connect().bucket;
    // A page has 5,000 blobs at most.
    let (count, next) = (5_010, AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= count {
                        return;
                    }
                    bucket.write(&key(&format!("{number:05}")), &[b"x"], Condition::Absent).unwrap();
                }
            });
        }
    });
    let listed = bucket.list("things").unwrap();
    assert!(listed.iter().enumerate().all(|(number, entry)| *entry.key.name() == format!("{number:05}")));
    assert_eq!(listed.len(), count);
}

#[test]
fn a_large_object_is_written_in_blocks_by_one_of_two_writers() {
    let Some(azurite) = Azurite::start() else { return };
    let connection = azurite.connect();
    let bucket = &connection.bucket;
    let mut content = vec![0; (64 << 20) + 12_345];
    Random::new(5).fill(&mut content);
    let written: Vec<bool> = std::thread::scope(|scope| {
        let write = |first: u8| {
            let content = &content;
            move || bucket.write(&key("large"), &[&[first], content], Condition::Absent)
        };
        let racers = [scope.spawn(write(0)), scope.spawn(write(1))];
        racers.into_iter().map(|racer| racer.join().unwrap().is_ok()).collect()
    });
    let winner = written.iter().position(|won| *won).expect("nobody won") as u8;
    assert_eq!(written.iter().filter(|won| **won).count(), 1, "two have won");
    let read = bucket.read(&key("large"), None, u64::MAX).unwrap();
    assert!(read.content[0] == winner && read.content[1..] == content, "the blocks of two writers are mixed");
    let range = (64 << 20) - 10..(64 << 20) + 10;
    let part = bucket.read(&key("large"), Some(range.clone()), u64::MAX).unwrap();
    assert!(part.content == read.content[range.start as usize..range.end as usize]);
    assert_eq!(part.size, read.content.len() as u64);
    let late = bucket.write(&key("large"), &[&content], Condition::Absent);
    assert_eq!(late.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let tag = read.tag.unwrap();
    bucket.write(&key("large"), &[&content, b"new"], Condition::Matches(&tag)).unwrap();
    let late = bucket.write(&key("large"), &[&content, b"old"], Condition::Matches(&tag));
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(bucket.head(&key("large")).unwrap().size, content.len() as u64 + 3);
    assert_eq!(bucket.list("things").unwrap().len(), 1);
}

#[test]
fn a_shared_access_signature_is_enough_and_goes_no_further() {
    let Some(azurite) = Azurite::start() else { return };
    let connected = |token: &str| {
        connect(&azurite.location("sas"), &Environment::of(&[("AZURE_STORAGE_SAS_TOKEN", token)])).unwrap()
    };
    let all = connected(&signature("racwdl", "2099-01-01T00:00:00Z")).bucket;
    all.write(&key("a"), &[b"content"], Condition::Absent).unwrap();
    assert_eq!(all.read(&key("a"), Some(1..3), 10).unwrap().content, b"on");
    assert_eq!(all.list("things").unwrap().len(), 1);
    let reader = connected(&signature("rl", "2099-01-01T00:00:00Z")).bucket;
    assert_eq!(reader.read(&key("a"), None, 10).unwrap().content, b"content");
    let error = reader.write(&key("b"), &[b"x"], Condition::Always).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let expired = signature("racwdl", "2020-01-01T00:00:00Z");
    let error = connected(&expired).bucket.read(&key("a"), None, 10).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let (text, secret) = (error.to_string(), expired.split("sig=").nth(1).unwrap());
    assert!(text.contains("expired") && text.contains("AZURE_STORAGE_SAS_TOKEN"), "{text}");
    assert!(!text.contains(secret), "{text}");
    all.delete(&key("a")).unwrap();
}

#[test]
fn a_connection_string_is_enough() {
    let Some(azurite) = Azurite::start() else { return };
    let text = format!(
        "DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={};",
        azurite.endpoint
    );
    let location = Location::parse(&format!("azure://{CONTAINER}/string")).unwrap().unwrap();
    let connection =
        connect(&location, &Environment::of(&[("AZURE_STORAGE_CONNECTION_STRING", &text)])).unwrap();
    connection.bucket.write(&key("a"), &[b"x"], Condition::Absent).unwrap();
    connection.bucket.delete(&key("a")).unwrap();
}

#[test]
fn what_is_wrong_is_named_with_the_next_step() {
    let Some(azurite) = Azurite::start() else { return };
    let refused = |container: &str, key: &str| {
        let location = Location::parse(&azurite.url(container, "x")).unwrap().unwrap();
        let environment = Environment::of(&[("AZURE_STORAGE_KEY", key)]);
        connect(&location, &environment).unwrap().bare.list("things").unwrap_err().to_string()
    };
    let text = refused("not-there", KEY);
    assert!(text.contains("ContainerNotFound") && text.contains("az storage container create"), "{text}");
    let text = refused(CONTAINER, "d3Jvbmc=");
    assert!(text.contains("AZURE_STORAGE_KEY") && text.contains(ACCOUNT), "{text}");
    assert!(!text.contains("d3Jvbmc="), "{text}");
}

#[test]
fn the_connection_to_an_emulator_that_was_stopped_fails_without_the_signature() {
    let Some(azurite) = Azurite::start() else { return };
    let token = signature("racwdl", "2099-01-01T00:00:00Z");
    let environment = Environment::of(&[("AZURE_STORAGE_SAS_TOKEN", token.as_str())]);
    let connection = connect(&azurite.location("gone"), &environment).unwrap();
    drop(azurite);
    let error = connection.bare.list("things").unwrap_err();
    assert!(error.is_transient() && !error.to_string().contains("sig="), "{error}");
}
