//! Images that are had as views of a disk, as qemu-img reads them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use leeward_disk::formats::qcow2::Qcow2View;
use leeward_disk::formats::vhd::{FixedVhdView, VhdView};
use leeward_disk::formats::vhdx::VhdxView;
use leeward_disk::formats::vmdk::VmdkView;
use leeward_disk::{Format, SharedSource, Storage, detect, open_path};
use support::{assert_reads_as, has_qemu_img, open, options, qemu_img, qemu_name, text};

/// A name, the size of a disk, and where it has data: offsets and lengths in bytes.
type Shape<'a> = (&'a str, u64, &'a [(u64, u64)]);

const MIB: u64 = 1 << 20;
const IDENTITY: [u8; 16] = *b"0123456789abcdef";

/// What a view of a disk is made by.
type Make = fn(SharedSource) -> Box<dyn Storage>;

const VIEWS: [(Format, u64, Make); 5] = [
    (Format::Qcow2, 512, |disk| Box::new(Qcow2View::new(disk, "view").unwrap())),
    (Format::Vmdk, 512, |disk| Box::new(VmdkView::new(disk, "view", &IDENTITY).unwrap())),
    (Format::Vhd, 512, |disk| Box::new(VhdView::new(disk, "view", &IDENTITY).unwrap())),
    (Format::Vhdx, 512, |disk| Box::new(VhdxView::new(disk, "view", &IDENTITY).unwrap())),
    (Format::Vhd, MIB, |disk| Box::new(FixedVhdView::new(disk, "view", &IDENTITY).unwrap())),
];

/// Writes a view to a file, in pieces, with holes where it is zero.
fn write(view: &dyn Storage, path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(view.size()).unwrap();
    let mut piece = vec![0; 4 << 20];
    for offset in (0..view.size()).step_by(piece.len()) {
        let length = (view.size() - offset).min(piece.len() as u64) as usize;
        view.read_at(&mut piece[..length], offset).unwrap();
        if piece[..length].iter().any(|byte| *byte != 0) {
            file.write_all_at(&piece[..length], offset).unwrap();
        }
    }
}

/// A raw disk with data in some places.
fn disk(path: &Path, size: u64, data: &[(u64, u64)]) -> SharedSource {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (offset, length) in data {
        let bytes: Vec<u8> = (*offset..offset + length).map(|at| (at % 251 + 1) as u8).collect();
        file.write_all_at(&bytes, *offset).unwrap();
    }
    open_path(path, &options(Format::Raw, None)).unwrap()
}

/// Whether qemu-img finds nothing wrong with it, and the same disk in it.
fn assert_same(image: &Path, format: Format, raw: &Path) {
    if matches!(format, Format::Qcow2 | Format::Vmdk | Format::Vhdx) {
        qemu_img(&["check", "-f", qemu_name(format), text(image)]);
    }
    qemu_img(&["compare", "-f", qemu_name(format), "-F", "raw", text(image), text(raw)]);
}

#[test]
fn qemu_reads_the_disk_from_every_view_of_it() {
    if !has_qemu_img("qemu_reads_the_disk_from_every_view_of_it") {
        return;
    }
    let shapes: [Shape<'_>; 8] = [
        ("empty", 64 * MIB, &[]),
        ("one sector", 512, &[(0, 512)]),
        ("one byte", 1, &[(0, 1)]),
        ("its end inside of a grain", 3 * MIB + 512, &[(3 * MIB, 512)]),
        ("its end inside of a sector", 5 * MIB + 1234, &[(0, 70_000), (5 * MIB, 1234)]),
        ("sparse", 200 * MIB, &[(0, 512), (63 * MIB, 3 * MIB), (199 * MIB + 65_536, 4096)]),
        ("full", 40 * MIB, &[(0, 40 * MIB)]),
        ("full, its end inside of a block", 33 * MIB + 512 * 7, &[(0, 33 * MIB + 512 * 7)]),
    ];
    for (name, size, data) in shapes {
        let directory = tempfile::tempdir().unwrap();
        let raw = directory.path().join("disk.raw");
        let source = disk(&raw, size, data);
        for (format, alignment, make) in VIEWS {
            let view = make(Arc::clone(&source));
            println!("{name}: {format}, {} bytes", view.size());
            let image = directory.path().join("image");
            write(view.as_ref(), &image);
            assert_same(&image, format, &raw);
            let mut expected = std::fs::read(&raw).unwrap();
            expected.resize(size.next_multiple_of(alignment) as usize, 0);
            assert_reads_as(open(&image, format).as_ref(), &expected);
            let found = detect(&leeward_disk::MemoryStorage::new("image", std::fs::read(&image).unwrap()));
            assert_eq!(found.unwrap(), [format], "{name}: it is taken for what it is");
        }
    }
}

#[test]
fn a_sparse_terabyte_costs_nothing_as_an_image() {
    if !has_qemu_img("a_sparse_terabyte_costs_nothing_as_an_image") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (format, alignment, make) in VIEWS {
        if alignment == MIB {
            continue;
        }
        // Of a vhdx qemu-img reads every byte, also where nothing is stored: a quarter of an hour for a TiB.
        let size = if format == Format::Vhdx { 16 << 30 } else { 1 << 40 };
        let raw = directory.path().join("disk.raw");
        let source = disk(&raw, size, &[(0, MIB), (size / 10 * 7, 3 * MIB), (size - 512, 512)]);
        let began = std::time::Instant::now();
        let view = make(Arc::clone(&source));
        let image = directory.path().join("image");
        write(view.as_ref(), &image);
        println!("{format}: {} KiB in {:.2} s", view.size() >> 10, began.elapsed().as_secs_f64());
        assert!(view.size() < 24 * MIB, "{format}: {}", view.size());
        assert_same(&image, format, &raw);
    }
}
