//! OCI Object Storage against the test bed `oci`: every promise of a store, and its faults.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod beds;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use beds::{answers, beds, skipped};
use jiff::{SignedDuration, Timestamp};
use leeward_remote::http::{Client, Method, Request};
use leeward_remote::oci::{Oci, Profile};
use leeward_remote::{Connection, Environment, Location, RemoteBucket, connect};
use leeward_store::bucket::{Bucket, BucketStore, Comparison, Condition, RequestClass, Requests};
use leeward_store::simulation::conformance::{Deletion, run_with};
use leeward_store::{Error, ErrorKind, Key, SharedStore, Store};

const ENDPOINT: &str = "http://127.0.0.1:12780";
const BUCKET: &str = "leeward-tests";

/// The test bed, with a bucket in it.
struct Bed {
    configuration: String,
    namespace: String,
    client: Client,
}

impl Bed {
    fn find() -> Option<Self> {
        let state = beds().join("oci/state");
        let Ok(site) = std::fs::read_to_string(state.join("site.json")) else {
            return skipped("the test bed oci was never started");
        };
        if !answers(ENDPOINT) {
            return skipped(&format!("the test bed oci is not up: nobody answers at {ENDPOINT}"));
        }
        let site: serde_json::Value = serde_json::from_str(&site).unwrap();
        let bed = Self {
            configuration: state.join("config").to_str().unwrap().to_owned(),
            namespace: site["namespace"].as_str().unwrap().to_owned(),
            client: Client::new(Arc::new(Requests::default())).unwrap(),
        };
        connect(&bed.location(BUCKET, "x"), &bed.environment("DEFAULT")).unwrap().bare.make().unwrap();
        Some(bed)
    }

    fn environment(&self, profile: &str) -> Environment {
        Environment::of(&[("OCI_CONFIG_FILE", &self.configuration), ("OCI_PROFILE", profile)])
    }

    fn location(&self, bucket: &str, prefix: &str) -> Location {
        let text = format!("oci://{bucket}@{}/{prefix}?endpoint={ENDPOINT}", self.namespace);
        Location::parse(&text).unwrap().unwrap()
    }

    fn prefix() -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
    }

    /// A connection to a prefix that nobody else has, and that prefix.
    fn connect(&self) -> (Connection, String) {
        let prefix = Self::prefix();
        (connect(&self.location(BUCKET, &prefix), &self.environment("DEFAULT")).unwrap(), prefix)
    }

    /// Makes the next requests fail whose target holds `matching`.
    fn fault(&self, matching: &str, mut rule: serde_json::Value) {
        rule["match"] = matching.into();
        let request = Request::new(Method::POST, ENDPOINT, "/_control/faults")
            .header("content-type", "application/json")
            .body(&[rule.to_string().as_bytes()]);
        let response = self.client.send(request, RequestClass::Other).unwrap();
        assert!(response.is_success(), "{rule}: {}", String::from_utf8_lossy(&response.body));
    }
}

fn store(connection: &Connection) -> BucketStore {
    BucketStore::new(connection.bucket.clone(), Comparison::Native).unwrap()
}

fn key(name: &str) -> Key {
    Key::under("things", name).unwrap()
}

#[test]
fn oracles_object_storage_is_a_store() {
    let Some(bed) = Bed::find() else { return };
    let (connection, _) = bed.connect();
    let store: SharedStore = Arc::new(store(&connection));
    run_with(&store, Deletion::IsToldToSome);
    println!("requests: {}", connection.requests.counts());
}

#[test]
fn a_write_whose_answer_is_lost_is_settled() {
    let Some(bed) = Bed::find() else { return };
    let (connection, prefix) = bed.connect();
    let store = store(&connection);
    let faults = [
        serde_json::json!({"operation": "PutObject", "phase": "after", "status": 500}),
        serde_json::json!({"operation": "PutObject", "phase": "after", "action": "disconnect"}),
        serde_json::json!({"operation": "PutObject", "status": 503}),
        serde_json::json!({"operation": "PutObject", "status": 429, "headers": {"retry-after": "1"}}),
        serde_json::json!({"operation": "PutObject", "action": "disconnect", "after_bytes": 100_000}),
    ];
    for (number, fault) in faults.iter().enumerate() {
        let key = key(&format!("lost-{number}"));
        let (first, second) = (vec![1; 300_000], vec![2; 300_001]);
        bed.fault(&prefix, fault.clone());
        store.put_if_absent(&key, &[&first]).unwrap_or_else(|error| panic!("{fault}: {error}"));
        let again = store.put_if_absent(&key, &[b"other"]).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists, "{fault}");
        let (content, version) = store.get(&key, 1 << 20).unwrap();
        assert!(content == first, "{fault}");
        bed.fault(&prefix, fault.clone());
        store.put_if_match(&key, &second, &version).unwrap_or_else(|error| panic!("{fault}: {error}"));
        assert!(store.get(&key, 1 << 20).unwrap().0 == second, "{fault}");
        let stale = store.put_if_match(&key, &first, &version).unwrap_err();
        assert_eq!(stale.kind(), ErrorKind::Conflict, "{fault}");
    }
}

#[test]
fn a_read_that_breaks_off_is_never_taken_for_whole() {
    let Some(bed) = Bed::find() else { return };
    let (connection, prefix) = bed.connect();
    let content: Vec<u8> = (0..500_000_u32).map(|number| (number % 251) as u8).collect();
    connection.bucket.write(&key("cut"), &[&content], Condition::Always).unwrap();
    let fault = serde_json::json!({"operation": "GetObject", "action": "truncate", "after_bytes": 70_000});
    for range in [None, Some(1000..400_000_u64)] {
        bed.fault(&prefix, fault.clone());
        let error = connection.bare.read(&key("cut"), range.clone(), 1 << 20).unwrap_err();
        assert!(error.is_transient(), "{error}");
        bed.fault(&prefix, fault.clone());
        let read = connection.bucket.read(&key("cut"), range.clone(), 1 << 20).unwrap();
        let expected = range.map_or(&content[..], |range| &content[range.start as usize..range.end as usize]);
        assert!(read.content == expected);
        assert_eq!(read.size, 500_000);
    }
    for operation in ["HeadObject", "ListObjects", "DeleteObject"] {
        bed.fault(&prefix, serde_json::json!({"operation": operation, "status": 500, "count": 2}));
    }
    assert_eq!(connection.bucket.head(&key("cut")).unwrap().size, 500_000);
    assert_eq!(connection.bucket.list("things").unwrap().len(), 1);
    connection.bucket.delete(&key("cut")).unwrap();
    connection.bucket.delete(&key("cut")).unwrap();
    assert!(connection.bucket.list("things").unwrap().is_empty());
}

#[test]
fn a_service_that_is_asked_too_much_says_how_long_to_wait() {
    let Some(bed) = Bed::find() else { return };
    let (connection, prefix) = bed.connect();
    bed.fault(
        &prefix,
        serde_json::json!({"operation": "HeadObject", "status": 429, "headers": {"retry-after": "7"}}),
    );
    let error = connection.bare.head(&key("x")).unwrap_err();
    assert!(matches!(error, Error::Throttled { wait: Some(wait), .. } if wait.as_secs() == 7), "{error:?}");
}

#[test]
fn a_listing_has_all_of_its_pages() {
    let Some(bed) = Bed::find() else { return };
    let (connection, _) = bed.connect();
    const OBJECTS: usize = 1010;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let bucket = &connection.bucket;
            scope.spawn(move || {
                for number in (thread..OBJECTS).step_by(8) {
                    bucket.write(&key(&format!("{number:04}%2Fa")), &[b"x"], Condition::Always).unwrap();
                }
            });
        }
    });
    let before = connection.requests.counts().list;
    let listed = connection.bucket.list("things").unwrap();
    assert_eq!(connection.requests.counts().list - before, 2, "pages");
    assert!(
        listed.iter().map(|entry| entry.key.clone()).eq((0..OBJECTS).map(|n| key(&format!("{n:04}%2Fa"))))
    );
    std::thread::scope(|scope| {
        for part in listed.chunks(OBJECTS / 7) {
            let bucket = &connection.bucket;
            scope.spawn(move || part.iter().for_each(|entry| bucket.delete(&entry.key).unwrap()));
        }
    });
}

#[test]
fn what_is_wrong_with_the_account_is_told() {
    let Some(bed) = Bed::find() else { return };
    let list = |location: &Location, profile: &str| {
        connect(location, &bed.environment(profile)).unwrap().bare.list("things").unwrap_err()
    };
    let stranger = list(&bed.location(BUCKET, "x"), "STRAY");
    assert_eq!(stranger.kind(), ErrorKind::Denied);
    assert!(stranger.to_string().contains("fingerprint"), "{stranger}");
    let missing = list(&bed.location("no-such-bucket", "x"), "DEFAULT");
    assert!(missing.to_string().contains("oci os bucket create"), "{missing}");
    let elsewhere =
        Location::parse(&format!("oci://{BUCKET}@nowhere/x?endpoint={ENDPOINT}")).unwrap().unwrap();
    let elsewhere = list(&elsewhere, "DEFAULT");
    assert!(elsewhere.to_string().contains("oci os ns get"), "{elsewhere}");
    let unnamed = Location::parse(&format!("oci://{BUCKET}?endpoint={ENDPOINT}")).unwrap().unwrap();
    let unnamed = connect(&unnamed, &bed.environment("DEFAULT")).err().unwrap();
    assert!(unnamed.to_string().contains("BUCKET@NAMESPACE"), "{unnamed}");
}

#[test]
fn a_wrong_clock_is_named_with_its_difference() {
    let Some(bed) = Bed::find() else { return };
    let location = bed.location(BUCKET, &Bed::prefix());
    for (hours, told) in [(2, "2 h 0 min 0 s ahead of"), (-3, "behind")] {
        let profile = Profile::find(&bed.environment("DEFAULT")).unwrap();
        let clock = move || Timestamp::now() + SignedDuration::from_hours(hours);
        let service = Oci::of(&location, profile).unwrap().with_clock(Arc::new(clock));
        let bucket = RemoteBucket::new(Box::new(service), bed.client.clone(), "oci", "");
        let error = bucket.list("things").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        let text = error.to_string();
        // A second may pass between the two clocks.
        let told = told.replace("0 min 0 s ahead of", "");
        assert!(text.contains(&told) && text.contains("set this machine's clock"), "{text}");
    }
}

#[test]
fn the_settings_of_a_bucket_are_read() {
    let Some(bed) = Bed::find() else { return };
    let (connection, _) = bed.connect();
    let settings = connection.bare.settings();
    assert_eq!(settings.versioning.value(), Some(&false), "{settings:?}");
}
