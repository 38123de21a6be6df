//! A walk over everything that an input claims to hold, bounded so that a fuzzer gets on.

use std::collections::HashSet;

use leeward_disk::SharedSource;
use leeward_files::{Error, FileType, Flow, Follow, OpenOptions, lookup, volumes};

/// Things looked at in one file system.
const THINGS_MAX: usize = 400;
const EXTENTS_MAX: usize = 200;

/// Opens all volumes and reads what is in them. Errors are what hostile input is answered with; a reader that broke is
/// a panic here.
pub fn exercise(source: &SharedSource) {
    let Ok(found) = volumes(source) else { return };
    for volume in &found.volumes {
        let files = match volume.open(OpenOptions { ignore_checksums: true }) {
            Ok(files) => files,
            Err(error) => {
                check(&error);
                continue;
            }
        };
        let (mut todo, mut seen) = (vec![files.root()], HashSet::new());
        let mut buffer = vec![0; 100_000];
        while let Some(node) = todo.pop() {
            if !seen.insert(node) || seen.len() > THINGS_MAX {
                continue;
            }
            let metadata = match files.metadata(node) {
                Ok(metadata) => metadata,
                Err(error) => {
                    check(&error);
                    continue;
                }
            };
            files.attributes(node).map_or_else(|error| check(&error), drop);
            match metadata.file_type {
                FileType::Directory => {
                    let walked = files.read_dir(node, &mut |entry| {
                        todo.push(entry.node);
                        Ok(if todo.len() > THINGS_MAX { Flow::Stop } else { Flow::Continue })
                    });
                    walked.map_or_else(|error| check(&error), drop);
                }
                FileType::Symlink => files.read_link(node).map_or_else(|error| check(&error), drop),
                FileType::File => {
                    for offset in [0, metadata.size / 2, metadata.size.saturating_sub(10), u64::MAX - 5] {
                        files.read_at(node, &mut buffer, offset).map_or_else(|error| check(&error), drop);
                    }
                    let mut position = 0;
                    for _ in 0..EXTENTS_MAX {
                        match files.extent(node, position, u64::MAX - position) {
                            Ok(Some(extent)) => {
                                assert!(extent.offset == position && extent.length > 0);
                                position += extent.length;
                            }
                            Ok(None) => break,
                            Err(error) => {
                                check(&error);
                                break;
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        lookup(files.as_ref(), b"/few/../a/b", Follow::Yes).map_or_else(|error| check(&error), drop);
    }
}

fn check(error: &Error) {
    assert!(!matches!(error, Error::Broken { .. }), "{error}");
}
