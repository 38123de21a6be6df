//! How fast runs go: printed, for a person. `cargo test --release -p leeward-runs --features postgres --test measure -- --ignored
//! --nocapture --test-threads=1`

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leeward_runs::state::Filter;
use leeward_runs::{Run, RunState};
use world::{Bed, Scene, chain, options, run};

#[test]
#[ignore = "a measurement"]
fn sqlite() {
    measure("SQLite", &Bed::sqlite());
}

#[cfg(feature = "postgres")]
#[test]
#[ignore = "a measurement"]
fn postgres() {
    let Some(programs) = world::server::programs() else { return };
    let server = world::server::Server::start(programs, "on");
    measure("PostgreSQL", &Bed::on(&server));
}

fn measure(name: &str, bed: &Bed) {
    let scene = Scene::with(bed, options("one"));
    let begun = Instant::now();
    let one = run(chain());
    scene.begin(&one);
    scene.until(&one, RunState::Succeeded);
    println!("{name}: one run of 4 steps, alone: {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    let runs: Vec<Run> = (0..100).map(|_| run(chain())).collect();
    let begun = Instant::now();
    runs.iter().for_each(|run| scene.begin(run));
    println!("{name}: {:.0} runs begun per second", 100.0 / begun.elapsed().as_secs_f64());
    runs.iter().for_each(|run| drop(scene.until(run, RunState::Succeeded)));
    println!("{name}: {:.0} steps per second, 100 runs at once", 400.0 / begun.elapsed().as_secs_f64());
    drop(scene);
    read(name, bed);
}

/// 1,000 runs in the list, 200 readers who look as fast as they can, while runs are executed.
fn read(name: &str, bed: &Bed) {
    let state = bed.open();
    (0..1_000).for_each(|_| {
        let mut run = run(chain());
        run.state = RunState::Succeeded;
        state.insert(&run, None).unwrap();
    });
    let alone = time(|| drop(state.list(&Filter::default()).unwrap()));
    println!("{name}: a page of 100 of 1,000 runs: {:.1} ms", alone.as_secs_f64() * 1e3);
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..200)
        .map(|_| {
            let (state, done) = (Arc::clone(&state), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut times = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    times.push(time(|| drop(state.list(&Filter::default()).unwrap())));
                    std::thread::sleep(Duration::from_secs(1));
                }
                times
            })
        })
        .collect();
    let scene = Scene::on(Arc::clone(&state), options("two"));
    let begun = Instant::now();
    let runs: Vec<Run> = (0..50).map(|_| run(chain())).collect();
    runs.iter().for_each(|run| scene.begin(run));
    runs.iter().for_each(|run| drop(scene.until(run, RunState::Succeeded)));
    let rate = 200.0 / begun.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(5));
    done.store(true, Ordering::Relaxed);
    let mut times: Vec<_> = readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
    times.sort();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    println!("{name}: beside 200 readers, each once a second: {rate:.0} steps per second");
    println!("{name}: their page: p50 {:.1} ms, p99 {:.1} ms, of {}", at(50), at(99), times.len());
}

fn time(act: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    act();
    begun.elapsed()
}
