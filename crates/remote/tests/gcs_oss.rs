//! Google Cloud Storage and Aliyun OSS on servers that stand in for them: see `beds/stand_in.rs` for what that proves, and what
//! not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod beds;

use beds::stand_in::{ACCESS_KEY, Dialect, SECRET, StandIn};
use leeward_remote::{Connection, Environment, Known, Location, connect, probe, store};
use leeward_store::bucket::{Comparison, Condition};
use leeward_store::simulation::conformance::{Deletion, run_with};
use leeward_store::{ErrorKind, Key};

const BUCKET: &str = "bucket";

fn key(name: &str) -> Key {
    Key::under("things", name).unwrap()
}

fn location(server: &StandIn, dialect: Dialect, bucket: &str) -> Location {
    let endpoint = &server.endpoint;
    let text = match dialect {
        Dialect::Google => format!("gs://{bucket}/prefix?endpoint={endpoint}"),
        Dialect::Aliyun => {
            format!("oss://{bucket}/prefix?region=cn-test&path-style=true&endpoint={endpoint}")
        }
    };
    Location::parse(&text).unwrap().unwrap()
}

fn environment(secret: &str) -> Environment {
    Environment::of(&[
        ("GS_ACCESS_KEY_ID", ACCESS_KEY),
        ("GS_SECRET_ACCESS_KEY", secret),
        ("OSS_ACCESS_KEY_ID", ACCESS_KEY),
        ("OSS_ACCESS_KEY_SECRET", secret),
    ])
}

fn connected(server: &StandIn, dialect: Dialect) -> Connection {
    connect(&location(server, dialect, BUCKET), &environment(SECRET)).unwrap()
}

#[test]
fn google_is_a_store_that_compares_generations() {
    let server = StandIn::start(Dialect::Google, BUCKET);
    let connection = connected(&server, Dialect::Google);
    let abilities = probe::probe(connection.bare.as_ref()).unwrap();
    assert_eq!(abilities.comparison(), Comparison::Native);
    assert_eq!(abilities.settings.versioning, Known::Is(false));
    assert_eq!(abilities.settings.lifecycle, Known::Is(Vec::new()));
    run_with(&store(&connection, abilities.comparison()).unwrap(), Deletion::IsToldToSome);
    assert_eq!(server.object_names(), Vec::<String>::new());
}

#[test]
fn aliyun_is_a_store_by_the_scheme_without_comparison() {
    let server = StandIn::start(Dialect::Aliyun, BUCKET);
    let connection = connected(&server, Dialect::Aliyun);
    let abilities = probe::probe(connection.bare.as_ref()).unwrap();
    assert_eq!(abilities.comparison(), Comparison::CreateOnly, "the stand-in is atomic");
    assert_eq!(abilities.settings.lifecycle, Known::Is(Vec::new()));
    // Nobody relies on that: what a probe finds counts for less than what the service promises.
    assert_eq!(connection.bare.promises(), Comparison::None);
    run_with(&store(&connection, Comparison::Native).unwrap(), Deletion::IsToldToSome);
}

#[test]
fn conditions_hold_and_names_and_ranges_come_back() {
    for dialect in [Dialect::Google, Dialect::Aliyun] {
        let server = StandIn::start(dialect, BUCKET);
        let bucket = connected(&server, dialect).bucket;
        let odd = key("web%2Froot.1_-");
        bucket.write(&odd, &[b"con", b"tent"], Condition::Absent).unwrap();
        assert_eq!(server.object_names(), ["prefix/things/web%2Froot.1_-"]);
        let late = bucket.write(&odd, &[b"late"], Condition::Absent).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::AlreadyExists, "{dialect:?}: {late}");
        let part = bucket.read(&odd, Some(2..4), 10).unwrap();
        assert_eq!((part.content.as_slice(), part.size), (&b"nt"[..], 7), "{dialect:?}");
        assert_eq!(bucket.head(&odd).unwrap().size, 7);
        for number in 0..250 {
            bucket.write(&key(&format!("{number:03}")), &[b"x"], Condition::Always).unwrap();
        }
        assert_eq!(bucket.list("things").unwrap().len(), 251, "{dialect:?}: all pages");
        bucket.delete(&odd).unwrap();
        bucket.delete(&odd).unwrap();
        assert_eq!(bucket.read(&odd, None, 10).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[test]
fn what_is_wrong_is_named_with_the_next_step() {
    for (dialect, variable) in
        [(Dialect::Google, "GS_SECRET_ACCESS_KEY"), (Dialect::Aliyun, "OSS_ACCESS_KEY_SECRET")]
    {
        let server = StandIn::start(dialect, BUCKET);
        let refused = |bucket: &str, secret: &str| {
            let connection = connect(&location(&server, dialect, bucket), &environment(secret)).unwrap();
            connection.bucket.list("things").unwrap_err()
        };
        let error = refused(BUCKET, "another secret");
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.to_string().contains(variable) && !error.to_string().contains("another"), "{error}");
        let error = refused("missing", SECRET);
        assert!(error.to_string().contains("make the bucket missing first"), "{error}");
        let nothing = Environment::of(&[]);
        let error = connect(&location(&server, dialect, BUCKET), &nothing).err().unwrap().to_string();
        assert!(error.contains(variable), "{error}");
    }
    let location = Location::parse("oss://bucket").unwrap().unwrap();
    let error = connect(&location, &environment(SECRET)).err().unwrap().to_string();
    assert!(error.contains("region=REGION"), "{error}");
}
