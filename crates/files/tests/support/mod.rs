//! Trees of files as they are on this machine and as a reader sees them, and the tools that make file systems.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod exercise;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use leeward_disk::{
    Format, MemoryStorage, OpenOptions as DiskOptions, SharedSource, open_path, open_storage,
};
use leeward_files::{FileSystem, FileType, Flow, Node, OpenOptions, open, walk_extents};

/// Whether the tools are there; says loudly when one is not, because the test then proves nothing.
pub fn has(tools: &[&str]) -> bool {
    let missing: Vec<&&str> = tools.iter().filter(|tool| find(tool).is_none()).collect();
    if !missing.is_empty() {
        eprintln!("\n*** SKIPPED: {missing:?} not installed, nothing was compared ***\n");
    }
    missing.is_empty()
}

fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').map(|folder| Path::new(folder).join(tool)).find(|path| path.is_file())
}

/// Runs a tool, which must succeed, and returns what it printed.
pub fn run(tool: &str, arguments: &[&str], input: &str) -> String {
    let program = find(tool).unwrap_or_else(|| tool.into());
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    // e2fsck ends with 1 when it mended something.
    let mended = tool == "e2fsck" && output.status.code() == Some(1);
    assert!(output.status.success() || mended, "{tool} {arguments:?}: {told}");
    told
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Random numbers that are the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// What a tree holds, by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    pub kind: FileType,
    pub mode: u32,
    pub owner: (u32, u32),
    pub modified: (i64, u32),
    pub links: u64,
    pub device: Option<(u32, u32)>,
    pub size: u64,
    /// Digest of the content of a file; target of a link.
    pub content: String,
}

pub type Tree = BTreeMap<Vec<u8>, Thing>;

/// The tree below a directory of this machine.
pub fn tree_of(root: &Path) -> Tree {
    fn walk(path: &Path, name: Vec<u8>, tree: &mut Tree) {
        let metadata = std::fs::symlink_metadata(path).unwrap();
        let kind = metadata.file_type();
        let (kind, content) = if kind.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                let below = [name.as_slice(), b"/", entry.file_name().as_bytes()].concat();
                walk(&entry.path(), below, tree);
            }
            (FileType::Directory, String::new())
        } else if kind.is_symlink() {
            let target = std::fs::read_link(path).unwrap();
            (FileType::Symlink, String::from_utf8_lossy(target.as_os_str().as_bytes()).into_owned())
        } else if kind.is_file() {
            (FileType::File, blake3::hash(&std::fs::read(path).unwrap()).to_hex().to_string())
        } else if kind.is_fifo() {
            (FileType::Fifo, String::new())
        } else if kind.is_char_device() {
            (FileType::CharacterDevice, String::new())
        } else if kind.is_block_device() {
            (FileType::BlockDevice, String::new())
        } else {
            (FileType::Socket, String::new())
        };
        let number = metadata.rdev();
        let device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice)
            .then(|| ((number >> 8 & 0xfff) as u32, (number & 0xff | number >> 12 & 0xf_ff00) as u32));
        let thing = Thing {
            kind,
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec() as u32),
            links: metadata.nlink(),
            device,
            size: if matches!(kind, FileType::File | FileType::Symlink) { metadata.size() } else { 0 },
            content,
        };
        tree.insert(name, thing);
    }
    let mut tree = Tree::new();
    walk(root, Vec::new(), &mut tree);
    tree
}

/// The tree that a reader sees. Every file is read in two ways, and its extents are compared with its content.
pub fn tree_in(files: &dyn FileSystem) -> Tree {
    let mut tree = Tree::new();
    let mut todo = vec![(files.root(), Vec::new())];
    while let Some((node, name)) = todo.pop() {
        let metadata = files.metadata(node).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        let content = match metadata.file_type {
            FileType::File => digest(files, node, metadata.size),
            FileType::Symlink => String::from_utf8_lossy(&files.read_link(node).unwrap()).into_owned(),
            FileType::Directory => {
                files
                    .read_dir(node, &mut |entry| {
                        todo.push((entry.node, [name.as_slice(), b"/", &entry.name].concat()));
                        Ok(Flow::Continue)
                    })
                    .unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(&name)));
                String::new()
            }
            _ => String::new(),
        };
        let thing = Thing {
            kind: metadata.file_type,
            mode: metadata.mode,
            owner: (metadata.uid, metadata.gid),
            modified: (metadata.modified.seconds, metadata.modified.nanoseconds),
            links: metadata.links,
            device: metadata.device,
            size: if matches!(metadata.file_type, FileType::File | FileType::Symlink) {
                metadata.size
            } else {
                0
            },
            content,
        };
        assert_eq!(tree.insert(name, thing), None, "a name twice");
    }
    tree
}

/// Reads in large pieces, in pieces of odd lengths, and by extents; all must agree.
fn digest(files: &dyn FileSystem, node: Node, size: u64) -> String {
    let mut whole = vec![0xa5; size as usize + 10];
    assert_eq!(files.read_at(node, &mut whole, 0).unwrap(), size as usize);
    whole.truncate(size as usize);
    let mut random = Random(size | 1);
    for _ in 0..4 {
        let offset = random.below(size + 5);
        let mut piece = vec![0x5a; 1 + random.below(70_000) as usize];
        let count = files.read_at(node, &mut piece, offset).unwrap();
        let start = (offset as usize).min(whole.len());
        assert!(piece[..count] == whole[start..(start + piece.len()).min(whole.len())], "{offset}");
    }
    let mut next = 0;
    walk_extents::<leeward_files::Error>(files, node, |extent| {
        assert_eq!(extent.offset, next);
        next += extent.length;
        let part = &whole[extent.offset as usize..next as usize];
        assert!(extent.is_data || part.iter().all(|&byte| byte == 0), "data called a hole: {extent:?}");
        Ok(())
    })
    .unwrap();
    assert_eq!(next, size);
    blake3::hash(&whole).to_hex().to_string()
}

pub fn disk(path: &Path) -> SharedSource {
    open_path(path, &DiskOptions::with_format(Format::Raw)).unwrap()
}

pub fn memory(bytes: Vec<u8>) -> SharedSource {
    open_storage(Arc::new(MemoryStorage::new("disk", bytes)), &DiskOptions::with_format(Format::Raw)).unwrap()
}

pub fn opened(path: &Path) -> Box<dyn FileSystem> {
    open(disk(path), OpenOptions::default()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compares two trees and says where they differ. `forget` takes away what the file system cannot hold.
pub fn assert_same(expected: &Tree, found: &Tree, what: &str, forget: impl Fn(&[u8], &mut Thing)) {
    let prepare = |tree: &Tree| -> Tree {
        tree.iter()
            .map(|(name, thing)| {
                let mut thing = thing.clone();
                forget(name, &mut thing);
                (name.clone(), thing)
            })
            .collect()
    };
    let (expected, found) = (prepare(expected), prepare(found));
    for (name, thing) in &expected {
        let name_shown = String::from_utf8_lossy(name);
        let other = found.get(name).unwrap_or_else(|| panic!("{what}: {name_shown} is missing"));
        assert_eq!(thing, other, "{what}: {name_shown}");
    }
    for name in found.keys() {
        assert!(expected.contains_key(name), "{what}: {} was made up", String::from_utf8_lossy(name));
    }
}

/// An empty file of this many MiB.
pub fn blank(path: &Path, mib: u64) {
    std::fs::File::create(path).unwrap().set_len(mib << 20).unwrap();
}

/// How a tree for tests is made.
#[derive(Clone, Copy)]
pub struct Shape {
    pub large_directory: usize,
    pub links: bool,
    pub odd_names: bool,
    pub sparse: bool,
}

/// Fills a directory with what is hard to read.
pub fn populate(root: &Path, shape: Shape) {
    let mut random = Random(0xf11e5);
    let write = |name: &str, bytes: &[u8]| {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write("empty", b"");
    write("one", b"1");
    write("tiny.txt", &random.bytes(50));
    write("inline.txt", &random.bytes(130));
    write("block.bin", &random.bytes(4096));
    write("odd.bin", &random.bytes(70_001));
    write("large.bin", &random.bytes(3_000_017));
    write("zeros", &vec![0; 300_000]);
    write("text", "leeward files ".repeat(20_000).as_bytes());
    write("a/b/c/d/e/deep", b"deep");
    for index in 0..12 {
        write(&format!("few/file-{index}"), format!("content of {index}").as_bytes());
    }
    for index in 0..shape.large_directory {
        write(&format!("many/a-file-with-a-rather-long-name-{index:05}.dat"), format!("{index}").as_bytes());
    }
    if shape.links {
        for (name, target) in
            [("short", "few/file-1"), ("absolute", "/etc/passwd"), ("up", "../../x"), ("self", "self")]
        {
            std::os::unix::fs::symlink(target, root.join(name)).unwrap();
        }
        for length in [58, 59, 60, 61, 100, 155, 156, 157, 300, 900] {
            std::os::unix::fs::symlink("t".repeat(length), root.join(format!("link-{length}"))).unwrap();
        }
        std::fs::hard_link(root.join("odd.bin"), root.join("a/second-name")).unwrap();
    }
    if shape.odd_names {
        let name = std::ffi::OsStr::from_bytes(b"not-\xff\xfe-utf8 \x1b[31m\n");
        std::fs::write(root.join(name), b"odd").unwrap();
        write("Wörter und 漢字", b"unicode");
        write(&"n".repeat(255), b"long");
    }
    if shape.sparse {
        let file = std::fs::File::create(root.join("sparse")).unwrap();
        file.set_len(9 << 20).unwrap();
        for (offset, length) in [(0, 10), (1 << 20, 5000), ((5 << 20) + 123, 70_000), ((9 << 20) - 7, 7)] {
            file.write_all_at(&random.bytes(length), offset).unwrap();
        }
        let file = std::fs::File::create(root.join("holes")).unwrap();
        for index in 0..1500_u64 {
            file.write_all_at(&random.bytes(100), index * 8192).unwrap();
        }
        std::fs::File::create(root.join("only-hole")).unwrap().set_len(5_000_000).unwrap();
    }
    use std::os::unix::fs::PermissionsExt;
    for (name, mode) in [("one", 0o4755), ("tiny.txt", 0o600), ("few", 0o1777), ("a/b", 0o700)] {
        std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let moment = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_891, 987_654_300);
    std::fs::File::options().write(true).open(root.join("block.bin")).unwrap().set_modified(moment).unwrap();
}
