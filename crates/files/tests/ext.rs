//! ext2, ext3 and ext4, made by mke2fs and judged by the directory that they were made of.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;

use leeward_files::{FileKind, Follow, lookup};
use support::*;

const SHAPE: Shape = Shape { large_directory: 900, links: true, odd_names: true, sparse: true };

fn make(image: &Path, root: &Path, options: &[&str]) {
    blank(image, 96);
    let mut arguments = vec!["-q", "-F", "-d", text(root)];
    arguments.extend_from_slice(options);
    arguments.push(text(image));
    run("mke2fs", &arguments, "");
}

#[test]
fn all_variants_are_read_as_they_were_made() {
    if !has(&["mke2fs"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (root, image) = (scratch.path().join("root"), scratch.path().join("image"));
    std::fs::create_dir(&root).unwrap();
    populate(&root, SHAPE);
    let expected = tree_of(&root);
    let variants: &[(FileKind, &[&str])] = &[
        (FileKind::Ext2, &["-t", "ext2", "-b", "1024"]),
        (FileKind::Ext2, &["-t", "ext2", "-b", "4096", "-I", "128", "-O", "^filetype"]),
        (FileKind::Ext3, &["-t", "ext3", "-b", "1024"]),
        (FileKind::Ext3, &["-t", "ext3", "-b", "4096"]),
        (FileKind::Ext4, &["-t", "ext4", "-b", "1024"]),
        (FileKind::Ext4, &["-t", "ext4", "-b", "2048", "-O", "^metadata_csum,^64bit"]),
        (FileKind::Ext4, &["-t", "ext4", "-b", "4096", "-O", "inline_data", "-I", "256"]),
        (FileKind::Ext4, &["-t", "ext4", "-b", "1024", "-O", "inline_data,^metadata_csum", "-I", "512"]),
        (FileKind::Ext4, &["-t", "ext4", "-b", "4096", "-O", "^extents,^64bit"]),
        (FileKind::Ext4, &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"]),
        (
            FileKind::Ext4,
            &[
                "-t",
                "ext4",
                "-b",
                "4096",
                "-O",
                "metadata_csum_seed,sparse_super2,ea_inode,large_dir,^has_journal",
            ],
        ),
        (FileKind::Ext4, &["-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384"]),
    ];
    for (kind, options) in variants {
        let what = format!("{options:?}");
        make(
            &image,
            &root,
            &[*options, &["-L", "a label", "-U", "7e57bed0-0000-4000-8000-00000000cafe"]].concat(),
        );
        let files = opened(&image);
        let summary = files.summary();
        assert_eq!((summary.kind, summary.label.as_deref()), (*kind, Some("a label")), "{what}");
        assert_eq!(summary.uuid.as_deref(), Some("7e57bed0-0000-4000-8000-00000000cafe"));
        assert_eq!((summary.size, summary.warnings.as_slice()), (96 << 20, &[][..]), "{what}");
        let mut found = tree_in(files.as_ref());
        assert!(found.remove(b"/lost+found".as_slice()).is_some(), "{what}");
        assert_same(&expected, &found, &what, |name, thing| {
            // mke2fs keeps whole seconds, and the root is its own.
            thing.modified.1 = 0;
            if name.is_empty() {
                (thing.links, thing.modified, thing.mode) = (0, (0, 0), 0);
            }
        });
        assert!(lookup(files.as_ref(), b"/few/../a/./b/c/d/e/deep", Follow::No).is_ok());
        assert!(lookup(files.as_ref(), b"/self", Follow::Yes).is_err());
        assert!(lookup(files.as_ref(), b"/short", Follow::Yes).is_ok());
    }
}

#[test]
fn many_extents_hashed_directories_attributes_and_devices_are_read() {
    if !has(&["mke2fs", "debugfs", "e2fsck"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (root, image) = (scratch.path().join("root"), scratch.path().join("image"));
    std::fs::create_dir(&root).unwrap();
    populate(&root, SHAPE);
    make(&image, &root, &["-t", "ext4", "-b", "1024", "-O", "^has_journal"]);
    let script = "mknod null c 1 3\nmknod disk b 8 17\nmknod pipe p\nea_set /one user.colour green\n\
        set_inode_field /tiny.txt mtime @4294967396\nset_inode_field /tiny.txt uid 70001\nsymlink a /etc\n";
    run("debugfs", &["-w", "-f", "/dev/stdin", text(&image)], script);
    // Hashes the large directory anew.
    run("e2fsck", &["-fyD", text(&image)], "");
    let files = opened(&image);
    let found = tree_in(files.as_ref());
    assert_eq!(found[b"/null".as_slice()].device, Some((1, 3)));
    assert_eq!(found[b"/disk".as_slice()].device, Some((8, 17)));
    assert_eq!(found[b"/tiny.txt".as_slice()].owner.0, 70_001);
    assert_eq!(found[b"/tiny.txt".as_slice()].modified.0, 4_294_967_396);
    let one = lookup(files.as_ref(), b"/one", Follow::No).unwrap();
    assert_eq!(files.attributes(one).unwrap(), [(b"user.colour".to_vec(), b"green".to_vec())]);
    let expected = tree_of(&root);
    for name in [&b"/holes"[..], b"/sparse", b"/large.bin"] {
        assert_eq!(found[name].content, expected[name].content);
    }
    let many = |tree: &Tree| tree.keys().filter(|name| name.starts_with(b"/many/")).count();
    assert_eq!(many(&found), 900);
}

/// Writes through the journal without putting anything in place, as a guest does that loses power.
#[test]
fn what_is_only_in_the_journal_is_read() {
    if !has(&["mke2fs", "debugfs", "e2fsck"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (root, image, repaired) =
        (scratch.path().join("root"), scratch.path().join("image"), scratch.path().join("repaired"));
    std::fs::create_dir(&root).unwrap();
    populate(&root, Shape { large_directory: 50, ..SHAPE });
    for (options, checksums) in [
        (&["-t", "ext4", "-b", "1024"][..], "v3"),
        (&["-t", "ext4", "-b", "4096", "-O", "^64bit"], "v2"),
        (&["-t", "ext4", "-b", "4096", "-O", "^metadata_csum"], ""),
        (&["-t", "ext3", "-b", "1024"], ""),
    ] {
        make(&image, &root, options);
        // The block of the root directory, with an entry renamed and one that begins with the journal's signature.
        let place = run("debugfs", &["-R", "blocks /", text(&image)], "");
        let block: u64 = place.lines().last().unwrap().split_whitespace().last().unwrap().parse().unwrap();
        let data = run("debugfs", &["-R", "blocks /large.bin", text(&image)], "");
        let data: Vec<u64> = data.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let bytes = std::fs::read(&image).unwrap();
        let size = if options.contains(&"1024") { 1024 } else { 4096 };
        let at = |block: u64| block as usize * size;
        let mut changed = bytes[at(block)..at(block) + size].to_vec();
        let escaped = [&0xc03b_3998_u32.to_be_bytes()[..], &[7; 60]].concat().repeat(size / 64);
        let content = scratch.path().join("content");
        let checked = checksums.is_empty();
        if checked {
            let name = changed.windows(5).position(|window| window == b"empty").unwrap();
            changed[name..name + 5].copy_from_slice(b"fresh");
        }
        std::fs::write(&content, [changed, escaped.clone(), vec![9; size]].concat()).unwrap();
        let open = if checksums.is_empty() { "jo".to_owned() } else { "jo -c".to_owned() };
        let script = format!(
            "{open}\njw -b {block},{},{} {}\njw -r {}\njc\n",
            data[5],
            data[6],
            text(&content),
            data[6]
        );
        run("debugfs", &["-w", "-f", "/dev/stdin", text(&image)], &script);
        std::fs::copy(&image, &repaired).unwrap();
        let fsck = std::process::Command::new("e2fsck").args(["-fy", text(&repaired)]).output().unwrap();
        assert!(fsck.status.code().unwrap() < 4, "{fsck:?}");
        let files = opened(&image);
        assert_eq!(files.summary().warnings, Vec::<String>::new());
        let (found, expected) = (tree_in(files.as_ref()), tree_in(opened(&repaired).as_ref()));
        assert_same(&expected, &found, &format!("{options:?}"), |_, _| {});
        assert_eq!(found.contains_key(b"/fresh".as_slice()), checked);
        let node = lookup(files.as_ref(), b"/large.bin", Follow::No).unwrap();
        let mut part = vec![0; 2 * size];
        files.read_at(node, &mut part, 5 * size as u64).unwrap();
        assert!(part[..size] == escaped, "the escaped block is put back: {options:?}");
        assert!(part[size..] == bytes[at(data[6])..at(data[6]) + size], "a revoked block stays");
    }
}
