//! What the file system is made of, and the numbers by which the kernel knows it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use leeward_repository::{ImageName, SnapshotId};

/// Something in the file system.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Node {
    /// The root (empty), an image, or what the names of images have in common before a slash.
    Directory(String),
    /// A snapshot of an image.
    Snapshot(ImageName, SnapshotId),
    /// The link to the last snapshot of an image.
    Latest(ImageName),
    /// The disk of a snapshot.
    Disk(ImageName, SnapshotId),
    /// A partition of it, by number.
    Partition(ImageName, SnapshotId, u32),
    /// Its manifest.
    Manifest(ImageName, SnapshotId),
}

/// The number of the root, by FUSE's rules.
const ROOT: u64 = 1;

impl Node {
    pub(crate) fn root() -> Self {
        Self::Directory(String::new())
    }

    /// The number that it has unless another node has it: always the same, so that tools that compare numbers across
    /// mounts see the same file.
    pub(crate) fn number(&self) -> u64 {
        let text = match self {
            Self::Directory(name) if name.is_empty() => return ROOT,
            Self::Directory(name) => format!("directory {name}"),
            Self::Snapshot(image, id) => format!("snapshot {image} {id}"),
            Self::Latest(image) => format!("latest {image}"),
            Self::Disk(image, id) => format!("disk {image} {id}"),
            Self::Partition(image, id, number) => format!("partition {image} {id} {number}"),
            Self::Manifest(image, id) => format!("manifest {image} {id}"),
        };
        let digest = blake3::hash(text.as_bytes());
        let number = digest.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        number.max(ROOT + 1)
    }
}

struct Known {
    node: Node,
    lookups: u64,
}

/// The nodes that the kernel knows.
#[derive(Default)]
pub(crate) struct Nodes(Mutex<HashMap<u64, Known>>);

impl Nodes {
    /// The node of a number.
    pub(crate) fn get(&self, number: u64) -> Option<Node> {
        if number == ROOT {
            return Some(Node::root());
        }
        self.lock().get(&number).map(|known| known.node.clone())
    }

    /// Counts a look-up of a node and returns its number, which is another one when a second node has it already.
    pub(crate) fn remember(&self, node: &Node) -> u64 {
        let mut known = self.lock();
        let mut number = node.number();
        if number == ROOT {
            return ROOT;
        }
        loop {
            let entry = known.entry(number).or_insert_with(|| Known { node: node.clone(), lookups: 0 });
            if entry.node == *node {
                entry.lookups += 1;
                return number;
            }
            number = number.wrapping_add(1).max(ROOT + 1);
        }
    }

    /// Takes look-ups back; a node without any is not known any more.
    pub(crate) fn forget(&self, number: u64, lookups: u64) {
        let mut known = self.lock();
        if let Some(entry) = known.get_mut(&number) {
            entry.lookups = entry.lookups.saturating_sub(lookups);
            if entry.lookups == 0 {
                known.remove(&number);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_known_until_they_are_forgotten_as_often_as_looked_up() {
        let nodes = Nodes::default();
        let node = Node::Directory("web".to_owned());
        let number = nodes.remember(&node);
        assert_eq!(nodes.remember(&node), number);
        assert_eq!(number, node.number());
        nodes.forget(number, 1);
        assert_eq!(nodes.get(number), Some(node));
        nodes.forget(number, 1);
        assert_eq!(nodes.get(number), None);
        assert_eq!(nodes.get(ROOT), Some(Node::root()));
    }

    #[test]
    fn two_nodes_never_share_a_number() {
        let nodes = Nodes::default();
        let (one, two) = (Node::Directory("one".to_owned()), Node::Directory("two".to_owned()));
        // As if the digests were equal.
        nodes.lock().insert(one.number(), Known { node: two.clone(), lookups: 1 });
        let number = nodes.remember(&one);
        assert_eq!(number, one.number() + 1);
        assert_eq!(nodes.get(number), Some(one));
    }
}
