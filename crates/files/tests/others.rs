//! XFS, FAT, exFAT and NTFS, made by their own tools.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fmt::Write;
use std::path::Path;

use leeward_files::{FileKind, FileType};
use support::*;

/// A list of files for `mkfs.xfs -p`, which knows neither spaces in names nor holes.
fn protofile(root: &Path, tree: &Tree) -> String {
    fn list(root: &Path, tree: &Tree, name: &[u8], out: &mut String) {
        for (path, thing) in tree {
            let Some(rest) = path.strip_prefix(name).and_then(|rest| rest.strip_prefix(b"/")) else {
                continue;
            };
            if rest.contains(&b'/') || rest.is_empty() {
                continue;
            }
            let leaf = std::str::from_utf8(rest).unwrap();
            let kind = match thing.kind {
                FileType::Directory => 'd',
                FileType::Symlink => 'l',
                _ => '-',
            };
            let set = |bit: u32, letter: char| if thing.mode & bit != 0 { letter } else { '-' };
            let (user, group) = (set(0o4000, 'u'), set(0o2000, 'g'));
            write!(
                out,
                "{leaf} {kind}{user}{group}{:03o} {} {} ",
                thing.mode & 0o777,
                thing.owner.0,
                thing.owner.1
            )
            .unwrap();
            match thing.kind {
                FileType::Directory => {
                    out.push('\n');
                    list(root, tree, path, out);
                    out.push_str("$\n");
                }
                FileType::Symlink => writeln!(out, "{}", thing.content).unwrap(),
                _ => writeln!(out, "{}{}", root.display(), std::str::from_utf8(path).unwrap()).unwrap(),
            }
        }
    }
    let mut text = String::from("nothing\n0 0\nd--755 0 0\n");
    list(root, tree, b"", &mut text);
    text.push_str("null c--666 0 0 1 3\nblocks b--600 0 0 300 70001\npipe p--644 0 0\n$\n");
    text
}

#[test]
fn xfs_is_read_as_it_was_made() {
    if !has(&["mkfs.xfs"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (root, image) = (scratch.path().join("root"), scratch.path().join("image"));
    std::fs::create_dir(&root).unwrap();
    populate(&root, Shape { large_directory: 1500, links: true, odd_names: false, sparse: false });
    std::fs::remove_file(root.join("a/second-name")).unwrap();
    // mkfs.xfs 6.1 leaves out the head of a link's target that does not fit into the inode.
    std::fs::remove_file(root.join("link-900")).unwrap();
    let mut expected = tree_of(&root);
    let list = scratch.path().join("list");
    std::fs::write(&list, protofile(&root, &expected)).unwrap();
    expected.get_mut(b"/few".as_slice()).unwrap().mode = 0o777;
    for options in [
        &["-b", "size=4096"][..],
        &["-b", "size=1024", "-m", "crc=1,bigtime=1"],
        &["-b", "size=4096", "-n", "size=16384", "-i", "size=1024", "-m", "bigtime=0"],
        &["-b", "size=4096", "-m", "crc=0", "-n", "ftype=0"],
        &["-b", "size=512", "-m", "crc=0", "-n", "ftype=1", "-i", "size=256"],
        &["-d", "agcount=4", "-n", "size=8192"],
    ] {
        blank(&image, 320);
        run(
            "mkfs.xfs",
            &[options, &["-q", "-f", "-L", "label", "-p", text(&list), text(&image)]].concat(),
            "",
        );
        let files = opened(&image);
        let what = format!("{options:?}");
        assert_eq!((files.summary().kind, files.summary().label.as_deref()), (FileKind::Xfs, Some("label")));
        assert_eq!(files.summary().warnings, Vec::<String>::new(), "{what}");
        let mut found = tree_in(files.as_ref());
        let mut device = |name: &[u8]| found.remove(name).unwrap();
        assert_eq!(device(b"/null").device, Some((1, 3)));
        assert_eq!(device(b"/blocks").device, Some((300, 70_001)));
        assert_eq!(device(b"/pipe").kind, FileType::Fifo);
        assert_same(&expected, &found, &what, |name, thing| {
            thing.modified = (0, 0);
            if name.is_empty() || thing.kind == FileType::Symlink {
                (thing.links, thing.mode) = (0, 0);
            }
        });
    }
}

/// What a FAT file system cannot hold.
fn forget_for_fat(name: &[u8], thing: &mut Thing) {
    (thing.mode, thing.owner, thing.links) = (0, (0, 0), 0);
    thing.modified = (thing.modified.0 / 2, 0);
    if name.is_empty() || thing.kind == FileType::Directory {
        thing.modified = (0, 0);
    }
}

#[test]
fn fat_is_read_as_it_was_made() {
    if !has(&["mkfs.vfat", "mcopy"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (root, image) = (scratch.path().join("root"), scratch.path().join("image"));
    std::fs::create_dir(&root).unwrap();
    populate(&root, Shape { large_directory: 300, links: false, odd_names: false, sparse: true });
    for name in
        ["ALLCAPS.TXT", "Mixed Case.Txt", "lower.txt", "Wörter und 漢字", "a name with exactly 26 letter"]
    {
        std::fs::write(root.join(name), name).unwrap();
    }
    let expected = tree_of(&root);
    for (mib, options) in [
        (100, &["-F", "12", "-s", "64"][..]),
        (60, &["-F", "16"]),
        (60, &["-F", "32", "-s", "1"]),
        (60, &["-F", "32", "-s", "1", "-S", "512", "-f", "1"]),
    ] {
        blank(&image, mib);
        run("mkfs.vfat", &[options, &["-n", "LABEL", "-i", "cafe1234", text(&image)]].concat(), "");
        let mut copy = vec!["-Q", "-m", "-s", "-i", text(&image)];
        let entries: Vec<_> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
        copy.extend(entries.iter().map(|path| text(path)));
        copy.push("::/");
        // Local time is what FAT keeps; here it is that of UTC.
        let mut command = std::process::Command::new("mcopy");
        let output = command.args(&copy).env("TZ", "UTC").env("LC_ALL", "C.UTF-8").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let files = opened(&image);
        let what = format!("{options:?}");
        let summary = files.summary();
        assert_eq!((summary.kind, summary.label.as_deref()), (FileKind::Fat, Some("LABEL")), "{what}");
        assert_eq!((summary.uuid.as_deref(), summary.warnings.len()), (Some("CAFE-1234"), 0), "{what}");
        assert_same(&expected, &tree_in(files.as_ref()), &what, forget_for_fat);
    }
}

#[test]
fn ntfs_is_read_as_it_was_made() {
    if !has(&["mkntfs", "ntfscp"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (root, image) = (scratch.path().join("root"), scratch.path().join("image"));
    std::fs::create_dir(&root).unwrap();
    populate(&root, Shape { large_directory: 0, links: false, odd_names: false, sparse: true });
    std::fs::write(root.join("Wörter und 漢字"), "unicode").unwrap();
    // ntfscp copies files into directories that are there, and makes none.
    let mut expected = tree_of(&root);
    expected.retain(|name, thing| {
        thing.kind == FileType::File && name.iter().filter(|&&byte| byte == b'/').count() == 1
    });
    for options in [&["-c", "4096"][..], &["-c", "512"], &["-c", "65536"]] {
        blank(&image, 64);
        run("mkntfs", &[options, &["-Q", "-F", "-q", "-L", "Läbel", text(&image)]].concat(), "");
        for name in expected.keys() {
            let name = std::str::from_utf8(name).unwrap();
            let from = format!("{}{name}", root.display());
            let mut command = std::process::Command::new("ntfscp");
            let output = command
                .args(["-q", "-f", text(&image), &from, name])
                .env("LC_ALL", "C.UTF-8")
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        let files = opened(&image);
        let summary = files.summary();
        assert_eq!((summary.kind, summary.label.as_deref()), (FileKind::Ntfs, Some("Läbel")));
        assert_eq!(summary.warnings, Vec::<String>::new());
        let mut found = tree_in(files.as_ref());
        found.remove(b"".as_slice()).unwrap();
        assert_same(&expected, &found, &format!("{options:?}"), |_, thing| {
            (thing.mode, thing.owner, thing.links, thing.modified) = (0, (0, 0), 0, (0, 0));
        });
    }
}
