//! A guest that really runs (the tiny one of the test bed) writes numbered records to two disks in turn: every group of
//! snapshots holds the records up to one moment, on both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::machine::{Disk, Machine, has_qemu};
use common::{Bench, MIB};
use serde_json::json;

const SECTOR: usize = 512;
const DISK: u64 = 8 * MIB;

/// Kernel and initramfs of the tiny guest.
fn tiny() -> Option<[String; 2]> {
    let bed =
        std::env::var_os("TESTBED_DIR").map_or_else(|| PathBuf::from("/var/tmp/testbeds"), PathBuf::from);
    let files = ["vmlinuz", "tiny.cpio.gz"].map(|name| bed.join("vm/boot").join(name));
    if !files.iter().all(|file| file.is_file()) {
        println!("SKIPPED: the test bed of guests is not built ({})", bed.display());
        return None;
    }
    Some(files.map(|file| file.to_str().unwrap().to_owned()))
}

/// The guest's console.
struct Console {
    stream: UnixStream,
    seen: String,
}

impl Console {
    fn wait_for(&mut self, text: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut piece = [0; 4096];
        while !self.seen.contains(text) {
            assert!(Instant::now() < deadline, "{text:?} does not come: {}", self.seen);
            let read = self.stream.read(&mut piece).unwrap_or(0);
            self.seen.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        self.seen.clear();
    }

    fn type_line(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// The number of records on a disk, which must be whole and in order, with nothing behind them.
fn records(content: &[u8], context: &str) -> usize {
    let mut sectors = content.chunks(SECTOR).skip(1);
    let mut count = 0;
    for sector in sectors.by_ref() {
        if sector.iter().all(|byte| *byte == 0) {
            break;
        }
        count += 1;
        let text = String::from_utf8_lossy(sector);
        assert_eq!(text.trim_end_matches(['\0', '\n']), format!("record {count}"), "{context}");
    }
    assert!(
        sectors.all(|sector| sector.iter().all(|byte| *byte == 0)),
        "{context}: records after the last one"
    );
    count
}

#[test]
fn a_group_of_a_running_guest_is_a_prefix_of_what_it_wrote() {
    if !has_qemu() {
        return;
    }
    let Some([kernel, initramfs]) = tiny() else { return };
    let bench = Bench::with_repository();
    let disks = [Disk::create(&bench, "a.raw", "raw", DISK), Disk::create(&bench, "b.qcow2", "qcow2", DISK)];
    let console = bench.path("console");
    let serial = format!("unix:{},server=on,wait=off", console.display());
    let more = [
        "-m",
        "160",
        "-machine",
        "pc,accel=tcg",
        "-kernel",
        &kernel,
        "-initrd",
        &initramfs,
        "-serial",
        &serial,
        "-append",
        "console=ttyS0 quiet mitigations=off panic=-1 tiny.nodisk",
    ];
    let machine = Machine::start(&bench, &disks, &more);
    let mut console = Console { stream: UnixStream::connect(&console).unwrap(), seen: String::new() };
    machine.ask("cont", json!({}));
    console.wait_for("tiny login:", Duration::from_secs(200));
    console.type_line(
        "i=0; while [ $i -lt 16000 ]; do i=$((i+1)); for d in a b; do echo record $i | dd of=/dev/vd$d bs=512 seek=$i \
         conv=sync,fsync,notrunc 2>/dev/null; done; [ $i -ne 20 ] || echo is-writing; done &",
    );
    console.wait_for("is-writing\r\n", Duration::from_secs(60));
    let mut before = 0;
    for round in 0..6 {
        let context = format!("round {round}");
        let source = machine.source();
        let outcome = bench.succeeds(&bench.back_up(&source, &["--limit-read", "400K"]));
        for line in &outcome.lines {
            assert_eq!(line["consistency"], "crash", "{line}");
            assert_eq!(line["capture"]["mode"], if round == 0 { "full" } else { "incremental" }, "{line}");
            if round > 0 {
                let changed = line["capture"]["changed_bytes"].as_u64().unwrap();
                assert!(line["disk_bytes"].as_u64().unwrap() <= changed + changed / 5, "{line}");
            }
        }
        let [a, b] = ["m/vd0", "m/vd1"].map(|image| records(&bench.content(image), &context));
        println!("{context}: {a} and {b} records");
        assert!(a == b || a == b + 1, "{context}: {a} records on the first disk, {b} on the second");
        assert!(a > before, "{context}: the guest does not go on");
        before = a;
        machine.is_clean(2, &context);
    }
    bench.is_sound("at the end");
}
