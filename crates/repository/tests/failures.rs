//! Something fails in the middle of the work: it ends with the reason, nothing that was acknowledged is lost, and the
//! next run succeeds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{
    CHUNK_BYTES, Machine, MemoryDisk, MemoryTarget, Model, backup, backup_options, collect, content, image,
    is_full, mutated,
};
use leeward_disk::{Extent, Info, Source, Target};
use leeward_repository::{Error, RestoreMode, Unattended};
use leeward_store::simulation::{Counts, Faults, Random};

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

/// An operation on a repository that has two images with two snapshots each, one of them forgotten.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Init,
    BackUp,
    Forget,
    Collect,
    Rebuild,
}

const OPERATIONS: [Operation; 5] =
    [Operation::Init, Operation::BackUp, Operation::Forget, Operation::Collect, Operation::Rebuild];

struct Start {
    machine: Machine,
    model: Model,
}

fn start(operation: Operation) -> Start {
    let machine = Machine::new();
    let mut model = Model::default();
    if operation == Operation::Init {
        return Start { machine, model };
    }
    let repository = machine.init().unwrap();
    let mut random = Random::new(5);
    for name in ["a", "b"] {
        let first = content(&mut random, 1_600_000);
        let second = mutated(&mut random, &first);
        for content in [first, second] {
            let content = Arc::new(content);
            let id = backup(&repository, name, &content).unwrap();
            model.kept.push((name.to_owned(), id, Arc::clone(&content)));
            model.contents.push(content);
        }
    }
    let id = model.kept[0].1;
    repository.forget(&image("a"), &[id]).unwrap();
    model.forget(id);
    Start { machine, model }
}

/// Does it; what it acknowledged goes into the model.
fn act(operation: Operation, machine: &Machine, model: &mut Model) -> Result<(), Error> {
    if operation == Operation::Init {
        return machine.init().map(|_| ());
    }
    let repository = machine.open()?;
    match operation {
        Operation::Init => {}
        Operation::BackUp => {
            let disk = Arc::new(content(&mut Random::new(17), 1_500_000));
            model.contents.push(Arc::clone(&disk));
            let id = backup(&repository, "c", &disk)?;
            model.kept.push(("c".to_owned(), id, disk));
        }
        Operation::Forget => {
            let Some(at) = model.kept.iter().position(|(name, ..)| name == "b") else { return Ok(()) };
            // Until it is acknowledged it may be there or not.
            let (_, id, content) = model.kept.remove(at);
            match repository.forget(&image("b"), &[id]) {
                Ok(_) => model.gone.push(id),
                Err(error) => {
                    if repository.image(&image("b")).is_ok_and(|image| image.entry(id).is_some()) {
                        model.kept.insert(at, ("b".to_owned(), id, content));
                    }
                    return Err(error);
                }
            }
        }
        Operation::Collect => {
            collect(&repository)?;
        }
        Operation::Rebuild => {
            repository.rebuild_index(&Unattended)?;
        }
    }
    Ok(())
}

/// Does an operation with a fault, then without; asserts what must hold after each, also when the power fails then.
fn fails_and_goes_on(operation: Operation, base: &Start, faults: Faults, judge: impl Fn(Error)) -> bool {
    let context = format!("{operation:?} with {faults:?}");
    let machine = Machine { files: base.machine.files.copy(), boot: "first".to_owned() };
    let mut model = base.model.clone();
    // The one that fails is a process of its own, which ends with its error.
    let process = machine.spawn();
    machine.files.set_faults(faults);
    let result = act(operation, &process, &mut model);
    machine.files.set_faults(Faults::default());
    let has_failed = result.is_err();
    if let Err(error) = result {
        judge(error);
    }
    process.files.kill();
    let after = Machine::rebooted(machine.files.after_power_loss(1));
    for (machine, what) in [(machine, "the next run"), (after, "the next run after a crash")] {
        let context = format!("{context}, {what}");
        let mut model = model.clone();
        if operation != Operation::Init {
            model.assert_holds(&machine.open().unwrap(), &context);
        }
        if has_failed {
            match act(operation, &machine.spawn(), &mut model) {
                Err(Error::RepositoryExists { .. }) if operation == Operation::Init => {}
                // A forgotten snapshot that the failed run did forget is not there to be forgotten again.
                Err(Error::NoSnapshot { .. }) if operation == Operation::Forget => {}
                other => other.unwrap_or_else(|error| panic!("{context}: {error}")),
            }
        }
        let repository = machine.open().unwrap();
        model.assert_holds(&repository, &context);
        let outcome = collect(&repository).unwrap_or_else(|error| panic!("{context}: collect: {error}"));
        assert_eq!(outcome.pending_packs, 0, "{context}: {outcome:?}");
        model.assert_holds(&repository, &format!("{context}, collected"));
    }
    has_failed
}

fn counts(operation: Operation, base: &Start) -> Counts {
    let machine = Machine { files: base.machine.files.copy(), boot: "first".to_owned() };
    machine.files.set_faults(Faults::default());
    act(operation, &machine, &mut base.model.clone()).unwrap();
    machine.files.counts()
}

#[test]
fn a_full_disk_is_told_as_such_and_loses_nothing() {
    let mut tried = 0;
    for operation in OPERATIONS {
        let base = start(operation);
        let writes = counts(operation, &base).writes;
        assert!(writes > 0, "{operation:?}");
        for at in 0..writes {
            let faults = Faults { full_at_write: Some(at), ..Faults::default() };
            let failed = fails_and_goes_on(operation, &base, faults, |error| match error {
                Error::Store(error) => {
                    assert_eq!(
                        error.kind(),
                        leeward_store::ErrorKind::NoSpace,
                        "{operation:?} {at}: {error}"
                    );
                }
                other => panic!("{operation:?} {at}: {other}"),
            });
            assert!(failed, "{operation:?} {at}");
            tried += 1;
        }
    }
    println!("full at {tried} writes");
}

#[test]
fn a_disk_that_fills_up_by_bytes_loses_nothing() {
    let base = start(Operation::BackUp);
    let is_no_space = |error: Error| {
        assert!(
            matches!(&error, Error::Store(error) if error.kind() == leeward_store::ErrorKind::NoSpace),
            "{error}"
        );
    };
    let used = base.machine.files.used_bytes();
    for step in 0..30 {
        let faults = Faults { bytes_max: Some(used + step * step * 1500), ..Faults::default() };
        fails_and_goes_on(Operation::BackUp, &base, faults, is_no_space);
    }
}

#[test]
fn a_failed_or_lying_change_loses_nothing() {
    let every = if is_full() { 1 } else { 3 };
    for (number, operation) in OPERATIONS.into_iter().enumerate() {
        let base = start(operation);
        for at in (number as u64 % every..counts(operation, &base).changes).step_by(every as usize) {
            let failing = Faults { change_fails_at: Some(at), ..Faults::default() };
            let lying = Faults { change_lies_at: Some(at), ..Faults::default() };
            for faults in [failing, lying] {
                fails_and_goes_on(operation, &base, faults, |_| {});
            }
        }
    }
}

#[test]
fn a_failed_read_loses_nothing() {
    let tries = if is_full() { 400 } else { 40 };
    let mut random = Random::new(3);
    for operation in OPERATIONS {
        let base = start(operation);
        let reads = counts(operation, &base).reads;
        for _ in 0..tries.min(reads) {
            let at = random.below(reads);
            let faults = Faults { read_fails_at: Some(at), ..Faults::default() };
            fails_and_goes_on(operation, &base, faults, |_| {});
        }
    }
}
