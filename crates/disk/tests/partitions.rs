//! Partition tables: what `sfdisk` makes and lists, damage, and tables that mean no good.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/qemu.rs"]
mod qemu;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use leeward_disk::{
    Format, MemoryStorage, OpenOptions, PartitionTable, SharedSource, TableKind, open_storage, partitions,
};
use qemu::{Random, has, run, text};

const MIB: usize = 1 << 20;

/// Writes a table with sfdisk.
fn sfdisk(path: &Path, script: &str) {
    let mut child = Command::new("sfdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel", text(path)])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

fn disk(bytes: &[u8]) -> SharedSource {
    let storage = Arc::new(MemoryStorage::new("disk", bytes.to_vec()));
    open_storage(storage, &OpenOptions::with_format(Format::Raw)).unwrap()
}

fn table(bytes: &[u8]) -> PartitionTable {
    partitions(disk(bytes).as_ref()).unwrap()
}

/// Compares with `sfdisk --json`, field by field.
fn assert_as_sfdisk(path: &Path, table: &PartitionTable) {
    let json: serde_json::Value = serde_json::from_str(&run("sfdisk", &["--json", text(path)])).unwrap();
    let expected = &json["partitiontable"];
    let (label, id) = match table.kind {
        TableKind::Gpt => ("gpt", table.disk_id.clone().unwrap()),
        _ => ("dos", format!("0x{}", table.disk_id.clone().unwrap())),
    };
    assert_eq!((&expected["label"], &expected["id"]), (&label.into(), &id.into()));
    let expected = expected["partitions"].as_array().unwrap();
    assert_eq!(expected.len(), table.partitions.len(), "{table:#?}");
    for (expected, found) in expected.iter().zip(&table.partitions) {
        let number = expected["node"].as_str().unwrap().strip_prefix(text(path)).unwrap();
        assert_eq!(number, found.number.to_string());
        assert_eq!(expected["start"], found.offset / 512, "{found:?}");
        assert_eq!(expected["size"], found.length / 512, "{found:?}");
        assert_eq!(expected["type"], found.type_id, "{found:?}");
        let legacy = expected["attrs"].as_str().is_some_and(|text| text.contains("LegacyBIOSBootable"));
        let bootable = expected["bootable"].as_bool().unwrap_or(legacy);
        assert_eq!(bootable, found.bootable, "{found:?}");
        assert_eq!(expected["name"].as_str(), found.name.as_deref());
        if table.kind == TableKind::Gpt {
            assert_eq!(expected["uuid"].as_str(), found.uuid.as_deref());
        }
        assert_eq!(found.problem, None);
    }
    assert_eq!(table.problems, Vec::<String>::new());
}

const GPT: &str = "label: gpt\nsize=2M, type=21686148-6449-6E6F-744E-656564454649\n\
    size=8M, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=\"EFI\"\n\
    size=5M, type=linux, name=\"Wörter und mehr\", attrs=LegacyBIOSBootable\ntype=lvm\n";

fn made(script: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    sfdisk(&path, script);
    (directory, path)
}

#[test]
fn tables_are_read_as_sfdisk_reads_them() {
    if !has("sfdisk") {
        return;
    }
    let logical = "label: dos\nlabel-id: 0x1234abcd\nsize=4M, type=c, bootable\nsize=2M, type=82\n\
        size=30M, type=f\nsize=3M, type=83\nsize=4M, type=8e\nsize=5M, type=83\nsize=6M, type=7\n";
    let simple = "label: dos\n1M,2M,83\n\n\n";
    for script in [logical, simple, GPT] {
        let (_directory, path) = made(script);
        assert_as_sfdisk(&path, &table(&std::fs::read(&path).unwrap()));
    }
}

#[test]
fn a_damaged_gpt_is_replaced_by_its_copy() {
    if !has("sfdisk") {
        return;
    }
    let (_directory, path) = made(GPT);
    let sound = std::fs::read(&path).unwrap();
    let expected = table(&sound).partitions;
    assert_eq!(expected.len(), 4);
    // In the header, in the entries, and all of it.
    for place in [512..513, 560..568, 1024 + 300..1024 + 301, 512..40 * 512] {
        let mut bytes = sound.clone();
        bytes[place.clone()].iter_mut().for_each(|byte| *byte ^= 0x5a);
        let found = table(&bytes);
        assert_eq!(found.partitions, expected, "{place:?}");
        assert!(found.problems.iter().any(|text| text.contains("copy")), "{:?}", found.problems);
    }
    // Both gone: no partition is made up.
    let mut bytes = sound.clone();
    let end = bytes.len();
    bytes[512..40 * 512].fill(0);
    bytes[end - 40 * 512..].fill(0);
    let found = table(&bytes);
    assert_eq!((found.kind, found.partitions.len(), found.problems.len()), (TableKind::Gpt, 0, 1));
}

#[test]
fn a_gpt_of_large_sectors_is_read() {
    const SECTOR: usize = 4096;
    let mut bytes = vec![0; 4 * MIB];
    bytes[446 + 4] = 0xee;
    bytes[446 + 8] = 1;
    bytes[446 + 12] = 0xff;
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut entries = vec![0; 16 * 128];
    entries[0] = 7;
    entries[16] = 9;
    entries[32] = 16;
    entries[40] = 31;
    let entries_crc = crc32fast::hash(&entries);
    let header = &mut bytes[SECTOR..2 * SECTOR];
    header[..8].copy_from_slice(b"EFI PART");
    header[12] = 92;
    header[24] = 1;
    header[40] = 8;
    header[48..56].copy_from_slice(&1000_u64.to_le_bytes());
    header[72] = 2;
    header[80] = 16;
    header[84] = 128;
    header[88..92].copy_from_slice(&entries_crc.to_le_bytes());
    let crc = crc32fast::hash(&header[..92]);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes[2 * SECTOR..2 * SECTOR + entries.len()].copy_from_slice(&entries);
    let found = table(&bytes);
    assert_eq!(found.sector_bytes, 4096);
    assert_eq!((found.partitions[0].offset, found.partitions[0].length), (65536, 65536));
    assert_eq!(found.partitions[0].type_id, "00000007-0000-0000-0000-000000000000");
    assert_eq!(found.problems, Vec::<String>::new());
}

/// An MBR with these slots: type, first sector, sectors.
fn record(slots: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut sector = vec![0; 512];
    for (index, (kind, first, count)) in slots.iter().enumerate() {
        let slot = &mut sector[446 + 16 * index..];
        slot[4] = *kind;
        slot[8..12].copy_from_slice(&first.to_le_bytes());
        slot[12..16].copy_from_slice(&count.to_le_bytes());
    }
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[test]
fn what_overlaps_or_lies_outside_is_listed_but_not_opened() {
    let mut bytes = record(&[(0x83, 1, 100), (0x83, 50, 10), (0x83, 200, u32::MAX), (0x83, 110, 4)]);
    bytes.resize(MIB, 0);
    let source = disk(&bytes);
    let found = partitions(source.as_ref()).unwrap();
    let trusted: Vec<bool> = found.partitions.iter().map(|partition| partition.problem.is_none()).collect();
    assert_eq!(trusted, [false, false, false, true]);
    for partition in &found.partitions {
        assert_eq!(partition.open(&source).is_ok(), partition.problem.is_none());
    }
    assert_eq!(found.usable().map(|partition| partition.number).collect::<Vec<_>>(), [4]);
    let opened = found.get(4).unwrap().open(&source).unwrap();
    assert_eq!(opened.virtual_size(), 2048);
    assert!(opened.read_at(&mut [0; 2], 2047).is_err());
    assert!(opened.extents(0, 2049).is_err());
    assert_eq!(opened.extents(100, 1000).unwrap()[0].offset, 100);
}

#[test]
fn chains_of_logical_partitions_end() {
    let mut bytes = record(&[(0x05, 10, 1000)]);
    bytes.resize(MIB, 0);
    // A record that leads to itself, one that leads to nothing, and one that leads back.
    for (next, problem) in [(0, "loop"), (5, "no record"), (20, "loop")] {
        let first = record(&[(0x83, 1, 4), (0x05, next, 100)]);
        bytes[5120..5632].copy_from_slice(&first);
        if next == 20 {
            let second = record(&[(0x83, 1, 5000), (0x05, 20, 100)]);
            bytes[30 * 512..31 * 512].copy_from_slice(&second);
        }
        let found = table(&bytes);
        assert!(found.problems[0].contains(problem), "{:?}", found.problems);
        assert_eq!(found.get(5).unwrap().offset, 11 * 512);
        if let Some(outside) = found.get(6) {
            assert!(outside.problem.is_some());
        }
    }
}

#[test]
fn a_file_system_on_the_whole_disk_is_no_table() {
    let mut fat = vec![0; MIB];
    fat[..3].copy_from_slice(&[0xeb, 0x58, 0x90]);
    fat[11..17].copy_from_slice(&[0, 2, 8, 32, 0, 2]);
    fat[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut code = fat.clone();
    code[446..510].fill(b'x');
    for bytes in [fat, code, vec![0; MIB], vec![0; 100], vec![]] {
        assert_eq!(table(&bytes).kind, TableKind::None);
    }
    assert_eq!(table(&[record(&[]), vec![0; 512]].concat()).kind, TableKind::Mbr);
}

#[test]
fn damaged_tables_are_read_without_harm() {
    if !has("sfdisk") {
        return;
    }
    let mut random = Random(0x5eed);
    let logical = "label: dos\nsize=4M, type=c\nsize=30M, type=f\nsize=3M, type=83\nsize=4M, type=8e\n";
    for script in [GPT, logical] {
        let (_directory, path) = made(&script.replace('M', "00K"));
        let mut sound = std::fs::read(&path).unwrap();
        sound.truncate(8 * MIB);
        let places: Vec<usize> = (0..sound.len()).filter(|&place| sound[place] != 0).collect();
        for round in 0..150 {
            let mut bytes = sound.clone();
            for _ in 0..1 + random.below(6) {
                let place = places[random.below(places.len() as u64) as usize];
                bytes[place] = random.next() as u8;
            }
            if round % 10 == 0 {
                bytes.truncate(random.below(bytes.len() as u64) as usize);
            }
            let source = disk(&bytes);
            let found = partitions(source.as_ref()).unwrap();
            for partition in found.usable() {
                assert!(partition.end() <= source.virtual_size());
                partition.open(&source).unwrap();
            }
        }
    }
}
