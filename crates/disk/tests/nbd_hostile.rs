//! The NBD server and clients that mean no good, and what the protocol demands to the byte. The fuzzers of both sides run
//! here on stable Rust; `LEEWARD_FUZZ_SECONDS` says for how long (2).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/nbd.rs"]
mod nbd;
#[path = "support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leeward_disk::nbd::{Handle, Listen, Server, ServerOptions, serve_bytes};
use nbd::memory::MemoryDisk;
use nbd::*;
use support::Random;
use support::mutate::mutate;

/// A reply to an option: option, kind, data.
type OptionReply = (u32, u32, Vec<u8>);
/// A reply to a request: cookie, kind of the chunk (`None`: a simple reply), whether it is the last, payload or errno.
type Reply = (u64, Option<u16>, bool, Vec<u8>);

fn number<T: TryFrom<u64>>(bytes: &[u8]) -> T {
    let value = bytes.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    T::try_from(value).ok().unwrap()
}

fn talk_to(disk: &Arc<MemoryDisk>, client: &Client) -> (Vec<OptionReply>, Vec<Reply>) {
    let output = serve_bytes(&exports(disk), &client.0);
    let mut rest = output.strip_prefix(b"NBDMAGICIHAVEOPT\0\x03".as_slice()).unwrap();
    let mut options = Vec::new();
    while rest.starts_with(&0x0003_e889_0455_65a9_u64.to_be_bytes()) {
        let end = 20 + number::<usize>(&rest[16..20]);
        options.push((number(&rest[8..12]), number(&rest[12..16]), rest[20..end].to_vec()));
        rest = &rest[end..];
    }
    let mut replies = Vec::new();
    while !rest.is_empty() {
        let end = if rest[..4] == 0x668e_33ef_u32.to_be_bytes() {
            let end = 20 + number::<usize>(&rest[16..20]);
            let (done, kind) = (rest[5] & 1 == 1, number(&rest[6..8]));
            replies.push((number(&rest[8..16]), Some(kind), done, rest[20..end].to_vec()));
            end
        } else {
            assert_eq!(rest[..4], 0x6744_6698_u32.to_be_bytes());
            replies.push((number(&rest[8..16]), None, true, rest[4..8].to_vec()));
            16
        };
        rest = &rest[end..];
    }
    (options, replies)
}

fn talk(client: &Client) -> (Vec<OptionReply>, Vec<Reply>) {
    talk_to(&Arc::new(disk(false)), client)
}

/// The error number of the only reply to a request; 0 for success.
fn errno(disk: &Arc<MemoryDisk>, client: Client) -> u32 {
    let replies = talk_to(disk, &client).1;
    let (_, kind, done, payload) = replies.last().unwrap();
    assert!(done);
    match kind {
        None => number(payload),
        Some(kind) if kind & 1 << 15 != 0 => number(&payload[..4]),
        Some(_) => 0,
    }
}

#[test]
fn options_are_answered_as_the_protocol_says() {
    const ACK: u32 = 1;
    const ERROR: u32 = 1 << 31;
    const UNSUPPORTED: u32 = ERROR | 1;
    const POLICY: u32 = ERROR | 2;
    const INVALID: u32 = ERROR | 3;
    const UNKNOWN: u32 = ERROR | 6;
    let kinds = |client: Client| talk(&client).0.iter().map(|reply| reply.1).collect::<Vec<_>>();
    let new = Client::new;
    assert_eq!(kinds(new().option(LIST, &[])), [2, ACK]);
    assert_eq!(kinds(new().option(LIST, b"x")), [INVALID]);
    assert_eq!(kinds(new().option(77, b"abc").option(11, &[])), [UNSUPPORTED, UNSUPPORTED]);
    assert_eq!(kinds(new().option(STARTTLS, &[])), [POLICY]);
    assert_eq!(kinds(new().option(ABORT, &[]).option(LIST, &[])), [ACK], "nothing after it");
    assert_eq!(kinds(new().option(STRUCTURED, b"x")), [INVALID]);
    assert_eq!(kinds(new().go(GO, "other", &[])), [UNKNOWN]);
    assert_eq!(kinds(new().go(INFO, "disk", &[]).go(INFO, "", &[1, 2])), [3, 3, ACK, 3, 3, 3, 3, ACK]);
    assert_eq!(kinds(new().option(GO, &[0, 0, 0, 9, 0, 0])), [INVALID]);
    assert_eq!(kinds(new().option(GO, &[0, 0, 0, 0, 0, 9])), [INVALID]);
    assert_eq!(kinds(new().option(GO, &[0xff; 20])), [INVALID]);
    assert_eq!(kinds(new().contexts(SET_CONTEXTS, "", &["base:allocation"])), [INVALID], "too early");
    let contexts = |option, export: &str, queries: &[&str]| {
        kinds(new().option(STRUCTURED, &[]).contexts(option, export, queries))[1..].to_vec()
    };
    assert_eq!(contexts(LIST_CONTEXTS, "", &[]), [4, ACK]);
    assert_eq!(contexts(LIST_CONTEXTS, "", &["base:"]), [4, ACK]);
    assert_eq!(contexts(LIST_CONTEXTS, "", &["qemu:"]), [ACK]);
    assert_eq!(contexts(SET_CONTEXTS, "", &["base:"]), [ACK], "no wildcards when choosing");
    assert_eq!(contexts(SET_CONTEXTS, "disk", &["x:y", "base:allocation"]), [4, ACK]);
    assert_eq!(contexts(SET_CONTEXTS, "other", &["base:allocation"]), [UNKNOWN]);
    let mut lying = new().option(STRUCTURED, &[]).option(SET_CONTEXTS, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(kinds(lying.clone()), [ACK, INVALID]);
    lying.0.truncate(lying.0.len() - 1);
    assert_eq!(kinds(lying), [ACK], "half an option");
    // An option of 4 GiB is not waited for.
    let mut huge = new().option(LIST, &[]);
    huge.0.extend(b"IHAVEOPT\0\0\0\x03\xff\xff\xff\xff");
    assert_eq!(kinds(huge), [2, ACK, 1 << 31 | 9]);
    // Flags that nobody offered, and a client without the fixed newstyle.
    assert_eq!(kinds(Client(vec![0, 0, 0, 7]).option(LIST, &[])), []);
    assert_eq!(kinds(Client(vec![0, 0, 0, 0]).option(LIST, &[])), []);
    // Contexts chosen for nobody's export do not count for another.
    let no_context = new().option(STRUCTURED, &[]).go(GO, "", &[]).request(0, BLOCK_STATUS, 1, 0, 512);
    assert_eq!(errno(&Arc::new(disk(false)), no_context), 22);
}

#[test]
fn the_old_way_to_choose_an_export_works() {
    for (flags, zeroes) in [([0, 0, 0, 1], 124), ([0, 0, 0, 3], 0), ([0, 0, 0, 0], 124)] {
        let client = Client(flags.to_vec()).option(EXPORT_NAME, b"disk").request(0, READ, 5, 4990, 20);
        let output = serve_bytes(&exports(&Arc::new(disk(true))), &client.0);
        assert_eq!(output[18..26], (DISK_BYTES as u64).to_be_bytes());
        let reply = &output[28 + zeroes..];
        assert_eq!(reply[..16], *b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x05");
        assert_eq!(reply[16..], [[1; 10], [0; 10]].concat());
    }
    let unknown = serve_bytes(&exports(&Arc::new(disk(true))), &Client::new().option(EXPORT_NAME, b"x").0);
    assert_eq!(unknown.len(), 18, "there is no way to say no");
}

#[test]
fn requests_are_answered_as_the_protocol_says() {
    const EPERM: u32 = 1;
    const EINVAL: u32 = 22;
    const ENOSPC: u32 = 28;
    const EOVERFLOW: u32 = 75;
    const ENOTSUP: u32 = 95;
    const FUA: u16 = 1;
    const NO_HOLE: u16 = 2;
    const DF: u16 = 4;
    const REQ_ONE: u16 = 8;
    const FAST: u16 = 16;
    let size = DISK_BYTES as u64;
    let disks = [Arc::new(disk(false)), Arc::new(disk(true))];
    let ask = |flags, command, offset, length| {
        let client = Client::ready().request(flags, command, 9, offset, length);
        [errno(&disks[0], client.clone()), errno(&disks[1], client)]
    };
    assert_eq!(ask(0, READ, size - 1, 1), [0, 0]);
    assert_eq!(ask(0, READ, size, 0), [0, 0]);
    for (offset, length) in [(size, 1), (size - 1, 2), (u64::MAX, 2), (u64::MAX, 0), (0, u32::MAX)] {
        assert_eq!(ask(0, READ, offset, length), [EINVAL; 2], "{offset} {length}");
        assert_eq!(ask(0, BLOCK_STATUS, offset, length), [EINVAL; 2], "{offset} {length}");
        assert_eq!(ask(0, TRIM, offset, length), [EINVAL, EPERM], "{offset} {length}");
        assert_eq!(ask(0, WRITE_ZEROES, offset, length), [ENOSPC, EPERM], "{offset} {length}");
    }
    assert_eq!(ask(DF, READ, 0, 65536), [0; 2]);
    assert_eq!(ask(0, BLOCK_STATUS, 0, 0), [EINVAL; 2]);
    assert_eq!(ask(FUA, WRITE_ZEROES, 0, 512), [0, EPERM]);
    assert_eq!(ask(NO_HOLE, WRITE_ZEROES, 0, 512), [0, EPERM]);
    assert_eq!(ask(FAST, WRITE_ZEROES, 0, 512), [ENOTSUP, EPERM]);
    assert_eq!(ask(0, CACHE, 0, 512), [0, EPERM]);
    assert_eq!(ask(0, FLUSH, 0, 0), [0; 2]);
    assert_eq!(ask(0, FLUSH, u64::MAX, 9), [0; 2], "a flush has no range");
    for (flags, command) in
        [(DF, TRIM), (REQ_ONE, READ), (NO_HOLE, CACHE), (1 << 15, READ), (0, 8), (0, 0xffff)]
    {
        assert_eq!(ask(flags, command, 0, 512), [EINVAL; 2], "{flags} {command}");
    }
    let long = Arc::new(MemoryDisk::new(vec![3; 1 << 20], false));
    assert_eq!(errno(&long, Client::ready().request(DF, READ, 1, 0, 1 << 20)), EOVERFLOW);

    // Writes that are refused are read to their end, so that the next request is found.
    let after = |write: Client| {
        let replies = talk_to(&disks[1], &write.request(0, READ, 2, 0, 1)).1;
        assert_eq!(replies.len(), 2);
        (number::<u32>(&replies[0].3[..4]), replies[1].0)
    };
    assert_eq!(after(Client::ready().write(0, 1, 0, &[1; 1000])), (EPERM, 2));
    assert_eq!(errno(&disks[0], Client::ready().write(0, 1, size - 10, &[1; 11])), ENOSPC);
    assert_eq!(errno(&disks[0], Client::ready().write(FUA, 1, size - 10, &[1; 10])), 0);
    let flushes = disks[0].flushes.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(flushes, 4, "FUA twice, and two flushes");
    // What is too long is not waited for.
    let too_long = Client::ready().request(0, WRITE, 1, 0, u32::MAX).request(0, READ, 2, 0, 1);
    assert_eq!(talk(&too_long).1.len(), 1);
    // Nor is anything believed behind bytes that are no request.
    let mut garbage = Client::ready();
    garbage.0.extend([0x55; 28]);
    assert!(talk(&garbage.request(0, READ, 1, 0, 1)).1.is_empty());
    assert!(talk(&Client::ready().request(0, DISCONNECT, 0, 0, 0).request(0, READ, 1, 0, 1)).1.is_empty());
}

#[test]
fn holes_are_sent_as_holes_and_extents_as_they_are() {
    let replies = talk(&Client::ready().request(0, READ, 1, 0, DISK_BYTES as u32)).1;
    let chunks: Vec<(Option<u16>, bool, u64)> =
        replies.iter().map(|reply| (reply.1, reply.2, number(&reply.3[..8]))).collect();
    let expected =
        [(Some(1), false, 0), (Some(2), false, 8192), (Some(1), false, 86016), (Some(2), true, 102_400)];
    assert_eq!(chunks, expected);
    let replies = talk(&Client::ready().request(0, BLOCK_STATUS, 1, 100, 90_000)).1;
    let extents: Vec<(u32, u32)> =
        replies[0].3[4..].chunks(8).map(|extent| (number(&extent[..4]), number(&extent[4..]))).collect();
    assert_eq!(extents, [(8092, 0), (77_824, 3), (4084, 0)]);
    let replies = talk(&Client::ready().request(8, BLOCK_STATUS, 1, 100, 90_000)).1;
    assert_eq!(replies[0].3.len(), 12, "just one was asked for");
}

#[test]
fn connections_that_end_at_any_byte_are_harmless() {
    for (_, seed) in seeds() {
        for end in 0..seed.len() {
            exercise_server(&seed[..end]);
        }
    }
}

/// The committed inputs: the seeds as [`the_corpus_is_written_anew`] wrote them, and what once broke something.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = std::fs::read_dir(directory).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
#[ignore = "writes the seeds of the corpus anew: only after a change of what they are"]
fn the_corpus_is_written_anew() {
    for (side, seeds) in [("nbd_server", seeds()), ("nbd_client", server_seeds())] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(side);
        std::fs::create_dir_all(&directory).unwrap();
        for (name, seed) in seeds {
            std::fs::write(directory.join(name), seed).unwrap();
        }
    }
}

fn fuzz(name: &str, exercise: fn(&[u8])) {
    let seeds = corpus(name);
    assert!(!seeds.is_empty());
    let seconds = std::env::var("LEEWARD_FUZZ_SECONDS").ok().map_or(2.0, |text| text.parse().unwrap());
    let mut random = Random(name.len() as u64);
    seeds.iter().for_each(|seed| exercise(seed));
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut count = 0_u64;
    while Instant::now() < end {
        let seed = &seeds[random.below(seeds.len() as u64) as usize];
        let input = mutate(&mut random, seed);
        let started = Instant::now();
        let kept = std::env::temp_dir().join(format!("leeward-fuzz-{name}"));
        let result = std::panic::catch_unwind(|| exercise(&input));
        if result.is_err() || started.elapsed() > Duration::from_secs(4) {
            std::fs::write(&kept, &input).unwrap();
            panic!("an input breaks the {name}, or keeps it for {:?}: {}", started.elapsed(), kept.display());
        }
        count += 1;
    }
    println!("{name}: {count} inputs");
    assert!(count > 20);
}

#[test]
fn the_server_withstands_the_fuzzer() {
    fuzz("nbd_server", exercise_server);
}

#[test]
fn the_client_withstands_the_fuzzer() {
    fuzz("nbd_client", exercise_client);
    put_puppet_away();
}

// ---- over sockets ----

fn start(directory: &Path, disk: MemoryDisk, options: ServerOptions) -> Handle {
    let listen = Listen::Unix(directory.join("s"));
    Server::bind(listen, exports(&Arc::new(disk)), options).unwrap().start().unwrap()
}

fn connect(directory: &Path) -> UnixStream {
    let stream = UnixStream::connect(directory.join("s")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Negotiates, and reads what the server says to it.
fn ready(directory: &Path) -> UnixStream {
    let mut stream = connect(directory);
    let client = Client::ready();
    let said = serve_bytes(&exports(&Arc::new(disk(true))), &client.0).len();
    stream.write_all(&client.0).unwrap();
    stream.read_exact(&mut vec![0; said]).unwrap();
    stream
}

#[test]
fn a_client_that_does_not_negotiate_is_sent_away() {
    let directory = tempfile::tempdir().unwrap();
    let options = ServerOptions { handshake_timeout: Duration::from_millis(400), ..ServerOptions::default() };
    let _handle = start(directory.path(), disk(true), options);
    let mut idle = ready(directory.path());
    let started = Instant::now();
    let silent = connect(directory.path());
    // A byte now and then does not help.
    let mut trickling = connect(directory.path());
    let trickle = std::thread::spawn(move || {
        for byte in Client::ready().0 {
            if trickling.write_all(&[byte]).is_err() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        false
    });
    let mut said = Vec::new();
    let _ = { silent }.read_to_end(&mut said);
    assert_eq!(said.len(), 18);
    assert!(trickle.join().unwrap(), "sent away");
    assert!(started.elapsed() < Duration::from_secs(5));
    // After the negotiation a client may be silent.
    idle.write_all(&Client(Vec::new()).request(0, READ, 1, 0, 1).0).unwrap();
    idle.read_exact(&mut [0; 29]).unwrap();
}

#[test]
fn too_many_connections_are_closed_and_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let options = ServerOptions { connections_max: 2, ..ServerOptions::default() };
    let handle = start(directory.path(), disk(true), options);
    let mut first = ready(directory.path());
    let second = ready(directory.path());
    assert_eq!(connect(directory.path()).read(&mut [0; 18]).unwrap_or(0), 0, "closed");
    assert_eq!(handle.server().statistics().connections_refused, 1);
    drop(second);
    let deadline = Instant::now() + Duration::from_secs(10);
    while handle.server().statistics().connections > 1 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(ready(directory.path()));
    first.write_all(&Client(Vec::new()).request(0, FLUSH, 1, 0, 0).0).unwrap();
    first.read_exact(&mut [0; 16]).unwrap();
}

#[test]
fn who_does_not_read_replies_takes_neither_memory_nor_anyones_time() {
    let directory = tempfile::tempdir().unwrap();
    let options = ServerOptions { reply_timeout: Duration::from_secs(2), ..ServerOptions::default() };
    let big = MemoryDisk::new(vec![9; 48 << 20], true);
    let handle = start(directory.path(), big, options);
    let before = memory_kib();
    let mut greedy: Vec<UnixStream> = (0..4).map(|_| ready_for(directory.path(), 48 << 20)).collect();
    for stream in &mut greedy {
        // Asks for 64 GiB and reads nothing of it. What cannot be sent need not be: the server stops listening.
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut client = Client(Vec::new());
        for cookie in 0..2000 {
            client = client.request(0, READ, cookie, 0, 32 << 20);
        }
        let _ = stream.write_all(&client.0);
    }
    let started = Instant::now();
    let mut polite = ready_for(directory.path(), 48 << 20);
    for cookie in 0..100 {
        polite.write_all(&Client(Vec::new()).request(0, READ, cookie, 4096, 4096).0).unwrap();
        polite.read_exact(&mut vec![0; 28 + 4096]).unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let taken = memory_kib().saturating_sub(before);
    assert!(taken < 64 << 10, "{taken} KiB");
    let deadline = Instant::now() + Duration::from_secs(20);
    while handle.server().statistics().connections > 1 {
        assert!(Instant::now() < deadline, "the greedy ones are cut off");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ready_for(directory: &Path, size: u64) -> UnixStream {
    let mut stream = connect(directory);
    let client = Client::ready();
    let said = serve_bytes(&exports(&Arc::new(disk(true))), &client.0);
    stream.write_all(&client.0).unwrap();
    let mut greeting = vec![0; said.len()];
    stream.read_exact(&mut greeting).unwrap();
    assert!(greeting.windows(8).any(|bytes| bytes == size.to_be_bytes()));
    stream
}

fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn stopping_ends_idle_connections_and_finishes_what_was_asked() {
    let directory = tempfile::tempdir().unwrap();
    let handle = start(directory.path(), disk(false), ServerOptions::default());
    let mut idle = ready(directory.path());
    let half = {
        let mut stream = ready(directory.path());
        stream.write_all(&Client(Vec::new()).request(0, WRITE, 1, 0, 1000).0).unwrap();
        stream
    };
    let started = Instant::now();
    let statistics = handle.stop().unwrap();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(statistics.connections, 0);
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
    drop(half);
    assert!(!directory.path().join("s").exists());
}
