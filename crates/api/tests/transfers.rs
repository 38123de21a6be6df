//! Transfers between servers: what may be moved, by whom, and what is refused.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Served, Setup, impatient};
use leeward_api::client::{HttpStore, Location, PassText, ServerControl, TransferOrder, Trust};
use leeward_api::server::{Direction, PeerServer, Purpose, ServerOptions, TransferState, TransferStatus};
use leeward_api::token::{NewToken, Role, TokenText};
use leeward_disk::{OpenOptions, open_source};
use leeward_repository::verify::verify_object;
use leeward_repository::{BackupOptions, Consistency, PackId, Repository, SourceRecord, Unattended};
use leeward_store::{ErrorKind, Key, SharedStore, Store};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// A server that has a disk of noise.
fn west() -> Served {
    let served = Served::new(Setup::default());
    let mut bytes = vec![0; 5 << 20];
    leeward_store::simulation::Random::new(7).fill(&mut bytes);
    let path = served.directory.path().join("disk.raw");
    std::fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    let source = open_source(path, &OpenOptions::default()).unwrap();
    let options = BackupOptions {
        image: "web/root".parse().unwrap(),
        source: SourceRecord { location: path.to_owned(), format: "raw".to_owned(), host: "here".to_owned() },
        consistency: Consistency::AtRest,
        tags: BTreeMap::default(),
        threads: 2,
    };
    Repository::open(served.store.clone()).unwrap().backup(source.as_ref(), &options, &Unattended).unwrap();
    served
}

/// An empty server that has the other as its peer.
fn east(west: &Served, lease: Duration) -> Served {
    let peer = PeerServer::parse(&format!("west={}", west.url()), Trust::default()).unwrap();
    let options = ServerOptions { peers: vec![peer], transfer_lease: lease, ..ServerOptions::default() };
    Served::new(Setup { options, ..Setup::default() })
}

const LONG: Duration = Duration::from_secs(600);

fn control(served: &Served, token: TokenText) -> ServerControl {
    let location = Location::parse(&served.url()).unwrap();
    ServerControl::new(&location, token, &Trust::default(), impatient()).unwrap()
}

fn with_pass(served: &Served, pass: &PassText) -> HttpStore {
    let location = Location::parse(&served.url()).unwrap();
    HttpStore::new(&location, pass.text(), &Trust::default(), impatient()).unwrap()
}

fn packs(store: &SharedStore) -> Vec<PackId> {
    store.list("packs").unwrap().iter().map(|entry| entry.key.name().parse().unwrap()).collect()
}

struct Ask<'a> {
    east: &'a ServerControl,
    direction: Direction,
    pass: &'a PassText,
    packs: &'a [PackId],
    rate: Option<u64>,
}

/// Sixteen bytes in hexadecimal digits.
fn id(number: u8) -> String {
    format!("{number:02x}").repeat(16)
}

impl Ask<'_> {
    fn begin(&self, number: u8) -> leeward_store::Result<TransferStatus> {
        self.east.begin_transfer(&TransferOrder {
            id: &id(number),
            peer: "west",
            direction: self.direction,
            pass: self.pass,
            packs: self.packs,
            bytes_per_second: self.rate,
        })
    }

    fn to_its_end(&self, number: u8) -> TransferStatus {
        self.begin(number).unwrap();
        ended(self.east, number)
    }
}

fn ended(east: &ServerControl, number: u8) -> TransferStatus {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = east.transfer(&id(number)).unwrap();
        if status.state != TransferState::Running {
            return status;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a pack holds, without the random bytes and the name that it gets when it is moved.
fn contents(store: &SharedStore, packs: &[PackId]) -> BTreeSet<Vec<u8>> {
    let content = |pack: &PackId| {
        let bytes = store.get(&key(&format!("packs/{pack}")), u64::MAX).unwrap().0;
        verify_object(&format!("packs/{pack}"), &bytes).unwrap();
        [&bytes[..32], &bytes[64..bytes.len() - 32]].concat()
    };
    packs.iter().map(content).collect()
}

#[test]
fn packs_are_moved_both_ways_under_names_of_their_own() {
    let west = west();
    let east = east(&west, LONG);
    let (here, there) = (
        control(&east, east.token("writer", Role::Writer, &["web"])),
        control(&west, west.token("reader", Role::Reader, &[])),
    );
    assert_eq!(here.peer_at(there.location()).unwrap().as_deref(), Some("west"));
    assert_eq!(there.peer_at(here.location()).unwrap(), None);
    let all = packs(&west.store);
    let pass = there.make_pass(Purpose::ReadPacks, 60).unwrap();
    let ask = Ask { east: &here, direction: Direction::Fetch, pass: &pass, packs: &all, rate: None };
    let status = ask.to_its_end(1);
    assert_eq!((status.state, status.packs_moved), (TransferState::Done, all.len() as u64), "{status:?}");
    let fetched = packs(&east.store);
    assert!(fetched.len() == all.len() && !fetched.iter().any(|pack| all.contains(pack)));
    assert!(contents(&east.store, &fetched) == contents(&west.store, &all));
    assert_eq!(ask.begin(1).unwrap().packs_moved, status.packs_moved, "asked for again, it is the same");
    // Another transfer looks at no name: one that was there before may be about to be deleted by it.
    assert_eq!(ask.to_its_end(2).packs_moved, all.len() as u64);
    assert_eq!(packs(&east.store).len(), 2 * all.len());
    assert!(east.log.text().contains("packs fetched from peer west"), "{}", east.log.text());

    // The other way.
    let (here, there) = (
        control(&east, east.token("reader", Role::Reader, &[])),
        control(&west, west.token("writer", Role::Writer, &["web"])),
    );
    let pass = there.make_pass(Purpose::AddPacks, 60).unwrap();
    let ask = Ask { east: &here, direction: Direction::Send, pass: &pass, packs: &fetched, rate: None };
    let status = ask.to_its_end(3);
    assert_eq!(status.packs_moved, all.len() as u64, "{status:?}");
    let sent: Vec<PackId> = packs(&west.store).into_iter().filter(|pack| !all.contains(pack)).collect();
    assert!(sent.len() == all.len() && !sent.iter().any(|pack| fetched.contains(pack)));
    assert!(contents(&west.store, &sent) == contents(&west.store, &all));
    assert!(west.log.text().contains("writer by pass"), "{}", west.log.text());
    there.end_pass(&pass);
    let refused = ask.to_its_end(4);
    // With a new pass it would go on.
    assert_eq!((refused.state, refused.is_transient), (TransferState::Failed, true), "{refused:?}");
    assert!(refused.problem.as_ref().is_some_and(|what| what.contains("at peer west")), "{refused:?}");
    assert_eq!(packs(&west.store).len(), 2 * all.len());
}

#[test]
fn a_pass_opens_packs_one_way_and_nothing_else() {
    let west = west();
    let admin = control(&west, west.token("admin", Role::Admin, &[]));
    let all = packs(&west.store);
    let (pack, other) = (key(&format!("packs/{}", all[0])), key(&format!("packs/{}", "0".repeat(64))));
    let is_denied = |done: leeward_store::Result<()>| {
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Denied);
    };
    for purpose in [Purpose::AddPacks, Purpose::ReadPacks] {
        let pass = admin.make_pass(purpose, 60).unwrap();
        let store = with_pass(&west, &pass);
        assert!(store.open(&pack).is_ok(), "whether it is there may be known");
        for prefix in ["packs", "refs", "index", "sessions", "snapshots", "keys"] {
            is_denied(store.list(prefix).map(drop));
        }
        for name in ["config", "refs/web%2Froot"] {
            is_denied(store.get(&key(name), 1 << 20).map(drop));
        }
        is_denied(store.delete(&pack).map(drop));
        is_denied(store.settle("packs"));
        is_denied(store.sweep_leftovers().map(drop));
        is_denied(store.put_if_absent(&key(&format!("sessions/{}", "0".repeat(32))), &[b"x"]));
        let mut begin = [0; 8];
        let read = store.open(&pack).unwrap().read_at(&mut begin, 0);
        let written = store.put_if_absent(&other, &[b"no pack"]);
        match purpose {
            Purpose::ReadPacks => {
                read.unwrap();
                is_denied(written);
            }
            Purpose::AddPacks => {
                is_denied(read);
                assert!(written.unwrap_err().to_string().contains("cannot be accepted"));
            }
        }
        // Nor does it make others of its kind, or begin transfers.
        let by_pass = control(&west, pass.text());
        is_denied(by_pass.make_pass(purpose, 60).map(drop));
        is_denied(by_pass.transfer(&id(1)).map(drop));
    }
    let log = west.log.text();
    assert!(!log.contains("lwp_") && !log.contains("lwt_"), "no secret is in the log");
}

/// The same pack under the name that it gets when its directory calls its first blob something else. All its stored digests
/// are in order.
fn lying(pack: &[u8]) -> (String, Vec<u8>) {
    let mut bytes = pack.to_vec();
    let footer = bytes.len() - 64;
    let number = |at: usize, length: usize| {
        bytes[footer + at..footer + at + length].iter().rev().fold(0, |all, byte| all << 8 | *byte as usize)
    };
    let (directory, length) = (number(8, 8), number(16, 4));
    bytes[directory + 40] ^= 1;
    let named = [&bytes[..64], &bytes[directory..directory + length]].concat();
    let name = blake3::derive_key("leeward v1 pack header and directory", &named);
    bytes[footer + 32..].copy_from_slice(&name);
    (blake3::Hash::from_bytes(name).to_hex().to_string(), bytes)
}

#[test]
fn a_pack_that_lies_about_its_chunks_is_not_taken_by_either_way() {
    let west = west();
    let east = east(&west, LONG);
    let honest = packs(&west.store)[0];
    let (bytes, _) = west.store.get(&key(&format!("packs/{honest}")), u64::MAX).unwrap();
    let (name, bytes) = lying(&bytes);
    verify_object(&format!("packs/{name}"), &bytes).unwrap();
    let wanted = [name.parse::<PackId>().unwrap(), honest];
    west.store.put_if_absent(&key(&format!("packs/{name}")), &[&bytes]).unwrap();
    let (here, there) = (
        control(&east, east.token("a", Role::Admin, &[])),
        control(&west, west.token("a", Role::Admin, &[])),
    );
    let pass = there.make_pass(Purpose::ReadPacks, 60).unwrap();
    let fetched = Ask { east: &here, direction: Direction::Fetch, pass: &pass, packs: &wanted, rate: None }
        .to_its_end(1);
    assert_eq!((fetched.packs_left, fetched.packs_moved), (1, 1), "{fetched:?}");
    assert!(fetched.problem.unwrap().contains("does not match its name"));
    let moved = packs(&east.store);
    assert!(moved.len() == 1 && contents(&east.store, &moved) == contents(&west.store, &[honest]));
    // Sent, it is refused by whom it is sent to.
    west.store.delete(&key(&format!("packs/{name}"))).unwrap();
    east.store.put_if_absent(&key(&format!("packs/{name}")), &[&bytes]).unwrap();
    let pass = there.make_pass(Purpose::AddPacks, 60).unwrap();
    let before = packs(&west.store).len();
    let both = [wanted[0], moved[0]];
    let sent =
        Ask { east: &here, direction: Direction::Send, pass: &pass, packs: &both, rate: None }.to_its_end(2);
    assert_eq!((sent.packs_left, sent.packs_moved), (1, 1), "{sent:?}");
    assert_eq!(packs(&west.store).len(), before + 1);
    // One that is damaged where it lies is not passed on.
    let mut damaged = west.store.get(&key(&format!("packs/{honest}")), u64::MAX).unwrap().0;
    damaged[100] ^= 1;
    east.store.put_if_absent(&key(&format!("packs/{honest}")), &[&damaged]).unwrap();
    let sent = Ask { east: &here, direction: Direction::Send, pass: &pass, packs: &wanted[1..], rate: None }
        .to_its_end(3);
    assert!(sent.problem.unwrap().contains("damaged here"), "and says where");
    assert_eq!(packs(&west.store).len(), before + 1);
}

#[test]
fn nobody_has_moved_what_he_may_not_move_himself() {
    let west = west();
    let east = east(&west, LONG);
    let all = packs(&west.store);
    let there = control(&west, west.token("a", Role::Admin, &[]));
    let (read, add) =
        (there.make_pass(Purpose::ReadPacks, 60).unwrap(), there.make_pass(Purpose::AddPacks, 60).unwrap());
    let (reader, writer) = (
        control(&east, east.token("r", Role::Reader, &[])),
        control(&east, east.token("w", Role::Writer, &[])),
    );
    let begin = |who: &ServerControl, direction, pass: &PassText, number| {
        Ask { east: who, direction, pass, packs: &all, rate: None }.begin(number)
    };
    assert_eq!(begin(&reader, Direction::Fetch, &read, 1).unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(begin(&writer, Direction::Send, &add, 2).unwrap_err().kind(), ErrorKind::Denied);
    // A peer that the operator has not named is not spoken to, whatever it is called.
    for peer in ["east", "http://127.0.0.1:1", ""] {
        let (direction, packs, bytes_per_second) = (Direction::Fetch, &all[..], None);
        let order = TransferOrder { id: &id(3), peer, direction, pass: &read, packs, bytes_per_second };
        assert_eq!(writer.begin_transfer(&order).unwrap_err().kind(), ErrorKind::Denied, "{peer}");
    }
    // A transfer is its maker's.
    let ask =
        Ask { east: &writer, direction: Direction::Fetch, pass: &read, packs: &all, rate: Some(500_000) };
    ask.begin(4).unwrap();
    assert_eq!(reader.transfer(&id(4)).unwrap_err().kind(), ErrorKind::NotFound);
    reader.cancel_transfer(&id(4));
    assert_eq!(writer.transfer(&id(4)).unwrap().state, TransferState::Running);
    writer.cancel_transfer(&id(4));
    assert_eq!(ended(&writer, 4).state, TransferState::Cancelled);
    assert!(packs(&east.store).len() < all.len());
    // The pass of another purpose does not do, and a token that is removed ends its transfers.
    let wrong = Ask { pass: &add, rate: None, ..ask }.to_its_end(5);
    assert_eq!(wrong.state, TransferState::Failed, "{wrong:?}");
    let operator = control(&east, east.token("o", Role::Operator, &[]));
    let slow = Ask { east: &operator, pass: &read, rate: Some(500_000), ..ask };
    slow.begin(6).unwrap();
    let status = operator.transfer(&id(6)).unwrap();
    east.change_tokens(|file| file.remove("o"));
    assert_eq!((status.state, operator.transfer(&id(6)).is_err()), (TransferState::Running, true));
    let deadline = Instant::now() + Duration::from_secs(30);
    while !east.log.text().contains("is not valid any more") {
        assert!(Instant::now() < deadline, "{}", east.log.text());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(packs(&east.store).len() < all.len());
}

#[test]
fn a_quota_bears_what_is_fetched_and_a_transfer_that_nobody_watches_ends() {
    let west = west();
    let east = east(&west, Duration::from_millis(400));
    let all = packs(&west.store);
    let there = control(&west, west.token("r", Role::Reader, &[]));
    let pass = there.make_pass(Purpose::ReadPacks, 60).unwrap();
    let small = NewToken {
        name: "small".to_owned(),
        role: Role::Writer,
        prefixes: Vec::new(),
        quota_bytes: Some(2_500_000),
        expires: None,
    };
    let small = control(&east, east.add(small));
    let ask = Ask { east: &small, direction: Direction::Fetch, pass: &pass, packs: &all, rate: None };
    let status = ask.to_its_end(1);
    assert_eq!((status.state, status.is_transient), (TransferState::Failed, false), "{status:?}");
    assert!(status.problem.unwrap().contains("quota") && status.packs_moved < all.len() as u64);

    let writer = control(&east, east.token("w", Role::Writer, &[]));
    Ask { east: &writer, rate: Some(400_000), ..ask }.begin(2).unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    let left = writer.transfer(&id(2)).unwrap();
    assert_eq!(left.state, TransferState::Cancelled, "{left:?}");
    assert!(packs(&east.store).len() < all.len());
    let unknown = Arc::new(writer).transfer(&id(9)).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
}
