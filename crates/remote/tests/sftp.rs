//! SFTP on a real server of OpenSSH: every promise of a store, broken connections, and what is said when something is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod beds;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use beds::sshd::Sshd;
use leeward_remote::{Connection, Environment, Location, connect, probe, store};
use leeward_store::bucket::{Comparison, Condition};
use leeward_store::simulation::Random;
use leeward_store::simulation::conformance::{Deletion, run_with};
use leeward_store::{Error, ErrorKind, Key, Store};

fn key(name: &str) -> Key {
    Key::under("things", name).unwrap()
}

#[test]
fn a_server_of_openssh_is_a_store() {
    let Some(server) = Sshd::start() else { return };
    // Thousands of small files: a disk that many tests share would be what is measured. Everything else is synced.
    let location = Location::parse(&format!("{}?sync=false", server.url("store"))).unwrap().unwrap();
    let connection = connect(&location, &server.environment()).unwrap();
    connection.bare.make().unwrap();
    let store = store(&connection, Comparison::CreateOnly).unwrap();
    run_with(&store, Deletion::IsToldToSome);
    println!("requests: {}", connection.requests.counts());
}

#[test]
fn a_probe_finds_that_it_creates_but_does_not_compare() {
    let Some(server) = Sshd::start() else { return };
    let connection = connect(&server.location("probed"), &server.environment()).unwrap();
    let abilities = probe::probe(connection.bare.as_ref()).unwrap();
    for row in abilities.rows() {
        println!("{:<26} {:<8} {}", row.ability, row.state, row.meaning);
    }
    assert_eq!(abilities.comparison(), Comparison::CreateOnly);
    assert_eq!(abilities.unfit(), None);
    assert!(connection.bucket.list("probe").unwrap().is_empty(), "a probe leaves nothing");
}

#[test]
fn objects_of_all_sizes_come_back_whole_and_in_parts() {
    let Some(server) = Sshd::start() else { return };
    let bucket = server.connect().bucket;
    let mut content = vec![0; (20 << 20) + 12_345];
    Random::new(3).fill(&mut content);
    for size in [0, 1, 32 << 10, (255 << 10) + 1, content.len()] {
        let (first, second) = content[..size].split_at(size / 3);
        bucket.write(&key("object"), &[first, b"", second], Condition::Always).unwrap();
        let read = bucket.read(&key("object"), None, size as u64).unwrap();
        assert!(read.content == content[..size] && read.size == size as u64, "{size} bytes");
    }
    let range = 5_000_000..9_000_001_u64;
    let part = bucket.read(&key("object"), Some(range.clone()), u64::MAX).unwrap();
    assert!(part.content == content[range.start as usize..range.end as usize]);
    let end = content.len() as u64;
    let tail = bucket.read(&key("object"), Some(end - 10..end + 10), u64::MAX).unwrap();
    assert!(tail.content == content[content.len() - 10..]);
    let error = bucket.read(&key("object"), None, end - 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert_eq!(bucket.head(&key("object")).unwrap().size, end);
}

#[test]
fn one_of_several_racing_writers_creates_and_nothing_is_left_over() {
    let Some(server) = Sshd::start() else { return };
    let bucket = server.connect().bucket;
    for round in 0..10 {
        let (key, winners) = (key(&format!("race-{round}/below")), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8_u8 {
                let (bucket, key, winners) = (&bucket, &key, &winners);
                scope.spawn(move || match bucket.write(key, &[&[thread; 1000]], Condition::Absent) {
                    Ok(()) => {
                        winners.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}"),
                });
            }
        });
        assert_eq!(winners.into_inner(), 1, "round {round}");
        let content = bucket.read(&key, None, 1000).unwrap().content;
        assert!(content.len() == 1000 && content.iter().all(|byte| *byte == content[0]));
    }
    assert_eq!(bucket.list("things").unwrap().len(), 10);
    for entry in bucket.list("things").unwrap() {
        bucket.delete(&entry.key).unwrap();
        bucket.delete(&entry.key).unwrap();
    }
    assert!(bucket.list("things").unwrap().is_empty());
    let roots = std::fs::read_dir(server.data()).unwrap().map(|entry| entry.unwrap().path());
    for root in roots.filter(|root| root.join("things").is_dir()) {
        assert_eq!(std::fs::read_dir(root.join("things")).unwrap().count(), 0, "folders go with their files");
        assert_eq!(std::fs::read_dir(root.join(".leeward")).unwrap().count(), 0, "no temporary file stays");
    }
}

#[test]
fn folders_that_come_and_go_lose_no_file() {
    let Some(server) = Sshd::start() else { return };
    let bucket = server.connect().bucket;
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let bucket = &bucket;
            scope.spawn(move || {
                for round in 0..15 {
                    let key = Key::new(format!("things/shared/{thread}-{round}")).unwrap();
                    bucket.write(&key, &[b"x"], Condition::Always).unwrap();
                    assert_eq!(bucket.read(&key, None, 1).unwrap().content, b"x");
                    assert!(bucket.list("things").unwrap().iter().any(|entry| entry.key == key));
                    bucket.delete(&key).unwrap();
                }
            });
        }
    });
    assert!(bucket.list("things").unwrap().is_empty());
}

#[test]
fn leftovers_of_interrupted_writers_are_removed_after_a_week() {
    let Some(server) = Sshd::start() else { return };
    let temporary = server.data().join("swept/.leeward");
    std::fs::create_dir_all(&temporary).unwrap();
    for (name, age) in [("old", "8 days ago"), ("young", "6 days ago")] {
        std::fs::write(temporary.join(name), "left over").unwrap();
        let status = std::process::Command::new("touch").args(["-d", age]).arg(temporary.join(name)).status();
        assert!(status.unwrap().success());
    }
    let connection = connect(&server.location("swept"), &server.environment()).unwrap();
    connection.bucket.write(&key("a"), &[b"x"], Condition::Always).unwrap();
    assert!(!temporary.join("old").exists() && temporary.join("young").exists());
}

#[test]
fn a_connection_that_is_cut_is_made_again() {
    let Some(server) = Sshd::start() else { return };
    let Connection { bucket, requests, .. } = server.connect();
    bucket.write(&key("a"), &[b"before"], Condition::Always).unwrap();
    for _ in 0..3 {
        server.cut();
        assert_eq!(bucket.read(&key("a"), None, 10).unwrap().content, b"before");
    }
    let connections = requests.counts().other;
    assert!(connections >= 4, "{connections} connections");
    // In the middle of a write: another one goes on where it was begun anew.
    let content = vec![5; 64 << 20];
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| bucket.write(&key("large"), &[&content], Condition::Always));
        let begun = || {
            std::fs::read_dir(server.data()).unwrap().any(|root| {
                let temporary = std::fs::read_dir(root.unwrap().path().join(".leeward"));
                temporary.is_ok_and(|mut files| files.next().is_some())
            })
        };
        while !begun() && !writer.is_finished() {
            std::thread::yield_now();
        }
        server.cut();
        writer.join().unwrap().unwrap();
    });
    assert!(bucket.read(&key("large"), None, u64::MAX).unwrap().content == content);
}

fn refused(location: &Location, environment: &Environment) -> Error {
    connect(location, environment).unwrap().bare.list("things").unwrap_err()
}

#[test]
fn a_host_that_is_not_known_is_refused_with_its_fingerprint() {
    let Some(server) = Sshd::start() else { return };
    std::fs::write(server.path("known"), "").unwrap();
    let error = refused(&server.location("x"), &server.environment());
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Denied, "{text}");
    assert!(text.contains(&server.fingerprint()), "{text}");
    assert!(text.contains(&format!("ssh -p {} 127.0.0.1", server.port)), "the next step: {text}");
    let other = std::fs::read_to_string(server.path("stranger.pub")).unwrap();
    std::fs::write(server.path("known"), format!("[127.0.0.1]:{} {other}", server.port)).unwrap();
    let error = refused(&server.location("x"), &server.environment());
    let text = error.to_string();
    assert!(error.kind() == ErrorKind::Denied && text.contains("another host key"), "{text}");
    assert!(text.contains(&server.fingerprint()) && text.contains("ssh-keygen -R"), "{text}");
}

#[test]
fn the_key_of_a_stranger_is_refused_and_one_is_chosen_by_a_variable() {
    let Some(server) = Sshd::start() else { return };
    let config = server.path("config");
    let text = std::fs::read_to_string(&config).unwrap();
    let without_key: Vec<&str> = text.lines().filter(|line| !line.starts_with("IdentityFile")).collect();
    std::fs::write(&config, without_key.join("\n")).unwrap();
    let with = |name: &str| {
        let key = server.path(name);
        Environment::of(&[
            ("LEEWARD_SFTP_CONFIG", config.to_str().unwrap()),
            ("LEEWARD_SFTP_KEY", key.to_str().unwrap()),
        ])
    };
    let error = refused(&server.location("x"), &with("stranger"));
    let text = error.to_string();
    assert!(error.kind() == ErrorKind::Denied && text.contains("LEEWARD_SFTP_KEY"), "{text}");
    assert!(connect(&server.location("x"), &with("key")).unwrap().bare.list("things").unwrap().is_empty());
}

#[test]
fn what_is_not_there_is_named() {
    let Some(mut server) = Sshd::start() else { return };
    let bucket = connect(&server.location("not/there"), &server.environment()).unwrap();
    let text = bucket.bare.write(&key("a"), &[b"x"], Condition::Always).unwrap_err().to_string();
    assert!(text.contains("mounted"), "{text}");
    let text = bucket.bare.make().unwrap_err().to_string();
    assert!(text.contains("make it first"), "{text}");
    server.stop();
    let error = refused(&server.location("x"), &server.environment());
    assert!(error.is_transient() && error.to_string().contains("refused"), "{error}");
}

#[test]
fn a_server_without_sftp_or_with_a_shell_that_talks_is_named() {
    for (subsystem, told) in
        [("", "switch the subsystem sftp on"), ("Subsystem sftp /bin/echo Welcome", "start-up file")]
    {
        let Some(server) = Sshd::start_with(subsystem) else { return };
        let error = refused(&server.location("x"), &server.environment());
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.to_string().contains(told), "{error}");
    }
}

/// Adds a mark to an object that others change too, however often the connection is cut: who hears of an error looks whether
/// the mark is there.
fn add_mark(store: &dyn Store, key: &Key, mark: [u8; 2]) {
    const TRIES_MAX: usize = 200;
    for _ in 0..TRIES_MAX {
        let Ok((marks, version)) = store.get(key, 10_000) else { continue };
        if marks.chunks(2).any(|found| found == mark) {
            return;
        }
        let _ = store.put_if_match(key, &[&marks[..], &mark].concat(), &version);
    }
    panic!("the mark {mark:?} does not come to be there");
}

#[test]
fn changes_of_several_clients_are_made_once_though_connections_are_cut() {
    const CLIENTS: u8 = 3;
    const MARKS: u8 = 6;
    let Some(server) = Sshd::start() else { return };
    let key = Key::new("refs/shared").unwrap();
    let connected = || {
        let connection = connect(&server.location("cut"), &server.environment()).unwrap();
        store(&connection, Comparison::CreateOnly).unwrap()
    };
    connect(&server.location("cut"), &server.environment()).unwrap().bare.make().unwrap();
    connected().put_if_absent(&key, &[]).unwrap();
    // From here on every connection may be cut at any moment, so nothing is done that is tried once only.
    let added = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let client = |client: u8| {
            let (connected, key, added) = (&connected, &key, &added);
            move || {
                let store = connected();
                for number in 0..MARKS {
                    add_mark(store.as_ref(), key, [client, number]);
                    added.fetch_add(1, Ordering::SeqCst);
                }
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(client(number))).collect();
        let mut seen = 0;
        while clients.iter().any(|client| !client.is_finished()) {
            let now = added.load(Ordering::SeqCst);
            if now > seen {
                server.cut();
                seen = now;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let (marks, _) = connected().get(&key, 10_000).unwrap();
    let mut marks: Vec<[u8; 2]> = marks.chunks(2).map(|mark| [mark[0], mark[1]]).collect();
    marks.sort_unstable();
    let expected = (0..CLIENTS).flat_map(|client| (0..MARKS).map(move |number| [client, number]));
    assert!(marks.into_iter().eq(expected), "each mark is there once");
}
