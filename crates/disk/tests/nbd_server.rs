//! The NBD server against the clients of QEMU and libnbd, and our own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/memory.rs"]
mod memory;
#[path = "support/qemu.rs"]
mod qemu;

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use leeward_disk::nbd::{
    Device, Export, Handle, Listen, NbdDisk, NbdOptions, NbdUrl, ReadOnly, Server, ServerOptions,
};
use leeward_disk::{
    CreateOptions, OpenOptions, Source, Target, WorkOptions, copy, create_target, open_source,
};
use memory::MemoryDisk;
use qemu::*;

const SIZE: usize = (7 << 20) + 512;

fn export(name: &str, device: Arc<dyn Device>) -> Export {
    Export { name: name.to_owned(), description: format!("the disk {name}"), device }
}

fn start_with(directory: &Path, exports: Vec<Export>, options: ServerOptions) -> Handle {
    Server::bind(Listen::Unix(directory.join("nbd.sock")), exports, options).unwrap().start().unwrap()
}

fn start(directory: &Path, exports: Vec<Export>) -> Handle {
    start_with(directory, exports, ServerOptions::default())
}

fn connect(handle: &Handle, export: &str) -> NbdDisk {
    NbdDisk::connect(&NbdUrl::parse(&handle.server().url(export)).unwrap(), &NbdOptions::default()).unwrap()
}

/// A writable disk with some content, and that content.
fn writable() -> (Arc<MemoryDisk>, Vec<u8>) {
    let bytes = content(SIZE, 5);
    (Arc::new(MemoryDisk::new(bytes.clone(), false)), bytes)
}

/// A sparse read-only disk, and its content.
fn sparse() -> (Arc<MemoryDisk>, Vec<u8>) {
    let mut bytes = vec![0; SIZE];
    for (start, seed) in [(0, 1), (1 << 20, 2), ((3 << 20) + 4096, 3), (SIZE - 70_000, 4)] {
        bytes[start..start + 66_000].copy_from_slice(&content(66_000, seed));
    }
    (Arc::new(MemoryDisk::new(bytes.clone(), true)), bytes)
}

#[test]
fn our_client_reads_and_writes_through_our_server() {
    let directory = tempfile::tempdir().unwrap();
    let ((disk, mut expected), (other, other_bytes)) = (writable(), sparse());
    let handle = start(directory.path(), vec![export("a b", disk.clone()), export("other", other)]);
    let source = open_source(&handle.server().url("other"), &OpenOptions::default()).unwrap();
    assert_reads(source.as_ref(), &other_bytes, "read-only");
    assert!(data_map(source.as_ref()).len() > 3, "the extents are known");

    let client = connect(&handle, "a b");
    assert_reads(&client, &expected, "writable");
    let mut random = Random(9);
    for _ in 0..200 {
        let offset = random.below(SIZE as u64) as usize;
        let length = random.below(900_000).min((SIZE - offset) as u64) as usize;
        match random.below(3) {
            0 => {
                client.zero_at(offset as u64, length as u64).unwrap();
                expected[offset..offset + length].fill(0);
            }
            1 => {
                let data = content(length, random.next());
                client.write_at(&data, offset as u64).unwrap();
                expected[offset..offset + length].copy_from_slice(&data);
            }
            _ => {
                let mut buffer = vec![1; length];
                client.read_at(&mut buffer, offset as u64).unwrap();
                assert!(buffer == expected[offset..offset + length]);
            }
        }
    }
    assert_reads(&client, &expected, "after writing");
    client.finish(true).unwrap();
    assert_eq!(disk.flushes.load(Ordering::Relaxed), 1);
    client.cache(4096, 1 << 20).unwrap();
    assert_eq!(disk.cached.lock().unwrap().iter().map(|range| range.1).sum::<u64>(), 1 << 20);
    client.trim(0, 4096).unwrap();
    assert_eq!(disk.trims.load(Ordering::Relaxed), 1);
    drop(client);
    assert!(disk.bytes()[4096..] == expected[4096..]);
    drop(source);
    let statistics = handle.stop().unwrap();
    assert!(statistics.first_read.is_some() && statistics.bytes_read > SIZE as u64, "{statistics:?}");
    assert_eq!((statistics.connections, statistics.requests_failed), (0, 0), "{statistics:?}");
    assert_eq!(
        statistics.connections_total, 5,
        "several connections to what is read-only, one to what is not"
    );
}

#[test]
fn nbdinfo_is_content() {
    if !has("nbdinfo") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let ((disk, _), (other, bytes)) = (writable(), sparse());
    let handle = start(directory.path(), vec![export("rw", disk), export("ro", other)]);
    let json = run("nbdinfo", &["--json", "--list", &handle.server().url("")]);
    let list: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(list["protocol"], "newstyle-fixed");
    assert_eq!(list["structured"], true);
    let exports = list["exports"].as_array().unwrap();
    let named = |name: &str| exports.iter().find(|export| export["export-name"] == name).unwrap();
    for (name, writable) in [("rw", true), ("ro", false)] {
        let export = named(name);
        assert_eq!(export["description"], format!("the disk {name}"));
        assert_eq!(export["export-size"], SIZE as u64);
        assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
        assert_eq!(export["is_read_only"], !writable);
        assert_eq!(export["can_multi_conn"], !writable, "flushes of one connection tell nothing of others");
        for what in ["can_flush", "can_fua", "can_trim", "can_zero", "can_cache"] {
            assert_eq!(export[what], writable, "{name} {what}");
        }
        assert_eq!(export["can_df"], true);
        assert_eq!(
            (&export["block_size_minimum"], &export["block_size_maximum"]),
            (&1.into(), &(32 << 20).into())
        );
    }
    let map = run("nbdinfo", &["--json", "--map", &handle.server().url("ro")]);
    let map: Vec<serde_json::Value> = serde_json::from_str(&map).unwrap();
    let mut next = 0;
    for entry in &map {
        let (offset, length) = (entry["offset"].as_u64().unwrap(), entry["length"].as_u64().unwrap());
        assert_eq!(offset, next);
        next = offset + length;
        let data = entry["type"] == 0;
        assert!(data || entry["type"] == 3, "{entry}");
        assert!(data || leeward_disk::is_zero(&bytes[offset as usize..next as usize]));
    }
    assert!(next == SIZE as u64 && map.len() > 5, "{map:?}");
    assert_eq!(run("nbdinfo", &["--size", &handle.server().url("rw")]).trim(), SIZE.to_string());
}

#[test]
fn nbdcopy_copies_both_ways() {
    if !has("nbdcopy") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (disk, bytes) = sparse();
    let blank = Arc::new(MemoryDisk::new(vec![0xee; SIZE], false));
    let handle = start(directory.path(), vec![export("from", disk), export("to", blank.clone())]);
    let url = |name: &str| handle.server().url(name);
    let file = directory.path().join("copy.raw");
    run("nbdcopy", &[&url("from"), text(&file)]);
    assert!(std::fs::read(&file).unwrap() == bytes, "from the server to a file");
    run("nbdcopy", &["--flush", text(&file), &url("to")]);
    assert!(blank.bytes() == bytes, "from a file to the server");
    assert!(blank.flushes.load(Ordering::Relaxed) > 0);
    blank.cached.lock().unwrap().clear();
    run("nbdcopy", &["--requests=128", "--request-size=33554432", "--no-extents", &url("to"), text(&file)]);
    assert!(std::fs::read(&file).unwrap() == bytes, "in the longest requests");
    run("nbdcopy", &["--synchronous", "--allocated", &url("from"), &url("to")]);
    assert!(blank.bytes() == bytes, "from the server to itself");
}

#[test]
fn qemu_img_reads_maps_and_compares() {
    if !has("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (disk, bytes) = sparse();
    let expected_map = data_map(disk.as_ref());
    let target = Arc::new(MemoryDisk::new(vec![0xee; SIZE], false));
    let handle = start(directory.path(), vec![export("disk", disk), export("target", target.clone())]);
    let url = handle.server().url("disk");
    let raw = directory.path().join("a.raw");
    std::fs::write(&raw, &bytes).unwrap();
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &url, text(&raw)]);
    let map = run("qemu-img", &["map", "--output=json", "-f", "raw", &url]);
    let map: Vec<serde_json::Value> = serde_json::from_str(&map).unwrap();
    let told: Vec<(u64, u64, bool)> = map
        .iter()
        .map(|entry| (entry["start"].as_u64(), entry["length"].as_u64(), entry["data"] == true))
        .map(|(start, length, data)| (start.unwrap(), length.unwrap(), data))
        .collect();
    assert_eq!(told, expected_map);
    let qcow2 = directory.path().join("b.qcow2");
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &url, text(&qcow2)]);
    assert_reads(open(&qcow2).as_ref(), &bytes, "converted from the server");
    let target_url = handle.server().url("target");
    run("qemu-img", &["convert", "-n", "-f", "qcow2", "-O", "raw", text(&qcow2), &target_url]);
    // QEMU rounds the size of raw disks up to sectors, and so does the size of this disk.
    assert!(target.bytes() == bytes, "converted to the server");
}

#[test]
fn qemu_io_writes_zeroes_discards_and_flushes() {
    if !has("qemu-io") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(MemoryDisk::new(vec![0; SIZE], false));
    let handle = start(directory.path(), vec![export("disk", disk.clone())]);
    let steps = [
        "write -P 0x11 0 1M",
        "write -f -P 0x22 123k 4k",
        "write -P 0x33 3000k 2M",
        "write -z 200k 100k",
        "write -z -u 3M 512k",
        "discard 4M 64k",
        "flush",
        "read -P 0x11 0 123k",
        "read -P 0x22 123k 4k",
        "read -P 0x11 127k 73k",
        "read -P 0 200k 100k",
        "read -P 0x33 3000k 72k",
        "read -P 0 3M 512k",
        "aio_write -P 0x44 5M 256k",
        "aio_write -P 0x55 6M 256k",
        "aio_flush",
        "read -P 0x44 5M 256k",
        "read -P 0x55 6M 256k",
    ];
    let url = handle.server().url("disk");
    let mut arguments = vec!["-f", "raw", "-t", "none"];
    arguments.extend(steps.iter().flat_map(|step| ["-c", step]));
    arguments.push(&url);
    let said = run("qemu-io", &arguments);
    assert!(!said.contains("failed") && !said.contains("error"), "{said}");
    let bytes = disk.bytes();
    assert!(bytes[..123 << 10].iter().all(|byte| *byte == 0x11));
    assert!(bytes[200 << 10..300 << 10].iter().all(|byte| *byte == 0));
    assert!(bytes[6 << 20..(6 << 20) + (256 << 10)].iter().all(|byte| *byte == 0x55));
    assert!(disk.flushes.load(Ordering::Relaxed) >= 2, "flush and FUA");
    assert_eq!(disk.trims.load(Ordering::Relaxed), 1);
    assert!(disk.unmaps.load(Ordering::Relaxed) >= 1);
}

#[test]
fn a_damaged_chunk_fails_its_read_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut disk = MemoryDisk::new(content(SIZE, 8), true);
    disk.damaged = Some(5 << 20);
    let handle = start(directory.path(), vec![export("disk", Arc::new(disk))]);
    let client = connect(&handle, "");
    let read = |offset: u64, length: usize| client.read_at(&mut vec![0; length], offset);
    let error = read((5 << 20) - 100, 4096).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        source.contains("input/output error") && source.contains("does not match its digest"),
        "{source}"
    );
    // The byte behind it makes the device panic.
    let error = read((5 << 20) + 1, 10).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("internal error"), "{error:?}");
    read(0, 5 << 20).unwrap();
    read((5 << 20) + 2, 1 << 20).unwrap();
    drop(client);
    assert_eq!(handle.stop().unwrap().requests_failed, 2);
}

#[test]
fn socket_files_are_private_and_only_dead_ones_are_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nbd.sock");
    let bind = || {
        let exports = vec![export("", writable().0)];
        Server::bind(Listen::Unix(path.clone()), exports, ServerOptions::default())
    };
    let first = bind().unwrap();
    let metadata = std::fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let refused = bind().err().unwrap().to_string();
    assert!(refused.contains("another server listens"), "{refused}");
    drop(first);
    assert!(!path.exists(), "removed at the end");

    // A listener that is dropped leaves its file behind, as a killed server does.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let second = bind().unwrap();
    // What replaces the file of a running server is not its own to remove.
    std::fs::remove_file(&path).unwrap();
    let foreign = UnixListener::bind(&path).unwrap();
    drop(second);
    assert!(path.exists());
    drop(foreign);

    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    let refused = bind().err().unwrap().to_string();
    assert!(refused.contains("not a socket"), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_whole_disk_is_copied_to_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let target = Arc::new(MemoryDisk::new(vec![0xee; SIZE], false));
    let (disk, bytes) = sparse();
    let handle = start(directory.path(), vec![export("target", target.clone())]);
    let options = CreateOptions { overwrite: true, ..CreateOptions::default() };
    let created = create_target(&handle.server().url("target"), SIZE as u64, &options).unwrap();
    let cancel = AtomicBool::new(false);
    let work = WorkOptions { threads: 2, progress: &|_| {}, cancel: &cancel };
    copy(ReadOnly::new(disk).source(), created.as_ref(), &work).unwrap();
    created.finish(true).unwrap();
    assert!(target.bytes() == bytes);
}
