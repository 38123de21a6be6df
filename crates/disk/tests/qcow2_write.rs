//! The qcow2 writer: QEMU finds no fault with it, and it keeps what it is given.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/qemu.rs"]
mod qemu;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use leeward_disk::formats::qcow2::{Qcow2Target, WriterOptions};
use leeward_disk::{ErrorKind, RawFileTarget, Source, Target, WorkOptions, copy};
use proptest::prelude::*;
use qemu::*;

fn copy_to(source: &dyn Source, target: &dyn Target) {
    let cancel = AtomicBool::new(false);
    copy(source, target, &WorkOptions { threads: 3, progress: &|_| {}, cancel: &cancel }).unwrap();
    target.finish(false).unwrap();
}

fn assert_clean(image: &Path) {
    run("qemu-img", &["check", "-q", "-f", "qcow2", text(image)]);
}

#[test]
fn qemu_reads_what_is_written_and_finds_it_sound() {
    if !has("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (raw, image) = (directory.path().join("a.raw"), directory.path().join("a.qcow2"));
    for size in [0, 512, 70_144, (9 << 20) + 1536] {
        write_content(&raw, size, 5 + size as u64);
        for cluster_bytes in [512, 4096, 64 << 10, 2 << 20] {
            for compress in [false, true] {
                let what = format!("{size} bytes, clusters {cluster_bytes}, compress {compress}");
                let options = WriterOptions { cluster_bytes, compress, overwrite: true };
                let target = Qcow2Target::create(&image, size as u64, &options).unwrap();
                copy_to(open(&raw).as_ref(), &target);
                assert_clean(&image);
                run("qemu-img", &["compare", "-q", "-f", "raw", "-F", "qcow2", text(&raw), text(&image)]);
                assert!(compared(open(&raw).as_ref(), open(&image).as_ref()).is_equal(), "{what}");
            }
        }
    }
}

#[test]
fn sparse_disks_stay_sparse() {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("a.raw");
    let file = std::fs::File::create(&raw).unwrap();
    file.set_len(1 << 40).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"here", 700 << 30).unwrap();
    let image = directory.path().join("a.qcow2");
    let target = Qcow2Target::create(&image, 1 << 40, &WriterOptions::default()).unwrap();
    copy_to(open(&raw).as_ref(), &target);
    assert!(std::fs::metadata(&image).unwrap().len() < 2 << 20);
    let copy = directory.path().join("b.raw");
    copy_to(open(&image).as_ref(), &RawFileTarget::create(&copy, 1 << 40, false).unwrap());
    assert!(compared(open(&raw).as_ref(), open(&copy).as_ref()).is_equal());
}

#[test]
fn an_unfinished_target_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.qcow2");
    let target = Qcow2Target::create(&path, 1 << 20, &WriterOptions::default()).unwrap();
    target.write_at(&[1; 1000], 5000).unwrap();
    assert!(!path.exists(), "the name is taken only at the end");
    drop(target);
    drop(RawFileTarget::create(&path, 1 << 20, false).unwrap());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn an_existing_file_is_replaced_only_when_asked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.raw");
    std::fs::write(&path, b"precious").unwrap();
    let refused = RawFileTarget::create(&path, 512, false).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    let target = RawFileTarget::create(&path, 512, true).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"precious", "until the new one is complete");
    target.finish(true).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), [0; 512]);

    let late = directory.path().join("late.raw");
    let target = RawFileTarget::create(&late, 512, false).unwrap();
    std::fs::write(&late, b"somebody else").unwrap();
    assert_eq!(target.finish(false).unwrap_err().kind(), ErrorKind::Refused);
    drop(target);
    assert_eq!(std::fs::read(&late).unwrap(), b"somebody else");
}

#[test]
fn a_cancelled_copy_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("a.raw");
    write_content(&raw, 4 << 20, 1);
    let target = RawFileTarget::create(&directory.path().join("b.raw"), 4 << 20, false).unwrap();
    let cancel = AtomicBool::new(true);
    let options = WorkOptions { threads: 2, progress: &|_| {}, cancel: &cancel };
    let error = copy(open(&raw).as_ref(), &target, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[derive(Debug, Clone)]
enum Step {
    Write { offset: usize, length: usize, noise: bool },
    Zero { offset: usize, length: usize },
}

fn steps(size: usize) -> impl Strategy<Value = Vec<Step>> {
    let range = move || {
        (0..size, prop_oneof![1..600_usize, 1..200_000_usize])
            .prop_map(move |(offset, length)| (offset, length.min(size - offset)))
    };
    // Whole clusters take another way than parts of them.
    let whole = move || {
        (0..size / 65536, 1..6_usize)
            .prop_map(move |(at, n)| (at * 65536, (n * 65536).min(size - at * 65536)))
    };
    let step = prop_oneof![
        3 => (range(), any::<bool>()).prop_map(|((offset, length), noise)| Step::Write { offset, length, noise }),
        2 => (whole(), any::<bool>()).prop_map(|((offset, length), noise)| Step::Write { offset, length, noise }),
        1 => range().prop_map(|(offset, length)| Step::Zero { offset, length }),
        1 => whole().prop_map(|(offset, length)| Step::Zero { offset, length }),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_writes_reads_back(
        steps in steps(1_500_160),
        cluster_bits in prop_oneof![Just(9), Just(12), Just(16), Just(20)],
        compress: bool,
    ) {
        let size = 1_500_160;
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("p.qcow2");
        let options = WriterOptions { cluster_bytes: 1 << cluster_bits, compress, overwrite: false };
        let target = Qcow2Target::create(&image, size as u64, &options).unwrap();
        let mut expected = vec![0; size];
        for (index, step) in steps.iter().enumerate() {
            match *step {
                Step::Write { offset, length, noise } => {
                    let mut random = Random(index as u64 + 1);
                    let byte = index as u8 | 1;
                    expected[offset..offset + length]
                        .fill_with(|| if noise { random.next() as u8 } else { byte });
                    target.write_at(&expected[offset..offset + length], offset as u64).unwrap();
                }
                Step::Zero { offset, length } => {
                    expected[offset..offset + length].fill(0);
                    target.zero_at(offset as u64, length as u64).unwrap();
                }
            }
        }
        target.finish(false).unwrap();
        assert_reads(open(&image).as_ref(), &expected, "written");
        if has("qemu-img") {
            assert_clean(&image);
        }
    }
}
