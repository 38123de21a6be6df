//! The committed inputs of the fuzzers, and how they are made.

use std::path::{Path, PathBuf};

use leeward_disk::Format;

use super::build::{Change, Vhd, Vhdx, log_entry, put, stream_vmdk, vhd_checksum_field};
use super::sparse::SparseStorage;
use super::{Random, qemu_img, qemu_name, text};

const MIB: usize = 1 << 20;

pub fn directory(format: Format) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(format.name())
}

/// The inputs of a format by name, in the order of their names.
pub fn read(format: Format) -> Vec<(String, Vec<u8>)> {
    let mut inputs: Vec<(String, Vec<u8>)> = std::fs::read_dir(directory(format))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

/// Images by qemu-img: format, name, options.
const BY_QEMU: &[(Format, &str, &[&str])] = &[
    (Format::Raw, "plain", &[]),
    (Format::Qcow2, "v2", &["-o", "compat=0.10"]),
    (Format::Qcow2, "v3", &["-o", "compat=1.1"]),
    (Format::Qcow2, "small-clusters", &["-o", "cluster_size=512"]),
    (Format::Qcow2, "extended-l2", &["-o", "extended_l2=on"]),
    (Format::Qcow2, "zlib", &["-c"]),
    (Format::Qcow2, "zstd", &["-c", "-o", "compression_type=zstd"]),
    (Format::Vmdk, "sparse", &["-o", "subformat=monolithicSparse"]),
    (Format::Vmdk, "sparse-zeroed", &["-o", "subformat=monolithicSparse,zeroed_grain=on"]),
    (Format::Vmdk, "stream", &["-o", "subformat=streamOptimized"]),
    (Format::Vhd, "dynamic", &["-o", "subformat=dynamic"]),
    (Format::Vhd, "dynamic-size", &["-o", "subformat=dynamic,force_size=on"]),
    (Format::Vhd, "fixed", &["-o", "subformat=fixed,force_size=on"]),
    (Format::Vhdx, "dynamic", &["-o", "subformat=dynamic,block_size=1M"]),
    (Format::Vhdx, "fixed", &["-o", "subformat=fixed,block_size=1M"]),
    (Format::Vdi, "dynamic", &["-o", "static=off"]),
    (Format::Vdi, "fixed", &["-o", "static=on"]),
];

/// Three MiB with a little data at the start, across a MiB, and at the end.
pub fn disk() -> Vec<u8> {
    let mut disk = vec![0; 3 * MIB];
    let mut random = Random(3);
    for range in [0..600, MIB - 10..MIB + 10, 3 * MIB - 80..3 * MIB] {
        random.fill(&mut disk[range]);
    }
    disk
}

/// Writes the corpus anew.
pub fn write() {
    let scratch = tempfile::tempdir().unwrap();
    let raw = scratch.path().join("disk.raw");
    std::fs::write(&raw, disk()).unwrap();
    for (format, name, arguments) in BY_QEMU {
        let image = scratch.path().join("image");
        let mut all = vec!["convert", "-f", "raw", "-O", qemu_name(*format)];
        all.extend_from_slice(arguments);
        all.extend([text(&raw), text(&image)]);
        qemu_img(&all);
        put_input(*format, name, &std::fs::read(&image).unwrap());
    }
    let image = scratch.path().join("image");
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&image)]);
    qemu_img(&["snapshot", "-c", "first", text(&image)]);
    put_input(Format::Qcow2, "snapshot", &std::fs::read(&image).unwrap());
    qemu_img(&["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "base.raw", text(&image), "3M"]);
    put_input(Format::Qcow2, "backing", &std::fs::read(&image).unwrap());
    by_hand();
}

fn by_hand() {
    let sectors = |value: u8| Some(vec![(0, [value; 512]), (77, [value; 512])]);
    let mut vhd = Vhd {
        disk_bytes: 5 * (64 << 10) - 512,
        uuid: [7; 16],
        parent: None,
        blocks: vec![sectors(1), None, sectors(2), None, sectors(3)],
    };
    put_input(Format::Vhd, "bitmaps", &vhd.build());
    vhd.parent = Some(("base.vhd".to_owned(), [8; 16]));
    put_input(Format::Vhd, "differencing", &vhd.build());
    let mut vhdx = Vhdx {
        disk_bytes: 6 * MIB as u64,
        data_write: [5; 16],
        log: [0; 16],
        parent: None,
        table: vec![(4 * MIB) as u64 | 6, 0, 1, 2, 3, (5 * MIB) as u64 | 6],
        data: vec![0; 2 * MIB],
    };
    put(&mut vhdx.data, 5000, b"some data");
    put(&mut vhdx.data, MIB, b"more data");
    put_input(Format::Vhdx, "states", &vhdx.build());
    vhdx.log = [1; 16];
    let mut logged = vhdx.build();
    let changes = [
        Change::Page { offset: 4 * MIB as u64, bytes: vec![9; 4096] },
        Change::Zeros { offset: 5 * MIB as u64, length: 4096 },
    ];
    let size = logged.len() as u64;
    let first = log_entry(&[1; 16], 3, 0, (size, size), &changes);
    let second = log_entry(&[1; 16], 4, 0, (size, size + 4096), &changes[1..]);
    put(&mut logged, MIB, &[first, second].concat());
    put_input(Format::Vhdx, "log", &logged);
    vhdx.log = [0; 16];
    vhdx.parent = Some(("base.vhdx".to_owned(), "{05050505-0505-0505-0505-050505050505}".to_owned()));
    vhdx.table.resize(4097, 0);
    put_input(Format::Vhdx, "differencing", &vhdx.build());
    put_input(Format::Vmdk, "stream-footer", &stream_vmdk(&disk(), &[47, 0, 16, 15]));
    let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"custom\"\nRW 9 ZERO\nRW 100000 ZERO\n";
    put_input(Format::Vmdk, "descriptor", text.as_bytes());
    let text =
        format!("{text}RW 6 FLAT \"/etc/passwd\" 0\nRW 6 SPARSE \"x.vmdk\"\nparentFileNameHint=\"y\"\n");
    put_input(Format::Vmdk, "descriptor-files", text.as_bytes());
    let mut raw = vec![0; 1 << 20];
    put(&mut raw, 0, b"QFI\xfb");
    put(&mut raw, 1 << 19, b"data");
    put_input(Format::Raw, "looks-like-qcow2", &raw);
    let mut footer = vhd.footer();
    vhd_checksum_field(&mut footer, 64);
    put_input(Format::Vhd, "footer-only", &footer);
}

fn put_input(format: Format, name: &str, image: &[u8]) {
    std::fs::create_dir_all(directory(format)).unwrap();
    let packed = SparseStorage::pack(image);
    let input = if packed.len() < image.len() { &packed } else { image };
    assert!(input.len() < 100 << 10, "{format} {name} is {} bytes", input.len());
    std::fs::write(directory(format).join(name), input).unwrap();
}
