//! From a path to what lies there.

use crate::{Error, FileSystem, FileType, Node, Result};

/// Symbolic links that are followed on one path, as in Linux.
const LINKS_MAX: usize = 40;
/// Parts of a path that are looked up, those of links included.
const PARTS_MAX: usize = 4096;

/// What to do with a symbolic link at the end of a path; those before it are always followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Take the link itself.
    No,
    /// Take what it leads to.
    Yes,
}

/// Finds what lies under `path`, which begins at the root whether it has a `/` in front or not. Links are followed
/// inside this file system: one that leads to `/x` leads to `x` in its root, and `..` stays there too.
///
/// # Errors
/// There is nothing, a part is no directory, or too many links lead on.
pub fn lookup(files: &dyn FileSystem, path: &[u8], follow: Follow) -> Result<Node> {
    let shown = || String::from_utf8_lossy(path).into_owned();
    let mut todo: Vec<Vec<u8>> = parts(path).rev().collect();
    let mut at = vec![files.root()];
    let (mut links, mut steps) = (0, 0);
    while let Some(part) = todo.pop() {
        steps += 1;
        if steps > PARTS_MAX {
            return Err(Error::TooManyLinks { path: shown(), limit: LINKS_MAX });
        }
        let here = at.last().copied().unwrap_or_else(|| files.root());
        if files.metadata(here)?.file_type != FileType::Directory {
            return Err(Error::NotADirectory { path: shown() });
        }
        if part == b".." {
            if at.len() > 1 {
                at.pop();
            }
            continue;
        }
        let Some(found) = files.find(here, &part)? else { return Err(Error::NotFound { path: shown() }) };
        let is_last = todo.is_empty() && follow == Follow::No && path.last() != Some(&b'/');
        if is_last || files.metadata(found)?.file_type != FileType::Symlink {
            at.push(found);
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(Error::TooManyLinks { path: shown(), limit: LINKS_MAX });
        }
        let target = files.read_link(found)?;
        if target.first() == Some(&b'/') {
            at.truncate(1);
        }
        todo.extend(parts(&target).rev());
    }
    Ok(at.last().copied().unwrap_or_else(|| files.root()))
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> + '_ {
    path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec)
}
