use std::cell::Cell;

use leeward_files::{Entry, Extent, FileKind, Summary, Time};

use super::*;

/// A file system of one directory, whose entries come in no order.
struct Many {
    summary: Summary,
    names: Vec<Vec<u8>>,
}

/// The node of an entry that is damaged.
const DAMAGED: u64 = 13;

fn node(id: u64) -> Node {
    Node { tree: 0, id }
}

impl FileSystem for Many {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> Node {
        node(u64::MAX)
    }

    fn metadata(&self, node: Node) -> leeward_files::Result<Metadata> {
        if node.id == DAMAGED {
            return Err(FilesError::Corrupt { kind: "test", what: "inode 13".to_owned() });
        }
        let file_type = if node == self.root() { FileType::Directory } else { FileType::File };
        let modified = Time { seconds: i64::MAX, nanoseconds: u32::MAX };
        let (mode, uid, gid, links) = (0, 0, 0, 1);
        Ok(Metadata { file_type, size: node.id, mode, uid, gid, modified, links, device: None })
    }

    fn read_dir(
        &self,
        _: Node,
        visit: &mut dyn FnMut(Entry) -> leeward_files::Result<Flow>,
    ) -> leeward_files::Result<()> {
        for (id, name) in self.names.iter().enumerate() {
            if visit(Entry { name: name.clone(), node: node(id as u64) })? == Flow::Stop {
                break;
            }
        }
        Ok(())
    }

    fn read_link(&self, _: Node) -> leeward_files::Result<Vec<u8>> {
        unreachable!("there are no links")
    }

    fn extent(&self, _: Node, _: u64, _: u64) -> leeward_files::Result<Option<Extent>> {
        unreachable!("nothing is read")
    }

    fn read_at(&self, _: Node, _: &mut [u8], _: u64) -> leeward_files::Result<usize> {
        unreachable!("nothing is read")
    }
}

fn many(names: Vec<Vec<u8>>) -> Many {
    let summary = Summary {
        kind: FileKind::Ext4,
        label: None,
        uuid: None,
        size: 0,
        block_bytes: 4096,
        warnings: Vec::new(),
    };
    Many { summary, names }
}

/// Names in no order, among them such as are no text.
fn names(count: usize) -> Vec<Vec<u8>> {
    let name = |number: usize| match number % 50 {
        7 => format!("{:05}%/\n", number * 7919 % count).into_bytes(),
        9 => [format!("{:05}", number * 7919 % count).as_bytes(), b"\xff\xfe"].concat(),
        _ => format!("{:05}", number * 7919 % count).into_bytes(),
    };
    (0..count).map(name).collect()
}

#[test]
fn the_pages_of_a_directory_have_each_entry_once_and_in_order_whatever_its_name() {
    let files = many(names(5000));
    let path: FilePath = "/1/many".parse().unwrap();
    for most in [1000, 999, 5000, 6000] {
        let (mut after, mut all): (Option<Vec<u8>>, Vec<Vec<u8>>) = (None, Vec::new());
        loop {
            let listing = page(&files, files.root(), &path, after.as_deref(), most, &|| true).unwrap();
            assert!(listing.entries.len() <= most);
            for entry in &listing.entries {
                let found: FilePath = entry.path.parse().unwrap();
                all.push(found.name().unwrap().to_vec());
                assert!(!entry.name.contains('\n'));
                assert_eq!(entry.modified, None, "a time that is none is none");
            }
            match listing.next {
                Some(next) => after = Some(path::decoded(&next).unwrap()),
                None => break,
            }
        }
        let mut expected = files.names.clone();
        expected.sort();
        assert_eq!(all, expected, "{most}");
    }
}

#[test]
fn a_damaged_entry_hides_no_other_and_who_has_gone_is_not_worked_for() {
    let files = many(names(100));
    let listing = page(&files, files.root(), &FilePath::default(), None, 1000, &|| true).unwrap();
    let damaged: Vec<_> = listing.entries.iter().filter(|entry| entry.kind == "damaged").collect();
    assert_eq!((listing.entries.len(), damaged.len()), (100, 1));
    assert!(damaged[0].about.as_ref().unwrap().contains("inode 13"));

    let files = many(names(50_000));
    let asked = Cell::new(0);
    let gone = || {
        asked.set(asked.get() + 1);
        asked.get() < 3
    };
    let error = page(&files, files.root(), &FilePath::default(), None, 10, &gone).unwrap_err();
    assert!(matches!(error, Error::Files(FilesError::Cancelled)), "{error}");
    assert_eq!(asked.get(), 3);
}
