//! Something fails in the middle of the work: it ends with the reason, nothing that was acknowledged is lost, and the
//! next run succeeds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::mpsc::channel;
use std::time::Duration;

use common::{CHUNK_BYTES, Machine, MemoryDisk, MemoryTarget, backup, backup_options};
use leeward_disk::{Extent, Info, Source, Target};
use leeward_repository::{Error, RestoreMode, Unattended};
use leeward_store::simulation::Random;

/// A disk that cannot be read, or written, from some offset on.
struct Failing<T> {
    disk: T,
    from: u64,
}

fn broken() -> leeward_disk::Error {
    leeward_disk::Error::Protocol { peer: "disk".to_owned(), what: "it is broken".to_owned() }
}

impl<T: Source> Source for Failing<T> {
    fn virtual_size(&self) -> u64 {
        self.disk.virtual_size()
    }

    fn info(&self) -> Info {
        self.disk.info()
    }

    fn extents(&self, offset: u64, length: u64) -> leeward_disk::Result<Vec<Extent>> {
        self.disk.extents(offset, length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> leeward_disk::Result<()> {
        if offset < self.from { self.disk.read_at(buffer, offset) } else { Err(broken()) }
    }
}

impl<T: Target> Target for Failing<T> {
    fn virtual_size(&self) -> u64 {
        self.disk.virtual_size()
    }

    fn is_blank(&self) -> bool {
        self.disk.is_blank()
    }

    fn write_at(&self, data: &[u8], offset: u64) -> leeward_disk::Result<()> {
        if offset < self.from { self.disk.write_at(data, offset) } else { Err(broken()) }
    }

    fn zero_at(&self, offset: u64, length: u64) -> leeward_disk::Result<()> {
        self.disk.zero_at(offset, length)
    }

    fn finish(&self, durable: bool) -> leeward_disk::Result<()> {
        self.disk.finish(durable)
    }
}

/// Runs `work` in a thread of its own, and fails when it does not come to an end.
fn ends<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = channel();
    std::thread::spawn(move || done.send(work()));
    wait.recv_timeout(Duration::from_secs(60)).expect("the work does not come to an end")
}

/// Many more leaves than the queues between planner and workers hold.
fn large() -> Vec<u8> {
    let mut content = vec![0; 40 * 128 * CHUNK_BYTES];
    let mut random = Random::new(1);
    for leaf in content.chunks_mut(128 * CHUNK_BYTES) {
        random.fill(&mut leaf[..CHUNK_BYTES]);
    }
    content
}

#[test]
fn a_disk_that_fails_ends_the_work_with_its_error_and_not_with_a_hang() {
    for threads in [1, 2, 4] {
        ends(move || {
            let repository = Machine::new().init().unwrap();
            let options = leeward_repository::BackupOptions { threads, ..backup_options("a") };
            for from in [0, 128 * CHUNK_BYTES as u64] {
                let disk = Failing { disk: MemoryDisk::plain(large()), from };
                let error = repository.backup(&disk, &options, &Unattended).unwrap_err();
                assert!(matches!(error, Error::Disk(_)), "{error}");
            }
            let id = backup(&repository, "a", &large()).unwrap();
            let snapshot = repository.snapshot(id).unwrap();
            for from in [0, 128 * CHUNK_BYTES as u64] {
                let target = Failing { disk: MemoryTarget::blank(large().len()), from };
                let error = repository
                    .restore(&snapshot, RestoreMode::Write(&target), threads, &Unattended)
                    .unwrap_err();
                assert!(matches!(error, Error::Disk(_)), "{error}");
            }
        });
    }
}
