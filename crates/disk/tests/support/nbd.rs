//! Both sides of an NBD connection as bytes, and what a server and a client must withstand.
#![allow(dead_code, missing_docs, reason = "each user takes a part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "memory.rs"]
pub mod memory;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use leeward_disk::nbd::{Export, NbdDisk, NbdOptions, NbdUrl, serve_bytes};
use leeward_disk::{Source, Target};
use memory::MemoryDisk;

pub const DISK_BYTES: usize = (160 << 10) + 512;
pub const BITMAP: &str = "qemu:dirty-bitmap:b";
/// Inputs are cut here: a request of 28 bytes may ask for a whole disk.
const INPUT_BYTES_MAX: usize = 4096;
/// The greeting, replies to options, and a whole disk with its heads for each request.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISCONNECT: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const WRITE_ZEROES: u16 = 6;
pub const BLOCK_STATUS: u16 = 7;

pub const EXPORT_NAME: u32 = 1;
pub const ABORT: u32 = 2;
pub const LIST: u32 = 3;
pub const STARTTLS: u32 = 5;
pub const INFO: u32 = 6;
pub const GO: u32 = 7;
pub const STRUCTURED: u32 = 8;
pub const LIST_CONTEXTS: u32 = 9;
pub const SET_CONTEXTS: u32 = 10;

/// What a client sends.
#[derive(Clone)]
pub struct Client(pub Vec<u8>);

impl Client {
    pub fn new() -> Self {
        Self(3_u32.to_be_bytes().to_vec())
    }

    pub fn option(mut self, number: u32, data: &[u8]) -> Self {
        self.0.extend(b"IHAVEOPT");
        self.0.extend(number.to_be_bytes());
        self.0.extend((data.len() as u32).to_be_bytes());
        self.0.extend(data);
        self
    }

    pub fn contexts(self, option: u32, export: &str, queries: &[&str]) -> Self {
        let mut data = string(export);
        data.extend((queries.len() as u32).to_be_bytes());
        queries.iter().for_each(|query| data.extend(string(query)));
        self.option(option, &data)
    }

    pub fn go(self, option: u32, export: &str, infos: &[u16]) -> Self {
        let mut data = string(export);
        data.extend((infos.len() as u16).to_be_bytes());
        infos.iter().for_each(|info| data.extend(info.to_be_bytes()));
        self.option(option, &data)
    }

    pub fn request(mut self, flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Self {
        self.0.extend(0x2560_9513_u32.to_be_bytes());
        self.0.extend(flags.to_be_bytes());
        self.0.extend(command.to_be_bytes());
        self.0.extend(cookie.to_be_bytes());
        self.0.extend(offset.to_be_bytes());
        self.0.extend(length.to_be_bytes());
        self
    }

    pub fn write(self, flags: u16, cookie: u64, offset: u64, data: &[u8]) -> Self {
        let mut client = self.request(flags, WRITE, cookie, offset, data.len() as u32);
        client.0.extend(data);
        client
    }

    /// Up to where requests may follow, with structured replies and extents.
    pub fn ready() -> Self {
        Self::new().option(STRUCTURED, &[]).contexts(SET_CONTEXTS, "", &["base:allocation", BITMAP]).go(
            GO,
            "",
            &[3],
        )
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

/// A disk with holes, that fails and panics at one place each.
pub fn disk(read_only: bool) -> MemoryDisk {
    let mut bytes = vec![0; DISK_BYTES];
    bytes[..5000].fill(1);
    bytes[90_000..100_000].fill(2);
    MemoryDisk::new(bytes, read_only)
}

pub fn exports(disk: &Arc<MemoryDisk>) -> Vec<Export> {
    vec![Export { name: "disk".to_owned(), description: "a disk".to_owned(), device: disk.clone() }]
}

/// Conversations that a client may have; the first is what [`exercise_client`] has.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let all = DISK_BYTES as u32;
    let client = Client::ready()
        .request(0, BLOCK_STATUS, 0, 0, all)
        .request(0, READ, 1, 0, all)
        .request(0, READ, 2, 4000, 3000)
        .write(0, 3, 512, &[7; 100])
        .request(0, WRITE_ZEROES, 4, 8192, 8192)
        .request(0, TRIM, 5, 8192, 8192)
        .request(0, CACHE, 6, 0, 8192)
        .request(0, FLUSH, 7, 0, 0)
        .request(0, DISCONNECT, 0, 0, 0);
    let options = Client::new()
        .option(LIST, &[])
        .option(STARTTLS, &[])
        .option(99, b"what")
        .option(STRUCTURED, &[])
        .contexts(LIST_CONTEXTS, "disk", &[])
        .contexts(LIST_CONTEXTS, "disk", &["base:"])
        .go(INFO, "other", &[])
        .go(INFO, "disk", &[0, 1, 2, 3])
        .option(ABORT, &[]);
    let old = Client::new()
        .option(EXPORT_NAME, b"disk")
        .request(0, READ, 1, 0, 100)
        .request(1, WRITE_ZEROES, 2, 100, 100)
        .request(0, READ, 3, u64::MAX, u32::MAX);
    let flags = Client::ready()
        .request(4, READ, 1, 0, 70_000)
        .request(8, BLOCK_STATUS, 2, 4096, 8192)
        .write(1, 3, 0, &[9; 600])
        .request(2, WRITE_ZEROES, 4, 0, 4096)
        .request(16, WRITE_ZEROES, 5, 0, 4096)
        .request(1, TRIM, 6, 0, 4096);
    vec![("client", client.0), ("options", options.0), ("old", old.0), ("flags", flags.0)]
}

/// What a server sends in the conversations of [`seeds`].
pub fn server_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let served = |(name, input): (&'static str, Vec<u8>)| {
        (name, serve_bytes(&exports(&Arc::new(disk(false))), &input))
    };
    seeds().into_iter().map(served).collect()
}

/// Serves a client that sends `input`. Whatever it sends, the disk is only asked for what it has, and the server's words
/// keep to the protocol.
pub fn exercise_server(input: &[u8]) {
    let input = &input[..input.len().min(INPUT_BYTES_MAX)];
    let read_only = input.last().is_some_and(|byte| byte % 4 == 3);
    let disk = Arc::new(disk(read_only));
    let before = read_only.then(|| disk.bytes());
    let output = serve_bytes(&exports(&disk), input);
    assert!(!disk.is_violated(), "the server asks for what the disk does not have");
    assert!(before.is_none_or(|before| before == disk.bytes()), "what is read-only was changed");
    let requests = input.len() / 28 + 1;
    assert!(output.len() <= OUTPUT_BYTES_MAX + requests * (DISK_BYTES + 4096), "{} bytes", output.len());
    assert!(output.starts_with(b"NBDMAGICIHAVEOPT\0\x03"));
    check_replies(&output[18..]);
}

/// Walks the replies to options, and the chunks behind them where structured replies were agreed on.
fn check_replies(mut rest: &[u8]) {
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte)) as usize;
    let mut structured = false;
    while let Some(head) = rest.get(..20).filter(|head| head[..8] == 0x0003_e889_0455_65a9_u64.to_be_bytes())
    {
        structured |= number(&head[8..12]) == STRUCTURED as usize && number(&head[12..16]) == 1;
        rest = rest.get(20 + number(&head[16..20])..).unwrap();
    }
    while structured && rest.len() >= 16 {
        let length = match number(&rest[..4]) {
            0x668e_33ef => 20 + number(&rest[16..20]),
            0x6744_6698 => 16,
            // The answer to NBD_OPT_EXPORT_NAME, which has no mark of its own.
            _ => return,
        };
        rest = rest.get(length..).unwrap();
    }
    assert!(!structured || rest.is_empty() || rest.len() == 10, "{} bytes are left", rest.len());
}

/// A server that sends to each client what is in the list, and hears it out.
struct Puppet {
    socket: PathBuf,
    input: Arc<Mutex<Vec<u8>>>,
}

fn puppet() -> &'static Mutex<Puppet> {
    static PUPPET: OnceLock<Mutex<Puppet>> = OnceLock::new();
    PUPPET.get_or_init(|| {
        let socket = std::env::temp_dir().join(format!("leeward-nbd-{}", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let input = Arc::new(Mutex::new(Vec::new()));
        let sends = Arc::clone(&input);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let bytes = sends.lock().unwrap().clone();
                play(stream.unwrap(), &bytes);
            }
        });
        Mutex::new(Puppet { socket, input })
    })
}

/// Removes the socket of [`exercise_client`].
pub fn put_puppet_away() {
    let _ = std::fs::remove_file(&puppet().lock().unwrap_or_else(|lock| lock.into_inner()).socket);
}

fn play(mut stream: UnixStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut buffer = vec![0; 64 << 10];
    while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
}

/// Connects to a server that sends `input`, and asks for a bit of everything. Errors are fine.
pub fn exercise_client(input: &[u8]) {
    let puppet = puppet().lock().unwrap_or_else(|lock| lock.into_inner());
    let contexts: &[&str] = if input.last().is_some_and(|byte| byte % 4 == 3) { &[BITMAP] } else { &[] };
    *puppet.input.lock().unwrap() = input[..input.len().min(1 << 20)].to_vec();
    let url = NbdUrl::parse(&format!("nbd+unix:///?socket={}", puppet.socket.display())).unwrap();
    let options = NbdOptions {
        connect_timeout: Duration::from_secs(5),
        reply_timeout: Duration::from_secs(5),
        connections_max: 1,
    };
    let Ok(disk) = NbdDisk::connect_with_contexts(&url, &options, contexts) else { return };
    let size = Source::virtual_size(&disk);
    if let Ok(extents) = disk.extents(0, size) {
        let mut next = 0;
        for extent in &extents {
            assert!(extent.offset == next && extent.length > 0 && extent.end() <= size, "{extent:?}");
            next = extent.end();
        }
        assert!(next > 0 || size == 0);
    }
    let length = |wanted: u64| wanted.min(size);
    let _ = disk.read_at(&mut vec![0; length(DISK_BYTES as u64) as usize], 0);
    let _ = disk.read_at(&mut vec![0; length(3000) as usize], 4000.min(size - length(3000)));
    let _ = disk.write_at(&[7; 100][..length(100) as usize], 512.min(size - length(100)));
    let range = length(8192);
    let _ = disk.zero_at(range.min(size - range), range);
    let _ = disk.trim(range.min(size - range), range);
    let _ = disk.cache(0, range);
    if let Ok(ranges) = disk.ranges(BITMAP, 0, length(1 << 20)) {
        assert_eq!(ranges.iter().map(|range| range.1).sum::<u64>(), length(1 << 20));
    }
    let _ = disk.finish(true);
}
