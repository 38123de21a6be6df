//! Images that were cut off, or whose fields, tables and references were made to harm.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use leeward_disk::{ErrorKind, Format, MemoryStorage, OpenOptions, SharedSource, Storage, open_storage};
use support::corpus;
use support::exercise::exercise;
use support::sparse::{MAGIC, SparseStorage};

const FORMATS: [Format; 4] = [Format::Vmdk, Format::Vhd, Format::Vhdx, Format::Vdi];

fn input(format: Format, name: &str) -> Vec<u8> {
    let (_, input) = corpus::read(format).into_iter().find(|(found, _)| found == name).unwrap();
    input
}

/// The image in an input, byte for byte.
fn image(input: &[u8]) -> Vec<u8> {
    let storage = SparseStorage::new(input);
    storage.read(0, storage.size() as usize).unwrap()
}

fn open(format: Format, image: Vec<u8>) -> leeward_disk::Result<SharedSource> {
    open_storage(Arc::new(MemoryStorage::new("image", image)), &OpenOptions::with_format(format))
}

#[test]
fn an_image_cut_off_anywhere_fails_or_reads_right() {
    for format in FORMATS {
        for (name, input) in corpus::read(format) {
            let whole = SparseStorage::new(&input);
            let size = whole.size();
            let open = |size: u64| {
                let mut cut = input.clone();
                cut[8..16].copy_from_slice(&size.to_le_bytes());
                open_storage(Arc::new(SparseStorage::new(&cut)), &OpenOptions::with_format(format))
            };
            let Some(source) = open(size).ok().filter(|_| input.starts_with(MAGIC)) else { continue };
            let read = |source: &SharedSource, offset| {
                let mut bytes = [0; 512];
                source.read_at(&mut bytes, offset).map(|()| bytes)
            };
            let right: Vec<_> = (0..source.virtual_size() - 512)
                .step_by(64 << 10)
                .map(|offset| (offset, read(&source, offset).unwrap()))
                .collect();
            let mut opened = 0;
            for size in (0..size).step_by(512) {
                let Ok(cut) = open(size) else { continue };
                opened += 1;
                assert_eq!(cut.virtual_size(), source.virtual_size(), "{format} {name} cut at {size}");
                for (offset, right) in &right {
                    match read(&cut, *offset) {
                        Ok(found) => {
                            assert!(found == *right, "{format} {name} cut at {size} reads wrong at {offset}")
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
                    }
                }
            }
            println!("{format} {name}: {opened} of {} cut images open", size / 512);
        }
    }
}

#[test]
fn no_field_of_any_value_breaks_a_reader() {
    let values = [0, 0x7fff_ffff, u32::MAX];
    for format in FORMATS {
        for (_, input) in corpus::read(format) {
            for at in (0..input.len().saturating_sub(8).min(2048)).step_by(4) {
                for value in values {
                    let mut changed = input.clone();
                    changed[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
                    // Numbers are of four bytes or of eight.
                    if at % 8 == 4 {
                        changed[at + 4..at + 8].copy_from_slice(&u32::to_le_bytes(value));
                    }
                    exercise(format, &changed);
                }
            }
        }
    }
}

/// Opens an image, reads all of it, and returns the complaint.
fn complaint(format: Format, image: Vec<u8>) -> String {
    let error = match open(format, image) {
        Err(error) => error,
        Ok(source) => {
            let mut bytes = vec![0; source.virtual_size() as usize];
            source.read_at(&mut bytes, 0).unwrap_err()
        }
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    error.to_string()
}

/// Places of the first two table entries that are in use, and the width of an entry.
fn two_entries(format: Format, image: &[u8]) -> (usize, usize, usize) {
    let le32 = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
    let (table, width, count) = match format {
        Format::Vdi => (le32(340), 4, 3),
        Format::Vhd => (u32::from_be_bytes(image[512 + 20..512 + 24].try_into().unwrap()) as usize, 4, 2),
        Format::Vhdx => (3 << 20, 8, 6),
        _ => (le32(le32(56) * 512) * 512, 4, 48),
    };
    let is_used = |entry: &[u8]| match format {
        Format::Vhdx => entry[2..] != [0; 6],
        Format::Vmdk => entry != [0; 4],
        _ => entry != [0xff; 4],
    };
    let mut used =
        (0..count).map(|index| table + index * width).filter(|at| is_used(&image[*at..*at + width]));
    (used.next().unwrap(), used.next().unwrap(), width)
}

#[test]
fn two_blocks_at_one_place_are_refused() {
    for (format, name) in [
        (Format::Vdi, "dynamic"),
        (Format::Vhd, "dynamic"),
        (Format::Vhdx, "states"),
        (Format::Vmdk, "sparse"),
    ] {
        let mut bytes = image(&input(format, name));
        let (first, second, width) = two_entries(format, &bytes);
        bytes.copy_within(first..first + width, second);
        let complaint = complaint(format, bytes);
        assert!(complaint.contains("lies over another part"), "{format}: {complaint}");
    }
}

#[test]
fn blocks_over_headers_and_tables_are_refused() {
    for (format, name, entry) in [
        (Format::Vhd, "dynamic", &0_u32.to_be_bytes()[..]),
        (Format::Vhd, "dynamic", &1_u32.to_be_bytes()),
        (Format::Vhdx, "states", &6_u64.to_le_bytes()),
        (Format::Vhdx, "states", &((1_u64 << 20) | 6).to_le_bytes()),
        (Format::Vhdx, "states", &((3_u64 << 20) | 6).to_le_bytes()),
        (Format::Vmdk, "sparse", &1_u32.to_le_bytes()),
        (Format::Vmdk, "sparse", &21_u32.to_le_bytes()),
    ] {
        let mut bytes = image(&input(format, name));
        let (first, ..) = two_entries(format, &bytes);
        bytes[first..first + entry.len()].copy_from_slice(entry);
        let complaint = complaint(format, bytes);
        assert!(complaint.contains("lies over another part"), "{format} {entry:?}: {complaint}");
    }
}

#[test]
fn blocks_past_the_end_of_the_file_are_refused_with_their_place() {
    for (format, name) in [
        (Format::Vdi, "dynamic"),
        (Format::Vhd, "dynamic"),
        (Format::Vhdx, "states"),
        (Format::Vmdk, "sparse"),
    ] {
        let mut bytes = image(&input(format, name));
        let (first, _, width) = two_entries(format, &bytes);
        match format {
            Format::Vhdx => bytes[first + 5] = 0x7f,
            Format::Vhd => bytes[first] = 0x7f,
            _ => bytes[first + width - 1] = 0x7f,
        }
        let complaint = complaint(format, bytes);
        assert!(complaint.contains("outside the file") && complaint.contains("copy it again"), "{complaint}");
    }
}

#[test]
fn a_table_larger_than_the_file_is_refused_without_being_allocated() {
    let mut vdi = image(&input(Format::Vdi, "dynamic"));
    vdi[384..388].copy_from_slice(&u32::MAX.to_le_bytes());
    vdi[368..376].copy_from_slice(&(1_u64 << 51).to_le_bytes());
    assert!(complaint(Format::Vdi, vdi).contains("the block table"));
    let mut vmdk = image(&input(Format::Vmdk, "sparse"));
    vmdk[12..20].copy_from_slice(&(1_u64 << 53).to_le_bytes());
    assert!(complaint(Format::Vmdk, vmdk).contains("the grain directory"));
}

#[test]
fn versions_and_features_that_nobody_knows_are_refused() {
    for (format, name, at, value) in [
        (Format::Vdi, "dynamic", 68, 2_u32),
        (Format::Vdi, "dynamic", 76, 4),
        (Format::Vdi, "dynamic", 440, 1),
        (Format::Vmdk, "sparse", 4, 4),
        (Format::Vmdk, "sparse", 8, 8 | 3),
        (Format::Vmdk, "sparse", 44, 1024),
    ] {
        let mut bytes = image(&input(format, name));
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let error = open(format, bytes).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{format} {at}: {error}");
    }
}

#[test]
fn a_footer_of_a_vhd_at_the_end_of_another_image_makes_it_ambiguous_only_if_it_fits() {
    let vdi = image(&input(Format::Vdi, "dynamic"));
    let fixed = image(&input(Format::Vhd, "fixed"));
    let with = |footer: &[u8]| [&vdi[..], footer].concat();
    let footer = fixed[fixed.len() - 512..].to_vec();
    let unnamed = |bytes: Vec<u8>| {
        let storage = std::sync::Arc::new(leeward_disk::MemoryStorage::new("both.vdi", bytes));
        leeward_disk::open_storage(storage, &leeward_disk::OpenOptions::default())
    };
    let error = unnamed(with(&footer)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    // Whoever names the format has decided.
    assert!(open(Format::Vdi, with(&footer)).is_ok());
    let mut damaged = footer;
    damaged[300] ^= 1;
    assert!(open(Format::Vdi, with(&damaged)).is_ok());
    // One format only, but a name that does not say which: that is asked for as well.
    assert_ne!(unnamed(with(&damaged)).err().map(|error| error.kind()), Some(ErrorKind::Refused));
}
