//! A disk that is full, and a server that restarts: the engine survives and goes on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod world;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leeward_runs::state::{SqliteState, State};
use leeward_runs::{RunState, StepState};
use world::{Act, Scene, chain, options, run};

/// A small disk; gone when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None`, loudly, where this user may not mount.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "none"])
            .arg(folder.path())
            .stderr(std::process::Stdio::null())
            .status();
        match mounted {
            Ok(status) if status.success() => Some(Self(folder)),
            _ => {
                eprintln!("SKIPPED: a small disk cannot be mounted here");
                None
            }
        }
    }

    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.0.path().join("filler")).unwrap();
        for size in [65_536, 4_096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn fails(state: &dyn State, run: &leeward_runs::Run) -> bool {
    let text = "x".repeat(100_000);
    let line = leeward_runs::state::LogLine {
        run: run.id.clone(),
        step: "a".to_owned(),
        at: jiff::Timestamp::now(),
        level: leeward_runs::state::Level::Info,
        text,
    };
    (0..20).any(|_| state.log(std::slice::from_ref(&line)).is_err())
}

fn until<T>(look: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match look() {
            Some(found) => return found,
            None => assert!(Instant::now() < end, "not in time"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_full_disk_stops_nothing_for_ever() {
    let Some(disk) = Disk::new() else { return };
    let state: Arc<dyn State> = Arc::new(SqliteState::open(&disk.0.path().join("state")).unwrap());
    // The lease outlasts the fullness, or not: both must end well.
    for lease in [Duration::from_secs(60), Duration::from_millis(300)] {
        let scene =
            Scene::on(Arc::clone(&state), leeward_runs::engine::EngineOptions { lease, ..options("one") });
        scene.world.script("b", &[Act::Take(400)]);
        let run = run(chain());
        scene.begin(&run);
        scene.until_that(&run, "b runs", |run| run.step("b").unwrap().state == StepState::Running);
        disk.fill();
        assert!(fails(&*scene.state, &run), "the disk is not full");
        std::thread::sleep(Duration::from_millis(1_200));
        let told = until(|| scene.runs().troubles().into_iter().find(|trouble| trouble.run.is_none()));
        assert!(told.what.contains("full") && told.what.contains(&state.place()), "{told}");
        assert_eq!(
            scene.load(&run).step("b").unwrap().state,
            StepState::Running,
            "it cannot be written down"
        );
        disk.free();
        let ended = scene.until(&run, RunState::Succeeded);
        assert_eq!(scene.world.things(), 4, "{ended:#?}");
        assert!(Path::new(&state.place()).exists());
        until(|| scene.runs().troubles().is_empty().then_some(()));
    }
}

#[cfg(feature = "postgres")]
#[test]
fn a_server_that_restarts_again_and_again_stops_nothing() {
    use leeward_runs::ErrorKind;
    use world::server::{Server, programs};
    let Some(programs) = programs() else {
        eprintln!("SKIPPED: PostgreSQL is not installed");
        return;
    };
    let server = Server::start(programs, "off");
    let bed = world::Bed::on(&server);
    let scene = Scene::with(&bed, options("one"));
    let runs: Vec<_> = (0..4).map(|_| run(chain())).collect();
    for step in ["a", "b", "c", "d"] {
        scene.world.script(step, &vec![Act::Take(300); 40]);
    }
    runs.iter().for_each(|run| scene.begin(run));
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(400));
        server.crash();
        // A connection that the server has closed is noticed, at the latest by an error that passes.
        let errors = (0..3).filter_map(|_| scene.state.load(&runs[0].id).err());
        errors.for_each(|error| assert_eq!(error.kind(), ErrorKind::Passing));
        scene.state.load(&runs[0].id).unwrap().unwrap();
    }
    let end = Instant::now() + Duration::from_secs(60);
    for run in &runs {
        while scene.load(run).state != RunState::Succeeded {
            assert!(Instant::now() < end, "{:#?}", scene.load(run));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert_eq!(scene.world.things(), 16);
    drop(scene);
    server.end();
}
