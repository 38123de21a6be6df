//! Images made by qemu-img read as qemu-img reads them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;

use leeward_disk::{Format, Source, open_path};
use support::{
    all_extents, as_qemu_reads, assert_reads_as, data_bytes, full_disk, has_qemu_img, open, options,
    qemu_img, qemu_name, read_all, sparse_disk, testbed_images, text,
};

const MIB: usize = 1 << 20;

/// Every variant of a format that qemu-img can make: format, options, bytes that it allocates at once.
const VARIANTS: &[(Format, &str, usize)] = &[
    (Format::Vmdk, "subformat=monolithicSparse", 64 << 10),
    (Format::Vmdk, "subformat=monolithicSparse,compat6=on", 64 << 10),
    (Format::Vmdk, "subformat=monolithicSparse,zeroed_grain=on", 64 << 10),
    (Format::Vmdk, "subformat=streamOptimized", 64 << 10),
    (Format::Vmdk, "subformat=streamOptimized,compat6=on", 64 << 10),
    (Format::Vmdk, "subformat=streamOptimized,zeroed_grain=on", 64 << 10),
    (Format::Vmdk, "subformat=twoGbMaxExtentSparse", 64 << 10),
    (Format::Vmdk, "subformat=twoGbMaxExtentSparse,zeroed_grain=on", 64 << 10),
    (Format::Vmdk, "subformat=monolithicFlat", 4 << 10),
    (Format::Vmdk, "subformat=twoGbMaxExtentFlat", 4 << 10),
    (Format::Vhd, "subformat=dynamic", 2 * MIB),
    (Format::Vhd, "subformat=dynamic,force_size=on", 2 * MIB),
    (Format::Vhd, "subformat=fixed", 4 << 10),
    (Format::Vhd, "subformat=fixed,force_size=on", 4 << 10),
    (Format::Vhdx, "subformat=dynamic", 8 * MIB),
    (Format::Vhdx, "subformat=dynamic,block_size=1M", MIB),
    (Format::Vhdx, "subformat=dynamic,block_size=256M", 256 * MIB),
    (Format::Vhdx, "subformat=dynamic,block_size=1M,block_state_zero=off", MIB),
    (Format::Vhdx, "subformat=fixed", 256 * MIB),
    (Format::Vdi, "static=off", MIB),
    (Format::Vdi, "static=on", 64 << 10),
];

fn convert(raw: &Path, format: Format, variant: &str) -> std::path::PathBuf {
    let image = raw.with_file_name(format!("disk.{format}"));
    qemu_img(&["convert", "-f", "raw", "-O", qemu_name(format), "-o", variant, text(raw), text(&image)]);
    image
}

/// Bytes of the blocks of `block` bytes that hold something.
fn touched(disk: &[u8], block: usize) -> u64 {
    disk.chunks(block)
        .filter(|block| block.iter().any(|byte| *byte != 0))
        .map(|block| block.len() as u64)
        .sum()
}

fn assert_every_variant_reads(name: &str, disk: &[u8]) {
    if !has_qemu_img(name) {
        return;
    }
    for &(format, variant, granularity) in VARIANTS {
        let directory = tempfile::tempdir().unwrap();
        let raw = directory.path().join("disk.raw");
        std::fs::write(&raw, disk).unwrap();
        let image = convert(&raw, format, variant);
        println!("{format} {variant}, {} bytes", disk.len());
        let source = open(&image, format);
        let oracle = as_qemu_reads(&image, format);
        assert!(oracle.starts_with(disk), "the oracle itself");
        assert_reads_as(source.as_ref(), &oracle);
        // qemu writes the first 4 KiB of a flat file in any case.
        let (data, most) = (data_bytes(source.as_ref()), touched(&oracle, granularity));
        assert!(
            data <= most.max(touched(&oracle, 64 << 10)) + 4096,
            "{format} {variant}: {data} bytes of data, {most} touched"
        );
        assert_eq!(source.info().format, format);
        assert!(source.info().allocated_bytes.is_some());
    }
}

#[test]
fn sparse_disks_read_as_qemu_reads_them() {
    assert_every_variant_reads("sparse disks", &sparse_disk(37 * MIB));
}

#[test]
fn disks_that_end_inside_a_block_read_as_qemu_reads_them() {
    assert_every_variant_reads("odd sizes", &sparse_disk(5 * MIB + 512 * 7));
    assert_every_variant_reads("one sector", &sparse_disk(512));
    assert_every_variant_reads("just past a block", &sparse_disk(2 * MIB + 512));
}

#[test]
fn disks_whose_size_is_no_whole_sector_read_as_qemu_reads_them() {
    assert_every_variant_reads("broken sector", &sparse_disk(MIB + 300));
}

#[test]
fn empty_disks_have_no_data() {
    assert_every_variant_reads("zero disk", &vec![0; 9 * MIB]);
}

#[test]
fn full_disks_read_as_qemu_reads_them() {
    assert_every_variant_reads("full disk", &full_disk(6 * MIB + 4096));
}

#[test]
fn a_disk_of_no_bytes_can_be_opened_where_qemu_can_make_one() {
    if !has_qemu_img("no bytes") {
        return;
    }
    for (format, variant) in [(Format::Vdi, "static=off"), (Format::Vmdk, "subformat=monolithicSparse")] {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join(format!("disk.{format}"));
        qemu_img(&["create", "-q", "-f", qemu_name(format), "-o", variant, text(&image), "0"]);
        let source = open(&image, format);
        assert_eq!(source.virtual_size(), 0);
        assert!(source.extents(0, 0).unwrap().is_empty());
    }
}

#[test]
fn split_disks_of_several_extents_read_as_one() {
    if !has_qemu_img("split disks") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("disk.raw");
    let file = std::fs::File::create(&raw).unwrap();
    let size = 5_u64 << 30;
    file.set_len(size).unwrap();
    // Around the borders between extents, which are 2 GB less 64 KiB (sparse) or 2 GiB (flat) apart.
    let places: Vec<u64> = [0x7fff_0000_u64, 0x8000_0000, 0xfffe_0000, 0x1_0000_0000, size - 8192]
        .iter()
        .map(|place| place - 4096)
        .collect();
    let bytes = full_disk(8192);
    for place in &places {
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, *place).unwrap();
    }
    for variant in ["subformat=twoGbMaxExtentSparse", "subformat=twoGbMaxExtentFlat"] {
        let image = convert(&raw, Format::Vmdk, variant);
        let source = open(&image, Format::Vmdk);
        assert_eq!(source.virtual_size(), size);
        for place in &places {
            let mut read = vec![0; bytes.len()];
            source.read_at(&mut read, *place).unwrap();
            assert!(read == bytes, "{variant} at {place}");
        }
        assert!(data_bytes(source.as_ref()) <= 10 * (128 << 10), "{variant}");
    }
}

#[test]
fn a_huge_empty_image_is_walked_at_the_cost_of_its_data() {
    if !has_qemu_img("huge images") {
        return;
    }
    for (format, size) in
        [(Format::Vhdx, "60T"), (Format::Vmdk, "8T"), (Format::Vdi, "100T"), (Format::Vhd, "1.9T")]
    {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join(format!("disk.{format}"));
        qemu_img(&["create", "-q", "-f", qemu_name(format), text(&image), size]);
        let started = std::time::Instant::now();
        let source = open(&image, format);
        assert_eq!(data_bytes(source.as_ref()), 0);
        println!("{format} of {size}: {:?}", started.elapsed());
        assert!(started.elapsed().as_secs() < 30);
    }
}

#[test]
fn many_threads_read_one_source() {
    if !has_qemu_img("threads") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("disk.raw");
    let disk = sparse_disk(9 * MIB);
    std::fs::write(&raw, &disk).unwrap();
    let image = convert(&raw, Format::Vmdk, "subformat=streamOptimized");
    let source = open(&image, Format::Vmdk);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_reads_as(source.as_ref(), &disk));
        }
    });
}

#[test]
fn extents_merge_neighbouring_blocks() {
    if !has_qemu_img("merged extents") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("disk.raw");
    std::fs::write(&raw, full_disk(8 * MIB)).unwrap();
    for (format, variant) in [(Format::Vmdk, "subformat=streamOptimized"), (Format::Vhdx, "block_size=1M")] {
        let source = open(&convert(&raw, format, variant), format);
        assert_eq!(all_extents(source.as_ref()).len(), 1, "{format}");
    }
}

#[test]
fn the_images_of_the_test_bed_read_as_their_raw_twin() {
    let Some(images) = testbed_images("test bed images") else { return };
    for name in ["tiny", "day1"] {
        let raw = open_path(&images.join(format!("{name}.raw")), &options(Format::Raw, None)).unwrap();
        for (suffix, format) in [
            ("vmdk", Format::Vmdk),
            ("stream.vmdk", Format::Vmdk),
            ("vhd", Format::Vhd),
            ("vhdx", Format::Vhdx),
            ("vdi", Format::Vdi),
        ] {
            let path = images.join(format!("{name}.{suffix}"));
            if !path.exists() {
                eprintln!("SKIPPED {}: it is not there", path.display());
                continue;
            }
            let image = open_path(&path, &options(format, None)).unwrap();
            assert_same_disk(raw.as_ref(), image.as_ref(), &path);
        }
    }
}

/// Compares piece by piece; an image may be longer, by zeros.
fn assert_same_disk(raw: &dyn Source, image: &dyn Source, path: &Path) {
    assert!(image.virtual_size() >= raw.virtual_size(), "{}", path.display());
    let (mut left, mut right) = (vec![0; 4 * MIB], vec![0; 4 * MIB]);
    for extent in all_extents(image) {
        for start in (extent.offset..extent.end()).step_by(4 * MIB) {
            let length = (extent.end() - start).min(4 * MIB as u64) as usize;
            let of_raw = raw.virtual_size().saturating_sub(start).min(length as u64) as usize;
            left[..length].fill(0);
            raw.read_at(&mut left[..of_raw], start).unwrap();
            right[..length].fill(0);
            if extent.kind.is_data() {
                image.read_at(&mut right[..length], start).unwrap();
            }
            assert!(left[..length] == right[..length], "{} differs from {start} on", path.display());
        }
    }
    println!("{}: {} of {} bytes are data", path.display(), data_bytes(image), image.virtual_size());
}

#[test]
fn the_size_of_a_vhd_is_the_one_that_qemu_shows() {
    if !has_qemu_img("vhd sizes") {
        return;
    }
    for megabytes in [1, 3, 100, 2000, 140_000] {
        for variant in ["subformat=dynamic", "subformat=dynamic,force_size=on"] {
            let directory = tempfile::tempdir().unwrap();
            let image = directory.path().join("disk.vhd");
            qemu_img(&["create", "-q", "-f", "vpc", "-o", variant, text(&image), &format!("{megabytes}M")]);
            let output = std::process::Command::new("qemu-img")
                .args(["info", "-f", "vpc", "--output=json", text(&image)])
                .output()
                .unwrap();
            let info: String = String::from_utf8(output.stdout).unwrap();
            let size = open(&image, Format::Vhd).virtual_size();
            assert!(
                info.contains(&format!("\"virtual-size\": {size},")),
                "{megabytes} {variant}: {size}, {info}"
            );
            assert!(size >= megabytes << 20);
        }
    }
}

#[test]
fn a_damaged_vhd_footer_is_replaced_by_its_copy() {
    if !has_qemu_img("vhd footer") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("disk.raw");
    let disk = sparse_disk(5 * MIB);
    std::fs::write(&raw, &disk).unwrap();
    let image = convert(&raw, Format::Vhd, "subformat=dynamic,force_size=on");
    let mut bytes = std::fs::read(&image).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&image, &bytes).unwrap();
    let source = open(&image, Format::Vhd);
    assert!(read_all(source.as_ref()) == disk);
    assert!(source.info().details.iter().any(|(name, value)| *name == "footer" && value.contains("front")));
    bytes[100] ^= 1;
    std::fs::write(&image, &bytes).unwrap();
    let error = open_path(&image, &options(Format::Vhd, None)).err().unwrap().to_string();
    assert!(error.contains("checksum"), "{error}");
}
