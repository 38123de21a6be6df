//! Users' objects: one suite for every kind of place, run on a directory and on the servers of the test beds that are up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod beds;

use std::sync::atomic::{AtomicU32, Ordering};

use beds::{Server, answers, beds, skipped};
use leeward_remote::http::Bytes;
use leeward_remote::objects::{DirectoryObjects, Existing, Metadata, Objects, Part, open};
use leeward_remote::{Environment, Location, connect};
use leeward_store::ErrorKind;

/// Bytes that differ everywhere.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 7 * 31 + at % 251) as u8).collect()
}

fn md5(content: &[u8]) -> String {
    use md5::Digest as _;
    md5::Md5::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn metadata(pairs: &[(&str, &str)]) -> Metadata {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Ceph's gateway gives dashes back for underscores.
fn spelled(told: &Metadata) -> Metadata {
    told.iter().map(|(key, value)| (key.replace('-', "_"), value.clone())).collect()
}

/// What every place promises.
fn conforms(objects: &dyn Objects) {
    let small = content(100_000);
    let told = metadata(&[("ad_number", "2"), ("display_name", "web 1.old")]);
    let name = "a b/dümmy+disk (1)%.qcow2";
    let put = objects.put(name, &mut small.as_slice(), &told).unwrap();
    let head = objects.head(name).unwrap();
    assert_eq!((head.bytes, spelled(&head.metadata)), (100_000, told.clone()));
    assert_eq!(head.version, put);
    assert!(head.digests.md5.is_none_or(|stated| stated == md5(&small)));
    assert_eq!(objects.read(name, 0..100_000, &head.version).unwrap(), small);
    assert_eq!(objects.read(name, 5..9, &head.version).unwrap(), small[5..9]);
    assert_eq!(objects.read(name, 99_999..100_000, &head.version).unwrap(), small[99_999..]);
    assert!(objects.read(name, 99_999..100_001, &head.version).is_err(), "past the end");

    // Replaced: the old version is not to be had, and not mixed with the new one.
    let other = content(100_000).into_iter().rev().collect::<Vec<_>>();
    std::thread::sleep(std::time::Duration::from_millis(20));
    objects.put(name, &mut other.as_slice(), &Metadata::new()).unwrap();
    let refused = objects.read(name, 5..9, &head.version).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    assert!(objects.head(name).unwrap().metadata.is_empty());

    // Large ones travel in parts, and come back whole.
    let large = content((16 << 20) + 12_345);
    let made = objects.put("large.raw", &mut large.as_slice(), &told).unwrap();
    let head = objects.head("large.raw").unwrap();
    assert_eq!((head.bytes, &head.version), (large.len() as u64, &made));
    assert_eq!(spelled(&head.metadata), told);
    let part = (16 << 20) - 10..(16 << 20) + 10;
    assert_eq!(
        objects.read("large.raw", part.clone(), &head.version).unwrap(),
        large[part.start as usize..part.end as usize]
    );
    println!("{}: {:?}", objects.name(), head.digests);

    let names = |prefix: &str, after: Option<&str>| {
        let page = objects.list(prefix, after).unwrap();
        page.objects.into_iter().map(|listed| listed.name).collect::<Vec<_>>()
    };
    assert_eq!(names("", None), [name, "large.raw"]);
    assert_eq!(names("a b/", None), [name]);
    assert_eq!(names("", Some(name)), ["large.raw"]);
    assert!(names("none", None).is_empty());

    for hostile in ["../x", "a/../../x", "/etc/passwd", "", "a//b", "a\nb", "%2e%2e/x"] {
        assert!(objects.head(hostile).is_err(), "{hostile:?}");
        assert!(objects.put(hostile, &mut small.as_slice(), &Metadata::new()).is_err(), "{hostile:?}");
    }
    for name in [name, "large.raw"] {
        objects.delete(name).unwrap();
        objects.delete(name).unwrap();
        assert_eq!(objects.head(name).unwrap_err().kind(), ErrorKind::NotFound);
    }
    println!("{}: {:?}", objects.name(), objects.requests().map(|counts| counts.to_string()));
}

/// What every place promises that takes objects in parts.
fn comes_in_parts(objects: &dyn Objects) {
    let parts = objects.parts().unwrap();
    let whole = content((10 << 20) * 2 + 4321);
    let told = metadata(&[("leeward-export", "run-1")]);
    let name = "in parts/a b+%.qcow2";
    let send = |upload: &str, order: &[u32]| -> Vec<String> {
        let mut tags = std::collections::BTreeMap::new();
        for number in order {
            let offset = (*number as usize - 1) * (10 << 20);
            let piece = &whole[offset..whole.len().min(offset + (10 << 20))];
            let part =
                Part { number: *number, offset: offset as u64, content: Bytes::copy_from_slice(piece) };
            tags.insert(*number, parts.send(name, upload, &part).unwrap());
        }
        tags.into_values().collect()
    };
    let bytes = whole.len() as u64;
    assert!(parts.unfinished(name).unwrap().is_empty());
    let given_up = parts.begin(name, &told).unwrap();
    let upload = parts.begin(name, &told).unwrap();
    let other = parts.begin("in parts/a b+%.qcow2.other", &told).unwrap();
    let mut found = parts.unfinished(name).unwrap();
    found.sort();
    let mut expected = vec![given_up.clone(), upload.clone()];
    expected.sort();
    assert_eq!(found, expected);
    send(&given_up, &[1]);
    // In any order, and again.
    let tags = send(&upload, &[3, 1, 2, 1]);
    assert_eq!(objects.head(name).unwrap_err().kind(), ErrorKind::NotFound, "nobody sees anything yet");
    assert!(objects.list("in parts/", None).unwrap().objects.is_empty());
    let version = parts.complete(name, &upload, &tags, bytes, Existing::Keep).unwrap();
    let head = objects.head(name).unwrap();
    let same = |one: &str, other: &str| one.trim_matches('"') == other.trim_matches('"');
    assert!(same(&head.version.0, &version.0), "{head:?} {version:?}");
    assert_eq!((head.bytes, &head.metadata), (bytes, &told));
    let read: Vec<u8> = [0..5 << 20, 5 << 20..bytes]
        .into_iter()
        .flat_map(|range| objects.read(name, range, &head.version).unwrap())
        .collect();
    assert!(read == whole);

    // What is there stays, unless it is to be replaced.
    let tags = send(&given_up, &[1, 2, 3]);
    let refused = parts.complete(name, &given_up, &tags, bytes, Existing::Keep).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists, "{refused}");
    assert!(same(&objects.head(name).unwrap().version.0, &head.version.0));
    let again = parts.begin(name, &told).unwrap();
    let tags = send(&again, &[1, 2, 3]);
    parts.complete(name, &again, &tags[..], bytes, Existing::Replace).unwrap();

    for upload in parts.unfinished(name).unwrap() {
        parts.abort(name, &upload).unwrap();
        parts.abort(name, &upload).unwrap();
    }
    parts.abort(name, &given_up).unwrap();
    assert!(parts.unfinished(name).unwrap().is_empty());
    assert_eq!(parts.unfinished("in parts/a b+%.qcow2.other").unwrap(), std::slice::from_ref(&other));
    parts.abort("in parts/a b+%.qcow2.other", &other).unwrap();
    let part = Part { number: 1, offset: 0, content: Bytes::from_static(b"late") };
    assert!(parts.send(name, &given_up, &part).is_err(), "it was given up");
    assert!(parts.begin("../x", &told).is_err());
    objects.delete(name).unwrap();
}

fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("objects-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
}

#[test]
fn a_directory_holds_objects() {
    let folder = tempfile::tempdir().unwrap();
    let objects = DirectoryObjects::open(folder.path()).unwrap();
    conforms(&objects);
    comes_in_parts(&objects);
    let left: Vec<_> = std::fs::read_dir(folder.path().join("in parts")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // Nothing else is opened by the name of an upload.
    let part = Part { number: 1, offset: 0, content: Bytes::from_static(b"x") };
    for hostile in ["../x", "", "large.raw", "/etc/passwd"] {
        assert!(objects.parts().unwrap().send("a", hostile, &part).is_err(), "{hostile:?}");
    }
}

/// All names in a directory.
fn names_in(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_whose_making_broke_off_before_its_metadata_is_known_by_them() {
    for existing in [Existing::Keep, Existing::Replace] {
        for goes_on in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let objects = DirectoryObjects::open(folder.path()).unwrap();
            let (parts, mine) = (objects.parts().unwrap(), metadata(&[("leeward-export", "mine")]));
            if existing == Existing::Replace {
                objects.put("a.raw", &mut &b"before"[..], &metadata(&[("leeward-export", "other")])).unwrap();
            }
            let upload = parts.begin("a.raw", &mine).unwrap();
            let part = Part { number: 1, offset: 0, content: Bytes::from_static(b"whole") };
            let tags = [parts.send("a.raw", &upload, &part).unwrap()];
            // As a process leaves it that dies right after the file was given its name.
            let (hidden, place) = (folder.path().join(&upload), folder.path().join("a.raw"));
            let _ = std::fs::remove_file(&place);
            std::fs::hard_link(hidden, &place).unwrap();
            let head = objects.head("a.raw").unwrap();
            assert_eq!((head.bytes, &head.metadata), (5, &mine), "{existing:?}");
            if goes_on {
                let version = parts.complete("a.raw", &upload, &tags, 5, existing).unwrap();
                assert_eq!(version, head.version);
            } else {
                parts.abort("a.raw", &upload).unwrap();
            }
            assert_eq!(objects.head("a.raw").unwrap(), head);
            assert_eq!(names_in(folder.path()), ["a.raw", "a.raw.leeward.json"]);
        }
    }
}

#[test]
fn giving_up_leaves_what_another_upload_has_made() {
    let folder = tempfile::tempdir().unwrap();
    let objects = DirectoryObjects::open(folder.path()).unwrap();
    let parts = objects.parts().unwrap();
    let [one, other] =
        ["one", "other"].map(|run| parts.begin("a.raw", &metadata(&[("leeward-export", run)])).unwrap());
    std::fs::hard_link(folder.path().join(&one), folder.path().join("a.raw")).unwrap();
    parts.abort("a.raw", &other).unwrap();
    assert_eq!(objects.head("a.raw").unwrap().metadata, metadata(&[("leeward-export", "one")]));
    objects.delete("a.raw").unwrap();
    parts.abort("a.raw", &one).unwrap();
    assert_eq!(names_in(folder.path()), [""; 0]);
}

#[test]
fn links_pipes_and_hidden_files_are_no_objects() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("bucket");
    std::fs::create_dir_all(place.join("sub")).unwrap();
    std::fs::write(folder.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../secret", place.join("link.raw")).unwrap();
    std::os::unix::fs::symlink("..", place.join("out")).unwrap();
    std::fs::write(place.join(".hidden"), "x").unwrap();
    std::fs::write(place.join("sub/real.raw"), "x").unwrap();
    std::fs::write(place.join("sub/real.raw.leeward.json"), r#"{"Ad_Number": "1"}"#).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let objects = DirectoryObjects::open(&place).unwrap();
    let listed: Vec<_> =
        objects.list("", None).unwrap().objects.into_iter().map(|found| found.name).collect();
    assert_eq!(listed, ["sub/real.raw"]);
    assert_eq!(objects.head("sub/real.raw").unwrap().metadata, metadata(&[("ad_number", "1")]));
    for no in ["link.raw", "out/secret", ".hidden", "pipe", "sub", "sub/real.raw.leeward.json"] {
        assert!(objects.head(no).is_err(), "{no}");
    }
    std::fs::write(place.join("sub/real.raw.leeward.json"), "[1]").unwrap();
    assert!(objects.head("sub/real.raw").unwrap_err().to_string().contains("leeward.json"));
}

#[test]
fn the_gateway_of_ceph_holds_objects_for_s3_and_swift() {
    let Some(server) = Server::ceph() else { return };
    let location = server.location(&server.bucket, &prefix()).to_string();
    let objects = open(&location, &server.environment()).unwrap();
    conforms(objects.as_ref());
    comes_in_parts(objects.as_ref());
    let text = std::fs::read_to_string(beds().join("ceph/env")).unwrap();
    let value = |name: &str| {
        let at = text.find(&format!("{name}=")).unwrap() + name.len() + 1;
        text[at..].split_whitespace().next().unwrap().to_owned()
    };
    let (auth, user, key) = (value("ST_AUTH"), value("ST_USER"), value("ST_KEY"));
    let environment = Environment::of(&[("ST_AUTH", &auth), ("ST_USER", &user), ("ST_KEY", &key)]);
    let location = format!("swift://leeward-tests/{}", prefix());
    let swift = open(&location, &environment).unwrap();
    let small = content(1000);
    let version = swift.put("x y.raw", &mut small.as_slice(), &metadata(&[("ad_number", "1")])).unwrap();
    let head = swift.head("x y.raw").unwrap();
    assert_eq!((head.bytes, head.digests.md5.as_deref()), (1000, Some(md5(&small).as_str())));
    assert_eq!(spelled(&head.metadata), metadata(&[("ad_number", "1")]));
    assert_eq!(swift.read("x y.raw", 10..20, &version).unwrap(), small[10..20]);
    assert_eq!(swift.list("", None).unwrap().objects[0].name, "x y.raw");
    swift.put("x y.raw", &mut content(2000).as_slice(), &Metadata::new()).unwrap();
    assert_eq!(swift.read("x y.raw", 10..20, &version).unwrap_err().kind(), ErrorKind::Conflict);
    swift.delete("x y.raw").unwrap();
    comes_in_parts(swift.as_ref());
    segments_come_and_go_with_their_object(&location, &environment);
}

/// What a container holds, and that of its segments: the names that begin with a prefix, of other tests not.
fn segments_come_and_go_with_their_object(location: &str, environment: &Environment) {
    let swift = open(location, environment).unwrap();
    let parts = swift.parts().unwrap();
    let beside = location.replace("leeward-tests/", "leeward-tests_segments/");
    let segments = |name: &str| {
        let whole = format!("{}/{name}", location.rsplit_once('/').unwrap().1);
        let under = beside.rsplit_once('/').unwrap().0;
        let listed =
            open(under, environment).unwrap().list(&format!("leeward/{}/", md5(whole.as_bytes())), None);
        listed.unwrap().objects.into_iter().map(|object| object.name).collect::<Vec<_>>()
    };
    let write = |name: &str, text: &'static [u8]| {
        let upload = parts.begin(name, &metadata(&[("leeward-export", "run-1")])).unwrap();
        let part = |number: u32, content: &'static [u8]| {
            let part = Part { number, offset: 0, content: Bytes::from_static(content) };
            parts.send(name, &upload, &part).unwrap()
        };
        let (one, other) = text.split_at(text.len() / 2);
        let tags = [part(1, one), part(2, other)];
        (upload, tags)
    };
    // One takes the place of another, and what that was made of goes.
    for (text, existing) in [
        (&b"the first one"[..], Existing::Keep),
        (b"the second", Existing::Replace),
        (b"", Existing::Replace),
    ] {
        let (upload, tags) = write("a.raw", text);
        let bytes = text.len() as u64;
        let version = parts.complete("a.raw", &upload, &tags, bytes, existing).unwrap();
        let head = swift.head("a.raw").unwrap();
        assert_eq!((head.bytes, &head.version), (bytes, &version));
        assert_eq!(head.metadata, metadata(&[("leeward-export", "run-1")]));
        let left = segments("a.raw");
        assert_eq!(left.len(), if text.is_empty() { 0 } else { 2 }, "{left:?}");
        if bytes > 0 {
            assert_eq!(swift.read("a.raw", 1..bytes, &version).unwrap(), text[1..]);
            let stale =
                leeward_remote::objects::ObjectVersion("\"0123456789abcdef0123456789abcdef\"".to_owned());
            assert_eq!(swift.read("a.raw", 1..bytes, &stale).unwrap_err().kind(), ErrorKind::Conflict);
        }
    }
    swift.delete("a.raw").unwrap();
    let (upload, tags) = write("b.raw", b"whole");
    parts.complete("b.raw", &upload, &tags, 5, Existing::Keep).unwrap();
    // As a process leaves it that died before it took the marker away.
    let under = open(beside.rsplit_once('/').unwrap().0, environment).unwrap();
    let first = segments("b.raw").remove(0);
    let marker = format!("{}/upload", first.rsplit_once('/').unwrap().0);
    under.put(&marker, &mut &b""[..], &Metadata::new()).unwrap();
    assert_eq!(parts.unfinished("b.raw").unwrap(), std::slice::from_ref(&upload));
    parts.abort("b.raw", &upload).unwrap();
    assert_eq!(parts.unfinished("b.raw").unwrap(), [""; 0]);
    let head = swift.head("b.raw").unwrap();
    assert_eq!(swift.read("b.raw", 0..5, &head.version).unwrap(), b"whole");
    // A small one in its place leaves nothing of it either.
    swift.put("b.raw", &mut &b"small"[..], &Metadata::new()).unwrap();
    assert_eq!(segments("b.raw"), [""; 0]);
    swift.delete("b.raw").unwrap();
    let (upload, tags) = write("c.raw", b"whole");
    parts.complete("c.raw", &upload, &tags, 5, Existing::Keep).unwrap();
    swift.delete("c.raw").unwrap();
    swift.delete("c.raw").unwrap();
    assert_eq!(segments("c.raw"), [""; 0]);
    assert!(swift.list("", None).unwrap().objects.is_empty());
}

#[test]
fn oci_holds_objects() {
    let endpoint =
        format!("http://127.0.0.1:{}", std::env::var("OCI_PORT").unwrap_or_else(|_| "12780".to_owned()));
    let state = beds().join("oci/state");
    let Ok(site) = std::fs::read_to_string(state.join("site.json")) else {
        return skipped("the test bed oci was never started").unwrap_or_default();
    };
    if !answers(&endpoint) {
        return skipped(&format!("the test bed oci is not up: nobody answers at {endpoint}"))
            .unwrap_or_default();
    }
    let site: serde_json::Value = serde_json::from_str(&site).unwrap();
    let configuration = state.join("config").to_str().unwrap().to_owned();
    let environment = Environment::of(&[("OCI_CONFIG_FILE", &configuration)]);
    let namespace = site["namespace"].as_str().unwrap();
    let location = format!("oci://leeward-tests@{namespace}/{}?endpoint={endpoint}", prefix());
    connect(&Location::parse(&location).unwrap().unwrap(), &environment).unwrap().bare.make().unwrap();
    let objects = open(&location, &environment).unwrap();
    conforms(objects.as_ref());
    comes_in_parts(objects.as_ref());
}
