//! The qcow2 reader against images that QEMU made.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/qemu.rs"]
mod qemu;

use std::path::Path;

use leeward_disk::{ErrorKind, Extent, ExtentKind, OpenOptions, open_path};
use qemu::*;

fn convert(from: &Path, to: &Path, options: &str, compress: bool) {
    let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2"];
    if compress {
        arguments.push("-c");
    }
    if !options.is_empty() {
        arguments.extend(["-o", options]);
    }
    arguments.extend([text(from), text(to)]);
    run("qemu-img", &arguments);
}

fn qemu_io(image: &Path, commands: &[&str]) {
    let mut arguments = Vec::new();
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(text(image));
    run("qemu-io", &arguments);
}

/// What QEMU reads from an image.
fn oracle(image: &Path) -> Vec<u8> {
    let raw = image.with_extension("oracle");
    run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(image), text(&raw)]);
    std::fs::read(raw).unwrap()
}

#[test]
fn every_variant_reads_as_qemu_wrote_it() {
    if !has("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (raw, image) = (directory.path().join("a.raw"), directory.path().join("a.qcow2"));
    let variants = [
        ("compat=0.10", false),
        ("compat=0.10", true),
        ("compat=0.10,cluster_size=512", false),
        ("compat=1.1", false),
        ("compat=1.1,lazy_refcounts=on", false),
        ("cluster_size=512", false),
        ("cluster_size=512", true),
        ("cluster_size=4096", false),
        ("cluster_size=4096,compression_type=zstd", true),
        ("cluster_size=2M", false),
        ("cluster_size=2M", true),
        ("cluster_size=2M,compression_type=zstd", true),
        ("compression_type=zlib", true),
        ("compression_type=zstd", true),
        ("extended_l2=on", false),
        ("extended_l2=on", true),
        ("extended_l2=on,compression_type=zstd", true),
        ("extended_l2=on,cluster_size=16k", false),
        ("extended_l2=on,cluster_size=2M", false),
        ("preallocation=metadata", false),
        ("preallocation=metadata,extended_l2=on", false),
        ("preallocation=falloc", false),
        ("preallocation=full", false),
        ("refcount_bits=1", false),
        ("refcount_bits=64", false),
    ];
    for size in [0, 512, 66_048, 5 << 20, (9 << 20) + 1536] {
        let disk = write_content(&raw, size, size as u64 + 7);
        for (options, compress) in variants {
            let what = format!("{options} compress {compress} size {size}");
            let _ = std::fs::remove_file(&image);
            convert(&raw, &image, options, compress);
            let source = open(&image);
            assert_reads(source.as_ref(), &disk, &what);
            assert_eq!(data_map(source.as_ref()), qemu_data_map(&image), "{what}: map");
        }
    }
}

#[test]
fn zero_clusters_subclusters_and_discards_are_exact() {
    if !has("qemu-img") || !has("qemu-io") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for options in ["cluster_size=64k", "cluster_size=64k,extended_l2=on", "cluster_size=512"] {
        let image = directory.path().join("z.qcow2");
        let _ = std::fs::remove_file(&image);
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, text(&image), "4M"]);
        qemu_io(
            &image,
            &[
                "write -P 1 0 1M",
                "write -z 128k 192k",
                "write -z -u 512k 64k",
                "write -P 2 1100k 2k",
                "write -P 3 1111k 9k",
                "write -z 2M 100k",
                "discard 64k 64k",
                "write -P 4 3000k 300k",
                "write -z 3010k 6k",
            ],
        );
        let source = open(&image);
        assert_reads(source.as_ref(), &oracle(&image), options);
        assert_eq!(data_map(source.as_ref()), qemu_data_map(&image), "{options}");
    }
    let image = directory.path().join("kinds.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "1M"]);
    qemu_io(&image, &["write -P 1 0 64k", "write -z 64k 64k"]);
    let extent = |offset, length, kind| Extent { offset, length, kind };
    assert_eq!(
        open(&image).extents(0, 1 << 20).unwrap(),
        [
            extent(0, 65536, ExtentKind::Data),
            extent(65536, 65536, ExtentKind::Zero),
            extent(131_072, 917_504, ExtentKind::Unallocated)
        ]
    );
}

#[test]
fn internal_snapshots_are_read_by_name_and_id() {
    if !has("qemu-img") || !has("qemu-io") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("s.qcow2");
    let raw = directory.path().join("s.raw");
    let before = write_content(&raw, 3 << 20, 3);
    for options in ["", "extended_l2=on", "compat=0.10"] {
        let _ = std::fs::remove_file(&image);
        convert(&raw, &image, options, false);
        run("qemu-img", &["snapshot", "-c", "monday", text(&image)]);
        qemu_io(&image, &["write -P 9 1000k 700k"]);
        run("qemu-img", &["snapshot", "-c", "tuesday", text(&image)]);
        qemu_io(&image, &["write -P 8 0 500k"]);
        // QEMU does not resize version 2 with snapshots.
        if options != "compat=0.10" {
            run("qemu-img", &["resize", "-q", text(&image), "5M"]);
            qemu_io(&image, &["write -P 7 4M 100k"]);
        }
        let active = open(&image);
        assert_eq!(active.internal_snapshots(), ["monday", "tuesday"]);
        assert_reads(active.as_ref(), &oracle(&image), "active");
        let mut changed = before.clone();
        changed[1000 << 10..1700 << 10].fill(9);
        for (wanted, expected) in [("monday", &before), ("2", &changed), ("tuesday", &changed)] {
            let options = OpenOptions { snapshot: Some(wanted.to_owned()), ..OpenOptions::default() };
            let source = open_path(&image, &options).unwrap();
            assert_reads(source.as_ref(), expected, wanted);
        }
        let missing = OpenOptions { snapshot: Some("sunday".to_owned()), ..OpenOptions::default() };
        let error = open_path(&image, &missing).err().unwrap();
        assert!(error.to_string().contains("monday, tuesday"), "{error}");
    }
}

#[test]
fn backing_files_are_followed_only_where_allowed() {
    if !has("qemu-img") || !has("qemu-io") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    write_content(&file("base.raw"), (2 << 20) + 512, 11);
    let create = |backing: &str, format: &str, name: &str, size: &str| {
        let path = file(name);
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", backing, "-F", format, text(&path), size]);
        path
    };
    create("base.raw", "raw", "middle.qcow2", "3M");
    let top = create("middle.qcow2", "qcow2", "top.qcow2", "6M");
    qemu_io(&file("middle.qcow2"), &["write -P 5 1M 200k", "write -z 100k 300k"]);
    qemu_io(&top, &["write -P 6 1100k 2M", "write -P 7 5M 1k"]);

    let refused = open_path(&top, &OpenOptions::default()).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.to_string().contains("middle.qcow2"), "{refused}");

    let source = open_path(&top, &within(directory.path())).unwrap();
    assert_reads(source.as_ref(), &oracle(&top), "chain");

    let elsewhere = tempfile::tempdir().unwrap();
    let outside = open_path(&top, &within(elsewhere.path())).err().unwrap();
    assert_eq!(outside.kind(), ErrorKind::Refused);
}

#[test]
fn a_backing_file_of_unstated_format_is_refused() {
    if !has("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("base.raw");
    let top = directory.path().join("top.qcow2");
    write_content(&base, 1 << 20, 5);
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", text(&top), "1M"]);
    let mut bytes = std::fs::read(&top).unwrap();
    let at = bytes.windows(4).position(|window| window == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
    bytes[at..at + 4].copy_from_slice(&[0x11, 0x22, 0x33, 0x44]);
    std::fs::write(&top, bytes).unwrap();
    let error = open_path(&top, &within(directory.path())).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("does not state the format"), "{error}");
}

#[test]
fn a_chain_that_leads_back_to_itself_is_refused() {
    if !has("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().join("loop.qcow2");
    let arguments =
        ["create", "-q", "-u", "-f", "qcow2", "-b", "loop.qcow2", "-F", "qcow2", text(&top), "1M"];
    run("qemu-img", &arguments);
    let error = open_path(&top, &within(directory.path())).err().unwrap();
    assert!(error.to_string().contains("back to itself"), "{error}");
}

#[test]
fn an_external_data_file_is_read_only_where_allowed_and_plain() {
    if !has("qemu-img") || !has("qemu-io") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (raw, options) in [("on", "plain"), ("off", "mapped")] {
        let image = directory.path().join(format!("{options}.qcow2"));
        let data = format!("data_file={0}/{options}.data,data_file_raw={raw}", text(directory.path()));
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &data, text(&image), "2M"]);
        qemu_io(&image, &["write -P 3 100k 900k"]);
        let refused = open_path(&image, &OpenOptions::default()).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
        let opened = open_path(&image, &within(directory.path()));
        match raw {
            "on" => assert_reads(opened.unwrap().as_ref(), &oracle(&image), options),
            _ => assert_eq!(opened.err().unwrap().kind(), ErrorKind::Unsupported),
        }
    }
}

#[test]
fn images_of_the_test_bed_are_equal_to_their_raw_disks() {
    let Some(images) = testbed_images() else { return };
    for name in ["tiny", "day1"] {
        let source = open(&images.join(name).with_extension("qcow2"));
        let raw = open(&images.join(name).with_extension("raw"));
        let comparison = compared(source.as_ref(), raw.as_ref());
        assert!(comparison.is_equal(), "{name}: {comparison:?}");
    }
}
