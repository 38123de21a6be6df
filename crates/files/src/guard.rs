//! The last line of defence: a panic in a reader becomes an error.
//!
//! The readers are written not to panic, and fuzzed. Should one do so all the same, a person who looks into a hostile
//! disk gets an error message, and a service that does so goes on. Nothing is left half changed: readers change nothing
//! but their cache, whose lock recovers from poisoning.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Entry, Error, Extent, FileSystem, Flow, Metadata, Node, Result, Summary};

/// A file system behind the guard.
pub(crate) struct Guarded {
    pub(crate) inner: Box<dyn FileSystem>,
}

/// Runs `work`; a panic in it is an [`Error::Broken`].
pub(crate) fn guarded<T>(kind: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Err(Error::Broken { kind, what: said.to_owned() })
    })
}

impl Guarded {
    fn run<T>(&self, work: impl FnOnce(&dyn FileSystem) -> Result<T>) -> Result<T> {
        guarded(self.inner.summary().kind.name(), || work(self.inner.as_ref()))
    }
}

impl FileSystem for Guarded {
    fn summary(&self) -> &Summary {
        self.inner.summary()
    }

    fn root(&self) -> Node {
        self.inner.root()
    }

    fn metadata(&self, node: Node) -> Result<Metadata> {
        self.run(|inner| inner.metadata(node))
    }

    fn read_dir(&self, node: Node, visit: &mut dyn FnMut(Entry) -> Result<Flow>) -> Result<()> {
        self.run(|inner| inner.read_dir(node, visit))
    }

    fn find(&self, node: Node, name: &[u8]) -> Result<Option<Node>> {
        self.run(|inner| inner.find(node, name))
    }

    fn read_link(&self, node: Node) -> Result<Vec<u8>> {
        self.run(|inner| inner.read_link(node))
    }

    fn extent(&self, node: Node, offset: u64, length: u64) -> Result<Option<Extent>> {
        self.run(|inner| inner.extent(node, offset, length))
    }

    fn read_at(&self, node: Node, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.run(|inner| inner.read_at(node, buffer, offset))
    }

    fn attributes(&self, node: Node) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.run(|inner| inner.attributes(node))
    }
}
