//! File systems that need a kernel or FUSE to be written, kept beside the tests with a list of what was in them.
//!
//! Written by: `xfs-linux` Linux 6.18 (trees of extents, a directory with several levels of index, targets of links in
//! blocks of their own, allocated but unwritten space); `ntfs-3g` with compression; `exfat-fuse`; `lvm-head` LVM's
//! `vgcfgrestore`. The lists were made by walking the mounts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};

use leeward_files::{Content, FileKind, FileSystem, FileType, Follow, OpenOptions, lookup, volumes};
use support::*;

/// Unpacks a kept file; zeros become holes.
fn kept(name: &str, folder: &Path) -> PathBuf {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let path = folder.join(name);
    let mut from = zstd::Decoder::new(std::fs::File::open(packed).unwrap()).unwrap();
    let file = std::fs::File::create(&path).unwrap();
    let mut buffer = vec![0; 64 << 10];
    let mut offset = 0;
    loop {
        let mut length = 0;
        while length < buffer.len() {
            match std::io::Read::read(&mut from, &mut buffer[length..]).unwrap() {
                0 => break,
                count => length += count,
            }
        }
        if length == 0 {
            file.set_len(offset).unwrap();
            return path;
        }
        if buffer[..length].iter().any(|&byte| byte != 0) {
            std::os::unix::fs::FileExt::write_all_at(&file, &buffer[..length], offset).unwrap();
        }
        offset += length as u64;
    }
}

/// Compares every line of a list: path, type, mode, owner, group, time, links, size, checksum or target.
fn compare(files: &dyn FileSystem, list: &Path, has_owners: bool) {
    let list = std::fs::read_to_string(list).unwrap();
    let tree = tree_in(files);
    assert_eq!(tree.len(), list.lines().count() + 1);
    for line in list.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let thing = tree.get(fields[0].as_bytes()).unwrap_or_else(|| panic!("{} is missing", fields[0]));
        let node = lookup(files, fields[0].as_bytes(), Follow::No).unwrap();
        let kind = match thing.kind {
            FileType::Directory => "d",
            FileType::Symlink => "l",
            FileType::File => "f",
            _ => "o",
        };
        let time = i128::from(thing.modified.0) * 1_000_000_000 + i128::from(thing.modified.1);
        assert_eq!((kind, time.to_string().as_str()), (fields[1], fields[5]), "{line}");
        if has_owners {
            let found = [
                format!("{:o}", thing.mode),
                thing.owner.0.to_string(),
                thing.owner.1.to_string(),
                thing.links.to_string(),
            ];
            assert_eq!(found, [fields[2], fields[3], fields[4], fields[6]], "{line}");
        }
        match thing.kind {
            FileType::File => {
                let mut content = vec![0; thing.size as usize];
                files.read_at(node, &mut content, 0).unwrap();
                assert_eq!(thing.size.to_string(), fields[7], "{line}");
                assert_eq!(crc32fast::hash(&content).to_string(), fields[8], "{line}");
            }
            FileType::Symlink => assert_eq!(thing.content, fields[8], "{line}"),
            _ => {}
        }
    }
}

#[test]
fn what_kernels_wrote_is_read() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, kind, has_owners) in [
        ("xfs-linux", FileKind::Xfs, true),
        ("ntfs-3g", FileKind::Ntfs, false),
        ("exfat-fuse", FileKind::ExFat, false),
    ] {
        let image = kept(&format!("{name}.img.zst"), scratch.path());
        let list = kept(&format!("{name}.manifest.zst"), scratch.path());
        let files = opened(&image);
        assert_eq!(files.summary().kind, kind);
        assert_eq!(files.summary().warnings, Vec::<String>::new(), "{name}");
        compare(files.as_ref(), &list, has_owners);
    }
}

/// The head of a physical volume as LVM wrote it: `one` lies in two pieces, backwards, and `two` is striped.
#[test]
fn logical_volumes_are_put_together() {
    if !has(&["mke2fs"]) {
        return;
    }
    const MIB: usize = 1 << 20;
    let scratch = tempfile::tempdir().unwrap();
    let (root, image) = (scratch.path().join("root"), scratch.path().join("image"));
    std::fs::create_dir(&root).unwrap();
    populate(&root, Shape { large_directory: 10, links: true, odd_names: true, sparse: true });
    blank(&image, 20);
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", text(&root), text(&image)], "");
    let content = std::fs::read(&image).unwrap();
    let mut bytes = std::fs::read(kept("lvm-head.zst", scratch.path())).unwrap();
    bytes.resize(200 * MIB, 0);
    // Extents of 4 MiB, the first at 1 MiB: three at 4, then two at 0.
    bytes[17 * MIB..29 * MIB].copy_from_slice(&content[..12 * MIB]);
    bytes[MIB..9 * MIB].copy_from_slice(&content[12 * MIB..]);
    let found = volumes(&memory(bytes.clone())).unwrap();
    let ids: Vec<&str> = found.volumes.iter().map(|volume| volume.id.as_str()).collect();
    assert_eq!(ids, ["disk", "lvm:vgt/one", "lvm:vgt/two"]);
    assert_eq!(found.volumes[1].content, Content::Files(FileKind::Ext4));
    assert!(found.volumes[2].problem.is_some() && found.volumes[2].open(OpenOptions::default()).is_err());
    let mut tree = tree_in(found.volumes[1].open(OpenOptions::default()).unwrap().as_ref());
    tree.remove(b"/lost+found".as_slice());
    assert_same(&tree_of(&root), &tree, "lvm", |name, thing| {
        thing.modified.1 = 0;
        if name.is_empty() {
            (thing.links, thing.modified, thing.mode) = (0, (0, 0), 0);
        }
    });
    // Damage in the text is found out by its checksum; damage anywhere does no harm.
    let mut random = Random(77);
    let used: Vec<usize> = (0..MIB).filter(|&place| bytes[place] != 0).collect();
    for _ in 0..400 {
        let place = used[random.below(used.len() as u64) as usize];
        let before = std::mem::replace(&mut bytes[place], random.next() as u8);
        exercise::exercise(&memory(bytes[..30 * MIB].to_vec()));
        bytes[place] = before;
    }
}
