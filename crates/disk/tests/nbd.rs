//! The NBD client against qemu-nbd, and against servers that mean no good.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/qemu.rs"]
mod qemu;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use leeward_disk::nbd::{NbdDisk, NbdOptions, NbdUrl};
use leeward_disk::{
    CreateOptions, ErrorKind, OpenOptions, Result, Source, WorkOptions, copy, create_target, open_source,
};
use qemu::*;

const SIZE: usize = (7 << 20) + 512;

fn unix_url(socket: &Path) -> String {
    format!("nbd+unix:///?socket={}", text(socket))
}

#[test]
fn exports_of_qemu_read_as_the_disk() {
    if !has("qemu-nbd") || !has("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let disk = write_content(&file("a.raw"), SIZE, 21);
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&file("a.raw")), text(&file("a.qcow2"))]);
    for (format, read_only) in [("raw", true), ("qcow2", true), ("qcow2", false)] {
        let socket = file(&format!("{format}-{read_only}"));
        let image = file("a").with_extension(format);
        let mut arguments = vec!["--format", format];
        if read_only {
            arguments.push("--read-only");
        }
        arguments.push(text(&image));
        let _server = serve(&socket, &arguments);
        let source = open_source(&unix_url(&socket), &OpenOptions::default()).unwrap();
        assert_reads(source.as_ref(), &disk, format);
        if format == "qcow2" {
            assert!(data_map(source.as_ref()).len() > 1, "the extents are known");
        }
    }
}

#[test]
fn loopback_tcp_works_and_so_does_an_export_name() {
    if !has("qemu-nbd") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("a.raw");
    let disk = write_content(&raw, SIZE, 22);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let arguments = ["--persistent", "--shared=8", "-b", "127.0.0.1", "-p", &port, "-x", "vm 1", "-f", "raw"];
    let child = Command::new("qemu-nbd").args(arguments).arg(&raw).stdin(Stdio::null()).spawn().unwrap();
    let _server = Server(child);
    let url = format!("nbd://127.0.0.1:{port}/vm%201");
    let mut source = None;
    wait_for(|| {
        source = open_source(&url, &OpenOptions::default()).ok();
        source.is_some()
    });
    assert_reads(source.unwrap().as_ref(), &disk, "tcp");
    let wrong = open_source(&format!("nbd://127.0.0.1:{port}/other"), &OpenOptions::default());
    assert!(wrong.err().unwrap().to_string().contains("no export \"other\""));
}

#[test]
fn a_disk_is_written_through_a_server() {
    if !has("qemu-nbd") || !has("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let disk = write_content(&file("a.raw"), SIZE, 23);
    // What was there before must be gone, where the disk is zero as well.
    std::fs::write(file("old.raw"), vec![0xee; SIZE + 4096]).unwrap();
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&file("old.raw")), text(&file("b.qcow2"))]);
    let socket = file("socket");
    let server = serve(&socket, &["--format", "qcow2", text(&file("b.qcow2"))]);
    let url = unix_url(&socket);
    let refused = create_target(&url, SIZE as u64, &CreateOptions::default()).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    let options = CreateOptions { overwrite: true, ..CreateOptions::default() };
    let small = create_target(&url, SIZE as u64 * 2, &options).err().unwrap();
    assert_eq!(small.kind(), ErrorKind::Usage, "{small}");
    let target = create_target(&url, SIZE as u64, &options).unwrap();
    let cancel = AtomicBool::new(false);
    let work = WorkOptions { threads: 3, progress: &|_| {}, cancel: &cancel };
    copy(open(&file("a.raw")).as_ref(), target.as_ref(), &work).unwrap();
    target.finish(true).unwrap();
    drop(target);
    drop(server);
    let source = open(&file("b.qcow2"));
    let mut read = vec![0; SIZE + 4096];
    source.read_at(&mut read, 0).unwrap();
    assert!(read[..SIZE] == disk, "the disk");
    assert!(read[SIZE..].iter().all(|&byte| byte == 0xee), "and nothing behind it");
}

#[test]
fn a_read_only_export_is_no_target() {
    if !has("qemu-nbd") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("a.raw");
    write_content(&raw, 1 << 20, 2);
    let socket = directory.path().join("socket");
    let _server = serve(&socket, &["--read-only", "--format", "raw", text(&raw)]);
    let options = CreateOptions { overwrite: true, ..CreateOptions::default() };
    let error = create_target(&unix_url(&socket), 1 << 20, &options).err().unwrap();
    assert!(error.to_string().contains("read-only"), "{error}");
}

#[test]
fn dirty_bitmaps_of_qemu_are_read() {
    if !has("qemu-nbd") || !has("qemu-img") || !has("qemu-io") {
        return;
    }
    const BITMAP: &str = "qemu:dirty-bitmap:b0";
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("a.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "64M"]);
    run("qemu-img", &["bitmap", "--add", "-g", "64K", text(&image), "b0"]);
    run(
        "qemu-io",
        &["-f", "qcow2", "-c", "write 0 1M", "-c", "write 10M 4k", "-c", "write 66977792 128k", text(&image)],
    );
    run("qemu-img", &["bitmap", "--disable", text(&image), "b0"]);
    let socket = directory.path().join("socket");
    let _server = serve(&socket, &["--read-only", "--format", "qcow2", "--bitmap", "b0", text(&image)]);
    let url = NbdUrl::parse(&unix_url(&socket)).unwrap();
    let options = NbdOptions::default();
    let disk = NbdDisk::connect_with_contexts(&url, &options, &[BITMAP]).unwrap();
    let size = 64 << 20;
    let expected = [
        (0, 1 << 20, 1),
        (1 << 20, 9 << 20, 0),
        (10 << 20, 64 << 10, 1),
        ((10 << 20) + (64 << 10), size - (192 << 10) - (10 << 20), 0),
        (size - (128 << 10), 128 << 10, 1),
    ];
    assert_eq!(disk.ranges(BITMAP, 0, size).unwrap(), expected);
    assert_eq!(
        disk.ranges(BITMAP, 1 << 19, 1 << 20).unwrap(),
        [(1 << 19, 1 << 19, 1), (1 << 20, 1 << 19, 0)]
    );
    assert!(disk.extents(0, size).unwrap().len() > 1, "base:allocation is told as well");
    assert!(disk.ranges("qemu:dirty-bitmap:b1", 0, size).unwrap_err().to_string().contains("not asked for"));
    let missing = NbdDisk::connect_with_contexts(&url, &options, &["qemu:dirty-bitmap:b1"]).err().unwrap();
    assert!(missing.to_string().contains("no meta context \"qemu:dirty-bitmap:b1\""), "{missing}");
}

// ---- servers that mean no good ----

const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const EXPORT_BYTES: u64 = 1 << 20;

/// A server that negotiates as it should and answers the first request with `answer(cookie, offset, length)`.
struct Script {
    flags: u16,
    size: u64,
    block_sizes: Option<[u32; 3]>,
    answer: Box<dyn Fn(u64, u64, u32) -> Vec<u8> + Send>,
}

impl Script {
    fn answering(answer: impl Fn(u64, u64, u32) -> Vec<u8> + Send + 'static) -> Self {
        Self { flags: 1, size: EXPORT_BYTES, block_sizes: None, answer: Box::new(answer) }
    }
}

fn number<const N: usize>(stream: &mut impl Read) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).ok().map(|()| bytes)
}

fn negotiate(stream: &mut (impl Read + Write), script: &Script) -> Option<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03").ok()?;
    number::<4>(stream)?;
    loop {
        let header: [u8; 16] = number(stream)?;
        let option = u32::from_be_bytes(header[8..12].try_into().ok()?);
        let length = u32::from_be_bytes(header[12..].try_into().ok()?);
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data).ok()?;
        let mut reply = |kind: u32, data: &[u8]| {
            let mut bytes = OPTION_REPLY.to_be_bytes().to_vec();
            bytes.extend(option.to_be_bytes());
            bytes.extend(kind.to_be_bytes());
            bytes.extend((data.len() as u32).to_be_bytes());
            bytes.extend(data);
            stream.write_all(&bytes).ok()
        };
        match option {
            10 => {
                reply(4, b"\0\0\0\x07base:allocation")?;
                reply(1, &[])?;
            }
            7 => {
                let mut info = vec![0, 0];
                info.extend(script.size.to_be_bytes());
                info.extend(script.flags.to_be_bytes());
                reply(3, &info)?;
                if let Some(sizes) = script.block_sizes {
                    let mut info = vec![0, 3];
                    info.extend(sizes.into_iter().flat_map(u32::to_be_bytes));
                    reply(3, &info)?;
                }
                return reply(1, &[]);
            }
            _ => reply(1, &[])?,
        }
    }
}

fn play(mut stream: impl Read + Write, script: &Script) -> Option<()> {
    negotiate(&mut stream, script)?;
    loop {
        let request: [u8; 28] = number(&mut stream)?;
        if request[6..8] == [0, 2] {
            // The client takes its leave; depending on who is faster it is heard or not.
            return Some(());
        }
        let word = |at: usize| u64::from_be_bytes(request[at..at + 8].try_into().unwrap());
        let length = u32::from_be_bytes(request[24..].try_into().unwrap());
        stream.write_all(&(script.answer)(word(8), word(16), length)).ok()?;
    }
}

/// Runs the script for one connection and `attempt` against it.
fn against<T>(script: Script, attempt: impl FnOnce(NbdDisk) -> Result<T>) -> Result<T> {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        let _ = play(listener.accept().unwrap().0, &script);
    });
    let url = NbdUrl::parse(&unix_url(&socket)).unwrap();
    let options = NbdOptions {
        connect_timeout: Duration::from_millis(500),
        reply_timeout: Duration::from_millis(500),
        connections_max: 2,
    };
    let result = NbdDisk::connect(&url, &options).and_then(attempt);
    server.join().unwrap();
    result
}

fn chunk(cookie: u64, flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = 0x668e_33ef_u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn data(offset: u64, length: usize) -> Vec<u8> {
    let mut payload = offset.to_be_bytes().to_vec();
    payload.resize(8 + length, 0x55);
    payload
}

fn read(disk: NbdDisk) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    disk.read_at(&mut buffer, 8192).map(|()| buffer)
}

fn assert_read_fails(says: &str, answer: impl Fn(u64, u64, u32) -> Vec<u8> + Send + 'static) {
    let started = Instant::now();
    let error = against(Script::answering(answer), read).unwrap_err();
    assert!(error.to_string().contains(says), "{error} does not say {says:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn replies_are_checked_against_what_was_asked() {
    let good = |cookie, offset: u64, length: u32| {
        let half = length as usize / 2;
        let mut reply = chunk(cookie, 0, 1, &data(offset + half as u64, half));
        let mut hole = offset.to_be_bytes().to_vec();
        hole.extend((half as u32).to_be_bytes());
        reply.extend(chunk(cookie, 1, 2, &hole));
        reply
    };
    let buffer = against(Script::answering(good), read).unwrap();
    assert!(buffer[..2048].iter().all(|&b| b == 0) && buffer[2048..].iter().all(|&b| b == 0x55));

    assert_read_fails("not made", |cookie, offset, n| chunk(cookie + 1, 1, 1, &data(offset, n as usize)));
    assert_read_fails("not asked for", |cookie, offset, n| {
        chunk(cookie, 1, 1, &data(offset, n as usize + 1))
    });
    assert_read_fails("not asked for", |cookie, offset, n| {
        chunk(cookie, 1, 1, &data(offset - 1, n as usize))
    });
    assert_read_fails("not asked for", |cookie, _, _| {
        let mut reply = chunk(cookie, 1, 1, &data(u64::MAX, 0));
        reply[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        reply
    });
    assert_read_fails("announces a chunk of", |cookie, _, _| {
        let mut reply = chunk(cookie, 1, 5, &[]);
        reply[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        reply
    });
    assert_read_fails("not complete", |cookie, offset, n| chunk(cookie, 1, 1, &data(offset, n as usize - 1)));
    assert_read_fails("not complete", |cookie, _, _| chunk(cookie, 1, 0, &[]));
    assert_read_fails("twice", |cookie, offset, n| {
        let mut reply = chunk(cookie, 0, 1, &data(offset, n as usize));
        reply.extend(chunk(cookie, 1, 1, &data(offset, 1)));
        reply
    });
    assert_read_fails("where a reply should begin", |_, _, _| b"garbage garbage garbage".to_vec());
    assert_read_fails("unknown kind 99", |cookie, _, _| chunk(cookie, 1, 99, &[1, 2]));
    assert_read_fails("a simple reply", |cookie, _, _| {
        let mut reply = 0x6744_6698_u32.to_be_bytes().to_vec();
        reply.extend([0; 4]);
        reply.extend(cookie.to_be_bytes());
        reply
    });
    assert_read_fails("cannot read", |cookie, _, _| chunk(cookie, 1, 1 << 15 | 1, b"\0\0\0\x05\0\x04disk"));
    assert_read_fails("no reply within", |_, _, _| Vec::new());
    assert_read_fails("no reply within", |cookie, offset, n| {
        let mut reply = chunk(cookie, 1, 1, &data(offset, n as usize));
        reply.truncate(1000);
        reply
    });
}

#[test]
fn extents_are_checked() {
    let extents = |payload: &'static [u8]| {
        let script = Script::answering(move |cookie, _, _| chunk(cookie, 1, 5, payload));
        against(script, |disk| disk.extents(4096, 8192))
    };
    let found = extents(b"\0\0\0\x07\0\0\x10\0\0\0\0\0\xff\xff\xff\xff\0\0\0\x03").unwrap();
    assert_eq!(found.iter().map(|extent| extent.length).collect::<Vec<_>>(), [4096, 4096], "too long is cut");
    assert!(extents(b"\0\0\0\x07\0\0\0\0\0\0\0\x03").unwrap_err().to_string().contains("without length"));
    assert!(extents(b"\0\0\0\x08\0\0\x10\0\0\0\0\0").unwrap_err().to_string().contains("context"));
    assert!(extents(b"\0\0\0\x07").unwrap_err().to_string().contains("no sense"));
    assert!(extents(b"\0\0\0\x07\0\0\x10").unwrap_err().to_string().contains("no sense"));
}

#[test]
fn absurd_exports_are_refused() {
    let script = |size, block_sizes| Script { size, block_sizes, ..Script::answering(|_, _, _| Vec::new()) };
    let refused = |script| against(script, |_| Ok(())).unwrap_err().to_string();
    assert!(refused(script(u64::MAX, None)).contains("bytes"));
    for sizes in [[0, 4096, 4096], [3, 4096, 4096], [1 << 30, 1 << 30, 1 << 30], [4096, 4096, 512]] {
        assert!(refused(script(EXPORT_BYTES, Some(sizes))).contains("wants requests"), "{sizes:?}");
    }
}

#[test]
fn blocks_of_the_server_are_respected() {
    let answer = |cookie, offset: u64, length: u32| {
        assert!(offset.is_multiple_of(4096) && length.is_multiple_of(4096), "{offset} {length}");
        let mut payload = offset.to_be_bytes().to_vec();
        payload.extend((0..length).map(|index| ((offset + u64::from(index)) / 512) as u8));
        chunk(cookie, 1, 1, &payload)
    };
    let script = Script { block_sizes: Some([4096, 4096, 8192]), ..Script::answering(answer) };
    let buffer = against(script, |disk| {
        let mut buffer = vec![0; 30_000];
        disk.read_at(&mut buffer, 1000).map(|()| buffer)
    })
    .unwrap();
    assert!(buffer.iter().enumerate().all(|(index, &byte)| byte == ((index + 1000) / 512) as u8));
}

#[test]
fn silent_and_foreign_servers_are_told_apart_quickly() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = NbdUrl::parse(&format!("nbd://{}/", listener.local_addr().unwrap())).unwrap();
    let options = NbdOptions { connect_timeout: Duration::from_millis(300), ..NbdOptions::default() };
    let silent = NbdDisk::connect(&url, &options).err().unwrap().to_string();
    assert!(silent.contains("does not answer in time"), "{silent}");
    drop(listener);
    let nobody = NbdDisk::connect(&url, &options).err().unwrap();
    assert_eq!(nobody.kind(), ErrorKind::Io);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = NbdUrl::parse(&format!("nbd://{}/", listener.local_addr().unwrap())).unwrap();
    std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    let foreign = NbdDisk::connect(&url, &options).err().unwrap().to_string();
    assert!(foreign.contains("not an NBD server"), "{foreign}");
}

#[test]
fn tls_without_certificates_is_refused_clearly() {
    let error = open_source("nbds://host/x", &OpenOptions::default()).err().unwrap();
    assert!(error.kind() == ErrorKind::Usage && error.to_string().contains("tls-certificates"), "{error}");
}
