//! Images that qemu-img cannot make, written by the tests after the specifications.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::Arc;

use leeward_disk::{
    Error, ErrorKind, ExtentKind, Format, MemoryStorage, OpenOptions, SharedSource, open_path, open_storage,
};
use support::build::{Change, MIB, VHD_BLOCK_BYTES, Vhd, Vhdx, log_entry, put, stream_vmdk};
use support::{all_extents, assert_reads_as, data_bytes, full_disk, options, read_all, sparse_disk};

fn open_bytes(format: Format, bytes: Vec<u8>) -> leeward_disk::Result<SharedSource> {
    open_storage(Arc::new(MemoryStorage::new("image", bytes)), &OpenOptions::with_format(format))
}

/// The image opens only when references are allowed, and the refusal names `reference`.
fn assert_needs_permission(image: &Path, format: Format, reference: &str) {
    let error = open_path(image, &options(format, None)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains(reference), "{error}");
}

// vhd

fn vhd_parent() -> (Vhd, Vec<u8>) {
    let sector = |value: u8| [value; 512];
    let image = Vhd {
        disk_bytes: 3 * VHD_BLOCK_BYTES as u64 + 1024,
        uuid: [7; 16],
        parent: None,
        blocks: vec![
            Some(vec![(0, sector(1)), (1, sector(2)), (100, sector(3)), (127, sector(4))]),
            None,
            Some((0..128).map(|index| (index, sector(index as u8 + 1))).collect()),
            Some(vec![(1, sector(9))]),
        ],
    };
    let disk = vhd_content(&image, vec![0; image.disk_bytes as usize]);
    (image, disk)
}

fn vhd_content(image: &Vhd, mut disk: Vec<u8>) -> Vec<u8> {
    disk.resize(image.disk_bytes as usize, 0);
    for (index, block) in image.blocks.iter().enumerate() {
        for (sector, content) in block.iter().flatten() {
            put(&mut disk, index * VHD_BLOCK_BYTES + sector * 512, content);
        }
    }
    disk
}

#[test]
fn sectors_that_a_vhd_bitmap_leaves_out_are_unallocated() {
    let (image, disk) = vhd_parent();
    let mut bytes = image.build();
    // What lies in the file under a clear bit is old and must not show.
    bytes[2560 + 512 + 50 * 512] = 0xff;
    let source = open_bytes(Format::Vhd, bytes).unwrap();
    assert_reads_as(source.as_ref(), &disk);
    assert_eq!(data_bytes(source.as_ref()), 512 * (4 + 128 + 1));
}

#[test]
fn a_differencing_vhd_reads_the_rest_from_its_parent() {
    let directory = tempfile::tempdir().unwrap();
    let (parent, below) = vhd_parent();
    let child = Vhd {
        disk_bytes: parent.disk_bytes + 5 * 512,
        uuid: [8; 16],
        parent: Some(("base.vhd".to_owned(), parent.uuid)),
        blocks: vec![Some(vec![(1, [0; 512]), (3, [0x33; 512])]), None, None, Some(vec![(2, [0x44; 512])])],
    };
    let path = directory.path().join("child.vhd");
    std::fs::write(&path, child.build()).unwrap();
    assert_needs_permission(&path, Format::Vhd, "base.vhd");
    let open = || open_path(&path, &options(Format::Vhd, Some(directory.path())));
    assert!(open().err().unwrap().to_string().contains("base.vhd"), "the parent is missing");
    std::fs::write(directory.path().join("base.vhd"), parent.build()).unwrap();
    let source = open().unwrap();
    assert_reads_as(source.as_ref(), &vhd_content(&child, below));
    let other = Vhd { uuid: [9; 16], ..vhd_parent().0 };
    std::fs::write(directory.path().join("base.vhd"), other.build()).unwrap();
    assert!(open().err().unwrap().to_string().contains("UUID"));
    std::fs::write(directory.path().join("base.vhd"), vec![0; 4096]).unwrap();
    assert!(open().err().unwrap().to_string().contains("not a vhd"));
    std::fs::write(directory.path().join("base.vhd"), child.build()).unwrap();
    std::fs::remove_file(directory.path().join("base.vhd")).unwrap();
    std::fs::hard_link(&path, directory.path().join("base.vhd")).unwrap();
    assert!(open().err().unwrap().to_string().contains("leads back to itself"));
}

// vhdx

const LOG: [u8; 16] = [0x11; 16];
const PRESENT: u64 = 6;

fn vhdx(data_blocks: usize) -> (Vhdx, Vec<u8>) {
    let data = full_disk(data_blocks * MIB);
    let mut table = vec![0; data_blocks + 4];
    for (index, entry) in table.iter_mut().take(data_blocks).enumerate() {
        *entry = ((4 + index) * MIB) as u64 | PRESENT;
    }
    let mut disk = data.clone();
    disk.resize((data_blocks + 4) * MIB, 0);
    let image =
        Vhdx { disk_bytes: disk.len() as u64, data_write: [5; 16], log: [0; 16], parent: None, table, data };
    (image, disk)
}

#[test]
fn every_state_of_a_vhdx_block_reads_as_specified() {
    let (mut image, disk) = vhdx(2);
    image.table[2..6].copy_from_slice(&[(9 << 20) | 1, 2, (9 << 20) | 3, 0]);
    let source = open_bytes(Format::Vhdx, image.build()).unwrap();
    assert_reads_as(source.as_ref(), &disk);
    let kinds: Vec<_> =
        all_extents(source.as_ref()).iter().map(|extent| (extent.kind, extent.length >> 20)).collect();
    let (data, zero, free) = (ExtentKind::Data, ExtentKind::Zero, ExtentKind::Unallocated);
    assert_eq!(kinds, [(data, 2), (free, 1), (zero, 1), (free, 2)]);
    for state in [4, 5, 7] {
        image.table[3] = state;
        let source = open_bytes(Format::Vhdx, image.build()).unwrap();
        assert_eq!(source.extents(0, 1).unwrap_err().kind(), ErrorKind::Corrupt, "state {state}");
    }
}

/// The image with entries put into its log one after the other, from `start` on, around the ring's end.
fn with_log(image: &Vhdx, start: usize, entries: &[Vec<u8>]) -> Vec<u8> {
    let mut file =
        Vhdx { log: LOG, table: image.table.clone(), data: image.data.clone(), parent: None, ..*image }
            .build();
    for (position, byte) in (start..).zip(entries.iter().flatten()) {
        file[MIB + position % MIB] = *byte;
    }
    file
}

#[test]
fn a_vhdx_log_that_was_not_applied_is_applied_in_memory() {
    for start in [0, 4096 * 7, MIB - 4096, MIB - 8192] {
        let (image, mut disk) = vhdx(2);
        let size = (6 * MIB) as u64;
        let page = |value: u8| vec![value; 4096];
        let tail = start as u32;
        let first = log_entry(
            &LOG,
            40,
            tail,
            (size, size),
            &[
                Change::Page { offset: (4 * MIB + 8192) as u64, bytes: page(0xa1) },
                Change::Page { offset: (5 * MIB) as u64, bytes: page(0xa2) },
            ],
        );
        // The second entry wins over the first; it adds a block in a part of the file that is not there yet.
        let mut table = image.table.clone();
        table[4] = (6 * MIB) as u64 | PRESENT;
        let mut bat = vec![0; 4096];
        for (index, entry) in table.iter().enumerate() {
            put(&mut bat, index * 8, &entry.to_le_bytes());
        }
        let second = log_entry(
            &LOG,
            41,
            tail,
            (size, size + MIB as u64),
            &[
                Change::Zeros { offset: (5 * MIB) as u64, length: 8192 },
                Change::Page { offset: (3 * MIB) as u64, bytes: bat },
                Change::Page { offset: (6 * MIB + 4096) as u64, bytes: page(0xa3) },
            ],
        );
        disk[8192..8192 + 4096].fill(0xa1);
        disk[MIB..MIB + 8192].fill(0);
        disk[4 * MIB + 4096..4 * MIB + 8192].fill(0xa3);
        let file = with_log(&image, start, &[first.clone(), second.clone()]);
        let source = open_bytes(Format::Vhdx, file).unwrap();
        assert_reads_as(source.as_ref(), &disk);
        assert!(
            source
                .info()
                .details
                .iter()
                .any(|(name, value)| *name == "log" && value.starts_with("2 entries"))
        );

        // A torn second entry: the first alone is the sequence.
        let mut torn = second;
        torn[5000] ^= 1;
        let file = with_log(&image, start, &[first, torn]);
        let source = open_bytes(Format::Vhdx, file).unwrap();
        let bytes = read_all(source.as_ref());
        assert!(bytes[MIB..MIB + 4096].iter().all(|byte| *byte == 0xa2));
        assert!(bytes[4 * MIB..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn of_two_sequences_in_a_vhdx_log_the_newer_counts() {
    let (image, _) = vhdx(1);
    let size = (5 * MIB) as u64;
    let entry = |number, tail, value| {
        log_entry(
            &LOG,
            number,
            tail,
            (size, size),
            &[Change::Page { offset: (4 * MIB) as u64, bytes: vec![value; 4096] }],
        )
    };
    let older = entry(7, 0, 1);
    let newer = entry(12, older.len() as u32, 2);
    let stranger = log_entry(&[0x22; 16], 99, (older.len() + newer.len()) as u32, (size, size), &[]);
    let source = open_bytes(Format::Vhdx, with_log(&image, 0, &[older, newer, stranger])).unwrap();
    assert_eq!(read_all(source.as_ref())[0], 2);
}

#[test]
fn a_vhdx_log_that_cannot_be_applied_is_an_error() {
    let (image, _) = vhdx(1);
    let size = (5 * MIB) as u64;
    let fails = |entries: &[Vec<u8>]| {
        open_bytes(Format::Vhdx, with_log(&image, 0, entries)).err().unwrap().to_string()
    };
    assert!(fails(&[]).contains("no complete sequence"));
    let cut = log_entry(&LOG, 1, 0, (size + 1, size), &[]);
    assert!(fails(&[cut]).contains("cut off"));
    let outside = log_entry(&LOG, 1, 0, (size, size), &[Change::Zeros { offset: size, length: 4096 }]);
    assert!(fails(&[outside]).contains("outside the file"));
    let lost_tail = log_entry(&LOG, 5, 8192, (size, size), &[]);
    assert!(fails(&[lost_tail]).contains("no complete sequence"));
    let huge = log_entry(&LOG, 1, 0, (size, u64::MAX), &[]);
    assert!(fails(&[huge]).contains("asks for a file"));
    let greedy: Vec<Vec<u8>> = (0..200)
        .map(|_| {
            let mut entry = log_entry(&LOG, 1, 0, (size, size), &[]);
            put(&mut entry, 8, &(MIB as u32).to_le_bytes());
            entry
        })
        .collect();
    assert!(fails(&greedy).contains("over each other"));
}

#[test]
fn a_differencing_vhdx_reads_the_rest_from_its_parent() {
    let directory = tempfile::tempdir().unwrap();
    let (parent, below) = vhdx(3);
    let linkage = "{05050505-0505-0505-0505-050505050505}".to_owned();
    // Block 0 is its own, 1 partly, 2 the parent's, 3 zero; the chunk's bitmap has its entry after 4096 blocks.
    let mut table = vec![0; 4097];
    table[0] = (4 * MIB) as u64 | PRESENT;
    table[1] = (5 * MIB) as u64 | 7;
    table[3] = 2;
    table[4096] = (6 * MIB) as u64 | PRESENT;
    let mut data = full_disk(3 * MIB);
    data.rotate_left(12345);
    let bitmap = &mut data[2 * MIB..];
    bitmap.fill(0);
    let mut disk = below.clone();
    disk[3 * MIB..4 * MIB].fill(0);
    let own = data[..2 * MIB].to_vec();
    disk[..MIB].copy_from_slice(&own[..MIB]);
    for sector in (0..2048).filter(|sector| sector % 7 == 3 || (300..900).contains(sector)) {
        data[2 * MIB + (2048 + sector) / 8] |= 1 << (sector % 8);
        let range = MIB + sector * 512..MIB + sector * 512 + 512;
        disk[range.clone()].copy_from_slice(&own[range]);
    }
    let child = |linkage: &str| Vhdx {
        disk_bytes: parent.disk_bytes,
        data_write: [6; 16],
        log: [0; 16],
        parent: Some(("base.vhdx".to_owned(), linkage.to_owned())),
        table: table.clone(),
        data: data.clone(),
    };
    let path = directory.path().join("child.avhdx");
    std::fs::write(&path, child(&linkage).build()).unwrap();
    std::fs::write(directory.path().join("base.vhdx"), parent.build()).unwrap();
    assert_needs_permission(&path, Format::Vhdx, "base.vhdx");
    let open = || open_path(&path, &options(Format::Vhdx, Some(directory.path())));
    assert_reads_as(open().unwrap().as_ref(), &disk);
    std::fs::write(&path, child("{05050505-0505-0505-0505-050505050506}").build()).unwrap();
    assert!(open().err().unwrap().to_string().contains("not that on which"));
    let mut without = child(&linkage);
    without.table[4096] = 0;
    std::fs::write(&path, without.build()).unwrap();
    let error = open().unwrap().read_at(&mut [0; 512], MIB as u64).unwrap_err().to_string();
    assert!(error.contains("bitmap is missing"), "{error}");
}

#[test]
fn unknown_parts_that_a_vhdx_requires_are_refused() {
    let (image, disk) = vhdx(1);
    let spoilt = |place: usize, length: usize, bytes: &[(usize, u8)]| {
        let mut file = image.build();
        for (at, byte) in bytes {
            file[place + at] = *byte;
        }
        for place in [place, place + (64 << 10)].into_iter().filter(|place| *place < MIB) {
            let copy = file[place.min(192 << 10)..][..length].to_vec();
            file[place..place + length].copy_from_slice(&copy);
            support::build::crc32c_field(&mut file[place..place + length]);
        }
        open_bytes(Format::Vhdx, file)
    };
    let region = 192 << 10;
    // A third region, required or not; it lies where the data is, which only matters if it is used.
    let third = |required: u8| {
        [(8, 3), (16 + 64, 0x99), (16 + 64 + 18, 0x60), (16 + 64 + 26, 0x10), (16 + 64 + 28, required)]
    };
    assert_eq!(spoilt(region, 64 << 10, &third(1)).err().unwrap().kind(), ErrorKind::Unsupported);
    assert_eq!(
        spoilt(region, 64 << 10, &third(0)).err().unwrap().kind(),
        ErrorKind::Corrupt,
        "it lies past the end"
    );
    let metadata = 2 * MIB;
    let item = |flags: u8| [(10, 4), (32 + 96, 0x99), (32 + 96 + 24, flags)];
    assert_eq!(spoilt(metadata, 0, &item(4)).err().unwrap().kind(), ErrorKind::Unsupported);
    assert_reads_as(spoilt(metadata, 0, &item(0)).unwrap().as_ref(), &disk);
}

// vmdk

#[test]
fn a_streamed_vmdk_with_its_directory_at_the_end_reads_right() {
    let disk = sparse_disk(40 * MIB + 512 * 3);
    let mut grains: Vec<usize> = (0..disk.len().div_ceil(64 << 10))
        .filter(|grain| disk[grain * (64 << 10)..].iter().take(64 << 10).any(|byte| *byte != 0))
        .collect();
    grains.reverse();
    let file = stream_vmdk(&disk, &grains);
    assert_reads_as(open_bytes(Format::Vmdk, file.clone()).unwrap().as_ref(), &disk);
    let mut cut = file.clone();
    cut.truncate(file.len() - 512);
    assert!(open_bytes(Format::Vmdk, cut).err().unwrap().to_string().contains("cut off"));
}

#[test]
fn a_grain_that_belongs_elsewhere_is_refused() {
    let disk = full_disk(4 << 16);
    let mut file = stream_vmdk(&disk, &[0, 1, 2, 3]);
    // The table is the last but for directory, footer and markers; let grain 1 lead to the place of grain 2.
    let table = file.len() - 512 * (1 + 1 + 1 + 1 + 1) - 2048;
    let entry = file[table + 8..table + 12].to_vec();
    put(&mut file, table + 4, &entry);
    let source = open_bytes(Format::Vmdk, file).unwrap();
    source.read_at(&mut [0; 10], 0).unwrap();
    let error = source.read_at(&mut [0; 10], 1 << 16).unwrap_err().to_string();
    assert!(error.contains("grain 1 leads"), "{error}");
}

fn describe(directory: &Path, lines: &str) -> std::path::PathBuf {
    let path = directory.join("disk.vmdk");
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"custom\"\n{lines}\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn extents_of_all_kinds_make_one_disk() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = full_disk(8 * 512);
    std::fs::write(directory.path().join("flat 1.bin"), &bytes).unwrap();
    let path = describe(
        directory.path(),
        "RW 2 FLAT \"flat 1.bin\" 3\nRW 5 ZERO\nRDONLY 3 FLAT \"flat 1.bin\" 0\nRW 0 ZERO",
    );
    let source = open_path(&path, &options(Format::Vmdk, Some(directory.path()))).unwrap();
    let disk = [&bytes[3 * 512..5 * 512], &[0; 5 * 512], &bytes[..3 * 512]].concat();
    assert_reads_as(source.as_ref(), &disk);
    let zero = source.extents(0, disk.len() as u64).unwrap()[1];
    assert_eq!((zero.kind, zero.length), (ExtentKind::Zero, 5 * 512));
}

#[test]
fn files_that_a_descriptor_names_are_not_touched_without_permission() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["/etc/passwd", "../../../../etc/passwd", "disk-flat.vmdk"] {
        for kind in ["FLAT", "SPARSE", "VMFS"] {
            let path = describe(directory.path(), &format!("RW 1 {kind} \"{name}\""));
            assert_needs_permission(&path, Format::Vmdk, name);
        }
    }
}

#[test]
fn files_outside_the_allowed_directory_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["/etc/passwd", "../../../../../../etc/passwd"] {
        let path = describe(directory.path(), &format!("RW 1 FLAT \"{name}\" 0"));
        let error = open_path(&path, &options(Format::Vmdk, Some(directory.path()))).err().unwrap();
        assert!(matches!(error, Error::ReferenceUnusable { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn damaged_descriptors_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.bin"), vec![0; 1024]).unwrap();
    for (lines, why) in [
        ("", "no extent"),
        ("RW 3 FLAT \"a.bin\" 0", "outside the file"),
        ("RW 1 FLAT \"a.bin\" 0\nRW 1 FLAT \"a.bin\" 0", "share"),
        ("RW 1 FLAT \"a.bin\" 36028797018963968", "more bytes"),
        ("RW 36028797018963968 ZERO", "more bytes"),
        ("RW 9007199254740992 ZERO\nRW 9007199254740992 ZERO", "more bytes"),
        ("RW 1 SPARSE \"a.bin\"", "does not begin like one"),
        ("RW 1 FLAT \"disk.vmdk\" 0", "back to itself"),
    ] {
        let path = describe(directory.path(), lines);
        let error =
            open_path(&path, &options(Format::Vmdk, Some(directory.path()))).err().unwrap().to_string();
        assert!(error.contains(why), "{lines}: {error}");
    }
}

#[test]
fn formats_of_esx_are_named_when_they_are_refused() {
    for (start, name) in
        [(&b"COWD"[..], "COWD"), (b"\xbe\xba\xfe\xca\0\0\0\0\x01\0\0\0\x02\0\0\0", "SESPARSE")]
    {
        let mut bytes = start.to_vec();
        bytes.resize(4096, 0);
        let error = open_bytes(Format::Vmdk, bytes).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(name));
    }
}
